# SPDX-License-Identifier: Apache-2.0
"""What `zipfile` raises for a damaged file: its own error, and whatever the parts below it raise."""

from __future__ import annotations

import struct
import zipfile
import zlib

ZIP_DAMAGE: tuple[type[Exception], ...] = (
    zipfile.BadZipFile, zipfile.LargeZipFile, OSError, EOFError, KeyError, IndexError, AttributeError, TypeError,
    ValueError, OverflowError, RuntimeError, NotImplementedError, MemoryError, struct.error, zlib.error)
try:
    import lzma

    ZIP_DAMAGE += (lzma.LZMAError,)
except ImportError:  # a Python built without it reads no such files
    pass
