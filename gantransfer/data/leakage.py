# SPDX-License-Identifier: Apache-2.0
"""Images of one set that another has too, exactly or nearly: what a network has seen is no test of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

SIDE = 16  # of the thumbnails that are compared
ALIKE = 0.998  # correlation of two thumbnails: survives resizing and compression, hardly another picture
FLAT = 2.0  # thumbnails with a smaller standard deviation, of 0..255, have no content to compare


class Prints:
    """What is kept of the images of a set: names by exact content, and a thumbnail of each distinct one."""

    def __init__(self) -> None:
        self.by_content: dict[bytes, list[str]] = {}
        self.names: list[str] = []
        self.thumbs: list[np.ndarray] = []

    def add(self, name: str, image: np.ndarray) -> None:
        """`image`: uint8 [H, W, C] as training sees it."""
        from PIL import Image

        content = hashlib.sha256(str(image.shape).encode() + image.tobytes()).digest()
        others = self.by_content.setdefault(content, [])
        others.append(name)
        if len(others) > 1:
            return
        grey = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).convert("L")
        small = np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BOX), np.float32).ravel()
        if small.std() >= FLAT:
            small = small - small.mean()
            self.names.append(name)
            self.thumbs.append((small / np.linalg.norm(small)).astype(np.float32))


def equal(a: Prints, b: Prints) -> list[tuple[str, str]]:
    """(image of a, image of b) for every image of `b` whose pixels an image of `a` has."""
    return [(a.by_content[k][0], n) for k, names in b.by_content.items() if k in a.by_content for n in names]


def alike(a: Prints, b: Prints) -> Iterator[tuple[str, str]]:
    """(image of a, image of b) for every distinct image of `b` whose thumbnail nearly is one of `a`, equal ones
    omitted."""
    if not a.thumbs or not b.thumbs:
        return
    known = {n for _, n in equal(a, b)}
    first, second = np.stack(a.thumbs), np.stack(b.thumbs)
    for start in range(0, len(second), 256):
        likeness = second[start: start + 256] @ first.T
        for i, (k, value) in enumerate(zip(likeness.argmax(1), likeness.max(1)), start):
            if value > ALIKE and b.names[i] not in known:
                yield a.names[k], b.names[i]
