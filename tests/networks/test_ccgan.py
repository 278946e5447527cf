# SPDX-License-Identifier: Apache-2.0
"""CcGAN's networks beyond the published numbers."""

import pytest
import torch

from gantransfer.networks import ccgan as networks


@pytest.mark.parametrize("resolution", [16, 32, 128])
@pytest.mark.parametrize("arch", networks.ARCHS)
def test_other_sizes(arch, resolution):
    torch.manual_seed(0)
    g, d = networks.ARCHS[arch]
    G, D = g(z_dim=3, h_dim=8, ch=1, resolution=resolution, img_channels=1), d(h_dim=8, ch=1, resolution=resolution,
                                                                              img_channels=1)
    z, h = torch.randn(2, 3), torch.rand(2, 8)
    before = {k: v.clone() for k, v in G.state_dict().items()}
    x = G.train()(z, h)
    assert x.shape == (2, 1, resolution, resolution) and D(x, h).shape == (2, 1)
    assert all(torch.equal(v, before[k]) for k, v in G.state_dict().items())  # a forward changes nothing ...
    networks.update_running(G)
    assert any(not torch.equal(v, before[k]) for k, v in G.state_dict().items())  # ... until it is told to
    assert (D(x, h) - D(x, h + 1)).abs().max() > 0


def test_sweeps_find_the_largest_singular_value():
    torch.manual_seed(0)
    layer = networks.SNLinear(20, 30)
    layer.sweep(200)
    assert float(torch.linalg.matrix_norm(layer.effective_weight().detach(), 2)) == pytest.approx(1, abs=1e-4)
