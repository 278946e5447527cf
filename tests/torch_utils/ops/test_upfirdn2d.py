# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch

from tests.torch_utils.ops.conftest import derivatives_fit
from torch_utils.ops import upfirdn2d as op


def naive(x, f, up=(1, 1), down=(1, 1), padding=(0, 0, 0, 0), flip_filter=False, gain=1):
    """The definition, one output pixel at a time."""
    n, c, h, w = x.shape
    k = np.ones((1, 1)) if f is None else np.outer(f, f) if f.ndim == 1 else f
    k = k if flip_filter else k[::-1, ::-1]
    z = np.zeros((n, c, h * up[1], w * up[0]))
    z[:, :, :: up[1], :: up[0]] = x
    px0, px1, py0, py1 = padding
    ho = (z.shape[2] + py0 + py1 - k.shape[0]) // down[1] + 1
    wo = (z.shape[3] + px0 + px1 - k.shape[1]) // down[0] + 1
    y = np.zeros((n, c, ho, wo))
    for i in range(ho):
        for j in range(wo):
            for a in range(k.shape[0]):
                for b in range(k.shape[1]):
                    r, s = i * down[1] + a - py0, j * down[0] + b - px0
                    if 0 <= r < z.shape[2] and 0 <= s < z.shape[3]:
                        y[:, :, i, j] += k[a, b] * z[:, :, r, s]
    return y * gain


CONFS = [
    dict(),
    dict(up=(2, 2), padding=(2, 1, 2, 1), gain=4),
    dict(up=(2, 2), padding=(1, 2, 3, 0)),
    dict(up=(2, 2), padding=(0, 0, -1, 5)),
    dict(down=(2, 2), padding=(1, 1, 1, 1)),
    dict(down=(2, 2), padding=(2, 1, 0, 2)),
    dict(padding=(2, 2, 2, 2)),
    dict(padding=(1, 1, 1, 1)),
    dict(padding=(2, 1, 2, 1), flip_filter=True),
    dict(padding=(0, 6, 5, 0)),
    dict(padding=(-1, 2, 1, -2)),
    dict(up=(3, 2), down=(2, 3), padding=(4, 1, 2, 3), gain=-1.7),
    dict(up=(2, 1), padding=(3, 2, 1, 2)),
    dict(up=(1, 2), padding=(3, 2, 1, 2), flip_filter=True),
    dict(up=(1, 2), down=(2, 1), padding=(3, 2, 3, 2)),
    dict(down=(1, 3), padding=(3, 3, 3, 3)),
    dict(up=(4, 4), padding=(-6, -3, 2, 2)),
]
rng = np.random.default_rng(7)
FILTERS = {
    "none": None,
    "4x4": np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64,
    "3x2": rng.standard_normal((3, 2)),
    "1x1": np.array([[0.7]]),
    "1": np.array([1.3]),
    "5": rng.standard_normal(5),
}
SIZES = [(2, 3, 6, 6), (1, 2, 5, 9), (2, 1, 4, 4), (1, 16, 19, 13), (40, 30, 7, 7)]


def to_torch(f):
    return None if f is None else torch.tensor(f, dtype=torch.float32)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("impl", ["auto", "ref"])
@pytest.mark.parametrize("fname", FILTERS)
def test_forward(fname, impl, layout):
    f = to_torch(FILTERS[fname])
    f64 = None if f is None else f.double().numpy()
    for size in SIZES:
        x = torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
        x = x.contiguous(memory_format=layout)
        for conf in CONFS:
            kw = {k: list(v) if isinstance(v, tuple) else v for k, v in conf.items()}
            p, (u0, u1) = conf.get("padding", (0,) * 4), conf.get("up", (1, 1))
            if size[3] * u0 + p[0] + p[1] < op.filter_size(f)[0] or size[2] * u1 + p[2] + p[3] < op.filter_size(f)[1]:
                continue  # refused, see test_mistakes_are_explained
            y = op.upfirdn2d(x, f, impl=impl, **kw)
            expected = naive(x.numpy(), f64, **conf)
            assert y.shape == expected.shape and y.dtype == x.dtype
            np.testing.assert_allclose(y.numpy(), expected, rtol=1e-7, atol=1e-9, err_msg=f"{size} {conf}")


@pytest.mark.parametrize("fname", FILTERS)
def test_gradients(fname):
    f = to_torch(FILTERS[fname])
    for size in ((1, 2, 5, 6), (1, 1, 12, 11)):
        for conf in CONFS[1::2]:
            torch.manual_seed(0)
            x = torch.randn(size, dtype=torch.float64, requires_grad=True)
            fn = lambda x, f=f, conf=conf: op.upfirdn2d(x, f, **conf)  # noqa: E731
            derivatives_fit(fn, x, fast_mode=True)


