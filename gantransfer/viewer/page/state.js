// SPDX-License-Identifier: Apache-2.0
// What the user chose, and the points (see points.py) that follow from it. Seeds are text: they may be of any length.

export const state = {
  mode: "one", seed: "0", class_id: null, label: null, label_set: null, trunc: 1, center: "global", noise: "const",
  to_seed: null, at: 0, space: "z", to_class: null, blend: 0, mix_seed: null, mix_layers: [],
  columns: 8, rows: 10, first: 0, nearest: false,
};

export let models = [];
export function setModels(given) {
  models = given;
  const label = given[0].label;
  if (label.kind === "class") state.class_id = (label.classes.find((c) => c.trained) ?? label.classes[0]).id;
  if (label.kind === "value") state.label = Array(label.dim).fill(label.min === undefined ? 0 : (label.min + label.max) / 2);
  state.mix_layers = [...Array(Math.min(Math.floor(given[0].layers / 2), 7)).keys()];
}

// The labels of the first model that are in use: its own, or those of another set.
export function label() {
  return state.label_set ? models[0].sets[state.label_set] : models[0].label;
}

export function className(classes, id) {
  const found = classes.find((c) => c.id === id);
  return found && found.name && found.name !== String(id) ? found.name : `class ${id}`;
}

// What the label is, in words.
export function labelText(model = 0, id = state.class_id) {
  const kinds = model === 0 ? label() : models[model].label;
  if (kinds.kind === "class") return className(kinds.classes, id);
  if (kinds.kind === "value") return state.label.map((v) => +v.toPrecision(4)).join(", ") + (kinds.unit ? ` ${kinds.unit}` : "");
  return "";
}

// The class of another model that is a class of the first; undefined if it knows none.
export function classOf(model, id) {
  if (model === 0 || id === null) return id;
  const match = models[model].match;
  return match ? match[id] ?? undefined : id;
}

export function point(model, more = {}) {
  const p = {seed: state.seed, trunc: state.trunc, ...more};
  const can = models[model];
  if (state.center !== "global") p.center = state.center;
  if (can.noise) p.noise = state.noise;
  const kinds = model === 0 ? label() : can.label;
  if (kinds.kind === "class") {
    p.class_id = classOf(model, state.class_id);
    if (p.class_id === undefined || p.class_id === null) throw new Error("This model does not know this class.");
    if (state.to_class !== null) {
      p.to_class = classOf(model, state.to_class);
      if (p.to_class === undefined) throw new Error("This model does not know the second class.");
      p.blend = state.blend;
    }
  }
  if (kinds.kind === "value") p.label = state.label;
  if (state.label_set) p.label_set = state.label_set;
  if (state.to_seed !== null) Object.assign(p, {to_seed: state.to_seed, at: state.at, space: state.space});
  if (state.mix_seed !== null && state.mix_layers.length) {
    Object.assign(p, {mix_seed: state.mix_seed, mix_layers: state.mix_layers});
  }
  return p;
}

export function addSeed(text, step) {
  return (BigInt(text) + BigInt(step)).toString();
}

export function randomSeed() {
  return String(Math.floor(Math.random() * 2 ** 32));
}

let timer = 0;
export function remember() {
  clearTimeout(timer);  // browsers refuse when a slider asks this at every step
  timer = setTimeout(() => history.replaceState(null, "", "#" + encodeURIComponent(JSON.stringify(state))), 300);
}

export function recall() {
  try {
    const given = JSON.parse(decodeURIComponent(location.hash.slice(1)));
    for (const key of Object.keys(state)) if (key in given && typeof given[key] === typeof state[key]) state[key] = given[key];
    for (const key of ["to_seed", "to_class", "mix_seed", "label_set"]) if (key in given) state[key] = given[key];
  } catch { /* no such address: the defaults */ }
}
