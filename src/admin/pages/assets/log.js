// Adds the lines of the log to the page as they come, the newest first, and keeps no more than the page began with.
"use strict";

const live = document.getElementById("live");
const message = live.querySelector("[role=status]");
const pause = live.querySelector("button");
const body = document.querySelector("tbody");
const most = Number(live.dataset.most);
// The heads of the table and what is said here are in the language of the page.
const heads = Array.from(document.querySelectorAll("thead th"), (head) => head.textContent);
const said = live.dataset;
const parts = ["time", "span", "code"];
let waiting = [];
let paused = false;

function add(line) {
  const row = document.createElement("tr");
  row.setAttribute("role", "row");
  [line.when, line.level, line.words].forEach((text, at) => {
    const cell = document.createElement("td");
    cell.setAttribute("role", "cell");
    cell.dataset.label = heads[at];
    const inner = document.createElement("div");
    const part = Object.assign(document.createElement(parts[at]), { textContent: text });
    if (at === 0 && text) showLocal(Object.assign(part, { dateTime: text.replace(" ", "T") + "Z" }));
    inner.append(part);
    cell.append(inner);
    row.append(cell);
  });
  body.prepend(row);
  while (body.rows.length > most) body.lastElementChild.remove();
}

function say() {
  message.textContent = paused ? said.paused : said.live;
  pause.textContent = paused ? said.goOn : said.pause;
}

const stream = new EventSource(live.dataset.stream);
stream.onopen = () => {
  pause.hidden = false;
  say();
};
stream.onmessage = (event) => {
  const line = JSON.parse(event.data);
  if (!paused) return add(line);
  waiting.push(line);
  waiting = waiting.slice(-most);
};
stream.addEventListener("full", () => {
  stream.close();
  message.textContent = said.full;
});
stream.onerror = () => {
  message.textContent = stream.readyState === EventSource.CLOSED
    ? said.full
    : said.lost;
};
pause.onclick = () => {
  paused = !paused;
  if (!paused) waiting.splice(0).forEach(add);
  say();
};
