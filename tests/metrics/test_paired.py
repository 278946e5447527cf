# SPDX-License-Identifier: Apache-2.0
"""Paired differences against scipy's paired t-test."""

import numpy as np
import pytest
from scipy import stats

from gantransfer.metrics.paired import critical_t, difference


def test_errors_and_verdict_are_those_of_a_paired_t_test():
    rng = np.random.RandomState(0)
    for shift in (0.0, 0.5, 2.0):
        a = rng.randn(1, 5)
        b = a + shift + 0.5 * rng.randn(1, 5)
        d, t = difference(a, b), stats.ttest_rel(b[0], a[0])
        assert d.mean[0] / d.error[0] == pytest.approx(t.statistic)
        assert d.sure == (t.pvalue < 0.05) and d.pairs == 5 and d.lower[0] == (b < a).sum()


def test_every_judge_must_agree_and_one_pair_proves_nothing():
    a, up = np.zeros((2, 5)), np.array([1.0, 1.1, 0.9, 1.0, 1.05])
    assert difference(a, [up, up]).sure and not difference(a, [up, -up]).sure
    assert not difference(a, [up, up * [1, -1, 1, -1, 1]]).sure
    assert not difference([[0.0]], [[5.0]]).sure and critical_t(1) == float("inf")
