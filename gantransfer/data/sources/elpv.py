# SPDX-License-Identifier: Apache-2.0
"""`--source=elpv`: photographs of solar cells by electroluminescence, from the installed package `elpv-dataset`.

2,624 greyscale images of 300x300 pixels, each of one monocrystalline or polycrystalline cell, with the probability of a
defect in four degrees (Buerhop-Lutz et al., "A Benchmark for Visual Identification of Defective Solar Cells in
Electroluminescence Imagery", EU PVSEC 2018). The photographs are licensed CC BY-NC-SA 4.0 and are not part of this
project: whoever wants them installs the package. It is found, never imported: nothing of it runs.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from dnnlib.util import UserError, open_regular, printable
from gantransfer.data.decode import Picture, read_picture
from gantransfer.data.sources.base import Item, Source, SourceOptions, no_options, with_range

__all__ = ["DEGREES", "LABELS", "TYPES", "VALUE", "class_names", "files", "load", "open_source", "takes"]

PACKAGE = "elpv-dataset"
LICENCE = "the photographs are licensed CC BY-NC-SA 4.0 (not for commercial use)"
LABELS = ("class", "defect", "value")
TYPES = ("mono", "poly")
DEGREES = (0.0, 1 / 3, 2 / 3, 1.0)  # probability of a defect, as the file has them
VALUE = dict(kind="regression", unit="defect probability", offset=0.0, scale=1.0, min=0.0, max=1.0)


def class_names(labels: str) -> tuple[str, ...]:
    """Of the eight classes of 'class', type by type from sound to defective, or of the four of 'defect'."""
    percent = [f"{round(100 * p)}" for p in DEGREES]
    return tuple(f"{t}_{p}" for t in TYPES for p in percent) if labels == "class" else tuple(
        f"defect_{p}" for p in percent) if labels == "defect" else ()


def files(labels: str) -> Iterator[tuple[str, str, int | list[float]]]:
    """(name, path, label) of every photograph, in the order of the package's labels.csv.

    The label is a class id ('class', 'defect'; see `class_names`) or [probability] ('value'). Raises UserError where
    the package is missing or damaged.
    """
    root = _folder()
    with open_regular(str(root / "labels.csv")) as f:
        lines = f.read().decode("utf-8", "replace").splitlines()
    if not lines:
        raise _damaged("labels.csv is empty")
    for line in lines:
        words = line.split()
        degree = _degree(words[1]) if len(words) == 3 else None
        if degree is None or words[2] not in TYPES or not words[0].startswith("images/") or ".." in words[0]:
            raise _damaged(f"labels.csv has the line '{printable(line[:60])}'")
        label = [DEGREES[degree]] if labels == "value" else degree + len(DEGREES) * (
            TYPES.index(words[2]) if labels == "class" else 0)
        yield words[0], str(root / words[0]), label


def load(name: str, path: str, max_pixels: int | None = None) -> Picture:
    """The pixels of one photograph."""
    if not os.path.isfile(path):
        raise _damaged(f"{name} is missing")
    with open_regular(path) as f:
        return read_picture(f.read(), f"{name} of {PACKAGE}", max_pixels)


def _degree(text: str) -> int | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return next((i for i, d in enumerate(DEGREES) if abs(d - value) < 1e-6), None)


def _folder() -> Path:
    try:
        spec = importlib.util.find_spec("elpv_dataset")
    except (ImportError, ValueError):
        spec = None
    for place in (spec.submodule_search_locations or () if spec else ()):
        folder = Path(place) / "data"
        if os.path.isfile(folder / "labels.csv"):
            return folder
    raise UserError(f"--source=elpv needs the package {PACKAGE}, 87 MB: pip install {PACKAGE}; {LICENCE}")


def _damaged(why: str) -> UserError:
    return UserError(f"the installed package {PACKAGE} is damaged: {why}; "
                     f"pip install --force-reinstall {PACKAGE}")


def takes(path: str, name: str) -> bool:
    return path == "elpv"


def open_source(path: str, options: SourceOptions) -> Source:
    if os.path.exists("elpv"):
        raise UserError("--source=elpv means the photographs of the package elpv-dataset, and there is an elpv in this "
                        "folder: write ./elpv for that, or start from another folder for the package")
    no_options("elpv", options, (*LABELS, "none"))
    labels = "class" if options.labels == "auto" else options.labels
    if labels != "value" and (options.label_range or options.label_unit):
        raise UserError("--label-range and --label-unit are for continuous labels; add --labels=value")
    found = list(files(labels))
    meta = None
    if labels == "value":
        meta = with_range({name: label for name, _, label in found}, VALUE, options, "elpv")
    options.report(f"elpv-dataset: {LICENCE}")

    def items() -> Iterator[Item]:
        for name, path, label in found:
            yield Item(f"{name} of elpv", partial(load, name, path, options.max_pixels), label)

    return Source("elpv", len(found), items, class_names(labels), "labels.csv", label_meta=meta)
