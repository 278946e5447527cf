# SPDX-License-Identifier: Apache-2.0
"""Class-conditional batch norm: normalisation, gain and bias per sample, activation and nearest x2 in one operator."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from . import native


def cond_batch_norm(x, gain=None, bias=None, running_mean=None, running_var=None, training=True, momentum=0.1, eps=1e-5,
                    act="linear", up=1, counter=None, unbiased=True, gather=None, impl="auto"):
    """`y = up(act(gain * (x - mean) / sqrt(var + eps) + bias))`, statistics per channel over batch and pixels.

    x: `[N, C, H, W]`. gain, bias: `[N, C]` (1 and 0 when None), float32 (float64 for float64). act: 'linear' or 'relu'.
    up: 1 or 2 (nearest). training: statistics of this batch, and `running_mean`, `running_var` `[C]` are updated in
    place, if given: `(1 - momentum) * old + momentum * new`, the variance with M/(M-1) if `unbiased`. Otherwise the
    running buffers are used. counter: a one-element buffer switches to standing statistics: training adds mean and
    biased variance to the buffers and 1 to the counter; evaluation divides by the counter.
    gather: for batches spread over processes, `gather(t)` returns every process's t stacked, `[world, *t.shape]`.
    Returns x's dtype and layout, `[N, C, up * H, up * W]`. Differentiable twice with respect to x, gain and bias (the
    compiled path with `gather` once); the second order is composed, not compiled. Raises ValueError for arguments that
    do not fit and in training for a single value per channel.
    """
    native.check_impl("cond_batch_norm", impl)
    if x.ndim != 4:
        raise ValueError(f"cond_batch_norm: x [N, C, H, W] expected, got {tuple(x.shape)}")
    if act not in ("linear", "relu") or up not in (1, 2):
        raise ValueError(f"cond_batch_norm: act 'linear' or 'relu' and up 1 or 2 expected, got {act!r} and {up!r}")
    n, c, h, w = x.shape
    for name, v, shape in (("gain", gain, (n, c)), ("bias", bias, (n, c)), ("running_mean", running_mean, (c,)),
                           ("running_var", running_var, (c,))):
        if v is not None and tuple(v.shape) != shape:
            raise ValueError(f"cond_batch_norm: {name} {shape} expected, got {tuple(v.shape)}")
    if (running_mean is None) != (running_var is None) or (not training and running_mean is None):
        raise ValueError("cond_batch_norm: running_mean and running_var come together, and evaluation needs them")
    if x.numel() == 0 and gather is None:
        return x.new_zeros(n, c, h * up, w * up) + 0 * x.sum()
    compiled = native.usable(x, impl)
    mean = var = None
    if not training:
        with torch.no_grad():
            mean, var = running_mean.to(native.wide(x)), running_var.to(native.wide(x))
            if counter is not None:
                mean, var = mean / counter, var / counter
    else:
        with torch.no_grad():
            count, mean, var = statistics(x, gather, compiled)
            if running_mean is not None:
                _update(running_mean, running_var, counter, mean, var, count, momentum, unbiased)
    relu = act == "relu"
    if compiled:
        invstd = (var + eps).rsqrt()
        return _CondBN.apply(x, gain, bias, mean, invstd, training, eps, relu, up, gather)
    if training and gather is not None:
        return _shared(x, gain, bias, gather, eps, relu, up)
    return _ref(x, gain, bias, None if training else (mean, var), eps, relu, up)


def statistics(x, gather=None, compiled=False):
    """(count, mean [C], biased variance [C]) over batch and pixels, of all processes with `gather`."""
    if x.shape[0] * x.shape[2] * x.shape[3] == 1 and gather is None:
        raise ValueError(f"cond_batch_norm: more than 1 value per channel is needed in training, got {tuple(x.shape)}")
    count = x.numel() // max(x.shape[1], 1)
    if compiled:
        mean, m2 = torch.ops.gantransfer.cond_bn_stats(x)
    elif count:
        var, mean = torch.var_mean(x.to(native.wide(x)), (0, 2, 3), correction=0)
        m2 = var * count
    else:
        mean = m2 = x.to(native.wide(x)).sum((0, 2, 3))
    if gather is None:
        return count, mean, m2 / count
    # Chan's combination of count, mean and squared differences. The count stays on the device.
    counts, means, squares = gather(torch.stack([torch.full_like(mean, count), mean, m2])).unbind(1)
    total = counts.sum(0)
    mean = (counts * means).sum(0) / total
    m2 = squares.sum(0) + (counts * (means - mean).square()).sum(0)
    return total, mean, m2 / total


def _update(running_mean, running_var, counter, mean, var, count, momentum, unbiased):
    if counter is not None:
        running_mean.add_(mean.to(running_mean.dtype))
        running_var.add_(var.to(running_var.dtype))
        counter.add_(1)
        return
    if unbiased:
        var = var * (count / (count - 1))
    running_mean.lerp_(mean.to(running_mean.dtype), momentum)
    running_var.lerp_(var.to(running_var.dtype), momentum)


def _affine(y, gain, bias, relu, up):
    if gain is not None:
        y = y * gain.to(y.dtype)[:, :, None, None]
    if bias is not None:
        y = y + bias.to(y.dtype)[:, :, None, None]
    if relu:
        y = F.relu(y)
    return y if up == 1 else F.interpolate(y, scale_factor=2, mode="nearest")


def _ref(x, gain, bias, fixed, eps, relu, up):
    """The definition: torch's batch norm, then the affine part."""
    mean, var = (None, None) if fixed is None else fixed
    return _affine(F.batch_norm(x, mean, var, None, None, fixed is None, 0.0, eps), gain, bias, relu, up)


