# SPDX-License-Identifier: Apache-2.0
"""StyleGAN v1: published sizes, the meaning of the fused layers, noise, truncation and fading."""

import pytest
import torch
import torch.nn.functional as F

from gantransfer.networks import stylegan1
from torch_utils.random import SeedStack


def small(**kw):
    torch.manual_seed(0)
    G = stylegan1.Generator([8, 8, 6], code_dim=8, n_mlp=2, fused_from=2, **kw)
    for name, p in G.named_parameters():
        if ".noise" in name:
            torch.nn.init.normal_(p)
    return G


def test_sizes_of_the_published_file():
    channels = [512, 512, 512, 512, 256, 128, 64, 32, 16]
    with torch.device("meta"):
        G = stylegan1.Generator(channels, img_resolution=256)
        D = stylegan1.Discriminator(channels, fused=4)
    assert sum(p.numel() for p in G.generator.parameters()) == 24_117_867
    assert sum(p.numel() for p in G.style.parameters()) == 2_101_248
    assert sum(p.numel() for p in D.parameters()) == 25_444_737
    assert G.step == 6 and G.num_ws == 7
    assert G.state_dict()["generator.progression.5.conv1.0.weight"].shape == (256, 128, 3, 3)
    assert D.state_dict()["progression.8.conv1.0.conv.weight_orig"].shape == (512, 513, 3, 3)


def test_fused_layers_are_a_convolution_beside_a_box():
    x, w = torch.randn(2, 3, 8, 8, dtype=torch.float64), torch.randn(4, 3, 3, 3, dtype=torch.float64)
    down = F.avg_pool2d(F.conv2d(x, w, padding=1), 2)
    torch.testing.assert_close(stylegan1.fused_downsample(x, w), down)
    # Up: nearest enlargement, then the flipped kernel, divided by four.
    up = F.conv2d(stylegan1.upsample(x), w.flip(2, 3), padding=1) / 4
    torch.testing.assert_close(stylegan1.fused_upsample(x, w.transpose(0, 1)), up)


def test_noise_is_a_function_of_the_seed():
    G, z = small(), torch.randn(3, 8)
    with torch.no_grad():
        together = G(z, rng=SeedStack([5, 6, 7]))
        alone = G(z[1:2], rng=SeedStack([6]))
        torch.testing.assert_close(together[1:2], alone)
        assert (G(z, rng=SeedStack([5, 9, 7]))[1] - together[1]).abs().max() > 1e-3
        assert torch.equal(G(z, noise_mode="const"), G(z, noise_mode="const"))
    with pytest.raises(ValueError, match="noise_mode"):
        G(z, noise_mode="constant")


def test_truncation_and_fading():
    G, z = small(), torch.randn(2, 8)
    with torch.no_grad():
        torch.testing.assert_close(G.mapping(z, truncation_psi=0)[0, 0], G.mean_style()[0])
        cut = G.mapping(z, truncation_psi=0, truncation_cutoff=1)
        torch.testing.assert_close(cut[:, 1:], G.mapping(z)[:, 1:])
        ws = G.mapping(z)
        old = stylegan1.upsample(G.synthesis(ws, noise_mode="none", step=1))
        torch.testing.assert_close(G.synthesis(ws, noise_mode="none", alpha=0), old)


def test_double_backward_of_the_critic():
    torch.manual_seed(0)
    D = stylegan1.Discriminator([6, 6], fused=1, img_channels=1, num_classes=2).double()
    c = torch.eye(2, dtype=torch.float64)

    def slope(x):
        (g,) = torch.autograd.grad(D(x, c).sum(), x, create_graph=True)
        return g.square().sum()

    x = torch.randn(2, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(slope, (x,), atol=1e-6)


def test_images_of_wrong_sizes():
    D = stylegan1.Discriminator([4, 4, 4], fused=1)
    for shape in ((2, 3, 32, 32), (2, 3, 8, 16), (2, 3, 12, 12)):
        with pytest.raises(ValueError, match="expected"):
            D(torch.zeros(shape))
    with pytest.raises(ValueError, match="pixels"):
        stylegan1.Generator([4, 4], code_dim=4, img_resolution=16)
