# SPDX-License-Identifier: Apache-2.0
"""HEIC and HEIF photographs, as telephones take them, through the package pillow-heif (AVIF is Pillow's own).

They are read where a source is converted; a data set never has them, so that training does not depend on the package.
"""

from __future__ import annotations

from gantransfer.data.names import HEIF as EXTENSIONS

__all__ = ["EXTENSIONS", "register"]


def register() -> bool:
    """Teach Pillow the format; False where the package is not installed."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener(thumbnails=False)
    return True
