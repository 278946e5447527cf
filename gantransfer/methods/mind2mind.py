# SPDX-License-Identifier: Apache-2.0
"""Mind2Mind (Fregier and Gouray, "Mind2Mind: transfer learning for GANs", GSI 2021): a small GAN of latents.

A frozen auto-encoder (encoder c0, decoder g0) of a source domain encodes each target image once. A small generator M
and a critic K are trained on these latents (WGAN-GP); images are g0(M(z)). M takes the place of the decoder's mapping
network, so a snapshot is an ordinary generator. What g0(c0(x)) cannot reproduce, no M can: that is the floor.

    W(P, g0#Q) <= E|x - g0(c0(x))| + Lip(g0) W(c0#P, Q)

`--mind_preset=paper` computes as the published loop: raw latents, one batch for all critic steps, no averaging.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from dnnlib.util import UserError, sole_writer
from gantransfer import method, sampler, snapshot
from gantransfer.data.dataset import DataSpec, ImageDataset
from gantransfer.latent import autoencoder, gaussians
from gantransfer.latent import cache as latents
from gantransfer.latent.cache import LatentSet
from gantransfer.latent.figures import BETTER, FLOOR, Figures
from gantransfer.losses.penalties import squared_gradient
from gantransfer.method import Batch, Phase, RunConfig, option
from gantransfer.metrics.directions import UNRATED
from gantransfer.networks import mindgan
from torch_utils import distributed as dist
from torch_utils import ema, optimizers
from torch_utils import random as rnd

PRESETS: dict[str, dict[str, Any]] = {
    "default": dict(normalize="std", mind_prior="normal", reuse_batch=False, ema_kimg=10.0, label_dropout=0.1,
                    mind_heldout=0.1, latent_aug=None),
    "paper": dict(normalize="none", mind_prior="uniform", reuse_batch=True, ema_kimg=0.0, label_dropout=0.0,
                  mind_heldout=0.0, latent_aug="none"),
}
LOSSES = ("wgan-gp", "nonsat-r1")
NORMALISATIONS = ("std", "whiten", "scalar", "none")
BASELINES = ("gaussian", "class_gaussian")
SMALL = 2000  # sets below this size get latent augmentation
JITTER = 0.05  # of a whitened coordinate
MOST = 1 << 24  # numbers in the class-wise Gaussian's covariances


@dataclass
class Mind2MindOptions(method.Options):
    mind_preset: str = option("default", "default, or paper: as published", choices=tuple(PRESETS))
    cache: str | None = option(None, "Latents of --data (default: beside the set; encoded now if missing)",
                               metavar="FILE")
    cache_override: bool = option(False, "Take a latent cache of other images or another auto-encoder as it is")
    accept_encoder: bool = option(False, "Take an encoder that missed its acceptance figures")
    z_dim: int | None = option(None, "Length of the input latent (default 128)", type=int, low=1)
    hidden_g: str | None = option(None, "Hidden widths of the latent generator (default 128,256,512); none = linear",
                                  metavar="LIST")
    hidden_d: str | None = option(None, "Hidden widths of the latent critic (default 512,256,128); none = linear",
                                  metavar="LIST")
    mind_loss: str = option("wgan-gp", "Loss of the latent GAN", choices=LOSSES)
    n_critic: int = option(5, "Critic steps per generator step", low=1)
    gp: float = option(10.0, "Weight of the gradient penalty", low=0)
    drift: float = option(0.01, "Weight of the real scores' squares", low=0)
    gamma: float | None = option(None, "R1 weight (with nonsat-r1; default 1)", type=float, low=0)
    glr: float | None = option(None, "Generator learning rate (default 0.001)", type=float, low=0)
    dlr: float | None = option(None, "Critic learning rate (default 0.001)", type=float, low=0)
    betas: str = option("0,0.5", "Adam's betas of both networks", metavar="A,B")
    ema_kimg: float | None = option(None, "Half-life of the averaged generator (default 10; 0 = none)", type=float,
                                    low=0)
    epochs: float | None = option(None, "Length of the run in passes over the latents (default 300), in place of "
                                  "--kimg", type=float, low=0)
    normalize: str | None = option(None, "Latents are standardised per coordinate, whitened, by one scale, or raw",
                                   choices=NORMALISATIONS)
    mind_prior: str | None = option(None, "Distribution of z in the latent generator", choices=mindgan.PRIORS)
    reuse_batch: bool | None = option(None, "All critic steps of an iteration see the same latents", type=bool)
    components: int = option(512, "With a latent per layer: principal components the generator makes", low=1)
    label_dropout: float | None = option(None, "Share of labels left out, so that one network also makes unlabelled "
                                         "images (default 0.1)", type=float, low=0, high=1)
    label_sigma: float | None = option(None, "Float-vector labels: deviation of the vicinity (default: by the number "
                                       "of images)", type=float, low=0)
    class_offsets: bool = option(True, "A code per class is added to the shared network; it starts at the class's "
                                 "shrunken mean")
    offset_decay: float = option(0.0, "Weight of the squared class codes", low=0)
    moment_weight: float = option(0.0, "Weight of the distance to the classes' shrunken means", low=0)
    moment_kappa: float = option(50.0, "Images' worth of the common mean in a class's mean", low=0)
    latent_aug: str | None = option(None, "Jitter and mixing of latents: none, fixed, adaptive (default: adaptive "
                                    "below 2000 images)", choices=("none", "fixed", "adaptive"))
    p: float | None = option(None, "Its probability, with fixed", type=float, low=0, high=1)
    target: float | None = option(None, "Target of adaptive augmentation (default 0.2 of the score gap; 0.6 with "
                                  "nonsat-r1)", type=float, low=0, high=1)
    ada_kimg: float | None = option(None, "kimg in which p may move by one (default 50)", type=float, low=0.001)
    mind_heldout: float | None = option(None, "Share of the images kept from training to measure with (default 0.1, at "
                                   "most 1000)", type=float, low=0, high=0.5)


@dataclass
class Draws:
    """The random inputs of one loss evaluation."""

    z: torch.Tensor  # [n, z_dim] in the units of the prior
    c: torch.Tensor  # [n, label_dim]
    keep: torch.Tensor | None = None  # [n, 1]: 0 = the label is left out
    t: torch.Tensor | None = None  # [n, 1] place between real and generated
    aug: dict[str, torch.Tensor] | None = None


def widths(text: str | None, default: tuple[int, ...], flag: str) -> list[int]:
    """'128,256' -> [128, 256]; 'none' -> []. UserError naming the flag."""
    if text is None:
        return list(default)
    if text.strip() in ("", "none"):
        return []
    try:
        out = [int(v) for v in text.split(",")]
    except ValueError:
        out = [0]
    if not 1 <= min(out) <= max(out) < 2**31:
        raise UserError(f"--{flag}={text} is not a list of widths, such as 128,256,512, or none")
    return out


class Mind2Mind(method.Method):
    name = "mind2mind"
    better = {**BETTER, "overfit": UNRATED, r"seconds_\w+": UNRATED}
    Options: ClassVar[type[method.Options]] = Mind2MindOptions
    steps_per_measure = 16  # steps between two looks at the overfitting
    image_samples = 512  # images behind the distances in the discriminator's features

    # ---- options ---------------------------------------------------------------------------------------------------

    @classmethod
    def resolve(cls, o: Mind2MindOptions, run: RunConfig, data: DataSpec) -> None:
        method.fill(o, **PRESETS[o.mind_preset], z_dim=128, glr=1e-3, dlr=1e-3)
        if o.gamma is not None and o.mind_loss != "nonsat-r1":
            raise UserError("--gamma belongs to --mind_loss=nonsat-r1; wgan-gp has --gp")
        method.fill(o, gamma=1.0)
        widths(o.hidden_g, (), "hidden_g"), widths(o.hidden_d, (), "hidden_d")
        parse_betas(o.betas)
        items = data.num_images * (2 if data.xflip else 1)
        if items < 2:
            raise UserError(f"{data.path or data.name} has {items} image; Mind2Mind needs at least 2")
        method.fill(o, latent_aug="adaptive" if data.num_images < SMALL else "none")
        if o.latent_aug == "fixed" and o.p is None:
            raise UserError("--latent_aug=fixed needs --p, the probability of each augmentation")
        if o.latent_aug != "fixed" and o.p is not None:
            raise UserError("--p belongs to --latent_aug=fixed")
        if o.latent_aug == "adaptive":
            method.fill(o, target=0.6 if o.mind_loss == "nonsat-r1" else 0.2, ada_kimg=50.0)
        elif o.target is not None:
            raise UserError("--target belongs to --latent_aug=adaptive")
        train = items - 2 * heldout_count(o, data) if data.xflip else items - heldout_count(o, data)
        batch = run.batch
        if batch is not None and batch > train:
            raise UserError(f"--batch={batch} is more than the {train} latents of {data.path or data.name} that are "
                            f"trained on; give at most --batch={train}")
        if batch is None:
            batch = min(128, 2 ** int(math.log2(train)))
            batch = max(batch // run.num_procs * run.num_procs, run.num_procs)
        if run.kimg is not None and o.epochs is not None:
            raise UserError("--epochs and --kimg both say how long to train; give one of them")
        kimg = (300.0 if o.epochs is None else o.epochs) * train / 1000 if run.kimg is None else run.kimg
        if not kimg:
            raise UserError("--epochs=0 trains nothing")
        method.resolve_schedule(run, batch=batch, kimg=kimg, tick=max(kimg / 50, batch / 1000), snap=10)
        method.fill(run, metrics="none")
        if data.label.kind == "none":
            o.label_dropout = 0.0
        if data.label.kind != "class":
            o.class_offsets = False
            if o.moment_weight:
                raise UserError("--moment_weight needs classes; give --cond=True and a data set with class labels")

    @classmethod
    def run_name(cls, o: Mind2MindOptions, given: dict[str, Any], run: RunConfig, data: DataSpec) -> str:
        d = f"{data.name}-{cls.name}" + ("-cond" if data.label.dim else "")
        d += f"-subset{data.max_size}" if given.get("subset") is not None else ""
        d += "-mirror" if data.xflip else ""
        d += "-paper" if o.mind_preset == "paper" else ""
        return d + method.said(given, "kimg", "epochs", "batch", "mind_loss", "normalize")

    @classmethod
    def check_source(cls, o: Mind2MindOptions, data: DataSpec, source: snapshot.Snapshot | None, stage: str) -> None:
        if source is None:
            raise UserError("--method=mind2mind needs --source=SNAPSHOT with an encoder: of --method=encoder, or an "
                            "ALAE")
        ae = autoencoder.load(source)
        autoencoder.check_images(ae, data)
        if not ae.accepted and not o.accept_encoder:
            raise UserError(f"the source's encoder missed its acceptance figure (relative latent error "
                            f"{ae.figures.get('latent_error', math.nan):.3g}, wanted below 0.1); train it longer, or "
                            f"take it knowingly with --accept_encoder=True")

    # ---- networks --------------------------------------------------------------------------------------------------

    def __init__(self, opts, data, run, start=method.FRESH, stage=None):
        super().__init__(opts, data, run, start, stage)
        self.continued, source = start.continues, start.networks
        self.ae = ae = autoencoder.load(source, self.device)
        flat, c_dim, kind = ae.slots * ae.w_dim, data.label.dim, data.label.kind
        dense = ae.slots > 1 or opts.normalize == "whiten"
        # With a latent per layer there are far more numbers than images; the generator makes the leading components.
        self.code_dim = min(opts.components, flat, max(data.num_images - 1, 1)) if ae.slots > 1 else flat
        layout = dict(slots=ae.slots, code_dim=self.code_dim, dense=dense)
        mapping = dict(z_dim=opts.z_dim, c_dim=c_dim, hidden=widths(opts.hidden_g, (128, 256, 512), "hidden_g"),
                       prior=opts.mind_prior, kind=kind, offsets=opts.class_offsets, **layout)
        hidden = widths(opts.hidden_d, (512, 256, 128), "hidden_d")
        if c_dim and not hidden:
            raise UserError("--hidden_d=none leaves a critic with labels without features; give at least one width")
        G = mindgan.MindGenerator(mapping, ae.spec)
        G.synthesis.load_state_dict(ae.synthesis.state_dict())
        self.nets = {"M": mindgan.MindMapping(w_dim=ae.w_dim, num_ws=ae.num_ws, **mapping),
                     "K": mindgan.Critic([self.code_dim, *hidden, 1], c_dim, kind), "G_ema": G.eval(), **ae.records()}
        G.mapping.load_state_dict(self.nets["M"].state_dict())
        base = dict(c_dim=c_dim, w_dim=ae.w_dim, num_ws=ae.num_ws, **layout)
        self.nets["gaussian"] = mindgan.GaussianMapping(**base)
        if kind == "class" and c_dim > 1:
            self.nets["class_gaussian"] = mindgan.GaussianMapping(
                **base, classes=c_dim, shared=c_dim * self.code_dim**2 > MOST)
        if self.continued:
            for name in self.nets:
                self.nets[name].load_state_dict(source.nets[name].state)
        elif source.method == self.name:
            self._warm_start(source)
        for net in self.nets.values():
            net.to(self.device)
        self.M, self.K, self.G_ema = self.nets["M"], self.nets["K"], self.nets["G_ema"]
        self.p = float(opts.p or 0)
        self.steps, self.seconds, self.started = 0, dict(encode=0.0, train=0.0, evaluate=0.0), None
        self.overfit = math.nan
        self.figures: Figures | None = None
        self.heldout = torch.zeros(0, self.code_dim)
        self.class_means = self.sigma = None  # of labels; set with the latents

    def _warm_start(self, source: snapshot.Snapshot) -> None:
        """From a snapshot of this method with the same sizes the networks go on; otherwise they start anew."""
        for name in ("M", "K"):
            state, mine = source.nets[name].state, self.nets[name].state_dict()
            if {k: tuple(t.shape) for k, t in state.items()} != {k: tuple(t.shape) for k, t in mine.items()}:
                return
        for name in ("M", "K"):
            self.nets[name].load_state_dict(source.nets[name].state)
        self.nets["G_ema"].mapping.load_state_dict(source.nets["M"].state)
        dist.print0("M and K go on from the source's")

    # ---- latents ---------------------------------------------------------------------------------------------------

    def prepare(self, dataset: ImageDataset) -> LatentSet:
        """Latents of the training images, encoded now if no cache is there; held-out ones are kept apart."""
        whole = latents.whole_set(dataset.spec.path)
        cache = self._cache(dataset, whole)
        rows = latents.rows_for(cache, dataset, whole)
        w = cache.w[rows].astype(np.float32)
        flat = torch.from_numpy(w.reshape(len(w), -1))
        n = dataset.spec.num_images
        held = heldout_items(self.opts, dataset)
        keep = np.setdiff1d(np.arange(n), held)
        items = np.concatenate([keep, keep + n]) if dataset.xflip else keep
        if len(items) < self.run.batch:
            raise UserError(f"--batch={self.run.batch} is more than the {len(items)} latents that are trained on; give "
                            f"at most --batch={len(items)}")
        if not self.continued:
            self._fit_codes(flat[torch.from_numpy(keep)])
        codes = self.to_code(flat.to(self.device))
        self.heldout, self.heldout_items, self.dataset = codes[torch.from_numpy(held)], held, dataset
        self.train = LatentSet(dataset, items, codes[torch.from_numpy(items)].contiguous())
        self.base_ids = None if dataset.class_ids is None else dataset.class_ids[keep]
        self.base = codes[torch.from_numpy(keep)]
        self._fit_classes(dataset)
        if not self.continued:
            self._start_from_classes()
        self._measure_start(cache, rows)
        return self.train

    def _measure_start(self, cache: latents.Cache, rows: np.ndarray) -> None:
        began = time.perf_counter()
        mappings = {"M": self.G_ema.mapping, **{k: self.nets[k] for k in BASELINES if k in self.nets}}
        self.figures = Figures(
            ae=self.ae, mappings=mappings, critic=self.K, train=self.train, base=self.base, base_ids=self.base_ids,
            heldout=self.heldout, heldout_items=self.heldout_items, seed=self.run.seed, device=self.device,
            wasserstein=self.opts.mind_loss == "wgan-gp", image_samples=self.image_samples)
        start = self.figures.before(cache, rows, self.to_code)
        self.seconds["evaluate"] += time.perf_counter() - began
        dist.print0("Before training: " + ", ".join(f"{k} {v:.4g}" for k, v in start.items()))

    def _cache(self, dataset: ImageDataset, whole: ImageDataset) -> latents.Cache:
        path = Path(self.opts.cache) if self.opts.cache else latents.default_path(dataset.spec.path)
        if dist.is_main() and _unusable(path):
            with sole_writer(path, wait=True):  # two runs on one set share the work of the first
                why = _unusable(path)
                if why:
                    print(f"{why}: encoding {len(whole)} images now "
                          f"(gantransfer encode does that on its own, with progress)")
                    latents.encode(whole, self.ae, path, flips=dataset.xflip, device=self.device)
        dist.barrier()
        cache = latents.read(path)
        for line in cache.check(self.ae, whole, self.opts.cache_override):
            dist.print0(f"Warning: {path}: {line}; taken as it is (--cache_override)")
        self.seconds["encode"] = float(cache.config.get("seconds", 0))
        return cache

    def _fit_codes(self, flat: torch.Tensor) -> None:
        """Set the affine map between codes and latents from latents [n, slots * w_dim]."""
        x = flat.double()
        mean = x.mean(0)
        kind, dense = self.opts.normalize, self.M.dense
        if dense:
            vals, vecs = torch.linalg.eigh((x - mean).t() @ (x - mean) / len(x))
            vals, vecs = vals.flip(0)[: self.code_dim], vecs.flip(1)[:, : self.code_dim]
            scale = self._scale(kind, vals)
            tensors = {"code_mean": mean, "code_basis": (vecs * scale).t()}
        else:
            scale = self._scale(kind, (x - mean).square().mean(0))
            tensors = {"code_mean": torch.zeros_like(mean) if kind == "none" else mean, "code_scale": scale}
        average = mean.reshape(self.ae.slots, -1)
        tensors["w_avg"] = average[0] if self.ae.slots == 1 else average
        for mapping in self._mappings():
            for key, value in tensors.items():
                getattr(mapping, key).copy_(value)

    @staticmethod
    def _scale(kind: str, variances: torch.Tensor) -> torch.Tensor:
        if kind == "none":
            return torch.ones_like(variances)
        if kind == "scalar":
            return variances.clamp(min=0).mean().clamp(min=1e-12).sqrt().expand_as(variances)
        return variances.clamp(min=max(float(variances.max()) * FLOOR, 1e-12)).sqrt()

    def _mappings(self) -> list[mindgan.CodeMapping]:
        return [self.M, self.G_ema.mapping, *(self.nets[k] for k in BASELINES if k in self.nets)]

    def to_code(self, flat: torch.Tensor) -> torch.Tensor:
        """[N, slots * w_dim] -> [N, code_dim]: the inverse of `CodeMapping.decode` (a projection if dimensions are
        left out)."""
        m = self.M
        if m.dense:
            basis = m.code_basis.double()
            back = basis / basis.square().sum(1, keepdim=True)
            return ((flat.double() - m.code_mean) @ back.t()).float()
        return (flat - m.code_mean) / m.code_scale

    def _fit_classes(self, dataset: ImageDataset) -> None:
        """Shrunken class means, and the vicinity of float-vector labels."""
        label = self.data.label
        self.class_means = self.sigma = None
        if label.kind == "class":
            self.class_means = gaussians.shrunken_means(self.base, self.base_ids, label.dim,
                                                        self.opts.moment_kappa)
        if label.kind == "value":
            values = torch.from_numpy(dataset.labels(np.arange(dataset.spec.num_images)))
            rule = values.std(0) * (4 / (3 * len(values))) ** 0.2  # Silverman's rule of thumb
            self.sigma = (rule if self.opts.label_sigma is None else torch.full_like(rule, self.opts.label_sigma)).to(
                self.device)

    @torch.no_grad()
    def _start_from_classes(self) -> None:
        if self.opts.class_offsets:
            offset = self.class_means - self.base.mean(0)
            for mapping in (self.M, self.G_ema.mapping):
                mapping.offset.copy_(offset)
        for name in BASELINES:
            if name in self.nets:
                net = self.nets[name]
                means, factors = gaussians.gaussian_factors(self.base, self.base_ids, net.classes)
                if len(net.factor) != len(factors):
                    own = self.base - means[torch.from_numpy(self.base_ids)].to(self.base)
                    factors = gaussians.gaussian_factors(own, None, 1)[1]
                net.mean.copy_(means), net.factor.copy_(factors)

    # ---- phases ----------------------------------------------------------------------------------------------------

    def phases(self) -> list[Phase]:
        o = self.opts
        betas = parse_betas(o.betas)

        def adam(net: nn.Module, lr: float) -> torch.optim.Optimizer:
            return optimizers.Adam(net.parameters(), lr=lr, betas=betas, fused=True)

        return [Phase("critic", list(self.K.parameters()), adam(self.K, o.dlr), repeat=o.n_critic,
                      reuse=bool(o.reuse_batch)),
                Phase("map", list(self.M.parameters()), adam(self.M, o.glr))]

    def draw(self, phase: str, batch: Batch) -> Draws:
        """The random inputs of one micro-batch: z, then t."""
        o, n, rng = self.opts, len(batch.x), batch.rng
        z = rnd.rand([n, o.z_dim], rng, self.device) * 2 - 1 if o.mind_prior == "uniform" else rnd.randn(
            [n, o.z_dim], rng, self.device)
        d = Draws(z=z, c=batch.c if phase == "critic" else batch.draw_c(n))
        if phase == "critic" and o.mind_loss == "wgan-gp":
            d.t = rnd.rand([n, 1], rng, self.device)
        if o.label_dropout:
            d.keep = (rnd.rand([n, 1], rng, self.device) >= o.label_dropout).float()
        if self.sigma is not None:
            # A label moved by noise, real or generated: an image counts in the vicinity of its label.
            d.c = d.c + rnd.randn(list(d.c.shape), rng, self.device) * self.sigma
        if self.p > 0:
            d.aug = dict(jitter=rnd.randn([n, self.code_dim], rng, self.device),
                         where=rnd.rand([n, 2], rng, self.device), share=rnd.rand([n, 1], rng, self.device),
                         order=rnd.rand([n], rng, self.device))
        return d

    def loss(self, phase: str, batch: Batch) -> Iterator[torch.Tensor]:
        if self.started is None:
            self.started = time.perf_counter()
        yield getattr(self, f"{phase}_loss")(batch, self.draw(phase, batch))

    def critic_loss(self, batch: Batch, d: Draws) -> torch.Tensor:
        """[n, 1]: K(fake) - K(real) + drift K(real)^2 + gp (|dK/dw| - 1)^2 between them; or softplus with R1."""
        o = self.opts
        with torch.no_grad():
            fake = self.M.codes(d.z, d.c, d.keep)
        real, fake = self.augmented(batch.x, d), self.augmented(fake, d)
        if o.mind_loss == "nonsat-r1":
            real = real.detach().requires_grad_(True)
        keep = None if d.keep is None else d.keep.repeat(2, 1)
        k_real, k_fake = self.K(torch.cat([real, fake]), d.c.repeat(2, 1), keep).chunk(2)
        self.report("Loss/scores/real", k_real)
        self.report("Loss/scores/fake", k_fake)
        if o.mind_loss == "nonsat-r1":
            penalty = squared_gradient(k_real, real)[:, None] * (o.gamma / 2)
            loss = F.softplus(k_fake) + F.softplus(-k_real) + penalty
        else:
            grad = self.K.input_gradient((d.t * real + (1 - d.t) * fake).detach(), d.c, d.keep)
            penalty = (grad.square().sum(1, keepdim=True).sqrt() - 1).square() * o.gp
            loss = k_fake - k_real + o.drift * k_real.square() + penalty
            self.report("Loss/wasserstein", k_real - k_fake)
        self.report("Loss/penalty", penalty)
        self.report("Loss/critic", loss)
        return loss

    def map_loss(self, batch: Batch, d: Draws) -> torch.Tensor:
        """[n, 1]: -K(M(z)), or softplus of it."""
        o = self.opts
        code = self.M.codes(d.z, d.c, d.keep)
        score = self.K(self.augmented(code, d), d.c, d.keep)
        loss = F.softplus(-score) if o.mind_loss == "nonsat-r1" else -score
        self.report("Loss/map", loss)
        if o.moment_weight:
            loss = loss + o.moment_weight * self.moment_gap(code, d)
        if o.offset_decay and o.class_offsets:
            loss = loss + o.offset_decay * self.M.offset.square().sum(1).mean()
        return loss

    def moment_gap(self, code: torch.Tensor, d: Draws) -> torch.Tensor:
        """Squared distance of each class's generated mean to its shrunken mean, averaged over the batch's images."""
        c = d.c if d.keep is None else d.c * d.keep
        c, code = dist.gather_rows(c), dist.gather_rows(code)
        count = c.sum(0)
        means = (c.t() @ code) / count.clamp(min=1)[:, None]
        gaps = (means - self.class_means.to(code)).square().sum(1)
        return (gaps * count).sum() / count.sum().clamp(min=1)

    def augmented(self, code: torch.Tensor, d: Draws) -> torch.Tensor:
        """Jitter, and mixing with another code of the same label; each with probability p."""
        if d.aug is None:
            return code
        # Partners are found in the whole batch, or a rare class would have them on one process only.
        partner = dist.own_rows(self._partners(dist.gather_rows(d.c), dist.gather_rows(d.aug["order"])))
        share = torch.where(d.aug["where"][:, :1] < self.p, d.aug["share"] / 2, 0.0)
        code = torch.lerp(code, dist.gather_rows(code)[partner], share)
        jitter = d.aug["jitter"] * self.figures.deviation
        return code + torch.where(d.aug["where"][:, 1:] < self.p, JITTER, 0.0) * jitter

    def _partners(self, c: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
        """For each sample another one of its class (itself if there is none): the next in a random order, in a ring.
        c: labels [n, label_dim]; order: uniform numbers [n]."""
        n = len(order)
        label = c.argmax(1) if self.data.label.kind == "class" else torch.zeros(n, dtype=torch.int64,
                                                                               device=order.device)
        if self.data.label.kind == "value":
            return torch.arange(n, device=order.device)
        order = torch.argsort(label.double() + order.double() * 0.999)
        ring = label[order]
        first = torch.searchsorted(ring, ring)
        last = torch.searchsorted(ring, ring, right=True)
        at = torch.arange(n, device=order.device)
        out = torch.empty_like(order)
        out[order] = order[torch.where(at + 1 < last, at + 1, first)]
        return out

    def end_step(self, cur_nimg: int, batch_size: int) -> None:
        o = self.opts
        ema.step(self.G_ema.mapping.parameters(), self.M.parameters(), ema.decay(batch_size, o.ema_kimg))
        self.steps += 1
        if o.latent_aug == "adaptive" and self.steps % self.steps_per_measure == 0:
            self._adapt(batch_size * self.steps_per_measure)
        if self.started is not None:
            self.seconds["train"] += time.perf_counter() - self.started
            self.started = None

    @torch.no_grad()
    def _adapt(self, images: int) -> None:
        """Move p so that the critic's advantage on its training latents stays near the target."""
        o, rng = self.opts, rnd.step_generator(self.run.seed, self.steps, 0xADA)
        rows = torch.randint(len(self.train), [256], generator=rng).numpy()
        c = torch.from_numpy(self.train.labels(rows)).to(self.device)
        k_train = self.K(self.train.read(rows), c).mean()
        if o.mind_loss == "nonsat-r1":
            self.overfit = float(self.K(self.train.read(rows), c).sign().mean())
        elif len(self.heldout):
            held = torch.from_numpy(self.dataset.labels(self.heldout_items)).to(self.device)
            z = self.M.to_prior(rnd.randn([256, o.z_dim], rng).to(self.device))
            gap = float(k_train - self.K(self.M.codes(z, c), c).mean())
            lead = float(k_train - self.K(self.heldout, held).mean())
            self.overfit = lead / gap if abs(gap) > 1e-12 else math.nan
        if math.isfinite(self.overfit):
            step = math.copysign(images / (o.ada_kimg * 1000), self.overfit - o.target)
            self.p = min(max(self.p + step, 0.0), 0.8)  # above, what is mixed leaks into what is made

    def state(self) -> dict[str, Any]:
        # `accepted` and `acceptance` are the encoder's, which a continued run finds where the source has them.
        return dict(p=self.p, steps=self.steps, seconds=self.seconds, overfit=self.overfit, accepted=self.ae.accepted,
                    acceptance=self.ae.figures)

    def load_state(self, s: dict[str, Any]) -> None:
        self.p, self.steps, self.seconds, self.overfit = s["p"], s["steps"], dict(s["seconds"]), s["overfit"]

    def progress(self) -> dict[str, float]:
        return {"augment": self.p}

    @torch.no_grad()
    def evaluate(self, cur_nimg: int) -> dict[str, float]:
        """Figures of the averaged generator (mind_figures.py), and the seconds spent."""
        began = time.perf_counter()
        out = self.figures.now()
        if math.isfinite(self.overfit):
            out["overfit"] = self.overfit
        self.seconds["evaluate"] += time.perf_counter() - began
        out |= {f"seconds_{k}": round(v, 3) for k, v in self.seconds.items()}
        self.figures.say(out)
        return {k: float(v) for k, v in out.items()}

    # ---- sampling --------------------------------------------------------------------------------------------------

    def sampler(self) -> sampler.Sampler:
        return self.sampler_of(self.G_ema, self.data, self.device, bool(self.opts.label_dropout))

    @classmethod
    def sampler_from(cls, snap: snapshot.Snapshot, device: torch.device | str = "cpu") -> sampler.Sampler:
        if "G_ema" not in snap.nets:
            raise UserError("the snapshot has no generator of images; a MindGAN needs the ALAE it was trained on: "
                            "gantransfer convert MINDGAN OUT.pkl --decoder=ALAE")
        return cls.sampler_of(snap.build("G_ema", device), DataSpec.from_dict(snap.data), device,
                              bool(snap.options.get("label_dropout")))

    @classmethod
    def sampler_of(cls, G: nn.Module, spec: DataSpec, device: torch.device | str,
                   unlabelled: bool) -> sampler.Sampler:
        """`view='uc'`: images without a label, where labels were left out in training."""
        def synthesise(z: torch.Tensor, c: torch.Tensor, view: str = "image", **kw: Any) -> torch.Tensor:
            return G(z, c, unlabelled=view == "uc", **kw)

        def styles(z: torch.Tensor, c: torch.Tensor, view: str = "image", **kw: Any) -> torch.Tensor:
            return G.mapping(z, c, unlabelled=view == "uc", **kw)

        def render(ws: torch.Tensor, view: str = "image", **kw: Any) -> torch.Tensor:
            return G.synthesis(ws, **kw)

        free = {"uc": "image without a label"} if unlabelled and G.c_dim else {}
        return sampler.Sampler(synthesise, G.z_dim, spec, device, label_dim=G.c_dim, network=G,
                                        styles=styles, render=render, views=("image", *free), beside=free)

    def snapshot(self, cur_nimg: int) -> snapshot.Snapshot:
        snap = super().snapshot(cur_nimg)
        snap.extra |= dict(accepted=self.ae.accepted, acceptance=self.ae.figures)
        if self.figures is not None:
            snap.extra["floor"] = self.figures.start
        return snap


