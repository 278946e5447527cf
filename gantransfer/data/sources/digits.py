# SPDX-License-Identifier: Apache-2.0
"""`--source=sklearn:digits` and `sklearn:rotated-digits`: real handwritten digits that come with scikit-learn."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from dnnlib import seeding
from dnnlib.util import UserError
from gantransfer.data.sources.base import Item, Source, SourceOptions, own_labels

SPLITS = ("train", "reference", "all")


def takes(path: str, name: str) -> bool:
    return path.startswith("sklearn:")


def digits_split(target: np.ndarray, split: str, seed: int = 0, held_out: int = 60) -> np.ndarray:
    """Sorted indices of a split: 'reference' is `held_out` per class by RandomState(seed), 'train' the others."""
    rng = seeding.numpy_rng(seed)
    held = np.concatenate([rng.permutation(np.flatnonzero(target == k))[:held_out] for k in np.unique(target)])
    everything = np.arange(len(target))
    return {"all": everything, "reference": np.sort(held), "train": np.setdiff1d(everything, held)}[split]


ROTATION = dict(kind="regression", unit="degree", offset=0.0, scale=90.0, min=0.0, max=90.0)
ROTATED = (3, 4, 5, 7)  # digits that a turn of up to 90 degrees makes into no other


def rotated_digit(image: np.ndarray, angle: float, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W] of a digit (floats 0..16) turned counter-clockwise by `angle` degrees; enlarged before."""
    large = Image.fromarray((image * (255 / 16)).astype(np.float32)).resize((64, 64), Image.BICUBIC)
    small = large.rotate(angle, Image.BICUBIC).resize(size, Image.BOX)
    return np.clip(np.rint(np.asarray(small)), 0, 255).astype(np.uint8)


def open_source(path: str, options: SourceOptions) -> Source:
    if path not in ("sklearn:digits", "sklearn:rotated-digits"):
        raise UserError(f"--source={path}: the sets of images inside scikit-learn are sklearn:digits and "
                        "sklearn:rotated-digits")
    own_labels(options, "sklearn:digits")
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError("sklearn:digits needs the package scikit-learn: pip install scikit-learn") from None
    data = load_digits()
    chosen = digits_split(data.target, options.split or "all", options.seed)
    size = options.size or (16, 16)
    if path == "sklearn:rotated-digits":
        return _rotated(path, data, chosen, size, options.seed)

    def load(i: int) -> Image.Image:
        image = Image.fromarray((data.images[i] * (255 / 16)).astype(np.float32))
        enlarged = np.asarray(image.resize(size, Image.Resampling.BICUBIC))
        return Image.fromarray(np.clip(np.rint(enlarged), 0, 255).astype(np.uint8))

    def items() -> Iterator[Item]:
        for i in chosen:
            yield Item(f"digit {i}", partial(load, i), int(data.target[i]))

    return Source(path, len(chosen), items, tuple(str(k) for k in range(10)), "scikit-learn")


def _rotated(path: str, data: Any, chosen: np.ndarray, size: tuple[int, int], seed: int) -> Source:
    """The digits of ROTATED, each turned by whole degrees drawn evenly from 0 to 90, which is its label."""
    angles = seeding.numpy_rng(seed + 1).randint(0, 91, len(data.target))
    chosen = chosen[np.isin(data.target[chosen], ROTATED)]

    def items() -> Iterator[Item]:
        for i in chosen:
            yield Item(f"digit {i} turned by {angles[i]}", lambda i=i: Image.fromarray(
                rotated_digit(data.images[i], float(angles[i]), size)), [float(angles[i])])

    return Source(path, len(chosen), items, labelled="the angle", label_meta=ROTATION)
