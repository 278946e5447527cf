# SPDX-License-Identifier: Apache-2.0
"""2-D convolution with FIR up- or downsampling."""

from __future__ import annotations

from . import upfirdn2d as fir
from .convolution import conv2d, conv_transpose2d


def conv2d_resample(x, w, f=None, up=1, down=1, padding=0, groups=1, flip_weight=True, flip_filter=False, bias=None,
                    impl="auto"):
    """Upsample, convolve, downsample, all padding at once in front.

    x: `[N, I, H, W]`. w: `[O, I/groups, kh, kw]` of x's dtype. f: FIR filter for the resampling (setup_filter) or None.
    up, down: int. padding: int, (x, y) or (x0, x1, y0, y1) with respect to the upsampled image, on top of what keeps
    the resampling centred. flip_weight: True = correlation (as torch), False = convolution. flip_filter: as upfirdn2d.
    bias: None or `[O]` of x's dtype, added to the result. Returns `[N, O, Ho, Wo]`. Differentiable twice.
    impl='ref' computes the definition instead of a cheaper equal form.
    Raises ValueError when shapes or dtypes do not fit.
    """
    y, blur = _convolve(x, w, f, up, down, padding, groups, flip_weight, flip_filter, bias, impl)
    if blur is None:
        return y
    return _biased(fir.upfirdn2d(y, f, padding=blur, flip_filter=flip_filter, gain=up**2, impl=impl), bias)


def conv2d_unblurred(x, w, f=None, up=1, down=1, padding=0, groups=1, flip_weight=True, flip_filter=False,
                     impl="auto"):
    """conv2d_resample without the blur that ends it when a transposed convolution does the upsampling.

    Returns (y, blur): blur_epilogue(y, **blur) makes y what conv2d_resample returns, and does what comes next at once.
    In all other cases y is the result already, and blur says so: blur_epilogue is then the epilogue alone.
    """
    y, blur = _convolve(x, w, f, up, down, padding, groups, flip_weight, flip_filter, None, impl)
    if blur is None:
        return y, dict(f=None, padding=0)
    return y, dict(f=f, padding=blur, flip_filter=flip_filter, fir_gain=up**2)


def _convolve(x, w, f, up, down, padding, groups, flip_weight, flip_filter, bias, impl):
    """(result, None), or (result before its blur and bias, padding of the blur)."""
    if x.ndim != 4 or w.ndim != 4 or w.dtype != x.dtype:
        raise ValueError(f"conv2d_resample: x [N, I, H, W] and w [O, I/groups, kh, kw] of one dtype expected, got "
                         f"{tuple(x.shape)} {x.dtype} and {tuple(w.shape)} {w.dtype}")
    if not (isinstance(groups, int) and groups >= 1 and w.shape[0] % groups == 0
            and x.shape[1] == w.shape[1] * groups):
        raise ValueError(f"conv2d_resample: {x.shape[1]} input channels do not fit w {tuple(w.shape)}, groups {groups}")
    if not (isinstance(up, int) and isinstance(down, int) and up >= 1 and down >= 1):
        raise ValueError(f"conv2d_resample: up and down must be ints >= 1, not {up} and {down}")
    if impl not in ("auto", "ref"):
        raise ValueError(f"conv2d_resample: impl must be 'auto' or 'ref', not {impl!r}")
    kh, kw = w.shape[2:]
    fw, fh = fir.filter_size(f)
    px0, px1, py0, py1 = fir.parse_padding(padding)
    if up > 1:
        px0, px1 = px0 + (fw + up - 1) // 2, px1 + (fw - up) // 2
        py0, py1 = py0 + (fh + up - 1) // 2, py1 + (fh - up) // 2
    if down > 1:
        px0, px1 = px0 + (fw - down + 1) // 2, px1 + (fw - down) // 2
        py0, py1 = py0 + (fh - down + 1) // 2, py1 + (fh - down) // 2
    p = (px0, px1, py0, py1)

    def resample(t, **kw):
        return fir.upfirdn2d(t, kw.pop("f", f), flip_filter=flip_filter, impl=impl, **kw)

    def conv(t, bias=None, **kw):
        return conv2d(t, w if flip_weight else w.flip(2, 3), groups=groups, bias=bias, **kw)

    if impl == "auto":
        if kh == kw == 1 and down > 1 and up == 1:
            return conv(resample(x, down=down, padding=p), bias), None
        if kh == kw == 1 and up > 1 and down == 1:
            return _biased(resample(conv(x), up=up, padding=p, gain=up**2), bias), None
        if down > 1 and up == 1:
            return conv(resample(x, padding=p), bias, stride=down), None
        if up > 1:
            t, blur = _transposed(x, w, up, p, groups, flip_weight)
            if down == 1:
                return t, blur
            return _biased(resample(resample(t, padding=blur, gain=up**2), down=down), bias), None
        if px0 == px1 >= 0 and py0 == py1 >= 0:
            return conv(x, bias, padding=(py0, px0)), None
    t = resample(x, f=f if up > 1 else None, up=up, padding=p, gain=up**2)
    t = conv(t)
    return _biased(resample(t, down=down) if down > 1 else t, bias), None


def _biased(t, bias):
    return t if bias is None else t + bias.reshape(1, -1, 1, 1)


def _transposed(x, w, up, p, groups, flip_weight):
    """(transposed convolution, padding of the FIR that must follow): the zeros of the upsampled image are never
    multiplied."""
    o, i, kh, kw = w.shape
    if groups > 1:
        w = w.reshape(groups, o // groups, i, kh, kw).transpose(1, 2).reshape(groups * i, o // groups, kh, kw)
    else:
        w = w.transpose(0, 1)
    if flip_weight:  # a transposed convolution mirrors the kernel already
        w = w.flip(2, 3)
    px0, px1, py0, py1 = p[0] - (kw - 1), p[1] - (kw - up), p[2] - (kh - 1), p[3] - (kh - up)
    qx, qy = max(min(-px0, -px1), 0), max(min(-py0, -py1), 0)
    y = conv_transpose2d(x, w, stride=up, padding=(qy, qx), groups=groups)
    return y, (px0 + qx, px1 + qx, py0 + qy, py1 + qy)
