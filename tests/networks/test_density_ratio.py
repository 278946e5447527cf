# SPDX-License-Identifier: Apache-2.0
"""The network of density ratios."""

import pytest
import torch

from gantransfer.distillation.rejection import csp_loss
from gantransfer.networks.density_ratio import DensityRatio


def test_softplus_never_dies_and_relu_can():
    for output, alive in (("softplus", True), ("relu", False)):
        torch.manual_seed(0)
        net = DensityRatio(3, 2, (16,), "class", 0.0, output)
        with torch.no_grad():
            net.main[-1].bias.fill_(-20.0)
        r = net(torch.randn(8, 3), torch.eye(2)[[0, 1] * 4])
        csp_loss(r[:4], r[4:], 1e-2).backward()
        assert (net.main[-1].bias.grad.abs().sum() > 0) == alive and (r > 0).all() == alive


def test_a_feature_as_wide_as_a_hidden_layer(tmp_path):
    net = DensityRatio(16, 4, (32, 16), "class")
    assert net(torch.randn(5, 16), torch.eye(4)[[0, 1, 2, 3, 0]]).shape == (5,)
    for widths in ((8,), (20,), ()):
        with pytest.raises(ValueError, match="multiple of 8"):
            DensityRatio(4, 2, widths)
