# SPDX-License-Identifier: Apache-2.0
"""The sheets of a run's folder as pictures of the page, small enough to send."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dnnlib.util import three
from gantransfer.report import markup
from gantransfer.report.read import Run
from gantransfer.snapshot import numbered

if TYPE_CHECKING:
    from PIL import Image

SHEETS = 48  # in a page, shared by its runs
WIDTH, HEIGHT = 1400, 3000  # larger sheets are reduced
KEEP_PNG = 60_000  # bytes up to which a sheet stays as it is
QUALITY = 82  # of the WebP of the others


@dataclass
class Strip:
    """Sheets of one kind of picture of one run, by rising number of images."""

    run: int
    view: str  # '' for the images themselves, 'uc' for UTLO's small ones
    kimg: list[float] = field(default_factory=list)
    pictures: list[tuple[bytes, str]] = field(default_factory=list)  # file, 'png' or 'webp'


def strips(run: Run, index: int, runs: int) -> tuple[list[Strip], tuple[bytes, str] | None, list[str]]:
    """(sheets per kind of picture, the sheet of real images, notes)."""
    notes, out = [], []
    names = [p.name for p in run.folder.glob("fakes*.png")]
    form = r"fakes(?:_([a-z]\w*?))?(?:\d{6,}(?:_\d{3})?|_init)\.png"
    views = sorted({m[1] or "" for n in names if (m := re.fullmatch(form, n))})
    for view in views:
        stem = f"fakes_{view}" if view else "fakes"
        found = [(_kimg(p), p) for p in numbered(run.folder, f"{stem}*.png")]
        first = run.folder / f"{stem}_init.png"
        found = [(-1.0, first)] * first.is_file() + found
        most = max(SHEETS // runs // len(views), 2)
        chosen = _spread(found, most)
        if len(chosen) < len(found):
            notes.append(f"{len(chosen)} of {len(found)} sheets are shown")
        strip = Strip(index, view)
        for kimg, path in chosen:
            picture = encoded(path, notes)
            if picture:
                strip.kimg.append(kimg)
                strip.pictures.append(picture)
        out += [strip] if strip.pictures else []
    reals = run.folder / "reals.png"
    return out, encoded(reals, notes) if reals.is_file() else None, list(dict.fromkeys(notes))


def encoded(path: Path, notes: list[str], width: int = WIDTH) -> tuple[bytes, str] | None:
    """(file, kind) of a picture; as it is where it is small, else as WebP of at most `width` x HEIGHT pixels."""
    from PIL import Image

    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            if len(data) <= KEEP_PNG and picture.format == "PNG" and picture.width <= width:
                return data, "png"
            if picture.width > width or picture.height > HEIGHT:
                notes.append(f"pictures larger than {width} x {HEIGHT} pixels are reduced")
            return webp(picture, width), "webp"
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as e:
        notes.append(f"{path.name} cannot be read ({e})")
        return None


def webp(picture: Image.Image, width: int = WIDTH) -> bytes:
    picture = picture.convert("RGB")
    picture.thumbnail((width, HEIGHT))
    out = io.BytesIO()
    picture.save(out, format="WEBP", quality=QUALITY, method=4)
    return out.getvalue()


def viewer(runs: list[Run], names: list[str], parts: list[tuple[list[Strip], tuple[bytes, str] | None]]) -> str:
    """One slider over the sheets of all runs: each shows its newest one up to there. Without script, the last one."""
    marks = sorted({k for strips, _ in parts for s in strips for k in s.kimg})
    if not marks:
        return ""
    figures, real = [], []
    for (strips_, reals), name in zip(parts, names):
        title = f"<h3>{markup.text(name)}</h3>" if len(runs) > 1 else ""
        for s in strips_:
            about = "generated images" if not s.view else f"generated images, {s.view}"
            images = "".join(markup.image(*picture, f"{about} at {_said(k)}", f'data-at="{marks.index(k)}"' +
                                          (" hidden" if k != s.kimg[-1] else ""))
                             for k, picture in zip(s.kimg, s.pictures))
            figures.append(f'<figure class="sheet">{title}<figcaption>{markup.text(about)}: <span>{_said(s.kimg[-1])}'
                           f"</span></figcaption>{images}</figure>")
        if reals:
            whose = f" ({name})" if len(runs) > 1 else ""
            real.append(markup.folded(f"training images in the same places{whose}",
                                      f"<figure>{markup.image(*reals, 'training images')}</figure>"))
    said = "|".join(_said(k) for k in marks)
    slider = (f'<p class="slider"><button type="button" id="play" aria-label="play">&#9654;</button>'
              f'<input type="range" id="time" min="0" max="{len(marks) - 1}" value="{len(marks) - 1}" step="1" '
              f'aria-label="thousands of images" data-said="{said}"><output id="at">{_said(marks[-1])}</output></p>')
    return slider + f'<div class="side">{"".join(figures)}</div>' + "".join(real)


def _said(kimg: float) -> str:
    return "before training" if kimg < 0 else three(kimg, "kimg")


def _kimg(path: Path) -> float:
    whole, rest = re.search(r"(\d{6,})(?:_(\d{3}))?\.png$", path.name).groups()
    return int(whole) + int(rest or 0) / 1000


def _spread(items: list, most: int) -> list:
    """At most `most` of them at even distances, the first and the last among them."""
    if len(items) <= most:
        return items
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]
