# SPDX-License-Identifier: Apache-2.0
"""BigGAN (Brock et al. 2019): hinge losses, several discriminator steps per generator step, averaged generator.

    L_D = relu(1 - D(x, y)) + relu(1 + D(G(z, y'), y')),   L_G = -D(G(z, y'), y')

Augmentation (ADA, DiffAugment) and R1 are there for small data; the published training has neither. Other losses, and
what is made for long tails, are flags of losses/options.py (docs/tail.md).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from dnnlib.util import UserError
from gantransfer import method, sampler, snapshot, source_fit
from gantransfer.augment import options
from gantransfer.data import resolution
from gantransfer.data.dataset import DataSpec
from gantransfer.data.names import valid_text
from gantransfer.losses import options as loss_options
from gantransfer.losses import penalties
from gantransfer.method import Batch, Graph, Phase, RunConfig, option
from gantransfer.networks import biggan as networks
from torch_utils import distributed as dist
from torch_utils import ema, optimizers
from torch_utils import random as rnd

# kimg count generated images of the G steps. ema: half-life in kimg; 0.9999 per step of 2048 images is 14195.
CFGS: dict[str, dict[str, Any]] = {
    "auto": dict(kimg=10000, batch=64, g_ch=64, d_ch=64, z_dim=120, shared_dim=128, hier=True, init="ortho", glr=1e-4,
                 dlr=4e-4, eps=1e-6, d_steps=1, ema=20, ramp=0.05, ema_start=0),
    "biggan128": dict(kimg=280000, batch=2048, g_ch=96, d_ch=96, z_dim=120, shared_dim=128, hier=True, init="ortho",
                      glr=1e-4, dlr=4e-4, eps=1e-6, d_steps=1, ema=14195, ramp=0, ema_start=40960),
    "cifar": dict(kimg=6250, batch=50, g_ch=64, d_ch=64, z_dim=128, shared_dim=0, hier=False, init="N02", glr=2e-4,
                  dlr=2e-4, eps=1e-8, d_steps=4, ema=346, ramp=0, ema_start=50),
    "tiny": dict(kimg=20, batch=16, g_ch=8, d_ch=8, z_dim=48, shared_dim=16, hier=True, init="ortho", glr=1e-3,
                 dlr=2e-3, eps=1e-6, d_steps=2, ema=2, ramp=0.05, ema_start=0),
}
STANDING_BATCH = 64


@dataclass
class TrainingOptions(options.AugmentOptions):
    """What training a BigGAN needs beside the networks' sizes."""

    glr: float | None = option(None, "Generator learning rate", type=float, low=0)
    dlr: float | None = option(None, "Discriminator learning rate", type=float, low=0)
    adam_eps: float | None = option(None, "Adam's epsilon; also the epsilon of spectral norm", type=float, low=0)
    d_steps: int | None = option(None, "Discriminator steps per generator step", type=int, low=1)
    ema_kimg: float | None = option(None, "Half-life of the averaged generator", type=float, low=0)
    ema_ramp: float | None = option(None, "Half-life grows with this share of the images shown; 0 = constant",
                                    type=float, low=0)
    ema_start: float | None = option(None, "kimg before which the average is the generator itself", type=float, low=0)
    standing: int = option(16, f"Forwards of {STANDING_BATCH} images that measure the averaged generator's batch-norm "
                           "statistics; 0 = running averages", low=0)
    ortho: float = option(0.0, "Weight of the generator's orthogonal regularisation (published: 1e-4)", low=0)
    gamma: float | None = option(None, "R1 weight", type=float, low=0)
    freezed: int = option(0, "Freeze this many high-resolution discriminator layers", low=0)


