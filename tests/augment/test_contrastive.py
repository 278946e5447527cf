# SPDX-License-Identifier: Apache-2.0
"""Solarisation of the views: bright pixels are inverted, dark ones stay, and only in a fifth of the second views."""

import pytest
import torch

from gantransfer.augment import contrastive


@pytest.fixture
def nothing_else(monkeypatch):
    """Views without crops and colours."""
    monkeypatch.setattr(contrastive, "crop", lambda x, *args: x)
    monkeypatch.setattr(contrastive, "jitter", lambda x, *args: x)


@pytest.mark.parametrize("value, expected", [(0.9, 0.1), (0.6, 0.4), (0.0, 0.0)])  # thresholds lie in [0, 0.5]
def test_bright_pixels_are_inverted_and_dark_ones_stay(nothing_else, value, expected):
    x = torch.full([8, 1, 8, 8], value) * 2 - 1
    y = contrastive.view(x, torch.Generator().manual_seed(0), blur=0.0, solarise=1.0)
    torch.testing.assert_close((y + 1) / 2, torch.full_like(x, expected), atol=1e-5, rtol=0)


def test_the_threshold_is_drawn_between_black_and_middle_grey(nothing_else):
    x = torch.full([4000, 1, 2, 2], 0.25) * 2 - 1
    y = contrastive.view(x, torch.Generator().manual_seed(0), blur=0.0, solarise=1.0)
    assert (y[:, 0, 0, 0] > 0).float().mean() == pytest.approx(0.5, abs=0.03)


def test_a_fifth_of_the_second_views_and_none_of_the_first(nothing_else):
    x = torch.ones(2000, 1, 4, 4)
    a, b = contrastive.two_views(x, torch.Generator().manual_seed(0))
    assert torch.allclose(a, x, atol=1e-5)
    assert (b[:, 0, 0, 0] < 0).float().mean() == pytest.approx(0.2, abs=0.03)
