# SPDX-License-Identifier: Apache-2.0
"""The compiled 3x3 convolutions: against torch's in float64, to the second order, whatever the batch and threads."""

import pytest
import torch
import torch.nn.functional as F

from tests.torch_utils.ops.conftest import EMULATED, compiles, rel
from torch_utils.ops import conv3x3, convolution, native

pytestmark = [pytest.mark.usefixtures("native"),
              pytest.mark.skipif(bool(EMULATED), reason="there is no CUDA kernel to emulate")]
# n, c, o, rows, columns of the outputs. Panels of 16, 32 and 64; few tiles and many, one block of them and several.
SIZES = [(1, 16, 16, 4, 4), (2, 32, 48, 8, 4), (3, 64, 16, 4, 12), (5, 16, 128, 16, 16), (2, 96, 64, 24, 20),
         (7, 16, 32, 12, 16)]
WIDE = [(1, 384, 384, 40, 40), (6, 1024, 16, 4, 4)]


@pytest.fixture(autouse=True)
def chosen(monkeypatch):
    """As on a processor with AVX2 or AVX-512."""
    monkeypatch.setattr(native, "long_vectors", lambda: True)


def last(x):
    return x.contiguous(memory_format=torch.channels_last)


def tensors(stride, n, c, o, h, w):
    g = torch.Generator().manual_seed(0)
    sides = (h, w) if stride == 1 else (2 * h + 1, 2 * w + 1)
    return last(torch.randn(n, c, *sides, generator=g)), torch.randn(o, c, 3, 3, generator=g), last(
        torch.randn(n, o, h, w, generator=g))


def three(x, w, dy, stride):
    """Value, gradient for x and for w."""
    x, w = x.clone().requires_grad_(), w.clone().requires_grad_()
    y = conv3x3.conv3x3(x, w, stride)
    return [y.detach(), *torch.autograd.grad(y, (x, w), dy)]


def torchs(x, w, dy, stride):
    x, w = x.double().requires_grad_(), w.double().requires_grad_()
    y = F.conv2d(x, w, stride=stride, padding=2 - stride)
    return [y.detach(), *torch.autograd.grad(y, (x, w), dy.double())]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", SIZES + WIDE, ids=str)
def test_against_torch(stride, size):
    found, truth = (f(*tensors(stride, *size), stride) for f in (three, torchs))
    assert all(t.is_contiguous(memory_format=torch.channels_last) for t in found[:2])
    for name, a, b in zip(("y", "dx", "dw"), found, truth):
        assert rel(a, b) <= 6e-6, name


@pytest.mark.parametrize("rows", range(1, 8))
def test_any_number_of_rows_is_left_over(rows):
    """A product takes six rows at a time, which are tiles, or channels in the gradient of a weight."""
    for size in ((rows, 16, 16, 4, 4), (rows, 16, 48, 4, 8)):
        for a, b in zip(three(*tensors(1, *size), 1), torchs(*tensors(1, *size), 1)):
            assert rel(a, b) <= 6e-6


@pytest.mark.parametrize("stride", [1, 2])
def test_rounding_is_near_that_of_a_direct_convolution(stride):
    """Root mean square: about 3 times for images, 5 for weights."""
    x, w, dy = tensors(stride, 4, 256, 256, 16, 16)
    p, q = x.clone().requires_grad_(), w.clone().requires_grad_()
    y = F.conv2d(p, q, stride=stride, padding=2 - stride)
    direct = [y, *torch.autograd.grad(y, (p, q), dy)]
    for a, b, exact in zip(three(x, w, dy, stride), direct, torchs(x, w, dy, stride)):
        assert rel(a, exact) <= 8 * rel(b, exact) and rel(a, exact) <= 2e-6


def test_an_image_does_not_depend_on_its_batch_or_on_threads():
    before = torch.get_num_threads()
    for stride in (1, 2):
        for size in ((9, 32, 64, 16, 16), (2, 16, 80, 8, 8)):
            x, w, dy = tensors(stride, *size)
            whole = three(x, w, dy, stride)
            for a, b in zip(three(x[1:2], w, dy[1:2], stride), whole[:2]):  # few tiles and many have other ways
                assert torch.equal(a, b[1:2])
            try:
                torch.set_num_threads(3)
                assert all(torch.equal(a, b) for a, b in zip(three(x, w, dy, stride), whole))
            finally:
                torch.set_num_threads(before)


