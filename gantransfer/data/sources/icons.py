# SPDX-License-Identifier: Apache-2.0
"""`--source=icons:DIR`: the PNG icons of a freedesktop icon theme, one size, a class per category folder.

Themes keep each size in folders of its own, `32x32/apps/name.png` or `apps/32/name.png` (Icon Theme Specification);
other names of an icon are links to it. Taken is every picture of the size once: links and equal pictures are left out,
as are folders for enlarged screens (`32x32@2`) and the category `animations`, whose files are strips of frames.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

from dnnlib.util import UserError, open_regular
from gantransfer.data.decode import Picture, read_picture, to_uint8
from gantransfer.data.labels import some
from gantransfer.data.sources.base import Item, Source, SourceOptions, no_options

__all__ = ["find", "open_source", "takes"]

_SIZE = re.compile(r"(\d+)(?:x\1)?(@\d+x?)?")
_NO_CATEGORY = ("animations", "base")


def find(folder: str, size: int, report: Callable[[str], None] = print) -> list[tuple[str, str]]:
    """(category, path) of the icons of `size` x `size` pixels below `folder`, by category, then name.

    Raises UserError where there are none, naming the sizes that there are, and where all are of one category.
    """
    if not os.path.isdir(folder):
        raise UserError(f"--source=icons:{folder}: no such folder; give the folder of an icon theme, for example "
                        "icons:/usr/share/icons/oxygen")
    found: list[tuple[str, str]] = []
    sizes: Counter = Counter()
    left: Counter = Counter()
    content: set[bytes] = set()
    for root, folders, names in os.walk(folder):
        folders.sort()
        parts = [] if (below := os.path.relpath(root, folder)) == "." else below.split(os.sep)
        marks = [m for m in map(_SIZE.fullmatch, parts) if m]
        words = [p for p in parts if not _SIZE.fullmatch(p)]
        category = words[-1] if words else ""
        for name in sorted(names):
            path = os.path.join(root, name)
            if os.path.splitext(name)[1].lower() in (".svg", ".svgz", ".xpm"):
                left["drawings (.svg, .xpm)"] += 1
            if not name.lower().endswith(".png"):
                continue
            if os.path.islink(path):
                left["links to others"] += 1
                continue
            with open_regular(path) as f:
                head = f.read(24)
                shape = struct.unpack(">II", head[16:]) if head[:4] == b"\x89PNG" and len(head) == 24 else None
                if shape is None:
                    left["no PNG inside"] += 1
                    continue
                named = int(marks[-1][1]) if marks else shape[0]
                if shape[0] != shape[1] or shape[0] != named or any(m[2] for m in marks) or not category or (
                        category in _NO_CATEGORY):
                    left["of another shape than their folder says, or of no category"] += 1
                    continue
                sizes[named] += 1
                if named != size:
                    continue
                digest = _digest(head + f.read(), path)
            if digest in content:
                left["equal to others"] += 1
                continue
            content.add(digest)
            found.append((category, path))
    if not found and sizes:
        raise UserError(f"--source=icons:{folder} has no icons of {size}x{size}; it has "
                        f"{', '.join(str(s) for s in sorted(sizes))}: give --resolution=WxH")
    if not found:
        raise UserError(f"no .png icons in category folders below {folder}"
                        + (f" ({', '.join(f'{n} {what}' for what, n in left.items())})" if left else "")
                        + "; give the folder of an icon theme, for example icons:/usr/share/icons/oxygen")
    categories = {c for c, _ in found}
    if len(categories) < 2:
        raise UserError(f"the icons of {size}x{size} below {folder} are all of one category, {some(categories)}: give "
                        "the theme's folder, or --source=FOLDER for a folder of images")
    report(f"{len(found)} icons of {size}x{size} in {len(categories)} categories"
           + (f"; left out, all sizes: {', '.join(f'{n} {what}' for what, n in left.items())}" if left else ""))
    return sorted(found)


def _digest(data: bytes, path: str) -> bytes:
    """Of what is seen: the pixels on white and on black, whatever kind of file they are from."""
    picture = read_picture(data, path)
    return hashlib.sha256(b"".join(to_uint8(picture, path, "3", ground).tobytes() for ground in (
        "white", "black"))).digest()


def takes(path: str, name: str) -> bool:
    return path.startswith("icons:")


def open_source(path: str, options: SourceOptions) -> Source:
    """The icons of one size, on white."""
    folder = path.removeprefix("icons:")
    no_options("icons:DIR", options, ("none",))
    if options.label_range or options.label_unit:
        raise UserError("--label-range and --label-unit are for continuous labels, and icons have categories")
    if options.follow_links:
        raise UserError("--follow-links does not apply to icons:DIR: links there are other names of an icon")
    width, height = options.size or (32, 32)
    if width != height:
        raise UserError(f"icons are square: give --resolution={width}x{width}")
    found = find(folder, width, options.report)
    names = tuple(sorted({category for category, _ in found}))

    def load(path: str) -> Picture:
        with open_regular(path) as f:
            return read_picture(f.read(), path, options.max_pixels)

    def items() -> Iterator[Item]:
        for category, path in found:
            yield Item(path, partial(load, path), names.index(category))

    return Source(f"icons:{folder}", len(found), items, names, "the folders",
                  defaults=dict(channels="3", alpha="white"))