def parse_betas(text: str) -> tuple[float, float]:
    try:
        a, b = (float(v) for v in text.split(","))
    except ValueError:
        a = b = -1.0
    if not (0 <= a < 1 and 0 <= b < 1):
        raise UserError(f"--betas={text} should be two numbers in [0, 1), such as 0,0.5")
    return a, b


def heldout_count(o: Mind2MindOptions, data: DataSpec) -> int:
    """Images kept from training: none of a set of fewer than 100."""
    share = o.mind_heldout or 0.0
    if data.num_images < 100 or not share:
        return 0
    counts = data.label.counts if data.label.kind == "class" else (data.num_images,)
    total = sum(int(n * share) for n in counts)
    return min(total, 1000)


def heldout_items(o: Mind2MindOptions, dataset: ImageDataset) -> np.ndarray:
    """int64: unmirrored items kept from training, the share of each class: the same ones in every run on
    the data, whatever its seed, so that runs are judged on equal latents."""
    n, total = dataset.spec.num_images, heldout_count(o, dataset.spec)
    if not total:
        return np.zeros(0, np.int64)
    rng = np.random.RandomState(0)
    ids = dataset.class_ids
    groups = [np.arange(n)] if ids is None else [np.flatnonzero(ids[:n] == k) for k in range(dataset.label_dim)]
    chosen = np.concatenate([rng.permutation(g)[: int(len(g) * o.mind_heldout)] for g in groups])
    return np.sort(rng.permutation(chosen)[:total])


