# SPDX-License-Identifier: Apache-2.0
"""Which images are asked for: a seed and a label for each, and where they stand in a grid."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from tqdm import tqdm

from dnnlib import json_file, seeding
from dnnlib.util import UserError
from gantransfer.data.labels import LabelSpec, is_number, known_classes, trained_classes
from gantransfer.data.names import valid_text
from gantransfer.sampler import LabelSource, Sampler, one_hot
from torch_utils import distributed as dist

Images = dict[str, np.ndarray]  # one latent's, by view
T = TypeVar("T")
GRID_ROWS = 10  # values of a continuous label in a grid
GRID_SEEDS = 8  # columns of a grid, and rows of one without classes, when no seeds are given


@dataclass
class Plan:
    """What to make: one entry per image."""

    seeds: list[int]
    labels: torch.Tensor  # [N, label_dim]
    classes: list[int | None]  # class id of each image, None without class labels
    columns: int  # of a grid
    row_labels: list[str] | None = None
    values: list[float] | None = None  # of a model with one continuous label

    def counted_rows(self, label: LabelSpec) -> list[str] | None:
        """The row labels with what is known of them: how many training images the class had, the unit of the value."""
        if self.row_labels is None or self.values is not None:
            unit = f" {label.meta['unit']}" if label.meta.get("unit") else ""
            return self.row_labels and [f"{t}{unit}" for t in self.row_labels]
        return [label.counted(k) for k in self.classes[:: self.columns]]

    def shared(self, label: LabelSpec) -> list[str]:
        """The one class or value of all images, in words; empty where they differ or there is none."""
        unit = f" {label.meta['unit']}" if label.meta.get("unit") else ""
        kinds = {f"class {label.counted(k)}" for k in set(self.classes) - {None}}
        kinds |= {f"{v:g}{unit}" for v in self.values or ()}
        return list(kinds) if len(kinds) == 1 and (self.values or None not in self.classes) else []

    def counting(self) -> list[str]:
        """'seeds 0 to 63', where that is true."""
        seeds = list(dict.fromkeys(self.seeds))
        if len(seeds) == 1:
            return [f"seed {seeds[0]}"]
        return [f"seeds {seeds[0]} to {seeds[-1]}"] * (seeds == list(range(seeds[0], seeds[0] + len(seeds))))

    @property
    def names(self) -> list[str]:
        tags = [f"-label{v:g}" for v in self.values] if self.values is not None else [
            "" if k is None else f"-class{k}" for k in self.classes]
        return [f"seed{seeding.tag(s)}{tag}" for s, tag in zip(self.seeds, tags)]


def split_label_set(text: str | None, sampler: Sampler) -> tuple[str | None, str | None]:
    """('old', '3,4') from 'old:3,4', for a model that knows several sets of classes; (None, text) otherwise."""
    text = text and valid_text(text)
    name, colon, rest = (text or "").partition(":")
    if not colon or name in ("name", "id") or text in sampler.spec.label.names:
        return None, text
    if name not in sampler.label_sets:
        if any(":" in n for n in sampler.spec.label.names):
            return None, text
        known = ", ".join(f"{k}:0 to {k}:{v.dim - 1}" for k, v in sampler.label_sets.items())
        raise UserError(f"--class={text}: " + (f"this model has {known}" if known else
                                               "this model has one set of classes; omit the part before ':'"))
    parts = [p.strip() for p in rest.split(",")]
    others = [p for p in parts if p.partition(":")[0] in sampler.label_sets and not p.startswith(f"{name}:")]
    if others:
        raise UserError(f"--class={text}: {others[0]} is of another set than {name}; make one set at a time")
    return name, ",".join(p.removeprefix(f"{name}:") for p in parts) or None


def make_plan(label: LabelSpec, *, seeds: list[int] | None, classes: list[int] | None = None,
              per_class: int | None = None, policy: str | None = None, vector: Sequence[float] | None = None,
              values: np.ndarray | None = None, grid: bool = False) -> Plan:
    """Seeds and labels of every image.

    Without a policy every seed is made in every class of `classes`, so that a column of a grid shares its latent;
    `per_class` counts seeds on from the first one instead, so that no two images share one. With a policy ('uniform',
    'data') each seed draws its label. `vector` is the label of all images of a model with float-vector labels, or a
    weight for every class; of a model with one continuous label it lists values, and every seed is made at every value.
    Raises UserError when the labels of a conditional model are left open.
    """
    if per_class is not None and label.kind != "class":
        raise UserError("--per-class needs a model with classes; give --seeds")
    if per_class is not None and seeds is not None and len(seeds) > 1:
        raise UserError("--per-class counts seeds on from the first one: give a single number to --seeds")
    if seeds is None and per_class is None:
        if not grid:
            raise UserError("which images? give --seeds=0-63 or --per-class=N")
        a_row_per_class = label.kind == "class" and policy is None and (classes is None or len(classes) > 1)
        by_value = label.kind == "value" and label.dim == 1 and policy is None and (vector is None or len(vector) > 1)
        seeds = list(range(GRID_SEEDS if a_row_per_class or by_value else GRID_SEEDS**2))
    first = seeds[0] if seeds else 0

    if label.kind == "none":
        return Plan(seeds, torch.zeros([len(seeds), 0]), [None] * len(seeds), _square(len(seeds)))
    if label.kind == "value" and label.dim == 1 and policy is None and (vector is not None or grid and label.meta):
        return value_plan(label, seeds, vector)
    if vector is not None:
        if len(vector) != label.dim:
            raise UserError(f"--label needs {label.dim} numbers" + (
                "" if label.kind == "value" else ", a weight for every class; for one class give --class"))
        c = torch.tensor([list(vector)], dtype=torch.float32).repeat(len(seeds), 1)
        return Plan(seeds, c, [None] * len(seeds), _square(len(seeds)))
    if policy is not None:
        if seeds is None:
            raise UserError("--labels draws a label per seed: give --seeds instead of --per-class")
        if label.kind == "class" and policy == "data" and not label.counts:
            raise UserError("this snapshot does not record how often each class occurs; use --labels=uniform")
        c = LabelSource(label, policy, classes, values)(seeds)
        ids = c.argmax(dim=1).tolist() if label.kind == "class" else [None] * len(seeds)
        return Plan(seeds, c, ids, _square(len(seeds)))
    if label.kind == "value":
        raise UserError(f"this model needs a label of {label.dim} numbers: give --label=V,V,... or --labels=data")
    if classes is None:
        if not grid and per_class is None:
            raise UserError("this model is class-conditional: give --class=..., --labels=uniform or data, or "
                            f"--per-class=N for every class; {known_classes(label)}")
        classes = trained_classes(label)

    count = (len(seeds) if per_class is None else per_class) * len(classes)
    if count > seeding.MAX_SEEDS:
        flag = "--seeds" if per_class is None else "--per-class"
        raise UserError(f"{flag} in {len(classes)} classes: these are more than {seeding.MAX_SEEDS:,} images; make "
                        "fewer at a time")
    if per_class is not None:
        columns, ids = per_class, [k for k in classes for _ in range(per_class)]
        seeds = list(range(first, first + len(ids)))
    else:
        columns, ids = len(seeds), [k for k in classes for _ in seeds]
        seeds = seeds * len(classes)
    names = list(map(label.name, classes))
    if len(classes) == 1:
        columns, names = _square(len(seeds)), None
    return Plan(seeds, one_hot(ids, label.dim), ids, columns, names)


def value_plan(label: LabelSpec, seeds: list[int], values: Sequence[float] | None) -> Plan:
    """Every seed at every value of a model's one continuous label; None: GRID_ROWS values over its range."""
    low, high, unit = (label.meta.get(k) for k in ("min", "max", "unit"))
    if values is None:
        values = np.linspace(low, high, GRID_ROWS).tolist()
    for v in values:
        if not math.isfinite(v) or low is not None and not low <= v <= high:
            raise UserError(f"--label={v:g} is outside the labels of this model, {low:g} to {high:g}"
                            + (f" {unit}" if unit else "") if low is not None else f"--label={v:g} is no label")
    made = [float(v) for v in values for _ in seeds]
    names = [f"{v:g}" for v in values] if len(values) > 1 else None
    columns = _square(len(seeds)) if len(values) == 1 else len(seeds)
    return Plan(list(seeds) * len(values), torch.tensor(made, dtype=torch.float32)[:, None], [None] * len(made),
                columns, names, made)


