# SPDX-License-Identifier: Apache-2.0
"""The compiled upfirdn2d against its definition in float64."""

import itertools

import pytest
import torch

from tests.torch_utils.ops.conftest import (
    EMULATED,
    LAYOUTS,
    TOLERANCE,
    compiles,
    derivatives_fit,
    opcheck,
    rel,
)
from torch_utils.ops.upfirdn2d import downsample2d, filter2d, setup_filter, upfirdn2d, upsample2d

pytestmark = pytest.mark.usefixtures("native")
SHAPES = [(1, 1, 1, 1), (2, 3, 4, 4), (1, 16, 8, 8), (65, 1, 4, 5), (1, 17, 5, 7), (2, 16, 13, 37), (1, 2, 70, 66),
          (1, 3, 16, 16), (2, 70, 6, 5), (1, 150, 5, 3)]
if EMULATED:  # as many blocks across, fewer of the same; the tile of 12 taps twice both ways, whatever the scaling
    SHAPES[5:7] = [(2, 4, 13, 37), (1, 2, 6, 66)]
SYM6 = [0.0154, 0.0035, -0.1180, -0.0483, 0.4911, 0.7876, 0.3379, -0.0726, -0.0211, 0.0447, 0.0018, -0.0078]


def filters():
    rank_two = torch.tensor([[1.0, 2, 0, -1], [0, 3, 1, 1], [2, -1, 1, 0], [0.5, 0, 0, 1]])
    lopsided = torch.outer(torch.tensor([1.0, 0.5, 2]), torch.tensor([1.0, 2, 5]))  # of rank one, and no mirror image
    return {"outer": setup_filter([1, 3, 3, 1]), "lopsided": lopsided,
            "taps": setup_filter([1, 2, 5], separable=True), "12": setup_filter(SYM6), "rank two": rank_two,
            "wide": rank_two[:2, :3], "zero": torch.zeros(2, 2),
            "one": torch.ones(1), "long": torch.randn(17, generator=torch.Generator().manual_seed(0))}


def compare(x, f, dtype, **kw):
    leaf = x.detach().requires_grad_()
    wide = x.detach().double().requires_grad_()
    y, truth = upfirdn2d(leaf, f, **kw), upfirdn2d(wide, f, impl="ref", **kw)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(5)).to(dtype)
    (dx,), (dtruth,) = torch.autograd.grad(y, leaf, dy), torch.autograd.grad(truth, wide, dy.double())
    assert y.dtype == dx.dtype == dtype
    # The definition multiplies in the filter's float32, so float64 agrees to float32's rounding of outer products.
    limit = max(TOLERANCE[dtype], 3e-7)
    for name, a, b in (("y", y, truth), ("dx", dx, dtruth)):
        assert rel(a, b, floor=1e-3) <= limit, (name, tuple(x.shape), x.stride(), kw)
    return y


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("name", list(filters()))
def test_against_definition(name, dtype):
    if EMULATED and name != "outer" and dtype in (torch.float16, torch.float64):
        pytest.skip("the type is chosen apart from the filter: one filter shows all types")
    f = filters()[name]
    shapes = SHAPES if name == "outer" else SHAPES[:7] if name == "12" else SHAPES[2:6]
    if EMULATED and name == "12":
        shapes = [*SHAPES[:6], (1, 2, 35, 50)]
    for shape, layout, (up, down) in itertools.product(shapes, LAYOUTS, [(1, 1), (2, 1), (1, 2)]):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(3)).to(dtype)
        taps = max(f.shape)
        for padding in ((taps // 2, (taps - 1) // 2, taps // 2, (taps - 1) // 2), (taps, taps + 2, taps - 1, taps)):
            y = compare(x.contiguous(memory_format=layout), f, dtype, up=up, down=down, padding=padding, gain=up**2)
            assert y.is_contiguous(memory_format=layout)


def test_any_scaling_padding_and_flip():
    x = torch.randn(2, 3, 9, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for name in ("outer", "rank two", "wide", "taps"):
        f = filters()[name]
        for up, down in [((3, 2), (1, 1)), ((1, 1), (2, 3)), ((2, 3), (3, 2)), ((1, 2), (2, 1)), ((4, 4), (3, 3))]:
            for padding in [(0, 0, 0, 0), (-1, -2, 3, 1), (5, -3, -2, 6), (9, 9, 9, 9)]:
                for flip in (False, True):
                    for layout in LAYOUTS:
                        compare(x.contiguous(memory_format=layout), f, torch.float64, up=up, down=down,
                                padding=padding, flip_filter=flip, gain=-1.5)


def test_helpers_and_views():
    f = setup_filter([1, 3, 3, 1])
    x = torch.randn(4, 6, 16, 20)
    views = [x, x[:, ::2], x[..., 1:-1], x.transpose(2, 3), x.permute(0, 3, 1, 2),
             x[1:].contiguous(memory_format=LAYOUTS[1])]
    for v in views:
        for fn in (filter2d, upsample2d, downsample2d):
            assert rel(fn(v, f), fn(v.double(), f, impl="ref")) <= 1e-6
    one = torch.randn(2, 3, 5, 5)
    assert torch.equal(upfirdn2d(one, None), one)


def test_gradcheck():
    x = torch.randn(1, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    for f in (setup_filter([1, 3, 3, 1]), filters()["rank two"]):
        for up, down in ((1, 1), (2, 1), (1, 2)):
            fn = lambda x, f=f, up=up, down=down: upfirdn2d(x, f, up=up, down=down, padding=2)  # noqa: E731
            derivatives_fit(fn, (x,))


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4)])
def test_empty(shape):
    x = torch.zeros(shape, requires_grad=True)
    y = upsample2d(x, setup_filter([1, 3, 3, 1]))
    assert y.shape == (*shape[:2], 8, 8)
    assert torch.autograd.grad(y.sum(), x)[0].shape == shape


def test_not_a_number_stays_where_it_is_seen():
    x = torch.zeros(1, 1, 12, 12)
    x[0, 0, 6, 6] = float("nan")
    y = filter2d(x, setup_filter([1, 3, 3, 1]))
    assert y.isnan().sum() == 16


def test_opcheck_and_compile():
    f = setup_filter([1, 3, 3, 1])
    for layout in LAYOUTS:
        x = torch.randn(2, 3, 6, 6).contiguous(memory_format=layout).requires_grad_()
        opcheck(torch.ops.gantransfer.upfirdn2d.default, (x, f, (2, 2), (1, 1), (2, 1, 2, 1), False, 4.0))
        compiles(lambda x: upsample2d(x * 2, f), x)
