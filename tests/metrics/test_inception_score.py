# SPDX-License-Identifier: Apache-2.0
"""Inception score: edges that golden numbers do not reach."""

import numpy as np
import pytest

from gantransfer.metrics import inception_score
from gantransfer.metrics.feature_matrix import MetricError


def test_inception_score_bounds():
    certain = np.full((100, 10), -np.inf)
    certain[np.arange(100), np.arange(100) % 10] = 0
    certain = np.where(np.isinf(certain), -1e5, certain)
    assert inception_score.inception_score(certain, 10)[0] == pytest.approx(10)
    assert inception_score.inception_score(np.zeros((50, 10)), 5) == (pytest.approx(1), pytest.approx(0, abs=1e-12))


def test_inception_score_with_probabilities_of_zero():
    """A logit gap beyond float64's exponent range: p = 0 exactly, contributes 0 instead of NaN."""
    logits = np.array([[0.0, -1e4], [-1e4, 0.0]])
    assert inception_score.inception_score(logits, 1) == (pytest.approx(2), 0)


def test_inception_score_needs_a_row_per_split():
    with pytest.raises(MetricError, match="at least as many rows"):
        inception_score.inception_score(np.zeros((9, 4)), 10)
