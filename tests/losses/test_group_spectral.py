# SPDX-License-Identifier: Apache-2.0
"""gSR: the penalty against singular values of NumPy, its gradient, and its power iteration over steps."""

import numpy as np
import pytest
import torch

from gantransfer.losses.group_spectral import ALPHA, GroupSpectral, group_shape

COUNTS = [100, 10, 1]


def tables(seed=0, sizes=(12, 7, 16), classes=3, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn([classes, n], generator=g, dtype=dtype) for n in sizes]


def by_the_paper(weight, given, counts=COUNTS):
    effective = np.array([(1 - ALPHA**n) / (1 - ALPHA) for n in counts])
    rho = 1 / effective / (1 / effective).mean()
    total = 0.0
    for t in given:
        for y, row in enumerate(t.double().numpy()):
            total += rho[y] * np.linalg.svd(row.reshape(group_shape(len(row))))[1][0] ** 2
    return weight * total / (len(given) * len(counts))


@pytest.mark.parametrize("n, shape", [(1, (1, 1)), (2, (1, 2)), (7, (1, 7)), (12, (3, 4)), (64, (8, 8)),
                                      (384, (16, 24)), (512, (16, 32))])
def test_groups_are_as_square_as_they_can_be(n, shape):
    assert group_shape(n) == shape


def test_the_penalty_is_the_papers():
    given = tables()
    gsr = GroupSpectral(COUNTS, 0.5, given)
    assert float(gsr.penalty(given)) == pytest.approx(by_the_paper(0.5, given), rel=1e-5)


def test_gradient():
    """Of sigma_max^2: autograd against the difference of singular values."""
    given = [t.requires_grad_() for t in tables()]
    gsr = GroupSpectral(COUNTS, 0.5, given)
    grads = torch.autograd.grad(gsr.penalty(given), given)
    for k, (t, grad) in enumerate(zip(given, grads)):
        direction = torch.randn(t.shape, generator=torch.Generator().manual_seed(k))
        step = 1e-3

        def moved(s, k=k, direction=direction):
            return [(u.detach() + s * direction if i == k else u.detach()).double() for i, u in enumerate(given)]

        slope = (by_the_paper(0.5, moved(step)) - by_the_paper(0.5, moved(-step))) / (2 * step)
        assert float((grad * direction).sum()) == pytest.approx(slope, rel=2e-3, abs=1e-4)


def test_power_iteration_follows_the_weights():
    given = tables()
    gsr = GroupSpectral(COUNTS, 1.0, given)
    other = [t.flip(0) * 2 for t in tables(5)]
    off = abs(float(gsr.penalty(other)) / by_the_paper(1.0, other) - 1)
    assert float(gsr.penalty(other)) < by_the_paper(1.0, other) and off > 0.05
    for _ in range(30):
        gsr.advance(other)
    assert float(gsr.penalty(other)) == pytest.approx(by_the_paper(1.0, other), rel=1e-4)


def test_the_loss_moves_nothing_and_the_state_continues_it():
    given, other = tables(), tables(3)
    a = GroupSpectral(COUNTS, 1.0, given)
    for _ in range(3):
        a.penalty(other)
    before = [u.clone() for u in a.state()]
    assert all(torch.equal(u, v) for u, v in zip(before, GroupSpectral(COUNTS, 1.0, given).state()))
    a.advance(other)
    b = GroupSpectral(COUNTS, 1.0, other)
    kept = b.u[0]
    b.load_state([u.clone() for u in a.state()])
    assert b.u[0] is kept, "a recording reads the vectors where they were"
    a.advance(given)
    b.advance(given)
    assert all(torch.equal(u, v) for u, v in zip(a.state(), b.state()))
    assert torch.equal(a.penalty(other), b.penalty(other))


def test_rare_classes_are_held_down_more():
    given = [torch.ones([3, 12]).requires_grad_()]
    (grad,) = torch.autograd.grad(GroupSpectral(COUNTS, 1.0, given).penalty(given), given)
    per_class = grad.norm(dim=1)
    assert per_class[2] > 5 * per_class[1] > 5 * per_class[0] > 0


def test_parameters_that_are_zero():
    """As after an initialisation with zeros: no NaN, and the vectors find the parameters when these move."""
    given = [torch.zeros([2, 12], requires_grad=True)]
    gsr = GroupSpectral([3, 3], 1.0, given)
    loss = gsr.penalty(given)
    (grad,) = torch.autograd.grad(loss, given)
    assert loss.item() == 0 and (grad == 0).all()
    gsr.advance(given)
    other = tables(1, (12,), 2)
    for _ in range(30):
        gsr.advance(other)
    assert float(gsr.penalty(other)) == pytest.approx(by_the_paper(1.0, other, [3, 3]), rel=1e-4)


def test_classes_without_images_do_not_count():
    given = [t.requires_grad_() for t in tables()]
    (grad,) = torch.autograd.grad(GroupSpectral([4, 0, 2], 1.0, given[:1]).penalty(given[:1]), given[:1])
    assert (grad[1] == 0).all() and grad[0].norm() > 0
