# SPDX-License-Identifier: Apache-2.0
"""Augmentation of everything a discriminator sees: the options, and the state, that every GAN method shares.

Adaptive augmentation (Karras et al. 2020, "Training GANs with limited data") with one probability or with one per class
(ada_class.py), a fixed probability of the same transforms, and DiffAugment (Zhao et al. 2020).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from dnnlib.util import UserError
from gantransfer import method
from gantransfer.augment import ada, ada_class
from gantransfer.augment import diffaug as diff_augment
from gantransfer.data.dataset import DataSpec
from gantransfer.method import RunConfig, option
from torch_utils import distributed as dist

AUGS = ("noaug", "ada", "ada-class", "fixed")


@dataclass
class AugmentOptions(method.Options):
    aug: str | None = option(None, "Augmentation of everything the discriminator sees", choices=AUGS)
    p: float | None = option(None, "Augmentation probability, with --aug=fixed", type=float, low=0, high=1)
    target: float | None = option(None, "Target of adaptive augmentation (default 0.6)", type=float, low=0, high=1)
    augpipe: str | None = option(None, "Augmentation recipe (default bgc)", choices=tuple(ada.AUGPIPES))
    ada_kimg: float | None = option(None, "kimg in which p may move by one (default 500; 50 for small; 100 with "
                                    "--resume)", type=float, low=0.001)
    diffaug: str | None = option(None, "DiffAugment policy: 'light', or any of color,translation,cutout",
                                 metavar="LIST")


def resolve(o: AugmentOptions, run: RunConfig, data: DataSpec) -> None:
    """Fill what is open once `o.aug` is set, in place, and check it. Raises UserError naming the flag."""
    if o.aug == "fixed" and o.p is None:
        raise UserError("--aug=fixed needs --p, the probability of each augmentation")
    if o.aug != "fixed" and o.p is not None:
        raise UserError("--p belongs to --aug=fixed")
    adaptive = o.aug in ("ada", "ada-class")
    if not adaptive and o.target is not None:
        raise UserError("--target belongs to --aug=ada")
    if o.aug == "ada-class" and data.label.kind != "class":
        raise UserError("--aug=ada-class needs class labels: " + ("the labels of this set are values; use --aug=ada"
                        if data.label.dim else "give --cond=True, or use --aug=ada"))
    if o.aug == "noaug" and o.augpipe is not None:
        raise UserError("--augpipe has no meaning with --aug=noaug")
    if adaptive:
        o.target = 0.6 if o.target is None else o.target
        if o.ada_kimg is None:
            o.ada_kimg = 100.0 if run.resume not in (None, "noresume") else 500.0
    if o.aug != "noaug":
        o.augpipe = o.augpipe or "bgc"
        if "imgfilter" in ada.AUGPIPES[o.augpipe] and min(data.size) < 22:
            raise UserError(f"--augpipe={o.augpipe} filters images of at least 22 pixels, not {min(data.size)}; "
                            f"use --augpipe=bgc")
    if o.diffaug in ("none", ""):
        o.diffaug = None
    if o.diffaug is not None:
        try:
            diff_augment.DiffAugment(o.diffaug)
        except ValueError as e:
            raise UserError(f"--diffaug={o.diffaug}: {e}") from None


class Augmentation:
    """Images to augmented images, and the controller of its strength. Without augmentation: the identity."""

    interval = 4  # steps between two moves of the adaptive probability

    def __init__(self, o: AugmentOptions, device: torch.device | str, classes: int = 0):
        self.pipe = self.ada = self.by_class = None
        if o.aug != "noaug":
            self.pipe = ada.AugmentPipe(**ada.AUGPIPES[o.augpipe]).to(device)
        self.host_p = torch.zeros([])  # the pipe's p, in the host's memory: margins are computed there
        self._set_p(o.p or 0)
        if o.aug == "ada":
            self.ada = ada.AdaController(o.target, self.interval, o.ada_kimg)
        if o.aug == "ada-class":
            self.by_class = ada_class.ClassControllers(classes, o.target, self.interval, o.ada_kimg)
        self.diff = diff_augment.DiffAugment(o.diffaug) if o.diffaug else None
        # Sum and number of sign(D(real)) since the last move; of each class where it has a probability of its own.
        self.signs = torch.zeros([2] if self.by_class is None else [classes, 2], device=device)

    def __bool__(self) -> bool:
        """Whether images change at all."""
        return self.pipe is not None or self.diff is not None

    def __call__(self, x: torch.Tensor, rng: torch.Generator, choices: torch.Generator | None = None,
                 c: torch.Tensor | None = None) -> torch.Tensor:
        """[n, C, H, W] in [-1, 1] -> the same shape; differentiable twice. Generators as in a `method.Batch`; c: labels
        [n, classes], for what differs from class to class."""
        if self.pipe is not None:
            p = self.host_p if self.by_class is None else self.by_class.p.float()[c.argmax(1).cpu()]
            x = self.pipe(x, rng=rng, choices=choices, p=p)
        return x if self.diff is None else self.diff(x, rng=rng)

    def obstacles(self) -> tuple[str, ...]:
        """Why what it does cannot be recorded (`method.Graph`)."""
        return () if self.by_class is None else ("augmentation by class reads labels",)

    def observe(self, logits: torch.Tensor, c: torch.Tensor | None = None) -> None:
        """Remember D's logits on reals with labels c, [n] or [n, 1], for the controller."""
        if self.ada is not None:
            self.signs += torch.stack([logits.sign().sum(), logits.new_full([], logits.numel())])
        elif self.by_class is not None:
            signs = logits.reshape(-1, 1).sign().to(c.dtype)
            self.signs += c.t() @ torch.cat([signs, torch.ones_like(signs)], 1)

    def end_step(self, steps: int, batch_size: int) -> None:
        """After step number `steps` (from 1): move the probability when it is time."""
        if self.ada is not None and steps % self.interval == 0:
            total, count = dist.all_reduce_sum(self.signs).tolist()
            self.signs.zero_()
            if count:
                self._set_p(self.ada.update(total / count, batch_size))
        elif self.by_class is not None and steps % self.interval == 0:
            self.by_class.update(dist.all_reduce_sum(self.signs), batch_size)
            self.signs.zero_()

    def _set_p(self, p: float) -> None:
        self.host_p.fill_(p)
        if self.pipe is not None:
            self.pipe.p.fill_(p)

    @property
    def p(self) -> float:
        """The probability; the mean of all classes' where these differ."""
        return float(self.host_p if self.by_class is None else self.by_class.p.mean())

    def state(self) -> dict[str, Any]:
        s: dict[str, Any] = dict(signs=dist.all_reduce_sum(self.signs.clone()))
        if self.pipe is not None:
            s["augment_p"] = self.pipe.p
        if self.ada is not None:
            s["ada_p"] = self.ada.p
        if self.by_class is not None:
            s["ada_class"] = self.by_class.state()
        return s

    def load_state(self, s: dict[str, Any]) -> None:
        self.signs.copy_(s["signs"])  # of all processes
        if not dist.is_main():
            self.signs.zero_()
        if self.pipe is not None:
            self._set_p(float(s["augment_p"]))
        if self.ada is not None:
            self.ada.p = s["ada_p"]
        if self.by_class is not None:
            self.by_class.load_state(s["ada_class"])
