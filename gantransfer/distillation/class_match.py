# SPDX-License-Identifier: Apache-2.0
"""Which class of one numbering is which of another: by name, or by what `class_map` says of dataset.json's labels.

A run on a label file of lt_dataset.py numbers its classes by rank, so equal numbers need not be the same class.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from dnnlib.util import UserError, printable
from gantransfer.data.dataset import DataSpec, LabelSpec
from gantransfer.sampler import Sampler
from torch_utils import random as rnd


def match(theirs: LabelSpec, ours: LabelSpec) -> list[int | None]:
    """For every class of `ours` its id in `theirs`; None for one that `theirs` does not know.

    Classes with names on both sides are matched by them, others by their label in dataset.json.
    """
    if theirs.names and ours.names:
        place: dict[Any, int] = {n: k for k, n in reversed(list(enumerate(theirs.names)))}
        return [place.get(n) for n in ours.names] + [None] * (ours.dim - len(ours.names))
    place = theirs.class_map or {k: k for k in range(theirs.dim)}
    out: list[int | None] = [None] * ours.dim
    for original, k in (ours.class_map or {k: k for k in range(ours.dim)}).items():
        if k < ours.dim and original in place:
            out[k] = place[original]
    return out


def comparable(theirs: LabelSpec, ours: LabelSpec) -> bool:
    """Whether anything says which class is which; else equal numbers have to be the same class."""
    both = theirs.kind == ours.kind == "class"
    return both and bool(theirs.names and ours.names or theirs.class_map or ours.class_map)


def differs(ids: Sequence[int | None]) -> bool:
    """Whether a class has another number on the other side."""
    return any(t is not None and t != k for k, t in enumerate(ids))


def known(theirs: LabelSpec, ours: LabelSpec, what: str) -> list[int | None]:
    """`match`, with a UserError for classes of `ours` that have images and that `theirs` does not know."""
    ids = match(theirs, ours)
    absent = [k for k, t in enumerate(ids) if t is None and (not ours.counts or ours.counts[k])]
    if absent:
        called = ", ".join(printable(ours.names[k]) if ours.names else str(k) for k in absent[:3])
        raise UserError(f"{what} does not know {len(absent)} of the data's classes ({called}"
                        f"{', ...' if len(absent) > 3 else ''}); it was made for other classes")
    return ids


class TranslatedSampler:
    """A sampler that takes labels in another numbering."""

    def __init__(self, sampler: Sampler, ids: Sequence[int | None], label: LabelSpec):
        self.sampler, self.device, self.z_dim, self.label_dim = sampler, sampler.device, sampler.z_dim, len(ids)
        self.views, self.label_sets = sampler.views, sampler.label_sets
        self.network = self.means = None  # they take labels in the numbering of their own
        self.matrix = torch.zeros(len(ids), sampler.spec.label.dim)
        for k, t in enumerate(ids):
            if t is not None:
                self.matrix[k, t] = 1
        had = sampler.spec.label.counts
        counts = tuple(had[t] if t is not None and t < len(had) else 0 for t in ids) if had else ()
        self.spec: DataSpec = dataclasses.replace(sampler.spec, label=dataclasses.replace(label, counts=counts))

    def __call__(self, seeds: Sequence[int], c: torch.Tensor | None = None, **kw: Any) -> torch.Tensor:
        return self.sampler(seeds, None if c is None else self.class_vectors(c), **kw)

    def images(self, z: torch.Tensor, c: torch.Tensor, rng: rnd.Rng, **kw: Any) -> torch.Tensor:
        return self.sampler.images(z, self.class_vectors(c), rng, **kw)

    def class_vectors(self, c: torch.Tensor) -> torch.Tensor:
        return self.sampler.class_vectors(c.float() @ self.matrix.to(c.device))

    def images_at(self, z: torch.Tensor, v: torch.Tensor, rng: rnd.Rng, **kw: Any) -> torch.Tensor:
        return self.sampler.images_at(z, v, rng, **kw)

    def check_center(self, center: str) -> None:
        self.sampler.check_center(center)


def translated(sampler: Sampler, label: LabelSpec, what: str) -> Sampler:
    """`sampler` in the numbering of `label`: itself where the two agree. UserError naming `what` where a class with
    images is unknown to it."""
    theirs = sampler.spec.label
    if not comparable(theirs, label):
        return sampler
    ids = known(theirs, label, what)
    if not differs(ids) and theirs.dim == label.dim:
        return sampler
    return TranslatedSampler(sampler, ids, label)


def say(theirs: LabelSpec, ours: LabelSpec, what: str) -> str:
    """The line that tells of a translation."""
    how = "name" if theirs.names and ours.names else "their labels in dataset.json"
    ids = match(theirs, ours)
    moved = [k for k, t in enumerate(ids) if t is not None and t != k]
    shown = ", ".join(f"{k} is its {ids[k]}" for k in moved[:3]) + (", ..." if len(moved) > 3 else "")
    return f"Note: {what} numbers its classes otherwise; they are matched by {how}" + (f" ({shown})" if shown else "")
