# SPDX-License-Identifier: Apache-2.0
"""The picture of a study: a row per class or value, a titled block of images per arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gantransfer.pictures import grids

if TYPE_CHECKING:
    from gantransfer.sampler import Sampler


def sampler_of(path: Path) -> Sampler:
    from gantransfer.model import load

    return load(path).sampler()


def reals(data: Any, columns: int, repeat: bool = True) -> list[np.ndarray]:
    """Per class, its first images, uint8 [columns, C, H, W]; `repeat`: from the first again where there are fewer."""
    members = [np.flatnonzero(data.class_ids == k) for k in range(data.label_dim)]
    return [data.images_uint8(np.resize(m, columns) if repeat else m[:columns]) for m in members]


def generated(sampler: Sampler, classes: int, columns: int, labels: bool = True) -> list[np.ndarray]:
    """Per class, images of the same latents for every sampler, uint8 [columns, C, H, W]."""
    from gantransfer.sampler import one_hot

    return [sampler([1000 * k + i for i in range(columns)], *([one_hot([k] * columns, classes)] if labels else [])
                    ).numpy() for k in range(classes)]


def save_classes(path: Path, data: Any, snapshots: Mapping[str, Path], columns: int, *, beside: Mapping | None = None,
                 unlabelled: Sequence[str] = (), per_band: int = 8, title: str = "") -> None:
    """A row per class of a data set: its images | `beside`, more blocks | each snapshot, by its words."""
    blocks = {"training images": reals(data, columns), **(beside or {})}
    for arm, snapshot in snapshots.items():
        blocks[arm] = generated(sampler_of(snapshot), data.label_dim, columns, labels=arm not in unlabelled)
    label = data.spec.label
    save_sheet(path, blocks, list(map(label.counted, range(label.dim))), per_band=per_band, title=title)


def save_with_small(path: Path, ref: Path, snapshots: Mapping[str, tuple[str, Path]]) -> None:
    """A row per class with its number of training images: held-out reals | each arm, its (title, snapshot); beneath,
    UTLO's label-free small images, of which each arm has a file, too."""
    import torch

    from gantransfer.data.dataset import reference_dataset

    samplers = {a: (title, sampler_of(p)) for a, (title, p) in snapshots.items()}
    spec = next(iter(samplers.values()))[1].spec
    blocks = {"held out": reals(reference_dataset(spec, path=str(ref)), 12)}
    blocks |= {title: generated(s, spec.label.dim, 12) for title, s in samplers.values()}
    strip = None
    for a, (title, s) in samplers.items():
        if "uc" in s.views:
            small = s(range(24), torch.zeros(24, spec.label.dim), view="uc").numpy()
            size = small.shape[-1]
            grids.save_grid(path.with_name(f"{a}-label-free.png"), small, 12, zoom=grids.zoom_to(size, 64),
                            title=f"{title}: label-free images")
            strip = strip or (f"{title}: label-free {size}x{size} images", small)
    save_sheet(path, blocks, list(map(spec.label.counted, range(spec.label.dim))), strip=strip,
               title=f"{spec.name}: classes, and how many training images each had")


def save_sheet(path: Path, blocks: Mapping[str, Sequence[np.ndarray]], rows: Sequence[str], per_band: int = 8,
               strip: tuple[str, np.ndarray] | None = None, title: str = "") -> None:
    """Write a PNG, twice enlarged. blocks: title -> per row uint8 [N, C, H, W]; at most `per_band` beside each other.

    `strip` is a title and images [N, C, h, w] to show beneath, in two rows.
    """
    names, bands = list(blocks), []
    for first in range(0, len(names), per_band):
        part = {t: blocks[t] for t in names[first : first + per_band]}
        images = np.concatenate([piece for row in zip(*part.values()) for piece in row])
        ends = np.cumsum([len(each[0]) for each in part.values()])
        heads = [grids.Head(t, int(end) - len(each[0]), int(end) - 1) for (t, each), end in zip(part.items(), ends)]
        bands.append(grids.image_grid(images, int(ends[-1]), row_labels=rows, zoom=2, heads=heads,
                                      split=images.shape[-1], title="" if first else title))
    if strip:
        columns = -(-len(strip[1]) // 2)
        bands.append(grids.image_grid(strip[1], columns, zoom=grids.zoom_to(strip[1].shape[-1]),
                                      heads=[grids.Head(strip[0], 0, columns - 1)]))
    grids.save(path, grids.stack(bands))
