# SPDX-License-Identifier: Apache-2.0
"""Density ratio: the loss finds the true ratio, rejection gives the right density, dead models are noticed."""

import numpy as np
import pytest
import torch

from dnnlib.util import UserError
from gantransfer.distillation.rejection import Calibration, Rejection, calibrate, csp_loss
from gantransfer.networks.density_ratio import DensityRatio


def gauss(x, mean, std):
    return np.exp(-0.5 * ((x - mean) / std) ** 2) / std


def test_the_loss_is_smallest_at_the_true_ratio():
    rng = np.random.RandomState(0)
    real, fake = rng.normal(0, 1, 20000), rng.normal(0.7, 1.3, 20000)
    truth = [torch.from_numpy(gauss(x, 0, 1) / gauss(x, 0.7, 1.3)) for x in (fake, real)]
    best = csp_loss(*truth, 1e-2)
    for change in (lambda r: r * 0.6, lambda r: r * 1.6, lambda r: r**0.5, lambda r: torch.ones_like(r)):
        assert csp_loss(change(truth[0]), change(truth[1]), 1e-2) > best


@pytest.mark.parametrize("kind", ["class", "embedding"])
def test_a_trained_model_finds_the_ratio_of_each_label(kind):
    """Label 0: generated images are too wide; label 1: they are right."""
    torch.manual_seed(0)
    net = DensityRatio(2, 2, (32, 16), kind, dropout=0.0)
    opt = torch.optim.Adam(net.parameters(), 3e-3)
    g = torch.Generator().manual_seed(1)
    for _ in range(400):
        y = torch.randint(2, [256], generator=g)
        c = torch.nn.functional.one_hot(y, 2).float()
        real, fake = torch.randn(2, 256, 2, generator=g)
        fake = fake * torch.where(y == 0, 2.0, 1.0)[:, None]
        opt.zero_grad()
        csp_loss(net(fake, c), net(real, c), 1e-2).backward()
        opt.step()
    with torch.no_grad():
        x = torch.tensor([[0.0, 0.0], [3.0, 0.0]])
        wide, right = (net(x, torch.eye(2)[[k, k]]).numpy() for k in (0, 1))
    assert 2.2 < wide[0] < 5 and wide[1] < 0.8  # the truth is 4 and 0.14; the small model is smooth
    assert 0.6 < right[0] < 1.5


def test_accepted_samples_have_the_real_density():
    rng = np.random.RandomState(0)
    x = rng.normal(0.7, 1.3, 40000)
    r = gauss(x, 0, 1) / gauss(x, 0.7, 1.3)
    rule = Rejection()
    rule.burn_in(r[:10000])
    kept = x[10000:][rule.accept(r[10000:], rng.rand(30000))]
    assert abs(kept.mean()) < 0.03 and abs(kept.std() - 1) < 0.03
    report = rule.report()
    assert report["rate"] == pytest.approx(report["expected_rate"], rel=0.05) and report["drawn"] == 30000
    assert report["accepted"] == len(kept) and report["burn_in"] == 10000


def test_fixed_bound_does_not_depend_on_batches_and_running_does():
    rng = np.random.RandomState(1)
    burn, r, u = rng.rand(50), rng.rand(400) * 3, rng.rand(400)
    got = {}
    for mode in ("fixed", "running"):
        for size in (400, 37):
            rule = Rejection(mode)
            rule.burn_in(burn)
            got[mode, size] = np.concatenate([rule.accept(r[i : i + size], u[i : i + size])
                                              for i in range(0, 400, size)])
            assert (rule.report()["exceeded"] > 0) and (rule.M > 2) == (mode == "running")
    assert (got["fixed", 400] == got["fixed", 37]).all()
    assert (got["running", 400] != got["running", 37]).any()


def test_a_quantile_bounds_what_outliers_do():
    r = np.concatenate([np.linspace(0, 1, 999), [1000.0]])
    whole, most = Rejection(), Rejection(quantile=0.999)
    assert whole.burn_in(r) == 1000 and most.burn_in(r) < 2.1
    u = np.random.RandomState(0).rand(1000)
    assert most.accept(r, u).sum() > 100 > whole.accept(r, u).sum() and most.exceeded == 1


def test_bad_ratios_end_in_one_line():
    for ratios in ([np.nan], [-1.0], [np.inf]):
        with pytest.raises(UserError, match="for class 3 is not finite or negative"):
            Rejection(name="class 3").burn_in(ratios)
    with pytest.raises(UserError, match="is 0 for every sample"):
        Rejection().burn_in(np.zeros(10))
    with pytest.raises(UserError, match="no samples"):
        Rejection().burn_in([])
    for kw in (dict(mode="once"), dict(quantile=0.0), dict(quantile=1.5)):
        with pytest.raises(UserError):
            Rejection(**kw)
    rule = Rejection()
    rule.burn_in([1.0])
    with pytest.raises(UserError, match="were accepted, fewer than one in a thousand") as e:
        rule.accept(np.full(20000, 1e-6), np.random.RandomState(0).rand(20000))
    assert "\n" not in str(e.value)


def test_calibration_recovers_two_gaussians():
    """Logits d ~ N(+-1, 1): the log-ratio is 2 d exactly."""
    rng = np.random.RandomState(0)
    c = calibrate(rng.normal(1, 1, 20000), rng.normal(-1, 1, 5000))
    assert c.scale == pytest.approx(2, rel=0.05) and abs(c.shift) < 0.1
    assert np.log(c(np.array([0.5]))) == pytest.approx(1, abs=0.15)
    assert calibrate(-np.ones(5) + rng.rand(5), np.ones(5) + rng.rand(5)) == Calibration(0.0, 0.0)
    apart = calibrate(np.full(50, 9.0), np.full(50, -9.0))  # separable: finite all the same
    assert np.isfinite(apart.scale) and apart(np.array([1e9])) < 1e30
    for bad in (([], [1.0]), ([np.nan], [1.0])):
        with pytest.raises(UserError):
            calibrate(*map(np.array, bad))
