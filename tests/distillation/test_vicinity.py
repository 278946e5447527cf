# SPDX-License-Identifier: Apache-2.0
"""Images whose labels lie near a target."""

import numpy as np
import pytest
import torch

from dnnlib.util import UserError
from gantransfer.distillation import vicinity


@pytest.mark.parametrize("kind, kappa", [("hard", 0.05), ("soft", 400.0)])
def test_draws_stay_in_the_vicinity(kind, kappa):
    y = np.random.RandomState(0).choice(np.linspace(0, 1, 41), 500)
    v = vicinity.Vicinity(y, kind, kappa, sigma=0.2)
    d = v.draw(2000, torch.Generator().manual_seed(0))
    assert (d.target >= 0).all() and (d.target <= 1).all() and d.target.std() > 0.25
    assert v.near(d.target, y)[np.arange(2000), d.real].all()
    low, high = v.fake_range(d.target)
    assert ((d.fake >= low) & (d.fake <= high)).all() and (high - low).max() > v.radius
    expected = np.ones(2000) if kind == "hard" else np.exp(-kappa * (y[d.real] - d.target) ** 2)
    assert np.allclose(d.weight_real, expected) and (d.weight_fake <= 1).all()


def test_every_image_near_a_target_is_equally_likely_and_weights_can_be_drawn():
    y = np.array([0.5, 0.5, 0.52, 0.56, 0.9])
    g = torch.Generator().manual_seed(0)
    at_half = [vicinity.Vicinity(y[:4], k, w, 0.0, normalise=n) for k, w, n in (
        ("hard", 0.03, False), ("soft", 1000.0, False), ("soft", 1000.0, True))]
    shares = []
    for v in at_half:
        v.targets = lambda n, rng: np.full(n, 0.5)
        d = v.draw(20000, g)
        shares.append(np.bincount(d.real, minlength=4) / 20000)
    assert np.allclose(shares[0], [1 / 3, 1 / 3, 1 / 3, 0], atol=0.02)  # hard: 0.56 is too far
    assert np.allclose(shares[1], [0.25] * 4, atol=0.02)
    w = np.exp(-1000 * (y[:4] - 0.5) ** 2)
    assert np.allclose(shares[2], w / w.sum(), atol=0.02)
    spread = np.std(d.fake)
    assert spread == pytest.approx((0.5 / 1000) ** 0.5, rel=0.05)  # generated labels follow the weight too


def test_targets_fall_back_to_labels_when_noise_leads_nowhere():
    v = vicinity.Vicinity(np.array([0.0, 1.0]), "hard", 1e-9, sigma=0.5)
    assert set(v.targets(20, torch.Generator().manual_seed(0)).tolist()) <= {0.0, 1.0}


def test_bandwidth_needs_two_labels_and_a_width():
    for labels, kappa in (([0.5, 0.5], -2), ([0.1, 0.5], 0)):
        with pytest.raises(UserError):
            vicinity.bandwidth(np.array(labels), "hard", kappa)
    assert vicinity.bandwidth(np.array([0.1, 0.5]), "soft", 7.0, 0.25) == (0.25, 7.0)  # as they are
