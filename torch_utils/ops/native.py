# SPDX-License-Identifier: Apache-2.0
"""Whether an operator call takes the compiled kernel, and the autograd formulas of compiled operators, registered when
the library is loaded for the first time."""

from __future__ import annotations

import torch

from torch_utils import build

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def usable(x: torch.Tensor, impl: str) -> bool:
    """True if compiled kernels serve x on its device in the present mode."""
    return impl == "auto" and x.dtype in DTYPES and build.native(x.device.type)


def long_vectors() -> bool:
    """Whether the library that is loaded was compiled for AVX2 or AVX-512, where the compiled convolutions are the
    faster way; on Arm nothing is known. Ask `usable` first: it loads the library."""
    return "avx2" in build.instruction_sets()


def check_impl(name: str, impl: str) -> None:
    if impl not in ("auto", "ref"):
        raise ValueError(f"{name}: impl must be 'auto' or 'ref', not {impl!r}")


def layout_of(x: torch.Tensor) -> torch.memory_format:
    """The memory format that compiled operators write for an input like x."""
    if x.ndim == 4 and not x.is_contiguous() and x.shape[1] > 1 and x.stride(1) == 1:
        return torch.channels_last
    return torch.contiguous_format


def empty_like(x: torch.Tensor, like: torch.Tensor | None = None) -> torch.Tensor:
    """For shape inference: x's shape in the layout of `like` (default x)."""
    return torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=layout_of(x if like is None else like))


def wide(x: torch.Tensor) -> torch.dtype:
    """Type of per-channel and per-sample vectors that go with x."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32
