# SPDX-License-Identifier: Apache-2.0
"""Gaussians of encoded images, by class."""

import numpy as np
import pytest
import torch

from gantransfer.latent import gaussians


def test_statistics():
    g = torch.Generator().manual_seed(0)
    a = torch.randn(4000, 3, generator=g, dtype=torch.float64)
    b = torch.randn(4000, 3, generator=g, dtype=torch.float64) * 2 + torch.tensor([1.0, 0, 0])
    assert gaussians.memorisation(a[:50], a, b[:50]) == 0
    assert gaussians.memorisation(a[:500], a[500:2000], a[2000:2500]) == pytest.approx(1, abs=0.1)
    ids = np.repeat([0, 1], 2000)
    both = torch.cat([a[:2000], b[:2000]])
    means, factors = gaussians.gaussian_factors(both, ids, 2)
    assert torch.allclose(factors[1] @ factors[1].t(), torch.eye(3, dtype=torch.float64) * 4, atol=0.5)
    assert torch.allclose(means[1], b[:2000].mean(0))
    mixed = gaussians.neighbour_mix(a, 100, g, k=1)
    assert (torch.cdist(mixed, a).amin(1) < 1e-6).all()
