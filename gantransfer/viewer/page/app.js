// SPDX-License-Identifier: Apache-2.0
// Controls to state, state to pictures.

import {json, watch} from "./api.js";
import {clearKept, keep, saveFilm, saveList, savePng, showKept} from "./keep.js";
import {letter, makePanes, updatePanes} from "./panes.js";
import {loadScores, showScores} from "./scores.js";
import {SEED, addSeed, label, models, randomSeed, recall, remember, setModels, state} from "./state.js";
import {onOpen, updateSheet} from "./sheet.js";

const at = (id) => document.getElementById(id);
let due = false;
let playing = false;
let stopped = false;

// ---- from state to page

function changed() {
  remember();
  showControls();
  if (due) return;
  due = true;
  requestAnimationFrame(() => {
    due = false;
    if (state.mode === "sheet") updateSheet();
    else updatePanes();
  });
}

function showControls() {
  for (const mode of ["one", "sheet"]) {
    at(mode).hidden = state.mode !== mode;
    at(`mode-${mode}`).setAttribute("aria-pressed", String(state.mode === mode));
  }
  document.querySelectorAll(".single").forEach((x) => { x.hidden = state.mode !== "one"; });
  at("mixing").hidden = state.mode !== "one" || models[0].layers === 0;
  for (const key of ["seed", "to_seed", "mix_seed"]) {
    if (document.activeElement !== at(key)) at(key).value = state[key] ?? "";
    at(key).classList.toggle("bad", at(key).value !== "" && !SEED.test(at(key).value.trim()));
  }
  at("trunc").value = state.trunc;
  at("trunc-out").textContent = state.trunc.toFixed(2);
  for (const key of ["at", "blend"]) {
    at(key).value = state[key];
    at(`${key}-out`).textContent = `${Math.round(100 * state[key])} %`;
  }
  at("at").disabled = state.to_seed === null;
  at("blend").disabled = state.to_class === null;
  at("play").disabled = state.to_seed === null && state.to_class === null;
  at("play").setAttribute("aria-pressed", String(playing));
  for (const key of ["center", "noise", "space"]) {
    document.querySelectorAll(`input[name=${key}]`).forEach((x) => { x.checked = x.value === state[key]; });
  }
  at("class_id").value = String(state.class_id);
  at("to_class").value = state.to_class === null ? "" : String(state.to_class);
  at("label_set").value = state.label_set ?? "";
  if (label().kind === "value" && label().dim === 1) {
    at("value-range").value = state.label[0];
    if (document.activeElement !== at("value-number")) at("value-number").value = +state.label[0].toPrecision(6);
  }
  document.querySelectorAll("#layers input").forEach((x) => { x.checked = state.mix_layers.includes(+x.value); });
  for (const key of ["columns", "rows", "first"]) {
    if (document.activeElement !== at(`sheet-${key}`)) at(`sheet-${key}`).value = state[key];
  }
  at("sheet-nearest").checked = state.nearest;
  showScores();
  showKept(go);
}

function fillClasses() {
  const kinds = label();
  at("class_id").hidden = kinds.kind !== "class";
  at("value").hidden = kinds.kind !== "value" || kinds.dim > 1;
  at("vector-label").hidden = kinds.kind !== "value" || kinds.dim === 1;
  at("labels").hidden = kinds.kind === "none";
  at("blends").hidden = kinds.kind !== "class";
  at("labels-title").textContent = kinds.kind === "value" ? "Label" : "Class";
  at("sheet-classes").hidden = kinds.kind !== "class";
  if (kinds.kind === "class") {
    const options = () => kinds.classes.map((c) => {
      const count = c.count === null ? "" : c.trained ? ` (${c.count} images${c.group ? `, ${c.group}` : ""})` : " (no images: never trained)";
      return new Option(`${c.id}${c.name && c.name !== String(c.id) ? ` · ${c.name}` : ""}${count}`, c.id);
    });
    at("class_id").replaceChildren(...options());
    at("to_class").replaceChildren(new Option("none", ""), ...options());
    if (!kinds.classes.some((c) => c.id === state.class_id)) state.class_id = kinds.classes[0].id;
    if (!kinds.classes.some((c) => c.id === state.to_class)) state.to_class = null;
  }
  if (kinds.kind === "value" && kinds.dim === 1) {
    const [low, high] = [kinds.min ?? 0, kinds.max ?? 1];
    Object.assign(at("value-range"), {min: low, max: high});
    Object.assign(at("value-number"), {min: low, max: high});
    at("unit").textContent = kinds.unit ?? "";
  }
  if (kinds.kind === "value" && kinds.dim > 1) at("vector").value = state.label.join(",");
}

