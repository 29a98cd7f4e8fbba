// Shows each moment of the page in the time zone of the viewer, and in UTC where a pointer rests. Without this script the page says UTC.
"use strict";

// As the page writes it, year first, so that a column of moments stays in order for the eye.
function showLocal(time) {
  const moment = new Date(time.dateTime);
  if (Number.isNaN(moment.getTime())) return;
  const two = (number) => String(number).padStart(2, "0");
  const day = [moment.getFullYear(), two(moment.getMonth() + 1), two(moment.getDate())].join("-");
  const clock = [moment.getHours(), moment.getMinutes(), moment.getSeconds()].map(two).join(":");
  // In a zone that is UTC itself nothing would change but the word.
  if (moment.getTimezoneOffset() === 0) return;
  time.title = moment.toISOString().replace("T", " ").replace(/\.\d+Z/, " UTC");
  time.textContent = `${day} ${clock}`;
}

document.querySelectorAll("time[datetime]").forEach(showLocal);
