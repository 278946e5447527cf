# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
import torch.nn.functional as F

from torch_utils.ops import conv3x3, winograd
from torch_utils.ops.convolution import conv2d


def tensors(n=3, c=5, o=6, h=8, w=12, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, c, h, w, generator=g).to(memory_format=torch.channels_last)
    return x, torch.randn(o, c, 3, 3, generator=g), torch.randn(n, o, h, w, generator=g)


@pytest.mark.parametrize("size", [(3, 5, 6, 8, 12), (1, 1, 1, 4, 4), (2, 17, 3, 16, 4), (5, 40, 40, 32, 32)])
def test_against_torch(size):
    x, w, dy = tensors(*size)
    expected = F.conv2d(x.double(), w.double(), padding=1)
    y = winograd.conv3x3(x, w)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert (y - expected).abs().max() <= 1e-5 * expected.abs().max()
    dw = winograd.weight_grad(dy, x)
    expected = torch.nn.grad.conv2d_weight(x.double(), w.shape, dy.double(), padding=1)
    assert (dw - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_chunks_do_not_change_the_result(monkeypatch):
    x, w, dy = tensors(n=7)
    whole = winograd.conv3x3(x, w), winograd.weight_grad(dy, x)
    monkeypatch.setattr(winograd, "CHUNK_BYTES", 1)
    torch.testing.assert_close(winograd.conv3x3(x, w), whole[0], rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(winograd.weight_grad(dy, x), whole[1], rtol=1e-5, atol=1e-4)


def test_rounding_is_that_of_a_direct_convolution():
    x, w, _ = tensors(2, 256, 256, 16, 16)
    exact = F.conv2d(x.double(), w.double(), padding=1)
    ours, direct = ((y - exact).norm() / exact.norm() for y in (winograd.conv3x3(x, w), F.conv2d(x, w, padding=1)))
    assert ours <= 5e-6 and ours <= 5 * direct


def test_chosen_for_wide_layers_only():
    x, w, _ = tensors(8, 128, 128, 16, 16)
    one = (1, 1)
    assert winograd.usable(x, w, one, one, 1)
    for args in ((x.contiguous(), w, one, one, 1), (x.double(), w.double(), one, one, 1), (x, w, (2, 2), one, 1),
                 (x, w, one, (0, 0), 1), (x, w, one, one, 2), (x[:1], w, one, one, 1), (x, w[:64], one, one, 1),
                 (x[:, :, :15], w, one, one, 1), (x, w[:, :, :1, :1], one, one, 1),
                 (x.bfloat16(), w.bfloat16(), one, one, 1)):
        assert not winograd.usable(*args)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_first_and_second_order_through_conv2d(layout, monkeypatch):
    """A wide layer without a compiler: value, gradients, and gradients of gradients equal torch's."""
    monkeypatch.setattr(conv3x3, "usable", lambda *args, **kw: False)
    x, w, dy = tensors(8, 128, 144, 16, 16)
    b, v = torch.randn(144), torch.randn_like(x)
    dy = dy.to(memory_format=layout)

    def run(conv):
        p, q, r, s = (t.clone().requires_grad_(True) for t in (x, w, b, dy))
        y = conv(p, q, bias=r, padding=1)
        first = torch.autograd.grad(y, (p, q, r), s, create_graph=True)
        second = torch.autograd.grad((first[0] * v).sum() + first[1].square().sum(), (p, q, s))
        plain = torch.autograd.grad(conv(p, q, bias=r, padding=1), (p, q), dy)
        only_x = torch.autograd.grad(conv(p, q.detach(), padding=1), p, dy)
        only_w = torch.autograd.grad(conv(x, q, padding=1), q, dy)
        return [y, *first, *second, *plain, *only_x, *only_w]

    assert winograd.usable(x, w, (1, 1), (1, 1), 1)
    assert "_Conv" in type(conv2d(x, w.clone().requires_grad_(True), padding=1).grad_fn).__name__
    for a, b in zip(run(conv2d), run(F.conv2d)):
        assert (a - b).abs().max() <= 2e-5 * b.abs().max()
