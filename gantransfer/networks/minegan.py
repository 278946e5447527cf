# SPDX-License-Identifier: Apache-2.0
"""A trained BigGAN behind miners (Wang et al., "MineGAN: effective knowledge transfer from GANs to target domains with
few images", CVPR 2020).

Two small networks choose where in the source's input space the new classes lie; the source itself stays:

    z' = z + M_z(z, y),      c' = mean of the old classes + M_c(z, y),      image = G(z', c')

y is the new class, c' a mixture of the source's classes. The last layers start at zero, so the first images are the
source's at its mean class; the published miner starts anywhere.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from gantransfer.networks.biggan import Discriminator, Generator, label_rows


class Miner(nn.Module):
    """[N, in_dim] to [N, out_dim] by two layers; zero before training."""

    def __init__(self, in_dim: int, hidden: int, out_dim: int):
        super().__init__()
        self.fc0, self.fc1 = nn.Linear(in_dim, hidden), nn.Linear(hidden, out_dim)
        nn.init.zeros_(self.fc1.weight)
        nn.init.zeros_(self.fc1.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc1(self.fc0(x).relu())


class MinedGenerator(Generator):
    """z [N, dim_z] and labels c [N, n_classes] of new classes to images, by a BigGAN of n_pretrain_classes classes."""

    def __init__(self, n_classes: int, n_pretrain_classes: int, miner_hidden: int = 128, **source: Any):
        super().__init__(n_classes=n_pretrain_classes, **source)
        self.init_kwargs = dict(n_classes=n_classes, n_pretrain_classes=n_pretrain_classes, miner_hidden=miner_hidden,
                                **source)
        self.n_new = n_classes
        self.miner_z = Miner(self.z_dim + n_classes, miner_hidden, self.z_dim)
        self.miner_c = Miner(self.z_dim + n_classes, miner_hidden, n_pretrain_classes)

    @property
    def c_dim(self) -> int:
        return self.n_new

    def mine(self, z: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(z' [N, dim_z], c' [N, n_pretrain_classes]): the source's inputs."""
        both = torch.cat([z, label_rows(c, self.n_new)], 1)
        return z + self.miner_z(both), self.miner_c(both) + 1 / self.n_classes

    def forward(self, z: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return super().forward(*self.mine(z, c))

    def miner_parameters(self) -> list[nn.Parameter]:
        return [*self.miner_z.parameters(), *self.miner_c.parameters()]


@torch.no_grad()
def mined(source: Generator, n: int, hidden: int) -> MinedGenerator:
    """`source` behind miners for n new classes."""
    kwargs = {k: v for k, v in source.init_kwargs.items() if k != "n_classes"}
    out = MinedGenerator(n, source.n_classes, hidden, **kwargs)
    missing, unexpected = out.load_state_dict(source.state_dict(), strict=False)
    assert not unexpected and all(k.startswith("miner_") for k in missing), (missing, unexpected)
    return out


@torch.no_grad()
def discriminator_for(source: Discriminator, n: int) -> Discriminator:
    """`source` with n classes, all of which start at the mean of its rows."""
    out = Discriminator(**{**source.init_kwargs, "n_classes": n})
    state = {k: v for k, v in source.state_dict().items() if not k.startswith(f"{source.embed_name}.")}
    missing, unexpected = out.load_state_dict(state, strict=False)
    assert not unexpected and all(k.startswith("embed.") for k in missing), (missing, unexpected)
    out.embed.weight.copy_(source.classes.weight.mean(0).expand(n, -1))
    return out
