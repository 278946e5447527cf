# SPDX-License-Identifier: Apache-2.0
"""Pixels as bytes and as the numbers in [-1, 1] that networks see."""

from __future__ import annotations

import torch


def from_uint8(x: torch.Tensor) -> torch.Tensor:
    """uint8 of any shape to float32 in [-1, 1]: x / 127.5 - 1, a new tensor on the same device."""
    return x.to(torch.float32, copy=True).div_(127.5).sub_(1)


def to_uint8(x: torch.Tensor) -> torch.Tensor:
    """[-1, 1] floats to uint8 as the published metrics do: clamp(127.5 x + 128) truncated."""
    return (x.float() * 127.5 + 128).clamp(0, 255).to(torch.uint8)
