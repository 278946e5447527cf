# SPDX-License-Identifier: Apache-2.0
"""A StyleGAN2 synthesis layer for inference on the CPU, whose weights are prepared once and kept.

What training computes at every call, since its weights change, is done once here: squared weights for demodulation,
the weights' side of Winograd's algorithm (torch_utils/ops/winograd.py), the order in which the kernel reads them.
float32, compiled, not differentiable; csrc/styled_conv.cpp.
"""

from __future__ import annotations

import numpy as np
import torch

from . import native, upfirdn2d
from .winograd import POINTS, SIDE, TILE

LANES = 16  # of channels that the kernel takes at a time
MOST_PAIRS = 256 * 256  # of channels at 8x8, above which reading four times the weights costs more than it saves
# Taps of a transposed convolution by the parity of the output's row and column.
PHASES = (((0, 0), (0, 2), (2, 0), (2, 2)), ((0, 1), (2, 1)), ((1, 0), (1, 2)), ((1, 1),))


class Packed:
    """The weights of one layer in the kernel's order, and what they were made of."""

    def __init__(self, weight: torch.Tensor, up: int, resolution: int):
        """weight [O, C, 3, 3]: a correlation, with up = 2 a convolution; resolution of the result."""
        o, c = weight.shape[:2]
        self.source = weight.detach().clone()
        self.winograd = up == 1 and (resolution > 8 or (resolution == 8 and o * c <= MOST_PAIRS))
        w = self.source.double()
        self.q = w.square().sum((2, 3)).t().float().contiguous()
        if self.winograd:
            self.w = _in_panels((_kernel_transform() @ w.reshape(o * c, 9).t()).reshape(SIDE**2, 1, o, c))
        elif up == 1:
            self.w = _in_panels(w.permute(2, 3, 0, 1).reshape(1, 9, o, c))
        else:
            self.w = torch.cat([_in_panels(torch.stack([w[:, :, y, x] for y, x in taps])[None]).flatten()
                                for taps in PHASES])

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
    o, c, kh, kw = weight.shape
    return (x.device.type == "cpu" and x.dtype == weight.dtype == styles.dtype == torch.float32
            and kh == kw == 3 and padding == 1 and up in (1, 2) and flip_weight == (up == 1)
            and o % LANES == 0 and c % LANES == 0 and x.shape[2] % TILE == x.shape[3] % TILE == 0
            and act in ("linear", "relu", "lrelu") and not weight.is_inference()
            and not (torch.is_grad_enabled() and any(t is not None and t.requires_grad
                                                     for t in (x, weight, styles, noise, strength, b)))
            and not torch.compiler.is_compiling() and not torch.compiler.is_exporting() and native.usable(x, "auto")
            and native.long_vectors())


def styled_conv(x, packed: Packed, styles, noise, strength, b, f, up, act, gain, clamp):
    """`modulated_conv_act` with these arguments: x [N, C, H, W] -> [N, O, H * up, W * up], channels_last."""
    ops = torch.ops.gantransfer
    after = {"linear": 1.0, "relu": 0.0, "lrelu": 0.2}[act], float(gain), -1.0 if clamp is None else float(clamp)
    if up == 1:
        return ops.styled_conv(x, styles, packed.w, packed.q, noise, strength, b, *after, packed.winograd)
    y, d = ops.styled_conv_up(x, styles, packed.w, packed.q)
    fw, fh = upfirdn2d.filter_size(f)
    pad = [(fw + 1) // 2 - 1, fw // 2 - 1, (fh + 1) // 2 - 1, fh // 2 - 1]
    return ops.blur_epilogue(y, f, pad, False, 4.0, d, 1.0, noise, strength, b, *after)


def _in_panels(w: torch.Tensor) -> torch.Tensor:
    """[P, taps, O, C] float64 -> [P, O / LANES, taps, C, LANES] float32."""
    p, taps, o, c = w.shape
    return w.reshape(p, taps, o // LANES, LANES, c).permute(0, 2, 1, 4, 3).float().contiguous()


def _kernel_transform() -> torch.Tensor:
    """[36, 9]: a 3x3 kernel at Winograd's points, of both axes."""
    w_t = np.zeros((SIDE, 3))
    for i, p in enumerate(POINTS):
        w_t[i] = [p**j / np.prod([p - q for q in POINTS if q != p]) for j in range(3)]
    w_t[-1, -1] = 1
    return torch.from_numpy(np.kron(w_t, w_t))