@dataclass
class BigGANOptions(TrainingOptions, loss_options.LossOptions):
    cfg: str = option("auto", "Preset of sizes and hyper-parameters", choices=tuple(CFGS))
    g_ch: int | None = option(None, "Generator's channel unit", type=int, low=1)
    d_ch: int | None = option(None, "Discriminator's channel unit", type=int, low=1)
    z_dim: int | None = option(None, "Length of the input latent (default by --cfg: 120; cifar 128, tiny 48)", type=int,
                               low=1)
    shared_dim: int | None = option(None, "Length of the shared class embedding; 0 = tables per layer", type=int, low=0)
    hier: bool | None = option(None, "A part of the latent for every block; needs the shared embedding", type=bool)
    g_attn: str | None = option(None, "Generator resolutions followed by attention, e.g. 64 or 32_64; 0 = none")
    d_attn: str | None = option(None, "Discriminator resolutions followed by attention")
    init: str | None = option(None, "Initial weights", choices=networks.INITS)
    bn_eps: float = option(1e-5, "Epsilon of the conditional batch norms", low=0)


@dataclass
class Draws:
    """The random inputs of one loss evaluation, apart from augmentation."""

    z: torch.Tensor  # [n, z_dim]
    c: torch.Tensor  # [n, classes]


class BigGAN(method.Method):
    name = "biggan"
    Options: ClassVar[type[method.Options]] = BigGANOptions
    presets: ClassVar[dict[str, dict[str, Any]]] = CFGS
    train_idle_biases = False  # tests of the published training switch it on

    # ---- options ---------------------------------------------------------------------------------------------------

    @classmethod
    def resolve(cls, o: BigGANOptions, run: RunConfig, data: DataSpec) -> None:
        cfg, res = cls.presets[o.cfg], data.resolution
        if data.label.kind == "value":
            raise UserError(f"--method={cls.name} needs class labels; {data.path or data.name} has float vectors")
        method.resolve_schedule(run, batch=cfg["batch"], kimg=cfg["kimg"], tick=1 if o.cfg == "tiny" else 4,
                                snap=5 if o.cfg == "tiny" else 50)
        method.fill(run, metrics="smoke" if o.cfg == "tiny" else "fid50k_full")
        # Also where the networks are the source's: there is no other BigGAN.
        sizes = set(networks.G_TABLES) & set(networks.D_TABLES)
        resolution.require_square(data.size, data.path or data.name, f"--method={cls.name}", sizes)
        cls.resolve_networks(o, cfg, data)
        method.fill(o, **{k: cfg[k] for k in ("glr", "dlr", "d_steps", "ema_start")}, adam_eps=cfg["eps"],
                    ema_kimg=cfg["ema"], ema_ramp=cfg["ramp"], gamma=0.0)
        if o.aug is None:
            o.aug = "noaug"
            if o.cfg == "tiny" and o.diffaug is None:
                o.diffaug = "light"
        options.resolve(o, run, data)
        if isinstance(o, loss_options.LossOptions):
            loss_options.resolve(o, run, data, "hinge")
        depth = len(networks.D_TABLES[res][0])
        if o.freezed >= depth + 1:
            raise UserError(f"--freezed={o.freezed}: the discriminator of {res}x{res} images has {depth} blocks")

    @classmethod
    def resolve_networks(cls, o: BigGANOptions, cfg: dict[str, Any], data: DataSpec) -> None:
        method.fill(o, **{k: cfg[k] for k in ("g_ch", "d_ch", "z_dim", "shared_dim", "hier", "init")})
        if o.hier and not o.shared_dim:
            raise UserError("--hier=True needs a shared embedding: set --shared_dim above 0, or --hier=False")
        chunks = len(networks.G_TABLES[data.resolution][0]) + 1
        if o.hier and o.z_dim < chunks:
            raise UserError(f"--z_dim={o.z_dim} cannot be cut into {chunks} parts; raise it, or set --hier=False")
        default = "64" if data.resolution >= 128 else "32" if data.resolution == 64 else "0"
        method.fill(o, g_attn=default, d_attn=default)
        for key, ch in (("g_attn", o.g_ch), ("d_attn", o.d_ch)):
            try:
                wanted = networks.attention_at(getattr(o, key))
            except ValueError as e:
                raise UserError(f"--{key}={getattr(o, key)}: {e}") from None
            if wanted and ch < 8:
                raise UserError(f"--{key}={getattr(o, key)} needs --{key[0]}_ch of at least 8, or --{key}=0")

    @classmethod
    def run_name(cls, o: BigGANOptions, given: dict[str, Any], run: RunConfig, data: DataSpec) -> str:
        name = data.name + ("-cond" if data.label.dim else "")
        name += f"-subset{data.max_size}" if given.get("subset") is not None else ""
        name += ("-mirror" if data.xflip else "") + f"-{cls.name}-{o.cfg}"
        name += method.said(given, "kimg", "batch", "gamma", "freezed", "aug")
        name += "-resumecustom" if given.get("resume") not in (None, "noresume") else ""
        return name + (loss_options.name_of(o) if isinstance(o, loss_options.LossOptions) else "")

    @classmethod
    def check_source(cls, o: Any, data: DataSpec, source: snapshot.Snapshot | None, stage: str) -> None:
        if source is None:
            return
        G = source_fit.kind(source, "G", (networks.Generator,), cls.name)
        D = source_fit.kind(source, "D", (networks.Discriminator,), cls.name)
        source_fit.images(G.kwargs.get("resolution", 128), G.kwargs.get("img_channels", 3), data)
        source_fit.same([(G.kwargs, cls.generator_kwargs(o, data), _G_TRAITS),
                         (D.kwargs, cls.discriminator_kwargs(o, data), _D_TRAITS)])
        source_fit.finite(source)

    # ---- networks --------------------------------------------------------------------------------------------------

    def __init__(self, opts, data, run, start=method.FRESH, stage=None):
        super().__init__(opts, data, run, start, stage)
        self.nets = self.build(start)
        for net in self.nets.values():
            net.to(self.device)
        self.G, self.D, self.G_ema = self.nets["G"].train(), self.nets["D"].train(), self.nets["G_ema"].eval()
        for k, block in enumerate(self.D.blocks):
            networks.freeze_sn(block, k < opts.freezed)
        self.augmentation = options.Augmentation(opts, self.device, self.data.label.dim)
        self.losses = loss_options.Losses(opts, run, data, self.device, "hinge")
        self.losses.watch(self.G)
        self.steps = 0

    def build(self, start: method.Start) -> dict[str, nn.Module]:
        """Generator, discriminator and averaged generator, with the weights that fit."""
        nets = {"G": self.build_generator(), "D": self.build_discriminator()}
        nets["G_ema"] = copy.deepcopy(nets["G"])
        if start.weights is not None:
            self.load_source(start.weights, nets)
        return nets

    def build_generator(self) -> nn.Module:
        return networks.Generator(**self.generator_kwargs(self.opts, self.data))

    def build_discriminator(self) -> nn.Module:
        return networks.Discriminator(**self.discriminator_kwargs(self.opts, self.data))

    @staticmethod
    def generator_kwargs(o: Any, d: DataSpec) -> dict[str, Any]:
        return dict(
            G_ch=o.g_ch, dim_z=o.z_dim, resolution=d.resolution, G_attn=o.g_attn, n_classes=max(d.label.dim, 1),
            G_shared=o.shared_dim > 0, shared_dim=o.shared_dim, hier=o.hier, BN_eps=o.bn_eps, SN_eps=o.adam_eps,
            G_init=o.init, img_channels=d.channels)

    @staticmethod
    def discriminator_kwargs(o: Any, d: DataSpec) -> dict[str, Any]:
        return dict(D_ch=o.d_ch, resolution=d.resolution, D_attn=o.d_attn, n_classes=max(d.label.dim, 1),
                    SN_eps=o.adam_eps, D_init=o.init, img_channels=d.channels)

    def load_source(self, source: snapshot.Snapshot, nets: dict[str, nn.Module]) -> None:
        """Fine-tuning: copy everything; classes of the same name keep their rows, others start from the mean row."""
        names = [valid_text(str(n)) for n in ((source.data or {}).get("label") or {}).get("names") or []]
        rows = [names.index(n) if n in names else None for n in self.data.label.names] or [None] * self.data.label.dim

        def remap(src: torch.Tensor, fresh: torch.Tensor) -> torch.Tensor:
            return torch.stack([src.mean(0) if k is None else src[k] for k in rows])

        for name, net in nets.items():
            have = name if name in source.nets else {"G": "G_ema", "G_ema": "G"}.get(name)
            if have not in source.nets:
                raise UserError(f"the --resume snapshot has no network {name}; it cannot be trained further")
            tables = [n for n, m in net.named_modules() if isinstance(m, networks.SNEmbedding)]
            same = source.nets[have].state.get(f"{tables[0]}.weight", torch.empty(0)).shape[0] == len(rows) and (
                rows == list(range(len(rows))) or not any(k is not None for k in rows))
            adapt = {} if same else {f"{n}.weight": remap for n in tables}
            state = source.nets[have].state
            if not same:  # also where only the order differs, or the number happens to agree
                state = {k: remap(v, v) if k in adapt else v for k, v in state.items()}
            report = snapshot.transfer(state, net, may_initialise=lambda n: n.startswith("embed.u"))
            dist.print0(report.table(f"{name} from {have} of the {source.method} source"))

    # ---- phases ----------------------------------------------------------------------------------------------------

    def phases(self) -> list[Phase]:
        o = self.opts
        # The discriminator goes first, as published: its steps use the generator of the step before.
        opts = {k: optimizers.Adam(self.trainable(k), lr=lr, betas=(0.0, 0.999), eps=o.adam_eps, fused=True)
                for k, lr in (("D", o.dlr), ("G", o.glr))}
        second = o.gamma > 0 or self.losses.r2_gamma > 0
        return [Phase("Dmain", self.trainable("D"), opts["D"], repeat=o.d_steps, graph=self.graph(second)),
                Phase("Gmain", self.trainable("G"), opts["G"], graph=self.graph())]

    def graph(self, second_order: bool = False) -> Graph | None:
        """`Phase.graph`; a class built on this one has code of its own."""
        obstacles = ("second order",) * second_order + ("batch norm gathers over processes",) * (dist.world_size() > 1)
        return Graph(obstacles + self.augmentation.obstacles()) if type(self) is BigGAN else None

    def trainable(self, key: str) -> list[nn.Parameter]:
        if key == "D":
            frozen = {id(p) for block in self.D.blocks[: self.opts.freezed] for p in block.parameters()}
            if self.losses.gan.paired:  # its gradient is rounding noise, as that of the generator's idle biases
                frozen.add(id(self.D.linear.bias))
            return [p for p in self.D.parameters() if id(p) not in frozen]
        return self.without_idle(list(self.G.parameters()))

    def without_idle(self, params: list[nn.Parameter]) -> list[nn.Parameter]:
        idle = set() if self.train_idle_biases else {id(p) for p in self.G.idle_biases()}
        return [p for p in params if id(p) not in idle]

    def draw(self, phase: str, batch: Batch) -> Draws:
        n = len(batch.x)
        d = Draws(rnd.randn([n, self.G.z_dim], batch.rng, self.device), batch.draw_c(n))
        if self.losses.gan.paired:
            d.c = batch.c  # of a pair both have one label
        return d

    def loss(self, phase: str, batch: Batch) -> Iterator[torch.Tensor]:
        draws = self.draw(phase, batch)
        if phase == "Dmain":
            yield self.discriminator_loss(batch, draws)
        else:
            yield self.generator_loss(batch, draws)
            yield from self.losses.on_weights(self.report)

    def logits(self, x: torch.Tensor, c: torch.Tensor, batch: Batch) -> torch.Tensor:
        """[n]: logits of the images, which are augmented before."""
        x = self.augmentation(x, batch.rng, batch.choices, c) if self.augmentation else x
        return self.D(x, c)[:, 0]

    def discriminator_loss(self, batch: Batch, d: Draws) -> torch.Tensor:
        with torch.no_grad():
            fake = self.G(d.z, self.label_rows(d.c))
        gan, weight = self.losses.gan, self.losses.weight(batch.c)
        weight = weight if isinstance(weight, float) else weight[:, 0]
        x = batch.x.detach().requires_grad_(self.opts.gamma > 0)
        fake.requires_grad_(self.losses.r2_gamma > 0)
        # One pass over both: each pass is one sweep of the spectral norm.
        logits = self.logits(torch.cat([fake, x]), torch.cat([d.c, batch.c]), batch)
        on_fake, on_real = logits[: len(fake)], logits[len(fake) :]
        self.scores("fake", on_fake, d.c)
        self.scores("real", on_real, batch.c)
        if gan.paired:
            loss = gan.discriminator(on_fake, on_real)
            # Only the difference of a pair has a meaning: a real image counts as recognised where it beats its rival.
            self.augmentation.observe((on_real - on_fake).detach(), batch.c)
        else:
            loss = gan.on_real(on_real) * weight + gan.on_fake(on_fake)
        self.report("Loss/D/loss", loss.detach())
        if self.opts.gamma > 0:
            penalty = penalties.squared_gradient(on_real, x)
            self.report("Loss/r1_penalty", penalty.detach())
            loss = loss + penalty * weight * (self.opts.gamma / 2)
        if self.losses.r2_gamma > 0:
            penalty = penalties.squared_gradient(on_fake, fake)
            self.report("Loss/r2_penalty", penalty.detach())
            loss = loss + penalty * (self.losses.r2_gamma / 2)
        return loss

    def generator_loss(self, batch: Batch, d: Draws) -> torch.Tensor:
        fake, rival = self.G(d.z, self.label_rows(d.c)), None
        if self.losses.gan.paired:
            # As in the discriminator's loss, one pass over both.
            logits, rival = self.logits(torch.cat([fake, batch.x]), torch.cat([d.c, batch.c]), batch).chunk(2)
            self.scores("rival", rival, batch.c)
        else:
            logits = self.logits(fake, d.c, batch)
        self.scores("fake", logits, d.c)
        loss = self.losses.gan.generator(logits, rival)
        self.report("Loss/G/loss", loss.detach())
        return loss + self.penalty()

    def penalty(self) -> torch.Tensor | float:
        """Regularisation of the generator's weights: half the squared products of different rows."""
        if self.opts.ortho == 0:
            return 0.0
        total = torch.zeros([], device=self.device)
        for p in self.trainable("G"):
            if p.ndim >= 2 and not (self.G.shared is not None and p is self.G.shared.weight):
                total = total + networks.row_products(p)
        return total * (self.opts.ortho / 2)

    def scores(self, kind: str, logits: torch.Tensor, c: torch.Tensor) -> None:
        logits = logits.detach()
        self.report(f"Loss/scores/{kind}", logits)
        self.report(f"Loss/signs/{kind}", logits.sign())
        if kind == "real" and not self.losses.gan.paired:
            self.augmentation.observe(logits, c)

    # ---- after the phases ------------------------------------------------------------------------------------------

    def end_step(self, cur_nimg: int, batch_size: int) -> None:
        o = self.opts
        started = cur_nimg >= o.ema_start * 1000
        decay = ema.decay(batch_size, o.ema_kimg, cur_nimg, o.ema_ramp) if started else 0.0
        ema.step_state(self.G_ema.state_dict(), self.G.state_dict(), decay)
        self.steps += 1
        self.augmentation.end_step(self.steps, batch_size)
        self.losses.end_step(cur_nimg + batch_size)

    def state(self) -> dict[str, Any]:
        return dict(steps=self.steps, **self.augmentation.state(), **self.losses.state())

    def load_state(self, s: dict[str, Any]) -> None:
        self.steps = s["steps"]
        self.augmentation.load_state(s)
        self.losses.load_state(s)

    def progress(self) -> dict[str, float]:
        return {"augment": self.augmentation.p} if self.augmentation.pipe is not None else {}

    # ---- sampling --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def averaged(self) -> nn.Module:
        """The averaged generator as it is used: in eval mode, with statistics measured on its own activations. They
        depend on the weights, the training set's labels and how they are drawn, and the run's seed."""
        G = copy.deepcopy(self.G_ema).eval().requires_grad_(False)
        if self.opts.standing:
            policy = self.run.sampling_labels or self.run.sampling
            labels = sampler.LabelSource(self.data.label, policy, shift=self.run.sampling_shift,
                                         nimg=self.steps * self.run.batch)
            rng = rnd.step_generator(self.run.seed, 0x57A7)
            networks.standing_statistics(G, (
                (rnd.randn([STANDING_BATCH, G.z_dim], rng).to(self.device),
                 self.label_rows(labels.draw(STANDING_BATCH, rng).to(self.device)))
                for _ in range(self.opts.standing)))
        return G

    def label_rows(self, c: torch.Tensor) -> torch.Tensor:
        """The generator's labels for labels of the data."""
        return c

    def sampler(self) -> sampler.Sampler:
        return self.sampler_of({"G_ema": self.averaged()}, self.data, self.device)

    def snapshot(self, cur_nimg: int) -> snapshot.Snapshot:
        snap = super().snapshot(cur_nimg)
        snap.nets["G_ema"] = snapshot.NetRecord.of(self.averaged())
        return snap

    @classmethod
    def sampler_from(cls, snap: snapshot.Snapshot, device: torch.device | str = "cpu") -> sampler.Sampler:
        return cls.sampler_of({"G_ema": snap.build("G_ema", device)}, DataSpec.from_dict(snap.data), device)

    @classmethod
    def sampler_of(cls, nets: dict[str, nn.Module], spec: DataSpec, device: torch.device | str) -> sampler.Sampler:
        G = nets["G_ema"]

        def synthesise(z: torch.Tensor, c: torch.Tensor, rng: Any = None, truncation_psi: float = 1,
                       noise_mode: str = "const") -> torch.Tensor:
            """`truncation_psi` scales the latent; there are no noise inputs."""
            return G(z * truncation_psi, c)

        return sampler.Sampler(synthesise, G.z_dim, spec, device, label_dim=spec.label.dim)

    @classmethod
    def judge_from(cls, snap: snapshot.Snapshot, device: torch.device | str = "cpu") -> method.Judge:
        D = snap.build("D", device)
        return lambda x, c: D(x, c)[:, 0]


