# SPDX-License-Identifier: Apache-2.0
"""Memory that a training step has freed, kept for the next one.

glibc gives a large block back to the system when it is freed, and the next one is mapped anew, page by page: on a CPU
that takes as long as many an operator's own work (steps at 64 pixels: 8 % of them). The process stays as large as it
has been at most, which is what a training needs in its next step.
"""

from __future__ import annotations

import ctypes
import os
import sys

LARGEST = 32 << 20  # bytes: the most that glibc takes from its heap instead of mapping
# mallopt's numbers: when to shorten the heap, what to map by itself, how much more to ask for at a time.
TRIM_THRESHOLD, MMAP_THRESHOLD, TOP_PAD = (-1, 2**31 - 1), (-3, LARGEST), (-2, 64 << 20)


def keep_freed() -> bool:
    """Let this process keep what it frees. False where its C library is not glibc, and where the environment sets
    glibc's thresholds (MALLOC_*, GLIBC_TUNABLES) already."""
    if sys.platform != "linux" or any(k.startswith("MALLOC_") or k == "GLIBC_TUNABLES" for k in os.environ):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    return all([libc.mallopt(*option) for option in (TRIM_THRESHOLD, MMAP_THRESHOLD, TOP_PAD)])
