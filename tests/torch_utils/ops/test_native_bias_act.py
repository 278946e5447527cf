# SPDX-License-Identifier: Apache-2.0
"""The compiled bias_act against its definition in float64: both orders, layouts, sizes, types, torch.compile."""

import pytest
import torch

from tests.torch_utils.ops.conftest import (
    EMULATED,
    LAYOUTS,
    TOLERANCE,
    compiles,
    derivatives_fit,
    emulated,
    opcheck,
    rel,
)
from torch_utils.ops import bias_act as module
from torch_utils.ops.bias_act import activation_funcs, bias_act

pytestmark = pytest.mark.usefixtures("native")
ACTS = list(activation_funcs)
SHAPES = [(2, 3, 5, 7), (1, 1, 1, 1), (3, 16, 4, 4), (2, 17, 9, 13), (2, 8, 16, 16), (1, 3, 31, 67), (37, 40)]


def away_from_kinks(x, b, dim, gain, clamp, act, alpha=None):
    """x moved so that no element lies within rounding of an activation's or the clamp's kink."""
    shape = [-1 if i == dim else 1 for i in range(x.ndim)]
    u = x.double() + (0 if b is None else b.double().reshape(shape))
    y = bias_act(u, None, act=act, gain=gain, alpha=alpha, impl="ref").abs()
    near = u.abs() < 0.02
    if clamp is not None:
        near |= (y - clamp).abs() < 0.02
    return (x + near.to(x.dtype) * 0.1).detach()


def both(x, b, dy, **kw):
    """(y, dx, db) of the compiled operator and of the definition in float64."""
    out = []
    for wide in (False, True):
        xx, bb, dd = (t if t is None or not wide else t.double() for t in (x, b, dy))
        xx = xx.detach().requires_grad_()
        leaves = [xx]
        if bb is not None:
            bb = bb.detach().requires_grad_()
            leaves.append(bb)
        y = bias_act(xx, bb, impl="ref" if wide else "auto", **kw)
        out.append([y, *torch.autograd.grad(y, leaves, dd)])
    return out


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("act", ACTS)
def test_against_definition(act, dtype):
    rng = torch.Generator().manual_seed(1)
    for shape in SHAPES:
        for layout in LAYOUTS if len(shape) == 4 else LAYOUTS[:1]:
            for clamp, gain, with_b in ((None, None, True), (0.7, 1.3, True), (0.6, None, False)):
                b = torch.randn(shape[1], generator=rng).to(dtype) if with_b else None
                x = torch.randn(shape, generator=rng).to(dtype)
                x = away_from_kinks(x, b, 1, gain, clamp, act).contiguous(memory_format=layout)
                dy = torch.randn(shape, generator=rng).to(dtype)  # contiguous: may differ from x's layout
                ours, truth = both(x, b, dy, act=act, gain=gain, clamp=clamp)
                assert ours[0].dtype == dtype and ours[0].is_contiguous(memory_format=layout)
                # Where an activation saturates, the slope read off the output is small and coarse.
                floor = 0 if dtype == torch.float64 else 0.3 * dy.double().norm().item()
                for name, a, t in zip(("y", "dx", "db"), ours, truth):
                    error = rel(a, t, 0 if name == "y" else floor)
                    assert error <= TOLERANCE[dtype] * 3, (name, shape, layout, clamp, gain, with_b)


@pytest.mark.parametrize("dim", [0, 1, 2, 3, -1])
def test_any_dimension_any_layout(dim):
    x = torch.randn(4, 5, 6, 3, dtype=torch.float64)
    b = torch.randn(x.shape[dim], dtype=torch.float64)
    views = [x, x.contiguous(memory_format=torch.channels_last), x.transpose(0, 2).contiguous().transpose(0, 2),
             torch.cat([x, x], 3)[..., :3], x.flip(3)[..., ::1]]
    for v in views:
        ours, truth = both(v, b, torch.randn_like(x), dim=dim, act="lrelu", clamp=1.0)
        for a, t in zip(ours, truth):
            assert rel(a, t) <= 1e-12


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("gain, clamp, alpha", [(1.2, None, None), (1.2, 0.6, None), (0.4, None, 0.5)])
def test_gradcheck(act, gain, clamp, alpha):
    if EMULATED and clamp is None:
        pytest.skip("the formulas are those of the CPU kernel, which is put through all of them")
    torch.manual_seed(0)
    b = torch.randn(3, dtype=torch.float64)
    x = torch.randn(emulated((2, 3, 2, 2), (2, 3, 3, 2)), dtype=torch.float64)
    x = away_from_kinks(x, b, 1, gain, clamp, act, alpha)
    x, b = x.requires_grad_(), b.requires_grad_()
    f = lambda x, b: bias_act(x, b, act=act, gain=gain, clamp=clamp, alpha=alpha)  # noqa: E731
    derivatives_fit(f, (x, b))
    derivatives_fit(lambda x: f(x, None), (x,))


