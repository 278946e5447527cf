# SPDX-License-Identifier: Apache-2.0
"""CcGAN (Ding et al., ICLR 2021, T-PAMI 2023): a GAN conditioned on a continuous label.

At a target label t = y_j + noise the discriminator sees real images whose labels are near t, and images generated for
labels near t; it is told t for both (vicinity.py). Labels enter as they are (`--label_input=nli`) or as a code
h = y2h(y) that is learned first (`ili`): x2y predicts labels from images through a code, y2h learns to give a code that
x2y's head turns back into the label.

    L_D = mean w_r relu(1 - D(x_r, t)) + mean w_f relu(1 + D(G(z, y_f), t)),   L_G = -mean D(G(z, t), t)
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from dnnlib.util import UserError
from gantransfer import method, sampler, snapshot, source_fit
from gantransfer.augment import options
from gantransfer.data import resolution
from gantransfer.data.dataset import DataSpec, ImageDataset, LabelSpec
from gantransfer.distillation import vicinity
from gantransfer.method import Batch, Phase, RunConfig, option
from gantransfer.metrics.directions import LOWER
from gantransfer.networks import ccgan as networks
from gantransfer.networks.label_embedding import ImageToLabel, LabelToEmbedding
from torch_utils import distributed as dist
from torch_utils import ema, optimizers
from torch_utils import random as rnd
from torch_utils.pixels import from_uint8

# kimg: of the GAN, to which embed_kimg is added; embed_kimg None: 200 epochs of the training set for x2y.
_ALL = "color,translation,cutout"
_PUBLISHED = dict(ch=64, z_dim=256, h_dim=128, glr=1e-4, dlr=1e-4, ema_kimg=0, ema_ramp=0, standing=0, embed_kimg=None,
                  embed_width=64, embed_blocks=(3, 4, 6, 3), embed_opt="sgd")
CFGS: dict[str, dict[str, Any]] = {
    "auto": {**_PUBLISHED, **dict(arch="sagan", kimg=5000, batch=64, d_steps=2, kappa=-2, diffaug=_ALL, ema_kimg=20,
                                  ema_ramp=0.05, standing=16, embed_kimg=200, embed_opt="adam")},
    "rc49-v1": dict(_PUBLISHED, arch="sngan", kimg=7680, batch=256, d_steps=1, kappa=-2, diffaug=None),
    "utkface-v1": dict(_PUBLISHED, arch="sagan", kimg=20480, batch=512, d_steps=4, kappa=-2, diffaug=_ALL),
    "utkface-v2": dict(_PUBLISHED, arch="sagan", kimg=10240, batch=512, d_steps=4, kappa=-2, diffaug=_ALL),
    "steering-v2": dict(_PUBLISHED, arch="sagan", kimg=10240, batch=512, d_steps=2, kappa=-5, diffaug=_ALL),
    "tiny": dict(arch="sngan", kimg=20, batch=32, ch=8, z_dim=32, h_dim=32, glr=1e-3, dlr=1e-3, d_steps=2, kappa=-2,
                 diffaug="light", ema_kimg=2, ema_ramp=0.05, standing=16, embed_kimg=32, embed_width=8,
                 embed_blocks=(1, 1, 1), embed_opt="adam"),
}
STANDING_BATCH = 64
CODE_BATCH = 256  # labels per micro-batch of y2h's training
CODE_NOISE = 0.2
CODE_SHARE = 0.25  # of --embed_kimg that y2h gets


@dataclass
class CcGANOptions(options.AugmentOptions):
    cfg: str = option("auto", "Preset of sizes and hyper-parameters", choices=tuple(CFGS))
    arch: str | None = option(None, "Generator and discriminator", choices=tuple(networks.ARCHS))
    ch: int | None = option(None, "Channel unit of both networks", type=int, low=1)
    z_dim: int | None = option(None, "Length of the input latent (default by --cfg: 256; tiny 32)", type=int, low=1)
    glr: float | None = option(None, "Generator learning rate", type=float, low=0)
    dlr: float | None = option(None, "Discriminator learning rate", type=float, low=0)
    d_steps: int | None = option(None, "Discriminator steps per generator step", type=int, low=1)
    ema_kimg: float | None = option(None, "Half-life of the averaged generator", type=float, low=0)
    ema_ramp: float | None = option(None, "Half-life grows with this share of the images shown; 0 = constant",
                                    type=float, low=0)
    standing: int | None = option(None, f"Forwards of {STANDING_BATCH} images that measure the averaged generator's "
                                  "batch-norm statistics; 0 = running averages", type=int, low=0)
    gan_loss: str = option("hinge", "Loss of both networks", choices=vicinity.LOSSES)
    vicinity: str = option("soft", "Images near a target label: within kappa (hard, HVDL), or weighted (soft, SVDL)",
                           choices=vicinity.KINDS)
    kappa: float | None = option(None, "Width: kappa of 'hard', nu of 'soft'; negative: multiple of the largest gap "
                                 "between labels", type=float)
    label_sigma: float = option(-1.0, "Standard deviation of the noise on target labels, of 1; negative: rule of thumb")
    soft_threshold: float = option(1e-3, "Weight below which an image is not near", low=1e-12, high=0.999)
    svdl_normalize: bool = option(False, "'soft': draw images in proportion to their weight, as in the paper, instead "
                                  "of weighting a uniform draw, as in its code")
    label_input: str = option("ili", "A learned code of the label (ili), or the number itself (nli)",
                              choices=("ili", "nli"))
    h_dim: int | None = option(None, "Length of the label code, a multiple of 8", type=int, low=16)
    embed_kimg: float | None = option(None, "kimg that learn the label code before the GAN starts, counted in --kimg",
                                      type=float, low=0)
    embed_width: int | None = option(None, "Channel unit of the network that learns the code", type=int, low=1)


_ARCH = source_fit.key("its architecture is {}", "--arch", "arch")
_TRAITS = [_ARCH, source_fit.key("its latent z has {} numbers", "--z_dim", "z_dim"),
           source_fit.key("its label code has {} numbers", "--h_dim", "h_dim"),
           source_fit.key("its channel unit is {}", "--ch", "ch")]
_CODE_TRAITS = [source_fit.key("the network of its label code is {} wide", "--embed_width", "width", default=64)]


class CcGAN(method.Method):
    name = "ccgan"
    better = {"code_error": LOWER}
    needs_labels = True
    Options: ClassVar[type[method.Options]] = CcGANOptions

    # ---- options ---------------------------------------------------------------------------------------------------

    @classmethod
    def resolve(cls, o: CcGANOptions, run: RunConfig, data: DataSpec) -> None:
        where, cfg = data.path or data.name, CFGS[o.cfg]
        if data.label.kind != "value" or data.label.dim != 1:
            have = ("has no labels in use (give --cond=True)" if data.label.kind == "none" else
                    "has classes" if data.label.kind == "class" else f"has vectors of {data.label.dim} numbers")
            raise UserError(f"--method=ccgan needs one continuous label per image, written as a list of one number "
                            f"such as [55.0]; {where} {have}")
        resolution.require_square(data.size, where, "--method=ccgan", networks.RESOLUTIONS)
        if run.sampling != "empirical" or run.sampling_labels not in (None, "empirical"):
            raise UserError("--sampling is for classes; CcGAN draws labels evenly by itself")
        method.fill(o, **{k: v for k, v in cfg.items() if k != "diffaug" and hasattr(o, k)})
        o.kappa = float(o.kappa)
        if o.kappa == 0:
            raise UserError("--kappa=0 leaves no vicinity; give a width, or a negative multiple of the largest gap")
        if o.svdl_normalize and o.vicinity != "soft":
            raise UserError("--svdl_normalize belongs to --vicinity=soft")
        if o.label_input == "nli":
            o.h_dim, o.embed_kimg, o.embed_width = 1, 0.0, None
        elif o.h_dim % 8:
            raise UserError(f"--h_dim={o.h_dim}: the label code's length is a multiple of 8")
        elif run.resume not in (None, "noresume"):
            o.embed_kimg = 0.0  # the source brings its code
        elif o.embed_kimg is None:
            o.embed_kimg = 200 * data.num_images / 1000 / (1 - CODE_SHARE)
        method.resolve_schedule(run, batch=cfg["batch"], kimg=cfg["kimg"] + o.embed_kimg,
                                tick=1 if o.cfg == "tiny" else 4, snap=5 if o.cfg == "tiny" else 50)
        if run.kimg <= o.embed_kimg:
            raise UserError(f"--kimg={run.kimg:g} leaves nothing after the {o.embed_kimg:g} kimg of the label code; "
                            f"raise it or lower --embed_kimg")
        method.fill(run, metrics="smoke" if o.cfg == "tiny" else "fid50k_full")
        o.aug = o.aug or "noaug"
        if o.diffaug is None and o.aug == "noaug":
            o.diffaug = cfg["diffaug"]
        options.resolve(o, run, data)

    @classmethod
    def run_name(cls, o: CcGANOptions, given: dict[str, Any], run: RunConfig, data: DataSpec) -> str:
        name = data.name + (f"-subset{data.max_size}" if given.get("subset") is not None else "")
        name += ("-mirror" if data.xflip else "") + f"-ccgan-{o.cfg}"
        name += method.said(given, "arch", "vicinity", "label_input", "kimg", "batch", "kappa")
        return name + ("-resumecustom" if given.get("resume") not in (None, "noresume") else "")

    @classmethod
    def check_source(cls, o: CcGANOptions, data: DataSpec, source: snapshot.Snapshot | None, stage: str) -> None:
        if source is None:
            return
        if source.method != cls.name:
            raise UserError(f"the source is of method {source.method}; --method=ccgan continues a CcGAN")
        if ("y2h" in source.nets) != (o.label_input == "ili"):
            raise UserError(f"the source has {'a' if 'y2h' in source.nets else 'no'} learned label code; give "
                            f"--label_input={'ili' if 'y2h' in source.nets else 'nli'}")
        G, _ = (source_fit.record_of(source, name) for name in "GD")
        source_fit.images(G.kwargs.get("resolution"), G.kwargs.get("img_channels"), data)
        arch = next((name for name, (g, _) in networks.ARCHS.items() if G.kind() is g), None)
        own = dict(arch=o.arch, z_dim=o.z_dim, h_dim=o.h_dim, ch=o.ch)
        source_fit.same([(dict(G.kwargs, arch=arch), own, _TRAITS)])
        if "x2y" in source.nets:
            source_fit.same([(source.nets["x2y"].kwargs, dict(width=o.embed_width), _CODE_TRAITS)])

    # ---- networks --------------------------------------------------------------------------------------------------

    def __init__(self, opts, data, run, start=method.FRESH, stage=None):
        super().__init__(opts, data, run, start, stage)
        o, d, cfg = opts, data, CFGS[opts.cfg]
        generator, discriminator = networks.ARCHS[o.arch]
        size = dict(h_dim=o.h_dim, ch=o.ch, resolution=d.resolution, img_channels=d.channels)
        momentum = {} if o.standing == 0 else dict(bn_momentum=0.1)
        self.nets = {"G": generator(z_dim=o.z_dim, **size, **momentum), "D": discriminator(**size)}
        self.nets["G_ema"] = copy.deepcopy(self.nets["G"])
        if o.label_input == "ili":
            self.nets["y2h"] = LabelToEmbedding(o.h_dim)
            self.nets["x2y"] = ImageToLabel(o.h_dim, o.embed_width, cfg["embed_blocks"], d.channels)
        for name, net in self.nets.items():
            if start.weights is not None:
                report = snapshot.transfer(start.weights.nets[name].state, net)
                dist.print0(report.table(f"{name} from the source"))
            net.to(self.device)
        self.G, self.D = self.nets["G"].train(), self.nets["D"].train()
        self.G_ema = self.nets["G_ema"].eval()
        self.y2h, self.x2y = self.nets.get("y2h"), self.nets.get("x2y")
        self.augmentation = options.Augmentation(o, self.device)
        self.steps = 0
        self.gan_begin = int(round(o.embed_kimg * 1000))
        self.code_begin = int(round(o.embed_kimg * 1000 * (1 - CODE_SHARE)))

    def prepare(self, dataset: ImageDataset) -> ImageDataset:
        """Keeps the set: real images of a step are those near its targets, which the loop cannot know."""
        o = self.opts
        self.reals = dataset
        self.y = self.data.label.normalise(dataset.labels(np.arange(len(dataset)))[:, 0].astype(np.float64))
        if self.y.min() < -1e-6 or self.y.max() > 1 + 1e-6:
            raise UserError(f"normalised labels of {self.data.path or self.data.name} run from {self.y.min():.3g} to "
                            f"{self.y.max():.3g}, not within 0 to 1; correct offset and scale of \"label_meta\" in its "
                            "dataset.json")
        sigma, kappa = vicinity.bandwidth(self.y, o.vicinity, o.kappa, o.label_sigma)
        self.vicinity = vicinity.Vicinity(self.y, o.vicinity, kappa, sigma, o.soft_threshold, o.svdl_normalize)
        if dist.is_main():
            near = self.vicinity.near(self.vicinity.distinct, self.y).sum(1)
            scale = self.data.label.meta.get("scale", 1.0)
            print(f"Labels:       {len(self.vicinity.distinct)} values; sigma {sigma * scale:.4g}, vicinity +-"
                  f"{self.vicinity.radius * scale:.4g} {self.data.label.meta.get('unit', '')}".rstrip()
                  + f": {near.min()} to {near.max()} images near a label")
        return dataset

    # ---- phases ----------------------------------------------------------------------------------------------------

    def phases(self) -> list[Phase]:
        o, start = self.opts, self.gan_begin
        d, g = ([p for p in net.parameters()] for net in (self.D, self.G))
        gan = [Phase("Dmain", d, self._adam(d, o.dlr), repeat=o.d_steps, begin=start),
               Phase("Gmain", g, self._adam(g, o.glr), begin=start)]
        if start == 0:
            return gan
        x2y, y2h = list(self.x2y.parameters()), list(self.y2h.parameters())
        # (span, share of the span after which the rate drops to a tenth), as published
        self.schedules = {"embed": (0, self.code_begin, (0.3, 0.6)), "code": (self.code_begin, start, (0.3, 0.5, 0.7))}
        self.embed_opts = {"embed": self._embed_opt(x2y), "code": self._embed_opt(y2h)}
        return [Phase("embed", x2y, self.embed_opts["embed"], end=self.code_begin),
                Phase("code", y2h, self.embed_opts["code"], begin=self.code_begin, end=start), *gan]

    @staticmethod
    def _adam(params: list[nn.Parameter], lr: float) -> torch.optim.Optimizer:
        return optimizers.Adam(params, lr=lr, betas=(0.5, 0.999), fused=True)

    def _embed_opt(self, params: list[nn.Parameter]) -> torch.optim.Optimizer:
        if CFGS[self.opts.cfg]["embed_opt"] == "adam":
            return optimizers.Adam(params, lr=2e-3, fused=True)
        return optimizers.SGD(params, lr=0.01, momentum=0.9, weight_decay=1e-4)

    def code(self, y: torch.Tensor) -> torch.Tensor:
        """What generator and discriminator get for normalised labels [n]: [n, h_dim]."""
        return y[:, None] if self.y2h is None else self.y2h(y)

    def loss(self, phase: str, batch: Batch) -> Iterator[torch.Tensor]:
        yield {"embed": self.embed_loss, "code": self.code_loss, "Dmain": self.discriminator_loss,
               "Gmain": self.generator_loss}[phase](batch)

    def embed_loss(self, batch: Batch) -> torch.Tensor:
        y = self.data.label.normalise(batch.c[:, 0])
        loss = (self.x2y(batch.x).label[:, 0] - y).square()
        self.report("Loss/embed", loss.detach())
        return loss

    def code_loss(self, batch: Batch) -> torch.Tensor:
        k = self.vicinity._whole(len(self.vicinity.distinct), CODE_BATCH, batch.choices)
        y = torch.from_numpy(self.vicinity.distinct[k]).to(self.device, torch.float32)
        y = (y + CODE_NOISE * rnd.randn([CODE_BATCH], batch.rng, self.device, common=True)).clamp(0, 1)
        loss = (self.x2y.h2y(self.y2h(y))[:, 0] - y).square()
        self.report("Loss/code", loss.detach())
        return loss

    def discriminator_loss(self, batch: Batch) -> torch.Tensor:
        n = len(batch.x)
        draw = self.vicinity.draw(n, batch.choices)
        target, y_fake, w_real, w_fake = (torch.from_numpy(v).to(self.device, torch.float32) for v in (
            draw.target, draw.fake, draw.weight_real, draw.weight_fake))
        real = from_uint8(self.reals.read(draw.real).to(self.device))
        with torch.no_grad():
            h = self.code(target)
            fake = self.G(rnd.randn([n, self.G.z_dim], batch.rng, self.device), self.code(y_fake))
        logits = self.judge(torch.cat([real, fake]), h.repeat(2, 1), batch)
        on_real, on_fake = logits[:n], logits[n:]
        self.scores("real", on_real)
        self.scores("fake", on_fake)
        self.augmentation.observe(on_real.detach())
        loss = vicinity.d_loss(on_real, on_fake, w_real, w_fake, self.opts.gan_loss)
        self.report("Loss/D/loss", loss.detach())
        return loss

    def generator_loss(self, batch: Batch) -> torch.Tensor:
        n = len(batch.x)
        target = torch.from_numpy(self.vicinity.targets(n, batch.choices)).to(self.device, torch.float32)
        with torch.no_grad():
            h = self.code(target)
        fake = self.G(rnd.randn([n, self.G.z_dim], batch.rng, self.device), h)
        logits = self.judge(fake, h, batch)
        self.scores("fake", logits)
        loss = vicinity.g_loss(logits, self.opts.gan_loss)
        self.report("Loss/G/loss", loss.detach())
        return loss

    def judge(self, x: torch.Tensor, h: torch.Tensor, batch: Batch) -> torch.Tensor:
        x = self.augmentation(x, batch.rng, batch.choices) if self.augmentation else x
        return self.D(x, projected(h, self.y2h is None))[:, 0]

    def scores(self, kind: str, logits: torch.Tensor) -> None:
        self.report(f"Loss/scores/{kind}", logits.detach())
        self.report(f"Loss/signs/{kind}", logits.detach().sign())

    # ---- after the phases ------------------------------------------------------------------------------------------

    def end_step(self, cur_nimg: int, batch_size: int) -> None:
        o, after = self.opts, cur_nimg + batch_size
        if cur_nimg < self.gan_begin:
            self._share_statistics()
            for name, (begin, end, drops) in self.schedules.items():
                opt = self.embed_opts[name]
                passed = sum(after >= begin + share * (end - begin) for share in drops)
                for group in opt.param_groups:
                    group["lr"] = opt.defaults["lr"] * 0.1**passed
            return
        # Once per pass of the published training: one for each discriminator step and one for the generator's.
        networks.sweep(self.D, o.d_steps + 1)
        networks.sweep(self.G, 1)
        networks.update_running(self.G, _mean_over_processes)
        ema.step_state(self.G_ema.state_dict(), self.G.state_dict(),
                       ema.decay(batch_size, o.ema_kimg, cur_nimg - self.gan_begin, o.ema_ramp))
        self.steps += 1
        self.augmentation.end_step(self.steps, batch_size)

    @torch.no_grad()
    def _share_statistics(self) -> None:
        """x2y's running statistics, averaged over processes."""
        if dist.world_size() > 1:
            for t in self.x2y.buffers():
                if t.is_floating_point():
                    t.copy_(_mean_over_processes(t.clone()))

    def state(self) -> dict[str, Any]:
        return dict(steps=self.steps, **self.augmentation.state())

    def load_state(self, s: dict[str, Any]) -> None:
        self.steps = s["steps"]
        self.augmentation.load_state(s)

    def progress(self) -> dict[str, float]:
        return {"augment": self.augmentation.p} if self.augmentation.pipe is not None else {}

    @torch.no_grad()
    def evaluate(self, cur_nimg: int) -> dict[str, float]:
        """code_error: mean |h2y(y2h(y)) - y| over distinct training labels, in label units."""
        if self.y2h is None:
            return {}
        y = torch.from_numpy(self.vicinity.distinct).to(self.device, torch.float32)
        error = (self.x2y.h2y(self.y2h(y))[:, 0] - y).abs().mean()
        return {"code_error": float(error) * self.data.label.meta.get("scale", 1.0)}

    # ---- sampling --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def averaged(self) -> nn.Module:
        """The averaged generator as it is used: eval mode, its batch norms' statistics measured on its own activations.
        They depend on the weights, the training labels and the run's seed only."""
        G = copy.deepcopy(self.G_ema).eval().requires_grad_(False)
        if self.opts.standing:
            rng = rnd.step_generator(self.run.seed, 0x57A7)

            def inputs() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
                for _ in range(self.opts.standing):
                    y = torch.from_numpy(self.vicinity.targets(STANDING_BATCH, rng)).float().to(self.device)
                    yield rnd.randn([STANDING_BATCH, G.z_dim], rng).to(self.device), self.code(y)

            networks.standing_statistics(G, inputs())
        return G

    def sampler(self) -> sampler.Sampler:
        return sampler_of(self.averaged(), self.y2h, self.data, self.device)

    def snapshot(self, cur_nimg: int) -> snapshot.Snapshot:
        snap = super().snapshot(cur_nimg)
        snap.nets["G_ema"] = snapshot.NetRecord.of(self.averaged())
        return snap

    @classmethod
    def sampler_from(cls, snap: snapshot.Snapshot, device: torch.device | str = "cpu") -> sampler.Sampler:
        y2h = snap.build("y2h", device) if "y2h" in snap.nets else None
        return sampler_of(snap.build("G_ema", device), y2h, DataSpec.from_dict(snap.data), device)

    @classmethod
    def judge_from(cls, snap: snapshot.Snapshot, device: torch.device | str = "cpu") -> method.Judge:
        D, label = snap.build("D", device), DataSpec.from_dict(snap.data).label
        y2h = snap.build("y2h", device) if "y2h" in snap.nets else None

        def judge(x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
            y = label.normalise(c.to(device, torch.float32))
            return D(x, projected(y if y2h is None else y2h(y), y2h is None))[:, 0]

        return judge


def projected(h: torch.Tensor, naive: bool) -> torch.Tensor:
    """What the discriminator projects: the code, or the plain label plus 1, so that label 0 is not without effect."""
    return h + 1 if naive else h


def sampler_of(G: nn.Module, y2h: nn.Module | None, spec: DataSpec, device: torch.device | str) -> sampler.Sampler:
    """Labels c [N, 1] are in label units, as data sets have them."""
    label: LabelSpec = spec.label

    def synthesise(z: torch.Tensor, c: torch.Tensor, rng: Any = None, truncation_psi: float = 1,
                   noise_mode: str = "const") -> torch.Tensor:
        """`truncation_psi` scales the latent; there are no noise inputs."""
        y = label.normalise(c)
        return G(z * truncation_psi, y if y2h is None else y2h(y))

    return sampler.Sampler(synthesise, G.z_dim, spec, device, label_dim=1)


def _mean_over_processes(t: torch.Tensor) -> torch.Tensor:
    return dist.all_reduce_sum(t) / dist.world_size() if dist.world_size() > 1 else t
