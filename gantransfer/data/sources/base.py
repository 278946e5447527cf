# SPDX-License-Identifier: Apache-2.0
"""What every source gives: images with labels, one at a time; and what the caller may choose about it.

Nothing here executes what it reads.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dnnlib.util import UserError
from gantransfer.data import h5
from gantransfer.data.decode import Picture
from gantransfer.data.labels import some, value_meta

if TYPE_CHECKING:
    from PIL import Image

SPLITS = ("train", "val", "reference", "all")


@dataclass
class Item:
    """One image of a source. `load` may run in another thread."""

    name: str  # for messages
    load: Callable[[], Image.Image | Picture]  # raises UserError naming the image
    label: Any = None  # int, list of numbers, or None
    original: str = ""  # what the source calls it, where that is a name
    enlarged: bool = False  # noted by the conversion


@dataclass
class Source:
    """Images to convert: `items()` goes through them in order; `count` is their number."""

    name: str
    count: int
    items: Callable[[], Iterator[Item]]
    class_names: tuple[str, ...] = ()
    labelled: str = "none"  # where labels come from, for the report
    tolerant: bool = False  # an undecodable image is skipped with a message instead of ending the conversion
    label_meta: dict | None = None  # unit and range of a continuous label, for dataset.json
    splits: dict[str, Sequence[int]] = field(default_factory=dict)  # parts, as positions in the order of items
    attributes: dict[str, Sequence[int]] = field(default_factory=dict)  # further columns, one entry per item
    generated: bool = False  # made by a generator
    num_classes: int = 0  # classes that the labels tell of, also without an image of the last ones
    defaults: dict[str, str] = field(default_factory=dict)  # --channels and --alpha where the user gives none


@dataclass(frozen=True)
class SourceOptions:
    """What the caller may choose about a source; sources refuse what they do not understand."""

    labels: str = "auto"  # auto | folders | json | none | utkface | steering | class | defect | value | list
    label_list: tuple[str, str] | None = None  # file and column of labels 'list'
    label_column: str | None = None  # where records have several columns
    image_column: str | None = None
    shards: tuple[str, ...] = ()  # further files of the same set, after the path
    split: str | None = None  # None: the source's default
    seed: int = 0
    size: tuple[int, int] | None = None  # (width, height) for sources that render or choose by it
    letters: str | None = None
    font_distance: float = 0.12
    drop_unlabelled: bool = False
    label_kind: str = "auto"  # auto | class | value
    label_range: tuple[float, float] | None = None  # raw labels that become 0 and 1
    label_unit: str | None = None
    max_pixels: int | None = None
    follow_links: bool = False
    report: Callable[[str], None] = print


def own_labels(options: SourceOptions, what: str) -> None:
    """UserError for a choice of --labels where `what` brings its own, which none omits."""
    if options.labels not in ("auto", "none"):
        raise UserError(f"--labels={options.labels}: {what} brings its own labels; use auto or none")


def no_options(what: str, options: SourceOptions, labels: tuple[str, ...]) -> None:
    """UserError for a choice about labels or parts that this source does not have."""
    if options.labels not in ("auto", *labels):
        raise UserError(f"--labels={options.labels} does not apply to --source={what}; it knows "
                        f"{', '.join(('auto', *labels))}")
    if options.split is not None:
        raise UserError(f"--source={what} has no splits; --holdout=0.25 makes a second set of a quarter of each class")
    if options.label_kind != "auto":
        raise UserError(f"--label-kind does not apply to --source={what}")


def choose_split(splits: dict[str, list[int]], options: SourceOptions, where: str) -> list[int] | None:
    """Positions of the part that --split asks for; None for all, which a line says where there are parts."""
    if options.split is None and splits:
        options.report("splits: " + ", ".join(f"{s} {len(v)}" for s, v in splits.items())
                       + "; all are taken, --split chooses one")
    if options.split in (None, "all"):
        return None
    wanted = "test" if options.split == "reference" else options.split
    if wanted not in splits:
        raise UserError(f"--split={wanted}: {where} has " + (some(splits) if splits else "no splits"))
    return splits[wanted]


def check_labelled(names: Sequence[str], labels: dict[str, Any], how: str, options: SourceOptions, where: str) -> None:
    """UserError where some images have a label and others have none."""
    missing = [n for n in names if n not in labels] if labels else []
    if missing and not options.drop_unlabelled:
        raise UserError(f"{len(missing)} of {len(names)} images of {where} have no label ({how}): {some(missing)}"
                        "; add --drop-unlabelled to leave them out, or --labels=none")


def expanded(path: str) -> list[str]:
    """'a-{000..002}.tar' -> a-000.tar, a-001.tar, a-002.tar: ranges of whole numbers, as shells write them; a file that
    is called so comes first."""
    match = None if os.path.lexists(path) else re.search(r"\{(\d{1,9})\.\.(\d{1,9})\}", path)
    if match is None:
        return [path]
    first, last = int(match[1]), int(match[2])
    if not 0 <= last - first < 10**5:
        raise UserError(f"--source={path}: the range {match[0]} is empty, or of more than 100,000 files")
    width = len(match[1]) if match[1].startswith("0") else 0
    return [p for k in range(first, last + 1)
            for p in expanded(f"{path[:match.start()]}{k:0{width}d}{path[match.end():]}")]


def with_range(labels: dict[str, Any], known: dict | None, options: SourceOptions, where: str) -> dict | None:
    if not labels:
        return None
    raw = np.asarray([v[0] for v in labels.values()], np.float64)
    meta = value_meta(raw, known or {}, where) if known or options.label_range is None else None
    return value_meta(raw, h5.label_meta(raw, meta, options.label_range, options.label_unit, where), where)


def limited(stream: Any, where: str, most: int = 2**28) -> bytes:
    """All bytes of a stream that unpacks as it is read. UserError for more than the published sets have."""
    data = stream.read(most + 1)
    if len(data) > most:
        raise UserError(f"{where} unpacks to more than {most:,} bytes, which no published set does; download it again")
    return data
