# SPDX-License-Identifier: Apache-2.0
"""Which image sizes there are networks for, and what their levels are called.

An image of H x W pixels has H = a 2^n and W = b 2^n with one n for both and a, b from 3 to 7: networks begin with a map
of a x b and double it n times. n is the smallest for which neither a nor b exceeds 7, so that there is only one: 96x96
begins with 6x6, and every square power of two with the published 4x4. A side is therefore at most 7/3 of the other
(64x32 is no such size, 56x32 and 96x48 are), and an odd factor is at most 7 (200 = 25 * 8 is none).

A level is named by its longer side: 28x28 has 7, 14 and 28; 48x32 (6x4 at first) has 6, 12, 24 and 48.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

SMALLEST, LARGEST = 3, 7  # of a and b
RULE = "width and height must be 3 to 7 times the same power of two"


class ImageSize(NamedTuple):
    """Pixels of an image. It prints as `dataset_tool.py --resolution=` takes it: width first."""

    height: int
    width: int

    @classmethod
    def of(cls, value: int | Sequence[int]) -> ImageSize:
        """From `plain`: R, or (H, W)."""
        return cls(*value) if isinstance(value, (list, tuple)) else cls(value, value)

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"

    @property
    def plain(self) -> int | tuple[int, int]:
        """As arguments of networks and records hold it: R for R x R, as ever, and (H, W) for all others."""
        return self.height if self.height == self.width else (self.height, self.width)

    @property
    def longer(self) -> int:
        return max(self)

    @property
    def pixels(self) -> int:
        return self.height * self.width

    @property
    def doublings(self) -> int | None:
        """n; None for a size that there are no networks for."""
        n = self.longer.bit_length() - LARGEST.bit_length()
        fits = n >= 0 and all(x % (1 << n) == 0 and x >> n >= SMALLEST for x in self)
        return n if fits else None

    @property
    def levels(self) -> list[int]:
        """[longer side of the first map, twice that, ..., longer side of the image]. ValueError for other sizes."""
        if self.doublings is None:
            raise ValueError(f"no networks for images of {self} pixels: {RULE}")
        return [self.longer >> k for k in range(self.doublings, -1, -1)]

    def at(self, level: int) -> ImageSize:
        """The map at a level."""
        return ImageSize(self.height * level // self.longer, self.width * level // self.longer)

    def nearest(self, smallest: int = 4) -> list[ImageSize]:
        """The two nearest sizes that there are networks for, of at least `smallest` pixels at the longer side; for a
        square two squares."""
        top = max(self.longer.bit_length(), 3)
        sides = [a << n for n in range(top) for a in range(SMALLEST, LARGEST + 1)]
        square = self.height == self.width
        found = {ImageSize(h, w) for h in sides for w in ([h] if square else sides)}
        found = [s for s in found if s.longer >= smallest and s.doublings is not None]
        return sorted(found, key=lambda s: (sum(abs(math.log(a / b)) for a, b in zip(s, self)), -s.pixels, s))[:2]
