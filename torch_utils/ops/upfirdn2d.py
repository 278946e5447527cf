# SPDX-License-Identifier: Apache-2.0
"""Pad, upsample, filter (FIR) and downsample images."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F

from . import native


def setup_filter(f, device="cpu", normalize=True, flip_filter=False, gain=1, separable=None):
    """Prepare a FIR filter: None, a number, a list of taps or a 2-D array -> float32 tensor `[taps]` or `[fh, fw]`.

    separable: keep 1-D taps, to be applied along both axes (default: 1-D input of at least 8 taps); otherwise the outer
    product is taken. normalize: divide by the sum. gain: factor of the whole 2-D filter.
    """
    f = torch.as_tensor(1 if f is None else f, dtype=torch.float32, device="cpu")
    if f.ndim > 2 or f.numel() == 0:
        raise ValueError(f"setup_filter: 0, 1 or 2 dimensions and at least one tap expected, got {tuple(f.shape)}")
    f = f.reshape(1) if f.ndim == 0 else f
    separable = (f.ndim == 1 and f.numel() >= 8) if separable is None else separable
    if f.ndim == 1 and not separable:
        f = torch.outer(f, f)
    if f.ndim != (1 if separable else 2):
        raise ValueError("setup_filter: a 2-D filter cannot be declared separable")
    if normalize:
        f = f / f.sum()
    if flip_filter:
        f = f.flip(list(range(f.ndim)))
    return (f * gain ** (f.ndim / 2)).to(device)


def upfirdn2d(x, f, up=1, down=1, padding=0, flip_filter=False, gain=1, impl="auto"):
    """Upsample by zero insertion, pad or crop, filter, downsample.

    x: `[N, C, H, W]` floating point. f: `[taps]` (separable), `[fh, fw]` or None (identity); float32, not
    differentiated. up, down: int or (x, y). padding: int, (x, y) or (x0, x1, y0, y1), in upsampled pixels, negative =
    crop. flip_filter: False = convolution, True = correlation. gain: factor of the result.
    Output size per axis: `(in * up + p0 + p1 - taps) // down + 1`. Linear in x, differentiable to any order.
    Raises ValueError when an argument does not fit or an output axis would be shorter than 1.
    """
    native.check_impl("upfirdn2d", impl)
    up, down, padding = parse(x, f, up, down, padding)
    conf = up, down, padding, bool(flip_filter), float(gain)
    if impl == "ref":
        return _definition(x, f, *conf)
    if (f is None or f.dtype == torch.float32) and native.usable(x, impl):
        f = torch.ones(1, device=x.device) if f is None else f
        return torch.ops.gantransfer.upfirdn2d(x, f, up, down, padding, conf[3], conf[4])
    if x.numel() == 0:
        return x.new_zeros(out_size(x.shape, f, *conf[:3])) + 0 * x.sum()
    return _UpFirDn.apply(x, f, conf)


def filter2d(x, f, padding=0, flip_filter=False, gain=1, impl="auto"):
    """Filter without changing the size (more with `padding`: int, (x, y) or (x0, x1, y0, y1), in pixels)."""
    px0, px1, py0, py1 = parse_padding(padding)
    fw, fh = filter_size(f)
    p = (px0 + fw // 2, px1 + (fw - 1) // 2, py0 + fh // 2, py1 + (fh - 1) // 2)
    return upfirdn2d(x, f, padding=p, flip_filter=flip_filter, gain=gain, impl=impl)


def upsample2d(x, f, up=2, padding=0, flip_filter=False, gain=1, impl="auto"):
    """Upsample by `up` (int or (x, y)), brightness kept; `padding` counts output pixels."""
    ux, uy = parse_scaling(up, "up")
    px0, px1, py0, py1 = parse_padding(padding)
    fw, fh = filter_size(f)
    p = (px0 + (fw + ux - 1) // 2, px1 + (fw - ux) // 2, py0 + (fh + uy - 1) // 2, py1 + (fh - uy) // 2)
    return upfirdn2d(x, f, up=up, padding=p, flip_filter=flip_filter, gain=gain * ux * uy, impl=impl)


def downsample2d(x, f, down=2, padding=0, flip_filter=False, gain=1, impl="auto"):
    """Downsample by `down` (int or (x, y)); `padding` counts input pixels."""
    dx, dy = parse_scaling(down, "down")
    px0, px1, py0, py1 = parse_padding(padding)
    fw, fh = filter_size(f)
    p = (px0 + (fw - dx + 1) // 2, px1 + (fw - dx) // 2, py0 + (fh - dy + 1) // 2, py1 + (fh - dy) // 2)
    return upfirdn2d(x, f, down=down, padding=p, flip_filter=flip_filter, gain=gain, impl=impl)


def parse(x, f, up=1, down=1, padding=0):
    """(up, down, padding) written out; ValueError says what does not fit."""
    if x.ndim != 4:
        raise ValueError(f"upfirdn2d: x [N, C, H, W] expected, got {tuple(x.shape)}")
    _check_filter(f)
    up, down, padding = parse_scaling(up, "up"), parse_scaling(down, "down"), parse_padding(padding)
    fw, fh = filter_size(f)
    for axis, n, u, p, t in (("width", x.shape[3], up[0], padding[:2], fw),
                             ("height", x.shape[2], up[1], padding[2:], fh)):
        if n * u + sum(p) < t:
            raise ValueError(f"upfirdn2d: {axis} {n} upsampled by {u} with padding {p} is smaller than the filter's "
                             f"{t} taps")
    return up, down, padding


def parse_scaling(v, name="scaling"):
    """int or (x, y) -> (x, y), each >= 1."""
    v = tuple(v) if isinstance(v, (tuple, list)) else (v, v)
    if len(v) != 2 or not all(isinstance(a, int) and a >= 1 for a in v):
        raise ValueError(f"upfirdn2d: {name} must be an int >= 1 or a pair of them, not {v}")
    return v


def parse_padding(p):
    """int, (x, y) or (x0, x1, y0, y1) -> (x0, x1, y0, y1)."""
    p = tuple(p) if isinstance(p, (tuple, list)) else (p, p)
    if len(p) == 2:
        p = (p[0], p[0], p[1], p[1])
    if len(p) != 4 or not all(isinstance(a, int) for a in p):
        raise ValueError(f"upfirdn2d: padding must be an int, (x, y) or (x0, x1, y0, y1), not {p}")
    return p


def filter_size(f):
    """Taps of a filter along (x, y); None = (1, 1)."""
    return (1, 1) if f is None else (f.shape[-1], f.shape[0])


def _check_filter(f):
    if f is None:
        return
    if f.ndim not in (1, 2) or f.numel() == 0 or f.dtype not in (torch.float32, torch.float64) or f.requires_grad:
        raise ValueError("upfirdn2d: f must be a constant float32 tensor [taps] or [fh, fw] (see setup_filter)")


def out_size(shape, f, up, down, padding):
    """Shape of the result for x of `shape`."""
    (ux, uy), (dx, dy), (px0, px1, py0, py1) = up, down, padding
    fw, fh = filter_size(f)
    n, c, h, w = shape
    return n, c, (h * uy + py0 + py1 - fh) // dy + 1, (w * ux + px0 + px1 - fw) // dx + 1


def _definition(x, f, up, down, padding, flip, gain):
    """Zero insertion, padding, one correlation per channel, decimation: the slow and obvious form."""
    n, c, h, w = x.shape
    ux, uy = up
    z = F.pad(x.reshape(n, c, h, 1, w, 1), (0, ux - 1, 0, 0, 0, uy - 1)).reshape(n, c, h * uy, w * ux)
    z = F.pad(z, padding)
    f = torch.ones(1, 1, device=x.device) if f is None else f
    f = f.to(torch.float64 if x.dtype == torch.float64 else torch.float32)
    f = torch.outer(f, f) if f.ndim == 1 else f
    f = (f if flip else f.flip(0, 1)).to(x.dtype)
    y = F.conv2d(z, f.expand(c, 1, *f.shape), groups=c) if c else z[:, :, f.shape[0] - 1:, f.shape[1] - 1:]
    return y[:, :, :: down[1], :: down[0]] * gain


class _UpFirDn(torch.autograd.Function):
    """The gradient of this linear operator is the operator itself with up and down swapped and the filter mirrored."""

    @staticmethod
    def forward(ctx, x, f, conf):
        ctx.save_for_backward(f)
        ctx.conf, ctx.size = conf, x.shape
        return _fast(x, f, *conf)

    @staticmethod
    def backward(ctx, dy):
        (f,) = ctx.saved_tensors
        return _UpFirDn.apply(dy, f, _adjoint(ctx.size, dy.shape, f, ctx.conf)), None, None


def _adjoint(size, result, f, conf):
    """Arguments of the gradient of upfirdn2d(x of `size`, f, *conf) -> `result` (shape)."""
    (ux, uy), (dx, dy), (px0, _, py0, _), flip, gain = conf
    (h, w), (ho, wo), (fw, fh) = size[2:], result[2:], filter_size(f)
    p = (fw - 1 - px0, w * ux - wo * dx + px0 - ux + 1, fh - 1 - py0, h * uy - ho * dy + py0 - uy + 1)
    return (dx, dy), (ux, uy), p, not flip, gain


def _fast(x, f, up, down, padding, flip, gain):
    n, c, h, w = x.shape
    _, _, ho, wo = out_size(x.shape, f, up, down, padding)
    if f is None:
        f = torch.ones(1, 1, device=x.device)
    # An exported graph serves every batch: what it computes must not depend on n.
    many = f.ndim == 1 or (not torch.compiler.is_exporting() and n * c > 1024)
    if x.device.type == "cpu" and h * w * ho * wo <= (2048 if many else 8192):
        return _small_map(x, f, up, down, padding, flip, gain, (ho, wo))
    if f.ndim == 2:
        return _depthwise(x, f, up, down, padding, flip, gain)
    if x.device.type == "cpu" and max(h, w, ho, wo) <= 512:
        return _two_matrices(x, f, up, down, padding, flip, gain, (ho, wo))
    (ux, uy), (dx, dy), (px0, px1, py0, py1) = up, down, padding
    y = _depthwise(x, f[None, :], (ux, 1), (dx, 1), (px0, px1, 0, 0), flip, 1)
    return _depthwise(y, f[:, None], (1, uy), (1, dy), (0, 0, py0, py1), flip, gain)


def _depthwise(x, f, up, down, padding, flip, gain):
    """One depthwise convolution: strided for downsampling, transposed for upsampling; f [fh, fw]."""
    n, c, h, w = x.shape
    (ux, uy), (dx, dy) = up, down
    fh, fw = f.shape
    if (ux, uy) == (1, 1):
        x, inside, taps = _split_padding(x, padding)
        weight = _cached(_weight, f, c, x.dtype, not flip, gain, taps)
        return F.conv2d(x, weight, groups=c, stride=(dy, dx), padding=inside)
    # A transposed convolution gives the full result of the zero-inserted image; cut (or extend) it to what is asked.
    x0, y0 = fw - 1 - padding[0], fh - 1 - padding[2]
    x1, y1 = fw - ux - padding[1], fh - uy - padding[3]
    qx, qy = max(min(x0, x1), 0), max(min(y0, y1), 0)
    if (w - 1) * ux + fw <= 2 * qx or (h - 1) * uy + fh <= 2 * qy:
        qx = qy = 0
    weight = _cached(_weight, f, c, x.dtype, flip, gain, (0, 0, 0, 0))
    y = F.conv_transpose2d(x, weight, groups=c, stride=(uy, ux), padding=(qy, qx))
    rest = (qx - x0, qx - x1, qy - y0, qy - y1)
    if any(rest):
        y = F.pad(y, rest)
    return y[:, :, ::dy, ::dx].clone() if (dx, dy) != (1, 1) else y


def _split_padding(x, padding):
    """(image, equal padding (y, x) for the convolution, taps to add to the filter). A small difference between the
    sides becomes zero taps (cheaper than copying the image); crops and large differences become a padded copy."""
    px0, px1, py0, py1 = padding
    if min(padding) >= 0 and abs(px0 - px1) <= 2 and abs(py0 - py1) <= 2:
        qx, qy = max(px0, px1), max(py0, py1)
        return x, (qy, qx), (qx - px0, qx - px1, qy - py0, qy - py1)
    return F.pad(x, padding), (0, 0), (0, 0, 0, 0)


def _two_matrices(x, f, up, down, padding, flip, gain, out):
    """Separable filter as one band matrix per axis."""
    n, c, h, w = x.shape
    mx = _cached(_band, f, w, out[1], up[0], down[0], padding[0], flip, 1, x.dtype)
    my = _cached(_band, f, h, out[0], up[1], down[1], padding[2], flip, gain, x.dtype)
    y = x.new_empty(n, c, *out)  # written through views: what an autograd.Function returns must not be one
    rows = (x.reshape(n * c * h, w) @ mx).view(n * c, h, out[1])
    torch.matmul(my.t(), rows, out=y.view(n * c, *out))
    return y.contiguous(memory_format=torch.channels_last) if _is_channels_last(x) else y


def _small_map(x, f, up, down, padding, flip, gain, out):
    """Both axes as one matrix [H*W, Ho*Wo]: few multiplications on tiny maps, and one call."""
    n, c, h, w = x.shape
    m = _cached(_band2d, f, (h, w), out, up, down, (padding[0], padding[2]), flip, gain, x.dtype)
    if _is_channels_last(x):
        y = torch.empty((n, c, *out), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        pixels = x.permute(0, 2, 3, 1).reshape(n, h * w, c)
        torch.matmul(m.t(), pixels, out=y.permute(0, 2, 3, 1).view(n, out[0] * out[1], c))
    else:
        y = x.new_empty(n, c, *out)
        torch.mm(x.reshape(n * c, h * w), m, out=y.view(n * c, out[0] * out[1]))
    return y


def _is_channels_last(x) -> bool:
    return x.shape[1] > 1 and x.stride(1) == 1 and x.is_contiguous(memory_format=torch.channels_last)


def _weight(f, c, dtype, mirror, gain, taps):
    """[C, 1, fh, fw]: the filter as a depthwise weight."""
    f = F.pad((f.flip(0, 1) if mirror else f) * gain, taps).to(dtype)
    return f.expand(c, 1, *f.shape)


def _band(f, n, no, up, down, p0, flip, gain, dtype):
    """[n, no]: upsampling, filtering and downsampling along one axis as a matrix."""
    return (F.pad(f * gain, (0, 1))[_tap_index(n, no, len(f), up, down, p0, flip)]).to(dtype)


def _band2d(f, size, out, up, down, p0, flip, gain, dtype):
    """[H * W, Ho * Wo]: the same for both axes at once, f [fh, fw] or [taps]."""
    f = torch.outer(f, f) if f.ndim == 1 else f
    iy = _tap_index(size[0], out[0], f.shape[0], up[1], down[1], p0[1], flip)
    ix = _tap_index(size[1], out[1], f.shape[1], up[0], down[0], p0[0], flip)
    m = F.pad(f * gain, (0, 1, 0, 1))[iy[:, None, :, None], ix[None, :, None, :]]
    return m.reshape(size[0] * size[1], out[0] * out[1]).to(dtype)


def _tap_index(n, no, taps, up, down, p0, flip):
    """[n, no] int64: which tap of the filter leads from input i to output o; `taps` = none (a zero is put there)."""
    a = torch.arange(n)[:, None] * up - torch.arange(no)[None, :] * down + p0
    return torch.where((a >= 0) & (a < taps), a if flip else taps - 1 - a, taps)


def _cached(make, f, *args):
    """make(f, *args), remembered by the filter's values when they lie in this process's memory."""
    wide = torch.float64 if torch.float64 in args else torch.float32  # gains join at full precision
    if f.device.type != "cpu" or type(f) is not torch.Tensor:  # a tracer's stand-in has no values
        return make(f.to(wide), *args)
    return _remembered(make, f.detach().numpy().tobytes(), tuple(f.shape), f.dtype, wide, args)


@functools.lru_cache(maxsize=512)
def _remembered(make, values, shape, dtype, wide, args):
    with torch.inference_mode(False), torch.no_grad():
        f = torch.frombuffer(bytearray(values), dtype=dtype).reshape(shape).to(wide)
        return make(f, *args).contiguous()


# The compiled operator (gradient: csrc/autograd.cpp).


def _fake(x, f, up, down, pad, flip, gain):
    size = out_size(x.shape, f, up, down, pad)
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=native.layout_of(x))


def register():
    """Tell torch the shapes of the compiled operator; build.load calls it."""
    torch.library.register_fake("gantransfer::upfirdn2d", _fake)