function buildControls() {
  const can = models[0];
  document.title = `${can.file} · gantransfer view`;
  const which = (n) => models.length > 1 ? `${letter(n)}: ` : "";
  at("file").textContent = models.map((m, n) => which(n) + m.file).join("  |  ");
  at("about").textContent = models.map((m, n) => which(n) + [m.method, `${m.width === m.height ? m.width : `${m.width} x ${m.height}`} px`, m.label.kind === "class" && `${m.label.dim} classes`,
    m.images && `trained on ${m.images} images${m.data ? ` of ${m.data}` : ""}`].filter(Boolean).join(", ")).join("  |  ");
  at("centers").hidden = can.centers.length < 2;
  at("trunc-hint").textContent = can.truncation === "z" ? "Scales the latent z: this model has no w."
    : "1 is untruncated; below, typical and less varied.";
  at("noise-box").hidden = !can.noise;
  at("spaces").hidden = can.spaces.length < 2;
  at("layers").replaceChildren(...Array.from({length: can.layers}, (_, k) => {
    const out = document.createElement("label");
    out.append(Object.assign(document.createElement("input"), {type: "checkbox", value: k}), String(k));
    return out;
  }));
  const sets = Object.keys(can.sets);
  at("sets-label").hidden = sets.length === 0;
  at("label_set").replaceChildren(new Option("of the data", ""), ...sets.map((s) => new Option(s, s)));
  at("sheet-nearest-label").hidden = can.training === undefined;
  fillClasses();
}

// ---- from page to state

function set(key, value) {
  state[key] = value;
  changed();
}

// Shows what was picked in a sheet or in the list, and no walk or mixture that was set before.
function go(what) {
  Object.assign(state, {seed: what.seed, to_seed: null, to_class: null, mix_seed: null, mode: "one"});
  if (what.label_set !== undefined && what.label_set !== state.label_set) {
    state.label_set = what.label_set;
    fillClasses();
  }
  if (what.class_id !== undefined && what.class_id !== null) state.class_id = what.class_id;
  if (Number.isInteger(what.label)) state.class_id = what.label;
  if (Array.isArray(what.label)) state.label = what.label;
  changed();
}

function stepClass(step) {
  if (label().kind !== "class") return;
  const ids = label().classes.filter((c) => c.trained).map((c) => c.id);
  const now = ids.indexOf(state.class_id);
  set("class_id", ids[(now + step + ids.length) % ids.length]);
}

async function play() {
  playing = !playing;
  showControls();
  const step = 1 / 48;
  let way = 1;
  while (playing) {
    const moving = [state.to_seed !== null && "at", state.to_class !== null && "blend"].filter(Boolean);
    if (!moving.length || state.mode !== "one") break;
    const next = state[moving[0]] + way * step;
    if (next >= 1) way = -1;
    if (next <= 0) way = 1;
    for (const key of moving) state[key] = Math.min(1, Math.max(0, next));
    showControls();
    const began = performance.now();
    await updatePanes();
    if (stopped) break;
    await new Promise((resolve) => setTimeout(resolve, Math.max(0, 60 - (performance.now() - began))));
  }
  playing = false;
  changed();
}

