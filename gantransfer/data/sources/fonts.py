# SPDX-License-Identifier: Apache-2.0
"""`--source=fonts:DIR`: letters rendered from the fonts below a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dnnlib import seeding
from dnnlib.util import UserError
from gantransfer.data import confine
from gantransfer.data.glyphs import lacking
from gantransfer.data.sources.base import Item, Source, SourceOptions, own_labels

SPLITS = ("train", "reference", "all")
_STYLE_WORDS = frozenset("""thin hairline extralight ultralight light semilight demilight book regular normal roman text
    medium semibold demibold demi bold extrabold ultrabold heavy black ultra extra semi condensed semicondensed
    extracondensed narrow compressed extended wide expanded italic oblique slanted display caption""".split())


def takes(path: str, name: str) -> bool:
    return path.startswith("fonts:")


def parse_letters(text: str | None) -> str:
    """'A-J' or 'A-Z,a-z' or a string of letters; default A-Z."""
    if text is None:
        text = "A-Z"
    out = ""
    for part in text.split(","):
        if len(part) == 3 and part[1] == "-":
            if part[0] > part[2]:
                raise UserError(f"--letters={text}: the range {part} is empty")
            out += "".join(chr(c) for c in range(ord(part[0]), ord(part[2]) + 1))
        else:
            out += part
    if len(out) < 2 or len(set(out)) < len(out) or any(not c.isprintable() or c.isspace() for c in out):
        raise UserError(f"--letters={text}: give at least two different characters, for example A-Z or A-J")
    return out


def font_family(family: str) -> str:
    """The family without words of weight and width: 'Lato Light' and 'Lato Black' are one design."""
    words = family.split()
    while len(words) > 1 and words[-1].lower().replace("-", "") in _STYLE_WORDS:
        words.pop()
    return " ".join(words)


def render_glyphs(font_path: str, letters: str, size: int) -> np.ndarray | None:
    """uint8 [len(letters), size, size], white on black, one scale and baseline per face, each letter centred.

    None when the face lacks ink for a letter, draws the same shape for two, or cannot be opened.
    """
    over = 4  # drawn larger and reduced by averaging: independent of hinting
    canvas = size * over
    try:
        probe = ImageFont.truetype(font_path, canvas)
        boxes = [probe.getbbox(c, anchor="ls") for c in letters]
        top, bottom = min(b[1] for b in boxes), max(b[3] for b in boxes)
        extent = max(max(b[2] - b[0] for b in boxes), bottom - top)
        if any(lacking(font_path, letters)) or extent <= 0 or any(b[2] <= b[0] or b[3] <= b[1] for b in boxes):
            return None
        scale = 0.84 * canvas / extent
        font = ImageFont.truetype(font_path, max(canvas * scale, 1))
        boxes = [font.getbbox(c, anchor="ls") for c in letters]
        top, bottom = min(b[1] for b in boxes), max(b[3] for b in boxes)
        out = np.empty([len(letters), size, size], np.uint8)
        for k, (c, b) in enumerate(zip(letters, boxes)):
            image = Image.new("L", (canvas, canvas), 0)
            at = ((canvas - b[0] - b[2]) / 2, (canvas - top - bottom) / 2)
            ImageDraw.Draw(image).text(at, c, 255, font, anchor="ls")
            out[k] = np.asarray(image.resize((size, size), Image.Resampling.BOX))
    except (OSError, ValueError, OverflowError, MemoryError):
        return None
    ink = out.reshape(len(letters), -1).mean(1) / 255
    distinct = len({g.tobytes() for g in out}) == len(out)
    return out if distinct and ink.min() > 0.01 and ink.max() < 0.8 else None


def open_source(path: str, options: SourceOptions) -> Source:
    folder = path.removeprefix("fonts:")
    own_labels(options, "a folder of fonts")
    if not os.path.isdir(folder):
        raise UserError(f"--source=fonts:{folder}: no such folder; give one with .ttf or .otf files, "
                        "for example fonts:/usr/share/fonts")
    letters = parse_letters(options.letters)
    width, height = options.size or (32, 32)
    if width != height:
        raise UserError(f"glyphs are square: give --resolution={width}x{width}")
    paths = sorted(str(p) for p in Path(folder).rglob("*") if p.suffix.lower() in (".ttf", ".otf") and p.is_file()
                   and (options.follow_links or confine.is_inside(str(p), folder)))
    if not paths:
        raise UserError(f"no .ttf or .otf files below {folder} (links out of it count with --follow-links)")

    faces, families, glyphs, unusable = [], [], [], 0
    for p in paths:
        rendered = render_glyphs(p, letters, width)
        if rendered is None:
            unusable += 1
            continue
        family, style = ImageFont.truetype(p, 16).getname()
        faces.append(f"{family} {style}")
        families.append(font_family(family or Path(p).stem))
        glyphs.append(rendered)
    foreign = _foreign(glyphs, families)
    kept: list[int] = []
    pixels = [g.astype(np.float32).ravel() / 255 for g in glyphs]
    for i in range(len(glyphs)):
        if not foreign[i] and all(np.sqrt(np.mean((pixels[i] - pixels[j]) ** 2)) > options.font_distance
                                     for j in kept):
            kept.append(i)
    options.report(f"{len(paths)} font files: {unusable} lack ink, a letter or distinct letters; {sum(foreign)} draw "
                   f"other signs in their place; {len(glyphs) - sum(foreign) - len(kept)} nearly repeat another face; "
                   f"{len(kept)} faces of {len({families[i] for i in kept})} families remain")
    held = held_out_families([families[i] for i in kept], options.seed)
    split = options.split or "all"
    if split != "all" and not held:
        raise UserError(f"--split={split} needs faces of at least two families below {folder}")
    kept = [i for i in kept if split == "all" or (families[i] in held) == (split == "reference")]
    if not kept:
        raise UserError(f"no usable face below {folder}")

    def items() -> Iterator[Item]:
        for i in kept:
            for k, c in enumerate(letters):
                yield Item(f"{c} of {faces[i]}", partial(Image.fromarray, glyphs[i][k]), k)

    return Source(f"fonts:{folder}", len(kept) * len(letters), items, tuple(letters), "letters")


def held_out_families(families: Sequence[str], seed: int, fraction: float = 0.25) -> set[str]:
    """Whole families, in an order shuffled by RandomState(seed), until they hold `fraction` of the faces.

    A family that would bring them above twice the fraction is passed over; if all would, the smallest one is taken.
    Empty for fewer than two families.
    """
    names = sorted(set(families))
    if len(names) < 2:
        return set()
    sizes = {f: sum(g == f for g in families) for f in names}
    held: set[str] = set()
    taken = 0
    for k in seeding.numpy_rng(seed).permutation(len(names)):
        if taken < fraction * len(families) and taken + sizes[names[k]] <= 2 * fraction * len(families):
            held.add(names[k])
            taken += sizes[names[k]]
    return held or {min(names, key=lambda f: (sizes[f], f))}


def _foreign(glyphs: Sequence[np.ndarray], families: Sequence[str]) -> list[bool]:
    """Faces whose letters mostly resemble other letters of all other families: symbol and non-Latin faces."""
    if len(set(families)) < 3:
        return [False] * len(glyphs)
    x = np.stack(glyphs).reshape(len(glyphs), len(glyphs[0]), -1).astype(np.float32) / 255
    flat = x.reshape(-1, x.shape[-1])
    square = (flat**2).sum(1)
    owner = np.repeat(np.asarray(families), x.shape[1])
    letter = np.tile(np.arange(x.shape[1]), len(glyphs))
    out = []
    for i, family in enumerate(families):
        distance = square[None] - 2 * x[i] @ flat.T
        distance[:, owner == family] = np.inf
        out.append(bool((letter[distance.argmin(1)] == np.arange(x.shape[1])).mean() < 0.5))
    return out
