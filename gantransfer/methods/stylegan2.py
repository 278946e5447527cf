# SPDX-License-Identifier: Apache-2.0
"""StyleGAN2-ADA: the base method, conditional or not.

Losses: non-saturating logistic (others: losses/gan.py), R1 (Mescheder et al. 2018), path length (Karras et al. 2020,
"Analyzing and improving the image quality of StyleGAN", section 3.2), both applied lazily; adaptive augmentation
(Karras et al. 2020, "Training GANs with limited data"). As independent flags: DiffAugment (Zhao et al. 2020), LeCam
(Tseng et al. 2021), and what is made for long tails (losses/options.py, docs/tail.md).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import nn

from dnnlib.util import UserError
from gantransfer import method, sampler, snapshot, source_fit
from gantransfer.augment import ada, options
from gantransfer.data import resolution
from gantransfer.data.dataset import DataSpec
from gantransfer.data.names import valid_text
from gantransfer.losses import noisy_twins, penalties
from gantransfer.losses import options as loss_options
from gantransfer.losses.barlow_twins import barlow_twins
from gantransfer.method import Batch, Graph, Phase, RunConfig, option
from gantransfer.networks import stylegan2 as networks
from gantransfer.networks.sizes import ImageSize
from torch_utils import build, ema, optimizers
from torch_utils import distributed as dist
from torch_utils import random as rnd

# Presets. fmaps: channel_base / 32768. None: computed from resolution and processes.
CFGS: dict[str, dict[str, Any]] = {
    "auto": dict(ref_gpus=None, kimg=25000, batch=None, mbstd=None, fmaps=None, lr=None, gamma=None, ema=None,
                 ramp=0.05, map=2),
    "stylegan2": dict(ref_gpus=8, kimg=25000, batch=32, mbstd=4, fmaps=1, lr=0.002, gamma=10, ema=10, ramp=None, map=8),
    "paper256": dict(ref_gpus=8, kimg=25000, batch=64, mbstd=8, fmaps=0.5, lr=0.0025, gamma=1, ema=20, ramp=None,
                     map=8),
    "paper512": dict(ref_gpus=8, kimg=25000, batch=64, mbstd=8, fmaps=1, lr=0.0025, gamma=0.5, ema=20, ramp=None,
                     map=8),
    "paper1024": dict(ref_gpus=8, kimg=25000, batch=32, mbstd=4, fmaps=1, lr=0.002, gamma=2, ema=10, ramp=None, map=8),
    "cifar": dict(ref_gpus=2, kimg=100000, batch=64, mbstd=32, fmaps=1, lr=0.0025, gamma=0.01, ema=500, ramp=0.05,
                  map=2),
    "tiny": dict(ref_gpus=None, kimg=20, batch=16, mbstd=4, fmaps=None, lr=0.005, gamma=1, ema=2, ramp=0.05, map=2),
    "small": dict(ref_gpus=None, kimg=80, batch=32, mbstd=4, fmaps=None, lr=0.005, gamma=None, ema=5, ramp=0.05,
                  map=2),
}
FOR_CPU = ("tiny", "small")  # small networks, short runs, no regularisers that only pay in long ones


# What a method whose networks have their source's sizes does not decide, and so does not record.
SOURCE_SIZES = ("cbase", "cmax", "z_dim", "w_dim", "map_depth", "d_arch")
PRECISIONS = ("auto", "fp32", "fp16", "bf16")
# Numbers of the discriminator's largest feature map up to which two passes over a batch cost more than one over twice
# as many (measured on a CPU: 1.2 to 1.3 times at the size of `small`, 1.04 here, nothing four times above).
AT_ONCE = 1 << 21


@dataclass
class StyleGAN2Options(options.AugmentOptions):
    cfg: str = option("auto", "Preset of sizes and hyper-parameters", choices=tuple(CFGS))
    gamma: float | None = option(None, "R1 weight", type=float, low=0)
    aug: str = option("ada", "Augmentation of everything the discriminator sees", choices=options.AUGS)
    r1_aug: bool | None = option(None, "Whether R1 sees augmented reals (default true; false for tiny, small)",
                               type=bool)
    lecam: float = option(0.0, "Weight of the LeCam regulariser (published: 3e-7)", low=0)
    freezed: int = option(0, "Freeze this many high-resolution discriminator layers", low=0)
    precision: str = option("auto", "Arithmetic of the four highest resolutions: fp32, fp16, bf16; auto: what the "
                            "machine is fast at", choices=PRECISIONS)
    fp32: bool = option(False, "As --precision=fp32")
    nhwc: bool | None = option(None, "Channels-last memory in half-precision blocks (default: on a GPU)", type=bool)
    cbase: int | None = option(None, "Channels at resolution r: min(cbase / r, cmax)", type=int, low=1)
    cmax: int | None = option(None, "Largest number of channels (default 512)", type=int, low=1)
    z_dim: int | None = option(None, "Length of the input latent (default 512)", type=int, low=1)
    w_dim: int | None = option(None, "Length of the style vector (default 512)", type=int, low=1)
    map_depth: int | None = option(None, "Layers of the generator's mapping network", type=int, low=1)
    d_map_depth: int | None = option(None, "Layers of the discriminator's label mapping (default 8)", type=int, low=1)
    map_lr: float | None = option(None, "Learning-rate multiplier of the mapping networks (default 0.01)",
                                  type=float, low=1e-6)
    mbstd_group: int | None = option(None, "Samples per minibatch-deviation group", type=int, low=1)
    d_arch: str | None = option(None, "Discriminator architecture", choices=("resnet", "orig", "skip"))
    glr: float | None = option(None, "Generator learning rate", type=float, low=0)
    dlr: float | None = option(None, "Discriminator learning rate", type=float, low=0)
    pl_weight: float | None = option(None, "Path-length weight, 0 = off (default 2)", type=float, low=0)
    style_mix: float | None = option(None, "Style-mixing probability (default 0.9)", type=float, low=0, high=1)
    g_reg_interval: int | None = option(None, "Path length every so many steps, 0 = in every step's loss (default 4; "
                                        "0 for tiny, small)", type=int, low=0)
    d_reg_interval: int = option(16, "R1 every so many steps; 0 = in every step's loss", low=0)
    lazy_gain: bool = option(True, "Multiply lazy regularisation by its interval, so that weights mean what they say")
    ema_kimg: float | None = option(None, "Half-life of the averaged generator", type=float, low=0)
    ema_ramp: float | None = option(None, "Half-life grows with this share of the images shown; 0 = constant",
                                    type=float, low=0)


@dataclass
class TailOptions(StyleGAN2Options, loss_options.NoisyTwinsOptions):
    """With the flags of losses/options.py, for methods whose classes are those of the base."""


@dataclass
class Draws:
    """The random inputs of one loss evaluation, apart from noise maps and augmentation."""

    z: torch.Tensor  # [n, z_dim]
    c: torch.Tensor  # [n, label_dim]
    mix_z: torch.Tensor | None = None  # [n, z_dim]
    cutoff: int | torch.Tensor | None = None  # with mix_z: ws from this slot on come from it; a 0-dim integer
    pl_noise: torch.Tensor | None = None  # [k, C, H, W] standard normal
    noise: torch.Tensor | None = None  # [n, embedding] on the class embeddings
    mix_noise: torch.Tensor | None = None  # of mix_z
    twins: torch.Tensor | None = None  # []: NoisyTwins' loss of the w that were made of these
    fakes: list[torch.Tensor] | None = None  # what Dmain has made of these, as `heads` takes it

    def first(self, k: int) -> Draws:
        """The rows 0 to k - 1."""
        def part(x):
            return None if x is None else x[:k]

        return Draws(self.z[:k], self.c[:k], part(self.mix_z), self.cutoff, None, part(self.noise),
                     part(self.mix_noise))


class Head(NamedTuple):
    """What one head of the discriminator says of n images."""

    logits: torch.Tensor  # [n, 1]
    weight: float = 1.0  # of its loss
    name: str = ""  # behind the names of its statistics


class StyleGAN2(method.Method):
    name = "stylegan2"
    Options: ClassVar[type[method.Options]] = TailOptions
    generator_cls: ClassVar[type[nn.Module]] = networks.Generator
    discriminator_cls: ClassVar[type[nn.Module]] = networks.Discriminator
    pl_decay, pl_batch_shrink, lecam_decay = 0.01, 2, 0.99
    noise_mode = "random"  # tests compare with fixed noise
    # Tensors that a --resume source may lack: those that serve labels.
    may_be_fresh: ClassVar[dict[str, tuple[str, ...]]] = {"G": ("mapping.embed.",), "D": ("mapping.", "b4.out")}

    # ---- options -------------------------------------------------------------------------------------------------

    @classmethod
    def resolve(cls, o: StyleGAN2Options, run: RunConfig, data: DataSpec) -> None:
        cfg, res = CFGS[o.cfg], data.size.longer
        resolution.require(data.size, data.path or data.name, 8, f"--method={cls.name}")  # the discriminator does
        for_cpu, resuming = o.cfg in FOR_CPU, run.resume not in (None, "noresume")
        mbstd = cfg["mbstd"]
        batch = cfg["batch"]
        if o.cfg == "auto":
            batch = max(min(run.num_procs * min(4096 // res, 32), 64), run.num_procs)
            mbstd = min(max(batch // run.num_procs, 1), 4)
        if run.batch is None and run.batch_gpu is None:
            # The preset's share of its own machine, or less where more processes divide the batch.
            run.batch_gpu = max(batch // max(cfg["ref_gpus"] or 1, run.num_procs), 1)
        method.resolve_schedule(run, batch=batch, kimg=cfg["kimg"], tick={"tiny": 1, "small": 2}.get(o.cfg, 4),
                                snap=5 if for_cpu else 50)
        method.fill(o, mbstd_group=mbstd)
        whole = run.batch_gpu * run.num_procs
        if whole > o.mbstd_group and whole % o.mbstd_group:
            raise UserError(f"{whole} images per round do not split into minibatch-deviation "
                            f"groups of {o.mbstd_group}; set --mbstd-group or --batch-gpu so that they divide")
        if o.fp32 and o.precision not in ("auto", "fp32"):
            raise UserError(f"--fp32=True and --precision={o.precision} exclude each other; omit one of them")
        o.precision = "fp32" if o.fp32 else o.precision
        o.fp32 = o.precision == "fp32"
        method.fill(run, metrics="smoke" if for_cpu else "fid50k_full")

        lr = cfg["lr"] or (0.002 if res >= 1024 else 0.0025)
        fmaps = cfg["fmaps"] or (1 if res >= 512 else 0.5)
        dim, plain_loss = 64 if for_cpu else 512, for_cpu or o.cfg == "cifar"
        method.fill(
            o, glr=lr, dlr=lr, gamma=cfg["gamma"], ema_kimg=cfg["ema"],
            ema_ramp=0.0 if resuming else cfg["ramp"] or 0.0,
            cbase=32 * res if for_cpu else int(fmaps * 32768), cmax=32 if for_cpu else 512, z_dim=dim, w_dim=dim,
            map_depth=cfg["map"], d_map_depth=2 if for_cpu else 8, map_lr=0.1 if for_cpu else 0.01,
            d_arch="orig" if o.cfg == "cifar" else "resnet", pl_weight=0.0 if plain_loss else 2.0,
            style_mix=0.0 if plain_loss else 0.9,
            # It slows the optimiser even where the weight is zero (as published); short runs have no time for that.
            g_reg_interval=0 if for_cpu else 4)
        method.fill(o, gamma=0.0002 * data.size.pixels / batch, ema_kimg=batch * 10 / 32)  # of presets without
        # ADA at its published speed does nothing within so short a run.
        if o.cfg == "tiny" and o.aug == "ada" and o.target is None and o.augpipe is None:
            o.aug, o.diffaug = "noaug", o.diffaug or "light"
        if o.cfg == "small" and o.aug in ("ada", "ada-class"):
            method.fill(o, ada_kimg=50.0)
        options.resolve(o, run, data)
        method.fill(o, r1_aug=not for_cpu)
        if isinstance(o, loss_options.LossOptions):
            loss_options.resolve(o, run, data, "logistic")

    @classmethod
    def run_name(cls, o: StyleGAN2Options, given: dict[str, Any], run: RunConfig, data: DataSpec) -> str:
        d = data.name + ("-cond" if data.label.dim else "")
        d += f"-subset{data.max_size}" if given.get("subset") is not None else ""
        d += ("-mirror" if data.xflip else "") + f"-{o.cfg}" + (str(run.num_procs) if o.cfg == "auto" else "")
        d += method.said(given, "gamma", "kimg", "batch", "aug", "p", "target", "augpipe")
        if given.get("resume") is not None:
            from_name = given["resume"] in given.get("resume_names", ())
            d += ("-noresume" if given["resume"] == "noresume" else
                  f"-resume{given['resume']}" if from_name else "-resumecustom")
        d += method.said(given, "freezed")
        return d + (loss_options.name_of(o) if isinstance(o, loss_options.LossOptions) else "")

    @classmethod
    def config(cls, o: StyleGAN2Options, run: RunConfig, data: DataSpec) -> dict[str, Any]:
        """The published option tree (`G_kwargs`, ...); networks and optimisers are built from it."""
        half = dict(num_fp16_res=0 if o.fp32 else 4, conv_clamp=None if o.fp32 else 256)
        widths = dict(channel_base=o.cbase, channel_max=o.cmax)
        nhwc = {"fp16_channels_last": True} if o.nhwc else {}
        frozen = {"freeze_layers": o.freezed} if o.freezed or "freezed" in o.given else {}
        lr_mult = {} if o.map_lr == 0.01 else {"lr_multiplier": o.map_lr}
        adam = dict(class_name="torch.optim.Adam", betas=[0, 0.99], eps=1e-8)
        c = dict(
            G_kwargs=dict(class_name=_path(cls.generator_cls), z_dim=o.z_dim, w_dim=o.w_dim,
                          mapping_kwargs={"num_layers": o.map_depth, **lr_mult},
                          synthesis_kwargs={**widths, **half, **nhwc}),
            D_kwargs=dict(class_name=_path(cls.discriminator_cls),
                          block_kwargs={**nhwc, **frozen},
                          mapping_kwargs={**({} if o.d_map_depth == 8 else {"num_layers": o.d_map_depth}), **lr_mult},
                          epilogue_kwargs={"mbstd_group_size": o.mbstd_group}, **widths, **half),
            G_opt_kwargs=dict(adam, lr=o.glr), D_opt_kwargs=dict(adam, lr=o.dlr),
            loss_kwargs=dict(class_name=_path(cls), r1_gamma=o.gamma),
            ema_kimg=o.ema_kimg, ema_rampup=o.ema_ramp or None,
        )
        if o.d_arch != "resnet":
            c["D_kwargs"]["architecture"] = o.d_arch
        if o.pl_weight != 2:
            c["loss_kwargs"]["pl_weight"] = o.pl_weight
        if o.style_mix != 0.9:
            c["loss_kwargs"]["style_mixing_prob"] = o.style_mix
        if o.aug != "noaug":
            c["augment_kwargs"] = dict(ada.AUGPIPES[o.augpipe], class_name=_path(ada.AugmentPipe))
        if o.aug == "ada":
            c["ada_target"] = o.target
            if o.ada_kimg != 500:
                c["ada_kimg"] = o.ada_kimg
        if o.aug == "fixed":
            c["augment_p"] = o.p
        return c

    @classmethod
    def runtime(cls, o: StyleGAN2Options, run: RunConfig) -> dict[str, Any]:
        """What 'auto' means on this machine. Tiny runs stay float32 on a CPU: there is little to gain, and they give
        the same images on all machines. With AVX512-BF16 alone wide layers do too: minimal filtering, which is
        float32's, is faster from 64 channels on (docs/speed.md)."""
        device = torch.device(run.device)
        dtype = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}.get(o.precision)
        if dtype is None and device.type == "cuda":
            dtype = "bfloat16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float16"
        elif dtype is None:
            flags, narrow = build.cpu_flags(), o.cmax is not None and o.cmax <= 32
            fast = flags & {"amx_bf16", "bf16"} or narrow and "avx512_bf16" in flags
            dtype = "bfloat16" if fast and o.cfg != "tiny" else "float32"
        nhwc = device.type == "cuda" if o.nhwc is None else o.nhwc
        return {"precision": dtype, "channels_last": nhwc and dtype != "float32"}

    @classmethod
    def check_source(cls, o: StyleGAN2Options, data: DataSpec, source: snapshot.Snapshot | None, stage: str) -> None:
        if source is None:
            return
        G = source_fit.kind(source, "G", (networks.Generator, cls.generator_cls), cls.name)
        D = source_fit.kind(source, "D", (networks.Discriminator, cls.discriminator_cls), cls.name)
        source_fit.images(G.kwargs.get("img_resolution"), G.kwargs.get("img_channels"), data)
        tree, labels = cls.config(o, RunConfig(), data), bool(D.kwargs.get("c_dim") and data.label.dim)
        own = [dict(_without_class(tree[k]), img_resolution=data.resolution) for k in ("G_kwargs", "D_kwargs")]
        source_fit.same([(G.kwargs, own[0], _G_TRAITS),
                         (D.kwargs, own[1], [*_D_TRAITS, *(_LABEL_TRAITS if labels else ())])])

    # ---- networks ------------------------------------------------------------------------------------------------

    def __init__(self, opts, data, run, start=method.FRESH, stage=None):
        super().__init__(opts, data, run, start, stage)
        self.tree = self.config(opts, run, data)
        self.nets = {"G": self.build_generator(start), "D": self.build_discriminator(start)}
        self.nets["G_ema"] = copy.deepcopy(self.nets["G"]).eval()
        if start.weights is not None:
            self.load_source(start.weights)
        for net in self.nets.values():
            net.to(self.device)
        how = self.runtime(opts, replace(run, device=str(self.device)))
        if how["precision"] != "float32":
            for name, net in self.nets.items():  # images of the average are made in the way that a snapshot's are
                networks.compute_in(net, None if name == "G_ema" else how["precision"], how["channels_last"])
        self.G, self.D, self.G_ema = self.nets["G"].train(), self.nets["D"].train(), self.nets["G_ema"]
        self.augmentation = options.Augmentation(opts, self.device, self.data.label.dim)
        self.losses = loss_options.Losses(opts, run, data, self.device, "logistic")
        self.losses.watch(self.G)
        self.pl_mean = torch.zeros([], device=self.device)
        self.lecam = torch.zeros([2], device=self.device)  # running means of real and of generated logits
        self.steps = 0

    def _sizes(self) -> dict[str, int]:
        return dict(c_dim=self.data.label.dim, img_resolution=self.data.resolution, img_channels=self.data.channels)

    def build_generator(self, start: method.Start) -> nn.Module:
        return self.generator_cls(**_without_class(self.tree["G_kwargs"]), **self._sizes())

    def build_discriminator(self, start: method.Start) -> nn.Module:
        return self.discriminator_cls(**_without_class(self.tree["D_kwargs"]), **self._sizes())

    def load_source(self, source: snapshot.Snapshot) -> None:
        """Copy a snapshot's weights where they fit, and say what happened to each tensor."""
        for name, net in self.nets.items():
            have = name if name in source.nets else {"G": "G_ema", "G_ema": "G"}.get(name)
            if have not in source.nets:
                raise UserError(f"the --resume snapshot has no network {name}; it cannot be trained further")
            report = self.transfer_net(name, source, source.nets[have].state, net)
            dist.print0(report.table(f"{name} from {have} of the {source.method} source"))

    def transfer_net(self, name: str, source: snapshot.Snapshot, state: dict, net: nn.Module) -> snapshot.Report:
        columns = _label_columns((source.data or {}).get("label") or {}, self.data.label)
        adapt = {"mapping.embed.weight": lambda s, f: _remap_labels(s, f, columns)}
        if name != "D":
            adapt["mapping.fc0.weight"] = _resize_inputs
        fresh = self.may_be_fresh["D" if name == "D" else "G"]
        return snapshot.transfer(
            state, net, adapt=adapt, may_initialise=lambda n: n.startswith(fresh),
            # What serves labels alone has no place in an unconditional network.
            may_drop=lambda n: n.startswith(("mapping.", "b4.out") if name == "D" else "mapping.embed."),
        )

    # ---- phases --------------------------------------------------------------------------------------------------

    def phases(self) -> list[Phase]:
        o, phases = self.opts, []
        for key, lr, interval, reg_on in (("G", o.glr, o.g_reg_interval, o.pl_weight > 0),
                                          ("D", o.dlr, o.d_reg_interval, o.gamma > 0 or self.losses.r2_gamma > 0)):
            params = self.trainable(key)
            # Lazy regularisation: one optimiser for both losses, slowed so that k+1 updates move as far as k.
            r = interval / (interval + 1) if interval else 1.0
            opt = optimizers.Adam(params, lr=lr * r, betas=(0.0, 0.99**r), eps=1e-8, fused=True)
            if not interval:
                phases.append(Phase(f"{key}both", params, opt, graph=self.graph(key, reg_on)))
                continue
            phases.append(Phase(f"{key}main", params, opt, graph=self.graph(key)))
            if reg_on:
                gain = None if o.lazy_gain else 1.0
                phases.append(Phase(f"{key}reg", params, opt, every=interval, gain=gain, graph=self.graph(key, True)))
        return phases

    def graph(self, key: str, second_order: bool = False) -> Graph | None:
        """`Phase.graph`. A class built on this one has code of its own, and says itself that it is prepared."""
        return graph_of(self, key, second_order) if type(self) is StyleGAN2 else None

    def trainable(self, key: str) -> list[nn.Parameter]:
        """What is trained of G or D; frozen layers are buffers."""
        # A loss of pairs does not see what both logits have in common: the gradient of the heads' biases is rounding
        # noise, which Adam would turn into steps of full length.
        idle = key == "D" and self.losses.gan.paired and not self.opts.lecam
        return [p for n, p in self.nets[key].named_parameters()
                if not (idle and n.startswith("b4.out") and n.endswith(".bias"))]

    def draw(self, phase: str, batch: Batch) -> Draws:
        """Latents, labels, style mixing and path-length noise of one micro-batch."""
        n, o = len(batch.x), self.opts
        if phase == "Greg":
            n = max(n // self.pl_batch_shrink, 1)
        if phase == "Dreg" and not self.losses.r2_gamma:
            n = 0
        z = rnd.randn([n, self.G.z_dim], batch.rng, self.device)
        d = Draws(z=z, c=batch.draw_c(n))
        if n and o.style_mix > 0:
            d.mix_z = rnd.randn([n, self.G.z_dim], batch.rng, self.device)
            cutoff = rnd.randint(1, self.G.num_ws, [], batch.choices, self.device)
            mixed = rnd.rand([], batch.choices, self.device).double() < o.style_mix
            d.cutoff = torch.where(mixed, cutoff, self.G.num_ws)  # on the device: nobody waits, and it can be recorded
        if phase in ("Greg", "Gboth") and o.pl_weight > 0:
            k = n if phase == "Greg" else max(n // self.pl_batch_shrink, 1)
            d.pl_noise = rnd.randn([k, self.data.channels, *self.data.size], batch.rng, self.device)
        self.draw_for_classes(phase, batch, d)
        return d

    def draw_for_classes(self, phase: str, batch: Batch, d: Draws) -> None:
        """What the losses want of latents and labels."""
        losses = self.losses
        if losses.gan.paired:
            d.c = batch.c[: len(d.z)]  # of a pair both have one label
        if losses.twins and phase in ("Gmain", "Gboth"):
            d.z, d.c = noisy_twins.twice(d.z), noisy_twins.twice(d.c)
        if losses.sigma is not None:
            size = self.G.mapping.embed.weight.shape[0]
            d.noise = losses.noise(d.c, size, batch.rng)
            d.mix_noise = None if d.mix_z is None else losses.noise(d.c, size, batch.rng)

    def loss(self, phase: str, batch: Batch) -> Iterator[torch.Tensor]:
        draws = self.draw(phase, batch)
        yield from getattr(self, phase)(batch, draws)

    def ws(self, phase: str, d: Draws) -> torch.Tensor:
        """[n, num_ws, w_dim] with style mixing; remembers the batch mean for the running average."""
        n, seen = len(d.z), []
        if d.mix_z is None:
            ws = self.map(d.z, d.c, seen, d.noise)
        else:  # both kinds of w in one pass
            noise = None if d.noise is None else torch.cat([d.noise, d.mix_noise])
            ws, other = self.map(torch.cat([d.z, d.mix_z]), torch.cat([d.c, d.c]), seen, noise).split(n)
        if phase != "Dreg":
            self._remember(phase, "w_mean", torch.stack([w[:n].mean(0) for w in seen]))
        if phase == "Gmain" and self.losses.twins:
            a, b = ws[:, -1].chunk(2)  # the last is the label's own in every method
            d.twins = barlow_twins(a, b, self.losses.gamma) * self.losses.twins
            self.report("Loss/G/twins", d.twins)
        return ws if d.mix_z is None else mixed_styles(ws, other, d.cutoff)

    def map(self, z: torch.Tensor, c: torch.Tensor, out: list[torch.Tensor],
            noise: torch.Tensor | None = None) -> torch.Tensor:
        """The mapping network; w [n, w_dim] of each of its running averages is appended to `out`."""
        return self.G.mapping(z, c, w_out=out, label_noise=noise)

    def synthesise(self, ws: torch.Tensor, batch: Batch, **kw):
        return self.G.synthesis(ws, noise_mode=self.noise_mode, rng=batch.rng, **kw)

    def augmented(self, images: list[torch.Tensor], batch: Batch, c: torch.Tensor) -> list[torch.Tensor]:
        return [self.augmentation(x, batch.rng, batch.choices, c) if self.augmentation else x for x in images]

    # What the discriminator says. The first head is the one that R1, LeCam and the augmentation's controller look at.

    def heads(self, images: list[torch.Tensor], c: torch.Tensor, batch: Batch, kind: str) -> list[Head]:
        """Of images as `as_judged` and `synthesise_pair` make them; kind: 'real', 'fake', or 'rival' for reals in the
        generator's loss."""
        return self.named(kind, self.logits(self.augmented(images, batch, c), c), c)

    def logits(self, shown: list[torch.Tensor], c: torch.Tensor) -> list[torch.Tensor]:
        """[n, 1] for each head, of n images in one size or more."""
        return [self.D(*shown, c)]

    def about_heads(self) -> list[tuple[float, str]]:
        """Weight and name of each head."""
        return [(1.0, "")]

    def named(self, kind: str, logits: list[torch.Tensor], c: torch.Tensor) -> list[Head]:
        return [self.head(kind, x, c, *about) for x, about in zip(logits, self.about_heads(), strict=True)]

    def head(self, kind: str, logits: torch.Tensor, c: torch.Tensor, weight: float = 1.0, name: str = "") -> Head:
        """With its statistics reported; a first head has no name."""
        known = logits.detach()
        self.report(f"Loss/scores/{kind}{name}", known)
        self.report(f"Loss/signs/{kind}{name}", known.sign())
        if kind == "real" and not name and not self.losses.gan.paired:
            self.augmentation.observe(known, c)
        return Head(logits, weight, name)

    def as_judged(self, x: torch.Tensor, batch: Batch) -> list[torch.Tensor]:
        """Real images as `heads` takes them; `x` is `batch.x`, perhaps with a gradient."""
        return [x]

    def synthesise_pair(self, ws: torch.Tensor, batch: Batch) -> list[torch.Tensor]:
        """Generated images as `heads` takes them: UTLO's are pairs, while path length and R2 are of the image alone."""
        return [self.synthesise(ws, batch)]

    def Gmain(self, batch: Batch, d: Draws) -> Iterator[torch.Tensor]:
        loss = self.generator_loss(batch, d)
        self.report("Loss/G/loss", loss)
        yield loss
        yield from self.losses.on_weights(self.report)

    def generator_loss(self, batch: Batch, d: Draws) -> torch.Tensor:
        """[n, 1]."""
        gan, loss = self.losses.gan, 0.0
        fake = self.heads(self.synthesise_pair(self.ws("Gmain", d), batch), d.c, batch, "fake")
        for h, rival in zip(fake, self.rivals(batch, d) if gan.paired else [None] * len(fake)):
            term = h.weight * gan.generator(h.logits, rival)
            if h.name:
                self.report(f"Loss/G/loss{h.name}", term)
            loss = loss + term
        return loss if d.twins is None else loss + d.twins

    @torch.no_grad()
    def rivals(self, batch: Batch, d: Draws) -> list[torch.Tensor]:
        """Of each head, the logits of the real images that the generated ones are compared with."""
        heads = self.heads(self.as_judged(batch.x, batch), batch.c, batch, "rival")
        return [noisy_twins.twice(h.logits) if self.losses.twins else h.logits for h in heads]

    def Greg(self, batch: Batch, d: Draws) -> Iterator[torch.Tensor]:
        k = len(d.pl_noise)
        ws = self.ws("Greg", d.first(k))
        if not ws.requires_grad:  # of a mapping that rests, as in mind_tune
            ws.requires_grad_()
        img = self.synthesise(ws, batch)
        noise = d.pl_noise / np.sqrt(img.shape[2] * img.shape[3])
        (grad,) = torch.autograd.grad((img * noise).sum(), ws, create_graph=True)  # [k, num_ws, w_dim]
        lengths = grad.square().sum(2).mean(1).sqrt()
        # The mean is part of the graph, as published; every micro-batch starts from the step's first mean.
        mean = self.pl_mean + self.pl_decay * (dist.mean_of_all(lengths.mean()) - self.pl_mean)
        self._remember("Greg", "pl_mean", mean.detach())
        penalty = (lengths - mean).square()
        self.report("Loss/pl_penalty", penalty)
        self.report("Loss/G/reg", penalty * self.opts.pl_weight)
        yield penalty * self.opts.pl_weight

    def Gboth(self, batch: Batch, d: Draws) -> Iterator[torch.Tensor]:
        yield from self.Gmain(batch, d)
        if self.opts.pl_weight > 0:
            yield from self.Greg(batch, d)

    def Dmain(self, batch: Batch, d: Draws, reg: bool = False) -> Iterator[torch.Tensor]:
        gan, weight = self.losses.gan, self.losses.weight(batch.c)
        with torch.no_grad():
            d.fakes = self.synthesise_pair(self.ws("Dmain", d), batch)
        x, together = batch.x.detach().requires_grad_(reg), not reg and self.takes_both(len(batch.x))
        reals = self.as_judged(x, batch)
        if together:
            on_fake, on_real = self.heads_of_both(d.fakes, d.c, reals, batch)
        else:
            on_fake = self.heads(d.fakes, d.c, batch, "fake")
        fake = torch.zeros([], device=self.device)
        if not gan.paired:
            fake = self.total(on_fake, [gan.on_fake(h.logits) for h in on_fake], "fake")
        if not together:
            if not gan.paired:
                yield fake
            on_real = self.heads(reals, batch.c, batch, "real")
        if gan.paired:
            terms = [gan.discriminator(f.logits, r.logits) for f, r in zip(on_fake, on_real)]
            terms[0] = terms[0] + self.pull(on_fake[0].logits, "fake")
            # Only the difference of a pair has a meaning: a real image counts as recognised where it beats its rival.
            self.augmentation.observe((on_real[0].logits - on_fake[0].logits).detach(), batch.c)
        else:
            terms = [gan.on_real(h.logits) for h in on_real]
        real = self.total(on_real, terms, "real", weight)
        self.report("Loss/D/loss", fake.detach() + real)
        loss = fake + real if together else real
        yield loss + self.r1(on_real[0].logits, x) * weight if reg else loss

    def takes_both(self, n: int) -> bool:
        """Whether n generated and n real images go through the discriminator at once: less time where that is more than
        the arithmetic, the same numbers where minibatch deviation keeps its groups."""
        if not isinstance(self.D, networks.Discriminator) or self.D.b4.mbstd is None:
            return False
        group, first = self.D.b4.mbstd.group_size, getattr(self.D, f"b{self.D.block_resolutions[0]}").conv0.weight
        whole_groups = group is not None and n % group == 0
        return whole_groups and n * self.data.size.pixels * first.shape[1] <= AT_ONCE

    def heads_of_both(self, fake: list[torch.Tensor], c: torch.Tensor, real: list[torch.Tensor],
                      batch: Batch) -> tuple[list[Head], list[Head]]:
        """`heads` of generated images with labels c and of the batch's, in one pass."""
        of_each = [self.augmented(fake, batch, c), self.augmented(real, batch, batch.c)]
        weave = networks.Weave(len(c), self.D.b4.mbstd.group_size)
        logits = self.logits([weave(a, b) for a, b in zip(*of_each)], weave(c, batch.c))
        a, b = zip(*map(weave.apart, logits))
        return self.named("fake", list(a), c), self.named("real", list(b), batch.c)

    def total(self, heads: list[Head], terms: list[torch.Tensor], kind: str,
              weight: torch.Tensor | float = 1.0) -> torch.Tensor:
        """[n, 1]: the heads' losses by their weights, with LeCam's in the first one; times the images' own `weight`."""
        terms[0] = terms[0] + self.pull(heads[0].logits, kind, weight)
        return sum(h.weight * t for h, t in zip(heads, terms)) * weight

    def Dreg(self, batch: Batch, d: Draws) -> Iterator[torch.Tensor]:
        yield from self.penalties(batch, d, self.opts.gamma > 0)

    def penalties(self, batch: Batch, d: Draws, r1: bool) -> Iterator[torch.Tensor]:
        """R1 (if `r1`) and R2, in passes of their own."""
        if r1:
            x = batch.x.detach().requires_grad_(True)
            yield self.r1(self.head("real", self.r1_logits(x, batch.c, batch), batch.c).logits, x) * (
                self.losses.weight(batch.c))
        if self.losses.r2_gamma:
            with torch.no_grad():
                x = self.synthesise(self.ws("Dreg", d), batch)
            penalty = penalties.squared_gradient(self.r1_logits(x.requires_grad_(True), d.c, batch), x)[:, None]
            self.report("Loss/r2_penalty", penalty)
            yield penalty * (self.losses.r2_gamma / 2)

    def r1_logits(self, x: torch.Tensor, c: torch.Tensor, batch: Batch) -> torch.Tensor:
        """What R1 and R2 are taken of."""
        return self.logits(self.augmented([x], batch, c) if self.opts.r1_aug else [x], c)[0]

    def r1(self, logits: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """[n, 1]: gamma/2 |d logits / d x|^2."""
        penalty = penalties.squared_gradient(logits, x)[:, None]
        loss = penalty * (self.opts.gamma / 2)
        self.report("Loss/r1_penalty", penalty)
        self.report("Loss/D/reg", loss)
        return loss

    def Dboth(self, batch: Batch, d: Draws) -> Iterator[torch.Tensor]:
        # One pass over the reals serves the loss and R1, where R1 sees what the loss sees.
        r1 = self.opts.gamma > 0
        at_once = r1 and (self.opts.r1_aug or not self.augmentation)
        yield from self.Dmain(batch, d, reg=at_once)
        yield from self.penalties(batch, d, r1 and not at_once)

    def pull(self, logits: torch.Tensor, kind: str, weight: torch.Tensor | float = 1.0) -> torch.Tensor | float:
        """LeCam, equation 5: reals are pulled to the running mean of generated logits, and the other way round. In the
        mean the images count by their `weight`."""
        if self.opts.lecam == 0:
            return 0.0
        self._remember("D", f"logits_{kind}", (logits.detach() * weight).mean())
        if self.steps == 0:
            return 0.0  # no mean yet, and zero would pull all logits to zero
        penalty = (logits - self.lecam[0 if kind == "fake" else 1]).square()
        self.report(f"Loss/lecam/{kind}", penalty)
        return penalty * self.opts.lecam

    # ---- after the phases ------------------------------------------------------------------------------------------

    def _remember(self, phase: str, key: str, value: torch.Tensor) -> None:
        self.pending.setdefault(f"{phase}/{key}", []).append(value.detach())

    def commit(self) -> None:
        """Apply what the step's micro-batches saw to the running means, averaged over all processes: the result does
        not depend on how a batch is split over processes."""
        if not self.pending:
            return
        means = {k: torch.stack(v).mean(0) for k, v in self.pending.items()}
        flat = torch.cat([m.float().reshape(-1) for m in means.values()])
        flat = dist.all_reduce_sum(flat) / dist.world_size()
        at = 0
        for key, m in means.items():
            value = flat[at : at + m.numel()].view_as(m)
            at += m.numel()
            self._apply(key.split("/")[1], value)
        self.pending = {}

    def _apply(self, key: str, value: torch.Tensor) -> None:
        if key == "w_mean":
            self.update_w_avg(value)
        elif key == "pl_mean":
            self.pl_mean = value.reshape([])
        elif key.startswith("logits_"):
            i = 0 if key == "logits_real" else 1
            decay = self.lecam_decay if self.steps else 0.0
            self.lecam[i] = self.lecam[i] * decay + value.reshape([]) * (1 - decay)

    def update_w_avg(self, means: torch.Tensor) -> None:
        self.G.mapping.update_w_avg(means[0])

    def end_step(self, cur_nimg: int, batch_size: int) -> None:
        self.commit()
        self.update_ema(cur_nimg, batch_size)
        self.steps += 1
        self.augmentation.end_step(self.steps, batch_size)
        self.losses.end_step(cur_nimg + batch_size)

    def update_ema(self, cur_nimg: int, batch_size: int) -> None:
        o = self.opts
        ema.step_network(self.G_ema, self.G, ema.decay(batch_size, o.ema_kimg, cur_nimg, o.ema_ramp))

    def state(self) -> dict[str, Any]:
        return dict(pl_mean=self.pl_mean, lecam=self.lecam, steps=self.steps, **self.augmentation.state(),
                    **self.losses.state())

    def load_state(self, s: dict[str, Any]) -> None:
        self.pl_mean, self.lecam = s["pl_mean"].to(self.device), s["lecam"].to(self.device)
        self.steps = s["steps"]
        self.augmentation.load_state(s)
        self.losses.load_state(s)

    def progress(self) -> dict[str, float]:
        return {"augment": self.augmentation.p}

    def snapshot(self, cur_nimg: int) -> snapshot.Snapshot:
        snap = super().snapshot(cur_nimg)
        snap.extra["augment_p"] = self.progress()["augment"]
        return snap

    # ---- sampling --------------------------------------------------------------------------------------------------

    def sampler(self) -> sampler.Sampler:
        return self.sampler_of(self.G_ema, self.data, self.device)

    @classmethod
    def sampler_from(cls, snap: snapshot.Snapshot, device: torch.device | str = "cpu") -> sampler.Sampler:
        return cls.sampler_of(snap.build("G_ema", device), DataSpec.from_dict(snap.data), device)

    @classmethod
    def sampler_of(cls, G: nn.Module, spec: DataSpec, device: torch.device | str) -> sampler.Sampler:
        return sampler.Sampler(G, G.z_dim, spec, device, label_dim=G.c_dim, network=G)

    @classmethod
    def judge_from(cls, snap: snapshot.Snapshot, device: torch.device | str = "cpu") -> method.Judge:
        D = alone(snap.build("D", device))
        return lambda x, c: D(x, c)[:, 0]


def graph_of(m: StyleGAN2, key: str, second_order: bool) -> Graph:
    """`Phase.graph` of the losses of `m.nets[key]`."""
    obstacles = ["second order"] if second_order else []
    if dist.world_size() > 1 and m.run.batch_gpu % m.opts.mbstd_group:
        obstacles.append("minibatch deviation gathers over processes")
    if key == "D" and m.opts.lecam:
        obstacles.append("LeCam's first step is unlike the others")
    if key == "G":
        obstacles += m.losses.obstacles()
    return Graph((*obstacles, *m.augmentation.obstacles()))


def alone(D: nn.Module) -> nn.Module:
    """`D` without statistics over a batch: what it says of an image depends on no other."""
    for m in D.modules():
        if isinstance(m, networks.MinibatchStd):
            m.group_size = 1
    return D


def mixed_styles(ws: torch.Tensor, other: torch.Tensor, cutoff: int | torch.Tensor) -> torch.Tensor:
    """[n, L, D]: `ws` before slot `cutoff`, `other` from it on."""
    own = torch.arange(ws.shape[1], device=ws.device) < cutoff
    return torch.where(own[:, None], ws, other)


def _widths(place: str | None) -> source_fit.Trait:
    """Channels by resolution, wherever the arguments have them."""
    def sizes(kwargs: dict[str, Any]) -> tuple[int, int]:
        k = kwargs if place is None else kwargs.get(place) or {}
        return k.get("channel_base") or 32768, k.get("channel_max") or 512

    def of(kwargs: dict[str, Any]) -> list[int]:
        return [networks.channels_at(r, *sizes(kwargs)) for r in ImageSize.of(kwargs["img_resolution"]).levels]

    return source_fit.Trait(f"its {'generator' if place else 'discriminator'} has {{}} channels from the first map up",
                            None, of, lambda kwargs: "--cbase={} --cmax={}".format(*sizes(kwargs)))


_G_TRAITS = [
    source_fit.key("its latent z has {} numbers", "--z_dim", "z_dim"),
    source_fit.key("its latent w has {} numbers", "--w_dim", "w_dim"),
    source_fit.key("its mapping network has {} layers", "--map_depth", "mapping_kwargs", "num_layers", default=8),
    source_fit.key("its mapping learns at {} of the rate", "--map_lr", "mapping_kwargs", "lr_multiplier", default=0.01),
    source_fit.key("its mapping network is {} wide inside", None, "mapping_kwargs", "layer_features", default="w"),
    _widths("synthesis_kwargs"),
    source_fit.key("its generator's architecture is {}", None, "synthesis_kwargs", "architecture", default="skip"),
    source_fit.key("its generator's activation is {}", None, "synthesis_kwargs", "activation", default="lrelu"),
]
_D_TRAITS = [
    _widths(None),
    source_fit.key("its discriminator's architecture is {}", "--d_arch", "architecture", default="resnet"),
    source_fit.key("its discriminator's activation is {}", None, "block_kwargs", "activation", default="lrelu"),
    source_fit.key("its discriminator has {} maps of the minibatch deviation", None, "epilogue_kwargs",
                   "mbstd_num_channels", default=1),
]
_LABEL_TRAITS = [
    source_fit.key("its discriminator's label mapping has {} layers", "--d_map_depth", "mapping_kwargs", "num_layers",
                   default=8),
    source_fit.key("its label mapping learns at {} of the rate", "--map_lr", "mapping_kwargs", "lr_multiplier",
                   default=0.01),
]


def _path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _without_class(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in copy.deepcopy(kwargs).items() if k != "class_name"}


def _resize_inputs(src: torch.Tensor, fresh: torch.Tensor) -> torch.Tensor:
    """mapping.fc0 [w, z] of an unconditional source to [w, z + embed]: equal outputs for every class at the start; or
    the other way round, dropping the label's columns.

    Weights are stored before the run-time gain 1/sqrt(inputs), hence the factor.
    """
    out = torch.zeros_like(fresh)
    k = min(src.shape[1], fresh.shape[1])
    out[:, :k] = src[:, :k] * np.sqrt(fresh.shape[1] / src.shape[1])
    return out


def _label_columns(src: dict[str, Any], dst: Any) -> list[int | None]:
    """For each of our classes the source's class of the same name, or None."""
    names = {valid_text(str(n)): i for i, n in enumerate(src.get("names") or [])}
    return [names.get(n) for n in dst.names] if dst.names else [None] * dst.dim


def _remap_labels(src: torch.Tensor, fresh: torch.Tensor, columns: list[int | None]) -> torch.Tensor:
    """mapping.embed.weight [e, classes] for other classes: known names keep their column; a new class starts between
    the mean of the known ones and one of them, so that new classes differ from each other."""
    gain = np.sqrt(fresh.shape[1] / src.shape[1])  # stored before the run-time gain 1/sqrt(classes)
    mean, rng = src.mean(1), np.random.RandomState(0)
    out = torch.empty_like(fresh)
    for k in range(fresh.shape[1]):
        known = columns[k] if k < len(columns) else None
        out[:, k] = src[:, known] if known is not None else mean + 0.5 * src[:, rng.randint(src.shape[1])]
    return out * gain
