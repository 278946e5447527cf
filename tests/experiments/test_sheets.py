# SPDX-License-Identifier: Apache-2.0
"""Sheets of several runs."""

import numpy as np
from PIL import Image

from gantransfer.experiments import sheets
from gantransfer.pictures import grids


def test_sheet(tmp_path):
    """Two rows, blocks beside each other, wrapped after two; the strip beneath."""
    def coloured(value, n, size):  # text is grey
        return np.broadcast_to(np.array([value, 0, 200], np.uint8)[:, None, None], (n, 3, size, size))

    def block(value):
        return [coloured(value + k, 3, 8) for k in range(2)]

    sheets.save_sheet(tmp_path / "p.png", {"a": block(10), "b": block(20), "c": block(30)}, ["x", "y"], per_band=2,
                      strip=("small", coloured(77, 4, 4)))
    rgb = np.asarray(Image.open(tmp_path / "p.png").convert("RGB"))
    where = {v: (rgb == [v, 0, 200]).all(2) for v in (10, 11, 20, 21, 30, 31, 77)}
    assert all(where[v].sum() == 3 * 16 * 16 for v in (10, 11, 20, 21, 30, 31)) and where[77].sum() == 4 * 32 * 32
    x, y = ({v: np.flatnonzero(m.any(axis))[0] for v, m in where.items()} for axis in (0, 1))
    assert x[20] == x[10] + 3 * (2 * 8 + grids.GAP) + 8 and x[30] == x[10] == x[77]
    assert 13 < y[10] == y[20] < y[11] < y[30] < y[31] < y[77]  # the words above need as much
