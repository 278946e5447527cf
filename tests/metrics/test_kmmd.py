# SPDX-License-Identifier: Apache-2.0
"""Both kernel MMDs against their definitions."""

import numpy as np
import pytest

from gantransfer.metrics import kmmd
from gantransfer.metrics.feature_matrix import MetricError

rng = np.random.RandomState(0)


def test_kmmd_against_the_definition():
    x, y = rng.rand(40, 6), rng.rand(30, 6) + 0.3
    d = lambda a, b: ((a[:, None] - b[None]) ** 2).sum(-1)  # noqa: E731
    s = d(x, x).mean()
    k = lambda a, b: np.exp(-d(a, b) / (2 * 1.5**2 * s)).mean()  # noqa: E731
    assert kmmd.kmmd(x, y, 1.5) == pytest.approx(np.sqrt(k(x, x) + k(y, y) - 2 * k(x, y)), rel=1e-9)
    assert kmmd.kmmd(x, x) == pytest.approx(0, abs=1e-7)


def test_unbiased_kmmd_against_the_definition():
    x, y = rng.rand(40, 6), rng.rand(30, 6) + 0.3
    d = lambda a, b: ((a[:, None] - b[None]) ** 2).sum(-1)  # noqa: E731
    s = d(x, x).sum() / (40 * 39)
    k = lambda a, b: np.exp(-d(a, b) / (2 * s))  # noqa: E731
    off = lambda m: (m.sum() - np.trace(m)) / (len(m) * (len(m) - 1))  # noqa: E731
    value = lambda a, b: off(k(a, a)) + off(k(b, b)) - 2 * k(a, b).mean()  # noqa: E731
    parts = [value(x[i::3], y[i::3]) for i in range(3)]
    got = kmmd.kmmd_unbiased(x, y, parts=3)
    assert got == pytest.approx((value(x, y), np.std(parts, ddof=1) / np.sqrt(3)), rel=1e-9)
    same = [kmmd.kmmd_unbiased(*np.random.RandomState(i).randn(2, 60, 4))[0] for i in range(40)]
    assert abs(np.mean(same)) < 4 * np.std(same) / np.sqrt(40) and min(same) < 0  # no bias
    with pytest.raises(MetricError, match="four rows"):
        kmmd.kmmd_unbiased(x[:3], y)


def test_kmmd_without_scale():
    with pytest.raises(MetricError, match="no scale"):
        kmmd.kmmd(np.ones((5, 3)), rng.rand(5, 3))
