// Puts the parts of the page as they are now in the place of those that it shows, again and again. Each event is a stream of its own, which ends.
"use strict";

const live = document.getElementById("live");
const message = live.querySelector("[role=status]");
const pause = live.querySelector("button");
// What is said here is in the language of the page.
const said = live.dataset;
let stream = null;
let answered = false;
let paused = false;

function put(parts) {
  for (const [id, html] of Object.entries(parts)) {
    const part = document.getElementById(id);
    const selection = getSelection();
    // Whoever reads on with the keyboard, or copies, would lose the place.
    if (part.contains(document.activeElement)) continue;
    if (!selection.isCollapsed && selection.containsNode(part, true)) continue;
    part.innerHTML = html;
    part.querySelectorAll("time[datetime]").forEach(showLocal);
  }
}

// What stays the same is not set again: a screen reader would read it out.
function say(words) {
  if (message.textContent !== words) message.textContent = words;
}

function begin() {
  stream = new EventSource(said.stream);
  stream.onmessage = (event) => {
    answered = true;
    pause.hidden = false;
    say(said.live);
    put(JSON.parse(event.data));
  };
  stream.onerror = () => {
    if (stream.readyState === EventSource.CLOSED) {
      pause.hidden = true;
      say(said.ended);
    } else if (!answered) say(said.lost);
    answered = false;
  };
}

// Nothing is asked for a window that is not seen.
function goOn() {
  stream?.close();
  if (!paused && !document.hidden) begin();
}

pause.onclick = () => {
  paused = !paused;
  pause.textContent = paused ? said.goOn : said.pause;
  if (paused) say(said.paused);
  goOn();
};
document.addEventListener("visibilitychange", goOn);
goOn();
