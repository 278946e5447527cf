# SPDX-License-Identifier: Apache-2.0
"""Sheets of the page: a row per class or value, a column per seed, the images of `generate --grid`."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from dnnlib.util import UserError
from gantransfer.data.labels import LabelSpec
from gantransfer.pictures.plan import Plan, make_plan
from gantransfer.sampler import Sampler, one_hot
from gantransfer.viewer import points

MOST = 400  # images
BATCH = 16  # at a time
CELL = 128  # pixels: larger images are reduced, as they are opened in full size


def parse(data: dict[str, Any], sampler: Sampler) -> tuple[points.Point, Plan]:
    """What all images share, and a seed and label of each, from JSON: `seeds`, `classes` (None: all that had images),
    and what a point has. UserError for anything else."""
    given = dict(data)
    seeds = points.integers(given.pop("seeds", None), "seeds")
    classes = given.pop("classes", None)
    classes = None if classes is None else points.integers(classes, "classes")
    own = sampler.spec.label if sampler.label_dim else LabelSpec()
    spec = sampler.label_sets.get(str(given.get("label_set")), own)
    if not 1 <= len(seeds) * len([0] if classes is None else classes) <= MOST:
        raise UserError(f"a sheet has 1 to {MOST} images; choose fewer classes or seeds")
    if spec.kind == "value":
        given.setdefault("label", [spec.meta.get("min", 0)])
    p = points.parse({"class_id": 0, **given} if spec.kind == "class" else given, sampler)
    if spec.kind == "class" and classes is not None:
        one_hot(classes, spec.dim)
    vector = list(p.label) if spec.kind == "value" and spec.dim > 1 else None
    plan = make_plan(spec, seeds=seeds, classes=classes if spec.kind == "class" else None, vector=vector, grid=True)
    if len(plan.seeds) > MOST:
        raise UserError(f"these are {len(plan.seeds)} images, more than {MOST}; choose fewer classes or seeds")
    return p, plan


def images(sampler: Sampler, p: points.Point, plan: Plan, rows: slice) -> np.ndarray:
    """uint8 [n, C, H, W] of some cells."""
    choice = {k: v for k, v in dict(view=p.view, label_set=p.label_set).items() if v}
    return sampler(plan.seeds[rows], plan.labels[rows], truncation_psi=p.trunc, truncation_center=p.center,
                   noise_mode=p.noise, **choice).cpu().numpy()


def cells(plan: Plan) -> list[dict[str, Any]]:
    """The seed (as text: JavaScript's numbers have 53 bits) and class or label of each."""
    labels = plan.labels.tolist()
    return [dict(seed=str(s), class_id=k, label=None if k is not None or not labels[i] else labels[i])
            for i, (s, k) in enumerate(zip(plan.seeds, plan.classes))]


def grid(made: np.ndarray, columns: int) -> np.ndarray:
    """uint8 [N, C, H, W] -> one picture [C, rows * h, columns * w] without gaps, h and w at most CELL."""
    made = np.stack([_small(x) for x in made])
    rows = -(-len(made) // columns)
    n, c, h, w = made.shape
    full = np.concatenate([made, np.zeros((rows * columns - n, c, h, w), np.uint8)])
    return full.reshape(rows, columns, c, h, w).transpose(2, 0, 3, 1, 4).reshape(c, rows * h, columns * w)


def _small(image: np.ndarray) -> np.ndarray:
    longer = max(image.shape[1:])
    if longer <= CELL:
        return image
    height, width = (max(round(side * CELL / longer), 1) for side in image.shape[1:])
    return np.stack([np.asarray(Image.fromarray(x).resize((width, height), Image.Resampling.BOX)) for x in image])
