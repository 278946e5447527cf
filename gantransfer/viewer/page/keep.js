// SPDX-License-Identifier: Apache-2.0
// What the user takes along: the picture, a list of seeds and labels for `gantransfer generate --list`, a video.

import {blob, save} from "./api.js";
import {label, labelText, models, point, state} from "./state.js";

const at = (id) => document.getElementById(id);
const kept = [];  // {seed, label, text}: truncation and noise are those of the page, for all

export async function savePng() {
  const text = labelText();
  save(await blob("image", {point: JSON.stringify(point(0)), model: 0, slot: "save"}),
    `seed${state.seed}${text ? `-${text.replace(/[^\p{L}\p{M}\p{N}._-]+/gu, "_")}` : ""}.png`);
}

export async function saveFilm() {
  const made = await blob("film", {point: JSON.stringify(point(0)), model: 0, slot: "film"});
  save(made, made.type === "video/mp4" ? "walk.mp4" : "walk.webp");
}

// Why `generate --list` cannot make this picture, which is of a seed and a label alone, and what can; "" if it can.
export function whyNot() {
  const list = "The list is of seeds and labels, for generate --list.";
  if (state.to_seed !== null || state.to_class !== null) {
    return `${list} A picture on a walk is none: Save PNG keeps it, Save video the walk.`;
  }
  if (state.mix_seed !== null && state.mix_layers.length) {
    if (state.label_set) return `${list} A mixture is none: Save PNG keeps it.`;
    const of = label().kind === "class" ? ` --class=id:${state.class_id}` : label().kind === "value" ? ` --label=${state.label.join(",")}` : "";
    return `${list} A mixture is none: Save PNG keeps it, and generate makes a sheet of mixtures with --mix-rows=${state.seed} `
      + `--mix-cols=${state.mix_seed} --mix-layers=${state.mix_layers.join(",")}${of} --grid=mixtures.png.`;
  }
  return state.label_set ? `${list} These are classes of another set: generate makes them with `
    + `--class=${state.label_set}:${state.class_id} --seeds=${state.seed}.` : "";
}

export function keep() {
  if (whyNot()) return;
  const given = label().kind === "class" ? state.class_id : label().kind === "value" ? state.label : null;
  const entry = {seed: state.seed, label: given, label_set: null, text: [state.seed, labelText()].filter(Boolean).join(" · ")};
  const same = (k) => k.seed === entry.seed && JSON.stringify(k.label) === JSON.stringify(given);  // two may be called the same
  if (!kept.some(same)) kept.push(entry);
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
  at("save-list").disabled = at("clear-list").disabled = kept.length === 0;
  at("command").hidden = kept.length === 0;
  const flags = [`--network=${quoted(models[0].path)}`, "--list=list.json", state.trunc !== 1 && `--trunc=${state.trunc}`,
    state.center !== "global" && `--trunc-center=${state.center}`, state.noise !== "const" && `--noise-mode=${state.noise}`,
    "--outdir=out"];
  at("command").textContent = `gantransfer generate ${flags.filter(Boolean).join(" ")}`;
  const why = whyNot();
  at("keep").disabled = why !== "";
  at("keep-hint").textContent = why;
  at("save-film").disabled = state.to_seed === null && state.to_class === null;
}
