// SPDX-License-Identifier: Apache-2.0
// Which source classes a new class is made of: the leading ones, and a map of all scores (red above zero, blue below).

import {json} from "./api.js";
import {label, labelText, models, state} from "./state.js";

const TOP = 8;
let scores = null;
const at = (id) => document.getElementById(id);

export async function loadScores() {
  if (models[0].scores) scores = await json("scores", {model: 0, slot: "scores"});
}

export function showScores() {
  at("scores").hidden = scores === null || state.label_set === "old";
  if (at("scores").hidden) return;
  // The classes of the data are the ones that were added last.
  const index = state.label_set === "new" ? state.class_id : state.class_id + scores.new.length - label().dim;
  const one = scores.classes[index];
  at("scores-class").textContent = labelText();
  if (one.scores === null) {
    at("scores-top").textContent = "This model was trained without scores.";
    return;
  }
  const order = one.scores.map((_, j) => j).sort((a, b) => Math.abs(one.scores[b]) - Math.abs(one.scores[a]));
  const most = Math.abs(one.scores[order[0]]) || 1;
  at("scores-top").replaceChildren(...order.slice(0, TOP).map((j) => {
    const [name, bar, part, number] = ["span", "span", "i", "span"].map((kind) => document.createElement(kind));
    name.textContent = name.title = scores.old[j];
    bar.className = "bar";
    part.style.width = `${100 * Math.abs(one.scores[j]) / most}%`;
    part.className = one.scores[j] < 0 ? "below" : "";
    bar.append(part);
    number.textContent = (one.scores[j] < 0 ? "−" : "+") + Math.abs(one.scores[j]).toFixed(2);
    const line = document.createElement("li");
    line.append(name, bar, number);
    return line;
  }));
  draw(one);
}

function draw(one) {
  const rows = one.layers.map((r) => [r.scores_gain ?? [], r.scores_bias ?? []]);
  const all = rows.flat(2);
  const most = Math.max(...all.map(Math.abs)) || 1;
  const m = scores.old.length;
  const cell = Math.max(3, Math.min(16, Math.floor(300 / m)));
  const gap = 12;
  const canvas = at("scores-map");
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [2 * m * cell + gap, rows.length * cell];
  Object.assign(canvas, {width: width * ratio, height: height * ratio});
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  rows.forEach((parts, i) => parts.forEach((values, part) => values.forEach((v, j) => {
    const share = Math.abs(v) / most;
    const [r, g, b] = v > 0 ? [1 - 0.3 * share, 1 - 0.85 * share, 1 - 0.85 * share]
      : [1 - 0.85 * share, 1 - 0.6 * share, 1 - 0.2 * share];
    pen.fillStyle = `rgb(${[r, g, b].map((x) => Math.round(255 * x)).join(" ")})`;
    pen.fillRect(part * (m * cell + gap) + j * cell, i * cell, cell, cell);
  })));
  canvas.setAttribute("aria-label", `Scores of ${one.name} over ${m} source classes in ${rows.length} layers`);
  at("scores-scale").textContent = `Rows: ${rows.length} layers. Columns: ${m} source classes, gain at the left, bias at ` +
    `the right. Full red is +${most.toFixed(2)}, full blue −${most.toFixed(2)}, white 0.`;
}
