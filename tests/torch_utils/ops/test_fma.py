# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from torch_utils.ops.fma import fma

SHAPES = [((2, 3, 4), (2, 3, 4), (2, 3, 4)), ((2, 3, 4, 5), (2, 3, 1, 1), (4, 5)), ((2, 1, 3), (4, 3), (1,)),
          ((0, 3), (1, 3), (3,))]


@pytest.mark.parametrize("impl", ["auto", "ref"])
@pytest.mark.parametrize("shapes", SHAPES)
def test_fma(shapes, impl):
    g = torch.Generator().manual_seed(0)
    a, b, c = (torch.randn(s, generator=g, dtype=torch.float64, requires_grad=True) for s in shapes)
    torch.testing.assert_close(fma(a, b, c, impl=impl), a * b + c)
    if a.numel():
        assert torch.autograd.gradcheck(lambda *t: fma(*t, impl=impl), (a, b, c))
        assert torch.autograd.gradgradcheck(lambda *t: fma(*t, impl=impl), (a, b, c))
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        assert fma(a.to(dtype), b.to(dtype), c.to(dtype), impl=impl).dtype == dtype


def test_mistakes_are_explained():
    with pytest.raises(ValueError, match="impl"):
        fma(torch.ones(1), torch.ones(1), torch.ones(1), impl="x")
