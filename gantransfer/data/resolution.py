# SPDX-License-Identifier: Apache-2.0
"""Whether networks take a data set's images: one line that names the sizes they do take, and the command."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dnnlib.util import UserError
from gantransfer.networks.sizes import RULE, ImageSize

SMALLEST = 4


def fits(size: int | Sequence[int], smallest: int = SMALLEST) -> bool:
    """Whether there are networks for images of `size` (see networks/sizes.py)."""
    size = ImageSize.of(size)
    return size.longer >= smallest and size.doublings is not None


def remedy(size: int | Sequence[int], smallest: int = SMALLEST) -> str:
    """The flags that make the nearest sizes of it."""
    return " or ".join(f"--resolution={s}" for s in ImageSize.of(size).nearest(smallest))


def require(size: int | Sequence[int], where: str, smallest: int = SMALLEST, who: str = "networks") -> None:
    """UserError naming the data set and the command that mends it unless `size` fits."""
    if not fits(size, smallest):
        raise UserError(f"{where} has {ImageSize.of(size)} images; for {who} {RULE}, from {smallest} pixels on: "
                        f"dataset_tool.py --transform=center-crop {remedy(size, smallest)}")


def require_square(size: int | Sequence[int], where: str, who: str, sizes: Iterable[int] = ()) -> None:
    """The same for networks of which there are only square ones: of `sizes`, or of every power of two from 8 on."""
    size, sizes = ImageSize.of(size), sorted(sizes)
    powers = [1 << k for k in range(3, max(size.longer.bit_length(), 3) + 1)]
    if size.height != size.width or size.width not in (sizes or powers):
        to = min(reversed(sizes or powers), key=lambda n: max(n / size.longer, size.longer / n))
        takes = f"of {', '.join(map(str, sizes))} pixels" if sizes else "whose side is a power of two from 8 on"
        raise UserError(f"{where} has {size} images; {who} takes square ones {takes}: "
                        f"dataset_tool.py --transform=center-crop --resolution={to}x{to}")
