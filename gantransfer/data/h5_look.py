# SPDX-License-Identifier: Apache-2.0
"""python -m gantransfer.data.h5_look FILE: read what `h5.read` reads, in a process that may crash or never end."""

from __future__ import annotations

import contextlib
import sys

from dnnlib.util import UserError
from gantransfer.data import h5


def look(path: str) -> None:
    """Everything that `h5.read` does before images are asked for, and the first images."""
    chosen = None
    for split in ("train", "all", "reference", *h5.SPLITS):
        with contextlib.suppress(UserError):
            chosen = h5.read(path, split, trusted=True)
    if chosen is not None:
        with contextlib.suppress(UserError):
            next(chosen.images(), None)


if __name__ == "__main__":
    look(sys.argv[1])
