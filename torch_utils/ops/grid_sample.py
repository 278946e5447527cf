# SPDX-License-Identifier: Apache-2.0
"""Bilinear sampling of an image on a grid, differentiable twice with respect to the image on every torch release."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F


def grid_sample(image, grid, impl="auto"):
    """Sample `image` [N, C, H, W] at `grid` [N, Ho, Wo, 2] (x, y in [-1, 1]); bilinear, zeros outside,
    align_corners=False. Returns [N, C, Ho, Wo] of image's dtype.

    impl: 'native' = torch's operator (gradients to image and grid); 'image' = own double backward, gradients to the
    image only, raises if the grid asks for one; 'auto' = native where this torch can differentiate it twice.
    """
    if image.ndim != 4 or grid.ndim != 4 or grid.shape[3] != 2 or grid.shape[0] != image.shape[0]:
        raise ValueError(f"grid_sample: image [N, C, H, W] and grid [N, Ho, Wo, 2] expected, got {tuple(image.shape)} "
                         f"and {tuple(grid.shape)}")
    if impl not in ("auto", "native", "image", "ref"):
        raise ValueError(f"grid_sample: impl must be 'auto', 'native', 'image' or 'ref', not {impl!r}")
    if image.numel() == 0 or grid.numel() == 0:
        return image.new_zeros(image.shape[0], image.shape[1], grid.shape[1], grid.shape[2]) + 0 * image.sum()
    grid = grid.to(image.dtype)
    if impl in ("native", "ref") or (impl == "auto" and native_double_backward(image.device.type)):
        return F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return _Sample.apply(image, grid)


@functools.cache
def native_double_backward(device_type: str) -> bool:
    """Whether torch's grid_sample can be differentiated twice on this kind of device (tried once per process)."""
    with torch.enable_grad():
        image = torch.zeros(1, 1, 2, 2, device=device_type, requires_grad=True)
        grid = torch.zeros(1, 1, 1, 2, device=device_type)
        try:
            y = F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
            (dx,) = torch.autograd.grad(y.square().sum(), image, create_graph=True)
            torch.autograd.grad(dx.square().sum(), image)
        except (RuntimeError, NotImplementedError):
            return False
    return True


class _Sample(torch.autograd.Function):
    @staticmethod
    def forward(ctx, image, grid):
        ctx.save_for_backward(grid)
        ctx.size = image.shape
        return F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)

    @staticmethod
    def backward(ctx, dy):
        if ctx.needs_input_grad[1]:
            raise NotImplementedError("grid_sample(impl='image') gives no gradient with respect to the grid")
        return _SampleGrad.apply(dy, ctx.saved_tensors[0], ctx.size), None


class _SampleGrad(torch.autograd.Function):
    """Gradient of the sampling with respect to the image: linear in dy, so its own gradient is the sampling again."""

    @staticmethod
    def forward(ctx, dy, grid, size):
        ctx.save_for_backward(grid)
        # The operator never reads the image's values for this output; a zero-stride stand-in keeps its shape.
        image = dy.new_zeros(1).expand(size)
        return torch.ops.aten.grid_sampler_2d_backward(dy.contiguous(), image, grid, 0, 0, False, [True, False])[0]

    @staticmethod
    def backward(ctx, v):
        return _Sample.apply(v, ctx.saved_tensors[0]), None, None
