# SPDX-License-Identifier: Apache-2.0
"""What every source gives: images with labels, one at a time; and what the caller may choose about it.

Nothing here executes what it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dnnlib.util import UserError
from gantransfer.data import h5
from gantransfer.data.decode import Picture
from gantransfer.data.labels import value_meta

if TYPE_CHECKING:
    from PIL import Image

SPLITS = ("train", "val", "reference", "all")


@dataclass
class Item:
    """One image of a source. `load` may run in another thread."""

    name: str  # for messages
    load: Callable[[], Image.Image | Picture]  # raises UserError naming the image
    label: Any = None  # int, list of numbers, or None
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

    labels: str = "auto"  # auto | folders | json | none | utkface | steering | class | defect | value
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