@pytest.mark.parametrize("kind", ["stride 1", "stride 2", "transposed"])
def test_second_order_through_the_convolutions(kind):
    """Value, gradients, and gradients of gradients are torch's in float64; weights and gradients in any layout."""
    stride = 1 if kind == "stride 1" else 2
    x, w, dy = tensors(stride, 3, 32, 16, 8, 8)
    if kind == "transposed":
        x, dy = dy, x
    kw, v = dict(stride=stride, padding=2 - stride), torch.randn_like(x)
    b = torch.randn(16) if kind == "stride 1" else None

    def run(conv, *leaves):
        p, q, s = (t.clone(memory_format=torch.preserve_format).requires_grad_() for t in leaves)
        more = {} if b is None else dict(bias=b.to(p.dtype))
        y = conv(p, q, **kw, **more)
        first = torch.autograd.grad(y, (p, q), s, create_graph=True)
        again = (first[0] * v.to(p.dtype)).sum() + first[1].square().sum()
        return [y, *first, *torch.autograd.grad(again, (p, q, s))]

    ours, theirs = {"transposed": (convolution.conv_transpose2d, F.conv_transpose2d)}.get(
        kind, (convolution.conv2d, F.conv2d))
    assert "Conv3x3" in ours(x, w.clone().requires_grad_(), **kw).grad_fn.name()
    truth = run(theirs, x.double(), w.double(), dy.double())
    for weight, gradient in ((w, dy), (last(w), dy.contiguous()), (w.transpose(2, 3).clone().transpose(2, 3), dy)):
        for a, c in zip(run(ours, x, weight, gradient), truth):
            assert rel(a, c) <= 3e-6


def test_chosen_for_what_it_can(monkeypatch):
    one, two, none = (1, 1), (2, 2), (0, 0)
    x, w, dy = tensors(1, 2, 32, 16, 8, 8)
    odd = tensors(2, 2, 32, 16, 8, 8)[0]
    assert conv3x3.usable(x, w, one, one, 1) and conv3x3.usable(odd, w, two, none, 1)
    assert conv3x3.usable(dy, w, two, none, 1, transposed=True)
    for args in ((x.contiguous(), w, one, one, 1), (x.double(), w.double(), one, one, 1), (x, w, two, none, 1),
                 (x, w, one, none, 1), (x, w, one, one, 2), (x, w[:15], one, one, 1), (x[:, :, :7], w, one, one, 1),
                 (odd, w, two, one, 1), (odd, w, one, one, 1), (x, w[:, :, :1, :1], one, one, 1),
                 (x.bfloat16(), w.bfloat16(), one, one, 1), (x[:0], w, one, one, 1)):
        assert not conv3x3.usable(*args)
    monkeypatch.setattr(native, "long_vectors", lambda: False)  # where oneDNN is faster
    assert not conv3x3.usable(x, w, one, one, 1)


def test_mistakes():
    x, w, dy = tensors(1, 2, 32, 16, 8, 8)
    ops = torch.ops.gantransfer
    for call in (lambda: ops.conv3x3(x, w[:, :16], 1), lambda: ops.conv3x3(x, w, 2), lambda: ops.conv3x3(x, w, 3),
                 lambda: ops.conv3x3(x[:, :, :6], w, 1), lambda: ops.conv3x3(x[:0], w, 1),
                 lambda: ops.conv3x3_input_grad(dy, w.transpose(0, 1), 1),
                 lambda: ops.conv3x3_weight_grad(dy, x[:1], 1), lambda: ops.conv3x3_weight_grad(dy, x, 2),
                 lambda: ops.conv3x3(x[:, :8], w[:, :8], 1), lambda: ops.conv3x3_input_grad(dy, w, 3),
                 lambda: ops.conv3x3_input_grad(dy, w, 0), lambda: ops.conv3x3_weight_grad(dy, x, 3)):
        with pytest.raises(RuntimeError, match="does not fit|expected"):
            call()
    with pytest.raises(RuntimeError, match="float32"):
        ops.conv3x3(x.double(), w.double(), 1)


def test_opcheck_and_compile():
    x, w, dy = (t.requires_grad_() for t in tensors(2, 2, 16, 32, 4, 4))
    ops = torch.ops.gantransfer
    for op, args in ((ops.conv3x3, (x, w)), (ops.conv3x3_input_grad, (dy, w)), (ops.conv3x3_weight_grad, (dy, x))):
        torch.library.opcheck(op.default, (*args, 2),
                              test_utils=("test_schema", "test_autograd_registration", "test_faketensor"))
    compiles(lambda y, w: convolution.conv2d(y, w.transpose(0, 1) * 2, padding=1), dy, w)
