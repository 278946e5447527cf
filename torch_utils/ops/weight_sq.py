# SPDX-License-Identifier: Apache-2.0
"""Squared weights summed over the kernel: what demodulation needs of a weight."""

from __future__ import annotations

import torch

from . import native


def weight_sq(w, impl="auto"):
    """`q[o, i] = sum_kl w[o, i, k, l]^2`: w `[O, I, kh, kw]` -> `[O, I]` of its dtype. Differentiable to any order."""
    native.check_impl("weight_sq", impl)
    if w.ndim != 4:
        raise ValueError(f"weight_sq: w [O, I, kh, kw] expected, got {tuple(w.shape)}")
    if w.dtype in (torch.float32, torch.float64) and native.usable(w, impl):
        return torch.ops.gantransfer.weight_sq(w)
    return w.square().sum((2, 3))


# The compiled operators (gradients: csrc/autograd.cpp).


def register():
    """Tell torch the shapes of the compiled operators; build.load calls it."""
    torch.library.register_fake("gantransfer::weight_sq", lambda w: w.new_empty(w.shape[:2]))
    torch.library.register_fake("gantransfer::weight_sq_grad", lambda dq, w: native.empty_like(w))
