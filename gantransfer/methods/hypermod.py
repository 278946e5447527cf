# SPDX-License-Identifier: Apache-2.0
"""Hyper-Modulation (Laria et al., CVPR Workshops 2022): an unconditional StyleGAN becomes class-conditional.

The source's generator is frozen; hypernetworks make its kernels follow the label (networks/hypermod.py; on StyleGAN v1,
as published, networks/hyper1.py). The discriminator starts from the source's and has one head per class.

With --hyper-init=exact the generator is its source for every label at the start. With 'random' it is noise, and
--align-kimg first trains the hypernetworks alone, without data: every block's features towards the source's.

    align:  sum over blocks of mean |h_student - h_source|, same latents and noise
    train:  softplus(-D(G(z, y), y)); softplus(D(fake)) + softplus(-D(real)) + R1; with --contrastive the Barlow-Twins
            loss of two views in the discriminator's features, of reals and of fakes
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from dnnlib.util import UserError
from gantransfer import method, sampler, snapshot, source_fit
from gantransfer.augment import contrastive as views
from gantransfer.data import resolution
from gantransfer.data.dataset import DataSpec
from gantransfer.losses import gan
from gantransfer.losses.barlow_twins import barlow_twins
from gantransfer.method import Batch, Phase, RunConfig, option
from gantransfer.methods.stylegan2 import (
    FOR_CPU,
    SOURCE_SIZES,
    Draws,
    StyleGAN2,
    StyleGAN2Options,
    _label_columns,
    mixed_styles,
)
from gantransfer.networks import hypermod as networks
from gantransfer.networks import hypermod_stylegan1, stylegan1, stylegan2
from torch_utils import distributed as dist
from torch_utils import optimizers
from torch_utils import random as rnd

KINDS = {"stylegan2": (stylegan2.Generator, networks.Generator),
         "stylegan1": (stylegan1.Generator, hypermod_stylegan1.Generator)}


@dataclass
class HypermodOptions(StyleGAN2Options):
    base: str = option("stylegan2", "What the source is", choices=tuple(KINDS))
    hyper_rank: str | None = option(None, "Rank of the kernels' change per class, 1 or more, or 'full' (default 4; "
                                    "full with --base=stylegan1)", metavar="R")
    hyper_init: str = option("exact", "The start: the source itself for every class, or random hypernetworks",
                             choices=("exact", "random"))
    align_kimg: float | None = option(None, "With --hyper-init=random: kimg of self-alignment before training, within "
                                      "--kimg (default 0)", type=float, low=0)
    class_vectors: str = option("learned", "learned: a class network; onehot: factors of its own for every class",
                                choices=networks.VECTORS)
    vector_dim: int | None = option(None, "Length of a class vector (default 64; 16 for tiny, small)", type=int, low=1)
    class_init: str = option("distinct", "Class vectors start distinct, or all identical (as published)",
                             choices=("distinct", "identical"))
    class_lr_mult: float = option(0.01, "Learning rate of the class network in units of --glr (published: 0.001)",
                                  low=0)
    kernel_path: str = option("auto", "How kernels that differ between samples are applied: a convolution per class, "
                              "one grouped convolution, one per sample, or the faster of the first two",
                              choices=networks.PATHS)
    d_head: str = option("multi", "Discriminator: a head per class, or a projection", choices=("multi", "projection"))
    finetune: bool = option(False, "Also train the base's constant, styles, noise strengths, biases and ToRGB, and the "
                            "discriminator's fromRGB")
    contrastive: bool = option(False, "Barlow-Twins loss on the discriminator's features")
    contrastive_weight: float = option(0.01, "Its weight", low=0)
    contrastive_lambda: float = option(0.005, "Weight of its off-diagonal terms", low=0)
    gan_loss: str = option("logistic", "logistic with R1, or wgan-gp", choices=("logistic", "wgan-gp"))
    faithful: bool = option(False, "With --base=stylegan1: the published fused up-sampling layer, which cannot equal "
                            "the source")
    d_reg_interval: int | None = option(None, "R1 every so many steps; 0 = in every step's loss (default 16; 0 with "
                                        "--base=stylegan1)", type=int, low=0)


class Styles(NamedTuple):
    """What the synthesis network takes."""

    ws: torch.Tensor
    classes: networks.Classes


class Hypermod(StyleGAN2):
    name = "hypermod"
    stages = ("main", "align")
    needs_labels = True
    Options: ClassVar[type[method.Options]] = HypermodOptions

    # ---- options and checks ----------------------------------------------------------------------------------------

    @classmethod
    def resolve(cls, o: HypermodOptions, run: RunConfig, data: DataSpec) -> None:
        if not data.label.dim:
            raise UserError("--method=hypermod learns labels; give --cond=True and a data set with labels")
        for key in SOURCE_SIZES:
            if getattr(o, key) is not None:
                raise UserError(f"--{key}: --method=hypermod has the sizes of its source; omit the flag")
        v1 = o.base == "stylegan1"
        if v1:
            resolution.require_square(data.size, data.path or data.name, "--base=stylegan1")
        cls._resolve_hyper(o, v1)
        if v1:  # as published, unless said otherwise
            method.fill(o, glr=0.002, dlr=0.002, gamma=10.0, style_mix=0.9)
        if o.pl_weight:
            raise UserError("--pl_weight: --method=hypermod has no path-length term (the base is frozen); omit the "
                            "flag")
        o.pl_weight = 0.0
        method.fill(o, g_reg_interval=0, d_reg_interval=0 if v1 else 16)
        if o.gan_loss == "wgan-gp":
            if o.gamma not in (None, 10.0 if v1 else None):
                raise UserError("--gamma belongs to --gan_loss=logistic; wgan-gp has its own penalty")
            o.gamma, o.d_reg_interval = 0.0, 0
        if o.freezed and v1:
            raise UserError("--freezed belongs to --base=stylegan2")
        super().resolve(o, run, data)
        for key in SOURCE_SIZES:
            setattr(o, key, None)
        if o.align_kimg * 1000 % run.batch:
            o.align_kimg = round(o.align_kimg * 1000 / run.batch) * run.batch / 1000
        if o.align_kimg > run.kimg:
            raise UserError(f"--align_kimg={o.align_kimg:g} is more than --kimg={run.kimg:g}, which it is part of")

    @classmethod
    def _resolve_hyper(cls, o: HypermodOptions, v1: bool) -> None:
        method.fill(o, hyper_rank="full" if v1 else "4")
        if o.hyper_rank != "full" and not (re.fullmatch(r"[0-9]{1,9}", o.hyper_rank) and int(o.hyper_rank) >= 1):
            raise UserError(f"--hyper_rank={o.hyper_rank} is neither a whole number from 1 on nor 'full'")
        if o.align_kimg and o.hyper_init == "exact":
            raise UserError("--align_kimg: with --hyper_init=exact the generator equals its source from the start, so "
                            "that there is nothing to align; omit it, or give --hyper_init=random")
        o.align_kimg = o.align_kimg or 0.0
        o.vector_dim = o.vector_dim or (16 if o.cfg in FOR_CPU else 64)
        if v1 and o.hyper_rank != "full":
            raise UserError(f"--hyper_rank={o.hyper_rank} belongs to --base=stylegan2; the published hypernetworks are "
                            f"full")
        for key, default in (("class_vectors", "learned"), ("d_head", "multi")):
            if v1 and getattr(o, key) != default:
                raise UserError(f"--{key}={getattr(o, key)} belongs to --base=stylegan2")
        if o.faithful and not v1:
            raise UserError("--faithful belongs to --base=stylegan1")
        if o.faithful and o.hyper_init == "exact":
            raise UserError("--faithful: the published fused layer cannot equal the source; give --hyper_init=random")
        if o.class_vectors == "onehot" and (o.class_init == "identical" or o.hyper_init == "random"):
            raise UserError("--class_vectors=onehot has no class network: omit --class_init and --hyper_init=random")

    @classmethod
    def run_name(cls, o: HypermodOptions, given: dict[str, Any], run: RunConfig, data: DataSpec) -> str:
        d = super().run_name(o, given, run, data) + f"-{cls.name}-{o.hyper_rank}-{o.hyper_init}"
        d += f"-align{o.align_kimg:g}" if o.align_kimg else ""
        d += method.said(given, "base", "class_vectors", "d_head")
        return d + "".join(f"-{key}" for key in ("contrastive", "finetune", "faithful") if getattr(o, key))

    @classmethod
    def config(cls, o: HypermodOptions, run: RunConfig, data: DataSpec) -> dict[str, Any]:
        c = super().config(o, run, data)
        del c["G_kwargs"], c["D_kwargs"]  # the source's
        return c

    @classmethod
    def check_source(cls, o: HypermodOptions, data: DataSpec, source: snapshot.Snapshot | None, stage: str) -> None:
        """UserError, naming what is missing, when `source` cannot start this stage on this data."""
        if stage == "align" and o.hyper_init == "exact":
            raise UserError("--stage=align: with --hyper_init=exact there is nothing to align; give "
                            "--hyper_init=random")
        if source is None:
            raise UserError("--method=hypermod needs --resume=SNAPSHOT, an unconditional StyleGAN2 (or, with "
                            "--base=stylegan1, a StyleGAN v1)")
        record = source.nets.get("G_ema")
        kind = record.kind() if record is not None else None
        if kind not in KINDS[o.base]:
            other = next((b for b, kinds in KINDS.items() if kind in kinds), None)
            raise UserError(f"the source is a {source.method} snapshot" + (
                f"; give --base={other}" if other else
                f"; --method=hypermod --base={o.base} needs an unconditional generator of the kind {o.base}"))
        own = kind is KINDS[o.base][1]
        if not own and record.kwargs.get("c_dim"):
            raise UserError(f"the source is conditional ({record.kwargs['c_dim']} labels), and hypermod adds labels to "
                            f"an unconditional StyleGAN2; go on with --method=stylegan2, or take another source")
        if "D" not in source.nets:
            raise UserError("the source has no network D, from which the discriminator starts; give the full "
                            "checkpoint")
        source_fit.finite(source)
        kwargs = record.kwargs
        source_fit.images(kwargs.get("img_resolution"), kwargs.get("img_channels", 3), data)
        if o.base == "stylegan1" and own:
            classes = _task_of(source).kwargs["num_classes"] if _task_of(source) else kwargs.get("num_classes", 0)
            if classes not in (1, data.label.dim):
                raise UserError(f"the source knows {classes} classes, {data.path or data.name} has {data.label.dim}")
        if own and kwargs.get("vectors") == "onehot" and kwargs["c_dim"] != data.label.dim:
            raise UserError(f"the source has factors of its own for {kwargs['c_dim']} classes, "
                            f"{data.path or data.name} has {data.label.dim}")

    # ---- networks --------------------------------------------------------------------------------------------------

    def __init__(self, opts, data, run, start=method.FRESH, stage=None):
        self.align_nimg = int(run.kimg * 1000 if stage == "align" else opts.align_kimg * 1000)
        if not start.continues:
            self.check_source(opts, data, start.source, stage)
        super().__init__(opts, data, run, start, stage)
        if opts.gan_loss == "wgan-gp":
            self.losses.gan = gan.Wasserstein()
        # Frozen tensors exist once: averaged and live generator, and a snapshot of both, share them.
        learned = {id(p) for p in self.trainable("G")}
        frozen = [t for t in [*self.G.parameters(), *self.G.buffers()] if id(t) not in learned]
        average = copy.deepcopy(self.G, {id(t): t for t in frozen}).eval()
        for mine, other in zip(average.modules(), self.G_ema.modules()):
            if hasattr(other, "fp16_dtype"):  # the average computes as a snapshot's
                mine.fp16_dtype = other.fp16_dtype
        self.G_ema = self.nets["G_ema"] = average
        if start.continues:
            if "G_src" in start.networks.nets:
                self.nets["G_src"] = start.networks.build("G_src", self.device)
        elif self._needs_teacher(start.source):
            self.nets["G_src"] = start.source.build("G_ema", self.device)
        if dist.is_main():
            count, rest = sum(p.numel() for p in self.trainable("G")), sum(t.numel() for t in frozen)
            print(f"Generator: {count:,} numbers are learned, {rest:,} are the source's and stay")

    def _needs_teacher(self, source: snapshot.Snapshot) -> bool:
        """Standardised kernels have lost the source; it is kept beside them while it is needed."""
        return self.opts.base == "stylegan1" and self.align_nimg > 0 and (
            source.nets["G_ema"].kind() is stylegan1.Generator)

    def build_generator(self, start: method.Start) -> nn.Module:
        o, source, n = self.opts, start.networks, self.data.label.dim
        if start.continues:
            return source.build("G").requires_grad_(True)
        record = source.nets["G_ema"]
        own = record.kind() in (networks.Generator, hypermod_stylegan1.Generator)
        if o.base == "stylegan1":
            G = self._style1_again(source) if own else hypermod_stylegan1.convert(
                source.build("G_ema"), n, o.vector_dim, exact=o.hyper_init == "exact", faithful=o.faithful)
            G.path = G.init_kwargs["path"] = o.kernel_path
            self._class_start(G, own)
            return G.requires_grad_(True)
        kwargs = copy.deepcopy(record.kwargs)
        synthesis = kwargs.setdefault("synthesis_kwargs", {})
        if o.fp32:
            synthesis.update(num_fp16_res=0, conv_clamp=None)
        if not own:
            kwargs.update(vector_dim=o.vector_dim, rank=0 if o.hyper_rank == "full" else int(o.hyper_rank),
                          exact=o.hyper_init == "exact", vectors=o.class_vectors)
        G = networks.Generator(**{**kwargs, "c_dim": n, "path": o.kernel_path})
        columns = _label_columns((source.data or {}).get("label") or {}, self.data.label)
        report = snapshot.transfer(
            record.state, G, may_initialise=lambda k: not own and (".hyper." in k or k.startswith("classes.")),
            adapt={"classes.task.0.weight_orig": lambda s, f: _rows(s, f, columns)})
        self._class_start(G, own)
        dist.print0(report.table(f"G from G_ema of the {source.method} source").split("\n")[0])
        return G

    def load_source(self, source: snapshot.Snapshot) -> None:
        """G and D were built with the source's tensors."""

    @torch.no_grad()
    def _class_start(self, G: nn.Module, own: bool) -> None:
        if self.opts.class_init == "identical" and not own:
            rows = G.classes.task[0].weight_orig
            rows.copy_(rows[:1].expand_as(rows).clone())

    def _style1_again(self, source: snapshot.Snapshot) -> hypermod_stylegan1.Generator:
        """A hyper-modulated v1 generator, published or ours; a single class becomes all of the data's."""
        G, task = source.build("G_ema"), _task_of(source)
        if task is not None:
            G = hypermod_stylegan1.join(G, task.build())
        return G if G.c_dim == self.data.label.dim else hypermod_stylegan1.with_classes(G, self.data.label.dim)

    def build_discriminator(self, start: method.Start) -> nn.Module:
        o, source, n = self.opts, start.networks, self.data.label.dim
        if start.continues:
            return source.build("D").requires_grad_(True)
        record = source.nets["D"]
        if o.base == "stylegan1":
            D = source.build("D").requires_grad_(True)
            return D if D.c_dim == n else hypermod_stylegan1.new_heads(D, n, copy=not o.faithful)
        kwargs = copy.deepcopy(record.kwargs)
        blocks, last = kwargs.setdefault("block_kwargs", {}), kwargs.setdefault("epilogue_kwargs", {})
        if o.fp32:
            kwargs.update(num_fp16_res=0, conv_clamp=None)
        if o.freezed:
            blocks["freeze_layers"] = o.freezed
        last["mbstd_group_size"] = o.mbstd_group
        if o.d_head == "projection":
            mine = self.tree_of_heads()
            D = stylegan2.Discriminator(**{**kwargs, "c_dim": n, "cmap_dim": None, "mapping_kwargs": mine})
            may_be_fresh = ("mapping.", "b4.out")
        else:
            D, may_be_fresh = networks.Discriminator(**{**kwargs, "c_dim": n}), ()
        columns = _label_columns((source.data or {}).get("label") or {}, self.data.label)
        report = snapshot.transfer(
            record.state, D, may_initialise=lambda k: k.startswith(may_be_fresh) if may_be_fresh else False,
            may_drop=lambda k: k.startswith(("mapping.", "b4.out")),
            adapt={} if may_be_fresh else {k: lambda s, f: _rows(s, f, columns, mean=True)
                                           for k in ("b4.out.weight", "b4.out.bias")})
        dist.print0(report.table(f"D from D of the {source.method} source"))
        return D

    def tree_of_heads(self) -> dict[str, Any]:
        """Arguments of the projection's label mapping."""
        o = self.opts
        return {**({} if o.d_map_depth == 8 else {"num_layers": o.d_map_depth}),
                **({} if o.map_lr == 0.01 else {"lr_multiplier": o.map_lr})}

    # ---- phases ----------------------------------------------------------------------------------------------------

    def phases(self) -> list[Phase]:
        phases = super().phases()
        if self.opts.base == "stylegan1":
            phases = [p for p in phases if p.name[0] == "D"] + [p for p in phases if p.name[0] == "G"]
        if self.stage == "align":
            phases = []
        for p in phases:
            p.begin = self.align_nimg
        if self.align_nimg:
            params = [*self.G.hyper_parameters(), *self.G.class_parameters()]
            opt = optimizers.Adam(params, lr=self.opts.glr, betas=(0.0, 0.99), eps=1e-8, fused=True)
            phases.insert(0, Phase("align", params, opt, end=self.align_nimg))
        for opt in {id(p.opt): p.opt for p in phases if p.name[0] != "D"}.values():
            self._slow_classes(opt)
        return phases

    def _slow_classes(self, opt: torch.optim.Optimizer) -> None:
        """The class network gets a group, and so a learning rate, of its own."""
        (group,), slow = opt.param_groups, {id(p) for p in self.G.class_parameters()}
        chosen = [p for p in group["params"] if id(p) in slow]
        if chosen:
            group["params"] = [p for p in group["params"] if id(p) not in slow]
            opt.add_param_group({**group, "params": chosen, "lr": group["lr"] * self.opts.class_lr_mult})

    def trainable(self, key: str) -> list[nn.Parameter]:
        if key == "D":
            rest = () if self.opts.finetune else ("fromrgb.", "from_rgb.")
            return [p for n, p in self.D.named_parameters() if not any(r in n for r in rest) and self._used(n)]
        return [*self.G.hyper_parameters(), *self.G.class_parameters(),
                *(self.G.base_parameters() if self.opts.finetune else [])]

    def _used(self, name: str) -> bool:
        """Published v1 discriminators also have blocks for larger images than the data's."""
        if self.opts.base != "stylegan1":
            return True
        first = len(self.D.progression) - self.data.resolution.bit_length() + 2
        part = name.split(".")
        return not (part[0] == "progression" and int(part[1]) < first) and not (
            part[0] == "from_rgb" and int(part[1]) != first)

    def draw(self, phase: str, batch: Batch) -> Draws:
        if phase == "align":
            n, dim = len(batch.x), self.data.label.dim
            classes = rnd.randint(0, dim, [n], batch.rng, self.device)
            return Draws(rnd.randn([n, self.G.z_dim], batch.rng, self.device), F.one_hot(classes, dim).float())
        d = super().draw(phase, batch)
        if self.opts.gan_loss == "wgan-gp" and phase[0] == "D":
            d.c = batch.c  # the penalty is taken between a real and a generated image of one class
        return d

    def ws(self, phase: str, d: Draws) -> Styles:
        ws = self.G.styles(d.z)
        if d.mix_z is not None:
            ws = mixed_styles(ws, self.G.styles(d.mix_z), d.cutoff)
        return Styles(ws, self.G.classes_of(d.c))

    def synthesise(self, styles: Styles, batch: Batch, **kw):
        return self.G.synthesis(styles.ws, classes=styles.classes, noise_mode=self.noise_mode, rng=batch.rng, **kw)

    # ---- self-alignment --------------------------------------------------------------------------------------------

    def align(self, batch: Batch, d: Draws) -> Iterator[torch.Tensor]:
        """[n]: distance of every block's features to the source's, for the same latents, noise and any label."""
        with torch.no_grad():
            ws = self.G.styles(d.z)
        same = rnd.twin(batch.rng)
        classes = self.G.classes_of(d.c)
        if "G_src" in self.nets:
            teacher: list[torch.Tensor] = []
            with torch.no_grad():
                self.nets["G_src"].synthesis(ws, noise_mode=self.noise_mode, rng=same, features=teacher)
            student: list[torch.Tensor] = []
            self.G.synthesis(ws, classes=classes, noise_mode=self.noise_mode, rng=batch.rng, features=student)
        else:
            with torch.no_grad():
                teacher = [x for x, _ in self.G.synthesis.features(ws, noise_mode=self.noise_mode, rng=same)]
            student = [x for x, _ in self.G.synthesis.features(ws, classes, noise_mode=self.noise_mode, rng=batch.rng)]
        loss = hypermod_stylegan1.alignment(student, teacher)
        self.report("Loss/align", loss)
        yield loss

    # ---- losses ----------------------------------------------------------------------------------------------------

    def Dmain(self, batch: Batch, d: Draws, reg: bool = False) -> Iterator[torch.Tensor]:
        yield from super().Dmain(batch, d, reg)
        (images,) = d.fakes
        if self.opts.gan_loss == "wgan-gp":
            yield self.gradient_penalty(batch.x, images, batch.c, rnd.rand([len(images), 1, 1, 1], batch.rng,
                                                                           self.device))
        if self.opts.contrastive:
            yield self.contrast(*views.two_views(batch.x, batch.rng), "real")
            yield self.contrast(*views.two_views(images, batch.rng), "fake")

    def gradient_penalty(self, real: torch.Tensor, fake: torch.Tensor, c: torch.Tensor,
                         eps: torch.Tensor) -> torch.Tensor:
        """[n]: 10 (|grad D| - 1)^2 between a real and a generated image (Gulrajani et al. 2017)."""
        x = torch.lerp(fake, real, eps).requires_grad_(True)
        (grad,) = torch.autograd.grad(self.D(x, c).sum(), x, create_graph=True)
        penalty = 10 * (grad.flatten(1).norm(dim=1) - 1).square()
        self.report("Loss/D/penalty", penalty)
        return penalty

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """[n, C]: what the discriminator's heads see."""
        if hasattr(self.D, "features"):
            return self.D.features(x)
        return self.D.b4.features(*self.D.run_blocks(None, x))

    def contrast(self, first: torch.Tensor, second: torch.Tensor, kind: str) -> torch.Tensor:
        """[1]: weighted Barlow-Twins loss of two views, of the images of all processes."""
        loss = barlow_twins(*map(self.features, (first, second)), self.opts.contrastive_lambda)
        self.report(f"Loss/contrastive/{kind}", loss)
        return self.opts.contrastive_weight * loss.reshape(1)

    # ---- after the phases ------------------------------------------------------------------------------------------

    def progress(self) -> dict[str, float]:
        return super().progress() | ({"aligning": float(self.aligning)} if self.align_nimg else {})

    @property
    def aligning(self) -> bool:
        return self.steps * self.run.batch < self.align_nimg

    def snapshot(self, cur_nimg: int) -> snapshot.Snapshot:
        snap = super().snapshot(cur_nimg)
        if cur_nimg >= self.align_nimg and self.stage == "main":
            snap.nets.pop("G_src", None)
        return snap

    # ---- sampling --------------------------------------------------------------------------------------------------

    @classmethod
    def sampler_from(cls, snap: snapshot.Snapshot, device: torch.device | str = "cpu") -> sampler.Sampler:
        G, task = snap.build("G_ema", device), _task_of(snap)
        if task is not None:
            G = hypermod_stylegan1.join(G, task.build()).eval().requires_grad_(False).to(device)
        out = cls.sampler_of(G, DataSpec.from_dict(snap.data), device)
        if out.beside and snap.options.get("finetune"):
            out.beside = {"source": "without class modulation (the source's layers were trained too)"}
        return out

    @classmethod
    def sampler_of(cls, G: nn.Module, spec: DataSpec, device: torch.device | str) -> sampler.Sampler:
        """`view='source'`: the same latent without class modulation. On StyleGAN v1 the kernels it had are not kept."""
        network = networks.ClassInStyles(G)

        def synthesise(z: torch.Tensor, c: torch.Tensor, view: str = "image", **kw: Any) -> torch.Tensor:
            if view == "image":
                return G(z, c, **kw)
            truncation = {k: kw.pop(k) for k in ("truncation_psi", "truncation_cutoff") if k in kw}
            return G.synthesis(G.styles(z, **truncation), classes=None, **kw)

        def styles(z: torch.Tensor, c: torch.Tensor, view: str = "image", **kw: Any) -> torch.Tensor:
            return network.mapping(z, c, **kw)

        def render(ws: torch.Tensor, view: str = "image", **kw: Any) -> torch.Tensor:
            return network.synthesis(ws, **kw) if view == "image" else (
                G.synthesis(ws[:, :, : G.w_dim].contiguous(), classes=None, **kw))

        kept = isinstance(G, networks.Generator)
        return HypermodSampler(synthesise, G.z_dim, spec, device, label_dim=G.c_dim, network=network, styles=styles,
                               render=render, beside={"source": "the source's image"} if kept else {})


