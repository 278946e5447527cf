# SPDX-License-Identifier: Apache-2.0
"""3x3 convolution by Winograd's minimal filtering F(4x4, 3x3), for wide float32 layers on the CPU.

Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016. A tile of 4x4 outputs takes 36 products
per channel pair instead of 144, all of them in one batched matrix product. With the interpolation points 0,
+-sqrt(1/2), +-sqrt(2), infinity (the symmetric choice: p and 1/p together) rounding errors are those of a direct
convolution.

Stride 1, padding 1, channels_last. Nothing here is differentiable by itself; torch_utils.ops.convolution combines it.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
import torch.nn.functional as F

TILE, POINTS = 4, (0, 2**0.5, -(2**0.5), 0.5**0.5, -(0.5**0.5))  # and infinity
SIDE = TILE + 2  # of an input tile
MIN_CHANNELS, MIN_TILES = 128, 96  # below, transforming tiles or weights costs what the products save (measured)
CHUNK_BYTES = 6 << 20  # of transformed tiles at a time: stays in the cache and off the peak


def usable(x, w, stride, padding, groups) -> bool:
    """Whether the convolution of x [N, C, H, W] with w [O, C, 3, 3] should run here."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or w.dtype != torch.float32 or tuple(w.shape[2:]) != (3, 3):
        return False
    if torch.compiler.is_exporting():
        return False  # the loop over chunks of samples would fix the batch in an exported graph
    n, c, h, width = x.shape
    return (tuple(stride) == tuple(padding) == (1, 1) and groups == 1 and min(c, w.shape[0]) >= MIN_CHANNELS
            and h % TILE == 0 and width % TILE == 0 and n * h * width >= MIN_TILES * TILE**2
            and x.is_contiguous(memory_format=torch.channels_last))


def conv3x3(x, w):
    """Correlation of x [N, C, H, W] with w [O, C, 3, 3] -> [N, O, H, W], channels_last."""
    out_t, w_t, in_t = _transforms()
    n, c, h, width = x.shape
    o = w.shape[0]
    kernels = torch.mm(w_t, w.reshape(o * c, 9).t()).reshape(SIDE**2, o, c).transpose(1, 2)
    y = torch.empty((n, o, h, width), dtype=x.dtype, memory_format=torch.channels_last)
    work = _Workspace()
    for tiles, part in _input_tiles(x, in_t, work, max(c, o)):
        products = torch.bmm(tiles, kernels, out=work("products", SIDE**2, tiles.shape[1], o))
        outputs = torch.mm(out_t, products.flatten(1), out=work("outputs", TILE**2, tiles.shape[1] * o))
        target = _output_tiles(y[part])
        target.copy_(outputs.view(target.shape))
    return y


def weight_grad(dy, x):
    """Gradient [O, C, 3, 3] of <conv3x3(x, w), dy> with respect to w."""
    out_t, w_t, in_t = _transforms()
    c, o = x.shape[1], dy.shape[1]
    dy = dy.contiguous(memory_format=torch.channels_last)
    total = torch.zeros(SIDE**2, c, o)
    work = _Workspace()
    for tiles, part in _input_tiles(x, in_t, work, max(c, o)):
        source = _output_tiles(dy[part])
        gathered = work("gathered dy", TILE**2, tiles.shape[1] * o)
        gathered.view(source.shape).copy_(source)
        spread = torch.mm(out_t.t(), gathered, out=work("spread", SIDE**2, tiles.shape[1] * o))
        total.baddbmm_(tiles.transpose(1, 2), spread.view(SIDE**2, -1, o))
    return torch.mm(w_t.t(), total.flatten(1)).reshape(3, 3, c, o).permute(3, 2, 0, 1).contiguous()


def _input_tiles(x, in_t, work, channels):
    """Yield (transformed tiles [36, P, C], slice of samples) for as many samples at a time as CHUNK_BYTES hold."""
    n, c, h, w = x.shape
    x = x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
    rows, cols = h // TILE, w // TILE
    step = max(1, CHUNK_BYTES // (SIDE**2 * rows * cols * channels * x.element_size()))
    for first in range(0, n, step):
        z = F.pad(x[first : first + step], (0, 0, 1, 1, 1, 1))
        m, (sn, sh, sw, sc) = z.shape[0], z.stride()
        overlapping = z.as_strided((SIDE, SIDE, m, rows, cols, c), (sh, sw, sn, TILE * sh, TILE * sw, sc))
        gathered = work("gathered", SIDE**2, m * rows * cols * c)
        gathered.view(overlapping.shape).copy_(overlapping)
        tiles = torch.mm(in_t, gathered, out=work("tiles", SIDE**2, m * rows * cols * c))
        yield tiles.view(SIDE**2, m * rows * cols, c), slice(first, first + m)


def _output_tiles(y):
    """[4, 4, N, rows, cols, C] view of a channels_last image."""
    n, c, h, w = y.shape
    return y.permute(0, 2, 3, 1).view(n, h // TILE, TILE, w // TILE, TILE, c).permute(2, 4, 0, 1, 3, 5)


class _Workspace:
    """Scratch tensors by name, reused from chunk to chunk: fresh memory costs more than the arithmetic on it."""

    def __init__(self):
        self.buffers = {}

    def __call__(self, name, *shape):
        size = int(np.prod(shape))
        if name not in self.buffers or self.buffers[name].numel() < size:
            self.buffers[name] = torch.empty(size)
        return self.buffers[name][:size].view(shape)


@functools.cache
def _transforms():
    """Cook-Toom matrices of both axes together: outputs [16, 36], weights [36, 9], inputs [36, 36]."""
    out_t, w_t, in_t = np.zeros((TILE, SIDE)), np.zeros((SIDE, 3)), np.zeros((SIDE, SIDE))
    for i, p in enumerate(POINTS):
        others = [q for q in POINTS if q != p]
        out_t[:, i] = [p**j for j in range(TILE)]
        w_t[i] = [p**j / np.prod([p - q for q in others]) for j in range(3)]
        in_t[i, :-1] = np.polynomial.polynomial.polyfromroots(others)
    out_t[-1, -1] = w_t[-1, -1] = 1
    in_t[-1] = np.polynomial.polynomial.polyfromroots(POINTS)
    with torch.inference_mode(False):
        return tuple(torch.tensor(np.kron(a, a), dtype=torch.float32) for a in (out_t, w_t, in_t))
