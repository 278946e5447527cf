# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from gantransfer.metrics import distances
from gantransfer.metrics.feature_matrix import MetricError
from gantransfer.metrics.precision_recall import density_coverage, precision_recall

rng = np.random.RandomState(0)


def naive(real, fake, k):
    d = lambda a, b: ((a[:, None] - b[None]) ** 2).sum(-1)  # noqa: E731
    r = np.sort(d(real, real), 1)[:, k]
    f = np.sort(d(fake, fake), 1)[:, k]
    rf = d(real, fake)
    return dict(precision=(rf <= r[:, None]).any(0).mean(), recall=(rf <= f[None]).any(1).mean(),
                density=(rf < r[:, None]).sum() / (k * len(fake)), coverage=(rf.min(1) < r).mean())


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("case", ["random", "duplicates", "same", "lattice", "offset"])
def test_against_the_definition(k, case, monkeypatch):
    """Also with ties, copies, and values far from zero, in blocks smaller than the sets."""
    monkeypatch.setattr(distances, "COL_BLOCK", 13)
    monkeypatch.setattr(distances, "ROW_BLOCK", 11)
    real, fake = rng.randn(60, 5), rng.randn(45, 5) * 0.9
    if case == "duplicates":
        real[30:] = real[:30]
        fake[:10] = real[:10]
    elif case == "same":
        fake = real.copy()
    elif case == "lattice":
        real, fake = rng.randint(0, 3, (60, 3)).astype(float), rng.randint(0, 3, (45, 3)).astype(float)
    elif case == "offset":
        real, fake = real + 2.0**20, fake + 2.0**20
    expected = naive(real, fake, k)
    pr, dc = precision_recall(real, fake, k), density_coverage(real, fake, k)
    assert pr.precision == expected["precision"] and pr.recall == expected["recall"]
    assert dc.density == pytest.approx(expected["density"], abs=1e-15) and dc.coverage == expected["coverage"]


def test_copies_have_radius_zero():
    """Everything identical: closed balls keep the copies, open ones lose them."""
    x = np.ones((20, 3))
    assert precision_recall(x, x, 3) == (1, 1)
    assert precision_recall(x, x, 3, strict=True) == (0, 0)
    assert density_coverage(x, x, 3) == (0, 0)


def test_roles_matter():
    """Few modes, each well covered: precise, with little recall."""
    real = rng.randn(400, 2) * 5
    fake = rng.randn(400, 2) * 0.5
    pr = precision_recall(real, fake, 3)
    assert pr.precision > 0.9 and pr.recall < 0.3
    assert precision_recall(fake, real, 3) == (pr.recall, pr.precision)


@pytest.mark.parametrize("n,m", [(3, 10), (10, 3)])
def test_too_few_rows(n, m):
    with pytest.raises(MetricError, match="more than 3 rows, got 3"):
        precision_recall(rng.randn(n, 2), rng.randn(m, 2), 3)
