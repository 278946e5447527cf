# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch

from tests.torch_utils.ops.conftest import derivatives_fit
from torch_utils.ops.grid_sample import grid_sample, native_double_backward

PATHS = ["auto", "image"]


def naive(image, grid):
    n, c, h, w = image.shape
    out = np.zeros((n, c, *grid.shape[1:3]))
    for b in range(n):
        for i in range(grid.shape[1]):
            for j in range(grid.shape[2]):
                x = ((grid[b, i, j, 0] + 1) * w - 1) / 2
                y = ((grid[b, i, j, 1] + 1) * h - 1) / 2
                x0, y0 = int(np.floor(x)), int(np.floor(y))
                for yy, wy in ((y0, y0 + 1 - y), (y0 + 1, y - y0)):
                    for xx, wx in ((x0, x0 + 1 - x), (x0 + 1, x - x0)):
                        if 0 <= yy < h and 0 <= xx < w:
                            out[b, :, i, j] += image[b, :, yy, xx] * wx * wy
    return out


def inputs(dtype=torch.float64):
    g = torch.Generator().manual_seed(0)
    image = torch.randn(2, 3, 5, 6, generator=g, dtype=torch.float64)
    grid = torch.rand(2, 4, 7, 2, generator=g, dtype=torch.float64) * 2.6 - 1.3  # some of it outside
    return image.to(dtype), grid.to(dtype)


@pytest.mark.parametrize("impl", PATHS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_forward(impl, layout):
    image, grid = inputs()
    y = grid_sample(image.contiguous(memory_format=layout), grid, impl=impl)
    np.testing.assert_allclose(y.numpy(), naive(image.numpy(), grid.numpy()), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("impl", PATHS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients(impl, layout):
    image, grid = inputs()
    image = image.contiguous(memory_format=layout).requires_grad_(True)
    derivatives_fit(lambda x: grid_sample(x, grid, impl=impl), image)


def test_paths_agree_in_second_order():
    if not native_double_backward("cpu"):
        pytest.skip("this torch cannot differentiate its grid_sample twice")
    image, grid = inputs(torch.float32)
    results = []
    for impl in ("native", "image"):
        x = image.clone().requires_grad_(True)
        (dx,) = torch.autograd.grad(grid_sample(x, grid, impl=impl).pow(3).sum(), x, create_graph=True)
        (d2,) = torch.autograd.grad(dx.square().sum(), x)
        results.append((dx.detach(), d2))
    for a, b in zip(*results):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_probe_decides(monkeypatch):
    """With a torch whose backward cannot be differentiated, 'auto' takes the other path and still works."""
    import torch_utils.ops.grid_sample as module
    monkeypatch.setattr(module, "native_double_backward", lambda device_type: False)
    image, grid = inputs()
    y = module.grid_sample(image.requires_grad_(True), grid)
    assert type(y.grad_fn).__name__ == "_SampleBackward"
    assert torch.autograd.gradgradcheck(lambda x: module.grid_sample(x, grid), image)


def test_grid_gradient():
    image, grid = inputs()
    grid = (grid * 0.7).requires_grad_(True)
    with pytest.raises(NotImplementedError, match="grid"):
        grid_sample(image, grid, impl="image").sum().backward()
    grid_sample(image, grid, impl="native").sum().backward()
    assert grid.grad.any()


@pytest.mark.parametrize("impl", PATHS)
def test_empty_and_half(impl):
    image, grid = inputs()
    assert grid_sample(image[:0], grid[:0], impl=impl).shape == (0, 3, 4, 7)
    y = grid_sample(image.bfloat16(), grid, impl=impl) if impl == "auto" else None
    if y is not None:
        assert y.dtype == torch.bfloat16


def test_mistakes_are_explained():
    image, grid = inputs()
    for args, message in (((image[0], grid), "expected"), ((image, grid[..., :1]), "expected"),
                          ((image[:1], grid), "expected")):
        with pytest.raises(ValueError, match=message):
            grid_sample(*args)
    with pytest.raises(ValueError, match="impl"):
        grid_sample(image, grid, impl="cuda")
