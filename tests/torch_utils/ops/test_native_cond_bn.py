# SPDX-License-Identifier: Apache-2.0
"""The compiled class-conditional batch norm against its definition in float64."""

import itertools
import threading

import pytest
import torch

from tests.torch_utils.ops.conftest import (
    EMULATED,
    LAYOUTS,
    TOLERANCE,
    compiles,
    derivatives_fit,
    kept_for_the_backward,
    opcheck,
    rel,
)
from torch_utils.ops.cond_batch_norm import cond_batch_norm, statistics

pytestmark = pytest.mark.usefixtures("native")
SHAPES = [(3, 1, 1, 1), (3, 16, 4, 4), (2, 17, 5, 7), (2, 8, 16, 16), (1, 3, 33, 35), (2, 40, 9, 8)]


def case(shape, dtype, seed=0):
    rng = torch.Generator().manual_seed(seed)
    x = (torch.randn(shape, generator=rng) * 2 + 3).to(dtype)
    return x, torch.randn(shape[:2], generator=rng) + 1, torch.randn(shape[:2], generator=rng)


def run(t, dy, double, relu_mask=None, **kw):
    leaves = [(v.double() if double else v).detach().requires_grad_() for v in t]
    y = cond_batch_norm(*leaves, impl="ref" if double else "auto", **kw)
    return [y, *torch.autograd.grad(y, leaves, dy.to(y.dtype))]


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_against_definition(training, dtype):
    for shape, layout, act, up in itertools.product(SHAPES, LAYOUTS, ("linear", "relu"), (1, 2)):
        t = list(case(shape, dtype))
        if dtype == torch.float64:
            t = [v.double() for v in t]
        t[0] = t[0].contiguous(memory_format=layout)
        kw = dict(act=act, up=up)
        if not training:
            c = shape[1]
            wide = torch.float64 if dtype == torch.float64 else torch.float32
            kw |= dict(training=False, running_mean=torch.full((c,), 2.9, dtype=wide),
                       running_var=torch.full((c,), 3.7, dtype=wide))
        size = (*shape[:2], shape[2] * up, shape[3] * up)
        dy = torch.randn(size, generator=torch.Generator().manual_seed(9)).to(dtype)
        if act == "relu":  # nothing flows where rounding decides
            with torch.no_grad():
                pre = cond_batch_norm(*(v.double() for v in t), impl="ref",
                                      **{**{k: v.double() if torch.is_tensor(v) else v for k, v in kw.items()},
                                         "act": "linear"})
            dy = dy * (pre.abs() > 0.02)
        wide_kw = {k: v.double() if torch.is_tensor(v) else v for k, v in kw.items()}
        ours, truth = run(t, dy, False, **kw), run(t, dy, True, **wide_kw)
        assert ours[0].is_contiguous(memory_format=layout) and ours[0].dtype == dtype
        floor = 0.3 * dy.double().norm().item()
        for i, (a, b) in enumerate(zip(ours, truth)):
            error = rel(a, b, 0.1 * b.numel() ** 0.5 if i == 0 else floor)
            assert error <= TOLERANCE[dtype] * 6, (i, shape, layout, kw)


@pytest.mark.parametrize("offset", [0.0, 1e2, 1e4])
def test_statistics_far_from_zero(offset):
    for shape, layout in itertools.product([(4, 6, 16, 16), (3, 17, 5, 7), (2, 4, 70, 66)], LAYOUTS):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) + offset
        _, mean, var = statistics(x.contiguous(memory_format=layout), compiled=True)
        truth = x.double().var((0, 2, 3), correction=0)
        spread = truth.sqrt().norm().item()
        assert rel(mean, x.double().mean((0, 2, 3)), floor=spread) <= 1e-6
        assert rel(var, truth) <= 1e-5 + 2**-24 * offset


def test_gradcheck():
    x, gain, bias = (v.double().requires_grad_() for v in case((2, 3, 3, 2), torch.float32))
    for kw in (dict(), dict(act="relu"), dict(act="relu", up=2)):
        derivatives_fit(lambda *a, kw=kw: cond_batch_norm(*a, **kw), (x, gain, bias), atol=1e-4)


