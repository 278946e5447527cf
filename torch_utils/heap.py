# SPDX-License-Identifier: Apache-2.0
"""Memory that a training step has freed, kept for the next one, in large pages.

glibc gives a large block back to the system when it is freed, and the next one is mapped anew, page by page: on a CPU
that takes as long as many an operator's own work. The process stays as large as it has been at most, which is what a
training needs in its next step. And it asks for pages of 2 MiB, whose addresses the processor finds faster.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from pathlib import Path

PAGE = 2 << 20
POLICY = Path("/proc/sys/vm/overcommit_memory")
MADV_HUGEPAGE = 14
# mallopt's numbers: when to shorten the heap (never), how many blocks to map by themselves, how much more to ask for.
TRIM_THRESHOLD, MMAP_MAX, TOP_PAD = (-1, -1), (-4, 0), (-2, 64 << 20)


def keep_freed() -> bool:
    """Let this process keep what it frees. False where its C library is not glibc, and where the environment sets
    glibc's thresholds (MALLOC_*, GLIBC_TUNABLES) already."""
    if sys.platform != "linux" or any(k.startswith("MALLOC_") or k == "GLIBC_TUNABLES" for k in os.environ):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    kept = all([libc.mallopt(*option) for option in (TRIM_THRESHOLD, MMAP_MAX, TOP_PAD)])
    if kept and not _addresses_are_counted():
        _large_pages(libc, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    return kept


def _addresses_are_counted() -> bool:
    """Whether memory that is only reserved is missing elsewhere: there are limits, or the system never overcommits."""
    limits = (resource.getrlimit(k)[0] for k in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    return (any(limit != resource.RLIM_INFINITY for limit in limits)
            or POLICY.is_file() and POLICY.read_text().strip() == "2")


def _large_pages(libc: ctypes.CDLL, size: int) -> None:
    """The heap grows by `size` bytes of addresses, which are no memory before they are used, so that what is allocated
    there comes in large pages. Where the system refuses, nothing changes."""
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    block = libc.malloc(size)
    if block:
        first = -(-block // PAGE) * PAGE
        libc.madvise(first, (block + size - first) // PAGE * PAGE, MADV_HUGEPAGE)
        libc.free(block)
