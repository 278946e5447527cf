# SPDX-License-Identifier: Apache-2.0
"""An encoder for a StyleGAN2 snapshot, from nothing but that snapshot and images: what Mind2Mind needs to start.

The trunk starts as the snapshot's discriminator, the head as a least-squares fit of whitened latents. Generator and
discriminator are frozen. On generated images the latent is known (exact pairs); on real ones the image is compared, in
pixels and in the discriminator's block outputs:

    |u(E(G(w))) - u(w)|^2 / w_dim + lambda_pix |G(E(x)) - x|^2 + lambda_feat sum_l |D_l(G(E(x))) - D_l(x)|^2 / var_l
    + lambda_rec |E(G(E(x))) - E(x)|^2 + lambda_delta |offsets|^2
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from dnnlib.util import UserError
from gantransfer import method, sampler, snapshot, source_fit
from gantransfer.data.dataset import DataSpec, LabelSpec
from gantransfer.latent import autoencoder
from gantransfer.method import Batch, Phase, RunConfig, option
from gantransfer.metrics.directions import HIGHER, LOWER
from gantransfer.networks.latent_encoder import LatentEncoder
from gantransfer.networks.stylegan2 import Discriminator
from gantransfer.sampler import LabelSource
from torch_utils import distributed as dist
from torch_utils import ema, optimizers
from torch_utils import random as rnd
from torch_utils.pixels import from_uint8

CFGS: dict[str, dict[str, Any]] = {
    "auto": dict(kimg=1000, batch=16, lr=1e-4, ema=10, mapped=100_000, fitted=4096),
    "tiny": dict(kimg=20, batch=32, lr=1e-3, ema=1, mapped=20_000, fitted=4096),
}
ACCEPTED = 0.1  # relative latent error below which an encoder is accepted
FLOOR = 1e-4  # variances of mapped latents below this share of the largest are taken to be this large


@dataclass
class EncoderOptions(method.Options):
    cfg: str = option("auto", "Preset of sizes and hyper-parameters", choices=tuple(CFGS))
    space: str = option("w", "w: one latent for all layers; w+: one per layer", choices=("w", "w+"))
    lambda_pix: float = option(1.0, "Weight of the squared difference in pixels, at 256x256 at most", low=0)
    lambda_feat: float = option(0.1, "Weight of the difference in the discriminator's block outputs", low=0)
    lambda_rec: float = option(0.1, "Weight of encoding the reconstruction again", low=0)
    lambda_delta: float = option(2e-4, "Weight of the squared offsets of w+", low=0)
    lr: float | None = option(None, "Learning rate; that of an encoder falls to zero along a cosine", type=float, low=0)
    ema_kimg: float | None = option(None, "Half-life of the averaged generator", type=float, low=0)


class Encoder(method.Method):
    name = "encoder"
    better = {"latent_error": LOWER, "psnr": HIGHER, "feature_distance": LOWER, "encode_again": LOWER,
              "accepted": HIGHER}
    Options: ClassVar[type[method.Options]] = EncoderOptions
    pairs = 256  # generated pairs and real images behind the acceptance figures

    # ---- options ---------------------------------------------------------------------------------------------------

    @classmethod
    def resolve(cls, o: EncoderOptions, run: RunConfig, data: DataSpec) -> None:
        cfg = CFGS[o.cfg]
        method.resolve_schedule(run, batch=cfg["batch"], kimg=cfg["kimg"], tick=1 if o.cfg == "tiny" else 4,
                                snap=10 if o.cfg == "tiny" else 50)
        method.fill(o, lr=cfg["lr"], ema_kimg=cfg["ema"])
        if run.metrics not in (None, "none", ""):
            raise UserError(f"--metrics={run.metrics}: an encoder makes no images; its figures are written anyway")
        run.metrics = "none"

    @classmethod
    def run_name(cls, o: EncoderOptions, given: dict[str, Any], run: RunConfig, data: DataSpec) -> str:
        d = f"{data.name}-encoder" + ("-mirror" if data.xflip else "") + f"-{o.cfg}"
        return d + ("-wplus" if o.space == "w+" else "") + method.said(given, "kimg", "batch", "lr")

    @classmethod
    def check_source(cls, o: EncoderOptions, data: DataSpec, source: snapshot.Snapshot | None, stage: str) -> None:
        if source is None:
            raise UserError("--method=encoder needs --source=SNAPSHOT, a StyleGAN2")
        if "G_ema" not in source.nets:
            raise UserError(f"the source has no network G_ema; it has {', '.join(source.nets) or 'none'}")
        G = source.build("G_ema")
        spec = autoencoder.decoder_of(G)[1]
        if spec["kind"] != "stylegan2":
            raise UserError("--method=encoder makes encoders for StyleGAN2; an ALAE has one")
        source_fit.images(spec["img_resolution"], spec["img_channels"], data)

    # ---- networks --------------------------------------------------------------------------------------------------

    def __init__(self, opts, data, run, start=method.FRESH, stage=None):
        super().__init__(opts, data, run, start, stage)
        source = start.networks
        G = source.build("G_ema")
        nets = {"G_ema": G}
        D = source.build("D") if "D" in source.nets else None
        if isinstance(D, Discriminator):
            nets["D"] = D
        if start.continues:
            nets |= {k: source.build(k) for k in ("E", "E_ema")}
        else:
            E = LatentEncoder(trunk_kwargs(D, G), G.w_dim, G.num_ws if opts.space == "w+" else 1)
            copied = copy_trunk(D, E.trunk) if "D" in nets else 0
            dist.print0(f"Encoder: {copied} tensors from the source's discriminator" if copied else
                        "Encoder: the source has no discriminator to start from; the trunk starts at random")
            nets |= {"E": E, "E_ema": copy.deepcopy(E).eval()}
        self.nets = nets
        self.source_label = (source.extra.get("source_label") or (source.data or {}).get("label")
                             or LabelSpec("class" if G.c_dim else "none", G.c_dim).to_dict())
        for net in nets.values():
            net.to(self.device)
        self.G, self.E, self.E_ema, self.D = G, nets["E"].train(), nets["E_ema"], nets.get("D")
        spec = LabelSpec.from_dict(self.source_label)
        if spec.dim != G.c_dim:
            spec = LabelSpec("class" if G.c_dim else "none", G.c_dim)
        self.labels = LabelSource(spec, "data" if any(spec.counts) else "uniform",
                                  values=torch.rand(1024, G.c_dim).numpy() if spec.kind == "value" else None)
        if not start.continues:
            self._measure_latents(CFGS[opts.cfg]["mapped"])
            self._fit_head(CFGS[opts.cfg]["fitted"])
        self._last: tuple[int, dict[str, float]] | None = None
        self._accepted: bool | None = None  # as was said last
        self.dataset = None

    def prepare(self, dataset: Any) -> Any:
        self.dataset = dataset
        return dataset

    @torch.no_grad()
    def _measure_latents(self, number: int) -> None:
        """Mean and whitening of the mapping network's w, into both encoders."""
        rng, total, square = rnd.step_generator(self.run.seed, 0x3A9), 0.0, 0.0
        for i in range(0, number, 5000):
            n = min(5000, number - i)
            w = self._latents(n, rng).double()
            total, square = total + w.sum(0), square + w.t() @ w
        mean = total / number
        vals, vecs = torch.linalg.eigh(square / number - mean[:, None] * mean)
        scale = vals.clamp(min=max(float(vals.max()) * FLOOR, 1e-12)).sqrt()
        for E in (self.E, self.E_ema):
            E.w_mean.copy_(mean)
            E.to_w.copy_((vecs * scale).t())

    @torch.no_grad()
    def _fit_head(self, number: int) -> None:
        """The head starts as the ridge regression of whitened latents on the trunk's features of generated images."""
        rng, x, u = rnd.step_generator(self.run.seed, 0xF17), [], []
        for _ in range(0, number, 32):
            w = self._latents(32, rng)
            x.append(self.E.features(self.decode(w[:, None])).double())
            u.append(self.whiten(w).double())
        x, u = torch.cat(x), torch.cat(u)
        mean = x.mean(0)
        gram = (x - mean).t() @ (x - mean)
        gram += torch.eye(len(gram), dtype=gram.dtype, device=gram.device) * (0.01 * gram.diagonal().mean() + 1e-8)
        weight = torch.linalg.solve(gram, (x - mean).t() @ (u - u.mean(0))).t()
        for E in (self.E, self.E_ema):
            E.head.weight.copy_(weight / E.head.weight_gain)
            E.head.bias.copy_((u.mean(0) - weight @ mean) / E.head.bias_gain)

    def _latents(self, n: int, rng: torch.Generator) -> torch.Tensor:
        """w [n, w_dim] of the source's mapping network."""
        z = rnd.randn([n, self.G.z_dim], rng).to(self.device)
        c = self.labels.draw(n, rnd.derived(rng)).to(self.device)
        return self.G.mapping(z, c, update_w_avg=False)[:, 0]

    # ---- training --------------------------------------------------------------------------------------------------

    def phases(self) -> list[Phase]:
        params = list(self.E.parameters())
        self.opt = optimizers.Adam(params, lr=self.opts.lr, betas=(0.9, 0.99), fused=True)
        return [Phase("encode", params, self.opt)]

    def decode(self, w: torch.Tensor) -> torch.Tensor:
        return self.G.synthesis(w.expand(-1, self.G.num_ws, -1), noise_mode="const")

    def blocks(self, img: torch.Tensor) -> list[torch.Tensor]:
        """Outputs of the discriminator's blocks."""
        x, out = None, []
        for res in self.D.block_resolutions:
            x, img = getattr(self.D, f"b{res}")(x, img)
            out.append(x.float())
        return out

    def loss(self, phase: str, batch: Batch) -> Iterator[torch.Tensor]:
        o, E, n = self.opts, self.E, len(batch.x)
        with torch.no_grad():
            w = self._latents(n, batch.choices)
            fake = self.decode(w[:, None])
        u, offsets = E.whitened(fake)
        full = u[:, None] if offsets is None else u[:, None] + offsets
        latent = (full - self.whiten(w)[:, None]).square().mean((1, 2))
        self.report("Loss/latent", latent)
        yield latent + self._offset_loss(offsets)

        x = batch.x
        u, offsets = E.whitened(x)
        full = u[:, None] if offsets is None else u[:, None] + offsets
        again = self.decode(E.w_mean + full @ E.to_w)
        pixels = (small(again) - small(x)).square().mean((1, 2, 3))
        self.report("Loss/pixels", pixels)
        loss = o.lambda_pix * pixels + self._offset_loss(offsets)
        if o.lambda_feat and self.D is not None:
            with torch.no_grad():
                wanted = self.blocks(x)
            terms = [(a - b).square().mean((1, 2, 3)) / variance(b).clamp(min=1e-8)
                     for a, b in zip(self.blocks(again), wanted)]
            features = torch.stack(terms).sum(0)
            self.report("Loss/features", features)
            loss = loss + o.lambda_feat * features
        if o.lambda_rec:
            v, more = E.whitened(again)
            second = v[:, None] if more is None else v[:, None] + more
            rec = (second - full.detach()).square().mean((1, 2))
            self.report("Loss/encode_again", rec)
            loss = loss + o.lambda_rec * rec
        yield loss

    def _offset_loss(self, offsets: torch.Tensor | None) -> torch.Tensor | float:
        return 0.0 if offsets is None else self.opts.lambda_delta * offsets.square().sum((1, 2))

    def whiten(self, w: torch.Tensor) -> torch.Tensor:
        """u of w [N, w_dim]; `to_w` has orthogonal rows."""
        to_w = self.E.to_w
        return (w - self.E.w_mean) @ (to_w / to_w.square().sum(1, keepdim=True)).t()

    def end_step(self, cur_nimg: int, batch_size: int) -> None:
        ema.step(self.E_ema.parameters(), self.E.parameters(), ema.decay(batch_size, self.opts.ema_kimg, cur_nimg, 0.1))
        done = min((cur_nimg + batch_size) / (self.run.kimg * 1000), 1.0)
        for group in self.opt.param_groups:
            group["lr"] = self.opts.lr * 0.5 * (1 + math.cos(math.pi * done))

    # ---- figures ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def figures(self, cur_nimg: int) -> dict[str, float]:
        """latent_error: |E(G(w)) - w|^2 / |w - mean|^2 on pairs that training never sees; psnr and feature_distance of
        the training set's reconstructions, encode_again as latent_error of encoding those once more."""
        if self._last is None or self._last[0] != cur_nimg:
            rng, E = rnd.step_generator(0xE7A1, self.run.seed), self.E_ema
            error = spread = 0.0
            for _ in range(0, self.pairs, 32):
                w = self._latents(32, rng)
                got = E(self.decode(w[:, None]))
                error += float((got - w[:, None]).square().mean(1).sum())
                spread += float((w - E.w_mean).square().sum())
            out = dict(latent_error=error / max(spread, 1e-12))
            n = min(len(self.dataset), self.pairs)
            mse, far, rec, size = [], [], 0.0, 0.0
            for i in range(0, n, 32):
                x = from_uint8(self.dataset.read(range(i, min(i + 32, n))).to(self.device))
                w = E(x)
                y = self.decode(w).clamp(-1, 1)
                mse.append((x - y).square().mean((1, 2, 3)))
                if self.D is not None:
                    far.append(torch.stack([(a - b).square().mean((1, 2, 3)) / b.var().clamp(min=1e-8)
                                            for a, b in zip(self.blocks(y), self.blocks(x))]).sum(0))
                rec += float((E(y) - w).square().sum())
                size += float((w - E.w_mean).square().sum())
            out["psnr"] = float(10 * torch.log10(4 / torch.cat(mse).mean().clamp(min=1e-12)))
            if far:
                out["feature_distance"] = float(torch.cat(far).mean())
            out["encode_again"] = rec / max(size, 1e-12)
            self._last = cur_nimg, out
        return self._last[1]

    def evaluate(self, cur_nimg: int) -> dict[str, float]:
        out = self.figures(cur_nimg)
        good = out["latent_error"] < ACCEPTED
        if good != self._accepted:  # the figures themselves come with every snapshot
            self._accepted = good
            dist.print0(f"Encoder {'accepted' if good else 'NOT accepted'}: relative latent error "
                        f"{out['latent_error']:.4f} (wanted below {ACCEPTED}), PSNR {out['psnr']:.2f} dB")
        return dict(out, accepted=float(good))

    def state(self) -> dict[str, Any]:
        return dict(source_label=self.source_label)

    def load_state(self, s: dict[str, Any]) -> None:
        self.source_label = s["source_label"]

    # ---- snapshots -------------------------------------------------------------------------------------------------

    def snapshot(self, cur_nimg: int) -> snapshot.Snapshot:
        snap = super().snapshot(cur_nimg)
        figures = self.figures(cur_nimg)
        snap.extra |= dict(accepted=figures["latent_error"] < ACCEPTED, acceptance=figures,
                           source_label=self.source_label)
        return snap

    @classmethod
    def sampler_from(cls, snap: snapshot.Snapshot, device: torch.device | str = "cpu") -> sampler.Sampler:
        """The source's images: the generator in an encoder's snapshot is the source's."""
        G, spec = snap.build("G_ema", device), DataSpec.from_dict(snap.data)
        label = LabelSpec.from_dict(snap.extra["source_label"]) if "source_label" in snap.extra else spec.label
        if label.dim != G.c_dim:
            label = LabelSpec("class" if G.c_dim else "none", G.c_dim)
        spec = DataSpec.from_dict({**snap.data, "label": label.to_dict()})
        return sampler.Sampler(G, G.z_dim, spec, device, label_dim=G.c_dim, network=G)