def _attention(side: str, flag: str) -> source_fit.Trait:
    def of(kwargs: Any) -> list[int]:
        return sorted(networks.attention_at(kwargs.get(f"{side}_attn", "64"))) or [0]

    who = "generator" if side == "G" else "discriminator"
    return source_fit.Trait(f"its {who} has attention at {{}}", flag, of,
                            lambda kwargs: f"{flag}={kwargs.get(f'{side}_attn', '64')}")


def _shared(kwargs: Any) -> int:
    return kwargs.get("shared_dim", 0) if kwargs.get("G_shared", True) else 0


_G_TRAITS = [
    source_fit.key("its latent z has {} numbers", "--z_dim", "dim_z", default=128),
    source_fit.key("its generator's channel unit is {}", "--g_ch", "G_ch", default=64),
    source_fit.Trait("its shared class embedding has {} numbers", "--shared_dim", _shared),
    source_fit.key("its latent goes to every block: {}", "--hier", "hier", default=False),
    _attention("G", "--g_attn"),
    source_fit.key("its generator starts from {} pixels", None, "bottom_width", default=4),
]
_D_TRAITS = [
    source_fit.key("its discriminator's channel unit is {}", "--d_ch", "D_ch", default=64),
    _attention("D", "--d_attn"),
    source_fit.key("its discriminator's blocks are wide: {}", None, "D_wide", default=True),
]


def check_transfer_source(source: snapshot.Snapshot, data: DataSpec, net: str) -> dict[str, Any]:
    """Constructor arguments of the source's generator `net`; UserError, naming what does not fit `data`."""
    for name in ("D", net):
        if name not in source.nets:
            raise UserError(f"the source has no network {name}; it has {', '.join(source.nets)}")
    source_fit.finite(source)
    kwargs = source.nets[net].kwargs
    source_fit.images(kwargs.get("resolution", 128), kwargs.get("img_channels", 3), data)
    if source.method == "biggan" and kwargs.get("n_classes", 1000) < 2:
        raise UserError("the source has one class; new classes are combinations of at least two")
    return kwargs