@pytest.mark.skipif(bool(EMULATED), reason="the emulator runs one kernel at a time, not those of two threads")
@pytest.mark.parametrize("impl", ["auto", "ref"])
def test_two_processes_are_one(impl):
    """Two threads play two processes with unequal shares of a batch: outputs and gradients are those of one."""
    torch.manual_seed(0)
    x, gain, bias = case((6, 5, 4, 4), torch.float32)
    dy = torch.randn_like(x)
    leaves = [v.detach().requires_grad_() for v in (x, gain, bias)]
    whole = cond_batch_norm(*leaves, act="relu", impl=impl)
    truth = torch.autograd.grad(whole, leaves, dy)
    barrier, slots, failures = threading.Barrier(2), [None, None], []

    def worker(rank, rows):
        def gather(t):
            slots[rank] = t.detach()
            barrier.wait(30)
            both = torch.stack(slots)
            barrier.wait(30)
            return both

        try:
            part = [v[rows].detach().requires_grad_() for v in (x, gain, bias)]
            y = cond_batch_norm(*part, act="relu", gather=gather, impl=impl)
            assert rel(y, whole[rows]) <= 1e-5
            for a, b in zip(torch.autograd.grad(y, part, dy[rows]), truth):
                assert rel(a, b[rows]) <= 1e-5
            if impl == "auto":
                y = cond_batch_norm(*part, act="relu", gather=gather)
                with pytest.raises(NotImplementedError, match="once only"):
                    torch.autograd.grad(y, part[0], dy[rows], create_graph=True)
        except BaseException as e:
            failures.append(e)
            barrier.abort()

    threads = [threading.Thread(target=worker, args=a) for a in ((0, slice(0, 2)), (1, slice(2, 6)))]
    [t.start() for t in threads]
    [t.join(60) for t in threads]
    assert not failures, failures


def test_edges():
    with pytest.raises(ValueError, match="more than 1 value"):
        cond_batch_norm(torch.randn(1, 3, 1, 1))
    constant = torch.full((2, 3, 4, 4), 7.0, requires_grad=True)
    bias = torch.randn(2, 3)
    y = cond_batch_norm(constant, torch.ones(2, 3), bias)
    assert torch.equal(y, bias[:, :, None, None].expand_as(y).contiguous())
    assert torch.autograd.grad(y.square().sum(), constant)[0].isfinite().all()
    mean, var = torch.zeros(3), torch.ones(3)
    assert cond_batch_norm(torch.zeros(0, 3, 4, 4), running_mean=mean, running_var=var, up=2).shape == (0, 3, 8, 8)
    assert not mean.any() and (var == 1).all()


def test_only_x_is_saved():
    x, gain, bias = (v.requires_grad_() for v in case((2, 8, 16, 16), torch.float32))
    _, large = kept_for_the_backward(lambda: cond_batch_norm(x, gain, bias, act="relu"))
    assert large == {x.untyped_storage().data_ptr()}


def test_opcheck_and_compile():
    ops = torch.ops.gantransfer
    x, gain, bias = case((2, 3, 4, 4), torch.float32)
    mean, invstd = torch.zeros(3), torch.ones(3)
    checks = ("test_schema", "test_faketensor")
    for layout in LAYOUTS:
        x = x.contiguous(memory_format=layout)
        opcheck(ops.cond_bn_stats.default, (x,), test_utils=checks)
        opcheck(ops.cond_bn.default, (x, gain, bias, mean, invstd, True, True), test_utils=checks)
        args = (x, x, gain, None, mean, invstd)
        opcheck(ops.cond_bn_reduce.default, (*args, True, False), test_utils=checks)
        opcheck(ops.cond_bn_dx.default, (*args, mean, mean, True, False), test_utils=checks)
    leaves = [v.requires_grad_() for v in (x, gain, bias)]
    for kw in (dict(act="relu", up=2), dict(training=False, running_mean=mean, running_var=invstd)):
        compiles(lambda *a, kw=kw: cond_batch_norm(*a, **kw), *leaves)
