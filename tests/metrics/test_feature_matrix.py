# SPDX-License-Identifier: Apache-2.0
"""Features that are too few, of two widths, or not finite."""

# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from gantransfer.metrics.feature_matrix import MetricError, NonFiniteFeatures
from gantransfer.metrics.fid import frechet_distance
from tests.metrics.test_fid import normal


def test_too_few_rows():
    with pytest.raises(MetricError, match="divisor"):
        frechet_distance(normal(1, 3), normal(10, 3), ddof=1)
    assert np.isfinite(frechet_distance(normal(1, 3), normal(10, 3), ddof=0))
    with pytest.raises(MetricError, match="no rows"):
        frechet_distance(np.zeros((0, 3)), normal(10, 3))


def test_different_widths():
    with pytest.raises(MetricError, match="3 columns, generated ones 4"):
        frechet_distance(normal(5, 3), normal(5, 4))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_names_the_first_row(bad):
    x = normal(20, 4)
    x[13, 2] = x[17, 0] = bad
    with pytest.raises(NonFiniteFeatures, match="generated features: row 13, column 2"):
        frechet_distance(normal(20, 4), x)