def test_negative_slope_and_zero_or_negative_gain():
    torch.manual_seed(0)
    x = torch.randn(emulated((2, 3, 2, 2), (2, 3, 4, 5)), dtype=torch.float64)
    x = away_from_kinks(x, None, 1, 1, None, "linear").requires_grad_()
    for kw in (dict(act="lrelu", alpha=-0.3), dict(act="lrelu", gain=-2.0), dict(act="tanh", gain=-1.5),
               dict(act="tanh", gain=0.0), dict(act="swish", gain=-1.0), dict(act="linear", gain=-1.0, clamp=0.5)):
        ours, truth = bias_act(x, **kw), bias_act(x, impl="ref", **kw)
        assert rel(ours, truth) <= 1e-12
        derivatives_fit(lambda x, kw=kw: bias_act(x, **kw), (x,))


def test_third_order_is_refused_for_smooth_activations():
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    dy = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(bias_act(x, act="tanh"), x, dy, create_graph=True)
    (h,) = torch.autograd.grad(g.sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="twice"):
        torch.autograd.grad(h.sum(), x)


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4), (0,)])
def test_empty(shape):
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.zeros(shape, dtype=dtype, requires_grad=True)
        dim = min(1, len(shape) - 1)
        b = torch.zeros(shape[dim], dtype=dtype, requires_grad=True)
        y = bias_act(x, b, dim=dim, act="swish")
        dx, db = torch.autograd.grad(y, [x, b], torch.zeros_like(y))
        assert y.shape == dx.shape == x.shape and db.shape == b.shape and not db.any()


def test_special_values():
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), 100.0, -100.0, 1e-30, 0.0])
    for act in ACTS:
        ours, truth = bias_act(x, act=act), bias_act(x, act=act, impl="ref")
        if act == "swish":  # -inf * 0: torch's own kernel does not define it
            ours, truth = ours[[0, 1, 3, 4, 5, 6]], truth[[0, 1, 3, 4, 5, 6]]
        torch.testing.assert_close(ours, truth, rtol=1e-5, atol=1e-7, equal_nan=True)


def test_every_16_bit_value_survives():
    codes = torch.arange(-(2**15), 2**15, dtype=torch.int16)
    for dtype in (torch.float16, torch.bfloat16):
        x = codes.view(dtype)
        y = bias_act(x, torch.zeros(len(x), dtype=dtype), dim=0)  # through float32 and back
        keep = ~(x.isnan() | (x == 0))
        assert torch.equal(y[keep].view(torch.int16), codes[keep]) and y[x.isnan()].isnan().all()
        f = torch.cat([x[keep].float() * s for s in (1.0, 1.0 + 2.0**-9, 1.0 + 3 * 2.0**-12, 0.999)])
        y = bias_act(f.to(dtype), None, gain=1.0 + 2.0**-10)
        truth = (f.to(dtype).float() * (1.0 + 2.0**-10)).to(dtype)
        assert torch.equal(y, truth)


def test_sums_do_not_depend_on_threads():
    if EMULATED:
        pytest.skip("the emulator runs one thread")
    x, dy = torch.randn(5, 33, 65, 67), torch.randn(5, 33, 65, 67)
    for layout in LAYOUTS:
        out = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            y = torch.ops.gantransfer.bias_act_grad(dy.contiguous(memory_format=layout),
                                                    x.contiguous(memory_format=layout), None, 1, 3, 0.2, 1.4, 1.0, True)
            out.append(y)
        torch.set_num_threads(1)
        assert all(torch.equal(a, b) for a, b in zip(*out))


def test_opcheck_and_compile():
    ops, x, b = torch.ops.gantransfer, torch.randn(2, 3, 4, 5, requires_grad=True), torch.randn(3, requires_grad=True)
    dy, cl = torch.randn(2, 3, 4, 5, requires_grad=True), torch.channels_last
    for act in (3, 4, 9):
        opcheck(ops.bias_act.default, (x, b, 1, act, 0.2, 1.4, 0.5))
        last = x.detach().contiguous(memory_format=cl)
        opcheck(ops.bias_act.default, (last, None, 1, act, 0.2, 1.4, -1))
        args = (dy, x, b if act == 9 else None, 1, act, 0.2, 1.4, 0.5)
        opcheck(ops.bias_act_grad.default, (*args, True))
        # The third order is a refusal, which the check of gradients would trip over.
        checks = ("test_schema", "test_faketensor")
        fixed = [a.detach() if isinstance(a, torch.Tensor) else a for a in (dy, *args)]
        second = (*fixed, False)
        opcheck(ops.bias_act_grad2.default, second, test_utils=checks)
    for leaf in (x, last.requires_grad_()):
        compiles(lambda x, b: bias_act(x * 2, b, act="lrelu", clamp=1.0), leaf, b)


def test_wrong_arguments_are_named():
    with pytest.raises(RuntimeError, match="does not fit"):
        torch.ops.gantransfer.bias_act_grad(torch.zeros(2, 3), torch.zeros(3, 2), None, 1, 3, 0.2, 1, -1, False)
    with pytest.raises(RuntimeError, match="values expected"):
        torch.ops.gantransfer.bias_act(torch.zeros(2, 3), torch.zeros(2), 1, 3, 0.2, 1, -1)
    assert module._CODES["swish"] == 9  # enum Act
