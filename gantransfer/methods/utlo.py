# SPDX-License-Identifier: Apache-2.0
"""UTLO: unconditional training at low resolution (Khorram et al., "Taming the Tail in Class-Conditional GANs", 2024).

Tail classes share coarse structure with head classes. So the layers up to `res_uc` never see the label, and the small
image they make is trained by an unconditional loss of its own; the layers above are conditional and trained as usual.
One discriminator serves both: the small image enters at its own resolution and leaves through its own head.

    L = a L_cond(image, label) + b L_uncond(small image),   a = 1 / (1 + alpha),   b = alpha / (1 + alpha)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from dnnlib.util import UserError
from gantransfer import method, sampler, snapshot, source_fit
from gantransfer.augment import ada
from gantransfer.data.dataset import DataSpec
from gantransfer.method import Batch, Graph, RunConfig, option
from gantransfer.methods.stylegan2 import FOR_CPU, StyleGAN2, TailOptions, graph_of
from gantransfer.networks import utlo as networks


@dataclass
class UTLOOptions(TailOptions):
    add_uc: bool = option(True, "Train the small image by an unconditional loss")
    res_uc: int | None = option(None, "Highest label-free resolution; 0 = every layer sees the label (default: the "
                                "second one, 8 where the side is a power of two)", type=int, low=0)
    alpha: float | None = option(None, "Weight of the unconditional loss relative to the conditional one (default 1)",
                                 type=float, low=0)


class UTLO(StyleGAN2):
    name = "utlo"
    Options: ClassVar[type[method.Options]] = UTLOOptions
    generator_cls: ClassVar[type[nn.Module]] = networks.Generator
    discriminator_cls: ClassVar[type[nn.Module]] = networks.Discriminator

    # ---- options ---------------------------------------------------------------------------------------------------

    @classmethod
    def resolve(cls, o: UTLOOptions, run: RunConfig, data: DataSpec) -> None:
        if run.metrics is None and o.cfg not in FOR_CPU:
            run.metrics = "fid50k_full,fid_shots,kid_shots"
        super().resolve(o, run, data)
        levels = data.size.levels
        method.fill(o, res_uc=levels[1])
        if o.res_uc not in (0, *levels):
            raise UserError(f"--res_uc={o.res_uc} is not a block resolution of {data.size} images; choose one of 0, "
                            f"{', '.join(map(str, levels))}")
        if o.add_uc and o.res_uc == 0:
            raise UserError(f"--add_uc=True needs a resolution: set --res_uc to {levels[0]} or more, or --add_uc=False")
        for key in ("noisy_twins", "gsr"):
            if getattr(o, key) is not None and o.res_uc == levels[-1]:
                raise UserError(f"--{key} is about labels, and with --res_uc={o.res_uc} no layer of the generator sees "
                                f"them; omit it, or lower --res_uc")
        if not o.add_uc and o.alpha:
            raise UserError(f"--alpha={o.alpha:g} weights the unconditional loss, which --add_uc=False turns off")
        o.alpha = 0.0 if not o.add_uc else 1.0 if o.alpha is None else o.alpha
        if o.add_uc and o.aug != "noaug" and "imgfilter" in ada.AUGPIPES[o.augpipe] and (
                min(data.size.at(o.res_uc)) < 22):
            raise UserError(f"--augpipe={o.augpipe} filters images of at least 22 pixels, not the small ones of "
                            f"--res_uc={o.res_uc}; use --augpipe=bgc")

    @classmethod
    def run_name(cls, o: UTLOOptions, given: dict[str, Any], run: RunConfig, data: DataSpec) -> str:
        name = super().run_name(o, given, run, data) + f"-res-uc{o.res_uc}"
        return name + (f"-add-uc-alpha-{o.alpha:g}" if o.add_uc else "")

    @classmethod
    def config(cls, o: UTLOOptions, run: RunConfig, data: DataSpec) -> dict[str, Any]:
        c = super().config(o, run, data)
        c["G_kwargs"]["res_uc"] = c["D_kwargs"]["res_uc"] = o.res_uc
        c["loss_kwargs"].update(add_uc=o.add_uc, alpha=o.alpha)
        return c

    @classmethod
    def check_source(cls, o: UTLOOptions, data: DataSpec, source: snapshot.Snapshot | None, stage: str) -> None:
        super().check_source(o, data, source, stage)
        theirs = 0 if source is None else source_fit.record_of(source, "G").kwargs.get("res_uc") or 0
        if theirs and not o.res_uc:
            raise UserError(f"the source has label-free layers up to {theirs} pixels, this run none; give "
                            f"--res_uc={theirs}")

    # ---- networks ------------------------------------------------------------------------------------------------

    may_be_fresh: ClassVar[dict[str, tuple[str, ...]]] = {
        "G": ("mapping.embed.", "mapping.w_avg_uc"), "D": ("mapping.", "b4.out_", "fromrgb_uc.", "resample_filter")}

    def transfer_net(self, name, source, state, net):
        """From a snapshot of another method: an ordinary generator, a discriminator with one head."""
        if source.method != self.name:
            warm = networks.from_base_state(state, net)
            fitting = {k: v for k, v in warm.state.items() if k not in warm.fresh}
            state = {**fitting, **{k: state[k] for k in warm.dropped if k in state}}
        elif name == "D" and source.nets[name].kwargs.get("faithful"):
            net.compute_as_published()
        return super().transfer_net(name, source, state, net)

    def state(self) -> dict[str, Any]:
        return {**super().state(), "faithful": self.D.faithful}

    def load_state(self, s: dict[str, Any]) -> None:
        super().load_state(s)
        if s.get("faithful"):
            self.D.compute_as_published()

    # ---- losses ----------------------------------------------------------------------------------------------------

    @property
    def weights(self) -> tuple[float, float]:
        """(conditional, unconditional) weight; they sum to one."""
        alpha = self.opts.alpha
        return 1 / (1 + alpha), alpha / (1 + alpha)

    def map(self, z: torch.Tensor, c: torch.Tensor, out: list[torch.Tensor],
            noise: torch.Tensor | None = None) -> torch.Tensor:
        free: list[torch.Tensor] = []
        ws = self.G.mapping(z, c, w_out=out, w_uc_out=free, label_noise=noise)
        out += free
        return ws

    def update_w_avg(self, means: torch.Tensor) -> None:
        for mean, name in zip(means, ("w_avg", "w_avg_uc")):
            self.G.mapping.update_w_avg(mean, name)

    def graph(self, key: str, second_order: bool = False) -> Graph | None:
        return graph_of(self, key, second_order) if type(self) is UTLO else None

    def synthesise_pair(self, ws: torch.Tensor, batch: Batch) -> list[torch.Tensor]:
        return [*self.synthesise(ws, batch, add_uc=True)] if self.opts.add_uc else [self.synthesise(ws, batch)]

    def as_judged(self, x: torch.Tensor, batch: Batch) -> list[torch.Tensor]:
        # Reduced before augmentation: the small images get transformations of their own.
        return [x, self.D.downsample_uc(batch.x)] if self.opts.add_uc else [x]

    def logits(self, shown: list[torch.Tensor], c: torch.Tensor) -> list[torch.Tensor]:
        return [self.D(shown[0], c), *map(self.D.forward_uc, shown[1:])]

    def about_heads(self) -> list[tuple[float, str]]:
        a, b = self.weights
        return [(a, ""), (b, "_uc")] if self.opts.add_uc else [(a, "")]

    # ---- sampling --------------------------------------------------------------------------------------------------

    @classmethod
    def sampler_of(cls, G: nn.Module, spec: DataSpec, device: torch.device | str) -> sampler.Sampler:
        """Adds the view 'uc': the label-free small image."""

        def synthesise(z: torch.Tensor, c: torch.Tensor, view: str = "image", **kw: Any) -> torch.Tensor:
            return G(z, c, **kw) if view == "image" else G(z, c, add_uc=True, **kw).image_uc

        def styles(z: torch.Tensor, c: torch.Tensor, view: str = "image", **kw: Any) -> torch.Tensor:
            return G.mapping(z, c, update_w_avg=False, **kw)

        def render(ws: torch.Tensor, view: str = "image", **kw: Any) -> torch.Tensor:
            return G.synthesis(ws, **kw) if view == "image" else G.synthesis(ws, add_uc=True, **kw).image_uc

        views = ("image", "uc") if G.res_uc else ("image",)
        return sampler.Sampler(synthesise, G.z_dim, spec, device, views, label_dim=G.c_dim, network=G,
                                        styles=styles, render=render, beside=(
                                            {"uc": f"label-free image, {G.res_uc} px"} if G.res_uc else {}))
