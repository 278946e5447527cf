# SPDX-License-Identifier: Apache-2.0
"""Class-conditional batch norm: the formula, its gradients, edge cases, and statistics shared by processes."""

import threading

import pytest
import torch

from torch_utils.ops.cond_batch_norm import cond_batch_norm


def data(n=4, c=3, h=5, w=2, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    x, gain, bias = (torch.randn(s, generator=g, dtype=torch.float64) for s in ([n, c, h, w], [n, c], [n, c]))
    return (x * 2 + 1).to(dtype), gain.to(dtype), bias.to(dtype)


def naive(x, gain, bias, mean, var, eps, act, up):
    y = (x - mean[:, None, None]) / (var[:, None, None] + eps) ** 0.5
    y = y * gain[:, :, None, None] + bias[:, :, None, None]
    y = y.clamp(min=0) if act == "relu" else y
    return torch.nn.functional.interpolate(y, scale_factor=up, mode="nearest") if up > 1 else y


@pytest.mark.parametrize("act", ["linear", "relu"])
@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_formula(act, up, dtype):
    x, gain, bias = data(dtype=dtype)
    y, stats = cond_batch_norm(x, gain, bias, eps=1e-3, act=act, up=up)
    wide = x.double()
    mean, var = wide.mean([0, 2, 3]), wide.var([0, 2, 3], unbiased=False)
    tol = {torch.float64: 1e-12, torch.float32: 1e-5}.get(dtype, 5e-2)
    assert y.dtype == dtype
    assert (y - naive(wide, gain.double(), bias.double(), mean, var, 1e-3, act, up)).abs().max() < tol
    assert stats.mean.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.allclose(stats.mean.double(), mean, atol=max(tol, 1e-6) * 0.1)
    assert torch.allclose(stats.unbiased_var.double(), wide.var([0, 2, 3]), rtol=1e-4)
    z, none = cond_batch_norm(x, gain, bias, mean.float(), var.float(), eps=1e-3, act=act, up=up) if (
        dtype != torch.float64) else cond_batch_norm(x, gain, bias, mean, var, eps=1e-3, act=act, up=up)
    assert none is None and (z - y).abs().max() <= max(tol, 1e-6)


@pytest.mark.parametrize("mode", ["train", "eval", "shared"])
def test_gradients_of_both_orders(mode):
    x, gain, bias = (t.requires_grad_(True) for t in data(3, 2, 2, 2))
    kw = {"eval": dict(mean=torch.zeros(2).double(), var=torch.ones(2).double()), "shared": dict(reduce=lambda t: t),
          "train": {}}[mode]

    def f(x, gain, bias):
        return cond_batch_norm(x, gain, bias, act="relu", up=2, **kw)[0]

    assert torch.autograd.gradcheck(f, (x, gain, bias))
    assert torch.autograd.gradgradcheck(f, (x, gain, bias))


def test_edges():
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        cond_batch_norm(torch.ones(1, 3, 1, 1))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        cond_batch_norm(torch.ones(1, 3, 1, 1), reduce=lambda t: t)
    x = torch.full([2, 1, 3, 3], 7.0, requires_grad=True)
    y, stats = cond_batch_norm(x, torch.ones(2, 1), torch.full([2, 1], 0.5))
    y.sum().backward()
    # a rounding error of the mean is divided by sqrt(eps)
    assert torch.allclose(y, torch.full_like(y, 0.5), atol=1e-3) and torch.isfinite(x.grad).all()
    assert float(stats.var) < 1e-9
    y, stats = cond_batch_norm(torch.ones(0, 3, 4, 4), torch.ones(0, 3), torch.ones(0, 3), up=2)
    assert y.shape == (0, 3, 8, 8) and stats is None
    x, gain, bias = data(dtype=torch.float32)
    for other in (x.to(memory_format=torch.channels_last), x.transpose(2, 3).contiguous().transpose(2, 3)):
        assert torch.allclose(cond_batch_norm(other, gain, bias)[0], cond_batch_norm(x, gain, bias)[0], atol=1e-6)
    for bad in (dict(act="tanh"), dict(up=3), dict(impl="fast"), dict(mean=torch.zeros(3)), dict(gain=torch.ones(3))):
        with pytest.raises(ValueError):
            cond_batch_norm(x, **bad)


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_two_halves_equal_the_whole(offset):
    """Two threads play two processes: outputs, statistics and gradients are those of the full batch."""
    x, gain, bias = data(8, 3, 4, 4, torch.float32)
    x = x + offset
    dy = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    leaf = [t.clone().requires_grad_(True) for t in (x, gain, bias)]
    y, stats = cond_batch_norm(*leaf, act="relu")
    y.backward(dy)
    barrier, slots = threading.Barrier(2), [None, None]
    out = [None, None]

    def worker(rank):
        def reduce(t):
            slots[rank] = t
            barrier.wait(20)
            total = slots[0] + slots[1]
            barrier.wait(20)
            return total

        rows = slice(4 * rank, 4 * rank + 4)
        mine = [t[rows].clone().requires_grad_(True) for t in (x, gain, bias)]
        a, s = cond_batch_norm(*mine, act="relu", reduce=reduce)
        a.backward(dy[rows])
        out[rank] = (a.detach(), s, [t.grad for t in mine])

    threads = [threading.Thread(target=worker, args=(r,)) for r in (0, 1)]
    [t.start() for t in threads]
    [t.join(30) for t in threads]
    tol = 1e-5 + 2.0**-24 * offset
    assert (torch.cat([o[0] for o in out]) - y).abs().max() < tol * float(y.detach().abs().max())
    for i, whole in enumerate(leaf):
        both = torch.cat([o[2][i] for o in out])
        assert (both - whole.grad).abs().max() < 2 * tol * float(whole.grad.abs().max()) + 1e-6
    for o in out:
        assert torch.allclose(o[1].mean, stats.mean, rtol=1e-6) and torch.allclose(o[1].var, stats.var, rtol=1e-3)
        assert torch.allclose(o[1].unbiased_var, stats.unbiased_var, rtol=1e-3)
