# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch

from torch_utils import build
from torch_utils.ops.epilogue import epilogue

SLOPE = {"linear": 1, "relu": 0, "lrelu": 0.2}


def tensors(n=2, c=3, h=4, w=5, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)

    def randn(*s):
        return torch.randn(s, generator=g, dtype=torch.float64).to(dtype)

    return randn(n, c, h, w), randn(n, c).abs() + 0.3, randn(n, 1, h, w), randn(), randn(c)


VARIANTS = {  # which of d, noise, strength, b take part
    "all": lambda d, noise, strength, b: (d, noise, strength, b),
    "shared noise": lambda d, noise, strength, b: (d, noise[0, 0], strength, b),
    "number": lambda d, noise, strength, b: (0.7, None, None, b),
    "number alone": lambda d, noise, strength, b: (0.7, None, None, None),
    "no bias": lambda d, noise, strength, b: (d, noise, strength, None),
    "no d": lambda d, noise, strength, b: (None, noise, strength, b),
    "nothing": lambda d, noise, strength, b: (None, None, None, None),
}


def naive(x, d, noise, strength, b, act, gain, clamp):
    u = x.double().numpy().copy()
    if d is not None:
        u *= d if isinstance(d, float) else d.double().numpy()[:, :, None, None]
    if noise is not None:
        u += noise.double().numpy() * strength.item()
    if b is not None:
        u += b.double().numpy()[None, :, None, None]
    y = np.where(u > 0, u, u * SLOPE[act]) * gain
    return y if clamp is None else np.clip(y, -clamp, clamp)


@pytest.mark.parametrize("impl", ["auto", "ref"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("act", SLOPE)
def test_forward(act, variant, impl):
    x, *rest = tensors()
    rest = VARIANTS[variant](*rest)
    for gain in (1, 1.4, 0, -0.5):
        for clamp in (None, 0.6):
            expected = naive(x, *rest, act, gain, clamp)
            for layout in (torch.contiguous_format, torch.channels_last):
                xx = x.contiguous(memory_format=layout)
                y = epilogue(xx, *rest, act=act, gain=gain, clamp=clamp, impl=impl)
                np.testing.assert_allclose(y.numpy(), expected, rtol=1e-10, atol=1e-12)
                assert y.is_contiguous(memory_format=layout)
                assert torch.equal(xx, x)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("act, clamp", [("linear", None), ("relu", None), ("lrelu", None), ("lrelu", 0.9)])
def test_gradients_equal_the_composition(act, clamp, variant, layout, monkeypatch):
    """Of what serves where no kernels are compiled; those of the kernels: test_native_epilogue.py."""
    monkeypatch.setattr(build._State, "mode", "ref")
    x, *rest = tensors(n=3, c=4, h=6, w=5, seed=3)
    rest = VARIANTS[variant](*rest)
    leaves = [t for t in (x, *rest) if isinstance(t, torch.Tensor)]
    v = [torch.randn_like(t) for t in (x, *leaves)]

    def run(impl):
        own = iter([t.clone().contiguous(memory_format=layout).requires_grad_(True) if t.ndim == 4
                    else t.clone().requires_grad_(True) for t in leaves])
        args = [next(own) if isinstance(t, torch.Tensor) else t for t in (x, *rest)]
        own = [t for t in args if isinstance(t, torch.Tensor)]
        y = epilogue(*args, act=act, gain=1.3, clamp=clamp, impl=impl)
        dy = v[0].clone().requires_grad_(True)
        first = torch.autograd.grad(y, own, dy, create_graph=True)
        s = sum((g * u).sum() for g, u in zip(first, v[1:]))
        second = torch.autograd.grad(s, [dy, *own], allow_unused=True)
        return [*first, *(torch.zeros_like(t) if g is None else g for g, t in zip(second, [dy, *own]))]

    for a, b in zip(run("auto"), run("ref")):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_mistakes_are_explained():
    x, d, noise, strength, b = tensors()
    for kw, message in ((dict(act="tanh"), "act"), (dict(clamp=-1), "clamp"), (dict(impl="x"), "impl"),
                        (dict(noise=noise), "together"), (dict(d=d[:1]), "d "), (dict(b=b[:1]), "b "),
                        (dict(noise=noise[:1], strength=strength), "noise")):
        with pytest.raises(ValueError, match=message):
            epilogue(x, **kw)
