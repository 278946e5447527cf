# SPDX-License-Identifier: Apache-2.0
"""Exponential moving averages of networks."""

import copy

import pytest
import torch

from torch_utils import ema


def test_decay_halves_what_is_left_per_half_life():
    assert ema.decay(64, 10) ** (10_000 / 64) == pytest.approx(0.5)
    assert ema.decay(64, 10, cur_nimg=1000, ramp=0.05) == pytest.approx(0.5 ** (64 / 50))  # 50 images, not 10,000
    assert ema.decay(64, 0.001, cur_nimg=10**6, ramp=0.05) == pytest.approx(0.5**64)  # never longer than asked for
    assert ema.decay(64, 0) == ema.decay(64, 10, cur_nimg=0, ramp=0.05) == 0


def test_a_step_averages_parameters_and_copies_buffers():
    torch.manual_seed(0)
    live = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    average = copy.deepcopy(live)
    before = copy.deepcopy(average)
    live(torch.randn(8, 3))
    with torch.no_grad():
        for p in live.parameters():
            p.add_(1)
    ema.step_network(average, live, 0.75)
    for a, b, t in zip(average.parameters(), before.parameters(), live.parameters()):
        torch.testing.assert_close(a, 0.75 * b + 0.25 * t)
    for a, t in zip(average.buffers(), live.buffers()):
        assert torch.equal(a, t)


def test_without_a_half_life_the_average_is_the_network():
    a, b = [torch.zeros(3)], [torch.full((3,), 2.0)]
    ema.step(a, b, ema.decay(8, 0))
    assert torch.equal(a[0], b[0])


def test_a_state_is_averaged_whole_and_each_tensor_once():
    shared = torch.zeros(2)
    average = {"weight": shared, "tied": shared, "mean": torch.zeros(1), "count": torch.tensor(0),
               "none": torch.zeros(0)}
    live = {"weight": torch.ones(2), "tied": torch.ones(2), "mean": torch.ones(1), "count": torch.tensor(7),
            "none": torch.zeros(0)}
    ema.step_state(average, live, 0.75)
    assert average["weight"].tolist() == [0.25, 0.25] and average["mean"] == 0.25 and average["count"] == 7
