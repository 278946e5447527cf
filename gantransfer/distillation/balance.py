# SPDX-License-Identifier: Apache-2.0
"""Rare classes filled up with generated images: `gantransfer generate --balance`.

A generated image is taken if a judge, where there is one, sees its class in it, and if it is no copy: no nearer to a
training image of its class, in pixels, than SHARE of the usual distance from one training image to the next
(`metrics.neighbours`). Real and generated images stay apart by their names and by an attribute.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dnnlib import seeding
from dnnlib.util import UserError, atomic_path
from gantransfer.data.container import Container
from gantransfer.data.dataset import ImageDataset
from gantransfer.data.transforms import png
from gantransfer.detectors.features import Detector
from gantransfer.metrics.neighbours import TrainingImages
from gantransfer.sampler import Sampler, one_hot

SHARE = 0.5
TRIES = 20  # candidates for every image that is wanted, before a class is given up


@dataclass
class Class:
    """What was made of one class."""

    id: int
    wanted: int
    seeds: list[int] = field(default_factory=list)
    images: list[np.ndarray] = field(default_factory=list)  # uint8 [C, H, W]
    tried: int = 0
    misjudged: int = 0
    copies: int = 0


def missing(counts: tuple[int, ...], per_class: int | None) -> dict[int, int]:
    """Class -> images that bring it to `per_class`, or to the largest class; classes without any image are left out,
    for no network has learned them. UserError where nothing is to be done."""
    target = max(counts) if per_class is None else per_class
    found = {k: target - n for k, n in enumerate(counts) if 0 < n < target}
    if not found:
        raise UserError(f"every class has {target} images or more already" + (
            "; give a larger --per-class" if per_class is None else f" (--per-class={per_class})"))
    return found


def judged(detector: Detector, images: torch.Tensor, data: ImageDataset) -> np.ndarray:
    """The class id of `data` that the detector sees in each of uint8 [N, C, H, W]; -1 for one that `data` has not."""
    logits = detector(images).logits
    if logits is None:
        raise UserError(f"--judge={detector.name} gives features only, no classes; make one with gantransfer judge")
    known = detector.classes if detector.classes is not None else range(logits.shape[1])
    places = data.spec.label.class_map or {int(k): int(k) for k in known}
    ids = np.array([places.get(int(k), -1) for k in known])
    absent = {k for k, n in enumerate(data.spec.label.counts) if n} - set(ids.tolist())
    if absent:
        raise UserError(f"--judge={detector.name} does not know class {data.spec.label.name(min(absent))} of the data; "
                        "train it on this set with gantransfer judge")
    return ids[logits.argmax(1).cpu().numpy()]


def fill(sampler: Sampler, data: ImageDataset, wanted: dict[int, int], first: int = 0,
         judge: Detector | None = None, batch: int = 16, progress: Callable[[Any], Any] = lambda x: x,
         **kw: Any) -> list[Class]:
    """Images for each class of `wanted`, in the numbering of `data`; seeds count on from `first`, so that none is made
    twice. `kw`: truncation. UserError where a class gets too few images that may be taken."""
    near, out, seed = TrainingImages(data), [], first
    for k, count in progress(wanted.items()):
        made = Class(k, count)
        out.append(made)
        while len(made.seeds) < count:
            if made.tried >= TRIES * count + batch:
                raise UserError(
                    f"class {data.spec.label.name(k)}: of {made.tried} images only {len(made.seeds)} of {count} may be "
                    f"taken ({made.misjudged} are judged another class, {made.copies} are too near to a training "
                    "image); lower --per-class, take another snapshot, or a judge that was trained on this set")
            seeds = list(range(seed, seed + batch))
            seed += batch
            images = sampler(seeds, one_hot([k] * batch, data.spec.label.dim), **kw)
            right = np.ones(batch, bool) if judge is None else judged(judge, images, data) == k
            pixels = images.cpu().numpy()
            for s, image, fits, found in zip(seeds, pixels, right, near.of(pixels, k)):
                if len(made.seeds) == count:
                    break
                made.tried += 1
                copy = found is not None and found.usual is not None and found.distance < SHARE * found.usual
                made.misjudged += not fits
                made.copies += bool(fits and copy)
                if fits and not copy:
                    made.seeds.append(s)
                    made.images.append(image)
    return out


def write(dest: Path, data: ImageDataset, made: list[Class], meta: dict[str, Any]) -> int:
    """The real images of `data`, unchanged, and the generated ones, as a data set; how many images there are.

    `real/` and `generated/` begin the names, the attribute `generated` says the same, and `real.json` lists the real
    ones alone, for --fname.
    """
    files, spec, rows = Container(data.spec.path), data.spec.label, []
    with atomic_path(dest) as tmp, zipfile.ZipFile(tmp, "w", zipfile.ZIP_STORED) as z:
        def add(name: str, content: bytes) -> None:  # with a fixed date: the same command writes the same bytes
            z.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)

        for i in range(data.spec.num_images):
            name = data.get_details(i).name
            rows.append([f"real/{name.lstrip('/')}", int(data.class_ids[i])])
            add(rows[-1][0], files.read(name))
        real = len(rows)
        for part in made:
            for seed, image in zip(part.seeds, part.images):
                rows.append([f"generated/class{part.id}-seed{seeding.tag(seed)}.png", part.id])
                add(rows[-1][0], png(image, 1))
        common = {"class_names": list(spec.names)} if spec.names else {}
        add("dataset.json", json.dumps({
            "labels": rows, **common, "attributes": {"generated": [int(i >= real) for i in range(len(rows))]},
            "meta": {"balance": meta}}).encode())
        add("real.json", json.dumps({"labels": rows[:real], **common}).encode())
    return len(rows)


def lines(data: ImageDataset, made: list[Class]) -> list[str]:
    """What was taken and what was not, class by class."""
    label = data.spec.label
    return [f"class {label.counted(m.id)}: {len(m.seeds)} generated, of {m.tried}"
            + (f"; {m.misjudged} judged another class" if m.misjudged else "")
            + (f"; {m.copies} too near to a training image" if m.copies else "") for m in made]


def settings(network: str, judge: Detector | None, first: int, kw: dict[str, Any], made: list[Class]) -> dict[str, Any]:
    """What made the images, for dataset.json."""
    return dict(network=os.path.basename(network), judge=judge.identity() if judge else None, first_seed=first,
                nearest_share=SHARE, **kw, generated={str(m.id): len(m.seeds) for m in made})
