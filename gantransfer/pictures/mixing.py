# SPDX-License-Identifier: Apache-2.0
"""Style mixing: images with some layers' styles of one seed and the others of another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from tqdm import tqdm

from dnnlib import seeding
from dnnlib.util import UserError
from gantransfer.sampler import Sampler, to_uint8
from torch_utils import random as rnd


@torch.no_grad()
def mixing_sheet(sampler: Sampler, rows: Sequence[int], cols: Sequence[int], layers: Sequence[int] | None = None,
                 c: torch.Tensor | None = None, batch: int = 16, psi: float = 1, noise_mode: str = "const",
                 center: str = "global") -> np.ndarray:
    """uint8 [(1 + rows) * (1 + cols), C, H, W]: image (i, j) has the styles `layers` of seed cols[j], the others of
    rows[i]; the first row and column show the seeds themselves. layers None: the lower half, at most 0 to 6.

    c: label [1, label_dim] of all images, None if unconditional. Raises UserError for layers that do not exist.
    """
    G = sampler.network
    if G is None:
        raise UserError("style mixing needs a style-based generator, and this model has none")
    layers = list(range(min(G.num_ws // 2, 7))) if layers is None else list(layers)
    if not layers or not 0 <= min(layers) <= max(layers) < G.num_ws:
        raise UserError(f"--mix-layers: the model has layers 0 to {G.num_ws - 1}")
    seeds = list(dict.fromkeys([*rows, *cols]))
    z = torch.from_numpy(np.stack([seeding.numpy_rng(s).randn(G.z_dim) for s in seeds])).float().to(sampler.device)
    c = torch.zeros([1, 0]) if c is None else c
    c = c.to(sampler.device).expand(len(seeds), -1)
    own = dict(zip(seeds, sampler.styles_at(z, sampler.class_vectors(c), truncation_psi=psi, truncation_center=center)))
    ws, noise_seeds = [own[s] for s in cols], list(cols)
    for r in rows:
        ws.append(own[r])
        for s in cols:
            mixed = own[r].clone()
            mixed[layers] = own[s][layers]
            ws.append(mixed)
        noise_seeds += [r] * (1 + len(cols))
    images = []
    for i in tqdm(range(0, len(ws), batch), desc="mixing"):
        rng = rnd.SeedStack(noise_seeds[i : i + batch])
        x = sampler.render(torch.stack(ws[i : i + batch]), noise_mode=noise_mode, rng=rng)
        images.append(to_uint8(x).cpu().numpy())
    corner = np.full((1, *images[0].shape[1:]), 255, np.uint8)
    return np.concatenate([corner, *images])
