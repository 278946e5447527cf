# SPDX-License-Identifier: Apache-2.0
"""Gaussians of latents, one or one per class; mixtures and copies of latents. Everything in float64 on the CPU."""

from __future__ import annotations

import numpy as np
import torch

from gantransfer.metrics.distances import nearest
from gantransfer.metrics.fid import Moments


def moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean [D] and biased covariance [D, D] of x [N, D]."""
    m = Moments.of(x.double().cpu(), "latents")
    return m.mean, m.cov(0)


def memorisation(fake: torch.Tensor, train: torch.Tensor, heldout: torch.Tensor) -> float:
    """Mean distance of fakes to the nearest training latent, divided by that of held-out ones: 1 = as far as new real
    latents are, well below 1 = copies. NaN without held-out latents."""
    if not len(heldout) or not len(train):
        return float("nan")
    return float(nearest(fake, train)[0].mean() / nearest(heldout, train)[0].mean())


def shrunken_means(codes: torch.Tensor, ids: np.ndarray, classes: int, kappa: float = 50) -> torch.Tensor:
    """[classes, D]: (n_c mean_c + kappa mean) / (n_c + kappa): a class of few images leans on all of them."""
    overall = codes.mean(0)
    rows = []
    for k in range(classes):
        own = codes[torch.from_numpy(ids == k).to(codes.device)]
        rows.append((own.sum(0) + kappa * overall) / (len(own) + kappa))
    return torch.stack(rows)


def gaussian_factors(codes: torch.Tensor, ids: np.ndarray | None, classes: int,
                     kappa: float = 50) -> tuple[torch.Tensor, torch.Tensor]:
    """(means [K, D], factors [K, D, D] with factor factor^T = covariance) of a Gaussian per class (K = 1 without).

    Covariances of classes are shrunk towards the mean covariance within classes, by the same rule as the means.
    """
    if ids is None or classes <= 1:
        mean, cov = moments(codes)
        return mean[None], _root(cov)[None]
    parts = [codes[torch.from_numpy(ids == k).to(codes.device)] for k in range(classes)]
    found = [moments(p) for p in parts if len(p)]
    sizes = torch.tensor([float(len(p)) for p in parts if len(p)], dtype=torch.float64)
    within = sum(n * c for n, (_, c) in zip(sizes, found)) / sizes.sum()
    means, factors = [], []
    overall = codes.double().mean(0).cpu()
    for p in parts:
        n = len(p)
        mean, cov = moments(p) if n else (overall, within)
        means.append((n * mean + kappa * overall) / (n + kappa) if n < kappa else mean)
        factors.append(_root((n * cov + kappa * within) / (n + kappa)))
    return torch.stack(means), torch.stack(factors)


def _root(cov: torch.Tensor) -> torch.Tensor:
    vals, vecs = torch.linalg.eigh(cov)
    return vecs * vals.clamp(min=0).sqrt()


def neighbour_mix(codes: torch.Tensor, n: int, rng: torch.Generator, k: int = 5) -> torch.Tensor:
    """n convex mixtures (Dirichlet(1)) of a random latent's k nearest neighbours, itself among them."""
    codes = codes.double().cpu()
    k = min(k, len(codes))
    rows = torch.randint(len(codes), [n], generator=rng)
    near = torch.cdist(codes[rows], codes).topk(k, 1, largest=False).indices
    shares = -torch.log(torch.rand(n, k, generator=rng, dtype=torch.float64).clamp(min=1e-300))
    return ((shares / shares.sum(1, keepdim=True))[:, :, None] * codes[near]).sum(1)


def mean_gaps(real: torch.Tensor, fake: torch.Tensor, real_ids: np.ndarray, fake_ids: np.ndarray,
              classes: int) -> np.ndarray:
    """[classes]: distance between the means of real and generated latents of each class; NaN where one has none."""
    out = np.full(classes, np.nan)
    for k in range(classes):
        a, b = real[torch.from_numpy(real_ids == k)], fake[torch.from_numpy(fake_ids == k)]
        if len(a) and len(b):
            out[k] = float((a.double().mean(0) - b.double().mean(0)).norm())
    return out
