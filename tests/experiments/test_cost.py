# SPDX-License-Identifier: Apache-2.0
"""Multiply-adds by hand, and the cost at which a curve comes below a bound."""

import pytest
import torch
import torch.nn.functional as F

from gantransfer.experiments import cost
from torch_utils import build


def test_products_and_convolutions_are_counted_forward_and_backward():
    x, w = torch.randn(2, 3, 8, 8), torch.randn(5, 3, 3, 3, requires_grad=True)
    before, once = build.mode(), 2 * 5 * 3 * 9 * 36
    with cost.counted_macs() as macs:
        y = F.conv2d(x, w)
    assert macs == [once] and build.mode() == before
    with cost.counted_macs() as macs:
        y.sum().backward()
        torch.ones(7, 4) @ torch.ones(4, 6) + torch.ones(6).exp()  # sums and functions of elements are none
    assert macs == [once + 7 * 4 * 6]  # x asks for no gradient
    with cost.counted_macs():
        assert build.mode() == "ref"  # compiled operators hide their convolutions


def test_a_bound_is_reached_on_the_line_between_two_snapshots():
    curve = [dict(kimg=k, seconds=10.0 * k, macs=100.0 * k, judges=[dict(fd=a), dict(fd=b)])
             for k, a, b in ((0, 50.0, 9.0), (4, 30.0, 9.0), (8, 10.0, 8.0), (12, 40.0, 1.0))]
    assert cost.first_below(curve, 0, 25.0, "fd") == pytest.approx(dict(kimg=5, seconds=50, macs=500))
    assert cost.first_below(curve, 0, 30.0, "fd") == dict(kimg=4, seconds=40, macs=400)
    assert cost.first_below(curve, 0, 60.0, "fd") == dict(kimg=0, seconds=0, macs=0)  # from the start
    assert cost.first_below(curve, 1, 8.5, "fd") == pytest.approx(dict(kimg=6, seconds=60, macs=600))
    assert cost.first_below(curve, 0, 9.0, "fd") is None
