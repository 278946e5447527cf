# SPDX-License-Identifier: Apache-2.0
"""Zero-centred gradient penalties of a discriminator.

    R1 = gamma/2 E_real |grad_x D(x)|^2,   R2 = gamma/2 E_fake |grad_x D(x)|^2

Mescheder et al., "Which training methods for GANs do actually converge?", ICML 2018, equations 9 and 10. R1 alone is
the habit; together they keep the relativistic pairing loss stable (Huang et al., NeurIPS 2024, section 2).
"""

from __future__ import annotations

import torch


def squared_gradient(logits: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """[n]: |d logit / d x|^2 of each image, differentiable with respect to the network; x [n, ...] requires a gradient.
    Each logit may depend on its own image only, but for what the network itself does across a batch."""
    (grad,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return grad.square().flatten(1).sum(1)
