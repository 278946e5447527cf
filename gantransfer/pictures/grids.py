# SPDX-License-Identifier: Apache-2.0
"""Contact sheets: images in rows and columns, optionally with a label at the left of each row."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dnnlib.util import atomic_path, printable

if TYPE_CHECKING:  # imported where it is used: training without pictures needs no Pillow
    from PIL import Image


def image_grid(images: np.ndarray, columns: int, row_labels: Sequence[str] | None = None, zoom: int = 1,
               gap: int = 0) -> Image.Image:
    """uint8 [N, C, H, W] (C = 1 or 3) as one picture, filled row by row; `zoom` enlarges by nearest neighbour."""
    from PIL import Image

    n, channels, h, w = images.shape
    rows = -(-n // columns)
    tiles = np.zeros((rows * columns, channels, h, w), np.uint8)
    tiles[:n] = images
    tiles = tiles.repeat(zoom, axis=2).repeat(zoom, axis=3)
    h, w = h * zoom, w * zoom
    sheet = np.full((channels, rows * (h + gap), columns * (w + gap)), 255 if gap else 0, np.uint8)
    for i, tile in enumerate(tiles):
        y, x = i // columns * (h + gap), i % columns * (w + gap)
        sheet[:, y : y + h, x : x + w] = tile
    picture = Image.fromarray(sheet[0]) if channels == 1 else Image.fromarray(sheet.transpose(1, 2, 0))
    return picture if row_labels is None else _with_labels(picture, row_labels, h + gap)


def _with_labels(picture: Image.Image, labels: Sequence[str], pitch: int) -> Image.Image:
    from PIL import Image, ImageDraw

    labels = [printable(t) for t in labels]
    measure = ImageDraw.Draw(Image.new("L", (1, 1)))
    margin = 8 + int(max(measure.textlength(t) for t in labels))
    out = Image.new("RGB", (picture.width + margin, picture.height), "white")
    out.paste(picture.convert("RGB"), (margin, 0))
    draw = ImageDraw.Draw(out)
    for i, text in enumerate(labels):
        draw.text((margin - 4, i * pitch + pitch // 2), text, fill="black", anchor="rm")
    return out


def save_grid(path: str | os.PathLike, images: np.ndarray, columns: int, parents: bool = True,
              **kw) -> Image.Image:
    """Write `image_grid` as a PNG, atomically, and return it. `parents` as in `atomic_path`."""
    picture = image_grid(images, columns, **kw)
    with atomic_path(path, parents) as tmp:
        picture.save(tmp, format="PNG")
    return picture
