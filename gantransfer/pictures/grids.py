# SPDX-License-Identifier: Apache-2.0
"""Contact sheets: images in rows and columns with gaps between them; a title, words above columns and before rows."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dnnlib import json_file
from dnnlib.util import UserError, atomic_path

if TYPE_CHECKING:  # imported where it is used: training without pictures needs no Pillow
    from PIL import Image

GAP = 2  # pixels between images
PAD = 8  # around a picture with words
BETWEEN = 225  # the grey of the gaps: images may be white or black at their edges


MOST = 178_956_970  # pixels of a picture: Pillow refuses to open a larger one


def check_size(images: int, height: int, width: int, zoom: int, fewer: str) -> None:
    """UserError where so many images of such a size, enlarged `zoom` times, are more than a picture can hold; `fewer`:
    what to give instead. Before the images are made."""
    pixels = images * height * width * zoom**2
    if pixels > MOST:
        raise UserError(f"{images:,} images of {width * zoom}x{height * zoom} pixels are {pixels / 1e6:,.0f} million "
                        f"pixels in one picture, and programs open {MOST / 1e6:.0f} million at most; {fewer}")


def zoom_to(side: int, least: int = 32) -> int:
    """By how much images of `side` pixels are enlarged to have at least so many."""
    return -(-least // side)


@dataclass(frozen=True)
class Head:
    """Words above the columns `first` to `last`, at their left end or their `right` one, in as many lines as needed."""

    text: str
    first: int
    last: int
    right: bool = False


def image_grid(images: np.ndarray, columns: int, row_labels: Sequence[str] | None = None, zoom: int = 1,
               gap: int = GAP, title: str = "", heads: Sequence[Head] = (), split: int = 0,
               titles: Sequence[str] = ()) -> Image.Image:
    """uint8 [N, C, H, W] (C = 1 or 3) as one picture, filled row by row; `zoom` enlarges by nearest neighbour.

    split: additional pixels before the columns where a head begins. titles: those of other pictures of a film; there is
    room for the longest, so that all have one size. `info["cells"]` of the picture says where its images are (`cells`).
    """
    from PIL import Image, ImageDraw

    from gantransfer.pictures import text

    n, channels, h, w = images.shape
    rows, h, w = -(-n // columns), h * zoom, w * zoom
    size = min(max(h // 12, 13), 96)  # legible where a large sheet is reduced to the width of a page
    big, lines = round(1.2 * size), text.line(size)
    title, *titles = text.check([title, *titles])
    spoken = text.check(row_labels or ())
    said = text.check([head.text for head in heads])
    pad = PAD if title or spoken or said else 0

    begins = {head.first for head in heads if head.first}
    x = [j * (w + gap) + split * sum(b <= j for b in begins) for j in range(columns)]
    wide = x[-1] + w
    spoken = [text.shorten(t, size, max(wide // 3, 18 * size)) for t in spoken]
    left = pad + (max(text.width(t, size) for t in spoken) + PAD if spoken else 0)
    full = max(left + wide, min(max(text.width(t, big) for t in (title, *titles)) + pad, 28 * big))
    title_lines = max(len(text.wrap(t, big, full - pad)) for t in (title, *titles))
    wrapped = [text.wrap(t, size, x[head.last] + w - x[head.first]) for head, t in zip(heads, said)]
    head_lines = max(map(len, wrapped), default=0)
    top = pad + title_lines * text.line(big) + head_lines * lines + PAD // 2 * bool(title or said)
    pitch = max(h + gap, lines) if spoken else h + gap
    y = [top + i * pitch for i in range(rows)]
    x = [left + v for v in x]

    grey = channels == 1
    sheet = Image.new("L" if grey else "RGB", (full + pad, y[-1] + h + pad), "white")
    pen = ImageDraw.Draw(sheet)
    for a, b in _blocks(columns, begins):
        pen.rectangle((x[a], y[0], x[b] + w - 1, y[-1] + h - 1), fill=(BETWEEN,) * len(sheet.getbands()))
    for i, tile in enumerate(images):
        tile = tile.repeat(zoom, axis=1).repeat(zoom, axis=2)
        sheet.paste(Image.fromarray(tile[0] if grey else tile.transpose(1, 2, 0)), (x[i % columns], y[i // columns]))
    for k, t in enumerate(text.wrap(title, big, full - pad)):
        text.draw(pen, pad, pad + k * text.line(big), t, big)
    for head, found in zip(heads, wrapped):
        for k, t in enumerate(found):
            text.draw(pen, x[head.last] + w if head.right else x[head.first],
                      top - PAD // 2 - (len(found) - k) * lines, t, size, head.right)
    for t, at in zip(spoken, y):
        text.draw(pen, left - PAD, at + (h - lines) // 2, t, size, right=True)
    sheet.info["cells"] = json.dumps(dict(x=x, y=y, width=w, height=h))
    return sheet


def _blocks(columns: int, begins: set[int]) -> list[tuple[int, int]]:
    """First and last columns of what stands together."""
    edges = sorted({0, *begins, columns})
    return [(a, b - 1) for a, b in zip(edges[:-1], edges[1:])]


def stack(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures below each other, their first images below each other too."""
    from PIL import Image

    lefts = [_places(p)["x"][0] if "cells" in p.info else 0 for p in pictures]
    moved = [max(lefts) - x for x in lefts]
    mode = "L" if all(p.mode == "L" for p in pictures) else "RGB"
    out = Image.new(mode, (max(p.width + x for p, x in zip(pictures, moved)), sum(p.height for p in pictures)), "white")
    y = 0
    for p, x in zip(pictures, moved):
        out.paste(p, (x, y))
        y += p.height
    return out


def save_grid(path: str | os.PathLike, images: np.ndarray, columns: int, parents: bool = True,
              **kw) -> Image.Image:
    """Write `image_grid` as a PNG, atomically, and return it. `parents` as in `atomic_path`."""
    picture = image_grid(images, columns, **kw)
    save(path, picture, parents)
    return picture


def save(path: str | os.PathLike, picture: Image.Image, parents: bool = True) -> None:
    """A picture as a PNG, atomically, with what it knows of its cells."""
    from PIL.PngImagePlugin import PngInfo

    known = PngInfo()
    if "cells" in picture.info:
        known.add_text("cells", picture.info["cells"])
    with atomic_path(path, parents) as tmp:
        picture.save(tmp, format="PNG", pnginfo=known)


def cells(picture: Image.Image) -> np.ndarray:
    """uint8 [rows, columns, H, W] or [rows, columns, H, W, 3]: the images of a sheet as it shows them, enlarged; those
    that the last row lacks are grey. KeyError for a picture that does not say where they are."""
    at, pixels = _places(picture), np.asarray(picture)
    return np.stack([np.stack([pixels[y : y + at["height"], x : x + at["width"]] for x in at["x"]]) for y in at["y"]])


def _places(picture: Image.Image) -> dict:
    return json_file.parse(picture.info["cells"], "the places of a sheet's images")
