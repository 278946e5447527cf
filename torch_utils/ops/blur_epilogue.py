# SPDX-License-Identifier: Apache-2.0
"""What follows a transposed convolution in a StyleGAN2 layer, in one operator: the blur, then the epilogue."""

from __future__ import annotations

import torch

from . import epilogue as after
from . import native, upfirdn2d


def blur_epilogue(x, f, padding, d=None, noise=None, strength=None, b=None, act="linear", alpha=None, gain=None,
                  clamp=None, flip_filter=False, fir_gain=1, impl="auto"):
    """`epilogue(upfirdn2d(x, f, padding=padding, flip_filter=flip_filter, gain=fir_gain), d, noise, strength, ...)`.

    The arguments are those of the two (noise has the size of the blurred image), and so are result and errors. Where a
    fused kernel serves, the blurred image is never written, and in 16 bits nothing is rounded in between. Keeps only
    the output for the backward. Differentiable twice; impl='ref' is the definition, differentiable to any order.
    """
    native.check_impl("blur_epilogue", impl)
    up, down, padding = upfirdn2d.parse(x, f, padding=padding)
    conf = after.parse(upfirdn2d.out_size(x.shape, f, up, down, padding), d, noise, strength, b, act, alpha, gain,
                       clamp)
    if conf.folds and f is not None and f.dtype == torch.float32 and native.usable(x, impl):
        d = d if isinstance(d, torch.Tensor) else None
        return torch.ops.gantransfer.blur_epilogue(x, f, padding, bool(flip_filter), float(fir_gain), d, conf.scale,
                                                   noise, strength, b, *conf.compiled())
    if f is not None or any(padding) or fir_gain != 1:
        x = upfirdn2d.upfirdn2d(x, f, padding=padding, flip_filter=flip_filter, gain=fir_gain, impl=impl)
    return after.epilogue(x, d, noise, strength, b, act, alpha, gain, clamp, impl)


# The compiled operator (gradient: csrc/autograd.cpp).


def _fake(x, f, pad, flip, fir_gain, d, scale, noise, strength, b, slope, gain, clamp):
    size = upfirdn2d.out_size(x.shape, f, (1, 1), (1, 1), pad)
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=native.layout_of(x))


def register():
    """Tell torch the shapes of the compiled operator; build.load calls it."""
    torch.library.register_fake("gantransfer::blur_epilogue", _fake)
