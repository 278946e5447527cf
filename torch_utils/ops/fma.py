# SPDX-License-Identifier: Apache-2.0
"""Multiply and add with broadcasting."""

import torch


def fma(a, b, c, impl="auto"):
    """`a * b + c` with broadcasting; floating point, differentiable to any order (torch sums broadcast gradients)."""
    if impl not in ("auto", "ref"):
        raise ValueError(f"fma: impl must be 'auto' or 'ref', not {impl!r}")
    return a * b + c if impl == "ref" else torch.addcmul(c, a, b)
