# SPDX-License-Identifier: Apache-2.0
"""Sheets for the page."""

import numpy as np


def test_large_images_are_reduced_in_a_sheet():
    from gantransfer.viewer import sheets

    big = np.random.RandomState(0).randint(0, 256, [3, 3, 256, 256]).astype(np.uint8)
    out = sheets.grid(big, 2)
    assert out.shape == (3, 256, 256) and not out[:, 128:, 128:].any()
    means = big[1].reshape(3, 128, 2, 128, 2).mean((2, 4))
    assert np.abs(out[:, :128, 128:] - means).max() <= 1