def listed_plan(label: LabelSpec, path: str) -> Plan:
    """The images of a list: JSON, {"images": [[seed, label], ...]}, as the viewer writes it. A label is a class id, a
    list of numbers (a vector's values, or a weight for every class), or null of a model without labels. UserError,
    naming the entry, for anything else."""
    content = json_file.read(path)
    rows = content.get("images")
    if not isinstance(rows, list) or not rows:
        raise UserError(f'--list={path} has no "images"; expected {{"images": [[seed, label], ...]}}')
    seeds, made, ids = [], [], []
    for i, row in enumerate(rows):
        def complain(why: str, i: int = i) -> UserError:
            return UserError(f"--list={path}: image {i} {why}")

        if not (isinstance(row, list) and len(row) == 2 and isinstance(row[0], int) and not isinstance(row[0], bool)):
            raise complain("is no pair of a seed and a label")
        seed, given = row
        if label.kind == "none":
            if given is not None:
                raise complain("has a label, and this model knows none; write null")
            vector, k = [], None
        elif label.kind == "class" and isinstance(given, int) and not isinstance(given, bool):
            if not 0 <= given < label.dim:
                raise complain(f"is of class {str(given)[:20]}; {known_classes(label)}")
            vector, k = one_hot([given], label.dim)[0].tolist(), given
        elif isinstance(given, list) and len(given) == label.dim and all(is_number(v) for v in given):
            vector, k = given, None
            if label.meta and not label.meta["min"] <= given[0] <= label.meta["max"]:
                raise complain(f"has the label {given[0]:g}, outside {label.meta['min']:g} to {label.meta['max']:g}")
        else:
            raise complain(f"needs a label of {label.dim} numbers" + (", or a class" if label.kind == "class" else ""))
        seeds.append(seed)
        made.append(vector)
        ids.append(k)
    values = [v for v, in made] if label.kind == "value" and label.dim == 1 else None
    return Plan(seeds, torch.tensor(made, dtype=torch.float32).reshape(len(made), -1), ids, _square(len(seeds)), None,
                values)


