# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from torch_utils.ops.bias_act import activation_funcs, bias_act
from torch_utils.ops.conv2d_resample import conv2d_resample
from torch_utils.ops.conv_bias_act import conv_bias_act
from torch_utils.ops.upfirdn2d import setup_filter

F4 = setup_filter([1, 3, 3, 1])
SIZES = {"gain on the weight": (3, 2, 9), "gain on the result": (6, 5, 2)}  # in, out, pixels


def tensors(size, k=3, n=2, dtype=torch.float64):
    i, o, r = SIZES[size]
    g = torch.Generator().manual_seed(4)
    shapes = (n, i, 2 * r, 2 * r), (o, i, k, k), (o,)
    return [torch.randn(s, generator=g, dtype=torch.float64).to(dtype) for s in shapes]


def composition(x, w, b, weight_gain, act, gain, clamp, **conv):
    y = conv2d_resample(x, w * weight_gain, **conv, impl="ref")
    return bias_act(y, b, act=act, gain=gain, clamp=clamp, impl="ref")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("act, gain, clamp", [("lrelu", None, None), ("lrelu", 0.7, 0.5), ("linear", 1, None),
                                              ("relu", None, 1), ("lrelu", -1, None), ("swish", None, 0.4)])
@pytest.mark.parametrize("k, up, down", [(3, 1, 1), (3, 1, 2), (3, 2, 1), (1, 1, 2), (1, 1, 1)])
def test_value_first_and_second_order(k, up, down, act, gain, clamp, size):
    conv = dict(f=F4, up=up, down=down, padding=k // 2, flip_weight=up == 1)
    for has_bias in (True, False):
        x, w, b = tensors(size, k)
        results = []
        for fn in (conv_bias_act, composition):
            leaves = [t.clone().requires_grad_(True) for t in ((x, w, b) if has_bias else (x, w))]
            y = fn(*leaves, *(() if has_bias else (None,)), 0.3, act, gain, clamp, **conv)
            first = torch.autograd.grad(y.square().sum(), leaves, create_graph=True)
            second = torch.autograd.grad(first[0].square().sum(), leaves)
            results.append([y, *first, *second])
        for a, b_ in zip(*results):
            torch.testing.assert_close(a, b_, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float16, 4e-3), (torch.bfloat16, 3e-2)])
def test_half_precision(size, dtype, tolerance):
    x, w, b = tensors(size, dtype=torch.float32)
    y = conv_bias_act(x.to(dtype), w, b, 0.2, "lrelu", padding=1)
    expected = conv_bias_act(x.to(dtype).double(), w.double(), b.double(), 0.2, "lrelu", padding=1)
    assert y.dtype == dtype and (y.double() - expected).norm() <= tolerance * expected.norm()
    large = conv_bias_act(x.half() * 100, w * 300, None, 1e-3, "lrelu", padding=1)
    assert large.isfinite().all()


@pytest.mark.parametrize("size", SIZES)
def test_inputs_are_left_alone_and_layout_kept(size):
    x, w, b = tensors(size, dtype=torch.float32)
    kept = [t.clone() for t in (x, w, b)]
    plain = conv_bias_act(x, w, b, 0.5, "lrelu", padding=1)
    cl = conv_bias_act(x.contiguous(memory_format=torch.channels_last), w, b, 0.5, "lrelu", padding=1)
    torch.testing.assert_close(plain, cl, rtol=1e-4, atol=1e-5)
    assert cl.is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(p, q) for p, q in zip((x, w, b), kept))
    assert conv_bias_act(x[:0], w, b, 0.5, "lrelu", padding=1).shape == (0, *plain.shape[1:])


def test_every_activation_is_accepted():
    x, w, b = tensors("gain on the weight")
    for act in activation_funcs:
        torch.testing.assert_close(conv_bias_act(x, w, b, 0.3, act, padding=1),
                                   composition(x, w, b, 0.3, act, None, None, padding=1))
    with pytest.raises(ValueError, match="padding"):
        conv_bias_act(x, w, b, padding=(1, 2, 3))
