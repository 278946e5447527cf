# SPDX-License-Identifier: Apache-2.0
"""NoisyTwins (Rangwani et al., CVPR 2023): noise on the class embedding, and decorrelated pairs of noisy twins.

A class has one embedding, and where images are few the generator answers it with one w, whatever z is. So the embedding
of class c becomes a cloud, wider for rare classes, in every training step:

    e ~ N(e_c, sigma_c^2 I),   sigma_c = sigma / E(n_c), scaled to mean sigma (losses/effective_number.py)

Two images of a generator step are twins: they have the same z and label, and noise of their own. Their w are to agree
with each other, and their numbers not to repeat each other (Barlow Twins, Zbontar et al., ICML 2021). With C the
cross-correlation of the twins' w over the batch, each number of w standardised over the batch:

    L = lambda ( sum_i (1 - C_ii)^2 + gamma sum_{i != j} C_ij^2 )          losses/barlow_twins.py
"""

from __future__ import annotations

import torch

from torch_utils import random as rnd


def embedding_noise(c: torch.Tensor, sigma: torch.Tensor, features: int, rng: rnd.Rng) -> torch.Tensor:
    """[n, features]: normal noise with the standard deviation sigma [classes] of each row's class; c [n, classes] is
    one-hot."""
    return (c @ sigma)[:, None] * rnd.randn([len(c), features], rng, c.device)


def twice(x: torch.Tensor) -> torch.Tensor:
    """[2k, ...] -> the first k rows twice: rows i and i + k are twins. They are so too in every share of a batch over
    micro-batches and processes (torch_utils.random.StepGenerator)."""
    return torch.cat([x[: len(x) // 2]] * 2)