def _square(n: int) -> int:
    return max(math.ceil(math.sqrt(n)), 1)


def sample(sampler: Sampler, plan: Plan, batch: int, views: Sequence[str], finish: Callable[[Images], T],
           **kw: Any) -> Iterator[tuple[int, T]]:
    """(index, finish({view: uint8 [C, H, W]})) of every image of the plan, in order, with a progress bar.

    The job's processes take batches in turn, and `finish` is called where an image was made; every process gets all."""
    rank, world = dist.rank(), dist.world_size()
    with tqdm(total=len(plan.seeds), unit="img", desc="generating", disable=not dist.is_main()) as progress:
        for first in range(0, len(plan.seeds), world * batch):
            rows = slice(first + rank * batch, first + (rank + 1) * batch)
            seeds, c, mine = plan.seeds[rows], plan.labels[rows], []
            if seeds:
                made = {v: sampler(seeds, c, **(kw if v == "image" else {**kw, "view": v})).cpu().numpy()
                        for v in views}
                mine = [finish({v: images[i] for v, images in made.items()}) for i in range(len(seeds))]
            everyone = list(itertools.chain.from_iterable(dist.gather_object(mine)))
            yield from enumerate(everyone, first)
            progress.update(len(everyone))


def label_rows(plan: Plan) -> list[list[float]]:
    """Vector labels as a data set lists them: the shortest decimals, 0.1 rather than 0.10000000149."""
    if plan.values is not None:
        return [[v] for v in plan.values]
    return [[float(str(v)) for v in row] for row in plan.labels.numpy()]
