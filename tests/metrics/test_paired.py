# SPDX-License-Identifier: Apache-2.0
"""Paired differences against scipy's paired t-test."""

import json

import numpy as np
import pytest
from scipy import stats

from gantransfer.metrics.paired import critical_t, difference, train_seconds


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


def test_seconds_until_a_snapshot_between_two_thousands(tmp_path):
    """Its name has the images behind: 000000_208 is of 208 images, not of 208 thousand."""
    lines = [{"Progress/kimg": {"mean": k}, "Timing/total_sec": {"mean": s}}
             for k, s in ((0.016, 1), (0.208, 7), (3, 9))]
    (tmp_path / "stats.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    for name, seconds in (("000000", 1), ("000000_208", 7), ("000000_300", 9), ("000003", 9)):
        assert train_seconds(tmp_path / f"network-snapshot-{name}.pkl") == seconds
    assert np.isnan(train_seconds(tmp_path / "network-snapshot-000003_016.pkl"))
