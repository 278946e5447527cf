// SPDX-License-Identifier: Apache-2.0
// What the user chose, and the points (see points.py) that follow from it. Seeds are text: they may be of any length.

export const state = {
  mode: "one", seed: "0", class_id: null, label: null, label_set: null, trunc: 1, center: "global", noise: "const",
  to_seed: null, at: 0, space: "z", to_class: null, blend: 0, mix_seed: null, mix_layers: [],
  columns: 8, rows: 10, first: 0, nearest: false,
};

export const SEED = /^[+-]?\d{1,1000}$/;

export let models = [];
export function setModels(given) {
  models = given;
  const label = given[0].label;
  if (label.kind === "class") state.class_id = (label.classes.find((c) => c.trained) ?? label.classes[0]).id;
  if (label.kind === "value") state.label = Array(label.dim).fill(label.min === undefined ? 0 : (label.min + label.max) / 2);
  state.mix_layers = [...Array(Math.min(Math.floor(given[0].layers / 2), 7)).keys()];
}

// The labels of a model that are in use: its own, or those of another set; undefined if it has no such set.
export function label(model = 0) {
  return state.label_set ? models[model].sets[state.label_set] : models[model].label;
}

export function className(classes, id) {
  const found = classes.find((c) => c.id === id);
  return found && found.name && found.name !== String(id) ? found.name : `class ${id}`;
}

// What the label is, in words.
export function labelText(model = 0, id = state.class_id) {
  const kinds = label(model);
  if (!kinds) return "";
  if (kinds.kind === "class") return className(kinds.classes, id);
  if (kinds.kind === "value") return state.label.map((v) => +v.toPrecision(4)).join(", ") + (kinds.unit ? ` ${kinds.unit}` : "");
  return "";
}

// The class of another model that is a class of the first; undefined if it knows none.
export function classOf(model, id) {
  if (model === 0 || id === null) return id;
  const match = state.label_set ? models[model].set_matches?.[state.label_set] : models[model].match;
  return match ? match[id] ?? undefined : id;
}

export function point(model, more = {}) {
  const p = {seed: state.seed, trunc: state.trunc, ...more};
  const can = models[model];
  if (state.center !== "global") p.center = state.center;
  if (can.noise) p.noise = state.noise;
  const kinds = label(model);
  if (!kinds) throw new Error(`This model has no classes '${state.label_set}'.`);
  if (kinds.kind !== "none" && kinds.kind !== label().kind) throw new Error("This model has other labels than the first: show it alone.");
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

// What the address says, but for what this model has not: it may be that of another one.
export function recall() {
  let given;
  try {
    given = JSON.parse(decodeURIComponent(location.hash.slice(1)));
  } catch {
    return;
  }
  if (given === null || typeof given !== "object") return;
  const seed = (v) => typeof v === "string" && SEED.test(v);
  const number = (low, high) => (v) => typeof v === "number" && v >= low && v <= high;
  const whole = (low, high) => (v) => Number.isInteger(v) && v >= low && v <= high;
  const one = (...known) => (v) => known.includes(v);
  const list = (of, least, most) => (v) => Array.isArray(v) && v.length >= least && v.length <= most && v.every(of);
  const none = (of) => (v) => v === null || of(v);
  const can = models[0];
  const id = (v) => label().kind === "class" && label().classes.some((c) => c.id === v);
  const fits = {  // label_set first: it says which classes there are
    label_set: none(one(...Object.keys(can.sets))), mode: one("one", "sheet"), seed, to_seed: none(seed), mix_seed: none(seed),
    class_id: id, to_class: none(id), trunc: number(0, 1.5), at: number(0, 1), blend: number(0, 1), center: one(...can.centers),
    noise: one("const", "random", "none"), space: one(...can.spaces), mix_layers: list(whole(0, can.layers - 1), 0, can.layers),
    columns: whole(1, 20), rows: whole(1, 40), first: whole(0, 1e6), nearest: one(true, false),
    label: (v) => label().kind === "value" && list(number(label().min ?? -Infinity, label().max ?? Infinity), label().dim, label().dim)(v),
  };
  for (const [key, fit] of Object.entries(fits)) if (key in given && fit(given[key])) state[key] = given[key];
}
