# SPDX-License-Identifier: Apache-2.0
"""The blur with epilogue, whatever serves it: what upfirdn2d and epilogue make of the same arguments."""

import pytest
import torch

from torch_utils import build
from torch_utils.ops.blur_epilogue import blur_epilogue
from torch_utils.ops.epilogue import epilogue
from torch_utils.ops.upfirdn2d import setup_filter, upfirdn2d

F4 = setup_filter([1, 3, 3, 1])


def tensors(dtype=torch.float64, size=(2, 3, 7, 6), out=(6, 5)):
    g = torch.Generator().manual_seed(4)
    x, d = torch.randn(size, generator=g), torch.rand(size[:2], generator=g) + 0.5
    noise, b = torch.randn(size[0], 1, *out, generator=g), torch.randn(size[1], generator=g)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return [x.to(dtype), *(t.to(wide).requires_grad_() for t in (d, noise, torch.tensor(0.4), b))]


def two(x, f, padding, *rest, flip_filter=False, fir_gain=1, impl="auto", **kw):
    return epilogue(upfirdn2d(x, f, padding=padding, flip_filter=flip_filter, gain=fir_gain, impl=impl), *rest,
                    impl=impl, **kw)


CASES = {"layer": dict(act="lrelu", clamp=0.9, fir_gain=4), "flipped": dict(act="relu", flip_filter=True),
         "linear": dict(), "gain 0": dict(act="lrelu", gain=0), "negative gain": dict(act="relu", gain=-0.5),
         "no filter": dict(f=None, padding=(-1, 0, -1, 0), act="lrelu"),
         "wide filter": dict(f=F4.double().flip(0), act="lrelu")}


@pytest.mark.parametrize("impl", ["auto", "ref"])
@pytest.mark.parametrize("name", CASES)
def test_equals_the_two_operators(name, impl):
    kw = {**dict(f=F4, padding=1), **CASES[name]}
    f, padding = kw.pop("f"), kw.pop("padding")
    for layout in (torch.contiguous_format, torch.channels_last):
        for scale in (None, 0.7):
            x, d, *rest = tensors()
            x = x.contiguous(memory_format=layout).requires_grad_()
            d = d if scale is None else scale
            leaves = [t for t in (x, d, *rest) if isinstance(t, torch.Tensor)]
            found = []
            for fn in (blur_epilogue, two):
                y = fn(x, f, padding, d, *rest, impl=impl, **kw)
                grads = torch.autograd.grad(y, leaves, torch.ones_like(y), create_graph=True)
                second = torch.autograd.grad(sum(g.square().sum() for g in grads), leaves, allow_unused=True)
                found.append([y, *grads, *(torch.zeros(()) if g is None else g for g in second)])
                assert y.is_contiguous(memory_format=layout)
            for a, b in zip(*found):
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_exactly_the_two_without_compiled_kernels(monkeypatch):
    monkeypatch.setattr(build._State, "mode", "ref")
    for dtype in (torch.float32, torch.bfloat16):
        x, *rest = tensors(dtype)
        kw = dict(act="lrelu", clamp=0.9, fir_gain=4)
        assert torch.equal(blur_epilogue(x, F4, 1, *rest, **kw), two(x, F4, 1, *rest, **kw))


def test_no_blur_is_the_epilogue():
    x, d, _, strength, b = tensors()
    noise = torch.randn(7, 6, dtype=torch.float64)
    y = blur_epilogue(x, None, 0, d, noise, strength, b, act="lrelu")
    assert torch.equal(y, epilogue(x, d, noise, strength, b, act="lrelu"))
