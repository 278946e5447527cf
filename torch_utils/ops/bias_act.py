# SPDX-License-Identifier: Apache-2.0
"""Bias, activation, gain and clamp in one call."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from dnnlib.util import EasyDict

from . import native

_SQRT2 = math.sqrt(2)

activation_funcs = {
    "linear": EasyDict(func=lambda u, alpha: u, def_alpha=0, def_gain=1),
    "relu": EasyDict(func=lambda u, alpha: F.relu(u), def_alpha=0, def_gain=_SQRT2),
    "lrelu": EasyDict(func=lambda u, alpha: F.leaky_relu(u, alpha), def_alpha=0.2, def_gain=_SQRT2),
    "tanh": EasyDict(func=lambda u, alpha: torch.tanh(u), def_alpha=0, def_gain=1),
    "sigmoid": EasyDict(func=lambda u, alpha: torch.sigmoid(u), def_alpha=0, def_gain=1),
    "elu": EasyDict(func=lambda u, alpha: F.elu(u), def_alpha=0, def_gain=1),
    "selu": EasyDict(func=lambda u, alpha: F.selu(u), def_alpha=0, def_gain=1),
    "softplus": EasyDict(func=lambda u, alpha: F.softplus(u), def_alpha=0, def_gain=1),
    "swish": EasyDict(func=lambda u, alpha: F.silu(u), def_alpha=0, def_gain=_SQRT2),
}


_CODES = {name: i for i, name in enumerate(activation_funcs, 1)}  # enum Act of csrc/bias_act.h


def bias_act(x, b=None, dim=1, act="linear", alpha=None, gain=None, clamp=None, impl="auto"):
    """`clamp(gain * act(x + b))`.

    x: any shape, floating point. b: None or `[x.shape[dim]]` of x's dtype. act: a key of `activation_funcs`.
    alpha: slope of 'lrelu' (other activations ignore it). gain: factor before the clamp; None = the activation's own
    (sqrt 2 for relu, lrelu, swish). clamp: None or >= 0; a value whose magnitude reaches the bound gets no gradient.
    Returns a tensor of x's shape, dtype and memory format. Differentiable twice with respect to x and b.
    Raises ValueError for an unknown activation, a bias of the wrong shape or dtype, a negative clamp.
    """
    if act not in activation_funcs:
        raise ValueError(f"bias_act: unknown activation {act!r}; one of {', '.join(activation_funcs)}")
    native.check_impl("bias_act", impl)
    if clamp is not None and not clamp >= 0:
        raise ValueError(f"bias_act: clamp must be >= 0, not {clamp}")
    if b is not None:
        if not -x.ndim <= dim < x.ndim:
            raise ValueError(f"bias_act: dim {dim} is outside a tensor of shape {tuple(x.shape)}")
        if b.ndim != 1 or b.shape[0] != x.shape[dim] or b.dtype != x.dtype:
            raise ValueError(f"bias_act: bias {tuple(b.shape)} {b.dtype} does not fit dim {dim} of x {tuple(x.shape)} "
                             f"{x.dtype}")
        dim = dim % x.ndim
    spec = activation_funcs[act]
    alpha = float(spec.def_alpha if alpha is None else alpha)
    gain = float(spec.def_gain if gain is None else gain)
    clamp = None if clamp is None else float(clamp)
    if act == "linear" and b is None and gain == 1 and clamp is None:
        return x
    if native.usable(x, impl):
        return torch.ops.gantransfer.bias_act(x, b, dim, _CODES[act], alpha, gain, -1.0 if clamp is None else clamp)
    # Activations that commute with a positive gain, and whose derivative shows in the output's sign, save only y.
    if impl == "auto" and folds_gain(act, alpha, gain):
        return _PiecewiseLinear.apply(x, b, dim, act, alpha, gain, clamp)
    return _ref(x, b, dim, act, alpha, gain, clamp)


def _ref(x, b, dim, act, alpha, gain, clamp):
    """The definition."""
    if b is not None:
        x = x + b.reshape([-1 if i == dim else 1 for i in range(x.ndim)])
    x = activation_funcs[act].func(x, alpha)
    if gain != 1:
        x = x * gain
    return clamp_strictly(x, clamp)


def folds_gain(act, alpha, gain) -> bool:
    """Whether `gain * act(u) == act(gain * u)` and the slope shows in the output's sign."""
    return gain > 0 and (act in ("linear", "relu") or (act == "lrelu" and alpha >= 0))


