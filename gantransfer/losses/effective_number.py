# SPDX-License-Identifier: Apache-2.0
"""How much more a rare class counts: the effective number of samples (Cui et al., CVPR 2019).

A class of n images has E(n) = (1 - alpha^n) / (1 - alpha) different ones, for images overlap: E(1) = 1, and E(n) tends
to 1 / (1 - alpha). alpha 0 says that a class has one image, however many there are; alpha near 1 that all n differ.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def inverse_effective_number(counts: Sequence[int], alpha: float) -> np.ndarray:
    """float64 [classes]: proportional to 1 / E(n), with mean 1 over the classes that have images; 0 for the others.

    `alpha` in [0, 1). Raises ValueError without any image.
    """
    n = np.asarray(counts, np.float64)
    if not 0 <= alpha < 1 or n.ndim != 1 or not (n > 0).any():
        raise ValueError(f"expected images and 0 <= alpha < 1, not {n.sum():g} images and alpha {alpha}")
    out = np.zeros_like(n)
    out[n > 0] = (1 - alpha) / (1 - alpha ** n[n > 0])
    return out / out[n > 0].mean()
