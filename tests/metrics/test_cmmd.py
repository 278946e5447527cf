# SPDX-License-Identifier: Apache-2.0
"""CMMD against its definition, and with the settings of the paper's code."""

import numpy as np
import pytest

from gantransfer.metrics.cmmd import cmmd
from gantransfer.metrics.feature_matrix import MetricError


def unit(n, shift, seed):
    x = np.random.RandomState(seed).randn(n, 6) + shift
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_cmmd_against_the_definition():
    x, y = unit(40, 0, 0), unit(30, 0.3, 1)
    k = lambda a, b: np.exp(-((a[:, None] - b[None]) ** 2).sum(-1) / (2 * 10**2)).mean()  # noqa: E731
    assert cmmd(x, y) == pytest.approx(1000 * (k(x, x) + k(y, y) - 2 * k(x, y)), rel=1e-9)
    assert cmmd(x, y) == pytest.approx(cmmd(y, x), rel=1e-9) and cmmd(x, x) == pytest.approx(0, abs=1e-9)


def test_embeddings_of_another_length():
    with pytest.raises(MetricError, match="the generated embeddings are not of length 1"):
        cmmd(unit(5, 0, 0), 2 * unit(5, 0, 1))
