# SPDX-License-Identifier: Apache-2.0
"""Statistics of a step of several micro-batches."""

import pytest
import torch

from torch_utils.step_statistics import StepStatistics


@pytest.mark.parametrize("parts", [1, 2])
def test_step_statistics_are_those_of_batch_norm_and_the_mean_over_micro_batches(parts):
    torch.manual_seed(0)
    a, b = [torch.nn.BatchNorm2d(3) for _ in range(parts)], torch.nn.BatchNorm2d(3)
    mine = StepStatistics(b)
    for _ in range(3):
        for one in a:
            x = torch.randn(4, 3, 5, 5) * 2 + 1
            assert torch.equal(one(x), b(x))
        mine.finish()
    for name in ("running_mean", "running_var"):
        assert torch.allclose(sum(getattr(one, name) for one in a) / parts, getattr(b, name)), name
    assert b.num_batches_tracked == 0  # or processes with more micro-batches would hold another number
