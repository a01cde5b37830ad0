// A box around a person on a larger picture, drawn or set by keys, before it is searched with.
"use strict";

const TALLEST = 600; // pixels of a picture that is taken for a person's alone
const SIDES = ["left", "top", "right", "bottom"];
let drawn = null; // the picture that is shown
let from = null; // where drawing began

// The files to search with: the picture, what a box cuts out of it, or none.
async function boxed(file) {
  const picture = await createImageBitmap(file).catch(() => null);
  // What cannot be shown is sent, and answered.
  if (!picture) return [file];
  if (picture.height <= TALLEST && picture.width <= picture.height) return [await upright(file)];
  drawn = picture;
  for (const side of SIDES) at(`box-${side}`).value = ["left", "top"].includes(side) ? 0 : 100;
  const dialog = at("box");
  dialog.returnValue = "";
  dialog.showModal();
  paint();
  await new Promise((closed) => dialog.addEventListener("close", closed, { once: true }));
  if (dialog.returnValue === "whole") return [await upright(file)];
  return dialog.returnValue === "box" ? [await cut(drawn, file.name, corners())] : [];
}

// The service takes pixels as they are stored: a picture that its camera says to turn is turned here.
async function upright(file) {
  if (!(await isTurned(file))) return file;
  const picture = await createImageBitmap(file).catch(() => null);
  return picture ? cut(picture, file.name, [0, 0, picture.width, picture.height]) : file;
}

// Whether a JPEG's EXIF has another orientation than 1: the tag 0x0112 of its first directory.
async function isTurned(file) {
  const bytes = new Uint8Array(await file.slice(0, 1 << 17).arrayBuffer());
  const text = new TextDecoder("latin1").decode(bytes);
  const start = text.indexOf("Exif\0\0") + 6;
  if (bytes[0] !== 0xff || bytes[1] !== 0xd8 || start < 6 || start + 8 > bytes.length) return false;
  const view = new DataView(bytes.buffer, start);
  const isLittle = text.startsWith("II", start);
  const first = view.getUint32(4, isLittle);
  if (first + 2 > view.byteLength) return false;
  const fields = Math.min(view.getUint16(first, isLittle), Math.floor((view.byteLength - first - 2) / 12));
  for (let field = 0; field < fields; field += 1) {
    const entry = first + 2 + 12 * field;
    if (view.getUint16(entry, isLittle) === 0x0112) return view.getUint16(entry + 8, isLittle) > 1;
  }
  return false;
}

// [left, top, width, height] in the picture's pixels, at least one wide and high.
function corners() {
  const [left, top, right, bottom] = SIDES.map((side) => Number(at(`box-${side}`).value) / 100);
  const [x, width] = span(left, right, drawn.width);
  const [y, height] = span(top, bottom, drawn.height);
  return [x, y, width, height];
}

function span(one, other, length) {
  const first = Math.min(Math.round(Math.min(one, other) * length), length - 1);
  return [first, Math.max(1, Math.round(Math.max(one, other) * length) - first)];
}

function paint() {
  const canvas = at("box-canvas");
  canvas.width = drawn.width;
  canvas.height = drawn.height;
  const pen = canvas.getContext("2d");
  pen.drawImage(drawn, 0, 0);
  const box = corners();
  pen.fillStyle = "rgb(0 0 0 / 55%)";
  pen.fillRect(0, 0, drawn.width, drawn.height);
  pen.drawImage(drawn, ...box, ...box);
}

async function cut(picture, name, [x, y, width, height]) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d").drawImage(picture, x, y, width, height, 0, 0, width, height);
  const blob = await new Promise((made) => canvas.toBlob(made, "image/png"));
  return new File([blob], name, { type: "image/png" });
}

// Where the pointer is, in percent of the picture.
function place(event) {
  const area = at("box-canvas").getBoundingClientRect();
  const within = (part) => Math.round(100 * Math.min(1, Math.max(0, part)));
  return [within((event.clientX - area.left) / area.width), within((event.clientY - area.top) / area.height)];
}

at("box-canvas").addEventListener("pointerdown", (event) => {
  from = place(event);
  event.target.setPointerCapture(event.pointerId);
});
at("box-canvas").addEventListener("pointermove", (event) => {
  if (!from) return;
  const to = place(event);
  at("box-left").value = Math.min(from[0], to[0]);
  at("box-right").value = Math.max(from[0], to[0]);
  at("box-top").value = Math.min(from[1], to[1]);
  at("box-bottom").value = Math.max(from[1], to[1]);
  paint();
});
at("box-canvas").addEventListener("pointerup", () => {
  from = null;
});
for (const side of SIDES) at(`box-${side}`).addEventListener("input", paint);
for (const [button, value] of [["search", "box"], ["whole", "whole"], ["cancel", ""]]) {
  at(`box-${button}`).addEventListener("click", () => at("box").close(value));
}
