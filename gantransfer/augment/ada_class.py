# SPDX-License-Identifier: Apache-2.0
"""Adaptive augmentation with a probability per class (`--aug=ada-class`).

The discriminator learns a rare class by heart long before the others, and the one p that suits them all suits none. So
each class has a controller as that of ADA (ada.py), which looks at the signs of its own reals:

    r_c = mean of sign(D(x, c)) over the reals of class c since its last move;   p_c moves towards r_c = target

A class is judged at the first of ADA's intervals by which it has shown `ENOUGH` reals, for the mean of a few signs says
little; the step is as long as the images shown by all classes since its last move, so that p_c can change as fast in a
rare class as in a frequent one. With one class this is ADA itself.
"""

from __future__ import annotations

import torch

ENOUGH = 16  # reals of a class; ADA judges by batch * 4


class ClassControllers:
    """Steers p [classes], float64 in the host's memory; arguments as those of `ada.AdaController`."""

    def __init__(self, classes: int, target: float, interval: int = 4, kimg: float = 500):
        self.target, self.interval, self.kimg = target, interval, kimg
        self.p = torch.zeros([classes], dtype=torch.float64)
        self.signs = torch.zeros([classes, 2], dtype=torch.float64)  # sum and number since the class's last move
        self.images = torch.zeros([classes], dtype=torch.float64)  # of all classes since then

    def update(self, signs: torch.Tensor, batch: int) -> torch.Tensor:
        """The new p [classes], given the sums and numbers [classes, 2] of the signs since the last call, and the global
        batch size of a step. Classes that have not shown enough keep theirs."""
        self.signs += signs.double().cpu()
        self.images += batch * self.interval
        total, count = self.signs.unbind(1)
        if not bool(torch.isfinite(total).all()):
            bad = int((~torch.isfinite(total)).nonzero()[0])
            raise ValueError(f"ADA's statistic of class {bad} is {float(total[bad])}: the discriminator's outputs are "
                             "not finite")
        judged = count >= min(ENOUGH, batch * self.interval)
        direction = (total / count.clamp(min=1) - self.target).sign()
        step = direction * self.images / (self.kimg * 1000)
        self.p = torch.where(judged, (self.p + step).clamp(min=0), self.p)
        self.signs[judged], self.images[judged] = 0, 0
        return self.p

    def state(self) -> dict[str, torch.Tensor]:
        return dict(p=self.p, signs=self.signs, images=self.images)

    def load_state(self, s: dict[str, torch.Tensor]) -> None:
        self.p, self.signs, self.images = (s[k].clone() for k in ("p", "signs", "images"))
