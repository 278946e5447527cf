# SPDX-License-Identifier: Apache-2.0
"""Which source classes each new class of a cgantransfer model is made of: its scores as numbers, table and picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from dnnlib.util import UserError, printable, table_cell

if TYPE_CHECKING:
    from gantransfer.data.labels import LabelSpec
    from gantransfer.networks.cgantransfer import TransferGenerator


@torch.no_grad()
def explain(G: TransferGenerator, old: LabelSpec, new: LabelSpec) -> dict[str, Any]:
    """JSON-able: names, and per new class and layer the scores a_g, a_b [m] and the norms of their combination (about
    the mean of the old classes) and of the residual. `scores` is the mean over layers and both parts."""
    parts, layers = G.classes(), G.norm_names()
    out: dict[str, Any] = dict(
        old=list(old.names) or [str(j) for j in range(G.n_old)],
        new=list(new.names) or [str(k) for k in range(G.n_new)], layers=layers, classes=[])
    for k in range(G.n_new):
        rows = []
        for name, norm, p in zip(layers, G.transfer_norms(), parts):
            row: dict[str, Any] = dict(layer=name)
            for w, what in (("g", "gain"), ("b", "bias")):
                if f"a_{w}" in p:
                    prior = getattr(norm, f"prev_knowledge_{w}").effective_weight().mean(1)
                    row[f"scores_{what}"] = p[f"a_{w}"][k].tolist()
                    row[f"combination_{what}"] = float((p[f"comb_{w}"][k] - prior).norm())
                if f"res_{w}" in p:
                    row[f"residual_{what}"] = float(p[f"res_{w}"][k].norm())
            rows.append(row)
        scores = [r[key] for r in rows for key in ("scores_gain", "scores_bias") if key in r]
        out["classes"].append(dict(
            name=out["new"][k], layers=rows, scores=np.mean(scores, 0).tolist() if scores else None,
            combination_norm=_total(rows, "combination"), residual_norm=_total(rows, "residual")))
    return out


def _total(rows: list[dict[str, Any]], what: str) -> float:
    return float(np.hypot.reduce([r.get(f"{what}_{p}", 0.0) for r in rows for p in ("gain", "bias")]))


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
