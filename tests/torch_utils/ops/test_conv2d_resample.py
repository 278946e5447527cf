# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch

from tests.torch_utils.ops.conftest import derivatives_fit
from tests.torch_utils.ops.test_upfirdn2d import naive as naive_fir
from torch_utils.ops.blur_epilogue import blur_epilogue
from torch_utils.ops.conv2d_resample import conv2d_resample, conv2d_unblurred
from torch_utils.ops.convolution import _Conv, conv2d
from torch_utils.ops.upfirdn2d import setup_filter

F4 = setup_filter([1, 3, 3, 1])
CONFS = [dict(k=k, up=up, down=down, padding=padding, groups=groups, flip_weight=flip_weight, flip_filter=flip_filter)
         for k, padding in ((3, 1), (1, 0), (3, (2, 0, -1, 1)), (2, (1, 2, 0, 1)), (1, 2), (3, (2, 1)))
         for up, down in ((1, 1), (2, 1), (1, 2), (2, 2), (3, 1))
         for groups, flip_weight, flip_filter in ((1, True, False), (2, False, True))]


def tensors(conf, dtype=torch.float64, size=(2, 4, 6, 7)):
    g = torch.Generator().manual_seed(0)
    k = conf["k"]
    x = torch.randn(size, generator=g, dtype=torch.float64).to(dtype)
    w = torch.randn(6, size[1] // conf["groups"], k, k, generator=g, dtype=torch.float64).to(dtype)
    return x, w, {a: b for a, b in conf.items() if a != "k"}


def naive(x, w, f, up, down, padding, groups, flip_weight, flip_filter):
    p = (padding,) * 4 if isinstance(padding, int) else padding
    px0, px1, py0, py1 = (p[0], p[0], p[1], p[1]) if len(p) == 2 else p
    t = f.shape[0]
    if up > 1:
        px0, px1, py0, py1 = (a + b for a, b in zip((px0, px1, py0, py1), ((t + up - 1) // 2, (t - up) // 2) * 2))
    if down > 1:
        px0, px1, py0, py1 = (a + b for a, b in zip((px0, px1, py0, py1), ((t - down + 1) // 2, (t - down) // 2) * 2))
    z = naive_fir(x, f if up > 1 else None, (up, up), padding=(px0, px1, py0, py1), flip_filter=flip_filter, gain=up**2)
    w = w if flip_weight else w[:, :, ::-1, ::-1]
    o, i, kh, kw = w.shape
    y = np.zeros((z.shape[0], o, z.shape[2] - kh + 1, z.shape[3] - kw + 1))
    for a in range(o):
        first = a // (o // groups) * i
        for r in range(kh):
            for s in range(kw):
                part = z[:, first : first + i, r : r + y.shape[2], s : s + y.shape[3]]
                y[:, a] += np.einsum("nihw,i->nhw", part, w[a, :, r, s])
    return naive_fir(y, f, down=(down, down), flip_filter=flip_filter) if down > 1 else y


@pytest.mark.parametrize("impl", ["auto", "ref"])
def test_forward(impl):
    for conf in CONFS:
        x, w, kw = tensors(conf)
        y = conv2d_resample(x, w, F4, impl=impl, **kw)
        expected = naive(x.numpy(), w.numpy(), F4.double().numpy(), **kw)
        np.testing.assert_allclose(y.numpy(), expected, rtol=1e-7, atol=1e-9, err_msg=str(conf))
        cl = conv2d_resample(x.contiguous(memory_format=torch.channels_last), w, F4, impl=impl, **kw)
        torch.testing.assert_close(cl, y)


@pytest.mark.parametrize("impl", ["auto", "ref"])
def test_the_blur_may_come_later(impl):
    """Every case; where the blur is left over, it is the last step of an upsampling convolution."""
    pending = []
    for f in (F4, None):
        for conf in CONFS:
            x, w, kw = tensors(conf)
            y, blur = conv2d_unblurred(x, w, f, impl=impl, **kw)
            torch.testing.assert_close(blur_epilogue(y, **blur, impl=impl), conv2d_resample(x, w, f, impl=impl, **kw))
            assert blur["f"] is None or (impl, conf["down"]) == ("auto", 1) and conf["up"] > 1
            pending.append(blur["f"] is not None)
    assert any(pending) == (impl == "auto")


@pytest.mark.parametrize("conf", CONFS[:20:3] + CONFS[40::7], ids=str)
def test_gradients(conf):
    x, w, kw = tensors(conf, size=(2, 4, 5, 4))
    x, w = x.requires_grad_(True), w.requires_grad_(True)
    fn = lambda x, w: conv2d_resample(x, w, F4, **kw)  # noqa: E731
    derivatives_fit(fn, (x, w), fast_mode=True)


def test_without_filter_and_empty_batch():
    x, w = torch.randn(2, 4, 6, 6), torch.randn(5, 4, 3, 3)
    torch.testing.assert_close(conv2d_resample(x, w, padding=1), torch.nn.functional.conv2d(x, w, padding=1))
    torch.testing.assert_close(conv2d_resample(x, w, None, down=2, padding=1),
                               torch.nn.functional.conv2d(x, w, padding=1, stride=2))
    for kw, size in ((dict(), 6), (dict(up=2), 12), (dict(down=2), 3)):
        assert conv2d_resample(x[:0], w, F4, padding=1, **kw).shape == (0, 5, size, size)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("up, down", [(1, 1), (2, 1), (1, 2)])
def test_half_precision_with_second_order(dtype, up, down):
    def run(dtype, x, w, v):
        x, w = x.to(dtype).requires_grad_(True), w.to(dtype).requires_grad_(True)
        y = conv2d_resample(x, w, F4, up=up, down=down, padding=1)
        (dx,) = torch.autograd.grad(y, x, torch.ones_like(y), create_graph=True)
        (dw,) = torch.autograd.grad((dx * v.to(dtype)).sum(), w)
        return [t.detach().double() for t in (y, dx, dw)]

    x, w, v = (torch.randn(s).to(dtype).float() for s in ((4, 16, 16, 16), (16, 16, 3, 3), (4, 16, 16, 16)))
    for half, full in zip(run(dtype, x, w, v), run(torch.float64, x, w, v)):
        assert (half - full).norm() <= (4e-3 if dtype == torch.float16 else 3e-2) * full.norm()


@pytest.mark.parametrize("stride, padding, transposed, groups", [(1, 1, False, 1), (2, 0, False, 2), (1, 0, False, 1),
                                                                 (2, 1, True, 1), (2, 0, True, 2)])
def test_convolution_wrapper(stride, padding, transposed, groups):
    torch.manual_seed(0)
    conf = ((stride,) * 2, (padding,) * 2, transposed, groups)
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64, requires_grad=True)
    w = torch.randn(4, 4 // groups, 3, 3, dtype=torch.float64, requires_grad=True)
    native = torch.nn.functional.conv_transpose2d if transposed else torch.nn.functional.conv2d
    torch.testing.assert_close(_Conv.apply(x, w, conf), native(x, w, stride=stride, padding=padding, groups=groups))
    derivatives_fit(lambda x, w: _Conv.apply(x, w, conf), (x, w))
    frozen = w.detach()
    (dx,) = torch.autograd.grad(_Conv.apply(x, frozen, conf).square().sum(), x, create_graph=True)
    assert dx.requires_grad


def test_bias_in_half_precision():
    x, w, b = torch.randn(2, 4, 5, 5), torch.randn(3, 4, 3, 3), torch.randn(3)
    half = conv2d(x.bfloat16(), w.bfloat16(), bias=b.bfloat16(), padding=1)
    torch.testing.assert_close(half.float(), conv2d(x, w, bias=b, padding=1), rtol=5e-2, atol=1e-1)


def test_mistakes_are_explained():
    x, w = torch.zeros(1, 4, 8, 8), torch.zeros(2, 4, 3, 3)
    for kw, message in ((dict(x=x[0]), "expected"), (dict(w=w.double()), "dtype"), (dict(groups=2), "do not fit"),
                        (dict(w=w[:, :3]), "do not fit"), (dict(up=0), "up and down"), (dict(down=1.5), "up and down"),
                        (dict(padding=-4), "smaller"), (dict(impl="x"), "impl")):
        with pytest.raises(ValueError, match=message):
            conv2d_resample(**{**dict(x=x, w=w, f=F4), **kw})
