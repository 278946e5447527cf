// SPDX-License-Identifier: Apache-2.0
// A sheet: a row per class or value, a column per seed. A cell opens its image.

import {json, Gone, Superseded} from "./api.js";
import {distance} from "./panes.js";
import {addSeed, label, models, state} from "./state.js";

const at = (id) => document.getElementById(id);
let number = 0;
let open = () => {};

export function onOpen(what) {
  open = what;
}

export async function updateSheet() {
  const mine = ++number;
  const kinds = label();
  const seeds = Array.from({length: state.columns}, (_, k) => addSeed(state.seed, k));
  const asked = {seeds, trunc: state.trunc};
  if (state.center !== "global") asked.center = state.center;
  if (models[0].noise) asked.noise = state.noise;
  if (state.label_set) asked.label_set = state.label_set;
  if (kinds.kind === "class") {
    const ids = kinds.classes.filter((c) => c.trained).map((c) => c.id);
    asked.classes = ids.slice(state.first, state.first + state.rows);
    if (!asked.classes.length) {
      at("sheet-hint").textContent = `There are ${ids.length} classes with images: begin the rows below that.`;
      at("cells").replaceChildren();
      at("sheet").setAttribute("aria-busy", "false");
      return;
    }
  } else if (kinds.kind === "value" && kinds.dim > 1) {
    asked.label = state.label;
  }
  const nearest = state.nearest && models[0].training !== undefined;
  const text = JSON.stringify(asked);
  at("sheet").setAttribute("aria-busy", "true");
  try {
    const made = await json("sheet", {sheet: text, model: 0, slot: "sheet", nearest: nearest ? "1" : "0"});
    if (mine !== number) return;
    show(made, kinds);
    at("sheet").dataset.shown = text;
  } catch (e) {
    if (e instanceof Superseded || e instanceof Gone || mine !== number) return;
    at("sheet-hint").textContent = e.message;
    at("cells").replaceChildren();  // those are of what was asked before
  } finally {
    if (mine === number) at("sheet").setAttribute("aria-busy", "false");
  }
}

function show(made, kinds) {
  const {columns, cells} = made;
  const rows = Math.ceil(cells.length / columns);
  const named = made.row_labels !== null;
  const {width, height} = models[0];
  const pixels = Math.max(width, height) < 256;
  const box = at("cells");
  const room = (at("sheet").clientWidth - (named ? 100 : 0)) / columns;
  const pictures = made.neighbours ? 2 : 1;
  const longer = Math.max(36, Math.min(96, Math.floor((room - 8) / pictures)));
  box.style.setProperty("--width", `${longer * Math.min(1, width / height)}px`);
  box.style.setProperty("--height", `${longer * Math.min(1, height / width)}px`);
  box.style.gridTemplateColumns = `${named ? "auto " : ""}repeat(${columns}, auto)`;
  const parts = [];
  if (named || kinds.kind === "class") {
    if (named) parts.push(document.createElement("span"));
    if (rows === 1 || named) {
      for (let j = 0; j < columns; j++) parts.push(text("span", cells[j].seed, "seed-name"));
    }
  }
  cells.forEach((cell, k) => {
    const [i, j] = [Math.floor(k / columns), k % columns];
    if (named && j === 0) parts.push(rowName(made.row_labels[i], cell, kinds));
    const button = document.createElement("button");
    button.type = "button";
    button.className = "cell";
    button.tabIndex = k === 0 ? 0 : -1;
    const what = cell.class_id !== null ? `, ${nameOf(kinds, cell.class_id)}` : cell.label ? `, ${made.row_labels?.[i] ?? ""}` : "";
    button.setAttribute("aria-label", `seed ${cell.seed}${what}`);
    button.title = `seed ${cell.seed}${what}`;
    button.append(picture(made.images, i, j, rows, columns, pixels));
    const neighbour = made.neighbours?.[k];
    if (neighbour) {
      button.append(picture(made.nearest, i, j, rows, columns, pixels));
      const ratio = neighbour.usual ? neighbour.distance / neighbour.usual : null;
      button.append(text("small", ratio === null ? neighbour.distance.toPrecision(2) : `${ratio.toPrecision(2)} ×`, ""));
      button.classList.toggle("copy", ratio !== null && ratio < 0.5);
      button.title += `; nearest training image: ${distance(neighbour)}`;
    }
    button.addEventListener("click", () => open(cell));
    button.addEventListener("keydown", (e) => move(e, k, columns));
    parts.push(button);
  });
  const focused = cellsOf(box).indexOf(document.activeElement);
  box.replaceChildren(...parts);
  if (focused >= 0) focus(cellsOf(box), Math.min(focused, cells.length - 1));  // whoever moves by keys goes on
  at("sheet-hint").textContent = made.neighbours
    ? `Each image beside its nearest training image. Below: their distance over the usual one between training images${
      kinds.kind === "class" ? " of the class" : ""}. A click opens an image.`
    : "A click opens an image.";
}

function nameOf(kinds, id) {
  return kinds.classes.find((c) => c.id === id)?.name || String(id);
}

function rowName(name, cell, kinds) {
  const out = text("span", name, "name");
  const found = kinds.kind === "class" ? kinds.classes.find((c) => c.id === cell.class_id) : null;
  if (found && found.count !== null) out.append(text("small", `${found.count} images`, ""));
  if (kinds.unit) out.append(text("small", kinds.unit, ""));
  return out;
}

function text(kind, words, name) {
  return Object.assign(document.createElement(kind), {textContent: words, className: name});
}

function picture(url, i, j, rows, columns, pixels) {
  const out = document.createElement("i");
  out.style.backgroundImage = `url(${url})`;
  out.style.backgroundSize = `${columns * 100}% ${rows * 100}%`;
  out.style.backgroundPosition = `${columns > 1 ? (j / (columns - 1)) * 100 : 0}% ${rows > 1 ? (i / (rows - 1)) * 100 : 0}%`;
  if (pixels) out.className = "pixels";
  return out;
}

function move(event, k, columns) {
  const step = {ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns}[event.key];
  if (step === undefined) return;
  event.preventDefault();
  event.stopPropagation();
  const all = cellsOf(at("cells"));
  if (all[k + step]) focus(all, k + step);
}

function cellsOf(box) {
  return [...box.querySelectorAll(".cell")];
}

function focus(all, k) {
  for (const cell of all) cell.tabIndex = -1;
  all[k].tabIndex = 0;
  all[k].focus();
}
