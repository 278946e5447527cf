# SPDX-License-Identifier: Apache-2.0
"""What a study knows of an arm and a seed: one JSON file each, with all that its numbers depend on, and a picture.

A study looks here before it trains. Files that another machine has made count as its own: put its `results` folder, its
judges (`judge0.pt`, `judge0.detector.json`, ...) and, where the study held out images by itself, `train.zip` and
`train-heldout.zip` into the study's folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dnnlib import json_file
from dnnlib.util import UserError, atomic_path, atomic_write

COLUMNS = 8  # images of a class in a picture


@dataclass
class Results:
    """The files of one study. `settings` are what the numbers of all its arms depend on, as JSON has them."""

    folder: Path
    settings: dict[str, Any]
    unit: str = "seed"  # what the files are numbered by

    def path(self, arm: str, seed: int) -> Path:
        return self.folder / f"{arm}-{self.unit}{seed}.json"

    def read(self, arm: str, seed: int, flags: Sequence[str], **more: Any) -> dict[str, Any] | None:
        """What was measured, or None; UserError where the file is of other settings. `more` are of this seed."""
        path = self.path(arm, seed)
        if not path.exists():
            return None
        found, wanted = json_file.read(path), self._key(arm, seed, flags, more)
        for key, value in wanted.items():
            if found.get(key) != value:
                remedy = "copy the judges of its machine, too" if key == "judges" else "give another --dir"
                raise UserError(f"{path} has another {key} ({_short(found.get(key))}) than this study "
                                f"({_short(value)}); {remedy}, or remove it")
        return found

    def write(self, arm: str, seed: int, flags: Sequence[str], values: dict[str, Any], **more: Any) -> dict[str, Any]:
        key = self._key(arm, seed, flags, more)
        assert not key.keys() & values.keys()
        content = {**key, **values}
        self.folder.mkdir(exist_ok=True)
        self.path(arm, seed).with_suffix(".png").unlink(missing_ok=True)  # of what was measured before
        with atomic_write(self.path(arm, seed)) as f:
            f.write(json.dumps(content, indent=1) + "\n")
        return content

    def _key(self, arm: str, seed: int, flags: Sequence[str], more: dict[str, Any]) -> dict[str, Any]:
        return json.loads(json.dumps({"arm": arm, self.unit: seed, "flags": list(flags), **self.settings, **more}))

    def save_images(self, arm: str, seed: int, rows: Sequence[np.ndarray]) -> None:
        """uint8 [COLUMNS, C, R, R] per class: a PNG beside the numbers, without titles."""
        from PIL import Image

        sheet = np.concatenate([np.concatenate(list(row), axis=2) for row in rows], axis=1)
        image = Image.fromarray(sheet[0] if len(sheet) == 1 else sheet.transpose(1, 2, 0))
        with atomic_path(self.path(arm, seed).with_suffix(".png")) as tmp:
            image.save(tmp, format="PNG")

    def shown(self, arm: str, seed: int, title: str, classes: int,
              make: Callable[[], Sequence[np.ndarray] | None]) -> Sequence[np.ndarray] | None:
        """The rows of an arm's picture, kept or, where they can be, made and kept; else None, and a line says so."""
        images = self.images(arm, seed, classes)
        if images is None and (images := make()) is not None:
            self.save_images(arm, seed, images)
        if images is None:
            print(f"no images of {title}: its run is on another machine, and "
                  f"results/{self.path(arm, seed).with_suffix('.png').name} is not here")
        return images

    def images(self, arm: str, seed: int, classes: int) -> list[np.ndarray] | None:
        """The rows that `save_images` wrote; None where there are none, or of another number of classes."""
        from PIL import Image

        path = self.path(arm, seed).with_suffix(".png")
        if not path.exists():
            return None
        with Image.open(path) as image:
            sheet = np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)
        size = sheet.shape[2] // COLUMNS
        if sheet.shape[1:] != (size * classes, size * COLUMNS):
            return None
        return [np.stack(np.split(row, COLUMNS, axis=2)) for row in np.split(sheet, classes, axis=1)]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 70 else f"{text[:67]}..."
