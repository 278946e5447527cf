# SPDX-License-Identifier: Apache-2.0
"""Checked conversion of feature matrices."""

from __future__ import annotations

import numpy as np
import torch

Array = np.ndarray | torch.Tensor


class MetricError(ValueError):
    """The features given do not determine the metric: too few rows, not finite, inconsistent statistics."""


class NonFiniteFeatures(MetricError):
    """A feature matrix holds NaN or infinity; the message names the first bad row and column."""


def check_finite(x: Array, name: str = "features", first_index: int = 0) -> None:
    """Raise NonFiniteFeatures naming the first bad row of `x` [N, ...] (counted from `first_index`)."""
    t = torch.as_tensor(x)
    if bool(torch.isfinite(t.sum())):  # one pass without a mask; a sum may overflow, so failures are looked at closely
        return
    bad = (~torch.isfinite(t)).reshape(len(t), -1).nonzero()
    if len(bad):
        row, col = (int(v) for v in bad[0])
        raise NonFiniteFeatures(f"{name}: row {first_index + row}, column {col} is not finite "
                                f"({float(t.reshape(len(t), -1)[row, col])})")


def as_features(x: Array, name: str = "features") -> torch.Tensor:
    """A finite [N, D] float tensor (dtype and device kept, integers become float64). Raises MetricError otherwise."""
    t = torch.as_tensor(x)
    if t.ndim != 2 or t.shape[1] == 0:
        raise MetricError(f"{name}: expected a matrix [rows, features], got shape {tuple(t.shape)}")
    if not t.is_floating_point():
        t = t.double()
    check_finite(t, name)
    return t


def as_pair(real: Array, fake: Array) -> tuple[torch.Tensor, torch.Tensor]:
    """Two checked feature matrices of equal width on one device (that of `real`)."""
    r, f = as_features(real, "real features"), as_features(fake, "generated features")
    if r.shape[1] != f.shape[1]:
        raise MetricError(f"real features have {r.shape[1]} columns, generated ones {f.shape[1]}")
    return r, f.to(r.device)
