# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch

from tests.torch_utils.ops.conftest import derivatives_fit
from torch_utils.ops.bias_act import bias_act
from torch_utils.ops.conv2d_resample import conv2d_resample
from torch_utils.ops.modulated_conv2d import FORMULATIONS, modulated_conv2d, modulated_conv_act
from torch_utils.ops.upfirdn2d import setup_filter

F4 = setup_filter([1, 3, 3, 1])
CONFS = [dict(k=3, padding=1), dict(k=3, padding=1, up=2, flip_weight=False), dict(k=3, padding=1, down=2),
         dict(k=3, padding=1, demodulate=False), dict(k=1, demodulate=False), dict(k=1),
         dict(k=2, padding=(1, 0, 0, 1))]
ALL = [None, *FORMULATIONS]


def tensors(conf, n=3, i=4, o=5, size=6, dtype=torch.float64):
    g = torch.Generator().manual_seed(1)
    x = torch.randn(n, i, size, size, generator=g, dtype=torch.float64)
    w = torch.randn(o, i, conf["k"], conf["k"], generator=g, dtype=torch.float64)
    s = torch.randn(n, i, generator=g, dtype=torch.float64) + 1
    kw = {k: v for k, v in conf.items() if k != "k"}
    return x.to(dtype), w.to(dtype), s.to(dtype), dict(kw, resample_filter=F4)


def naive(x, w, s, demodulate=True, noise=None, **kw):
    """Sample by sample, with the weights written out."""
    out = []
    f = kw.pop("resample_filter")
    for n in range(len(x)):
        wn = w.numpy() * s[n].numpy()[None, :, None, None]
        if demodulate:
            wn = wn / np.sqrt((wn**2).sum((1, 2, 3), keepdims=True) + 1e-8)
        y = conv2d_resample(x[n : n + 1], torch.from_numpy(wn), f, impl="ref", **kw)
        out.append(y if noise is None else y + (noise if noise.ndim == 2 else noise[n : n + 1]))
    return torch.cat(out)


@pytest.mark.parametrize("impl", ["auto", "ref"])
@pytest.mark.parametrize("formulation", ALL)
@pytest.mark.parametrize("conf", CONFS, ids=str)
def test_forward(conf, formulation, impl):
    for n in (1, 3):
        x, w, s, kw = tensors(conf, n=n)
        size = naive(x, w, s, **kw).shape[2:]
        for noise in (None, torch.randn(size, dtype=x.dtype), torch.randn(n, 1, *size, dtype=x.dtype)):
            expected = naive(x, w, s, noise=noise, **kw)
            for layout in (torch.contiguous_format, torch.channels_last):
                y = modulated_conv2d(x.contiguous(memory_format=layout), w, s, noise=noise, formulation=formulation,
                                     impl=impl, **kw)
                torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("formulation", ALL)
@pytest.mark.parametrize("conf", CONFS, ids=str)
def test_gradients(conf, formulation):
    x, w, s, kw = tensors(conf, n=2, i=3, o=2, size=4)
    noise = torch.randn(2, 1, *naive(x, w, s, **kw).shape[2:], dtype=x.dtype).requires_grad_(True)
    args = (x.requires_grad_(True), w.requires_grad_(True), s.requires_grad_(True), noise)
    fn = lambda x, w, s, noise: modulated_conv2d(x, w, s, noise=noise, formulation=formulation, **kw)  # noqa: E731
    derivatives_fit(fn, args, fast_mode=True)


@pytest.mark.parametrize("impl", ["auto", "ref"])
@pytest.mark.parametrize("conf", [c for c in CONFS if c.get("demodulate", True)], ids=str)
def test_layer_equals_its_parts(conf, impl):
    x, w, s, kw = tensors(conf, n=2, i=3, o=2, size=4)
    noise = torch.randn(naive(x, w, s, **kw).shape[2:], dtype=x.dtype)
    b, strength = torch.randn(2, dtype=x.dtype), torch.tensor(0.3, dtype=x.dtype)
    leaves = [t.requires_grad_() for t in (x, w, s, strength, b)]
    f, last, found = kw.pop("resample_filter"), dict(act="lrelu", gain=0.8, clamp=1.1), []
    for layer in (True, False):
        if layer:
            y = modulated_conv_act(x, w, s, noise, strength, b, f=f, impl=impl, **kw, **last)
        else:
            y = modulated_conv2d(x, w, s, noise=noise * strength, resample_filter=f, impl=impl, **kw)
            y = bias_act(y, b, **last)
        grads = torch.autograd.grad(y, leaves, torch.ones_like(y), create_graph=True)
        found.append([y, *grads, *torch.autograd.grad(sum(g.square().sum() for g in grads), leaves[:3])])
    for a, b in zip(*found):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("formulation", ALL)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float16, 4e-3), (torch.bfloat16, 3e-2)])
def test_half_precision(dtype, tolerance, formulation):
    """Large weights and styles stay finite: demodulation removes their scale, in float16 before the convolution."""
    scale = 300 if dtype == torch.float16 else 1
    for conf in CONFS:
        x, w, s, kw = tensors(conf, dtype=torch.float32)
        if not kw.get("demodulate", True):
            scale = 1
        expected = naive(x.to(dtype).double(), w.double(), s.double(), **kw)
        y = modulated_conv2d(x.to(dtype), w * scale, s * scale / 6, formulation=formulation, **kw)
        assert y.dtype == dtype and y.isfinite().all()
        expected = expected if scale == 300 or kw.get("demodulate", True) else expected / 6
        assert (y.double() - expected).norm() <= tolerance * expected.norm()


@pytest.mark.parametrize("formulation", ALL)
def test_empty_batch(formulation):
    for conf in CONFS:
        x, w, s, kw = tensors(conf)
        expected = naive(x, w, s, **kw).shape
        for dtype in (torch.float64, torch.float16):
            y = modulated_conv2d(x[:0].to(dtype), w, s[:0], formulation=formulation, **kw)
            assert y.shape == (0, *expected[1:]) and y.dtype == dtype


def test_mistakes_are_explained():
    x, w, s, _ = tensors(CONFS[0])
    for args, message in (((x[0], w, s), "expected"), ((x, w[:, :3], s), "expected"), ((x, w, s[:1]), "styles"),
                          ((x, w, s[:, :2]), "styles")):
        for formulation in ALL:
            with pytest.raises(ValueError, match=message):
                modulated_conv2d(*args, formulation=formulation)
    with pytest.raises(ValueError, match="formulation"):
        modulated_conv2d(x, w, s, formulation="fused")
