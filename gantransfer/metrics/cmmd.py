# SPDX-License-Identifier: Apache-2.0
"""CLIP maximum mean discrepancy (Jayasumana et al., CVPR 2024, arXiv:2401.09603)."""

from __future__ import annotations

from gantransfer.metrics.distances import Centred, centre_of
from gantransfer.metrics.feature_matrix import Array, MetricError, as_pair
from gantransfer.metrics.kmmd import kernel_mean


def cmmd(real: Array, fake: Array, sigma: float = 10.0, scale: float = 1000.0) -> float:
    """`scale` (mean K_rr + mean K_ff - 2 mean K_rf), K = exp(-|x - y|^2 / (2 sigma^2)), of embeddings [N, D], [M, D] of
    length 1.

    The biased estimator that the paper's code reports, a row with itself included, so that it is not negative and falls
    with the number of rows. float64: the published float32 has errors of about 1e-4. Raises MetricError for embeddings
    of another length, for which the published sigma means nothing.
    """
    real, fake = as_pair(real, fake)
    for name, x in (("real", real), ("generated", fake)):
        if not len(x):
            raise MetricError(f"CMMD: there are no {name} embeddings")
        if float((x.double().norm(dim=1) - 1).abs().max()) > 1e-3:
            raise MetricError(f"CMMD: the {name} embeddings are not of length 1")
    centre = centre_of(real)
    r, f = Centred(real, centre), Centred(fake, centre)
    factor = -1 / (2 * sigma**2)
    return max(scale * (kernel_mean(r, r, factor) + kernel_mean(f, f, factor) - 2 * kernel_mean(r, f, factor)), 0.0)
