# SPDX-License-Identifier: Apache-2.0
"""Convolution whose weights are scaled per sample by styles and demodulated (StyleGAN2, equations 1 and 3)."""

from __future__ import annotations

import torch

from .blur_epilogue import blur_epilogue
from .conv2d_resample import conv2d_resample, conv2d_unblurred
from .weight_sq import weight_sq

FORMULATIONS = ("activations", "weights")


def modulated_conv2d(x, weight, styles, noise=None, up=1, down=1, padding=0, resample_filter=None, demodulate=True,
                     flip_weight=True, formulation=None, impl="auto"):
    """`y_n = conv2d_resample(x_n, d_n * weight * s_n) + noise`, `d_n[o] = (sum (weight[o] * s_n)^2 + 1e-8)^-1/2`.

    x: `[N, I, H, W]`. weight: `[O, I, kh, kw]`, styles: `[N, I]`, both float32 (float64 for float64). noise: None or
    broadcastable to the output. The others: as conv2d_resample. formulation: 'activations' scales the input, runs one
    dense convolution and scales the output (the default); 'weights' builds one weight per sample and runs a grouped
    convolution. They differ by rounding only. In float16 weight and styles are normalised first so that nothing
    overflows (without effect on the result). Returns `[N, O, Ho, Wo]` of x's dtype. Differentiable twice.
    """
    if formulation not in (None, *FORMULATIONS):
        raise ValueError(f"modulated_conv2d: formulation must be one of {FORMULATIONS}, not {formulation!r}")
    kw = dict(f=resample_filter, up=up, down=down, padding=padding, flip_weight=flip_weight, impl=impl)
    _check(x, weight, styles)
    n = x.shape[0]
    if formulation == "weights" and n:
        weight, styles = _prenormalize(x, weight, styles, demodulate)
        w = weight * styles[:, None, :, None, None]
        if demodulate:
            w = w * (w.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
        y = conv2d_resample(x.reshape(1, -1, *x.shape[2:]), w.flatten(0, 1).to(x.dtype), groups=n, **kw)
        y = y.reshape(n, -1, *y.shape[2:])
        return y if noise is None else y + noise.to(y.dtype)
    if formulation is None and not demodulate and impl == "auto" and _is_plain_1x1(x, weight, up, down, padding):
        y = _to_few_channels(x, weight, styles)
        return y if noise is None else y + noise.to(y.dtype)
    x, weight, d = _scaled(x, weight, styles, demodulate, impl)
    y = conv2d_resample(x, weight, **kw)
    if d is None:
        return y if noise is None else y + noise.to(y.dtype)
    d = d.to(y.dtype)[:, :, None, None]
    return y * d if noise is None else torch.addcmul(noise.to(y.dtype), y, d)


def modulated_conv_act(x, weight, styles, noise=None, strength=None, b=None, act="linear", gain=None, clamp=None,
                       impl="auto", **conv):
    """A synthesis layer: `epilogue(conv2d_resample(styles * x, weight), d, noise, strength, b, act, gain, clamp)`.

    d demodulates as in modulated_conv2d. noise, strength, b, act, gain, clamp: as epilogue. conv: as conv2d_resample.
    When upsampling, the blur and all that follows are one operator. Returns `[N, O, Ho, Wo]` of x's dtype.
    Differentiable twice.
    """
    x, weight, d = _scaled(x, weight, styles, True, impl)
    y, blur = conv2d_unblurred(x, weight, impl=impl, **conv)
    return blur_epilogue(y, **blur, d=d, noise=noise, strength=strength, b=b, act=act, gain=gain, clamp=clamp,
                         impl=impl)


def _scaled(x, weight, styles, demodulate, impl):
    """The 'activations' form: (x * styles, weight in x's dtype, demodulation coefficients `[N, O]` float32 or None).

    The coefficients come from squared weights, `d = rsqrt(styles^2 @ q^T + 1e-8)`, `q[o, i] = sum_kl weight^2`: the
    per-sample weight `[N, O, I, kh, kw]` is never built.
    """
    _check(x, weight, styles)
    weight, styles = _prenormalize(x, weight, styles, demodulate)
    d = (styles.square() @ weight_sq(weight, impl).t() + 1e-8).rsqrt() if demodulate else None
    return x * styles.to(x.dtype)[:, :, None, None], weight.to(x.dtype), d


def _is_plain_1x1(x, weight, up, down, padding):
    """A ToRGB: per-sample weights are tiny there, smaller than the image it reads."""
    o, i, kh, kw = weight.shape
    return kh == kw == up == down == 1 and padding == 0 and o <= 16 and x.numel() > 0


def _to_few_channels(x, weight, styles):
    """1x1 convolution with weights [N, O, I], as one batched matrix product: x is read once and not scaled. Written so
    that the gradient of x comes in x's layout; put in order afterwards it takes ten times as long."""
    n, c, h, w = x.shape
    weight = (weight.flatten(1) * styles[:, None]).to(x.dtype)
    if x.is_contiguous(memory_format=torch.channels_last):
        y = torch.matmul(x.permute(0, 2, 3, 1).reshape(n, h * w, c), weight.transpose(1, 2))
        return y.reshape(n, h, w, -1).permute(0, 3, 1, 2)
    return torch.matmul(weight, x.reshape(n, c, h * w)).reshape(n, -1, h, w)


def _prenormalize(x, weight, styles, demodulate):
    if x.dtype != torch.float16 or not demodulate or not x.numel():
        return weight, styles
    _, i, kh, kw = weight.shape
    weight = weight * (1 / (i * kh * kw) ** 0.5 / weight.abs().amax((1, 2, 3), keepdim=True))
    return weight, styles / styles.abs().amax(1, keepdim=True)


def _check(x, weight, styles):
    if x.ndim != 4 or weight.ndim != 4 or weight.shape[1] != x.shape[1]:
        raise ValueError(f"modulated_conv2d: x [N, I, H, W] and weight [O, I, kh, kw] expected, got {tuple(x.shape)} "
                         f"and {tuple(weight.shape)}")
    if tuple(styles.shape) != (x.shape[0], x.shape[1]):
        raise ValueError(f"modulated_conv2d: styles {(x.shape[0], x.shape[1])} expected, got {tuple(styles.shape)}")
