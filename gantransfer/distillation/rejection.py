# SPDX-License-Identifier: Apache-2.0
"""Subsampling by a density ratio: the loss that trains the ratio, the calibrated discriminator, rejection sampling."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from dnnlib.util import UserError

LEAST_ACCEPTANCE = 1e-3


def csp_loss(r_fake: torch.Tensor, r_real: torch.Tensor, lam: float) -> torch.Tensor:
    """Penalised Softplus loss, 0-dim, of the ratios of generated [n] and real [m] samples with the same labels.

        mean_fake(s(r) r - softplus(r)) - mean_real(s(r)) + lam (mean_fake(r) - 1)^2,   s = sigmoid

    Minimal where r = p_real / p_fake.
    """
    divergence = (torch.sigmoid(r_fake) * r_fake - F.softplus(r_fake)).mean() - torch.sigmoid(r_real).mean()
    return divergence + lam * (r_fake.mean() - 1).square()


class Calibration(NamedTuple):
    """ratio = exp(scale d + shift) for discriminator logits d."""

    scale: float
    shift: float

    def __call__(self, d: np.ndarray) -> np.ndarray:
        return np.exp(np.clip(self.scale * np.asarray(d, np.float64) + self.shift, -50, 50))


def calibrate(d_real: np.ndarray, d_fake: np.ndarray, ridge: float = 1e-6) -> Calibration:
    """Logistic regression of real against generated on the logit, both sides weighted equally: two parameters.

    d_real should be of real images that the discriminator was not trained on: it knows those by heart. A slope below 0
    (the logit ranks generated images as more real) becomes 0, which rejects nothing. Raises UserError for logits that
    are not finite or of which one side is missing.
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    d_real, d_fake = (np.asarray(d, np.float64).reshape(-1) for d in (d_real, d_fake))
    if not len(d_real) or not len(d_fake) or not (np.isfinite(d_real).all() and np.isfinite(d_fake).all()):
        raise UserError("the discriminator's logits are not finite, or there are none; use another snapshot")
    d = np.concatenate([d_real, d_fake])
    mean, spread = d.mean(), d.std() or 1.0
    x = np.stack([(d - mean) / spread, np.ones_like(d)], 1)
    target = np.concatenate([np.ones(len(d_real)), np.zeros(len(d_fake))])
    weight = np.concatenate([np.full(len(d_real), 0.5 / len(d_real)), np.full(len(d_fake), 0.5 / len(d_fake))])

    def objective(w: np.ndarray) -> tuple[float, np.ndarray]:
        a = x @ w
        value = (weight * (np.logaddexp(0, a) - target * a)).sum() + 0.5 * ridge * w @ w
        return float(value), x.T @ (weight * (expit(a) - target)) + ridge * w

    def hessian(w: np.ndarray) -> np.ndarray:
        p = expit(x @ w)
        return (x * (weight * p * (1 - p))[:, None]).T @ x + ridge * np.eye(2)

    w = minimize(objective, np.zeros(2), jac=True, hess=hessian, method="trust-exact", options=dict(gtol=1e-12)).x
    if w[0] < 0:
        return Calibration(0.0, 0.0)
    return Calibration(float(w[0] / spread), float(w[1] - w[0] * mean / spread))


class Rejection:
    """Accept sample i if u_i <= r_i / M, for one label.

    mode      'fixed': M is set by the burn-in and counts what exceeds it (those are accepted). Results do not depend on
              order or batches. 'running': the published rule, M <- max(M, max r of the batch) before each test
    quantile  M is this quantile of the burn-in's ratios; None or 1 is their maximum
    `name` says in messages which label it is. Raises UserError for ratios that are negative or not finite, for M <= 0,
    and when fewer than one in a thousand of at least 10 000 samples is accepted.
    """

    def __init__(self, mode: str = "fixed", quantile: float | None = None, name: str = ""):
        if mode not in ("fixed", "running"):
            raise UserError(f"rejection mode {mode} does not exist; use fixed or running")
        if quantile is not None and not 0 < quantile <= 1:
            raise UserError(f"the quantile of the ratio is {quantile:g}; it must be above 0 and at most 1")
        self.mode, self.quantile, self.name = mode, quantile, f" for {name}" if name else ""
        self.M = 0.0
        self.drawn = self.accepted = self.exceeded = self.burned = 0
        self.sum = 0.0

    def _checked(self, ratios: Any) -> np.ndarray:
        r = np.asarray(ratios, np.float64).reshape(-1)
        if len(r) and not (np.isfinite(r).all() and r.min() >= 0):
            raise UserError(f"the density ratio{self.name} is not finite or negative; train the ratio model anew")
        return r

    def burn_in(self, ratios: Any) -> float:
        """Set M from the first samples [n]; they count neither as drawn nor as accepted."""
        r = self._checked(ratios)
        if not len(r):
            raise UserError(f"no samples to find the largest ratio{self.name}; raise the burn-in")
        q = 1.0 if self.quantile is None else self.quantile
        self.M, self.burned = float(np.quantile(r, q)), len(r)
        self._check_bound()
        return self.M

    def _check_bound(self) -> None:
        if self.M <= 0:
            raise UserError(f"the density ratio{self.name} is 0 for every sample: nothing can be accepted; the ratio "
                            "model has died (train it with softplus output or another seed)")

    def accept(self, ratios: Any, uniforms: Any) -> np.ndarray:
        """bool [n] for ratios [n] and U(0, 1) draws [n], in order; 'running' may raise M first."""
        r, u = self._checked(ratios), np.asarray(uniforms, np.float64).reshape(-1)
        if r.shape != u.shape:
            raise ValueError(f"{len(r)} ratios and {len(u)} uniforms")
        self.exceeded += int((r > self.M).sum())
        if self.mode == "running" and len(r):
            self.M = max(self.M, float(r.max()))
        self._check_bound()
        ok = u <= r / self.M
        self.drawn += len(r)
        self.accepted += int(ok.sum())
        self.sum += float(r.sum())
        if self.drawn >= 10 / LEAST_ACCEPTANCE and self.accepted < LEAST_ACCEPTANCE * self.drawn:
            raise UserError(f"{self.accepted} of {self.drawn} samples{self.name} were accepted, fewer than one in a "
                            f"thousand (M = {self.M:.3g}, mean ratio {self.sum / self.drawn:.3g}); bound M by a "
                            "quantile below 1, or train the ratio model longer")
        return ok

    def report(self) -> dict[str, float | int]:
        """Counts, M, and the acceptance rate with the one that the mean ratio predicts, mean(r) / M."""
        n = max(self.drawn, 1)
        return dict(drawn=self.drawn, accepted=self.accepted, rate=self.accepted / n, M=self.M,
                    expected_rate=self.sum / n / self.M if self.M > 0 else 0.0, exceeded=self.exceeded,
                    burn_in=self.burned)
