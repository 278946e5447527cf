# SPDX-License-Identifier: Apache-2.0
"""Small sets of pictures for the tests of data sets."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from gantransfer.data.container import Container


def picture(seed: int, h: int = 16, w: int = 16, c: int = 3) -> np.ndarray:
    small = np.random.RandomState(seed).randint(0, 256, (4, 4, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(small).resize((w, h), Image.Resampling.BICUBIC))
    return image if c == 3 else image[:, :, 0]


def save(path: Path, image: np.ndarray | Image.Image, **kw) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **kw)


def png(image: np.ndarray, **kw) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "png", **kw)
    return out.getvalue()


def class_folders(root: Path) -> dict[str, np.ndarray]:
    """Three classes with 3, 2, 1 images."""
    out = {}
    for i, (folder, n) in enumerate((("dog", 3), ("ape", 2), ("cat", 1))):
        for k in range(n):
            out[f"{folder}/{k}.png"] = picture(10 * i + k)
            save(root / f"{folder}/{k}.png", out[f"{folder}/{k}.png"])
    return out


def read_set(path) -> tuple[dict, dict[str, np.ndarray]]:
    files = Container(path)
    images = {n: np.asarray(Image.open(io.BytesIO(files.read(n)))) for n in files.image_names}
    return files.read_json("dataset.json"), images
