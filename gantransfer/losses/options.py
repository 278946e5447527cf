# SPDX-License-Identifier: Apache-2.0
"""Flags of the losses that several methods share, and what these methods hold of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch

from dnnlib.util import UserError
from gantransfer import method
from gantransfer.data.dataset import DataSpec
from gantransfer.losses import gan, noisy_twins
from gantransfer.losses.effective_number import inverse_effective_number
from gantransfer.losses.group_spectral import GroupSpectral
from gantransfer.losses.reweight import importance
from gantransfer.method import RunConfig, option
from torch_utils import distributed as dist
from torch_utils import random as rnd


@dataclass
class LossOptions(method.Options):
    """None and False mean: not used. Records do not mention what is not used."""

    gan_loss: str | None = option(None, "Adversarial loss: logistic, hinge, or rpgan, which compares pairs of images "
                                  "(default the method's own)", choices=tuple(gan.LOSSES))
    r2_gamma: float | None = option(None, "R2 weight: as R1, on generated images", type=float, low=0)
    gsr: float | None = option(None, "Weight of group spectral regularisation (published: 0.5)", type=float, low=0)
    reweight_reals: bool | None = option(None, "Weigh reals so that the discriminator sees the class frequencies of "
                                         "--sampling_labels", type=bool)

    def to_dict(self) -> dict[str, Any]:
        own = {f.name for c in (LossOptions, NoisyTwinsOptions) for f in fields(c)}
        return {k: v for k, v in super().to_dict().items() if k not in own or v is not None}


@dataclass
class NoisyTwinsOptions(LossOptions):
    noisy_twins: float | None = option(None, "Weight of NoisyTwins' decorrelation of w (published: 0.001 to 0.01; 0: "
                                       "noise alone)", type=float, low=0)
    noisy_twins_gamma: float | None = option(None, "NoisyTwins: weight of different numbers of w against equal ones "
                                             "(default 0.05)", type=float, low=0)
    noisy_twins_sigma: float | None = option(None, "NoisyTwins: mean deviation of the class embedding's noise (default "
                                             "0.75)", type=float, low=0)
    noisy_twins_alpha: float | None = option(None, "NoisyTwins: how fast the noise falls with a class's images; 0: not "
                                             "at all (default 0.99)", type=float, low=0, high=0.9999)
    noisy_twins_start: float | None = option(None, "NoisyTwins: kimg from which on w are decorrelated; the noise is "
                                             "there from the first step (default 0)", type=float, low=0)


def resolve(o: LossOptions, run: RunConfig, data: DataSpec, default: str) -> None:
    """Fill what is open, in place, and check it, once `run` is resolved. `default`: the method's own adversarial loss.
    Raises UserError naming the flag."""
    o.gan_loss = None if o.gan_loss == default else o.gan_loss
    o.r2_gamma, o.gsr, o.reweight_reals = o.r2_gamma or None, o.gsr or None, o.reweight_reals or None
    if getattr(o, "noisy_twins", None) is not None:
        _resolve_twins(o, run)
    else:
        for key in ("gamma", "sigma", "alpha", "start"):
            if getattr(o, f"noisy_twins_{key}", None) is not None:
                raise UserError(f"--noisy_twins_{key} belongs to --noisy_twins; give its weight, 0 for the noise alone")
    for key in ("gsr", "reweight_reals", "noisy_twins"):
        if getattr(o, key, None) is not None and data.label.kind != "class":
            raise UserError(f"--{key} needs class labels: " + ("the labels of this set are values; omit it"
                            if data.label.dim else "give --cond=True, or a data set with labels"))
    labels = run.sampling_labels or run.sampling
    if o.gan_loss == "rpgan" and data.label.dim and labels != run.sampling:
        raise UserError(f"--gan_loss=rpgan pairs each generated image with a real one of its label; omit "
                        f"--sampling_labels={labels}")
    if o.reweight_reals:
        if labels == run.sampling:
            raise UserError(f"--reweight_reals makes up for labels that are drawn otherwise than reals, and both are "
                            f"{labels}; give e.g. --sampling_labels=balanced")
        if o.gan_loss == "rpgan":
            raise UserError("--reweight_reals weighs reals, and --gan_loss=rpgan has pairs; omit one")
        if run.sampling_shift is not None:
            raise UserError("--reweight_reals has fixed weights, and --sampling_shift moves the frequencies; omit one")


def _resolve_twins(o: NoisyTwinsOptions, run: RunConfig) -> None:
    method.fill(o, noisy_twins_gamma=0.05, noisy_twins_sigma=0.75, noisy_twins_alpha=0.99)
    o.noisy_twins_start = o.noisy_twins_start or None
    each, whole = run.batch_gpu, run.batch_gpu * run.num_procs
    if o.noisy_twins and (each % 2 or whole < 4):
        raise UserError(f"--noisy_twins makes pairs of the images of a round, and compares at least two; {whole} "
                        f"image{'s' * (whole != 1)} in {run.num_procs} process{'es' * (run.num_procs != 1)} cannot be "
                        f"paired: give an even --batch-gpu, and 4 images or more")


def name_of(o: LossOptions) -> str:
    """What a run's name says of the losses: '' where none of these flags is used."""
    numbers = (("r2gamma", o.r2_gamma), ("gsr", o.gsr), ("twins", getattr(o, "noisy_twins", None)),
               ("sigma", getattr(o, "noisy_twins_sigma", None)))
    words = [o.gan_loss, *(f"{word}{value:g}" for word, value in numbers if value is not None),
             "reweight" if o.reweight_reals else None]
    return "".join(f"-{w}" for w in words if w)


