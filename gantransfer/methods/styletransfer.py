# SPDX-License-Identifier: Apache-2.0
"""cGANTransfer's stage BN on a class-conditional StyleGAN2: new classes as scores over the old classes' styles, and a
residual, per layer; nothing else of the generator is trained. Not in the paper; the networks are in
networks/styletransfer.py. The discriminator trains in full.

    L_G = softplus(-D(G(z, y), y)) + comb_l1_scale sum mean |scores| + res_l2_scale sum mean residuals^2
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from dnnlib.util import UserError
from gantransfer import method, sampler, snapshot, source_fit
from gantransfer.data.dataset import DataSpec, LabelSpec
from gantransfer.method import Batch, Phase, RunConfig, option
from gantransfer.methods.stylegan2 import FOR_CPU, SOURCE_SIZES, Draws, StyleGAN2, StyleGAN2Options
from gantransfer.networks import stylegan2
from gantransfer.networks import styletransfer as networks
from torch_utils import distributed as dist


@dataclass
class StyleTransferOptions(StyleGAN2Options):
    comb_l1_scale: float = option(0.01, "Weight of the scores' absolute values", low=0)
    res_l2_scale: float = option(0.1, "Weight of the squared residuals", low=0)
    score_lr: float | None = option(None, "Learning rate of scores and residuals in units of --glr (default 1; 10 for "
                                    "tiny, small)", type=float, low=0)


class StyleTransfer(StyleGAN2):
    name = "styletransfer"
    Options: ClassVar[type[method.Options]] = StyleTransferOptions

    @classmethod
    def resolve(cls, o: StyleTransferOptions, run: RunConfig, data: DataSpec) -> None:
        if data.label.kind != "class":
            raise UserError("--method=styletransfer learns classes; give --cond=True and a data set with classes")
        if o.pl_weight:
            raise UserError("--pl_weight has no meaning with --method=styletransfer: the way from w to images rests")
        o.pl_weight = 0.0
        super().resolve(o, run, data)
        for key in SOURCE_SIZES:
            setattr(o, key, None)
        method.fill(o, score_lr=10.0 if o.cfg in FOR_CPU else 1.0)

    @classmethod
    def run_name(cls, o: StyleTransferOptions, given: dict[str, Any], run: RunConfig, data: DataSpec) -> str:
        return super().run_name(o, {k: v for k, v in given.items() if k != "resume"}, run, data) + f"-{cls.name}"

    @classmethod
    def check_source(cls, o: StyleTransferOptions, data: DataSpec, source: snapshot.Snapshot | None,
                     stage: str) -> None:
        if source is None:
            raise UserError("--method=styletransfer needs --source=SNAPSHOT, a StyleGAN2 with classes")
        missing = [n for n in ("G_ema", "D") if n not in source.nets]
        if source.method != "stylegan2" or missing:
            raise UserError(f"the source is of method {source.method} with {', '.join(source.nets)}; "
                            f"--method=styletransfer needs G_ema and D of a class-conditional stylegan2")
        kwargs = source.nets["G_ema"].kwargs
        if kwargs.get("c_dim", 0) < 2:
            raise UserError("the source has no classes, or one; new classes are combinations of at least two")
        source_fit.images(kwargs["img_resolution"], kwargs["img_channels"], data)

    @classmethod
    def config(cls, o: StyleTransferOptions, run: RunConfig, data: DataSpec) -> dict[str, Any]:
        return {"options": o.to_dict()}  # networks have the source's sizes

    # ---- networks --------------------------------------------------------------------------------------------------

    def __init__(self, opts, data, run, start=method.FRESH, stage=None):
        if not start.continues:
            self.check_source(opts, data, start.source, stage)
        source = start.networks
        spec = source.extra.get("old_label") if start.continues else ((source.data or {}).get("label") or {})
        kwargs = source.nets["G_ema"].kwargs
        self.old_label = LabelSpec.from_dict(spec) if (spec or {}).get("kind") == "class" else LabelSpec(
            "class", kwargs["c_dim"])
        super().__init__(opts, data, run, start, stage)

    def build_generator(self, start: method.Start) -> nn.Module:
        if start.continues:
            return start.networks.build("G").requires_grad_(True)
        return networks.extend(start.source.build("G_ema"), self.data.label.dim).requires_grad_(True)

    def build_discriminator(self, start: method.Start) -> nn.Module:
        kwargs = start.networks.nets["D"].kwargs
        block = dict(kwargs.get("block_kwargs") or {}, freeze_layers=self.opts.freezed)
        return stylegan2.Discriminator(**{**kwargs, "c_dim": self.data.label.dim, "block_kwargs": block})

    def load_source(self, source: snapshot.Snapshot) -> None:
        report = self.transfer_net("D", source, source.nets["D"].state, self.nets["D"])
        dist.print0(f"{self.data.label.dim} new classes from {self.old_label.dim} old ones")
        dist.print0(report.table(f"D of the {source.method} source"))

    # ---- phases ----------------------------------------------------------------------------------------------------

    def phases(self) -> list[Phase]:
        phases = super().phases()
        for group in phases[0].opt.param_groups:
            group["lr"] *= self.opts.score_lr
        return phases

    def trainable(self, key: str) -> list[nn.Parameter]:
        if key == "D":
            return super().trainable(key)
        return [*self.G.score_parameters(), *self.G.residual_parameters()]

    def map(self, z: torch.Tensor, c: torch.Tensor, out: list[torch.Tensor], noise: None = None) -> torch.Tensor:
        return self.G.map(z, c, w_out=out)

    def update_w_avg(self, means: torch.Tensor) -> None:
        """The mapping network rests, and its running mean serves old classes."""

    def generator_loss(self, batch: Batch, d: Draws) -> torch.Tensor:
        o = self.opts
        scores = sum(p.abs().mean() for p in self.G.score_parameters())
        residuals = sum(p.square().mean() for p in self.G.residual_parameters())
        self.report("Loss/G/scores_l1", scores.detach())
        self.report("Loss/G/residuals_l2", residuals.detach())
        return super().generator_loss(batch, d) + o.comb_l1_scale * scores + o.res_l2_scale * residuals

    # ---- sampling --------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        return {**super().state(), "old_label": self.old_label.to_dict()}

    def snapshot(self, cur_nimg: int) -> snapshot.Snapshot:
        snap = super().snapshot(cur_nimg)
        snap.extra |= dict(old_label=self.old_label.to_dict())
        return snap

    def sampler(self) -> sampler.Sampler:
        return self.sampler_with(self.G_ema, self.data, self.device, self.old_label)

    @classmethod
    def sampler_from(cls, snap: snapshot.Snapshot, device: torch.device | str = "cpu") -> sampler.Sampler:
        return cls.sampler_with(snap.build("G_ema", device), DataSpec.from_dict(snap.data), device,
                                LabelSpec.from_dict(snap.extra["old_label"]))

    @classmethod
    def sampler_with(cls, G: nn.Module, spec: DataSpec, device: torch.device | str, old: LabelSpec) -> sampler.Sampler:
        """Labels are those of the data; `label_set='old'` takes the source's."""

        def synthesise(z: torch.Tensor, c: torch.Tensor, label_set: str | None = None, **kw: Any) -> torch.Tensor:
            return G.forward_old(z, c, **kw) if label_set == "old" else G(z, c, **kw)

        def styles(z: torch.Tensor, c: torch.Tensor, label_set: str | None = None, **kw: Any) -> torch.Tensor:
            return G.map_old(z, c, **kw) if label_set == "old" else G.map(z, c, update_w_avg=False, **kw)

        def render(ws: torch.Tensor, label_set: str | None = None, **kw: Any) -> torch.Tensor:
            return G.synthesis(ws, **kw)

        return sampler.Sampler(synthesise, G.z_dim, spec, device, label_dim=spec.label.dim,
                                        network=networks.NewClasses(G),
                                        label_sets={"new": spec.label, "old": old}, styles=styles, render=render)
