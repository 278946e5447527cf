# SPDX-License-Identifier: Apache-2.0
"""What the same latents and labels become from snapshot to snapshot: a training in seconds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from dnnlib.util import UserError
from gantransfer.data.labels import trained_classes
from gantransfer.pictures.grids import image_grid, zoom_to
from gantransfer.pictures.plan import Plan, make_plan, value_plan
from gantransfer.sampler import Sampler

ROWS = 8  # classes at most: evenly from the most frequent to the rarest


def plan_of(sampler: Sampler, seeds: Sequence[int]) -> Plan:
    """A row per class or value, a column per seed; without labels a square."""
    spec = sampler.spec.label
    if spec.kind == "value" and spec.dim == 1 and spec.meta:
        return value_plan(spec, list(seeds), None)
    if spec.kind == "value":
        raise UserError("--video: this model needs labels of several numbers, which only its data set has")
    classes = None
    if spec.kind == "class":
        known = trained_classes(spec)
        known = sorted(known, key=lambda k: -spec.counts[k]) if spec.counts else known
        classes = [known[i] for i in np.unique(np.linspace(0, len(known) - 1, min(len(known), ROWS)).astype(int))]
    return make_plan(spec, seeds=list(seeds), classes=classes, grid=True)


def film(snapshots: Iterable[tuple[str, Sampler]], seeds: Sequence[int], batch: int = 16) -> np.ndarray:
    """uint8 [T, H, W, 3]: a titled frame per snapshot. All must have the first one's labels and image size."""
    plan, made = None, []
    for title, sampler in snapshots:
        plan = plan or plan_of(sampler, seeds)
        made.append((title, torch.cat([sampler(plan.seeds[i : i + batch], plan.labels[i : i + batch])
                                       for i in range(0, len(plan.seeds), batch)]).cpu().numpy()))
    if not made:
        raise UserError("--video: the run has no snapshot that makes images")
    if len({images.shape for _, images in made}) > 1:
        raise UserError("--video: the snapshots make images of different sizes")
    titles = [title for title, _ in made]
    return np.stack([np.asarray(image_grid(
        images, plan.columns, row_labels=plan.row_labels, zoom=zoom_to(images.shape[-1], 64), title=title,
        titles=titles).convert("RGB")) for title, images in made])
