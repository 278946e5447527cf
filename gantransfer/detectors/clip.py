# SPDX-License-Identifier: Apache-2.0
"""CLIP's vision transformer (Radford et al. 2021, arXiv:2103.00020) as a feature network: the image embedding of unit
length, which CMMD compares.

State-dict names are those of OpenAI's files below `visual.`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MLP(nn.Module):
    """With the activation x sigmoid(1.702 x) of OpenAI's networks; GELU gives other embeddings."""

    def __init__(self, dim: int):
        super().__init__()
        self.c_fc, self.c_proj = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c_fc(x)
        return self.c_proj(x * torch.sigmoid(1.702 * x))


class Block(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(dim), nn.MultiheadAttention(dim, heads, batch_first=True)
        self.ln_2, self.mlp = nn.LayerNorm(dim), MLP(dim)

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, dim: int, depth: int, heads: int):
        super().__init__()
        self.resblocks = nn.Sequential(*[Block(dim, heads) for _ in range(depth)])

    def forward(self, x: Tensor) -> Tensor:
        return self.resblocks(x)


class CLIPVision(nn.Module):
    """forward: normalised [N, 3, S, S], S = `patch` * `grid` -> embedding [N, out] of length 1. ViT-L/14@336px unless
    told otherwise."""

    def __init__(self, dim: int = 1024, depth: int = 24, heads: int = 16, patch: int = 14, grid: int = 24,
                 out: int = 768):
        super().__init__()
        self.conv1 = nn.Conv2d(3, dim, patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(dim))
        self.positional_embedding = nn.Parameter(torch.zeros(1 + grid * grid, dim))
        self.ln_pre, self.ln_post = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.transformer = Transformer(dim, depth, heads)
        self.proj = nn.Parameter(torch.zeros(dim, out))

    def forward(self, x: Tensor) -> Tensor:
        patches = self.conv1(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_embedding.expand(len(x), 1, -1), patches], 1) + self.positional_embedding
        tokens = self.transformer(self.ln_pre(tokens))
        return F.normalize(self.ln_post(tokens[:, 0]) @ self.proj, dim=1)