class Losses:
    """What a method needs of the options; those of a method that has no such flags are the defaults."""

    def __init__(self, o: method.Options, run: RunConfig, data: DataSpec, device: torch.device | str, default: str):
        o = o if isinstance(o, LossOptions) else LossOptions()
        self.gan = gan.LOSSES[o.gan_loss or default]()
        self.r2_gamma = o.r2_gamma or 0.0
        self.counts, self.gsr_weight = data.label.counts, o.gsr
        self.gsr: GroupSpectral | None = None
        self.weights: torch.Tensor | None = None  # [classes]: how much a real counts
        if o.reweight_reals:
            self.weights = importance(self.counts, run.sampling, run.sampling_labels).to(device)
        self.sigma: torch.Tensor | None = None  # [classes]: deviation of the noise on the embedding
        self.lam, self.gamma = getattr(o, "noisy_twins", None) or 0.0, getattr(o, "noisy_twins_gamma", None)
        self.twins_from = 1000 * (getattr(o, "noisy_twins_start", None) or 0.0)
        self.twins = 0.0 if self.twins_from else self.lam  # NoisyTwins' weight in this step
        if getattr(o, "noisy_twins", None) is not None:
            scale = torch.from_numpy(inverse_effective_number(self.counts, o.noisy_twins_alpha)).float()
            self.sigma = (scale * o.noisy_twins_sigma).to(device)

    def watch(self, G: Any) -> None:
        """Before training: the generator whose `class_tables()` gSR keeps down, where it is used."""
        if self.gsr_weight is not None:
            self.G, self.gsr = G, GroupSpectral(self.counts, self.gsr_weight, G.class_tables())

    def on_weights(self, report: Callable[[str, torch.Tensor], None]) -> Iterator[torch.Tensor]:
        """Further terms of the generator's loss, which no image has a part in."""
        if self.gsr is not None:
            penalty = self.gsr.penalty(self.G.class_tables())
            report("Loss/G/gsr", penalty)
            yield penalty

    def end_step(self, shown: int) -> None:
        """After a step; `shown`: images until now, with this step's."""
        self.twins = self.lam if shown >= self.twins_from else 0.0
        if self.gsr is not None:
            self.gsr.advance(self.G.class_tables())

    def weight(self, c: torch.Tensor) -> torch.Tensor | float:
        """[n, 1]: how much reals with the labels c count in the discriminator's loss; or 1."""
        return 1.0 if self.weights is None else (c @ self.weights)[:, None]

    def noise(self, c: torch.Tensor, features: int, rng: rnd.Rng) -> torch.Tensor | None:
        """[n, features] to add to the embeddings of the labels c; None: nothing."""
        return None if self.sigma is None else noisy_twins.embedding_noise(c, self.sigma, features, rng)

    def obstacles(self) -> tuple[str, ...]:
        """Why the generator's phase cannot be recorded (`method.Graph`)."""
        gathers = ("NoisyTwins gathers over processes",) if self.lam and dist.world_size() > 1 else ()
        return gathers + (("NoisyTwins begins later",) if self.lam and self.twins_from else ())

    def state(self) -> dict[str, Any]:
        begun = {"twins": self.twins} if self.twins_from else {}
        return begun if self.gsr is None else {"gsr": self.gsr.state(), **begun}

    def load_state(self, s: dict[str, Any]) -> None:
        if self.gsr is not None:
            self.gsr.load_state(s["gsr"])
        self.twins = s.get("twins", self.twins)
