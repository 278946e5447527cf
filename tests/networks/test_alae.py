# SPDX-License-Identifier: Apache-2.0
"""ALAE's networks beyond the published numbers."""

import torch

from gantransfer.networks import alae


def test_a_constant_image_has_finite_gradients():
    E = alae.Encoder(8, [4, 8, 8], 1).train()
    x = torch.zeros(2, 1, 8, 8, requires_grad=True)
    (grad,) = torch.autograd.grad(E(x).sum(), x, create_graph=True)
    grad.square().sum().backward()
    assert grad.isfinite().all() and all(p.grad is None or p.grad.isfinite().all() for p in E.parameters())
