// SPDX-License-Identifier: Apache-2.0
// What the user takes along: the picture, a list of seeds and labels for `gantransfer generate --list`, a video.

import {blob, save} from "./api.js";
import {label, labelText, models, point, state} from "./state.js";

const at = (id) => document.getElementById(id);
const kept = [];  // {seed, label, text}: truncation and noise are those of the page, for all

export async function savePng() {
  const text = labelText();
  save(await blob("image", {point: JSON.stringify(point(0)), model: 0, slot: "save"}),
    `seed${state.seed}${text ? `-${text.replace(/[^\w.-]+/g, "_")}` : ""}.png`);
}

export async function saveFilm() {
  const made = await blob("film", {point: JSON.stringify(point(0)), model: 0, slot: "film"});
  save(made, made.type === "video/mp4" ? "walk.mp4" : "walk.webp");
}

// Why this picture is none of a seed and a label alone; "" if it is.
export function whyNot() {
  if (state.to_seed !== null || state.to_class !== null) return "a walk";
  if (state.mix_seed !== null && state.mix_layers.length) return "a mixture";
  return state.label_set ? "classes of another set" : "";
}

export function keep() {
  if (whyNot()) return;
  const given = label().kind === "class" ? state.class_id : label().kind === "value" ? state.label : null;
  const entry = {seed: state.seed, label: given, text: [state.seed, labelText()].filter(Boolean).join(" · ")};
  if (!kept.some((k) => k.text === entry.text)) kept.push(entry);
}

export function clearKept() {
  kept.length = 0;
}

export function saveList() {
  const lines = kept.map((k) => `[${k.seed}, ${JSON.stringify(k.label)}]`);  // a seed may be longer than a number of JavaScript
  save(new Blob([`{"images": [\n${lines.join(",\n")}\n]}\n`], {type: "application/json"}), "list.json");
}

function quoted(text) {
  return /^[\w./:@%+=,-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

export function showKept(go) {
  at("list").replaceChildren(...kept.map((k) => {
    const button = Object.assign(document.createElement("button"), {type: "button", textContent: k.text});
    button.addEventListener("click", () => go(k));
    const line = document.createElement("li");
    line.append(button);
    return line;
  }));
  at("save-list").disabled = at("clear-list").disabled = at("command").hidden = kept.length === 0;
  at("command").hidden = kept.length === 0;
  const flags = [`--network=${quoted(models[0].file)}`, "--list=list.json", state.trunc !== 1 && `--trunc=${state.trunc}`,
    state.center !== "global" && `--trunc-center=${state.center}`, state.noise !== "const" && `--noise-mode=${state.noise}`,
    "--outdir=out"];
  at("command").textContent = `gantransfer generate ${flags.filter(Boolean).join(" ")}`;
  const why = whyNot();
  at("keep").disabled = why !== "";
  at("keep").title = why && `This is ${why}; the list holds seeds and labels.`;
  at("save-film").disabled = state.to_seed === null && state.to_class === null;
}
