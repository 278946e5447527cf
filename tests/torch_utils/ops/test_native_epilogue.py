# SPDX-License-Identifier: Apache-2.0
"""The compiled epilogue against its definition in float64: gradients from the saved output, second order, layouts."""

import itertools

import pytest
import torch

from tests.torch_utils.ops.conftest import (
    LAYOUTS,
    TOLERANCE,
    compiles,
    derivatives_fit,
    emulated,
    kept_for_the_backward,
    opcheck,
    rel,
)
from torch_utils.ops.epilogue import epilogue

pytestmark = pytest.mark.usefixtures("native")
SHAPES = [(1, 1, 1, 1), (3, 16, 4, 4), (2, 17, 5, 7), (2, 8, 16, 16), (2, 40, 9, 13), (1, 3, 33, 35)]


def case(shape, dtype, noise="per sample", with_d=True, with_b=True, bias_std=0.3, seed=0):
    """x, d, noise, strength, b: x moved so that no element is within rounding of the activation's kink."""
    rng = torch.Generator().manual_seed(seed)
    n, c, h, w = shape
    x = torch.randn(shape, generator=rng).to(dtype)
    d = torch.rand(n, c, generator=rng) + 0.5 if with_d else None
    z = {"none": None, "per sample": torch.randn(n, 1, h, w, generator=rng),
         "shared": torch.randn(h, w, generator=rng)}[noise]
    strength = None if z is None else torch.tensor(0.3)
    b = torch.randn(c, generator=rng) * bias_std if with_b else None
    u = x.double() * (1 if d is None else d[:, :, None, None])
    u = u + (0 if z is None else z * strength) + (0 if b is None else b[None, :, None, None])
    x = (x + (u.abs() < 0.05).to(dtype) * 0.4).detach()
    return [x, d, z, strength, b]


def run(tensors, dy, double, **kw):
    """(y, gradients) with every tensor a leaf."""
    leaves = [None if t is None else (t.double() if double else t).detach().requires_grad_(i != 2)
              for i, t in enumerate(tensors)]
    y = epilogue(*leaves, impl="ref" if double else "auto", **kw)
    wanted = [t for i, t in enumerate(leaves) if t is not None and i != 2]
    grads = torch.autograd.grad(y, wanted, dy.to(y.dtype))
    assert [g.dtype for g in grads] == [t.dtype for t in wanted]
    return [y, *grads]


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("noise", ["none", "per sample", "shared"])
def test_against_definition(noise, dtype):
    for shape, layout, full in itertools.product(SHAPES, LAYOUTS, (True, False)):
        t = case(shape, dtype, noise, full, full)
        if dtype == torch.float64:
            t = [None if v is None else v.double() for v in t]
        t[0] = t[0].contiguous(memory_format=layout)
        dy = torch.randn(shape, generator=torch.Generator().manual_seed(9)).to(dtype)
        for kw in (dict(act="lrelu", gain=0.7, clamp=None), dict(act="linear", gain=1.0, clamp=None),
                   dict(act="relu", gain=1.4, clamp=None)):
            ours, truth = run(t, dy, False, **kw), run(t, dy, True, **kw)
            assert ours[0].is_contiguous(memory_format=layout) and ours[0].dtype == dtype
            floor = 0.5 * dy.double().norm().item()
            for i, (a, b) in enumerate(zip(ours, truth)):
                # Sums may cancel: judged against the size of what is summed.
                assert rel(a, b, 0 if i == 0 else floor) <= TOLERANCE[dtype] * 4, (i, shape, layout, kw)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_clamped_elements_and_a_large_bias(dtype):
    for bias_std, clamp in ((10.0, None), (0.3, 0.7), (3.0, 1.3)):
        t = case((4, 32, 16, 16), dtype, bias_std=bias_std)
        dy = torch.randn(t[0].shape, generator=torch.Generator().manual_seed(2)).to(dtype)
        kw = dict(act="lrelu", gain=0.5 * 2**0.5, clamp=clamp)
        if clamp is not None:  # no element within rounding of the bound
            with torch.no_grad():
                y = epilogue(*(None if v is None else v.double() for v in t), impl="ref", act="lrelu", gain=kw["gain"])
            t[0] = (t[0] + ((y.abs() - clamp).abs() < 0.06).to(dtype) * 0.5).detach()
            with torch.no_grad():
                y = epilogue(*(None if v is None else v.double() for v in t), impl="ref", act="lrelu", gain=kw["gain"])
            dy = dy * ((y.abs() - clamp).abs() > 0.03)
            kw["clamp"] = float(torch.tensor(clamp, dtype=dtype))
        ours, truth = run(t, dy, False, **kw), run(t, dy, True, **kw)
        for i, (a, b) in enumerate(zip(ours, truth)):
            floor = 0 if i == 0 else dy.double().norm().item() * 0.1
            assert rel(a, b, floor) <= (5e-6 if dtype == torch.float32 else 2e-2)


@pytest.mark.parametrize("layout, noise", [*zip(LAYOUTS, ("per sample", "shared"))], ids=("nchw", "nhwc"))
def test_gradcheck(layout, noise):
    x, *rest = (v.double() for v in case(emulated((2, 2, 2, 3), (2, 3, 3, 4)), torch.float32, noise))
    t = [v.detach().requires_grad_() for v in (x.contiguous(memory_format=layout), *rest)]
    for kw in (dict(act="lrelu"), dict(act="lrelu", clamp=0.9), dict(act="relu"), dict(act="linear", gain=2.0)):
        derivatives_fit(lambda *a, kw=kw: epilogue(*a, **kw), t)
    derivatives_fit(lambda x: epilogue(x, d=0.37, act="lrelu"), t[:1])


def test_only_the_output_is_saved():
    t = case((2, 8, 16, 16), torch.float32)
    leaves = [v.detach().requires_grad_() for v in t]
    y, large = kept_for_the_backward(lambda: epilogue(*leaves, act="lrelu", clamp=256.0))
    assert large == {y.untyped_storage().data_ptr()}


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 3, 0, 4)])
def test_empty(shape):
    x, d, b = torch.zeros(shape, requires_grad=True), torch.ones(shape[:2], requires_grad=True), torch.ones(3)
    y = epilogue(x, d, None, None, b.requires_grad_(), act="lrelu")
    grads = torch.autograd.grad(y, [x, d, b], torch.zeros_like(y))
    assert y.shape == shape and not grads[2].any() and not grads[1].any()


def test_opcheck_and_compile():
    ops, t = torch.ops.gantransfer, case((2, 3, 6, 6), torch.float32)
    leaves = [v.detach().requires_grad_(i != 2) for i, v in enumerate(t)]
    x, d, z, s, b = leaves
    opcheck(ops.epilogue.default, (x, d, 1.0, z, s, b, 0.2, 1.4, 256.0))
    opcheck(ops.epilogue.default, (x.detach().contiguous(memory_format=LAYOUTS[1]).requires_grad_(), None,
                                   0.5, None, None, b, 0.0, 1.4, -1.0))
    fixed = [v.detach() for v in leaves]
    checks = ("test_schema", "test_faketensor")
    opcheck(ops.epilogue_grad.default, (fixed[0], fixed[0], *fixed[1:2], 1.0, *fixed[2:], 0.2, 1.4, -1.0),
            test_utils=checks)
    compiles(lambda *a: epilogue(*a, act="lrelu", clamp=1.5), *leaves)
