# SPDX-License-Identifier: Apache-2.0
"""What Mind2Mind reports: floor, baselines, distances of latents, the bypass, the bound, each against held-out latents.

Two spaces: latents in whitened coordinates, and what the source's discriminator sees of decoded images, which every
StyleGAN2 snapshot brings along.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from gantransfer.latent import gaussians
from gantransfer.latent.autoencoder import AutoEncoder
from gantransfer.latent.cache import Cache, LatentSet
from gantransfer.metrics.directions import HIGHER, LOWER, UNRATED
from gantransfer.metrics.fid import frechet_distance
from gantransfer.metrics.kid import mmd2_unbiased
from gantransfer.metrics.precision_recall import precision_recall
from gantransfer.networks.mindgan import CodeMapping, Critic
from torch_utils import distributed as dist
from torch_utils import random as rnd
from torch_utils.pixels import from_uint8

FLOOR = 1e-4  # variances below this share of the largest are taken to be this large
BYPASS = 0.2  # a residual above this is said aloud
BETTER = {
    **dict.fromkeys((r"floor_\w+", r"(latent|source)_fd_\w+", "bound_reconstruction", "bound_lipschitz"), UNRATED),
    "latent_fd": LOWER, "latent_kd": LOWER, "latent_precision": HIGHER, "latent_recall": HIGHER,
    "memorisation": HIGHER, "critic_gap_heldout": LOWER, r"class_mean_gap(_\w+)?": LOWER, "bypass_residual": LOWER,
    "source_fd": LOWER, "bound_latent_gap": LOWER, "bound_product": LOWER, "bound_sum": LOWER,
}  # of what `now` returns (gantransfer/metrics/directions.py); floors and baselines are the same all through a run


@dataclass
class Figures:
    """Measures of latents of one set. `start` holds what is known before training."""

    ae: AutoEncoder
    mappings: Mapping[str, CodeMapping]  # 'M': the averaged generator of codes; the baselines by their names
    critic: Critic
    train: LatentSet
    base: torch.Tensor  # [n, code_dim] codes of unmirrored training images
    base_ids: np.ndarray | None  # their classes
    heldout: torch.Tensor  # [m, code_dim]
    heldout_items: np.ndarray  # items of the data set
    seed: int
    device: torch.device
    wasserstein: bool  # whether the critic's score gap is a distance
    image_samples: int  # images behind the distances in the discriminator's features
    said: dict[str, Any] = field(default_factory=dict)  # what `say` told last

    def __post_init__(self) -> None:
        self.dataset, self.spec = self.train.data, self.train.spec
        self.mean, cov = gaussians.moments(self.base)
        vals, vecs = torch.linalg.eigh(cov)
        vals = vals.clamp(min=max(float(vals.max()) * FLOOR, 1e-12))
        self.white = vecs / vals.sqrt()
        self.deviation = cov.diagonal().clamp(min=0).sqrt().float().to(self.device)  # of each coordinate of the code
        self.samples = min(max(len(self.base), 256), 2048)
        self.reference = self.whitened(self.heldout if len(self.heldout) > 8 else self.base)
        # Decoding hundreds of large images on a CPU costs more than the training it would judge.
        self.images = self.image_samples if self.spec.size.longer <= 64 or self.device.type == "cuda" else 0
        self.start: dict[str, float] = {}

    @property
    def baselines(self) -> list[str]:
        return [name for name in self.mappings if name != "M"]

    # ---- samples ---------------------------------------------------------------------------------------------------

    def whitened(self, code: torch.Tensor) -> torch.Tensor:
        return (code.double().cpu() - self.mean) @ self.white

    def labels(self, n: int) -> torch.Tensor:
        """Labels of training images, equally spaced through the set."""
        rows = np.linspace(0, len(self.train) - 1, n).round().astype(np.int64)
        return torch.from_numpy(self.train.labels(rows)).to(self.device)

    def codes(self, name: str, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(codes, labels) of n samples of a mapping; always the same ones."""
        mapping, c = self.mappings[name], self.labels(n)
        z = rnd.randn([n, mapping.z_dim], rnd.step_generator(self.seed, 1, 0xF16)).to(self.device)
        return mapping.codes(mapping.to_prior(z), c), c

    def features_of_codes(self, codes: torch.Tensor) -> torch.Tensor:
        decode = self.mappings["M"].decode
        return torch.cat([self.ae.features(self.ae.synthesis(decode(part), noise_mode="const").clamp(-1, 1))
                          for part in codes.split(32)]).double().cpu()

    def features_of_items(self, items: np.ndarray) -> torch.Tensor:
        parts = [items[i:i + 32] for i in range(0, len(items), 32)]
        return torch.cat([self.ae.features(from_uint8(self.dataset.read(p).to(self.device)))
                          for p in parts]).double().cpu()

    # ---- figures ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def before(self, cache: Cache, rows: np.ndarray, to_code) -> dict[str, float]:
        """What can be said before training: the floor, the bound's fixed terms, the baselines. rows: cache row of each
        item of the data set."""
        out: dict[str, float] = {}
        if cache.recon is not None:
            recon = cache.recon[cache.flip == 0].astype(np.float64)
            out["floor_mse"], out["floor_feature_distance"] = recon[:, 0].mean(), recon[:, 1].mean()
            pixels = self.spec.channels * self.spec.size.pixels
            out["bound_reconstruction"] = np.sqrt(recon[:, 0] * pixels).mean()
        out["latent_fd_floor"] = frechet_distance(self.reference, self.whitened(self.base[: self.samples]))
        for name in self.baselines:
            out[f"latent_fd_{name}"] = frechet_distance(self.reference,
                                                         self.whitened(self.codes(name, self.samples)[0]))
        mixed = gaussians.neighbour_mix(self.base, self.samples, rnd.generator(self.seed))
        out["latent_fd_neighbours"] = frechet_distance(self.reference, self.whitened(mixed))
        if self.images:
            count = self.spec.num_images
            items = np.linspace(0, count - 1, min(count, self.images)).round().astype(np.int64)
            self.real_features = self.features_of_items(items)
            flat = torch.from_numpy(cache.w[rows[items]].astype(np.float32)).flatten(1).to(self.device)
            out["source_fd_floor"] = self._source_fd(to_code(flat))
            for name in self.baselines:
                out[f"source_fd_{name}"] = self._source_fd(self.codes(name, self.images)[0])
        out["bound_lipschitz"] = self.lipschitz(self.base[:8])
        self.start = {k: float(v) for k, v in out.items()}
        return self.start

    def _source_fd(self, codes: torch.Tensor) -> float:
        return frechet_distance(self.real_features, self.features_of_codes(codes))

    @torch.no_grad()
    def now(self) -> dict[str, float]:
        """All figures of the averaged generator as it is."""
        out = dict(self.start)
        codes, c = self.codes("M", self.samples)
        white, ref = self.whitened(codes), self.reference
        out["latent_fd"] = frechet_distance(ref, white)
        out["latent_kd"] = mmd2_unbiased(ref, white) if len(ref) > 1 else math.nan
        out["latent_precision"], out["latent_recall"] = (
            precision_recall(ref, white[: len(ref)], k=3) if len(ref) > 3 else (math.nan, math.nan))
        if len(self.heldout):
            out["memorisation"] = gaussians.memorisation(white[:512], self.whitened(self.base[:2048]), ref[:512])
            held = torch.from_numpy(self.dataset.labels(self.heldout_items)).to(self.device)
            out["critic_gap_heldout"] = float(self.critic(self.heldout, held).mean() - self.critic(codes, c).mean())
        if self.base_ids is not None:
            out |= self._classes(white, c.argmax(1).cpu().numpy())
        out["bypass_residual"] = self.bypass(codes[:64])
        if self.images:
            out["source_fd"] = self._source_fd(self.codes("M", self.images)[0])
        if self.wasserstein and len(self.heldout):
            # The critic has slope one in code units; a code unit is at most `stretch` latent units.
            m = self.mappings["M"]
            stretch = float(torch.linalg.matrix_norm(m.code_basis, 2) if m.dense else m.code_scale.abs().max())
            out["bound_latent_gap"] = max(out["critic_gap_heldout"], 0.0) * stretch
            out["bound_product"] = out["bound_lipschitz"] * out["bound_latent_gap"]
            if "bound_reconstruction" in out:
                out["bound_sum"] = out["bound_reconstruction"] + out["bound_product"]
        return out

    def _classes(self, white: torch.Tensor, ids: np.ndarray) -> dict[str, float]:
        label = self.spec.label
        gaps = gaussians.mean_gaps(self.whitened(self.base), white, self.base_ids, ids, label.dim)
        out = {"class_mean_gap": float(np.nanmean(gaps))}
        for group, members in label.shots.items():
            own = gaps[[k for k in members if k < len(gaps)]]
            if len(own) and np.isfinite(own).any():
                out[f"class_mean_gap_{group}"] = float(np.nanmean(own))
        return out | {f"class_mean_gap_{k}": float(v) for k, v in enumerate(gaps[:100]) if np.isfinite(v)}

    def bypass(self, codes: torch.Tensor) -> float:
        """|c0(g0(w)) - w| / |w - mean| of generated w: how far the critic's shortcut past the decoder is from true."""
        m = self.mappings["M"]
        w = m.decode(codes)[:, : self.ae.slots]
        again = torch.cat([self.ae.encode(self.ae.decode(part).clamp(-1, 1)) for part in w.split(32)])
        away = (w - m.w_avg.reshape(1, -1, self.ae.w_dim)).flatten(1).norm(dim=1)
        return float(((again - w).flatten(1).norm(dim=1) / away.clamp(min=1e-12)).mean())

    def lipschitz(self, codes: torch.Tensor, rounds: int = 3) -> float:
        """Largest stretch |g0(w + e v) - g0(w)| / |e v| found by power iteration at some latents: a lower estimate of
        the decoder's Lipschitz constant there, images in [-1, 1] as vectors, latents as they are."""
        w = self.mappings["M"].decode(codes)[:, : self.ae.slots].detach()
        v = rnd.randn(list(w.shape), torch.Generator().manual_seed(0)).to(self.device)
        best = torch.zeros(len(w), device=self.device)
        for _ in range(rounds):
            v = v / v.flatten(1).norm(dim=1)[:, None, None]
            eps = 1e-2 * w.flatten(1).norm(dim=1).mean()
            at = w.clone().requires_grad_(True)
            with torch.enable_grad():
                y = self.ae.decode(at)
            push = (self.ae.decode(w + eps * v) - y.detach()) / eps
            best = torch.maximum(best, push.flatten(1).norm(dim=1))
            with torch.enable_grad():  # `push` given to autograd would import sympy, which takes a second
                along = (y * push).sum()
            (v,) = torch.autograd.grad(along, at)
        return float(best.max())

    def say(self, out: Mapping[str, float]) -> None:
        """Print what must not be overlooked, when it begins or changes: the figures come with every snapshot."""
        far = out["bypass_residual"] > BYPASS
        if far and not self.said.get("bypass"):
            dist.print0(f"Warning: generated latents change by {out['bypass_residual']:.2f} of their distance to the "
                        f"mean when they are decoded and encoded again; the critic judges them where it knows little")
        self.said["bypass"] = far
        for space in ("source_fd", "latent_fd"):
            names = [f"{space}_{b}" for b in self.baselines]
            if space in out and names and math.isfinite(out[space]):
                best = min(names, key=lambda k: out[k])
                verdict = "below" if out[space] < out[best] else "NOT below"
                if self.said.get(space) != verdict:
                    dist.print0(f"{space} {out[space]:.4g} is {verdict} {best.removeprefix(space + '_')} "
                                f"{out[best]:.4g} (floor {out[f'{space}_floor']:.4g})")
                self.said[space] = verdict
