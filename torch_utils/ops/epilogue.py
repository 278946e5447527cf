# SPDX-License-Identifier: Apache-2.0
"""What follows a convolution in a StyleGAN2 layer, in one operator: scale, noise, bias, activation, gain, clamp."""

from __future__ import annotations

from typing import NamedTuple

import torch

from . import native
from .bias_act import activate_, activation_funcs, bias_act, folds_gain, piecewise_grad


def epilogue(x, d=None, noise=None, strength=None, b=None, act="linear", alpha=None, gain=None, clamp=None,
             impl="auto"):
    """`clamp(gain * act(d * x + strength * noise + b))`.

    x: `[N, C, H, W]`. d: None, a positive number, or `[N, C]` positive (demodulation). noise: None, `[H, W]` or
    `[N, 1, H, W]`; strength: 0-dim tensor, given with noise. b: None or `[C]`. act: 'linear', 'relu' or 'lrelu';
    alpha, gain (> 0), clamp: as bias_act. Vectors are float32 whatever x is, and so are their gradients.
    Returns x's shape, dtype and memory format. Only the output is kept for the backward: gradients of d come from
    inverting the activation where its slope is not zero. Differentiable twice.
    """
    native.check_impl("epilogue", impl)
    conf = parse(x.shape, d, noise, strength, b, act, alpha, gain, clamp)
    if impl == "auto" and conf.folds:
        d = d if isinstance(d, torch.Tensor) else None
        if native.usable(x, impl):
            return torch.ops.gantransfer.epilogue(x, d, conf.scale, noise, strength, b, *conf.compiled())
        return _Epilogue.apply(x, d, noise, strength, b, (conf.scale, act, conf.alpha, conf.gain, conf.clamp))
    u = x
    if d is not None:
        u = x * (d if isinstance(d, (int, float)) else d.to(x.dtype)[:, :, None, None])
    if noise is not None:
        u = u + (noise * strength).to(x.dtype)
    return bias_act(u, None if b is None else b.to(x.dtype), act=act, alpha=conf.alpha, gain=conf.gain,
                    clamp=conf.clamp, impl="ref")


class Conf(NamedTuple):
    """The checked numbers of an epilogue."""

    act: str
    alpha: float
    gain: float
    clamp: float | None
    scale: float  # d where it is a number, else 1
    folds: bool  # whether the gain may move into what is activated, which kernels and gradients rely on

    def compiled(self):
        """slope, gain, clamp as the compiled operators take them."""
        slope = {"linear": 1.0, "relu": 0.0, "lrelu": self.alpha}[self.act]
        return slope, self.gain, -1.0 if self.clamp is None else self.clamp


def parse(shape, d, noise, strength, b, act, alpha, gain, clamp) -> Conf:
    """Check the arguments of an epilogue of `shape` [N, C, H, W]; ValueError says what does not fit."""
    if act not in ("linear", "relu", "lrelu"):
        raise ValueError(f"epilogue: act must be 'linear', 'relu' or 'lrelu', not {act!r}")
    if clamp is not None and not clamp >= 0:
        raise ValueError(f"epilogue: clamp must be >= 0, not {clamp}")
    if (noise is None) != (strength is None):
        raise ValueError("epilogue: noise and strength come together")
    n, c, h, w = shape
    if isinstance(d, torch.Tensor) and tuple(d.shape) != (n, c):
        raise ValueError(f"epilogue: d {(n, c)} expected, got {tuple(d.shape)}")
    if b is not None and tuple(b.shape) != (c,):
        raise ValueError(f"epilogue: b {(c,)} expected, got {tuple(b.shape)}")
    if noise is not None and tuple(noise.shape) not in ((h, w), (n, 1, h, w)):
        raise ValueError(f"epilogue: noise {(h, w)} or {(n, 1, h, w)} expected, got {tuple(noise.shape)}")
    spec = activation_funcs[act]
    alpha = float(spec.def_alpha if alpha is None else alpha)
    gain = float(spec.def_gain if gain is None else gain)
    return Conf(act, alpha, gain, None if clamp is None else float(clamp),
                float(d) if isinstance(d, (int, float)) else 1.0, folds_gain(act, alpha, gain))


