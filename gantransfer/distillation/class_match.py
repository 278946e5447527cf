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
from gantransfer.data.dataset import LabelSpec
from gantransfer.sampler import Sampler


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


def translated(sampler: Sampler, label: LabelSpec, what: str) -> Sampler:
    """`sampler` in the numbering of `label`: itself where the two agree. UserError naming `what` where a class with
    images is unknown to it."""
    theirs = sampler.spec.label
    if not comparable(theirs, label):
        return sampler
    ids = known(theirs, label, what)
    if not differs(ids) and theirs.dim == label.dim:
        return sampler
    matrix, had = torch.zeros(len(ids), theirs.dim), theirs.counts
    for k, t in enumerate(ids):
        if t is not None:
            matrix[k, t] = 1
    counts = tuple(had[t] if t is not None and t < len(had) else 0 for t in ids) if had else ()
    spec = dataclasses.replace(sampler.spec, label=dataclasses.replace(label, counts=counts))

    def its_own(c: torch.Tensor, label_set: str | None = None, **kw: Any) -> torch.Tensor:
        return c if label_set else c.float() @ matrix.to(c.device)

    def synthesise(z: torch.Tensor, c: torch.Tensor, **kw: Any) -> torch.Tensor:
        return sampler.synthesise(z, its_own(c, **kw), **kw)

    def styles(z: torch.Tensor, c: torch.Tensor, **kw: Any) -> torch.Tensor:
        return sampler.styles(z, its_own(c, **kw), **kw)

    return Sampler(synthesise, sampler.z_dim, spec, sampler.device, sampler.views, len(ids),
                   label_sets=sampler.label_sets, styles=styles if sampler.means else None, render=sampler.render)


def say(theirs: LabelSpec, ours: LabelSpec, what: str) -> str:
    """The line that tells of a translation."""
    how = "name" if theirs.names and ours.names else "their labels in dataset.json"
    ids = match(theirs, ours)
    moved = [k for k, t in enumerate(ids) if t is not None and t != k]
    shown = ", ".join(f"{k} is its {ids[k]}" for k in moved[:3]) + (", ..." if len(moved) > 3 else "")
    return f"Note: {what} numbers its classes otherwise; they are matched by {how}" + (f" ({shown})" if shown else "")
