# SPDX-License-Identifier: Apache-2.0
"""Convolution with a kernel per sample as matrix products: no loop over the batch, and no groups, whose number would
fix its size. For exported graphs; in PyTorch a grouped convolution or one per kernel is faster."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def conv2d_each(x, w, padding=0):
    """Correlation of each sample of x [N, I, H, W] with its own kernel, w [N, O, I, kh, kw] -> [N, O, Ho, Wo].

    padding: int or (x0, x1, y0, y1), zeros. Returns x's dtype.
    """
    if x.ndim != 4 or w.ndim != 5 or w.shape[2] != x.shape[1]:
        raise ValueError(f"conv2d_each: x [N, I, H, W] and w [N, O, I, kh, kw] expected, got {tuple(x.shape)} and "
                         f"{tuple(w.shape)}")
    x = F.pad(x, [padding] * 4 if isinstance(padding, int) else list(padding))
    kh, kw = w.shape[3:]
    h, width, row = x.shape[2] - kh + 1, x.shape[3] - kw + 1, x.shape[3]
    # Rows lie in one line, so that a tap is one slice; the last kw - 1 sums of each row belong to none. Taps of a row
    # are channels of one product: the fewer nodes, the quicker the export.
    x, n = F.pad(x.flatten(2), (0, kw - 1)), x.shape[2] * row
    x = torch.cat([x[:, :, j : j + n] for j in range(kw)], 1)
    rows = w.permute(3, 0, 1, 4, 2).flatten(3).unbind()
    y = sum(torch.matmul(k, x[:, :, i * row : (i + h) * row]) for i, k in enumerate(rows))
    return y.unflatten(2, (h, row))[:, :, :, :width]


def conv_transpose2d_each(x, w, stride=1, padding=0):
    """Transposed convolution of each sample of x [N, I, H, W] with its own kernel, w [N, I, O, kh, kw], as
    torch's conv_transpose2d with these arguments -> [N, O, Ho, Wo]."""
    n, c, h, width = x.shape
    kh, kw = w.shape[3:]
    s = stride
    x = F.pad(x.reshape(n, c, h, 1, width, 1), (0, s - 1, 0, 0, 0, s - 1)).reshape(n, c, h * s, width * s)
    left, top = kw - 1 - padding, kh - 1 - padding
    return conv2d_each(x, w.transpose(1, 2).flip(3, 4), (left, left - (s - 1), top, top - (s - 1)))
