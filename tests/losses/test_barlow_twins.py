# SPDX-License-Identifier: Apache-2.0
"""Barlow Twins against its formula in NumPy, entry by entry."""

import numpy as np
import pytest
import torch

from gantransfer.losses.barlow_twins import barlow_twins
from torch_utils import distributed as dist
from torch_utils import random as rnd


def by_the_paper(a, b, gamma, eps=1e-5):
    """Sum over the entries of the cross-correlation, one by one."""
    n, d = a.shape
    corr = np.empty([d, d])
    for i in range(d):
        for j in range(d):
            x, y = a[:, i] - a[:, i].mean(), b[:, j] - b[:, j].mean()
            corr[i, j] = (x * y).mean() / np.sqrt((a[:, i].var() + eps) * (b[:, j].var() + eps))
    return sum((1 - corr[i, i]) ** 2 if i == j else gamma * corr[i, j] ** 2 for i in range(d) for j in range(d))


def twins(n=6, d=4, seed=0):
    rng = np.random.RandomState(seed)
    a = rng.randn(n, d) @ rng.randn(d, d) + 3
    return a, a + 0.3 * rng.randn(n, d)


@pytest.mark.parametrize("gamma", [0.0, 0.05, 1.0])
def test_the_loss_is_the_papers(gamma):
    a, b = twins()
    got = barlow_twins(torch.tensor(a), torch.tensor(b), gamma)
    assert got.shape == () and float(got) == pytest.approx(by_the_paper(a, b, gamma), rel=1e-10)


def test_gradients():
    a, b = (torch.tensor(x, requires_grad=True) for x in twins())
    assert torch.autograd.gradcheck(lambda a, b: barlow_twins(a, b, 0.05), (a, b))


def test_twins_that_agree_in_independent_numbers_cost_nothing():
    x = torch.randn([8, 3], generator=rnd.generator(0), dtype=torch.float64)
    x = torch.linalg.qr(x - x.mean(0))[0] * 8**0.5  # orthogonal columns of mean 0 and variance 1
    assert float(barlow_twins(x, x, 1.0, eps=1e-12)) == pytest.approx(0, abs=1e-12)


def test_rows_that_are_all_alike_stay_finite():
    """They have no correlation: no gradient, and no NaN."""
    a = torch.ones([2, 5], requires_grad=True)
    loss = barlow_twins(a, torch.ones([2, 5]), 0.05)
    assert loss.item() == pytest.approx(5)
    (grad,) = torch.autograd.grad(loss, a)
    assert torch.isfinite(grad).all()


def test_it_sees_the_pairs_of_all_processes(monkeypatch):
    a, b = (torch.tensor(x) for x in twins(6))
    whole = barlow_twins(a, b, 0.05)
    shares = [x[k::2] for x in (a, b) for k in range(2)]
    both = {id(shares[0]): a, id(shares[2]): b}
    monkeypatch.setattr(dist, "gather_rows", lambda x: both[id(x)])
    assert torch.allclose(barlow_twins(shares[0], shares[2], 0.05), whole)