class _Epilogue(torch.autograd.Function):
    """The backward is written in differentiable operators on dy, d, noise, strength, b and the output y (which carries
    this node's own graph), so differentiating it once more needs nothing else."""

    @staticmethod
    def forward(ctx, x, d, noise, strength, b, conf):
        scale, act, alpha, gain, clamp = conf
        factor = gain * scale
        bias = None if b is None else (b * gain).to(x.dtype).reshape(1, -1, 1, 1)
        if d is not None:
            d_gain = (d * factor).to(x.dtype)[:, :, None, None]
            y = x * d_gain if bias is None else torch.addcmul(bias, x, d_gain)
        elif bias is not None:
            y = torch.add(bias, x, alpha=factor) if factor != 1 else x + bias
        else:
            y = x * factor
        if noise is not None:
            y += (noise * (strength * gain)).to(x.dtype)
        activate_(y, act, alpha)
        if clamp is not None:
            y.clamp_(-clamp, clamp)
        ctx.save_for_backward(y, d, noise, strength, b)
        ctx.conf = conf
        return y

    @staticmethod
    def backward(ctx, dy):
        return *_composed_gradients(dy, *ctx.saved_tensors, ctx.conf, ctx.needs_input_grad), None


def _composed_gradients(dy, y, d, noise, strength, b, conf, needs):
    """Gradients for (x, d, noise, strength, b), each None where `needs` is false, in differentiable operators."""
    scale, act, alpha, gain, clamp = conf
    need_x, need_d, need_noise, need_strength, need_b = needs[:5]
    wide = torch.float64 if dy.dtype == torch.float64 else torch.float32
    given = dy
    if clamp is not None:
        dy = dy * (y.detach().abs() < clamp)
    g = piecewise_grad(dy, y, act, alpha, None)  # gradient of gain * act's input; gain joins below
    dx = dd = dnoise = dstrength = db = None
    if need_b or (need_d and b is not None):
        sums = g.sum((2, 3), dtype=wide) * gain  # [N, C]
        db = sums.sum(0) if need_b else None
    if noise is not None and (need_strength or need_d):
        noise_sums = _sum_with(g.to(wide), noise.to(wide)) * gain
        dstrength = noise_sums.sum() if need_strength else None
    if need_d:
        # With u = d x + rest: sum g u = sum dy y (masked), whatever the slope; divide what x contributed by d.
        dd = (dy.to(wide) * y).sum((2, 3))
        if noise is not None:
            dd = dd - strength * noise_sums
        if b is not None:
            dd = dd - b * sums
        dd = dd / d
    if need_noise:
        dnoise = g.sum(1, keepdim=True, dtype=wide) * (strength * gain)
        dnoise = (dnoise if noise.ndim == 4 else dnoise.sum((0, 1))).to(noise.dtype)
    if need_x:
        factor = gain * scale if d is None else (d * (gain * scale)).to(g.dtype)[:, :, None, None]
        own = not torch.is_grad_enabled() and g is not given  # then g may be overwritten
        dx = g.mul_(factor) if own else g * factor
    return dx, dd, dnoise, dstrength, db


def _sum_with(g, noise):
    """[N, C]: sum over pixels of g [N, C, H, W] times noise [H, W] or [N, 1, H, W], without an image in between."""
    noise = noise.flatten(-2)  # [H W] or [N, 1, H W]
    if g.is_contiguous(memory_format=torch.channels_last):
        return torch.matmul(noise.reshape(-1, 1, noise.shape[-1]), g.permute(0, 2, 3, 1).flatten(1, 2))[:, 0]
    return torch.matmul(g.flatten(2), noise.reshape(-1, noise.shape[-1], 1))[:, :, 0]


# The compiled operators (gradients: csrc/autograd.cpp).


def _fake_grad(dy, y, d, scale, noise, strength, b, slope, gain, clamp):
    kind = dict(dtype=native.wide(y))
    return (native.empty_like(dy, y), y.new_empty(y.shape[:2] if d is not None else 0, **kind),
            y.new_empty(() if noise is not None else 0, **kind),
            y.new_empty(y.shape[1] if b is not None else 0, **kind))


def register():
    """Tell torch the shapes of the compiled operators; build.load calls it."""
    torch.library.register_fake("gantransfer::epilogue",
                                lambda x, d, scale, noise, strength, b, slope, gain, clamp: native.empty_like(x))
    torch.library.register_fake("gantransfer::epilogue_grad", _fake_grad)
