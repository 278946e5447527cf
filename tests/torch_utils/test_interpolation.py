# SPDX-License-Identifier: Apache-2.0
"""Spherical interpolation; golden values are in tests/golden/test_metrics_published.py."""

import torch

from torch_utils.interpolation import slerp


def test_the_angle_grows_evenly_and_lengths_are_kept():
    a, b = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    for t in (0.0, 0.25, 1.0):
        angle = torch.tensor(t * torch.pi / 2)
        torch.testing.assert_close(slerp(a, b, t), 3 * torch.stack([angle.cos(), angle.sin()])[None])
    rows = slerp(a.expand(2, 2), b.expand(2, 2), torch.tensor([[0.0], [1.0]]))  # a number of its own for each row
    torch.testing.assert_close(rows, torch.cat([a, b]))


def test_parallel_vectors_are_joined_by_a_straight_line():
    a = torch.tensor([[1.0, 2.0]])
    torch.testing.assert_close(slerp(a, 3 * a, 0.5), 2 * a)
    assert slerp(a, -a, 0.5).isfinite().all()
