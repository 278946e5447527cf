# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch

from gantransfer.metrics.feature_matrix import MetricError
from gantransfer.metrics.fid import Moments, RunningMoments, fid_infinity, frechet_distance, total_variance

rng = np.random.RandomState(0)


def normal(n, d, scale=1.0, shift=0.0):
    return rng.randn(n, d) * scale + shift


@pytest.mark.parametrize("n,d", [(200, 10), (8, 20), (2, 5), (11, 10), (10, 10)])
@pytest.mark.parametrize("ddof", [0, 1])
def test_a_set_against_itself_is_zero(n, d, ddof):
    x = normal(n, d)
    assert frechet_distance(x, x, ddof) <= 1e-9 * total_variance(x, ddof)


def test_known_value_of_scaled_gaussians():
    """Independent columns: |shift|^2 + sum (s - t)^2 of the sample deviations."""
    x = normal(4000, 1)
    y = 3 * x + 2
    assert frechet_distance(x, y) == pytest.approx((y.mean() - x.mean()) ** 2 + (y.std() - x.std()) ** 2, rel=1e-9)


@pytest.mark.parametrize("n,m", [(50, 7), (7, 50), (7, 7), (50, 50)])
def test_routes_agree_with_a_matrix_square_root(n, m):
    linalg = pytest.importorskip("scipy.linalg")
    d = 9
    x, y = normal(n, d), normal(m, d, 2, 0.5)
    # enough jitter for scipy's square root of rank-deficient products is below the tolerance
    sx, sy = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = linalg.sqrtm(sx @ sy)
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(sx) + np.trace(sy) - 2 * np.trace(root.real)
    assert frechet_distance(x, y, 1) == pytest.approx(expected, rel=1e-5)


def test_rank_deficient_columns():
    """Constant and repeated columns make the covariance singular; they contribute as they should."""
    x, y = normal(100, 4), normal(90, 4, 1.3)
    base = frechet_distance(x, y)
    constant = np.hstack([x, np.full((100, 2), 5.0)]), np.hstack([y, np.full((90, 2), 5.0)])
    assert frechet_distance(*constant) == pytest.approx(base, rel=1e-6)
    twice = np.hstack([x, x]), np.hstack([y, y])
    assert frechet_distance(*twice) == pytest.approx(2 * base, rel=1e-6)


def test_all_rows_equal():
    x, y = np.ones((5, 3)), np.full((6, 3), 3.0)
    assert frechet_distance(x, x) == 0
    assert frechet_distance(x, y) == pytest.approx(12)
    assert frechet_distance(x, normal(50, 3)) > 0


def test_mixed_routes_agree():
    """Moments without rows against rows: the factorised route equals the eigenvalue route."""
    x, y = normal(300, 6), normal(280, 6, 1.5)
    few = normal(5, 6)
    exact = frechet_distance(Moments.of(x), few)
    stripped = Moments.of(few)
    by_eigen = frechet_distance(Moments.of(x), Moments(stripped.num, stripped.mean, stripped.scatter))
    assert exact == pytest.approx(by_eigen, rel=1e-6)
    assert frechet_distance(y, x) == pytest.approx(frechet_distance(x, y), rel=1e-9)


def test_large_finite_features_are_not_rejected():
    x = torch.full((4, 3), 3e38)
    assert frechet_distance(x, x) == 0


def test_inconsistent_statistics_raise():
    x = Moments.of(normal(50, 3))
    broken = Moments(50, x.mean, -x.scatter)
    good = Moments(50, x.mean, x.scatter)
    with pytest.raises(MetricError, match="inconsistent"):
        frechet_distance(Moments(50, x.mean, broken.scatter * 1e3), Moments(50, x.mean, broken.scatter))
    assert frechet_distance(good, good) < 1e-9


def test_running_moments_of_few_rows_stay_exact():
    x, y = normal(6, 9), normal(40, 9)
    running = RunningMoments()
    for row in torch.as_tensor(x).split(2):
        running.add(row)
    assert frechet_distance(running.finish(), y, 1) == pytest.approx(frechet_distance(x, y, 1), rel=1e-12)


def test_moments_from_published_statistics():
    x, y = normal(200, 5), normal(150, 5, 1.2)
    published = Moments.from_mean_cov(200, x.mean(0), np.cov(x, rowvar=False), ddof=1)
    assert frechet_distance(published, y) == pytest.approx(frechet_distance(x, y), rel=1e-9)


def test_fid_infinity_removes_the_bias():
    """Both sets from one distribution: FID falls with the size, its extrapolation is far nearer to 0."""
    x, y = normal(6000, 20), normal(3000, 20)
    value, sizes, values = fid_infinity(x, y)
    assert len(sizes) == 15 and sizes[0] == 300 and sizes[-1] == 3000
    assert values[0] > 4 * values[-1] > 0
    assert abs(value) < values[-1] / 2
    with pytest.raises(MetricError, match="sizes"):
        fid_infinity(x, y[:2])
