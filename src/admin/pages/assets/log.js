// Adds the lines of the log to the page as they come, the newest first, and keeps no more than the page began with.
"use strict";

const live = document.getElementById("live");
const message = live.querySelector("[role=status]");
const pause = live.querySelector("button");
const body = document.querySelector("tbody");
const most = Number(live.dataset.most);
const heads = ["When", "Level", "Line"];
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
    inner.append(Object.assign(document.createElement(parts[at]), { textContent: text }));
    cell.append(inner);
    row.append(cell);
  });
  body.prepend(row);
  while (body.rows.length > most) body.lastElementChild.remove();
}

function say() {
  message.textContent = paused ? "Paused. New lines wait." : "Live: new lines appear on top.";
  pause.textContent = paused ? "Go on" : "Pause";
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
  message.textContent = "Not live: too many people watch the log. Load the page again later.";
});
stream.onerror = () => {
  message.textContent = stream.readyState === EventSource.CLOSED
    ? "Not live: too many people watch the log. Load the page again later."
    : "The connection is lost; it is tried again.";
};
pause.onclick = () => {
  paused = !paused;
  if (!paused) waiting.splice(0).forEach(add);
  say();
};