class HypermodSampler(sampler.Sampler):
    """Its w knows no label, so that all classes have one centre; the class vector behind w is what it is at any psi."""

    def class_vectors(self, c: torch.Tensor) -> torch.Tensor:
        return self.network.G.classes(c)

    def images_at(self, z: torch.Tensor, v: torch.Tensor, rng: rnd.Rng, *, view: str = "image", noise_mode: str,
                  **truncation: Any) -> torch.Tensor:
        return self.render(self.styles_at(z, v, **truncation), rng=rng, view=view, noise_mode=noise_mode)

    def styles_at(self, z: torch.Tensor, v: torch.Tensor, *, truncation_center: str = "global",
                  view: str = "image", **truncation: Any) -> torch.Tensor:
        label = torch.eye(self.label_dim, device=z.device)[:1].expand(len(z), -1)
        ws = super().styles_at(z, label, truncation_center=truncation_center, **truncation)
        ws = ws[:, :, : self.network.G.w_dim]
        return torch.cat([ws, v[:, None].to(ws.dtype).expand(-1, ws.shape[1], -1)], 2)


def _task_of(snap: snapshot.Snapshot) -> snapshot.NetRecord | None:
    """The class network of a published snapshot, which keeps it apart."""
    return snap.nets.get("T_ema", snap.nets.get("T"))


def _rows(source: torch.Tensor, fresh: torch.Tensor, columns: list[int | None], mean: bool = False) -> torch.Tensor:
    """Rows of the source per class: a known class keeps its row, a single row goes to all, a new class has its fresh
    row, or the mean of the source's."""
    if len(source) == 1:
        return source.expand_as(fresh).clone()
    out = fresh.clone()
    for k in range(len(fresh)):
        if k < len(columns) and columns[k] is not None:
            out[k] = source[columns[k]]
        elif mean:
            out[k] = source.mean(0)
    return out
