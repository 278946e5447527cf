# SPDX-License-Identifier: Apache-2.0
"""Vicinal risk of CcGAN (Ding et al. 2021): training at a label uses images of labels near it.

Labels are normalised, about [0, 1]. A target t is a training label plus noise N(0, sigma^2). 'hard' (HVDL) takes images
with |y - t| <= kappa; 'soft' (SVDL) those with a weight exp(-nu (y - t)^2) of at least `threshold`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F

from dnnlib.util import UserError
from torch_utils import random as rnd

KINDS = ("hard", "soft")
LOSSES = ("hinge", "vanilla")
TINY = 1e-20


def bandwidth(labels: np.ndarray, kind: str, kappa: float = -2.0, sigma: float = -1.0) -> tuple[float, float]:
    """(sigma, kappa of 'hard' or nu of 'soft') for all training labels [N], by the rules of thumb.

    A negative `sigma` means 1.06 std N^(-1/5); a negative `kappa` means |kappa| times the largest gap between
    neighbouring labels, of which nu is 1 / square. Positive values are taken as they are. Raises UserError for fewer
    than two different labels and for kappa 0.
    """
    y = np.asarray(labels, np.float64).reshape(-1)
    distinct = np.unique(y)
    if len(distinct) < 2:
        raise UserError("a continuous label needs at least two different values in the training set")
    if kappa == 0:
        raise UserError("--kappa=0 leaves no vicinity; give a width, or a negative multiple of the largest gap")
    if sigma < 0:
        sigma = 1.06 * float(y.std()) * len(y) ** -0.2
    if kappa < 0:
        width = abs(kappa) * float(np.diff(distinct).max())
        kappa = width if kind == "hard" else 1 / width**2
    return sigma, kappa


@dataclass
class Draw:
    """What one discriminator step sees, n samples."""

    target: np.ndarray  # float64 [n] in [0, 1]: what the discriminator is told
    real: np.ndarray  # int64 [n]: indices of training images
    fake: np.ndarray  # float64 [n] in [0, 1]: labels that the generator is given
    weight_real: np.ndarray  # float64 [n]
    weight_fake: np.ndarray  # float64 [n]


class Vicinity:
    """Draws targets, real images near them, and labels for generated images.

    labels     normalised training labels [N]
    kind       'hard' with `kappa`, 'soft' with nu = `kappa`
    normalise  'soft': draw images and generated labels in proportion to their weight, each then weighs 1, which is the
               published formula; the published code draws uniformly and applies the weight, so that targets far from
               data count less
    """

    def __init__(self, labels: np.ndarray, kind: str, kappa: float, sigma: float, threshold: float = 1e-3,
                 normalise: bool = False):
        y = np.asarray(labels, np.float64).reshape(-1)
        self.order = np.argsort(y, kind="stable")
        self.distinct, counts = np.unique(y, return_counts=True)
        self.starts = np.concatenate([[0], np.cumsum(counts)])  # of each distinct label in the sorted set
        self.labels, self.kind, self.kappa, self.sigma, self.normalise = y, kind, kappa, sigma, normalise
        self.square = None if kind == "hard" else -math.log(threshold) / kappa
        self.radius = kappa if kind == "hard" else math.sqrt(self.square)

    def near(self, targets: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """bool [targets, labels]: which labels are in the vicinity of which target."""
        d = np.asarray(labels)[None, :] - np.asarray(targets)[:, None]
        return np.abs(d) <= self.kappa if self.kind == "hard" else d * d <= self.square

    def fake_range(self, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Bounds [n] of the uniform draw of the generated images' labels."""
        return np.maximum(targets - self.radius, 0.0), np.minimum(targets + self.radius, 1.0)

    def weight(self, labels: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Weights [n] of labels at targets: 1 for 'hard'."""
        d = np.asarray(labels, np.float64) - targets
        return np.ones_like(d) if self.kind == "hard" else np.exp(-self.kappa * d * d)

    def targets(self, n: int, rng: torch.Generator) -> np.ndarray:
        """float64 [n]: distinct training labels, equally likely, plus noise; redrawn until they lie in [0, 1] and some
        image is near. (The published code lets targets leave [0, 1].)"""
        return rnd.of_whole(n, rng, lambda whole: self._targets(whole, rng))

    def _targets(self, n: int, rng: torch.Generator) -> np.ndarray:
        base = self.distinct[self._whole(len(self.distinct), n, rng)]
        t = np.full(n, np.nan)
        left = np.arange(n)
        for _ in range(50):
            t[left] = base[left] + self.sigma * torch.randn(len(left), generator=rng, dtype=torch.float64).numpy()
            bad = (t < 0) | (t > 1)
            bad[~bad] = ~self.near(t[~bad], self.distinct).any(1)
            left = np.flatnonzero(bad)
            if not len(left):
                return t
        t[left] = np.clip(base[left], 0, 1)  # without noise: the label itself is near
        return t

    def draw(self, n: int, rng: torch.Generator) -> Draw:
        """Everything random about one discriminator step. `rng` lives on the CPU."""
        k, of = rnd.share_of(rng)
        whole = self._draw(n * of, rng)
        return Draw(*(getattr(whole, f.name)[k::of] for f in fields(whole)))

    def _draw(self, n: int, rng: torch.Generator) -> Draw:
        t = self.targets(n, rng) if rnd.share_of(rng)[1] == 1 else self._targets(n, rng)
        near = self.near(t, self.distinct)
        u = torch.rand(2, n, generator=rng, dtype=torch.float64).numpy()
        if self.kind == "soft" and self.normalise:
            mass = near * np.exp(-self.kappa * (self.distinct[None, :] - t[:, None]) ** 2) * np.diff(self.starts)
            cdf = np.cumsum(mass, 1)
            k = np.minimum((cdf <= (u[0] * cdf[:, -1])[:, None]).sum(1), len(self.distinct) - 1)
            real = self.order[self.starts[k] + self._whole(np.diff(self.starts)[k], n, rng)]
            return Draw(t, real, self._truncated_normal(t, u[1]), np.ones(n), np.ones(n))
        first = near.argmax(1)
        low, high = self.starts[first], self.starts[first + near.sum(1)]
        real = self.order[np.minimum(low + np.floor(u[0] * (high - low)).astype(np.int64), high - 1)]
        a, b = self.fake_range(t)
        fake = a + u[1] * (b - a)
        return Draw(t, real, fake, self.weight(self.labels[real], t), self.weight(fake, t))

    def _truncated_normal(self, t: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Labels with density exp(-nu (y - t)^2) within the range of generated labels, from uniforms `u`."""
        spread = math.sqrt(0.5 / self.kappa)
        a, b = (torch.special.ndtr(torch.from_numpy((v - t) / spread)) for v in self.fake_range(t))
        y = t + spread * torch.special.ndtri(a + torch.from_numpy(u) * (b - a)).numpy()
        return np.clip(y, *self.fake_range(t))

    @staticmethod
    def _whole(high: int | np.ndarray, n: int, rng: torch.Generator) -> np.ndarray:
        """Integers [n] below `high`."""
        u = torch.rand(n, generator=rng, dtype=torch.float64).numpy()
        return np.minimum(np.floor(u * high).astype(np.int64), np.asarray(high) - 1)


def d_loss(real: torch.Tensor, fake: torch.Tensor, weight_real: torch.Tensor | float, weight_fake: torch.Tensor | float,
           kind: str) -> torch.Tensor:
    """Loss [n] of discriminator outputs [n] for real and generated images; its mean is the published loss."""
    if kind == "hinge":
        return weight_real * F.relu(1 - real) + weight_fake * F.relu(1 + fake)
    return -weight_real * torch.log(torch.sigmoid(real) + TINY) - weight_fake * torch.log(
        1 - torch.sigmoid(fake) + TINY)


def g_loss(fake: torch.Tensor, kind: str) -> torch.Tensor:
    """Loss [n] of discriminator outputs [n] for generated images."""
    return -fake if kind == "hinge" else -torch.log(torch.sigmoid(fake) + TINY)
