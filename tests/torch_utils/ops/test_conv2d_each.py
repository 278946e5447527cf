# SPDX-License-Identifier: Apache-2.0
"""A kernel for each sample."""

from __future__ import annotations

import pytest
import torch

from torch_utils.ops import conv2d_each as each


def test_convolution_with_a_kernel_per_sample():
    x, w = torch.randn(3, 4, 6, 5, dtype=torch.float64), torch.randn(3, 2, 4, 3, 3, dtype=torch.float64)
    expected = torch.stack([torch.nn.functional.conv2d(x[i:i + 1], w[i], padding=1)[0] for i in range(3)])
    torch.testing.assert_close(each.conv2d_each(x, w, 1), expected)
    w = torch.randn(3, 4, 2, 4, 4, dtype=torch.float64)
    expected = torch.stack([torch.nn.functional.conv_transpose2d(x[i:i + 1], w[i], stride=2, padding=1)[0]
                            for i in range(3)])
    torch.testing.assert_close(each.conv_transpose2d_each(x, w, 2, 1), expected)
    with pytest.raises(ValueError, match="expected"):
        each.conv2d_each(x, torch.randn(3, 2, 5, 3, 3))
