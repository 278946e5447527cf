# SPDX-License-Identifier: Apache-2.0
"""Choosing rho on images that nothing else has seen: how a set is split, and which value is best."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dnnlib import seeding
from dnnlib.util import UserError, atomic_write
from gantransfer.data.dataset import ImageDataset


def split_files(data: ImageDataset, share: float, seed: int, outdir: Path) -> tuple[Path, Path]:
    """Label files of the training and the validation part; classes are split alike."""
    n = len(data)
    rng = seeding.numpy_rng(seed)
    groups = data.class_ids if data.class_ids is not None else np.zeros(n, int)
    valid = np.zeros(n, bool)
    for k in np.unique(groups):
        members = rng.permutation(np.flatnonzero(groups == k))
        valid[members[: int(round(share * len(members)))]] = True
    if not valid.any() or data.class_ids is not None and len(np.unique(groups[~valid])) < len(np.unique(groups)):
        raise UserError(f"--val-split={share:g} leaves no validation image, or a class without training images")
    # A class behind the last one with images is known from one-hot lists only.
    as_ids = data.class_ids is not None and data.label_dim == data.class_ids.max() + 1
    out = []
    for name, chosen in (("subtrain", ~valid), ("subvalid", valid)):
        rows = []
        for i in np.flatnonzero(chosen):
            label = data.labels([i])[0]
            rows.append([data.get_details(int(i)).name, int(label.argmax()) if as_ids else [float(v) for v in label]])
        content: dict[str, Any] = dict(labels=rows)
        if data.spec.label.names:
            content["class_names"] = list(data.spec.label.names)
        if data.spec.label.meta:
            content["label_meta"] = data.spec.label.meta
        path = outdir / f"{name}.json"
        text = json.dumps(content)
        if path.exists() and path.read_text(encoding="utf-8") != text:
            raise UserError(f"{path} is of another split; choose another --outdir")
        with atomic_write(path) as f:
            f.write(text)
        out.append(path)
    return out[0], out[1]


def headline(figures: dict[str, float]) -> str:
    """The figure a student is judged by: mean absolute error for values, accuracy for classes."""
    if not figures:
        raise UserError("the student's results hold no figures; it was trained without --test")
    return "mae" if "mae" in figures else "accuracy"


@dataclass
class Choice:
    """What students made of each rho."""

    archs: list[str]
    figure: str = "accuracy"
    students: dict[float, dict[str, float]] = field(default_factory=dict)  # rho -> architecture -> figure

    def add(self, rho: float, arch: str, figures: dict[str, float]) -> None:
        self.figure = headline(figures)
        self.students.setdefault(rho, {})[arch] = figures[self.figure]

    @property
    def mean(self) -> dict[float, float]:
        return {rho: float(np.mean(list(v.values()))) for rho, v in self.students.items()}

    @property
    def best(self) -> float:
        return (min if self.figure == "mae" else max)(self.mean, key=lambda r: self.mean[r])

    def table(self) -> str:
        lines = ["| rho | " + " | ".join(self.archs) + " | mean |", "|---|" + "---|" * (len(self.archs) + 1)]
        return "\n".join(lines + [f"| {r:g} | " + " | ".join(f"{v[a]:.4g}" for a in self.archs)
                                  + f" | {self.mean[r]:.4g} |" for r, v in self.students.items()])

    def to_dict(self) -> dict[str, Any]:
        return dict(best=self.best, figure=self.figure, mean={f"{r:g}": m for r, m in self.mean.items()},
                    students={f"{r:g}": v for r, v in self.students.items()})
