# SPDX-License-Identifier: Apache-2.0
"""A StyleGAN2 synthesis layer for inference on the CPU, whose weights are prepared once and kept.

What training computes at every call, since its weights change, is done once here: squared weights for demodulation,
the weights' side of minimal filtering, the order in which the kernel reads them. float32, compiled, not differentiable;
csrc/styled_conv.cpp.
"""

from __future__ import annotations

import torch

from . import native, upfirdn2d
from .conv3x3 import LANES, MAX_CHANNELS, TILE

# Pairs of channels above which reading four times the weights costs more than it saves for a single image, by the side
# of what a layer reads and its factor. Larger images are always worth it, others never.
MOST_PAIRS = {(8, 1): 256 * 256, (8, 2): 256 * 256, (4, 2): 64 * 64}
FILTERED, DIRECT, FILTERED_UP, DIRECT_UP = range(4)  # forms of the kernel


class Packed:
    """The weights of one layer in the kernel's order, and what they were made of."""

    def __init__(self, weight: torch.Tensor, up: int, resolution: int):
        """weight [O, C, 3, 3]: a correlation, with up = 2 a convolution; resolution of the result."""
        o, c = weight.shape[:2]
        side = resolution // up
        self.source = weight.detach().clone()
        self.filtered = side > 8 or o * c <= MOST_PAIRS.get((side, up), 0)
        self.q = self.source.square().sum((2, 3)).t().contiguous()
        forms = (FILTERED, DIRECT) if up == 1 else (FILTERED_UP, DIRECT_UP)
        self.w = torch.ops.gantransfer.styled_conv_weights(self.source, forms[not self.filtered])

    def current(self, weight: torch.Tensor) -> bool:
        """Whether they still belong to `weight`, by its numbers: fused optimisers change it without a new version."""
        return torch.equal(self.source, weight)

    def __deepcopy__(self, memo):
        return None  # a copied layer packs its own weights

    def __reduce__(self):
        return type(None), ()


def usable(x, weight, styles, noise, strength, b, act, up, padding, flip_weight) -> bool:
    """Whether the layer may run here: nothing is trained, no gradient is wanted, and the kernel serves its sizes and is
    the faster way on this processor."""
    if torch.compiler.is_compiling() or torch.compiler.is_exporting():  # whose sizes may be symbols
        return False
    o, c, kh, kw = weight.shape
    return (x.device.type == "cpu" and x.dtype == weight.dtype == styles.dtype == torch.float32
            and kh == kw == 3 and padding == 1 and up in (1, 2) and flip_weight == (up == 1)
            and o % LANES == c % LANES == 0 and max(o, c) <= MAX_CHANNELS
            and x.shape[2] % TILE == x.shape[3] % TILE == 0
            and act in ("linear", "relu", "lrelu") and not weight.is_inference()
            and not (torch.is_grad_enabled() and any(t is not None and t.requires_grad
                                                     for t in (x, weight, styles, noise, strength, b)))
            and native.usable(x, "auto") and native.long_vectors())


def styled_conv(x, packed: Packed, styles, noise, strength, b, f, up, act, gain, clamp):
    """`modulated_conv_act` with these arguments: x [N, C, H, W] -> [N, O, H * up, W * up], channels_last."""
    ops = torch.ops.gantransfer
    after = {"linear": 1.0, "relu": 0.0, "lrelu": 0.2}[act], float(gain), -1.0 if clamp is None else float(clamp)
    if up == 1:
        return ops.styled_conv(x, styles, packed.w, packed.q, noise, strength, b, *after, packed.filtered)
    y, d = ops.styled_conv_up(x, styles, packed.w, packed.q, packed.filtered)
    fw, fh = upfirdn2d.filter_size(f)
    pad = [(fw + 1) // 2 - 1, fw // 2 - 1, (fh + 1) // 2 - 1, fh // 2 - 1]
    return ops.blur_epilogue(y, f, pad, False, 4.0, d, 1.0, noise, strength, b, *after)
