# SPDX-License-Identifier: Apache-2.0
"""Accuracy and label score."""

import numpy as np
import pytest

from gantransfer.metrics import label_score
from gantransfer.metrics.feature_matrix import MetricError


def test_label_metrics():
    assert label_score.label_accuracy(np.array([0, 1, 1]), np.array([0, 1, 2])) == pytest.approx(2 / 3)
    with pytest.raises(MetricError):
        label_score.label_accuracy(np.array([0, 1]), np.array([0, 1, 2]))
    with pytest.raises(MetricError):
        label_score.label_score(np.array([np.nan]), np.array([0.0]))
