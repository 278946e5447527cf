# SPDX-License-Identifier: Apache-2.0
"""MineGAN (Wang et al., CVPR 2020): new classes found in the input space of a trained BigGAN.

Stage mine trains two small networks in front of the frozen generator, and the discriminator. Stage tune goes on from
there and trains everything. Losses are those of BigGAN; the networks are in networks/minegan.py.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from dnnlib.util import UserError
from gantransfer import method, snapshot
from gantransfer.data.dataset import DataSpec
from gantransfer.method import Phase, RunConfig, option
from gantransfer.methods.biggan import BigGAN, TrainingOptions, check_transfer_source
from gantransfer.networks import biggan
from gantransfer.networks import minegan as networks

CFGS: dict[str, dict[str, Any]] = {
    "auto": dict(kimg=500, batch=64, glr=1e-4, dlr=4e-4, eps=1e-6, d_steps=1, ema=44, ramp=0.05, ema_start=0),
    "tiny": dict(kimg=8, batch=16, glr=1e-3, dlr=2e-3, eps=1e-6, d_steps=2, ema=0.5, ramp=0.05, ema_start=0),
}


@dataclass
class MineGANOptions(TrainingOptions):
    cfg: str = option("auto", "Preset of sizes and hyper-parameters", choices=tuple(CFGS))
    miner_hidden: int = option(128, "Width of the miners' hidden layer", low=1)
    miner_lr: float | None = option(None, "Learning rate of the miners (default: --glr)", type=float, low=0)
    source_net: str = option("G_ema", "Which generator of the source", choices=("G_ema", "G"))


class MineGAN(BigGAN):
    name = "minegan"
    stages = ("mine", "tune")
    presets = CFGS
    Options: ClassVar[type[method.Options]] = MineGANOptions

    @classmethod
    def resolve(cls, o: MineGANOptions, run: RunConfig, data: DataSpec) -> None:
        if not data.label.dim:
            raise UserError("--method=minegan mines classes; give --cond=True and a data set with labels")
        super().resolve(o, run, data)
        method.fill(o, miner_lr=o.glr)

    @classmethod
    def resolve_networks(cls, o, cfg, data) -> None:
        """Sizes are the source's."""

    @classmethod
    def run_name(cls, o: MineGANOptions, given: dict[str, Any], run: RunConfig, data: DataSpec) -> str:
        name = super().run_name(o, {k: v for k, v in given.items() if k != "resume"}, run, data)
        return f"{name}-{given.get('stage') or cls.stages[0]}"

    @classmethod
    def check_source(cls, o: MineGANOptions, data: DataSpec, source: snapshot.Snapshot | None, stage: str) -> None:
        wanted = "biggan" if stage == "mine" else cls.name
        if source is None:
            raise UserError(f"--method=minegan --stage={stage} needs --source=SNAPSHOT" + (
                ", a BigGAN with classes" if stage == "mine" else " of stage mine"))
        if source.method != wanted:
            raise UserError(f"the source is of method {source.method}; --method=minegan --stage={stage} goes on from "
                            f"{wanted}")
        kwargs = check_transfer_source(source, data, o.source_net)
        if stage == "tune" and kwargs["n_classes"] != data.label.dim:
            raise UserError(f"the source mined {kwargs['n_classes']} classes, {data.path or data.name} has "
                            f"{data.label.dim}; stage tune needs the data of stage mine")

    def __init__(self, opts, data, run, start=method.FRESH, stage=None):
        super().__init__(opts, data, run, start, stage)
        if self.stage == "mine":
            biggan.freeze_sn(self.G)
            biggan.freeze_sn(self.G_ema)

    def build(self, start: method.Start) -> dict[str, nn.Module]:
        if start.continues:
            return {k: r.build().requires_grad_(True) for k, r in start.networks.nets.items()}
        source = start.source
        self.check_source(self.opts, self.data, source, self.stage)
        if self.stage == "tune":
            return {k: source.build(k).requires_grad_(True) for k in ("G", "D", "G_ema")}
        G = networks.mined(source.build(self.opts.source_net), self.data.label.dim, self.opts.miner_hidden)
        D = networks.discriminator_for(source.build("D"), self.data.label.dim)
        return {k: net.requires_grad_(True) for k, net in (("G", G), ("D", D), ("G_ema", copy.deepcopy(G)))}

    def phases(self) -> list[Phase]:
        phases = super().phases()
        (group,), miners = phases[1].opt.param_groups, {id(p) for p in self.G.miner_parameters()}
        rest = [p for p in group["params"] if id(p) not in miners]
        group["params"] = self.G.miner_parameters()
        if rest:
            phases[1].opt.add_param_group({**group, "params": rest})
        phases[1].opt.param_groups[0]["lr"] = self.opts.miner_lr
        return phases

    def trainable(self, key: str) -> list[nn.Parameter]:
        return self.G.miner_parameters() if (key, self.stage) == ("G", "mine") else super().trainable(key)
