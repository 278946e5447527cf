# SPDX-License-Identifier: Apache-2.0
"""Which signs a font has. Font libraries draw a stand-in for those that it lacks, and do not say so."""

from __future__ import annotations

from collections.abc import Iterable

from PIL import ImageFont


def lacking(font_path: str, signs: Iterable[str]) -> list[bool]:
    """Whether the font draws its stand-in for each of the signs; OSError for a file that is no usable font."""
    font = ImageFont.truetype(font_path, 32)

    def drawn(sign: str) -> tuple:
        mask, offset = font.getmask2(sign, "L", anchor="ls")
        return offset, mask.size, bytes(mask)

    stand_in = drawn("\U0010ffff")  # which is no character
    return [drawn(sign) == stand_in for sign in signs]