class _SumOver(torch.autograd.Function):
    """Sum over processes; its gradient is the sum of the gradients. `gather` itself need not be differentiable."""

    @staticmethod
    def forward(ctx, x, gather):
        ctx.gather = gather
        return gather(x).sum(0)

    @staticmethod
    def backward(ctx, dy):
        return _SumOver.apply(dy.contiguous(), ctx.gather), None


def _shared(x, gain, bias, gather, eps, relu, up):
    """The same with statistics of all processes, mean first: a difference of squares would lose small variances."""
    d = x.to(native.wide(x))
    total = _SumOver.apply(torch.cat([d.sum((0, 2, 3)), d.new_tensor([d.numel() // max(d.shape[1], 1)])]), gather)
    count = total[-1].detach()
    d = d - (total[:-1] / count)[:, None, None]
    var = _SumOver.apply(d.square().sum((0, 2, 3)), gather) / count
    return _affine((d * (var + eps).rsqrt()[:, None, None]).to(x.dtype), gain, bias, relu, up)


class _CondBN(torch.autograd.Function):
    """Keeps x and small vectors only: neither normalised values, nor pre-activations, nor masks."""

    @staticmethod
    def forward(ctx, x, gain, bias, mean, invstd, training, eps, relu, up, gather):
        ctx.save_for_backward(x, gain, bias, mean, invstd)
        ctx.conf = training, eps, relu, up, gather
        return torch.ops.gantransfer.cond_bn(x, gain, bias, mean, invstd, relu, up == 2)

    @staticmethod
    def backward(ctx, dy):
        x, gain, bias, mean, invstd = ctx.saved_tensors
        training, eps, relu, up, gather = ctx.conf
        none = (None,) * 7
        if torch.is_grad_enabled():
            if gather is not None:
                raise NotImplementedError("cond_batch_norm over several processes can be differentiated once only")
            return *_second_order(x, gain, bias, mean, invstd, dy, training, eps, relu, up, ctx.needs_input_grad), *none
        ops = torch.ops.gantransfer
        need_x, need_gain, need_bias = ctx.needs_input_grad[:3]
        args = x, gain, bias, mean, invstd
        a = b = s1 = s2 = None
        if need_gain or need_bias or (need_x and training):
            a, b = ops.cond_bn_reduce(dy, *args, relu, up == 2)
        if need_x and training:
            sums = torch.stack([a, b])
            sums = (sums if gain is None else sums * gain).sum(1)
            count = x.new_tensor(x.numel() // x.shape[1], dtype=sums.dtype) if gather is not None else \
                x.numel() // x.shape[1]
            if gather is not None:
                sums = gather(sums).sum(0)
                count = gather(count).sum(0)
            s1, s2 = (sums / count).unbind(0)
        dx = ops.cond_bn_dx(dy, *args, s1, s2, relu, up == 2) if need_x else None
        return dx, b.to(gain.dtype) if need_gain else None, a.to(bias.dtype) if need_bias else None, *none


def _second_order(x, gain, bias, mean, invstd, dy, training, eps, relu, up, needs):
    """Gradients that can be differentiated again: of the composition, recomputed from x."""
    with torch.enable_grad():
        fixed = None if training else (mean, invstd.square().reciprocal() - eps)
        y = _ref(x, gain, bias, fixed, eps, relu, up)
        inputs = [t for t, need in zip((x, gain, bias), needs) if need]
        grads = iter(torch.autograd.grad(y, inputs, dy, create_graph=True))
    return [next(grads) if need else None for need in needs[:3]]


def _fake(x, gain, bias, mean, invstd, relu, up2):
    n, c, h, w = x.shape
    k = 2 if up2 else 1
    return torch.empty(n, c, h * k, w * k, dtype=x.dtype, device=x.device, memory_format=native.layout_of(x))


def register():
    """Tell torch the shapes of the compiled operators; build.load calls it. Gradients are those of _CondBN."""
    def vectors(x, *shape):
        return x.new_empty(shape, dtype=native.wide(x)), x.new_empty(shape, dtype=native.wide(x))

    library = torch.library
    library.register_fake("gantransfer::cond_bn", _fake)
    library.register_fake("gantransfer::cond_bn_stats", lambda x: vectors(x, x.shape[1]))
    library.register_fake("gantransfer::cond_bn_reduce",
                          lambda dy, x, gain, bias, mean, invstd, relu, up2: vectors(x, x.shape[0], x.shape[1]))
    library.register_fake("gantransfer::cond_bn_dx",
                          lambda dy, x, gain, bias, mean, invstd, s1, s2, relu, up2: native.empty_like(x))
