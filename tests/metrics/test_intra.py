# SPDX-License-Identifier: Apache-2.0
"""Metrics per class."""

import numpy as np
import pytest

from gantransfer.metrics import intra
from gantransfer.metrics.feature_matrix import MetricError

rng = np.random.RandomState(0)


def test_empty_class_is_named():
    x, labels = rng.rand(20, 3), np.arange(20) % 2
    with pytest.raises(MetricError, match="class 2 has 0 real and 0 generated rows"):
        intra.intra_fid(x, x, labels, labels, [0, 1, 2])
    with pytest.raises(MetricError, match="window around 5.0 has 0 real"):
        intra.sliding_fid(x, x, labels, labels, [5.0], 1.0)


def test_intra_fid_of_one_image_per_class():
    x = rng.rand(4, 3)
    with pytest.raises(MetricError, match="divisor"):
        intra.intra_fid(x[:1], x, [0], [0] * 4, [0])


def test_diversity_ratio():
    real = rng.randn(3000, 4)
    table = intra.diversity_ratio(real, 0.5 * rng.randn(3000, 4), [0] * 3000, [0] * 3000, [0])
    assert table.values[0] == pytest.approx(0.5, rel=0.05)
    collapsed = intra.diversity_ratio(real, np.zeros((10, 4)), [0] * 3000, [0] * 10, [0])
    assert collapsed.values[0] == 0
