# SPDX-License-Identifier: Apache-2.0
"""Vectors whose squared difference says how near images look."""

import pytest
import torch
import torch.nn.functional as F

from dnnlib.util import UserError
from gantransfer.detectors import features
from gantransfer.latent import nearness
from gantransfer.networks.stylegan2 import Discriminator


def test_pixels_are_mean_squares_of_every_scale():
    a, b = torch.rand(2, 1, 3, 16, 16).unbind(0)
    want = sum(F.mse_loss(F.avg_pool2d(a, k) if k > 1 else a, F.avg_pool2d(b, k) if k > 1 else b) for k in (1, 2, 4))
    got = (nearness.pixels(a) - nearness.pixels(b)).square().sum()
    assert torch.allclose(got, want) and nearness.pixels(a).shape[1] == 3 * (256 + 64 + 16)


def test_the_discriminators_features_have_unit_length():
    """So every position of every block gives at most 4 / positions, and the sum over positions a mean."""
    torch.manual_seed(0)
    D = Discriminator(0, 16, 3, channel_base=64, channel_max=8).eval()
    embed, words = nearness.nearness(D, 16, torch.device("cpu"))
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    seen = embed(x)[:, 3 * (256 + 64 + 16):]
    assert "discriminator" in words
    assert torch.allclose(seen.square().sum(1), torch.full([2], 2.0), atol=1e-4)  # two blocks
    assert not torch.allclose(seen[0], seen[1])
    x.requires_grad_(True)
    embed(x).square().sum().backward()
    assert x.grad.isfinite().all() and x.grad.abs().max() > 0


def test_without_a_discriminator_pixels(monkeypatch):
    embed, words = nearness.nearness(None, 16, torch.device("cpu"))
    assert embed is nearness.pixels and "no discriminator" in words


def test_lpips_where_its_weights_are(monkeypatch):
    """Images of 0..255 and three channels, no larger than 256 pixels."""
    seen = []
    embed = lambda x: (seen.append(x), x.flatten(1))[1]  # noqa: E731
    monkeypatch.setattr(features, "load_lpips", lambda device, d: features.Perceptual(embed, ""))
    of, words = nearness.nearness(None, 512, torch.device("cpu"))
    of(torch.ones(1, 1, 512, 512))
    assert words == "LPIPS" and seen[0].shape == (1, 3, 256, 256) and torch.allclose(seen[0], torch.tensor(255.0))


def test_weights_that_were_named_must_be_there():
    with pytest.raises(UserError, match="nowhere"):
        nearness.nearness(None, 16, torch.device("cpu"), {"lpips": "nowhere.pt"})
