// The hits as a file, on paper, and by camera and hour.
"use strict";

const COLUMNS = ["row", "score", "person", "camera", "time", "same"];

// A cell that spreadsheets take for text, whatever somebody is called.
function cell(value) {
  const text = value === null ? "" : String(value);
  const plain = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(plain) ? `"${plain.replaceAll('"', '""')}"` : plain;
}

function csv(hits) {
  const lines = hits.map((hit) =>
    COLUMNS.map((name) => {
      const time = new Date((hit.time ?? NaN) * 1000); // none of a time beyond a calendar's
      return cell(name === "time" && !isNaN(time) ? time.toISOString() : hit[name]);
    }),
  );
  return [COLUMNS, ...lines].map((line) => `${line.join(",")}\r\n`).join("");
}

at("csv").addEventListener("click", () => {
  const link = element("a");
  link.href = URL.createObjectURL(new Blob([csv(shownHits)], { type: "text/csv" }));
  link.download = "hits.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
});
at("print").addEventListener("click", () => print());

function hourOf(seconds) {
  const hour = new Date(seconds * 1000);
  const two = (number) => String(number).padStart(2, "0");
  const day = `${hour.getFullYear()}-${two(hour.getMonth() + 1)}-${two(hour.getDate())}`;
  return `${day} ${two(hour.getHours())}:00`;
}

// A table of the hits with a time: a line for each camera, a column for each hour that has one.
function showHours(hits) {
  const timed = hits.filter((hit) => hit.time !== null);
  const hours = [...new Set(timed.map((hit) => hourOf(hit.time)))].sort();
  const cameras = [...new Set(timed.map((hit) => hit.camera ?? UNKNOWN))].sort();
  if (!timed.length) {
    at("hours").replaceChildren(element("p", "No hit has a time."));
    return;
  }
  const table = element("table");
  const head = element("tr");
  head.append(element("th", "camera"), ...hours.map((hour) => element("th", hour)));
  for (const each of head.children) each.scope = "col";
  const lines = cameras.map((camera) => {
    const line = element("tr");
    const name = element("th", camera);
    name.scope = "row";
    const counts = hours.map((hour) => {
      const count = timed.filter((hit) => (hit.camera ?? UNKNOWN) === camera && hourOf(hit.time) === hour).length;
      return element("td", count ? String(count) : "", count ? "some" : "");
    });
    line.append(name, ...counts);
    return line;
  });
  table.append(head, ...lines);
  at("hours").replaceChildren(table);
}
