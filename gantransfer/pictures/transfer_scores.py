# SPDX-License-Identifier: Apache-2.0
"""Which source classes each new class is made of, as table and picture of a sampler's `scores()`: names (`old`, `new`),
and per new class and layer the scores [m] and the norms of their combination and of the residual."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from dnnlib.util import UserError, printable, table_cell


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
    """Scores as colours (red positive, blue negative, white zero): columns are source classes, gain then bias."""
    found = [c for c in report["classes"] if c["scores"] is not None]
    if not found:
        raise UserError("--picture: this model was trained without scores")
    cell = max(2, min(18, 480 // len(report["old"])))
    blocks = [np.concatenate([np.array([r[f"scores_{w}"] for r in c["layers"]]) for w in ("gain", "bias")], 1)
              for c in found]
    scale = max(float(np.abs(b).max()) for b in blocks) or 1.0
    left, gap, height = 90, 22, blocks[0].shape[0] * cell
    out = Image.new("RGB", (left + blocks[0].shape[1] * cell + 8, (height + gap) * len(blocks) + 4), "white")
    pen = ImageDraw.Draw(out)
    for i, (c, b) in enumerate(zip(found, blocks)):
        top = i * (height + gap) + gap
        v = (b / scale)[:, :, None]
        rgb = np.where(v > 0, 1 - v * [0.15, 0.85, 0.85], 1 + v * [0.85, 0.65, 0.15])
        tile = Image.fromarray((rgb.clip(0, 1) * 255).astype(np.uint8)).resize(
            (b.shape[1] * cell, height), Image.Resampling.NEAREST)
        out.paste(tile, (left, top))
        pen.text((4, top + height // 2 - 6), printable(c["name"])[:14], fill="black")
        pen.text((left, top - 14), f"gain, {len(report['old'])} source classes", fill="black")
        pen.text((left + tile.width // 2, top - 14), "bias", fill="black")
        pen.line([(left + tile.width // 2, top), (left + tile.width // 2, top + height)], fill="black")
    return out
