// Asks the service, and shows what it answers. Texts are set as text, never as HTML.
"use strict";

const UNKNOWN = "unknown"; // a person or a camera
const at = (id) => document.getElementById(id);
// What is searched with: {files: [...]} or {row: number}.
let query = null;
// The hits that are shown, and what the gallery says of itself.
let shownHits = [];
let gallery = { may_change: false };

function say(text) {
  at("status").textContent = text;
}

async function asked(address, options) {
  const answer = await fetch(address, options);
  if (answer.status === 401) {
    at("token-form").hidden = false;
    at("token").focus();
  }
  const content = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(content.detail), { status: answer.status });
  return content;
}

async function describe() {
  try {
    const about = gallery = await asked("v1/gallery");
    at("about").textContent = `${about.rows.toLocaleString("en")} rows, generation ${about.generation}`;
    at("cameras").replaceChildren(new Option("any", ""), ...about.cameras.map((c) => new Option(c, c)));
    at("images").disabled = !about.takes_images;
    describeCare(about);
    if (!about.takes_images) say("No checkpoint is served, so pictures cannot be sent.");
  } catch (error) {
    say(error.message);
  }
}

// Words between commas; a name that has one is in quotes.
function words(id) {
  const found = at(id).value.matchAll(/\s*"([^"]*)"\s*(?=,|$)|[^,]+/g);
  return [...found].map(([word, quoted]) => (quoted ?? word).trim()).filter(Boolean);
}

// The filters as lists of [name, value].
function fields() {
  const found = [["top", at("top").value || "24"]];
  if (at("cameras").value) found.push(["cameras", at("cameras").value]);
  for (const id of ["persons", "not_persons"]) for (const word of words(id)) found.push([id, word]);
  for (const id of ["since", "until"]) {
    if (at(id).value) found.push([id, String(new Date(at(id).value).getTime() / 1000)]);
  }
  return found;
}

function json(content) {
  const headers = { "Content-Type": "application/json" };
  return { method: "POST", body: JSON.stringify(content), headers };
}

// The images of a query, as a form with these fields.
function form(files, pairs) {
  const body = new FormData();
  for (const file of files) body.append("image", file);
  for (const [name, value] of pairs) body.append(name, value);
  return { method: "POST", body };
}

function request({ files, row }) {
  if (files) return form(files, [...fields(), ...(files.length > 1 ? [["fuse", "mean"]] : [])]);
  const body = { row };
  for (const [name, value] of fields()) {
    if (["cameras", "persons", "not_persons"].includes(name)) (body[name] ??= []).push(value);
    else body[name] = Number(value);
  }
  return json(body);
}

// Keeps what somebody says of a hit of a query: "right", "wrong", or "unmarked". A later search may
// have begun meanwhile.
async function mark(by, row, what) {
  const options = by.files ? form(by.files, [[what, String(row)]]) : json({ row: by.row, [what]: [row] });
  return asked("v1/marks", options);
}

function markButtons(hit, by) {
  const marks = element("span", "", "marks");
  const buttons = ["right", "wrong"].map((what) => {
    const button = element("button", what);
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    button.setAttribute("aria-label", `row ${hit.row} is ${what}`);
    button.addEventListener("click", async () => {
      const was = button.getAttribute("aria-pressed") === "true";
      try {
        const kept = await mark(by, hit.row, was ? "unmarked" : what);
        for (const each of buttons) each.setAttribute("aria-pressed", String(!was && each === button));
        say(`${kept.marks} ${kept.marks === 1 ? "mark is" : "marks are"} kept, in generation ${kept.generation}`);
      } catch (error) {
        say(error.message);
      }
    });
    return button;
  });
  marks.append(...buttons);
  return marks;
}

// What is within three years of 1970 counts from the start of a video.
function when(seconds) {
  return seconds < 1e8 ? `at ${seconds.toFixed(1)} s` : new Date(seconds * 1000).toLocaleString();
}

