// Draws each graph that the server drew once more, with axes and a value at each moment. Without this script the server's stay.
"use strict";

const dark = matchMedia("(prefers-color-scheme: dark)");
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name);
const numbers = (text) => text.split(" ").map(Number);
const two = (number) => String(number).padStart(2, "0");
const clock = (seconds) => {
  const moment = new Date(seconds * 1000);
  return `${two(moment.getHours())}:${two(moment.getMinutes())}`;
};
const spoken = (seconds) => {
  const moment = new Date(seconds * 1000);
  return `${moment.getFullYear()}-${two(moment.getMonth() + 1)}-${two(moment.getDate())} ${clock(seconds)}`;
};

function draw(figure) {
  const { times, values, name } = figure.dataset;
  const data = [numbers(times), numbers(values)];
  const last = data[0].length - 1;
  const caption = figure.querySelector("figcaption");
  const words = caption.textContent;
  // What a pointer shows, the arrow keys show, too.
  const place = document.createElement("div");
  place.className = "plot";
  place.tabIndex = 0;
  place.setAttribute("role", "slider");
  place.setAttribute("aria-label", name);
  place.setAttribute("aria-valuemin", 0);
  place.setAttribute("aria-valuemax", last);
  figure.querySelector("svg").replaceWith(place);
  const axis = { stroke: () => color("--faint"), grid: { stroke: () => color("--line"), width: 1 }, ticks: { stroke: () => color("--line") }, font: "13px system-ui, sans-serif" };
  const options = {
    width: place.clientWidth,
    height: place.clientHeight,
    legend: { show: false },
    cursor: { drag: { x: false, y: false }, y: false },
    scales: { y: { range: (_, least, most) => [0, Math.max(most, 1)] } },
    axes: [
      { ...axis, values: (_, marks) => marks.map(clock), space: 60 },
      { ...axis, size: 56, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000] },
    ],
    series: [{}, { stroke: () => color("--own"), fill: () => color("--own-faint"), width: 2, points: { show: false } }],
    hooks: { setCursor: [(plot) => show(plot.cursor.idx)] },
  };
  let at = last;
  function say(index) {
    place.setAttribute("aria-valuenow", index);
    place.setAttribute("aria-valuetext", `${spoken(data[0][index])}: ${data[1][index]}`);
  }
  function show(index) {
    if (index === null || index === undefined) {
      caption.textContent = words;
      return;
    }
    at = index;
    caption.textContent = `${spoken(data[0][index])}: ${data[1][index]}`;
    say(index);
  }
  say(last);
  const plot = new uPlot(options, data, place);
  const move = (index) => {
    at = Math.min(Math.max(index, 0), last);
    plot.setCursor({ left: plot.valToPos(data[0][at], "x"), top: plot.valToPos(data[1][at], "y") });
    show(at);
  };
  const steps = { ArrowLeft: () => at - 1, ArrowDown: () => at - 1, ArrowRight: () => at + 1, ArrowUp: () => at + 1,
    PageDown: () => at - 10, PageUp: () => at + 10, Home: () => 0, End: () => last };
  place.addEventListener("keydown", (event) => {
    if (!steps[event.key] || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    move(steps[event.key]());
  });
  place.addEventListener("blur", () => show(null));
  new ResizeObserver(() => {
    if (place.clientWidth !== plot.width) plot.setSize({ width: place.clientWidth, height: place.clientHeight });
  }).observe(place);
  dark.addEventListener("change", () => plot.redraw());
}

document.querySelectorAll("figure[data-times]").forEach(draw);