function listen() {
  const on = (id, event, act) => at(id).addEventListener(event, act);
  on("mode-one", "click", () => set("mode", "one"));
  on("mode-sheet", "click", () => set("mode", "sheet"));
  on("seed-down", "click", () => set("seed", addSeed(state.seed, -1)));
  on("seed-up", "click", () => set("seed", addSeed(state.seed, 1)));
  for (const key of ["seed", "to_seed", "mix_seed"]) {
    on(`${key}-random`, "click", () => {
      if (key === "to_seed" && state.to_seed === null) state.at = 0.5;
      set(key, randomSeed());
    });
    on(key, "input", () => {
      const text = at(key).value.trim();
      if (SEED.test(text)) {
        if (key === "to_seed" && state.to_seed === null) state.at = 0.5;
        set(key, BigInt(text).toString());
      } else if (text === "" && key !== "seed") set(key, null);
      else showControls();
    });
    on(key, "blur", showControls);
  }
  on("class_id", "change", () => set("class_id", +at("class_id").value));
  on("to_class", "change", () => {
    const value = at("to_class").value;
    if (state.to_class === null) state.blend = 0.5;
    set("to_class", value === "" ? null : +value);
  });
  on("label_set", "change", () => {
    state.label_set = at("label_set").value || null;
    fillClasses();
    changed();
  });
  on("value-range", "input", () => set("label", [+at("value-range").value]));
  on("value-number", "input", () => {
    if (at("value-number").value !== "") set("label", [+at("value-number").value]);
  });
  on("vector", "input", () => {
    const numbers = at("vector").value.split(",").map(Number);
    const good = numbers.length === label().dim && numbers.every(Number.isFinite);
    at("vector").classList.toggle("bad", !good);
    if (good) set("label", numbers);
  });
  for (const key of ["trunc", "at", "blend"]) on(key, "input", () => set(key, +at(key).value));
  for (const key of ["center", "noise", "space"]) {
    document.querySelectorAll(`input[name=${key}]`).forEach((x) => x.addEventListener("change", () => set(key, x.value)));
  }
  on("layers", "change", () => set("mix_layers", [...document.querySelectorAll("#layers input:checked")].map((x) => +x.value)));
  for (const [key, low, high] of [["columns", 1, 20], ["rows", 1, 40], ["first", 0, 1e6]]) {
    on(`sheet-${key}`, "input", () => {
      const value = Math.floor(+at(`sheet-${key}`).value);
      if (at(`sheet-${key}`).value !== "" && value >= low && value <= high) set(key, value);
    });
  }
  on("sheet-nearest", "change", () => set("nearest", at("sheet-nearest").checked));
  on("play", "click", play);
  const tell = (act) => async () => {
    try {
      await act();
    } catch (e) {
      if (!stopped) notice(e.message);
    }
  };
  on("save-png", "click", tell(savePng));
  on("save-film", "click", tell(saveFilm));
  on("keep", "click", () => { keep(); showControls(); });
  on("save-list", "click", saveList);
  on("clear-list", "click", () => { clearKept(); showControls(); });
  on("controls", "submit", (e) => e.preventDefault());
  document.addEventListener("keydown", (e) => {
    const field = /^(INPUT|SELECT|TEXTAREA)$/.test(e.target.tagName);
    const typed = field && !["range", "radio", "checkbox"].includes(e.target.type);  // those have no use for letters
    if (e.ctrlKey || e.metaKey || e.altKey || typed || field && e.key.length > 1) return;
    const act = {
      ArrowLeft: () => set("seed", addSeed(state.seed, -1)), ArrowRight: () => set("seed", addSeed(state.seed, 1)),
      ArrowUp: () => stepClass(-1), ArrowDown: () => stepClass(1), r: () => set("seed", randomSeed()),
      p: () => at("play").click(), k: () => at("keep").click(), s: () => set("mode", "sheet"), i: () => set("mode", "one"),
    }[e.key.length === 1 ? e.key.toLowerCase() : e.key];
    if (act) {
      e.preventDefault();
      act();
    }
  });
  onOpen(go);
}

function notice(text) {
  at("notice").hidden = text === null;
  at("notice").textContent = text ?? "";
}

function serverState(there) {
  if (there === !stopped) return;
  stopped = !there;
  notice(there ? null : "The server has ended. Start gantransfer view again, and open the address that it prints.");
  if (there && models.length) changed();
}

async function start() {
  try {
    setModels(await json("models", {}));
  } catch (e) {
    notice(`The page cannot begin: ${e.message}`);
    return;
  }
  watch(serverState);
  recall();
  buildControls();
  makePanes();
  listen();
  await loadScores();
  changed();
}

start();
