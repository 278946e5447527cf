# SPDX-License-Identifier: Apache-2.0
"""The images that a frozen auto-encoder makes of a cached set's latents, and what they are like."""

from __future__ import annotations

import math

import numpy as np
import torch

from gantransfer.data.dataset import ImageDataset
from gantransfer.latent.autoencoder import AutoEncoder
from gantransfer.latent.cache import Cache
from gantransfer.sampler import to_uint8


def floor_lines(cache: Cache, images: ImageDataset) -> list[str]:
    """What the reconstructions are like, in words."""
    if cache.recon is None:
        return []
    base = cache.flip == 0
    mse = cache.recon[base, 0].astype(np.float64)
    lines = [f"floor: reconstruction error {mse.mean():.4g} (mean squared, images in [-1, 1]), PSNR "
             f"{10 * math.log10(4 / max(mse.mean(), 1e-12)):.2f} dB, feature distance "
             f"{cache.recon[base, 1].mean():.4g} per image"]
    middle = np.median(mse)
    far = np.flatnonzero(mse > middle + 6 * np.median(np.abs(mse - middle)))
    if len(far):
        worst = far[np.argsort(-mse[far])][:5]
        names = ", ".join(f"{images.get_details(int(cache.index[base][i])).name} ({mse[i]:.3g})" for i in worst)
        lines.append(f"Warning: {len(far)} of {len(mse)} images are reproduced far worse than the rest: {names}")
    return lines


class Reconstructions:
    """A sampler of reconstructed images: seed k is image k (of the class asked for), counted round and round."""

    views, label_sets = ("image",), {}

    def __init__(self, cache: Cache, ae: AutoEncoder, images: ImageDataset, device: torch.device | str):
        self.spec, self.ae, self.device = images.spec, ae, device
        base = np.flatnonzero(cache.flip == 0)
        self.w = cache.w[base[np.argsort(cache.index[base])]]
        ids = images.class_ids
        self.members = None if ids is None else [np.flatnonzero(ids == k) for k in range(images.label_dim)]

    @torch.no_grad()
    def __call__(self, seeds, c=None, **kw):
        if self.members is None:
            rows = [s % len(self.w) for s in seeds]
        else:
            rows = [self.members[k][s % len(self.members[k])] for s, k in zip(seeds, c.argmax(1).tolist())]
        w = torch.from_numpy(self.w[rows].astype(np.float32)).to(self.device)
        return to_uint8(self.ae.decode(w))
