# SPDX-License-Identifier: Apache-2.0
"""The image sizes that networks take: powers of two from 4 on, or what a network needs beyond that."""

from __future__ import annotations

from collections.abc import Iterable

from dnnlib.util import UserError

SMALLEST = 4


def fits(size: int, smallest: int = SMALLEST) -> bool:
    """Whether networks can be built for images of size x size."""
    return size >= smallest and size & (size - 1) == 0


def nearest(size: int, smallest: int = SMALLEST) -> int:
    """The power of two from `smallest` on whose ratio to `size` is nearest to 1; the larger one of two equally near."""
    below = 1 << max(size.bit_length() - 1, 0)
    return max(below if size * size < 2 * below * below else 2 * below, smallest)


def require(size: int, where: str, smallest: int = SMALLEST, who: str = "networks") -> None:
    """UserError naming the data set and the command that mends it unless `size` fits."""
    if not fits(size, smallest):
        to = nearest(size, smallest)
        verb = "need" if who.endswith("s") else "needs"
        raise UserError(f"{where} has {size}x{size} images; {who} {verb} a power of two from {smallest} on: "
                        f"dataset_tool.py --resolution={to}x{to}")


def require_one_of(size: int, where: str, sizes: Iterable[int], who: str) -> None:
    """The same for networks of which there are only some sizes."""
    sizes = sorted(sizes)
    if size not in sizes:
        to = min(reversed(sizes), key=lambda n: max(n / size, size / n))
        raise UserError(f"{where} has {size}x{size} images; {who} has networks for {', '.join(map(str, sizes))}: "
                        f"dataset_tool.py --resolution={to}x{to}")