def variance(x: torch.Tensor) -> torch.Tensor:
    """Variance over everything, of all processes; for what carries no gradient."""
    if not dist.is_initialized():
        return x.var()
    count = x.numel() * dist.world_size()
    mean = dist.all_reduce_sum(x.sum()) / count
    return dist.all_reduce_sum((x - mean).square().sum()) / (count - 1)


def small(x: torch.Tensor) -> torch.Tensor:
    """Averaged down to less than twice 256 pixels at the longer side."""
    return F.avg_pool2d(x, max(x.shape[2:]) // 256) if max(x.shape[2:]) > 256 else x


def trunk_kwargs(D: nn.Module | None, G: nn.Module) -> dict[str, Any]:
    """Arguments of a discriminator: those of `D`, all layers trainable, or ones that match the generator."""
    if isinstance(D, Discriminator):
        kwargs = copy.deepcopy(D.init_kwargs)
        kwargs["block_kwargs"].pop("freeze_layers", None)
        return kwargs | dict(c_dim=0, cmap_dim=None, mapping_kwargs={})
    k = G.init_kwargs.get("synthesis_kwargs", {})
    return dict(c_dim=0, img_resolution=G.img_resolution, img_channels=G.img_channels,
                **{key: k[key] for key in ("channel_base", "channel_max", "num_fp16_res", "conv_clamp") if key in k})


@torch.no_grad()
def copy_trunk(D: nn.Module, trunk: nn.Module) -> int:
    """Copy every tensor of the discriminator that the trunk has. Returns how many."""
    state, target, copied = D.state_dict(), trunk.state_dict(), 0
    for name, t in target.items():
        s = state.get(name)
        if s is None:
            continue
        if name == "b4.conv.weight" and s.shape[1] != t.shape[1]:
            # Without the minibatch-deviation channel; weights are stored before the gain 1/sqrt(inputs).
            s = s[:, : t.shape[1]] * math.sqrt(t.shape[1] / s.shape[1])
        if s.shape == t.shape:
            t.copy_(s)
            copied += 1
    return copied
