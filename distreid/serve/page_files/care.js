// Looking after a gallery: what is in it, adding images, hiding and erasing rows.
"use strict";

const AT_ONCE = 16; // images of a request
let nextRow = null;

function sayCare(text) {
  at("care-status").textContent = text;
}

function describeCare(about) {
  const facts = [
    ["rows that are found", about.rows],
    ["hidden rows", about.hidden],
    ["marks of hits", about.marks],
    ["generation", about.generation],
    ["runs", about.runs.map((run) => `${run.run}: ${run.rows}${run.owned ? "" : ", by reference"}`).join("; ")],
    ["cameras", about.cameras.join(", ")],
  ];
  at("holds").replaceChildren(
    ...facts.flatMap(([name, value]) => [element("dt", name), element("dd", String(value))]),
  );
  for (const each of document.querySelectorAll(".changes")) each.hidden = !about.may_change;
  at("add").hidden = !(about.may_change && about.takes_images);
  at("with-rows").hidden = !about.may_change || !at("rows").children.length;
}

// Asks before something is done; says whether it shall be.
async function isSure(title, text, yes) {
  const dialog = at("sure");
  at("sure-title").textContent = title;
  at("sure-text").textContent = text;
  at("sure-yes").textContent = yes;
  dialog.returnValue = "";
  dialog.showModal();
  await new Promise((closed) => dialog.addEventListener("close", closed, { once: true }));
  return dialog.returnValue === "yes";
}

at("sure-yes").addEventListener("click", () => at("sure").close("yes"));
at("sure-no").addEventListener("click", () => at("sure").close(""));

// Sends it again, by the same key, where the answer was lost or the service was busy.
async function sendOnce(body) {
  const headers = { "Idempotency-Key": [...crypto.getRandomValues(new Uint32Array(4))].join("-") };
  for (let left = 5; ; left--) {
    try {
      return await asked("v1/images", { method: "POST", body, headers });
    } catch (error) {
      const passes = error.status === undefined || error.status === 503 || error.status === 429;
      if (!passes || !left) throw error;
      await new Promise((later) => setTimeout(later, 1000));
    }
  }
}

at("add").addEventListener("submit", async (event) => {
  event.preventDefault();
  const given = [...at("add-files").files, ...at("add-folder").files];
  const files = given.filter((file) => file.type.startsWith("image/"));
  if (!files.length) return sayCare("Choose images first.");
  let added = 0;
  try {
    for (let first = 0; first < files.length; first += AT_ONCE) {
      sayCare(`Adding ${files.length} images, ${added} are there …`);
      const body = new FormData();
      const part = await Promise.all(files.slice(first, first + AT_ONCE).map(upright));
      for (const file of part) body.append("image", file);
      body.append("person", at("add-person").value.trim());
      body.append("camera", at("add-camera").value.trim());
      const time = at("add-time").value;
      if (time) body.append("time", String(new Date(time).getTime() / 1000));
      added += (await sendOnce(body)).rows.length;
    }
    sayCare(`${added} of ${files.length} images were added.`);
    event.target.reset();
  } catch (error) {
    sayCare(`${added} of ${files.length} images were added, then: ${error.message}`);
  }
  describe();
});

async function listRows(first) {
  const wanted = new URLSearchParams({ first: String(first), top: "48" });
  for (const what of ["persons", "cameras"]) {
    for (const word of words(`list-${what}`)) wanted.append(what, word);
  }
  try {
    const found = await asked(`v1/rows?${wanted}`);
    if (!first) at("rows").replaceChildren();
    at("rows").append(...found.rows.map(listed));
    nextRow = found.following;
    at("rows-more").hidden = nextRow === null;
    at("with-rows").hidden = !gallery.may_change || !at("rows").children.length;
    sayCare(`${at("rows").children.length} rows of generation ${found.generation}`);
  } catch (error) {
    sayCare(error.message);
  }
}

function listed(row) {
  const label = element("label");
  const box = element("input");
  box.type = "checkbox";
  box.value = String(row.row);
  const caption = element("span", `row ${row.row}`, "caption");
  caption.append(...whoWhere(row));
  if (row.time !== null) caption.append(element("span", when(row.time)));
  const image = picture(row.image, "");
  image.loading = "lazy";
  label.append(image, ...(gallery.may_change ? [box] : []), caption);
  const item = element("li");
  item.append(label);
  return item;
}

async function remove(erase) {
  const chosen = [...at("rows").querySelectorAll("input:checked")];
  if (!chosen.length) return sayCare("Choose rows first.");
  const rows = (count) => `${count} ${count === 1 ? "row" : "rows"}`;
  const count = rows(chosen.length);
  const sure = erase
    ? await isSure(`Erase ${count}?`, "Features, names, paths and added pictures are overwritten. Nothing brings them back.", "Erase")
    : await isSure(`Hide ${count}?`, "They are not found any more. The gallery still holds them until they are erased.", "Hide");
  if (!sure) return sayCare("Nothing was changed.");
  const elsewhere = new Set();
  let done = 0;
  try {
    for (const box of chosen) {
      const gone = await asked(`v1/rows/${box.value}${erase ? "?erase=true" : ""}`, { method: "DELETE" });
      for (const run of gone.still_in) elsewhere.add(run);
      box.closest("li").remove();
      done += 1;
    }
    const rest = elsewhere.size ? ` Still in ${[...elsewhere].join(", ")}: delete them there too.` : "";
    sayCare(`${rows(done)} ${erase ? "erased" : "hidden"}.${rest}`);
  } catch (error) {
    sayCare(`${rows(done)} ${erase ? "erased" : "hidden"}, then: ${error.message}`);
  }
  describe();
}

at("list").addEventListener("submit", (event) => {
  event.preventDefault();
  listRows(0);
});
at("rows-more").addEventListener("click", () => listRows(nextRow));
at("hide").addEventListener("click", () => remove(false));
at("erase").addEventListener("click", () => remove(true));