// Opens the frame that a hit is a box of.
function frameButton(hit) {
  const button = element("button", "frame", "small");
  button.type = "button";
  button.setAttribute("aria-label", `the frame of row ${hit.row}`);
  button.addEventListener("click", () => {
    at("frame-title").textContent = `Person ${hit.person ?? UNKNOWN}, camera ${hit.camera ?? UNKNOWN}`;
    at("frame-picture").replaceChildren(picture(hit.frame, `row ${hit.row} in its frame`));
    at("frame").showModal();
  });
  return button;
}

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  if (className) made.className = className;
  return made;
}

// Who a row shows, and where, as two elements.
function whoWhere(row) {
  return ["person", "camera"].map((what) => element("span", `${what} ${row[what] ?? UNKNOWN}`));
}

function picture(address, alt) {
  const made = element("img");
  made.src = address;
  made.alt = alt;
  return made;
}

function shown(hit, by) {
  const button = element("button");
  button.type = "button";
  button.className = hit.same === null ? "hit" : hit.same ? "hit same" : "hit other";
  const caption = element("span", "", "caption");
  const sure = hit.same === null ? "" : hit.same ? " same person" : " another person";
  caption.append(element("b", hit.score.toFixed(4)), sure);
  caption.append(...whoWhere(hit));
  if (hit.time !== null) caption.append(element("span", when(hit.time)));
  button.append(picture(hit.image, `row ${hit.row}`), caption);
  button.title = "Search with this picture";
  button.addEventListener("click", () => {
    showQueries([picture(hit.image, `row ${hit.row}`)]);
    search({ row: hit.row });
  });
  const item = element("li");
  item.append(button);
  if (hit.frame) item.append(frameButton(hit));
  if (gallery.may_change && hit.row !== by.row) item.append(markButtons(hit, by));
  return item;
}

function showQueries(pictures) {
  for (const old of at("queries").querySelectorAll("img")) URL.revokeObjectURL(old.src);
  at("queries").replaceChildren(...pictures.map((one) => {
    const item = element("li");
    item.append(one);
    return item;
  }));
}

function show(hits, by) {
  shownHits = hits;
  at("hits").replaceChildren(...hits.map((hit) => shown(hit, by)));
  at("found").hidden = !hits.length;
  showHours(hits);
}

let newest = 0;

async function search(by) {
  query = by;
  at("go").disabled = false;
  const mine = ++newest;
  say("Searching …");
  try {
    const found = await asked("v1/search", request(by));
    if (mine !== newest) return; // a later search was begun
    show(found.hits, by);
    const top = Number(at("top").value);
    at("more").hidden = found.hits.length < top || top >= 1000;
    const limit = found.threshold === null ? "" : `, the same person from ${found.threshold.toFixed(4)}`;
    const lacking = found.unmatched.map((word) => `; no row has ${word}`).join("");
    say(`${found.hits.length} hits of generation ${found.generation}${limit}${lacking}`);
  } catch (error) {
    if (mine !== newest) return;
    show([], by); // those of another picture would be taken for this one's
    at("more").hidden = true;
    say(error.message);
  }
}

async function searchFiles(files) {
  let pictures = [...files].filter((file) => file.type.startsWith("image/"));
  if (!pictures.length) return;
  pictures = pictures.length === 1 ? await boxed(pictures[0]) : await Promise.all(pictures.map(upright));
  if (!pictures.length) return;
  showQueries(pictures.map((file) => picture(URL.createObjectURL(file), file.name)));
  search({ files: pictures });
}

at("images").addEventListener("change", (event) => {
  searchFiles(event.target.files);
  event.target.value = "";
});
at("search").addEventListener("submit", (event) => {
  event.preventDefault();
  if (query) search(query);
});
at("frame-close").addEventListener("click", () => at("frame").close());
at("more").addEventListener("click", () => {
  at("top").value = Math.min(1000, 2 * Number(at("top").value));
  search(query);
});
at("token-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    await asked("v1/session", json({ token: at("token").value }));
    at("token").value = "";
    at("token-form").hidden = true;
    say("");
    describe();
  } catch (error) {
    say(error.message);
  }
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && !document.querySelector("dialog[open]")) searchFiles(event.dataTransfer.files);
  });
}
document.addEventListener("paste", (event) => searchFiles(event.clipboardData.files));
addEventListener("DOMContentLoaded", describe); // the other scripts are there by then
