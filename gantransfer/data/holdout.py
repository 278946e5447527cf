# SPDX-License-Identifier: Apache-2.0
"""Hold out a share of each class of a source: `dataset_tool --holdout=0.25` writes two sets from one.

Which images are held out depends on the seed, the class and the order of the images in it, and on nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dnnlib import seeding
from dnnlib.util import UserError
from gantransfer.data import h5
from gantransfer.data.container import Container
from gantransfer.data.convert import Conversion, convert
from gantransfer.data.decode import Seen
from gantransfer.data.labels import some
from gantransfer.data.sources import Item, Source

__all__ = ["choose", "convert_parts", "parts", "repeated", "second_name"]


def second_name(dest: str, share: float | None, given: str | None) -> str | None:
    """Where the second set goes: `given`, or `dest` with -heldout in its name; None without --holdout."""
    if share is None:
        if given is not None:
            raise UserError("--dest-heldout is for --holdout=SHARE, for example --holdout=0.25")
        return None
    if dest.lower().endswith(h5.SUFFIXES):
        raise UserError("--holdout is for zips and folders; the second part of an HDF5 file is --test-source")
    stem = dest.rstrip("/")
    root, suffix = os.path.splitext(stem) if stem.lower().endswith(".zip") else (stem, "")
    second = given or f"{root}-heldout{suffix}"
    if os.path.abspath(second) == os.path.abspath(dest):
        raise UserError(f"--dest-heldout={given} is --dest; choose another name")
    return second


def convert_parts(source: Source, dests: tuple[str, str], how: Conversion, meta: dict[str, Any], share: float,
                  seed: int, report: Callable[[str], None]) -> None:
    """`convert` what is left to train on, and what is held out: both or none."""
    train, heldout = parts(source, share, seed, classes=how.classes, max_images=how.max_images, per_class=how.per_class,
                           drop_unlabelled=how.drop_unlabelled)
    with contextlib.ExitStack() as undo:
        for part, path, name in ((heldout, dests[1], "heldout"), (train, dests[0], "train")):
            new = not os.path.exists(path)
            convert(part, path, replace(how, seen=Seen()),
                    {**meta, "holdout": {"share": share, "seed": seed, "part": name}}, report)
            if new:
                undo.callback(shutil.rmtree if os.path.isdir(path) else os.remove, path)
        undo.pop_all()
    if again := repeated(*dests):
        report(f"warning: {again} of the images held out {'are' if again > 1 else 'is'} in {dests[0]} too, pixel by "
               "pixel: the source has them twice, and what copies them will look good")


def choose(groups: Sequence[int], share: float, seed: int) -> np.ndarray:
    """Sorted positions held out: of the n members of each group round(share n), at least 1 and at most n - 1.

    Raises ValueError with the groups of one member as its argument.
    """
    groups, out = np.asarray(groups, np.int64), []
    ids, counts = np.unique(groups, return_counts=True)
    if len(single := ids[counts < 2]):
        raise ValueError(single.tolist())
    for k, n in zip(ids.tolist(), counts.tolist()):
        rng = seeding.hashed_rng(seed, k, 0x401D)
        out.append(rng.permutation(np.flatnonzero(groups == k))[: min(max(int(share * n + 0.5), 1), n - 1)])
    return np.sort(np.concatenate(out)) if out else np.zeros(0, np.int64)


def parts(source: Source, share: float, seed: int, *, classes: Collection[int] | None = None,
          max_images: int | None = None, per_class: int | None = None,
          drop_unlabelled: bool = False) -> tuple[Source, Source]:
    """(what is left to train on, what is held out) of the images that would be converted: see `Conversion`.

    By class where labels are classes, else of all images together. Goes through the source once for its labels. Raises
    UserError where a class has one image only.
    """
    positions, groups, taken = [], [], {}
    for i, item in zip(range(source.count if max_images is None else max_images), source.items()):
        k = int(item.label) if isinstance(item.label, int | np.integer) else -1
        if classes is not None and k not in classes or item.label is None and drop_unlabelled:
            continue
        taken[k] = taken.get(k, 0) + 1
        if per_class is None or taken[k] <= per_class:
            positions.append(i)
            groups.append(k)
    try:
        held = choose(groups, share, seed)
    except ValueError as e:
        (single,) = e.args
        names = [source.class_names[k] if 0 <= k < len(source.class_names) else k for k in single]
        whose = source.name if single == [-1] else f"class {some(names)} of {source.name}"
        raise UserError(f"--holdout={share:g}: {whose} has one image, and one must stay on each side; add images"
                        + ("" if single == [-1] else ", or choose other classes with --classes")) from None
    out = np.isin(np.arange(len(positions)), held)
    return tuple(_part(source, [p for p, o in zip(positions, out) if o == side]) for side in (False, True))


def _part(source: Source, positions: Sequence[int]) -> Source:
    """The images at these ascending positions, with their splits and attributes."""
    place = {p: i for i, p in enumerate(positions)}

    def items() -> Iterator[Item]:
        return (item for i, item in enumerate(source.items()) if i in place)

    splits = {name: [place[i] for i in members if i in place] for name, members in source.splits.items()}
    return replace(source, count=len(positions), items=items, splits={k: v for k, v in splits.items() if v},
                   attributes={k: [v[i] for i in positions] for k, v in source.attributes.items()})


def repeated(train: str, heldout: str) -> int:
    """How many images of the second set are, file for file, in the first."""
    def digests(path: str) -> list[bytes]:
        files = Container(path)
        return [hashlib.sha256(files.read(n)).digest() for n in files.image_names]

    known = set(digests(train))
    return sum(d in known for d in digests(heldout))
