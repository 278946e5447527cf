# SPDX-License-Identifier: Apache-2.0
"""Generated images as files: PNGs in a folder, or a data set with labels."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dnnlib.util import atomic_path
from gantransfer.data.labels import LabelSpec
from gantransfer.data.transforms import png


def pngs(views: dict[str, np.ndarray]) -> dict[str, bytes]:
    """uint8 [C, H, W] by view -> what the writers here take."""
    return {view: png(image) for view, image in views.items()}


def write_folder(folder: Path, names: Sequence[str]) -> Callable[[int, dict[str, bytes]], None]:
    """Writer of `<name>.png`, and `<name>_<view>.png` for views other than 'image', each file atomically."""
    def write(index: int, views: dict[str, bytes]) -> None:
        for view, data in views.items():
            suffix = "" if view == "image" else f"_{view}"
            with atomic_path(folder / f"{names[index]}{suffix}.png") as tmp:
                tmp.write_bytes(data)
    return write


@dataclass
class ZipWriter:
    """A data set: PNGs and dataset.json, complete or absent. A context manager; call it for each image in order."""

    path: Path
    names: Sequence[str]
    label: LabelSpec
    labels: Sequence[Any]  # class id or vector of each image
    meta: dict[str, Any]
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> ZipWriter:
        with ExitStack() as stack:
            tmp = stack.enter_context(atomic_path(self.path))
            self._zip = stack.enter_context(zipfile.ZipFile(tmp, "w", zipfile.ZIP_STORED))
            self._stack = stack.pop_all()
        return self

    def __call__(self, index: int, views: dict[str, bytes]) -> None:
        self._add(f"{self.names[index]}.png", views["image"])

    def _add(self, name: str, data: bytes) -> None:
        # A fixed date: the same command writes the same bytes.
        self._zip.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)

    def __exit__(self, *exc: Any) -> None:
        if exc[0] is None:
            rows = None if self.label.kind == "none" else [
                [f"{n}.png", label] for n, label in zip(self.names, self.labels)]
            content: dict[str, Any] = dict(labels=rows, meta=self.meta)
            if self.label.names:
                content["class_names"] = list(self.label.names)
            if self.label.meta:
                content["label_meta"] = dict(self.label.meta)
            self._add("dataset.json", json.dumps(content).encode())
        self._stack.__exit__(*exc)