def activate_(y, act, alpha=None):
    """Apply linear, relu or lrelu in place, without gain; y must be a fresh result that nothing else needs."""
    if act == "relu":
        return y.relu_()
    if act == "lrelu":
        return F.leaky_relu_(y, activation_funcs[act].def_alpha if alpha is None else alpha)
    return y


def clamp_strictly(x, clamp):
    """clamp(x, -clamp, clamp) without gradient where the bound is reached; clamp None = x."""
    return x if clamp is None else _Clamp.apply(x, float(clamp))


def sum_to_channel(x, dim=1):
    """Sum over every dimension but `dim`; returns `[x.shape[dim]]`."""
    if x.ndim == 4 and dim == 1 and x.is_contiguous() and x.numel():
        return x.flatten(2).sum(2).sum(0)  # two contiguous reductions beat torch's one strided reduction
    return x.sum([i for i in range(x.ndim) if i != dim])


class _Clamp(torch.autograd.Function):
    """clamp(x, -c, c) whose gradient is cut strictly: also where |x| == c."""

    @staticmethod
    def forward(ctx, x, c):
        y = x.clamp(-c, c)
        ctx.save_for_backward(y)
        ctx.c = c
        return y

    @staticmethod
    def backward(ctx, dy):
        (y,) = ctx.saved_tensors
        return dy * (y.detach().abs() < ctx.c), None


class _PiecewiseLinear(torch.autograd.Function):
    """bias_act for linear, relu and lrelu with positive gain. Everything in its backward is a mask times `dy`, so the
    backward, written in torch's own differentiable operators, is the second order too."""

    @staticmethod
    def forward(ctx, x, b, dim, act, alpha, gain, clamp):
        if b is not None:
            b = b.reshape([-1 if i == dim else 1 for i in range(x.ndim)])
            y = x + b if gain == 1 else torch.add(b * gain, x, alpha=gain)
        else:
            y = x * gain
        activate_(y, act, alpha)
        if clamp is not None:
            y.clamp_(-clamp, clamp)
        ctx.args = dim, act, alpha, gain, clamp, b is not None
        if act != "linear" or clamp is not None:
            ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, dy):
        dim, act, alpha, gain, clamp, has_bias = ctx.args
        dx = dy
        if act != "linear" or clamp is not None:
            dx = piecewise_grad(dy, ctx.saved_tensors[0], act, alpha, clamp)
        if gain != 1:
            dx = dx * gain
        db = sum_to_channel(dx, dim) if has_bias and ctx.needs_input_grad[1] else None
        return dx, db, None, None, None, None, None


def piecewise_grad(dy, y, act, alpha, clamp):
    """dy masked by the activation's slope (linear, relu, lrelu) and the clamp, both read from the output y."""
    if act == "linear" and clamp is None:
        return dy
    y = y.detach()
    if act == "relu":
        dy = torch.ops.aten.threshold_backward(dy, y, 0)
    elif act == "lrelu":
        dy = torch.ops.aten.leaky_relu_backward(dy, y, alpha, True)
    if clamp is not None:
        dy = dy * (y.abs() < clamp)
    return dy


# The compiled operators (gradients: csrc/autograd.cpp).


def _fake_grad(dy, saved, b, dim, act, alpha, gain, clamp, want_db):
    return native.empty_like(dy, saved), dy.new_empty(dy.shape[dim] if want_db else 0, dtype=native.wide(dy))


def _fake_grad2(dy, v, saved, b, dim, act, alpha, gain, clamp, want_db):
    return _fake_grad(dy, saved, b, dim, act, alpha, gain, clamp, want_db)


def register():
    """Tell torch the shapes of the compiled operators; build.load calls it."""
    library = torch.library
    library.register_fake("gantransfer::bias_act", lambda x, b, dim, act, alpha, gain, clamp: native.empty_like(x))
    library.register_fake("gantransfer::bias_act_grad", _fake_grad)
    library.register_fake("gantransfer::bias_act_grad2", _fake_grad2)
