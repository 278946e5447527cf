# SPDX-License-Identifier: Apache-2.0
"""Hypermodulation of a StyleGAN v1."""

import pytest
import torch

from gantransfer.networks import hypermod_stylegan1, stylegan1
from tests.networks.test_hypermod import C, make1, soft
from torch_utils.random import SeedStack


def test_exact_start_on_v1():
    for faithful in (False, True):
        G, H = make1(exact=not faithful, faithful=faithful)
        z = torch.randn(4, 8)
        with torch.no_grad():
            a, b = G(z, rng=SeedStack(range(4))), H(z, soft(4), rng=SeedStack(range(4)))
        assert ((a - b).abs().max() < 1e-5) != faithful
    with pytest.raises(ValueError, match="faithful"):
        hypermod_stylegan1.convert(G, C, exact=True, faithful=True)


def test_heads_and_classes_of_v1():
    D = stylegan1.Discriminator([6, 6, 4], fused=1)
    x, c = torch.randn(3, 3, 16, 16), torch.eye(C)
    with torch.no_grad():
        many = hypermod_stylegan1.new_heads(D, C, copy=True)
        torch.testing.assert_close(many(x, c), D(x))
        assert (hypermod_stylegan1.new_heads(D, C, copy=False)(x, c) - D(x)).abs().max() > 1e-3
        G, _ = make1()
        one = hypermod_stylegan1.convert(G, 1, task_dim=4, exact=False)
        H, z = hypermod_stylegan1.with_classes(one, C), torch.randn(3, 8)
        torch.testing.assert_close(H(z, c, rng=SeedStack(range(3))), one(z, torch.ones(3, 1), rng=SeedStack(range(3))))
