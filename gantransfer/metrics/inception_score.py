# SPDX-License-Identifier: Apache-2.0
"""Inception score (Salimans et al. 2016, arXiv:1606.03498): exp of the mean KL divergence between the class
distribution of each image and their mean."""

from __future__ import annotations

import numpy as np
import torch

from dnnlib import seeding
from gantransfer.metrics.feature_matrix import Array, MetricError, as_features


def inception_score(logits: Array, splits: int = 10, *, drop_tail: bool = False, shuffle_seed: int | None = None,
                    ddof: int = 0) -> tuple[float, float]:
    """(mean, std) over `splits` consecutive parts of `logits` [M, C], M >= splits.

    Logits are those without the output bias for the NVIDIA and TF protocols (natural logs of probabilities do as well).
    Part i holds rows i*M//S .. (i+1)*M//S; with `drop_tail` (BigGAN, cGAN-KD) every part has M//S rows. `shuffle_seed`
    permutes the rows first (torch-fidelity: 2020). `ddof` 1 is StudioGAN's standard deviation.
    """
    x = as_features(logits, "logits").double()
    m = len(x)
    if splits < 1 or m < splits:
        raise MetricError(f"inception score over {splits} splits needs at least as many rows, got {m}")
    if shuffle_seed is not None:
        x = x[torch.as_tensor(seeding.numpy_rng(shuffle_seed).permutation(m))]
    log_p = torch.log_softmax(x, 1)
    step = m // splits
    bounds = [(i * step, (i + 1) * step) if drop_tail else (i * m // splits, (i + 1) * m // splits)
              for i in range(splits)]
    scores = np.array([_score(log_p[a:b]) for a, b in bounds])
    return float(scores.mean()), float(scores.std(ddof=ddof)) if splits > ddof else 0.0


def _score(log_p: torch.Tensor) -> float:
    p = log_p.exp()
    log_mean = torch.logsumexp(log_p, 0) - np.log(len(log_p))
    # p = 0 contributes 0, not NaN: the difference of two infinite logarithms is masked
    kl = torch.where(p > 0, p * (log_p - log_mean), torch.zeros_like(p)).sum(1)
    return float(kl.mean().exp())
