# SPDX-License-Identifier: Apache-2.0
"""Which signs a font has."""

from pathlib import Path

import pytest

import gantransfer
from gantransfer.data.glyphs import lacking

FONT = str(Path(gantransfer.__file__).parent / "assets" / "NotoSans.ttf")


def test_signs_that_a_font_lacks():
    assert lacking(FONT, "aЖλ日\U0010ffff") == [False, False, False, True, True]


def test_a_file_that_is_no_font(tmp_path):
    (tmp_path / "x.ttf").write_bytes(b"x")
    with pytest.raises(OSError):
        lacking(str(tmp_path / "x.ttf"), "a")
