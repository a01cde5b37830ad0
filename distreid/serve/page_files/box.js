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
  if (!picture || (picture.height <= TALLEST && picture.width <= picture.height)) return [file];
  drawn = picture;
  for (const side of SIDES) at(`box-${side}`).value = ["left", "top"].includes(side) ? 0 : 100;
  const dialog = at("box");
  dialog.returnValue = "";
  dialog.showModal();
  paint();
  await new Promise((closed) => dialog.addEventListener("close", closed, { once: true }));
  if (dialog.returnValue === "whole") return [file];
  return dialog.returnValue === "box" ? [await cut(file.name)] : [];
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

async function cut(name) {
  const [x, y, width, height] = corners();
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d").drawImage(drawn, x, y, width, height, 0, 0, width, height);
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
