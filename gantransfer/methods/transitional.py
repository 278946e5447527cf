# SPDX-License-Identifier: Apache-2.0
"""Transitional training (Shahbazi et al., "Collapse by Conditioning", 2022).

Training starts unconditional; the label is faded in by one weight, from 0 at `t_start_kimg` to 1 at `t_end_kimg`:

    L = L_uncond + weight L_cond

The weight is a function of the images shown, so a resumed run has the right one by construction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from dnnlib.util import UserError
from gantransfer import method, snapshot
from gantransfer.data.dataset import DataSpec
from gantransfer.data.schedule import Span
from gantransfer.method import RunConfig, option
from gantransfer.methods.stylegan2 import StyleGAN2, TailOptions, alone
from gantransfer.networks import transitional as networks


@dataclass
class TransitionalOptions(TailOptions):
    t_start_kimg: float | None = option(None, "Where the label starts to fade in", type=float, low=0)
    t_end_kimg: float | None = option(None, "Where the label has its full weight (default 0: from the first step)",
                                      type=float, low=0)
    transition: str | None = option(None, "Both at once: START-END, in kimg", metavar="A-B")


class Transitional(StyleGAN2):
    name = "transitional"
    Options: ClassVar[type[method.Options]] = TransitionalOptions
    generator_cls: ClassVar[type[nn.Module]] = networks.Generator
    discriminator_cls: ClassVar[type[nn.Module]] = networks.Discriminator

    @classmethod
    def resolve(cls, o: TransitionalOptions, run: RunConfig, data: DataSpec) -> None:
        super().resolve(o, run, data)
        if not data.label.dim:
            raise UserError("transitional training fades labels in; give --cond=True and a data set with labels")
        if o.transition is not None:
            if o.t_start_kimg is not None or o.t_end_kimg is not None:
                raise UserError("--transition=A-B already says what --t_start_kimg and --t_end_kimg say; give one")
            o.t_start_kimg, o.t_end_kimg = Span.parse(o.transition, "--transition")
        o.t_start_kimg, o.t_end_kimg = o.t_start_kimg or 0.0, o.t_end_kimg or 0.0
        if o.t_end_kimg < o.t_start_kimg:
            raise UserError(f"--t_end_kimg={o.t_end_kimg:g} lies before --t_start_kimg={o.t_start_kimg:g}")
        if o.t_end_kimg == 0:  # the published default
            run.notes.append("the label has its full weight from the first step, so that nothing fades in; give "
                             "--transition=A-B, in kimg")
        elif o.t_end_kimg > run.kimg:
            run.notes.append(f"the run ends at {run.kimg:g} kimg, and the label has its full weight from "
                             f"{o.t_end_kimg:g} on; give another --transition=A-B, or a longer --kimg")

    @classmethod
    def run_name(cls, o: TransitionalOptions, given: dict[str, Any], run: RunConfig, data: DataSpec) -> str:
        return super().run_name(o, given, run, data) + f"-{cls.name}{o.t_start_kimg:g}-{o.t_end_kimg:g}"

    def __init__(self, opts, data, run, start=method.FRESH, stage=None):
        super().__init__(opts, data, run, start, stage)
        self.set_weight(0)

    may_be_fresh: ClassVar[dict[str, tuple[str, ...]]] = {
        "G": ("mapping.embed.", "mapping.proj_embedd.", "mapping.transition"),
        "D": ("mapping.", "b4.out_", "transition")}

    def transfer_net(self, name, source, state, net):
        """From a snapshot of another method: its one head becomes the one it corresponds to."""
        if source.method != self.name:
            head = "b4.out_c." if "mapping.embed.weight" in state else "b4.out_uc."
            state = {k.replace("b4.out.", head): v for k, v in state.items()}
        return super().transfer_net(name, source, state, net)

    def set_weight(self, nimg: int) -> None:
        """The weight of a step that starts after `nimg` images. It is a buffer of all networks."""
        self.weight = Span(self.opts.t_start_kimg, self.opts.t_end_kimg).share(nimg)
        for net in (self.G, self.G_ema, self.D):
            net.set_transition(self.weight)

    def end_step(self, cur_nimg: int, batch_size: int) -> None:
        super().end_step(cur_nimg, batch_size)
        self.set_weight(cur_nimg + batch_size)

    def load_state(self, s: dict[str, Any]) -> None:
        super().load_state(s)
        self.weight = float(self.D.transition)

    def progress(self) -> dict[str, float]:
        return {**super().progress(), "transition": self.weight}

    # ---- losses ----------------------------------------------------------------------------------------------------

    def logits(self, shown: list[torch.Tensor], c: torch.Tensor) -> list[torch.Tensor]:
        return list(self.D(*shown, c))

    def about_heads(self) -> list[tuple[float, str]]:
        """R1 and the controller of the augmentation see the unconditional head."""
        return [(1.0, ""), (self.weight, "_c")]

    @classmethod
    def judge_from(cls, snap: snapshot.Snapshot, device: torch.device | str = "cpu") -> method.Judge:
        D = alone(snap.build("D", device))
        return lambda x, c: D(x, c).cond[:, 0]
