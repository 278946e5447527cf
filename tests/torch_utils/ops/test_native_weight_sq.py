# SPDX-License-Identifier: Apache-2.0
"""The compiled sum of squared weights against its definition."""

import pytest
import torch

from tests.torch_utils.ops.conftest import LAYOUTS, compiles, derivatives_fit, opcheck, rel
from torch_utils.ops.modulated_conv2d import modulated_conv2d
from torch_utils.ops.weight_sq import weight_sq

pytestmark = pytest.mark.usefixtures("native")
SHAPES = [(1, 1, 1, 1), (5, 7, 3, 3), (64, 33, 3, 3), (3, 16, 1, 1), (4, 5, 2, 3), (2, 40, 5, 5), (513, 1, 3, 3),
          (1, 300, 4, 4)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_against_definition(dtype):
    for shape in SHAPES:
        for layout in LAYOUTS:
            w = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
            w = w.contiguous(memory_format=layout).requires_grad_()
            wide = w.detach().double().requires_grad_()
            q, truth = weight_sq(w), weight_sq(wide, impl="ref")
            dq = torch.randn(shape[:2], generator=torch.Generator().manual_seed(1)).to(dtype)
            (dw,), (expected,) = torch.autograd.grad(q, w, dq), torch.autograd.grad(truth, wide, dq.double())
            limit = 1e-6 if dtype == torch.float32 else 1e-14
            assert q.dtype == dw.dtype == dtype and q.is_contiguous() and dw.is_contiguous(memory_format=layout)
            assert rel(q, truth) <= limit and rel(dw, expected) <= limit, (shape, layout)


def test_views():
    w = torch.randn(6, 8, 5, 5)
    for v in (w[:, ::2], w[..., 1:-1], w.transpose(0, 1), w.permute(2, 0, 1, 3), w[1:, :, :3, :3]):
        assert rel(weight_sq(v), v.double().square().sum((2, 3))) <= 1e-6


def test_gradcheck():
    for layout in LAYOUTS:
        w = torch.randn(3, 4, 3, 2, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
        derivatives_fit(weight_sq, (w,))


def test_third_order_of_what_uses_it():
    """Derivatives come from one another without end; the gradient of dw may arrive in the other layout."""
    w = torch.randn(2, 3, 3, 3, dtype=torch.float64).contiguous(memory_format=LAYOUTS[1]).requires_grad_()
    found = []
    for impl in ("auto", "ref"):
        y = weight_sq(w, impl).pow(2).sum()
        for _ in range(3):
            (g,) = torch.autograd.grad(y, w, create_graph=True)
            y = (g * torch.arange(54.0, dtype=torch.float64).reshape(w.shape)).sum()
        found.append(g)
    assert rel(*found) <= 1e-12


@pytest.mark.parametrize("shape", [(0, 3, 3, 3), (4, 0, 3, 3), (4, 3, 0, 3)])
def test_empty(shape):
    w = torch.zeros(shape, requires_grad=True)
    q = weight_sq(w)
    assert q.shape == shape[:2] and not q.any()
    assert torch.autograd.grad(q.sum(), w)[0].shape == shape


def test_other_types_and_mistakes():
    w = torch.randn(3, 4, 3, 3)
    assert torch.equal(weight_sq(w.half()), w.half().square().sum((2, 3)))
    with pytest.raises(ValueError, match="expected"):
        weight_sq(w[0])
    for bad, message in ((w[0], "expected"), (w.half(), "float64 expected"), (w.int(), "expected")):
        with pytest.raises(RuntimeError, match=message):
            torch.ops.gantransfer.weight_sq(bad)
    for dq in (torch.zeros(4, 3), torch.zeros(3, 4, dtype=torch.float64)):
        with pytest.raises(RuntimeError, match="does not fit"):
            torch.ops.gantransfer.weight_sq_grad(dq, w)


def test_demodulation_uses_it(monkeypatch):
    from torch_utils.ops import modulated_conv2d as module

    calls = []
    monkeypatch.setattr(module, "weight_sq", lambda *a: calls.append(a) or weight_sq(*a))
    modulated_conv2d(torch.randn(2, 4, 5, 5), torch.randn(3, 4, 3, 3), torch.randn(2, 4), padding=1)
    assert len(calls) == 1


def test_opcheck_and_compile():
    for layout in LAYOUTS:
        w = torch.randn(3, 4, 3, 3).contiguous(memory_format=layout).requires_grad_()
        opcheck(torch.ops.gantransfer.weight_sq.default, (w,))
        opcheck(torch.ops.gantransfer.weight_sq_grad.default, (torch.randn(3, 4, requires_grad=True), w))
        compiles(lambda w: weight_sq(w * 2), w)
