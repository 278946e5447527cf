# SPDX-License-Identifier: Apache-2.0
"""Importance weights of reals: the discriminator sees another class distribution in expectation, without one image
being shown more often.

Where reals come with the class frequencies p and labels of generated images with q, a real of class c weighs
q(c) / p(c) in the discriminator's loss: E_p[w L] = E_q[L], and the mean weight is 1. Oversampling shows the
discriminator the few images of a rare class again and again, and it learns them by heart; a weight shows them as often
as the data does, and makes the gradient noisier instead.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gantransfer.data.labels import class_weights


def importance(counts: Sequence[int], reals: str, labels: str) -> torch.Tensor:
    """float32 [classes]: q / p of two sampling policies (`data.labels.class_weights`); 0 for classes without images."""
    p, q = (class_weights(counts, policy) for policy in (reals, labels))
    return torch.from_numpy(q / p.clip(min=1e-300) * (p > 0)).float()
