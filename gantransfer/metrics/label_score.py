# SPDX-License-Identifier: Apache-2.0
"""How well generated images follow their labels: classes (accuracy) and continuous values (label score of CcGAN)."""

from __future__ import annotations

import numpy as np

from gantransfer.metrics.feature_matrix import MetricError


def label_accuracy(predicted: np.ndarray, requested: np.ndarray) -> float:
    """Share of rows whose predicted class id [M] equals the requested one [M]."""
    predicted, requested = np.asarray(predicted), np.asarray(requested)
    if predicted.shape != requested.shape or predicted.ndim != 1 or not len(predicted):
        raise MetricError(f"class ids of shapes {predicted.shape} and {requested.shape} cannot be compared")
    return float((predicted == requested).mean())


def label_score(predicted: np.ndarray, requested: np.ndarray, scale: float = 1.0) -> tuple[float, float]:
    """(mean, std with divisor M) of |predicted - requested| * scale; `scale` turns labels into label units."""
    error = np.abs(np.asarray(predicted, np.float64) - np.asarray(requested, np.float64)) * scale
    if error.ndim != 1 or not len(error) or not np.isfinite(error).all():
        raise MetricError("label score needs two equally long, finite vectors")
    return float(error.mean()), float(error.std())