@pytest.mark.parametrize("shape", [(2, 3, 6, 6), (1, 3, 20, 20), (2, 40, 17, 17), (70, 20, 8, 8)])
def test_layout_is_kept_through_both_orders(shape):
    f = op.setup_filter([1, 3, 3, 1])
    for fn in (op.filter2d, op.upsample2d, op.downsample2d):
        results = []
        for layout in (torch.contiguous_format, torch.channels_last):
            x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=layout)
            x.requires_grad_(True)
            y = fn(x, f)
            (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
            (d2,) = torch.autograd.grad(dx.square().sum(), x)
            assert y.is_contiguous(memory_format=layout) and dx.is_contiguous(memory_format=layout)
            results.append([t.detach() for t in (y, dx, d2)])
        for a, b in zip(*results):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_separable_filter_equals_its_outer_product():
    taps = torch.tensor([1.0, -2, 4, 3, 1, 0.5, 2, -1, 1, 1, 2, 3]) / 10
    x = torch.randn(2, 3, 33, 30, generator=torch.Generator().manual_seed(1))
    for fn, kw in ((op.upsample2d, {}), (op.downsample2d, {}), (op.filter2d, dict(flip_filter=True))):
        for gain in (1, -2.5):
            torch.testing.assert_close(fn(x, taps, gain=gain, **kw), fn(x, torch.outer(taps, taps), gain=gain, **kw),
                                       rtol=1e-4, atol=1e-5)
    big = torch.randn(1, 1, 520, 6, generator=torch.Generator().manual_seed(1))  # beyond the matrix form
    torch.testing.assert_close(op.downsample2d(big, taps), op.downsample2d(big, taps, impl="ref"), rtol=1e-4, atol=1e-5)


def test_results_may_be_changed_in_place():
    f = op.setup_filter([1, 3, 3, 1])
    for size in ((2, 3, 4, 4), (2, 3, 32, 32)):
        for taps in (f, torch.arange(12.0)):
            for layout in (torch.contiguous_format, torch.channels_last):
                x = torch.randn(size).contiguous(memory_format=layout).requires_grad_(True)
                for kw in (dict(up=2), dict(down=2), dict(), dict(up=3, down=2)):
                    y = op.upfirdn2d(x, taps, padding=9, **kw)
                    y.mul_(2)
                    y.sum().backward()


def test_brightness_and_sizes():
    f = op.setup_filter([1, 3, 3, 1])
    x = torch.ones(1, 1, 8, 6)
    for fn, size in ((op.filter2d, (8, 6)), (op.upsample2d, (16, 12)), (op.downsample2d, (4, 3))):
        y = fn(x, f)
        assert y.shape[2:] == size
        assert y[0, 0, size[0] // 2, size[1] // 2] == pytest.approx(1)


def test_setup_filter():
    f = op.setup_filter([1, 3, 3, 1])
    assert f.shape == (4, 4) and f.dtype == torch.float32 and f[1, 2] == pytest.approx(9 / 64)
    assert op.setup_filter(list(range(8))).shape == (8,)
    assert op.setup_filter([1, 2, 3], separable=True, gain=4).sum() == pytest.approx(2)
    assert op.setup_filter([1, 2, 3], gain=4).sum() == pytest.approx(4)
    assert op.setup_filter(None).tolist() == [[1]] and op.setup_filter(5, normalize=False).tolist() == [[25]]
    assert op.setup_filter([[1, 2], [3, 4]], flip_filter=True, normalize=False).tolist() == [[4, 3], [2, 1]]
    for bad in (torch.zeros(2, 2, 2), []):
        with pytest.raises(ValueError, match="dimensions"):
            op.setup_filter(bad)
    with pytest.raises(ValueError, match="separable"):
        op.setup_filter([[1.0]], separable=True)


def test_mistakes_are_explained():
    f, x = op.setup_filter([1, 3, 3, 1]), torch.zeros(1, 1, 8, 8)
    for kw, message in ((dict(x=torch.zeros(8, 8)), "N, C, H, W"), (dict(up=0), "up"), (dict(down=(2, 0)), "down"),
                        (dict(up=1.5), "up"), (dict(padding=(1, 2, 3)), "padding"), (dict(padding=0.5), "padding"),
                        (dict(padding=-3), "smaller than the filter"), (dict(impl="gpu"), "impl"),
                        (dict(f=f.half()), "float32"), (dict(f=f.clone().requires_grad_()), "constant")):
        with pytest.raises(ValueError, match=message):
            op.upfirdn2d(**{**dict(x=x, f=f), **kw})
