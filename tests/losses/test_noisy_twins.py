# SPDX-License-Identifier: Apache-2.0
"""NoisyTwins: the noise against its deviation per class, and who is whose twin."""

import torch

from gantransfer.losses import noisy_twins
from torch_utils import random as rnd


def test_noise_has_the_classs_deviation():
    sigma = torch.tensor([0.0, 0.5, 2.0])
    c = torch.eye(3).repeat_interleave(4000, 0)
    noise = noisy_twins.embedding_noise(c, sigma, 6, rnd.generator(3))
    assert noise.shape == (12000, 6)
    by_class = noise.reshape(3, -1)
    assert torch.allclose(by_class.std(1), sigma, rtol=0.03)
    assert by_class.mean(1).abs().max() < 0.05
    assert (by_class[0] == 0).all()


def test_twice():
    x = torch.arange(6)
    assert noisy_twins.twice(x).tolist() == [0, 1, 2, 0, 1, 2]


def test_twins_stay_twins_in_every_share_of_a_batch():
    """Row k of the whole batch and its twin are in one micro-batch, at the same distance there."""
    whole = noisy_twins.twice(torch.arange(16))
    for k in range(4):
        assert torch.equal(noisy_twins.twice(torch.arange(16)[k::4]), whole[k::4])
