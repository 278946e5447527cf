# SPDX-License-Identifier: Apache-2.0
"""The squared gradient against finite differences of a small network in float64."""

import torch

from gantransfer.losses.penalties import squared_gradient


def network(x, w, v):
    return torch.tanh(x.flatten(1) @ w) @ v  # [n, 1]


def test_it_is_the_squared_gradient_of_each_image():
    g = torch.Generator().manual_seed(0)
    x, w, v = (torch.randn(s, generator=g, dtype=torch.float64) for s in ([3, 2, 2, 2], [8, 5], [5, 1]))
    got = squared_gradient(network(x.requires_grad_(), w, v), x)
    assert got.shape == (3,)
    step, x = 1e-6, x.detach()
    for n in range(3):
        total = 0.0
        for i in range(8):
            shifted = [x.clone(), x.clone()]
            for s, y in zip((step, -step), shifted):
                y.view(3, 8)[n, i] += s
            a, b = (network(y, w, v)[n, 0] for y in shifted)
            total += float((a - b) / (2 * step)) ** 2
        assert abs(float(got[n]) - total) < 1e-7 * max(total, 1)


def test_it_trains_the_network():
    g = torch.Generator().manual_seed(1)
    sizes = [2, 1, 2, 2], [4, 3], [3, 1]
    x, w, v = (torch.randn(s, generator=g, dtype=torch.float64, requires_grad=True) for s in sizes)
    assert torch.autograd.gradcheck(lambda w, v: squared_gradient(network(x, w, v), x), (w, v))


def test_of_no_images():
    x = torch.zeros([0, 1, 2, 2], requires_grad=True)
    assert squared_gradient(x.flatten(1) @ torch.ones(4, 1), x).shape == (0,)
