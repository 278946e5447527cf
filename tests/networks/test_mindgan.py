# SPDX-License-Identifier: Apache-2.0
"""The mind's mapping and critic."""

import pytest
import torch

from gantransfer.networks import mindgan


def test_gaussian_mapping_draws_its_moments():
    net = mindgan.GaussianMapping(2, 3, 4, classes=2)
    net.mean.copy_(torch.tensor([[0.0, 0, 0], [5, 0, 0]]))
    net.factor.copy_(torch.stack([torch.eye(3), torch.eye(3) * 2]))
    z = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0))
    w = net(z, torch.eye(2)[1].expand(4000, -1))[:, 0]
    assert torch.allclose(w.mean(0), torch.tensor([5.0, 0, 0]), atol=0.15)
    assert torch.allclose(torch.cov(w.t()), torch.eye(3) * 4, atol=0.4)


@pytest.mark.parametrize("hidden", [[], [7], [9, 6]])
@pytest.mark.parametrize("c_dim", [0, 3])
def test_the_critics_gradient_is_autograds(hidden, c_dim):
    if c_dim and not hidden:
        pytest.skip("labels need features")
    torch.manual_seed(0)
    K = mindgan.Critic([5, *hidden, 1], c_dim)
    w = torch.randn(11, 5).requires_grad_(True)
    c = torch.eye(3)[torch.arange(11) % 3] if c_dim else None
    (want,) = torch.autograd.grad(K(w, c).sum(), w, create_graph=True)
    got = K.input_gradient(w.detach(), c)
    assert torch.allclose(got, want, atol=1e-6)
    (a, b) = (torch.autograd.grad((g.norm(dim=1) - 1).square().mean(), list(K.parameters()), allow_unused=True)
              for g in (got, want))
    for p, q in zip(a, b):
        assert torch.allclose(p if p is not None else torch.zeros(1), q if q is not None else torch.zeros(1), atol=1e-6)


def test_uniform_prior_is_uniform():
    net = mindgan.MindMapping(2, 0, 3, 4, prior="uniform")
    u = net.to_prior(torch.randn(20000, 2, generator=torch.Generator().manual_seed(0)))
    assert float(u.abs().max()) <= 1 and float(u.var()) == pytest.approx(1 / 3, rel=0.03)
