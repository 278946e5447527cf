# SPDX-License-Identifier: Apache-2.0
"""Below Mind2Mind's floor: a short StyleGAN2 training of the high-resolution layers of a mind2mind snapshot.

The latents stay what they are; the decoder's layers from `--tune_from` pixels on learn to draw what the frozen ones
could not, against the source's discriminator. Losses, augmentation and options are StyleGAN2's.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from dnnlib.util import UserError
from gantransfer import method, snapshot, source_fit
from gantransfer.data.dataset import DataSpec
from gantransfer.method import RunConfig, option
from gantransfer.methods.stylegan2 import SOURCE_SIZES, StyleGAN2, StyleGAN2Options
from gantransfer.networks import mindgan
from torch_utils import distributed as dist


@dataclass
class MindTuneOptions(StyleGAN2Options):
    tune_from: int | None = option(None, "Train the decoder's layers from this resolution on (default: the highest "
                                   "half of them)", type=int, low=4)


class MindTune(StyleGAN2):
    name = "mind_tune"
    Options: ClassVar[type[method.Options]] = MindTuneOptions

    @classmethod
    def resolve(cls, o: MindTuneOptions, run: RunConfig, data: DataSpec) -> None:
        super().resolve(o, run, data)
        for key in SOURCE_SIZES:
            setattr(o, key, None)
        levels = data.size.levels
        method.fill(o, tune_from=levels[len(levels) // 2])
        if o.tune_from not in levels:
            raise UserError(f"--tune_from={o.tune_from} is no resolution of the decoder; it has "
                            f"{', '.join(map(str, levels))}")

    @classmethod
    def run_name(cls, o: MindTuneOptions, given: dict[str, Any], run: RunConfig, data: DataSpec) -> str:
        return super().run_name(o, given, run, data) + f"-{cls.name}{o.tune_from}"

    @classmethod
    def config(cls, o: MindTuneOptions, run: RunConfig, data: DataSpec) -> dict[str, Any]:
        c = super().config(o, run, data)
        del c["G_kwargs"], c["D_kwargs"]  # the source's
        return c

    @classmethod
    def check_source(cls, o: MindTuneOptions, data: DataSpec, source: snapshot.Snapshot | None, stage: str) -> None:
        if source is None or source.method not in ("mind2mind", cls.name):
            raise UserError("--method=mind_tune goes on from a snapshot of --method=mind2mind: give --source=SNAPSHOT")
        for name in ("G_ema", "D"):
            if name not in source.nets:
                raise UserError(f"the source has no network {name}; the decoder of an ALAE cannot be tuned")
        kwargs = source.nets["G_ema"].kwargs
        spec, have = kwargs["synthesis"], kwargs["mapping"]["c_dim"]
        if spec["kind"] != "stylegan2":
            raise UserError("--method=mind_tune trains layers of a StyleGAN2; the source's decoder is an ALAE's")
        if have != data.label.dim:
            raise UserError(f"the source was trained with labels {have} wide, {data.path or data.name} has "
                            f"{data.label.dim}; give the data and --cond that it was trained with")
        source_fit.images(spec["img_resolution"], spec["img_channels"], data)

    def build_generator(self, start: method.Start) -> nn.Module:
        name = "G" if "G" in start.networks.nets else "G_ema"
        return start.networks.build(name).requires_grad_(True)

    def build_discriminator(self, start: method.Start) -> nn.Module:
        kwargs = copy.deepcopy(start.networks.nets["D"].kwargs)
        kwargs["c_dim"] = self.data.label.dim
        if self.opts.freezed:
            kwargs["block_kwargs"] = {**kwargs.get("block_kwargs", {}), "freeze_layers": self.opts.freezed}
        kwargs["epilogue_kwargs"] = {**kwargs.get("epilogue_kwargs", {}), "mbstd_group_size": self.opts.mbstd_group}
        return self.discriminator_cls(**kwargs)

    def load_source(self, source: snapshot.Snapshot) -> None:
        report = self.transfer_net("D", source, source.nets["D"].state, self.nets["D"])
        self.nets["G_ema"] = (source.build("G_ema") if "G_ema" in source.nets else copy.deepcopy(self.nets["G"])).eval()
        dist.print0(report.table(f"D from the {source.method} source"))

    def trainable(self, key: str) -> list[nn.Parameter]:
        if key == "D":
            return super().trainable(key)
        G: mindgan.MindGenerator = self.nets["G"]
        return [p for res in G.synthesis.block_resolutions if res >= self.opts.tune_from
                for p in getattr(G.synthesis, f"b{res}").parameters()]

    def map(self, z: torch.Tensor, c: torch.Tensor, out: list[torch.Tensor], noise: None = None) -> torch.Tensor:
        ws = self.G.mapping(z, c)
        out.append(ws.detach().mean(1))
        return ws

    def update_w_avg(self, means: torch.Tensor) -> None:
        """The mean latent does not move."""
