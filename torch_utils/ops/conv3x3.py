# SPDX-License-Identifier: Apache-2.0
"""The compiled 3x3 convolutions (csrc/conv3x3.h): minimal filtering for float32 on the CPU, in channels_last."""

from __future__ import annotations

import torch

from . import native

TILE, LANES, MAX_CHANNELS = 4, 16, 1024


def conv3x3(x, w, stride=1):
    """Correlation of x [N, C, H, W] with w [O, C, 3, 3]: stride 1, padding 1, or stride 2, no padding. RuntimeError
    where `usable` is false. Differentiable to any order."""
    return torch.ops.gantransfer.conv3x3(x, w, stride)


def conv3x3_transposed(y, w, stride=1):
    """The adjoint of `conv3x3(., w)`: y [N, O, H, W] -> [N, C, H, W] for stride 1, [N, C, 2 H + 1, 2 W + 1] for 2."""
    return torch.ops.gantransfer.conv3x3_input_grad(y, w, stride)


def usable(x, w, stride, padding, groups, transposed=False) -> bool:
    """Whether the convolution of x with w, as conv2d or conv_transpose2d have it, and its gradients run here: where the
    kernel serves them, and on processors on which it is the faster way."""
    if (x.device.type != "cpu" or x.dtype != torch.float32 or w.dtype != torch.float32 or w.ndim != 4 or groups != 1
            or tuple(w.shape[2:]) != (3, 3) or (stride, padding) not in (((1, 1), (1, 1)), ((2, 2), (0, 0)))
            or not all(k % LANES == 0 and 0 < k <= MAX_CHANNELS for k in w.shape[:2]) or x.numel() == 0):
        return False
    sides = x.shape[2:]  # of the outputs; for a transposed convolution those are what it reads
    if stride == (2, 2) and not transposed:
        if not (sides[0] % 2 and sides[1] % 2):
            return False
        sides = [s // 2 for s in sides]
    # A graph that is exported has torch's operators.
    return (all(s % TILE == 0 and s > 0 for s in sides) and native.layout_of(x) == torch.channels_last
            and not torch.compiler.is_exporting() and native.usable(x, "auto") and native.long_vectors())


# The compiled operators (gradients: csrc/autograd.cpp).


def _image(x, channels, h, w):
    return torch.empty((x.shape[0], channels, h, w), dtype=x.dtype, device=x.device,
                       memory_format=torch.channels_last)


def _fake(x, w, stride):
    h, width = x.shape[2:]
    return _image(x, w.shape[0], *((h, width) if stride == 1 else ((h - 1) // 2, (width - 1) // 2)))


def _fake_input_grad(dy, w, stride):
    h, width = dy.shape[2:]
    return _image(dy, w.shape[1], *((h, width) if stride == 1 else (2 * h + 1, 2 * width + 1)))


def register():
    """Tell torch the shapes of the compiled operators; build.load calls it."""
    torch.library.register_fake("gantransfer::conv3x3", _fake)
    torch.library.register_fake("gantransfer::conv3x3_input_grad", _fake_input_grad)
    torch.library.register_fake("gantransfer::conv3x3_weight_grad",
                                lambda dy, x, stride: x.new_empty((dy.shape[1], x.shape[1], 3, 3)))
