# SPDX-License-Identifier: Apache-2.0
"""Words in pictures. A font that comes along draws Latin, Greek and Cyrillic; for every other script the first font of
this machine that has its signs does."""

from __future__ import annotations

import functools
import os
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from PIL import ImageDraw, ImageFont

from dnnlib.util import printable
from gantransfer.data.classes import note
from gantransfer.data.glyphs import lacking

FONT = str(Path(__file__).resolve().parents[1] / "assets" / "NotoSans.ttf")
FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts", "/System/Library/Fonts",
           "/Library/Fonts", "~/Library/Fonts")
# Faces for running text come first; the last two words are of fonts that draw a box for every sign.
UNLIKE = ("bold", "italic", "oblique", "light", "black", "thin", "condensed", "mono", "serif", "blank", "lastresort")


def line(size: int) -> int:
    """Pixels from one line to the next."""
    return round(1.36 * size)


def width(text: str, size: int) -> int:
    """Pixels of a line."""
    return round(sum(_face(path, size).getlength(part) for part, path in _runs(text)))


def draw(pen: ImageDraw.ImageDraw, x: float, y: float, text: str, size: int, right: bool = False,
         fill: str = "black") -> None:
    """A line with its upper left (`right`: upper right) corner at (x, y)."""
    x -= width(text, size) if right else 0
    base = y + 1.07 * size
    for part, path in _runs(text):
        face = _face(path, size)
        pen.text((x, base), part, fill=fill, font=face, anchor="ls")
        x += face.getlength(part)


def shorten(text: str, size: int, most: int) -> str:
    """The text, or where it is wider than `most` pixels, its beginning and its last eight characters."""
    if width(text, size) <= most:
        return text
    head, tail = text[:-8], text[-8:]
    while head and width(f"{head}…{tail}", size) > most:
        head = head[:-1]
    while not head and len(tail) > 1 and width(f"…{tail}", size) > most:
        tail = tail[1:]
    return f"{head}…{tail}"


def wrap(text: str, size: int, most: int) -> list[str]:
    """Lines of at most `most` pixels, broken at spaces; a longer word is shortened."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if width(longer, size) <= most:
            lines[-1] = longer
        else:
            lines += [shorten(word, size, most)]
    return [t for t in lines if t]


def check(texts: Iterable[str]) -> list[str]:
    """The texts as they are drawn (`printable`). A line says once in a process which cannot be."""
    texts = [printable(t) for t in texts]
    _resolve({c for t in texts for c in t})
    boxed = {t: s for t in texts if (s := {_script(c) for c in t if _font_of(c) is None})}
    new = set().union(*boxed.values()) - _said()
    if new:
        names = [t for t, s in boxed.items() if s & new]
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        package = "fonts-noto-cjk" if new & {"cjk", "hiragana", "katakana", "hangul"} else "fonts-noto-core"
        note(f"no font on this machine has the signs of {names[0]}{more} ({', '.join(sorted(new))}): pictures show "
             f"boxes in their place; install one, such as Debian's package {package}")
        _said().update(new)
    return texts


@functools.cache
def _said() -> set[str]:
    """Scripts that a line was about."""
    return set()


def _script(c: str) -> str:
    """The first word of a sign's name: LATIN, HANGUL, CJK."""
    return unicodedata.name(c, "unnamed").split()[0].lower()


@functools.lru_cache(4096)
def _runs(text: str) -> tuple[tuple[str, str], ...]:
    """The text in parts, each with the file of the font that draws it. Marks stay with what they follow, and spaces
    where another font follows with that one: behind words from right to left they would be drawn before them."""
    out: list[list[str]] = []
    for c in text:
        if out and (_blank(c) or unicodedata.category(c)[0] == "M" or out[-1][1] == _font_of(c)):
            out[-1][0] += c
            continue
        spaces = ""
        if out and (word := out[-1][0].rstrip()):
            out[-1][0], spaces = word, out[-1][0][len(word):]
        out.append([spaces + c, _font_of(c) or FONT])
    return tuple((part, path) for part, path in out)


def _blank(c: str) -> bool:
    return c.isspace() or unicodedata.category(c) == "Cf" or 0xFE00 <= ord(c) <= 0xFE0F


def _font_of(c: str) -> str | None:
    """The font that has a sign; None where there is none."""
    if c.isascii() or _blank(c):
        return FONT
    _resolve({c})
    return _table()[c]


@functools.cache
def _table() -> dict[str, str | None]:
    return {}


def _resolve(signs: set[str]) -> None:
    """Look all these signs up: each font is opened once."""
    table = _table()
    paths = _candidates()
    left = sorted(c for c in signs if c not in table and not c.isascii() and not _blank(c))
    while left and (path := next(paths, None)):
        try:
            lacks = lacking(path, left)
        except (OSError, ValueError):  # a damaged file, or one of pictures in fixed sizes
            continue
        table.update({c: path for c, no in zip(left, lacks) if not no})
        left = [c for c, no in zip(left, lacks) if no]
    table.update(dict.fromkeys(left))


def _candidates() -> Iterator[str]:
    yield FONT
    yield from _fonts()  # not looked for before a name needs them


@functools.cache
def _fonts() -> tuple[str, ...]:
    """The fonts of this machine, those for running text first."""
    found = [os.path.join(at, f) for top in FOLDERS for at, _, files in os.walk(os.path.expanduser(top)) for f in files
             if f.lower().endswith((".ttf", ".otf", ".ttc"))]
    return tuple(sorted(found, key=lambda p: (sum(w in os.path.basename(p).lower() for w in UNLIKE), p)))


@functools.lru_cache(64)
def _face(path: str, size: int) -> ImageFont.FreeTypeFont:
    # Alphabets need no shaping, and without it small letters stand at even distances.
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC if path == FONT else None)
