# SPDX-License-Identifier: Apache-2.0
"""The label filter beside its golden numbers: ties, ranges, empty groups."""

import numpy as np
import pytest

from dnnlib.util import UserError
from gantransfer.distillation import selection as F


def test_ties_at_the_cutoff_stay_and_rho_1_keeps_all():
    errors = np.array([0, 0, 1, 1, 1, 1, 2, 2, 3, 9.0])
    kept = {rho: len(F.select(errors, rho)[0]) for rho in (0.1, 0.5, 1.0)}
    assert kept == {0.1: 2, 0.5: 6, 1.0: 10}
    strict = {rho: len(F.select(errors, rho, ties="strict", keep_all=False)[0]) for rho in (0.5, 1.0)}
    assert strict == {0.5: 2, 1.0: 9}  # all ties lost, and always the worst image


def test_groups_have_their_own_cutoff():
    errors, groups = np.array([0.1, 0.2, 0.3, 0.4, 10, 20, 30, 40]), np.array([3, 3, 3, 3, 5, 5, 5, 5])
    keep, q = F.select(errors, 0.5, groups)
    assert keep.tolist() == [0, 1, 4, 5] and set(q) == {3, 5}
    assert F.select(errors, 0.5)[0].tolist() == [0, 1, 2, 3]
    burn = np.array([True, True, False, False] * 2)
    keep, q = F.select(errors, 1.0, groups, burn)
    assert len(keep) == 8 and q[5] == 20


def test_what_cannot_be_filtered_is_said():
    errors = np.array([1.0, 2, 3])
    for rho in (0, -1, 1.01, float("nan")):
        with pytest.raises(UserError, match=r"--rho=.* is outside \(0, 1\]"):
            F.select(errors, rho)
    with pytest.raises(UserError, match="leaves no image of class 7"):
        F.select(np.array([1.0, 2, 5, 5]), 0.5, np.array([2, 2, 7, 7]), ties="strict")
    with pytest.raises(UserError, match="1 of 3 errors are not finite"):
        F.select(np.array([1, np.nan, 2]), 0.5)
    with pytest.raises(UserError, match="no image of class 1"):
        F.select(errors, 0.5, np.array([0, 0, 1]), np.array([True, True, False]))


def test_intervals_and_quotas():
    assert F.intervals(np.array([0, 1, 5, 9, 10]), 2).tolist() == [0, 0, 1, 1, 1]
    assert F.intervals(np.full(3, 2.0), 4).tolist() == [0, 0, 0]
    assert F.even_quota(np.array([1, 10, 10]), 15).tolist() == [1, 7, 7]  # what is published would give 1 + 5 + 5
    assert F.even_quota(np.array([2, 0, 2]), 9).tolist() == [2, 0, 2]


def test_regression_labels():
    y = np.array([-0.5, 0.25, 0.999, 2], np.float32)
    assert F.regression_labels(y, 0.0, 60.0).tolist() == pytest.approx([0, 15, 59.94, 60], rel=1e-6)
    assert F.regression_labels(y, 0.0, 60.0, integers=True).tolist() == [0, 15, 59, 60]
    assert F.regression_labels(y, -10, 20, clip=False).tolist() == pytest.approx([-20, -5, 9.98, 30], rel=1e-5)
    assert F.regression_errors(np.array([[1.0], [4]]), np.array([[2.0], [2]])).tolist() == [1, 2]
