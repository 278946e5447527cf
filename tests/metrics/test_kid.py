# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from gantransfer.metrics import kid
from gantransfer.metrics.feature_matrix import MetricError

rng = np.random.RandomState(0)


def naive(x, y):
    k = lambda a, b: (a @ b.T / a.shape[1] + 1) ** 3  # noqa: E731
    off = lambda q: (q.sum() - np.trace(q)) / (len(q) * (len(q) - 1))  # noqa: E731
    return off(k(x, x)) + off(k(y, y)) - 2 * k(x, y).mean()


@pytest.mark.parametrize("rows", [30, 19])
def test_against_the_definition(rows):
    x, y = rng.rand(30, 7), rng.rand(rows, 7) + 0.1
    assert kid.mmd2_unbiased(x, y) == pytest.approx(naive(x, y), rel=1e-12)


def test_blocks_do_not_change_the_value(monkeypatch):
    x, y = rng.rand(50, 4), rng.rand(50, 4)
    whole = kid.mmd2_unbiased(x, y)
    monkeypatch.setattr(kid, "_BLOCK", 7)
    assert kid.mmd2_unbiased(x, y) == pytest.approx(whole, rel=1e-12)


def test_subset_size_follows_the_smaller_set():
    """Sets smaller than the subset size are used whole, and equal draws repeat."""
    x, y = rng.rand(40, 4), rng.rand(25, 4)
    assert kid.kid(x, y, num_subsets=5) == kid.kid(x, y, num_subsets=5)
    sizes = {len(r) for r, _ in kid.draw_subsets(40, 25, 3, 25, np.random.RandomState(0))}
    assert sizes == {25}
    assert kid.kid(x, y, num_subsets=5, seed=1)[0] != kid.kid(x, y, num_subsets=5, seed=2)[0]


def test_unbiased_for_equal_distributions():
    values = [kid.mmd2_unbiased(rng.rand(20, 5), rng.rand(20, 5)) for _ in range(300)]
    assert min(values) < 0 < max(values)
    assert abs(np.mean(values)) < 4 * np.std(values) / 300**0.5


def test_too_few_rows():
    with pytest.raises(MetricError, match="at least 2 rows"):
        kid.kid(rng.rand(1, 3), rng.rand(10, 3))
