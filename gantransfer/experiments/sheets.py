# SPDX-License-Identifier: Apache-2.0
"""The picture of a study: a row per class or value, a titled block of images per arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dnnlib.util import atomic_path
from gantransfer.pictures.grids import image_grid

if TYPE_CHECKING:
    from gantransfer.sampler import Sampler

TOP = 18  # pixels for the titles


def sampler_of(path: Path) -> Sampler:
    from gantransfer.importers import load_any
    from gantransfer.methods import METHODS

    snap = load_any(path)
    return METHODS[snap.method].sampler_from(snap)


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
                 unlabelled: Sequence[str] = (), per_band: int = 8) -> None:
    """A row per class of a data set: its images | `beside`, more blocks | each snapshot, by title."""
    blocks = {"training images": reals(data, columns), **(beside or {})}
    for title, snapshot in snapshots.items():
        blocks[title] = generated(sampler_of(snapshot), data.label_dim, columns, labels=title not in unlabelled)
    save_sheet(path, blocks, [str(n) for n in data.spec.label.names], per_band=per_band)


def save_sheet(path: Path, blocks: Mapping[str, Sequence[np.ndarray]], rows: Sequence[str], per_band: int = 8,
               strip: tuple[str, np.ndarray] | None = None) -> None:
    """Write a PNG, twice enlarged. blocks: title -> per row uint8 [N, C, H, W]; at most `per_band` beside each other.

    `strip` is a title and images [N, C, h, w] to show beneath, in two rows.
    """
    from PIL import Image, ImageDraw

    titles, zoom = list(blocks), 2
    bands = []
    for first in range(0, len(titles), per_band):
        part = {t: blocks[t] for t in titles[first : first + per_band]}
        channels, size = next(iter(part.values()))[0].shape[1:3]
        gap = np.full((channels, size, size // 2), 255, np.uint8)
        strips = [np.concatenate([piece for row in each for piece in (*row, gap)][:-1], axis=2)
                  for each in zip(*part.values())]
        strips = np.pad(np.stack(strips), ((0, 0), (0, 0), (0, 1), (0, 0)), constant_values=255)
        sheet = image_grid(strips, 1, row_labels=rows, zoom=zoom)
        left = sheet.width - strips.shape[3] * zoom
        bands.append((sheet, 0, [(left + x, t) for x, t in zip(_starts(part, size, zoom), part)]))
    if strip:
        images = strip[1]
        sheet = image_grid(images, -(-len(images) // 2), zoom=max(32 // images.shape[-1], 1), gap=3).convert("RGB")
        bands.append((sheet, left, [(left, strip[0])]))
    out = Image.new("RGB", (max(s.width + x for s, x, _ in bands), sum(s.height + TOP for s, *_ in bands)), "white")
    pen, y = ImageDraw.Draw(out), 0
    for sheet, indent, names in bands:
        out.paste(sheet, (indent, y + TOP))
        for x, title in names:
            pen.text((x + 2, y + 4), title, fill="black")
        y += sheet.height + TOP
    with atomic_path(path) as tmp:
        out.save(tmp, format="PNG")


def _starts(part: Mapping[str, Sequence[np.ndarray]], size: int, zoom: int) -> list[int]:
    widths = [(len(rows[0]) * size + size // 2) * zoom for rows in part.values()]
    return [sum(widths[:i]) for i in range(len(widths))]
