// SPDX-License-Identifier: Apache-2.0
// The pictures beside each other: each model's image, what its method has beside it, and the nearest training image.

import {blob, json, Gone, Superseded} from "./api.js";
import {classOf, labelText, models, point, state} from "./state.js";

const panes = [];

class Pane {
  constructor(slot, model, view) {
    Object.assign(this, {slot, model, view, asked: 0, shown: 0, timer: 0});
    this.figure = document.createElement("figure");
    this.figure.dataset.slot = slot;
    this.figure.innerHTML = '<div class="frame"><img alt=""><div class="error" hidden></div></div><figcaption></figcaption>';
    [this.img, this.error, this.caption] = ["img", ".error", "figcaption"].map((q) => this.figure.querySelector(q));
    this.figure.querySelector(".frame").style.aspectRatio = `${models[model].width} / ${models[model].height}`;
    document.getElementById("panes").append(this.figure);
  }

  // Shows what `get` brings (a blob or a data URL), unless something newer was shown meanwhile.
  async show(key, get, caption) {
    const number = ++this.asked;
    this.figure.setAttribute("aria-busy", "true");
    try {
      const made = await get();
      if (number < this.shown) return;
      this.shown = number;
      const url = made instanceof Blob ? URL.createObjectURL(made) : made;
      const old = this.img.src;
      this.img.src = url;
      await this.img.decode();
      if (old.startsWith("blob:")) URL.revokeObjectURL(old);
      this.img.classList.toggle("pixels", this.img.naturalWidth < 256);
      this.say(null);
      this.write(caption());
      this.figure.dataset.shown = key;
    } catch (e) {
      if (e instanceof Superseded || e instanceof Gone || number < this.asked) return;
      this.say(e.message);
    } finally {
      if (number === this.asked) this.figure.setAttribute("aria-busy", "false");
    }
  }

  // Why there is no picture, null where there is one. What was shown before is of another choice, and goes.
  say(text) {
    this.error.hidden = text === null;
    this.error.textContent = text ?? "";
    this.img.classList.toggle("gone", text !== null);
    if (text !== null) {
      this.write(["", ""]);
      delete this.figure.dataset.shown;
    }
  }

  write([strong, rest]) {
    this.caption.replaceChildren(Object.assign(document.createElement("b"), {textContent: strong}), rest ? ` ${rest}` : "");
    this.img.alt = `${strong} ${rest}`.trim();
  }

  update() {
    let p;
    try {
      p = point(this.model, this.view ? {view: this.view} : {});
    } catch (e) {
      this.asked++;
      this.say(e.message);
      return Promise.resolve();
    }
    const key = JSON.stringify(p);
    const words = this.view ? models[this.model].beside[this.view] : "";
    const what = title(this.model, p);
    const from = models.length > 1 ? letter(this.model) : "";
    const caption = () => this.view ? [words, from && `· ${from}`] : [what, from && `· ${from}`];
    return this.show(key, () => blob("image", {point: key, model: this.model, slot: this.slot}), caption);
  }
}

// Which of two models: their files may have long names.
export function letter(model) {
  return "AB"[model];
}

// "seed 0 → 5 (50 %), ash → oak (20 %), styles of seed 9"
function title(model, p) {
  const way = (from, to, share) => to === undefined ? from : `${from} → ${to} (${Math.round(100 * share)} %)`;
  const name = (id) => labelText(model, classOf(model, id));
  return [`seed ${way(p.seed, p.to_seed, p.at)}`,
    way(name(state.class_id), p.to_class === undefined ? undefined : name(state.to_class), p.blend),
    p.mix_seed !== undefined && `styles of seed ${p.mix_seed}`].filter(Boolean).join(", ");
}

class Nearest extends Pane {
  update() {
    clearTimeout(this.timer);
    return new Promise((resolve) => {
      this.timer = setTimeout(() => resolve(this.ask()), 120);  // when a slider rests
    });
  }

  async ask() {
    let p;
    try {
      p = point(0);
      if (state.label_set) throw new Error("The training images are of the data's own classes.");
    } catch (e) {
      this.asked++;
      this.say(e.message);
      return;
    }
    const key = JSON.stringify(p);
    let found = null;
    await this.show(key, async () => {
      found = await json("nearest", {point: key, model: 0, slot: this.slot});
      if (found === null) throw new Error("This class has no training image.");
      return found.image;
    }, () => ["Nearest training image", distance(found)]);
  }
}

export function distance(found) {
  const parts = [`distance ${found.distance.toPrecision(3)}`];
  const ratio = found.usual ? found.distance / found.usual : null;  // of training images to each other
  if (ratio !== null) parts[0] += ` (${ratio.toPrecision(2)} × the usual)`;
  if (found.mirrored) parts.push("mirrored");
  if (ratio !== null && ratio < 0.5) parts.push("close to a copy");
  return parts.join(", ");
}

export function makePanes() {
  models.forEach((m, n) => {
    panes.push(new Pane(`image${n}`, n, null));
    panes.at(-1).figure.classList.add("main");
  });
  models.forEach((m, n) => {
    if (m.training !== undefined) panes.push(new Nearest("nearest", n, null));
    for (const view of Object.keys(m.beside)) panes.push(new Pane(`${view}${n}`, n, view));
  });
  if (panes.length === 1) panes[0].figure.classList.add("only");
}

export function updatePanes() {
  return Promise.all(panes.map((p) => p.update()));
}
