# SPDX-License-Identifier: Apache-2.0
"""conv2d and conv_transpose2d whose double backward is built from plain convolutions.

torch's own double backward turns the batch into channels and the gradient map into a kernel. In bfloat16 on CPUs with
AMX that convolution returns wrong numbers, silently; on CUDA it is several times slower than need be. Here forward,
input gradient and weight gradient are three linear operators that differentiate into one another. float32 and float64
on the CPU, and 16 bits on x86 processors without AMX, use torch's own, which is right and as fast there. 3x3 layers
in channels_last float32 are minimal filtering in all three operators: compiled (torch_utils/ops/conv3x3.py), or, wide
ones without a compiler, in torch's operators (torch_utils/ops/winograd.py).
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F

from torch_utils import build

from . import conv3x3, winograd


def conv2d(x, w, stride=1, padding=0, groups=1, bias=None):
    """Correlation of x [N, I, H, W] with w [O, I/groups, kh, kw]. stride, padding: int or (y, x). bias [O] or None."""
    conf = (_pair(stride), _pair(padding), False, groups)
    if conv3x3.usable(x, w, *conf[:2], groups):
        y = conv3x3.conv3x3(x, w, conf[0][0])
        return y if bias is None else y.add_(bias.reshape(1, -1, 1, 1))
    if _native(x) and not _fast(x, w, conf):
        return F.conv2d(x, w, bias, stride=stride, padding=padding, groups=groups)
    y = _Conv.apply(x, w, conf)
    return y if bias is None else y.add_(bias.reshape(1, -1, 1, 1))


def conv_transpose2d(x, w, stride=1, padding=0, groups=1):
    """Transposed convolution of x [N, I, H, W] with w [I, O/groups, kh, kw]. stride, padding: int or (y, x)."""
    if conv3x3.usable(x, w, _pair(stride), _pair(padding), groups, transposed=True):
        return conv3x3.conv3x3_transposed(x, w, _pair(stride)[0])
    if _native(x):
        return F.conv_transpose2d(x, w, stride=stride, padding=padding, groups=groups)
    return _Conv.apply(x, w, (_pair(stride), _pair(padding), True, groups))


def _native(x) -> bool:
    return x.device.type == "cpu" and (x.dtype in (torch.float32, torch.float64) or _known_without_amx())


_cpu_flags = functools.cache(build.cpu_flags)


@build.assume_constant
def _known_without_amx() -> bool:
    flags = _cpu_flags()
    return "avx2" in flags and "amx_bf16" not in flags


def _pair(v):
    return (int(v), int(v)) if isinstance(v, int) else (int(v[0]), int(v[1]))


def _fast(x, w, conf) -> bool:
    stride, padding, transposed, groups = conf
    return not transposed and winograd.usable(x, w, stride, padding, groups)


def _forward(x, w, conf):
    if _fast(x, w, conf):
        return winograd.conv3x3(x, w)
    stride, padding, transposed, groups = conf
    return torch.ops.aten.convolution(x, w, None, stride, padding, (1, 1), transposed, (0, 0), groups)


def _input_grad(dy, w, size, conf):
    if not conf[2] and winograd.usable(dy, w, conf[0], conf[1], conf[3]):
        return winograd.conv3x3(dy, w.flip(2, 3).transpose(0, 1))
    return _backward(dy, dy.new_empty(1).expand(size), w, conf, (True, False, False))[0]


def _weight_grad(dy, x, size, conf):
    w = dy.new_empty(1).expand(size)
    if _fast(x, w, conf):
        return winograd.weight_grad(dy, x)
    return _backward(dy, x, w, conf, (False, True, False))[1]


def _backward(dy, x, w, conf, mask):
    stride, padding, transposed, groups = conf
    return torch.ops.aten.convolution_backward(dy, x, w, None, stride, padding, (1, 1), transposed, (0, 0), groups,
                                               mask)


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w, conf):
        ctx.save_for_backward(x, w)
        ctx.conf = conf
        return _forward(x, w, conf)

    @staticmethod
    def backward(ctx, dy):
        x, w = ctx.saved_tensors
        need_x, need_w, _ = ctx.needs_input_grad
        if need_x and need_w and not torch.is_grad_enabled() and not _fast(x, w, ctx.conf):
            dx, dw, _ = _backward(dy, x, w, ctx.conf, (True, True, False))
            return dx, dw, None
        dx = _InGrad.apply(dy, w, x.shape, ctx.conf) if need_x else None
        dw = _WGrad.apply(dy, x, w.shape, ctx.conf) if need_w else None
        return dx, dw, None


class _InGrad(torch.autograd.Function):
    @staticmethod
    def forward(ctx, dy, w, size, conf):
        ctx.save_for_backward(dy, w)
        ctx.conf = conf
        return _input_grad(dy, w, size, conf)

    @staticmethod
    def backward(ctx, v):
        dy, w = ctx.saved_tensors
        need_dy, need_w = ctx.needs_input_grad[:2]
        d_dy = _Conv.apply(v, w, ctx.conf) if need_dy else None
        dw = _WGrad.apply(dy, v, w.shape, ctx.conf) if need_w else None
        return d_dy, dw, None, None


class _WGrad(torch.autograd.Function):
    @staticmethod
    def forward(ctx, dy, x, size, conf):
        ctx.save_for_backward(dy, x)
        ctx.conf = conf
        return _weight_grad(dy, x, size, conf)

    @staticmethod
    def backward(ctx, v):
        dy, x = ctx.saved_tensors
        need_dy, need_x = ctx.needs_input_grad[:2]
        d_dy = _Conv.apply(x, v, ctx.conf) if need_dy else None
        dx = _InGrad.apply(dy, v, x.shape, ctx.conf) if need_x else None
        return d_dy, dx, None, None
