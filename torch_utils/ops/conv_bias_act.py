# SPDX-License-Identifier: Apache-2.0
"""A convolution layer: resampling convolution, bias, activation, gain, clamp."""

from __future__ import annotations

import torch

from . import native
from .bias_act import activate_, activation_funcs, bias_act, clamp_strictly, folds_gain
from .blur_epilogue import blur_epilogue
from .conv2d_resample import conv2d_resample, conv2d_unblurred


def conv_bias_act(x, weight, b=None, weight_gain=1, act="linear", gain=None, clamp=None, **conv):
    """`clamp(gain * act(conv2d_resample(x, weight_gain * weight, **conv) + b))`.

    x: `[N, I, H, W]`. weight: `[O, I, kh, kw]`, b: None or `[O]`, both float32 (float64 for float64). weight_gain: a
    number. The others: as bias_act and conv2d_resample. Returns x's dtype. Differentiable twice.

    The gains are applied wherever that is cheapest: to the weight and bias of a layer whose weight is smaller than its
    result, with bias and activation in the convolution's own memory; else in the pass that adds the bias. float16
    always scales the weight first, so that nothing overflows.
    """
    spec = activation_funcs[act]
    gain = float(spec.def_gain if gain is None else gain)
    if x.dtype.itemsize == 2 or not folds_gain(act, spec.def_alpha, gain):
        y = conv2d_resample(x, (weight * weight_gain).to(x.dtype), **conv)
        return bias_act(y, None if b is None else b.to(x.dtype), act=act, gain=gain, clamp=clamp)
    n = 1 if torch.compiler.is_exporting() else x.shape[0]  # an exported graph serves every batch
    outputs = n * weight.shape[0] * x.shape[2] * x.shape[3] // conv.get("down", 1) ** 2
    fused = x.device.type == "cpu" and native.usable(x, "auto")  # then the last pass costs less than a scaled weight
    if conv.get("up", 1) == 1 and weight.numel() <= outputs and not fused:
        bias = None if b is None else b if gain == 1 else b * gain
        y = conv2d_resample(x, weight * (weight_gain * gain), bias=bias, **conv)
        return clamp_strictly(activate_(y, act), clamp)
    y, blur = conv2d_unblurred(x, weight, **conv)
    return blur_epilogue(y, **blur, d=weight_gain, b=b, act=act, gain=gain, clamp=clamp)
