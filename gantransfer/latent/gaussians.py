# SPDX-License-Identifier: Apache-2.0
"""How near a set of generated latents is to a set of real ones. Everything in float64 on the CPU."""

from __future__ import annotations

import numpy as np
import torch


def moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean [D] and biased covariance [D, D] of x [N, D]."""
    x = x.double().cpu()
    mean = x.mean(0)
    return mean, (x - mean).t() @ (x - mean) / max(len(x), 1)


def frechet(a: torch.Tensor, b: torch.Tensor) -> float:
    """Frechet distance |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^1/2) of samples [N, D] and [M, D]."""
    (m, s), (n, t) = moments(a), moments(b)
    vals, vecs = torch.linalg.eigh(s)
    root = vecs * vals.clamp(min=0).sqrt() @ vecs.t()
    cross = torch.linalg.eigvalsh(root @ t @ root).clamp(min=0).sqrt().sum()
    return float((m - n).square().sum() + s.trace() + t.trace() - 2 * cross)


def kernel_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel (x.y / D + 1)^3."""
    a, b = a.double().cpu(), b.double().cpu()
    d = a.shape[1]

    def k(x, y):
        return (x @ y.t() / d + 1) ** 3

    n, m = len(a), len(b)
    kaa, kbb = k(a, a), k(b, b)
    return float((kaa.sum() - kaa.diagonal().sum()) / (n * (n - 1)) + (kbb.sum() - kbb.diagonal().sum()) / (m * (m - 1))
                 - 2 * k(a, b).mean())


def nearest(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """[N]: distance of each row of a to its nearest row of b."""
    return torch.cdist(a.double().cpu(), b.double().cpu(), compute_mode="donot_use_mm_for_euclid_dist").min(1).values


def memorisation(fake: torch.Tensor, train: torch.Tensor, heldout: torch.Tensor) -> float:
    """Mean distance of fakes to the nearest training latent, divided by that of held-out ones: 1 = as far as new real
    latents are, well below 1 = copies. NaN without held-out latents."""
    if not len(heldout) or not len(train):
        return float("nan")
    return float(nearest(fake, train).mean() / nearest(heldout, train).mean())


def precision_recall(real: torch.Tensor, fake: torch.Tensor, k: int = 3) -> tuple[float, float]:
    """Share of fakes within the k-nearest-neighbour balls of reals, and the other way round."""
    def radii(x):
        return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").kthvalue(k + 1, 1).values

    real, fake = real.double().cpu(), fake.double().cpu()
    if min(len(real), len(fake)) <= k:
        return float("nan"), float("nan")
    d = torch.cdist(real, fake, compute_mode="donot_use_mm_for_euclid_dist")
    precision = (d <= radii(real)[:, None]).any(0).double().mean()
    recall = (d <= radii(fake)[None]).any(1).double().mean()
    return float(precision), float(recall)


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
