# SPDX-License-Identifier: Apache-2.0
"""Which library the tests of compiled operators run: the one that users get, or the emulated CUDA kernels when
GANTRANSFER_TEST_LIBRARY names such a library (tests/torch_utils/ops/test_cuda_emulated.py does)."""

import os
import warnings
from pathlib import Path

import pytest
import torch

from torch_utils import build

EMULATED = os.environ.get("GANTRANSFER_TEST_LIBRARY")
LAYOUTS = [torch.contiguous_format, torch.channels_last]
# Relative L2 error against float64: storage rounding for 16 bits, arithmetic for the others.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 6e-3}


@pytest.fixture(scope="session", autouse=True)
def kernels():
    """True when compiled kernels serve CPU tensors."""
    if EMULATED:
        from tests.cuda import emulated

        emulated.load(Path(EMULATED))
        return True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return build.native("cpu")


@pytest.fixture
def native(kernels):
    """Skips where there are no compiled kernels."""
    if not kernels:
        pytest.skip(f"no compiled kernels: mode {build.mode()}, {build.describe()['failure']}")


def compiles(f, *leaves):
    """torch.compile takes `f` whole: values and gradients of those leaves that have some are those of `f`. The emulator
    is not asked: graphs run its kernels nowhere differently."""
    if not EMULATED:
        wanted, found = [t for t in leaves if t.requires_grad], []
        for g in (torch.compile(f, fullgraph=True, backend="aot_eager"), f):
            y = g(*leaves)
            found.append([y, *torch.autograd.grad(y.square().sum(), wanted)])
        torch.testing.assert_close(*found)


def opcheck(op, args, **kw):
    """torch.library.opcheck; the emulator is only asked whether its results have the shape, layout and storage told."""
    if EMULATED:
        kw["test_utils"] = ("test_schema", "test_faketensor")
    torch.library.opcheck(op, args, **kw)


def emulated(small, shape):
    """`small` in the emulated run, where time goes with the number of elements and derivatives with its square."""
    return small if EMULATED else shape


def derivatives_fit(f, leaves, **kw):
    """Derivatives of both orders are those of finite differences."""
    assert torch.autograd.gradcheck(f, leaves, **kw) and torch.autograd.gradgradcheck(f, leaves, **kw)


def kept_for_the_backward(f):
    """(result of f, storages of what it saved of at least the result's size)"""
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda v: saved.append(v) or v, lambda v: v):
        y = f()
    return y, {v.untyped_storage().data_ptr() for v in saved if v.numel() >= y.numel()}


def rel(a, b, floor=0.0):
    """||a - b|| / max(||b||, floor) in float64; shapes must agree, NaN never passes."""
    assert a.shape == b.shape, f"{tuple(a.shape)} instead of {tuple(b.shape)}"
    a, b = a.detach().double(), b.detach().double()
    scale = max(b.norm().item(), floor)
    error = (a - b).norm().item() / (scale if scale > 0 else 1)
    assert error == error, "not a number"
    return error
