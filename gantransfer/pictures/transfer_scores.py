# SPDX-License-Identifier: Apache-2.0
"""Which source classes each new class is made of, as table and picture of a sampler's `scores()`: names (`old`, `new`),
and per new class and layer the scores [m] and the norms of their combination and of the residual."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from dnnlib.util import UserError, table_cell
from gantransfer.pictures import text

MOST = 100  # source classes in a picture
SIZE, BIG, CELL = 12, 15, 16  # of words, of the title, of a score, in pixels
PAD, WIDTH, SCALE = 8, 1500, 200  # of gaps; of the whole, if a block is no wider; of the colours' key


def table(report: dict[str, Any], top: int, layers: bool) -> str:
    """Markdown."""
    lines = ["| new class | made of (mean score) | combination | residual |", "|---|---|---|---|"]
    for c in report["classes"]:
        name = table_cell(c["name"])
        lines.append(f"| {name} | {_leaders(c['scores'], report['old'], top)} | {c['combination_norm']:.3g} | "
                     f"{c['residual_norm']:.3g} |")
        for row in c["layers"] if layers else ():
            norms = [float(np.hypot(*(row.get(f"{what}_{p}", 0.0) for p in ("gain", "bias"))))
                     for what in ("combination", "residual")]
            both = [row[k] for k in ("scores_gain", "scores_bias") if k in row]
            lines.append(f"| {name}, {row['layer']} | "
                         f"{_leaders(np.mean(both, 0).tolist() if both else None, report['old'], top)} | "
                         f"{norms[0]:.3g} | {norms[1]:.3g} |")
    return "\n".join(lines)


def _leaders(scores: list[float] | None, names: list[str], top: int) -> str:
    if scores is None:
        return "no scores"
    order = sorted(range(len(scores)), key=lambda j: -abs(scores[j]))[:top]
    return ", ".join(f"{table_cell(names[j])} {scores[j]:+.2f}" for j in order)


def draw(report: dict[str, Any]) -> Image.Image:
    """Scores as colours: rows are source classes, columns layers, a block per new class, its gains before its biases;
    above them what the colours mean. Of more than `MOST` source classes those with the largest scores."""
    found = [c for c in report["classes"] if c["scores"] is not None]
    if not found:
        raise UserError("--picture: this model was trained without scores")
    parts = ("gain", "bias")
    # [new, 2, layers, old]
    values = np.stack([[[r[f"scores_{w}"] for r in c["layers"]] for w in parts] for c in found])
    old, total = list(range(values.shape[3])), values.shape[3]
    if total > MOST:
        old = sorted(np.argsort(-np.abs(values).mean((0, 1, 2)), kind="stable")[:MOST].tolist())
    values, scale = values[..., old], float(np.abs(values).max()) or 1.0
    few = f"the {MOST} of {total} source classes with the largest scores" if total > MOST else f"{total} source classes"
    title, *names = text.check([f"Scores of {few} in the layers of {len(found)} new class{'es' * (len(found) > 1)}",
                                *(report["old"][j] for j in old)])
    layers, heads = text.check(report["layers"]), text.check(c["name"] for c in found)
    names = [text.shorten(t, SIZE, 240) for t in names]
    left = 2 * PAD + max(text.width(t, SIZE) for t in names)
    half = len(layers) * CELL
    block = 2 * (half + PAD) + PAD
    per_band = min(len(found), max((WIDTH - left) // block, 1))
    layers = [text.shorten(t, SIZE, 140) for t in layers]
    head = 2 * CELL + max(text.width(t, SIZE) for t in layers) + PAD
    band = head + len(old) * CELL + 2 * PAD
    wide = max(left + per_band * block, text.width(title, BIG) + 2 * PAD, SCALE + 160)
    top = PAD + 2 * text.line(BIG) + CELL
    out = Image.new("RGB", (wide, top + -(-len(found) // per_band) * band), "white")
    pen = ImageDraw.Draw(out)
    text.draw(pen, PAD, PAD, title, BIG)
    _scale(out, pen, PAD, PAD + text.line(BIG), scale)
    for i, (name, each) in enumerate(zip(heads, values / scale)):
        x, y = left + i % per_band * block, top + i // per_band * band
        if i % per_band == 0:
            for j, t in enumerate(names):
                text.draw(pen, left - PAD, y + head + j * CELL, t, SIZE, right=True)
        text.draw(pen, x, y, text.shorten(name, SIZE + 1, block - 2 * PAD), SIZE + 1)
        for k, (part, v) in enumerate(zip(parts, each)):
            at = x + k * (half + PAD)
            text.draw(pen, at, y + CELL, text.shorten(part, SIZE, half), SIZE, fill="dimgray")
            for j, t in enumerate(layers):
                _upright(out, at + j * CELL, y + head - PAD // 2, t)
            pen.rectangle((at, y + head, at + half - 2, y + head + len(old) * CELL - 2), fill="gainsboro")
            for j, row in enumerate(_colours(v.T)):
                for n, colour in enumerate(row):
                    corner = at + n * CELL, y + head + j * CELL
                    pen.rectangle((*corner, corner[0] + CELL - 2, corner[1] + CELL - 2), fill=tuple(colour.tolist()))
    return out


def _colours(v: np.ndarray) -> np.ndarray:
    """uint8 [..., 3] of values from -1 (blue) over 0 (white) to 1 (red)."""
    v = v[..., None]
    rgb = np.where(v > 0, 1 - v * [0.15, 0.85, 0.85], 1 + v * [0.85, 0.65, 0.15])
    return (rgb.clip(0, 1) * 255).astype(np.uint8)


def _scale(out: Image.Image, pen: ImageDraw.ImageDraw, x: int, y: int, most: float) -> None:
    """What the colours mean, from -most to most."""
    ends = [f"-{most:.2g}", "0", f"{most:.2g}"]
    x += text.width(ends[0], SIZE) + PAD // 2
    text.draw(pen, x - PAD // 2, y, ends[0], SIZE, right=True)
    bar = _colours(np.linspace(-1, 1, SCALE))[None].repeat(CELL - 2, 0)
    pen.rectangle((x - 1, y, x + SCALE, y + CELL - 1), outline="gray")
    out.paste(Image.fromarray(bar), (x, y + 1))
    text.draw(pen, x + SCALE + PAD // 2, y, ends[2], SIZE)
    text.draw(pen, x + SCALE // 2 + text.width("0", SIZE) // 2, y + CELL, "0", SIZE, right=True)


def _upright(out: Image.Image, x: int, bottom: int, words: str) -> None:
    """Words that are read from below, above a column."""
    strip = Image.new("L", (text.width(words, SIZE), CELL), "white")
    text.draw(ImageDraw.Draw(strip), 0, 0, words, SIZE)
    strip = strip.rotate(90, expand=True)
    out.paste(strip.convert("RGB"), (x, bottom - strip.height))
