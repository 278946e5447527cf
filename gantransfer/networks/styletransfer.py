# SPDX-License-Identifier: Apache-2.0
"""cGANTransfer's scores and residuals on a class-conditional StyleGAN2.

What a class does in StyleGAN2 is to shift the styles of every modulated convolution. With P_l the shifts that layer l
gives the m old classes (columns, centred), a new class k gets in layer l

    s_l = A_l(w(z, mean label)) + P_l a_l[k] + R_l[k]

with learned scores a_l [m] and residual R_l. All published tensors stay as they are, so old classes do, too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from gantransfer.networks.stylegan2 import FullyConnectedLayer, Generator

SAMPLES = 1024  # latents behind a class's mean style


class TransferAffine(FullyConnectedLayer):
    """w [N, w_dim] with new-class labels behind it [N, w_dim + n] to styles; keys of the source's layer and
    `table` [channels, m], `scores` [m, n], `residual` [channels, n]."""

    def __init__(self, w_dim: int, channels: int, m: int, n: int):
        super().__init__(w_dim, channels, bias_init=1)
        self.w_dim = w_dim
        self.register_buffer("table", torch.zeros(channels, m))
        self.scores = nn.Parameter(torch.zeros(m, n))
        self.residual = nn.Parameter(torch.zeros(channels, n))

    def offsets(self) -> torch.Tensor:
        """[channels, n]: what each new class adds."""
        return self.table @ self.scores + self.residual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        w, t = x.split([self.w_dim, x.shape[1] - self.w_dim], 1)
        return super().forward(w) + t @ self.offsets().t()


class StyleTransferGenerator(Generator):
    """z [N, z_dim], c [N, new_dim] of new classes to images; `forward_old` takes labels [N, c_dim] of the source's.

    The synthesis network's `ws` carry the new class's label behind w: [N, num_ws, w_dim + new_dim].
    """

    def __init__(self, new_dim: int, **source: Any):
        super().__init__(**source)
        if self.c_dim < 2:
            raise ValueError("new classes are combinations of at least two old ones; the source has "
                             f"{self.c_dim or 'no'} class")
        self.init_kwargs = dict(self.init_kwargs, new_dim=new_dim)
        self.new_dim = new_dim
        for layer in self.style_layers():
            old = layer.affine
            layer.affine = TransferAffine(self.w_dim, old.weight.shape[0], self.c_dim, new_dim)
        self.synthesis.w_dim = self.w_dim + new_dim

    def style_layers(self) -> list[nn.Module]:
        blocks = [getattr(self.synthesis, f"b{res}") for res in self.synthesis.block_resolutions]
        return [layer for block in blocks for name, layer in block.named_children() if hasattr(layer, "affine")]

    def score_parameters(self) -> list[nn.Parameter]:
        return [layer.affine.scores for layer in self.style_layers()]

    def residual_parameters(self) -> list[nn.Parameter]:
        return [layer.affine.residual for layer in self.style_layers()]

    def map(self, z: torch.Tensor, c: torch.Tensor, **kw: Any) -> torch.Tensor:
        """ws of new classes: c [N, new_dim]."""
        if c.shape[1] != self.new_dim:
            raise ValueError(f"c [N, {self.new_dim}] expected, got {tuple(c.shape)}")
        mean = c.new_full([c.shape[0], self.c_dim], 1 / self.c_dim)
        ws = self.mapping(z, mean, **kw)
        return torch.cat([ws, c.to(ws.dtype).unsqueeze(1).expand(-1, self.num_ws, -1)], 2)

    def forward(self, z, c, *, truncation_psi=1, truncation_cutoff=None, update_w_avg=False, w_out=None,
                **synthesis_kwargs):
        ws = self.map(z, c, truncation_psi=truncation_psi, truncation_cutoff=truncation_cutoff,
                      update_w_avg=update_w_avg, w_out=w_out)
        return self.synthesis(ws, **synthesis_kwargs)

    def forward_old(self, z, c, *, truncation_psi=1, truncation_cutoff=None, **synthesis_kwargs):
        """The source's images."""
        ws = self.map_old(z, c, truncation_psi=truncation_psi, truncation_cutoff=truncation_cutoff)
        return self.synthesis(ws, **synthesis_kwargs)

    def map_old(self, z: torch.Tensor, c: torch.Tensor, **kw: Any) -> torch.Tensor:
        """ws of the source's classes: c [N, c_dim]."""
        ws = self.mapping(z, c, update_w_avg=False, **kw)
        return torch.cat([ws, ws.new_zeros(*ws.shape[:2], self.new_dim)], 2)

    @torch.no_grad()
    def extract(self) -> None:
        """Fill the tables from the old classes' mean styles."""
        device = self.mapping.embed.weight.device
        z = torch.randn(SAMPLES, self.mapping.z_dim, generator=torch.Generator().manual_seed(0)).to(device)
        rows = torch.eye(self.c_dim, device=device)
        w = torch.stack([self.mapping(z, row.expand(SAMPLES, -1), update_w_avg=False)[:, 0].mean(0) for row in rows])
        for layer in self.style_layers():
            s = FullyConnectedLayer.forward(layer.affine, w)  # [m, channels]
            layer.affine.table.copy_((s - s.mean(0)).t())


class NewClasses(nn.Module):
    """A view of such a generator for tools that know `mapping(z, c) -> ws` and `synthesis(ws)` only: of new classes."""

    def __init__(self, G: StyleTransferGenerator):
        super().__init__()
        self.G, self.z_dim, self.num_ws = G, G.z_dim, G.num_ws

    def mapping(self, z: torch.Tensor, c: torch.Tensor, **kw: Any) -> torch.Tensor:
        return self.G.map(z, c, update_w_avg=False, **kw)

    def synthesis(self, ws: torch.Tensor, **kw: Any) -> torch.Tensor:
        return self.G.synthesis(ws, **kw)


@torch.no_grad()
def extend(source: Generator, n: int) -> StyleTransferGenerator:
    """A generator with n new classes, at the source's mean class; the source stays as it is."""
    out = StyleTransferGenerator(n, **source.init_kwargs)
    missing, unexpected = out.load_state_dict(source.state_dict(), strict=False)
    assert not unexpected and all(k.endswith((".table", ".scores", ".residual")) for k in missing), unexpected
    out.extract()
    return out
