# SPDX-License-Identifier: Apache-2.0
"""Adam whose step is scaled per parameter: "equalised learning rate" kept in the optimiser, weights at final scale.

ALAE's form (Pidhorskyi et al., CVPR 2020): beta1 = 0 and epsilon added to the uncorrected root,
    v <- beta2 v + (1 - beta2) g^2,    p <- p - lr c sqrt(1 - beta2^t) g / (sqrt(v) + eps).
Up to epsilon this equals run-time scaling of unit-variance weights by c with Adam(0, beta2).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from torch_utils.optimizers import without_compiler


@without_compiler
class LREQAdam(torch.optim.Optimizer):
    """params: (parameter, coefficient) pairs."""

    def __init__(self, params: Iterable[tuple[torch.nn.Parameter, float]], lr: float = 0.0015, beta2: float = 0.99,
                 eps: float = 1e-8):
        groups: dict[float, list[torch.nn.Parameter]] = {}
        for p, c in params:
            groups.setdefault(float(c), []).append(p)
        super().__init__([dict(params=v, coefficient=c) for c, v in groups.items()],
                         dict(lr=lr, beta2=beta2, eps=eps))

    @torch.no_grad()
    def step(self, closure=None):
        if closure is not None:
            raise ValueError("LREQAdam takes no closure")
        for group in self.param_groups:
            beta2, eps = group["beta2"], group["eps"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["step"], state["exp_avg_sq"] = 0, torch.zeros_like(p)
                state["step"] += 1
                v = state["exp_avg_sq"].mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
                rate = group["lr"] * group["coefficient"] * math.sqrt(1 - beta2 ** state["step"])
                p.addcdiv_(p.grad, v.sqrt().add_(eps), value=-rate)