def baseline(snap: snapshot.Snapshot, name: str) -> snapshot.Snapshot:
    """The snapshot with 'gaussian' or 'class_gaussian' latents in place of the trained ones. UserError without them."""
    if snap.method != Mind2Mind.name or name not in snap.nets:
        raise UserError(f"--baseline={name}: the snapshot (method {snap.method}) has no such fit of latents; "
                        f"snapshots of --method=mind2mind have 'gaussian', with classes also 'class_gaussian'")
    G, fit = snap.build("G_ema"), snap.build(name)
    kwargs = {k: v for k, v in fit.init_kwargs.items() if k not in ("w_dim", "num_ws")}
    out = mindgan.MindGenerator(dict(gaussian=True, **kwargs), G.init_kwargs["synthesis"])
    out.synthesis.load_state_dict(G.synthesis.state_dict())
    out.mapping.load_state_dict(fit.state_dict())
    nets = {"G_ema": snapshot.NetRecord.of(out), **{k: snap.nets[k] for k in ("E", "D") if k in snap.nets}}
    return replace(snap, nets=nets, options=copy.deepcopy(snap.options) | {"label_dropout": 0.0},
                   extra=dict(snap.extra, baseline=name))


def with_decoder(snap: snapshot.Snapshot, source: snapshot.Snapshot, name: str) -> snapshot.Snapshot:
    """An imported MindGAN and the auto-encoder it was trained on as one snapshot: published latents are raw, z is
    uniform. UserError where the two do not belong together."""
    if snap.method != Mind2Mind.name or "M" not in snap.nets or "G_ema" in snap.nets:
        raise UserError("--decoder completes an imported MindGAN; this snapshot is none, or is complete already")
    ae = autoencoder.load(source, name=name)
    sizes = snap.nets["M"].kwargs.get("sizes") or []
    if not sizes or sizes[-1] != ae.w_dim:
        raise UserError(f"the MindGAN makes latents of {sizes[-1] if sizes else 0} numbers, {name} takes {ae.w_dim}; "
                        f"name the ALAE it was trained on")
    G = mindgan.MindGenerator(dict(z_dim=sizes[0], c_dim=0, hidden=sizes[1:-1], prior="uniform"), ae.spec)
    G.synthesis.load_state_dict(ae.synthesis.state_dict())
    G.mapping.model.load_state_dict({k.removeprefix("model."): t for k, t in snap.nets["M"].state.items()})
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        w = G.mapping.codes(G.mapping.to_prior(rnd.randn([10_000, sizes[0]], rng)))
        G.mapping.w_avg.copy_(w.mean(0))  # the file does not keep the mean of its training latents
    data = DataSpec.from_dict({**snap.data, "resolution": ae.encoder.img_resolution,
                               "channels": ae.encoder.img_channels})
    nets = {"G_ema": snapshot.NetRecord.of(G), "M": snapshot.NetRecord.of(G.mapping), "K": snap.nets["K"]} if (
        "K" in snap.nets) else {"G_ema": snapshot.NetRecord.of(G), "M": snapshot.NetRecord.of(G.mapping)}
    nets |= {k: snapshot.NetRecord.of(v) for k, v in ae.records().items()}
    extra = {k: v for k, v in snap.extra.items() if k != "needs"}
    return replace(snap, nets=nets, data=data.to_dict(), extra=extra)


def _unusable(path: Path) -> str:
    """Why a latent cache has to be made: there is none, or ours is damaged; '' if it can be used."""
    if not path.exists():
        return f"No latent cache {path}"
    if latents.made_by_us(path):
        try:
            latents.read(path)
        except latents.Damaged as e:
            return str(e).split("; encode")[0]
    return ""
