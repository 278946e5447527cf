# SPDX-License-Identifier: Apache-2.0
"""The density ratio model r(phi, y) = p_real / p_fake of features phi under a label y (cDR-RS, Ding et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

GROUPS = 8


class DensityRatio(nn.Module):
    """Features [N, feature_dim] and labels -> ratios [N], not negative.

    label_kind  'class': c [N, label_dim] one-hot rows, replaced by a learned square embedding;
                'embedding': c [N, label_dim] is a code of a continuous label, used as it is
    output      'relu': the published model. It has no gradient where it is 0, and can die altogether;
                'softplus': always has one
    Hidden layers are Linear, GroupNorm of 8 groups, ReLU, dropout; the label code is put before the features. Raises
    ValueError for widths that are no multiple of 8 or below 16 (a group of one element is constant).
    """

    WIDTHS: ClassVar[dict[str, tuple[int, ...]]] = {
        "mlp3": (512, 256, 128),
        "mlp5": (2048, 1024, 512, 256, 128),
        "mlp7": (2048, 2048, 1024, 1024, 512, 256, 128),
        "mlp9": (2048, 2048, 1024, 1024, 512, 512, 256, 256, 128),
        "mlp3-v1": (2048, 1024, 512),
        "mlp5-regression": (1024, 512, 256, 128, 64),
        "tiny": (64, 32, 16),
    }

    def __init__(self, feature_dim: int, label_dim: int, widths: Sequence[int] = (512, 256, 128),
                 label_kind: str = "class", dropout: float = 0.5, output: str = "softplus"):
        super().__init__()
        widths = list(widths)
        bad = [w for w in widths if w % GROUPS or w < 2 * GROUPS]
        if bad or not widths:
            raise ValueError(f"hidden widths {widths}: each must be a multiple of {GROUPS}, at least {2 * GROUPS}")
        if label_kind not in ("class", "embedding") or output not in ("relu", "softplus"):
            raise ValueError(f"label_kind={label_kind!r}, output={output!r}")
        self.init_kwargs = dict(feature_dim=feature_dim, label_dim=label_dim, widths=widths, label_kind=label_kind,
                                dropout=dropout, output=output)
        self.output = output
        if label_kind == "class":
            self.label_emb = nn.Embedding(label_dim, label_dim)
        layers: list[nn.Module] = []
        # By position, not by comparing widths: a feature as wide as a hidden layer is still the first layer's input.
        for a, b in zip([label_dim + feature_dim, *widths], widths):
            layers += [nn.Linear(a, b), nn.GroupNorm(GROUPS, b), nn.ReLU(), nn.Dropout(dropout)]
        self.main = nn.Sequential(*layers, nn.Linear(widths[-1], 1))

    def forward(self, phi: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        code = c @ self.label_emb.weight if hasattr(self, "label_emb") else c
        r = self.main(torch.cat([code, phi], 1))[:, 0]
        return F.relu(r) if self.output == "relu" else F.softplus(r)
