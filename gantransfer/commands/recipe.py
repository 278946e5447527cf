# SPDX-License-Identifier: Apache-2.0
"""`train --recipe=tail`: the flags that did best on rare classes in our own studies (docs/tail.md), where not given.

Classes equally often, once the first half of the run has moved there from the data's own frequencies; relativistic
pairs; and R1 and R2 of equal weight, eight times what StyleGAN2-ADA's rule 0.0002 pixels / batch gives R1 alone.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from dnnlib.util import UserError

if TYPE_CHECKING:
    from gantransfer.data.dataset import DataSpec
    from gantransfer.method import Method, RunConfig

NAMES = ("tail",)
SHIFT = (0.25, 0.5)  # of the run
R1 = 0.05  # for 32 pixels and batches of 32


def chosen(method: type[Method], run: RunConfig, data: DataSpec, given: dict[str, Any]) -> dict[str, Any]:
    """Values by flag, for a run whose length and batch are resolved; without those in `given`. UserError, one line, for
    methods and data that the recipe is not for."""
    if not {"gan_loss", "r2_gamma", "gamma"} <= {f.name for f in dataclasses.fields(method.Options)}:
        raise UserError(f"--recipe=tail chooses an adversarial loss, and method {method.name} has its own; omit the "
                        f"flag, or take --method=stylegan2 or utlo")
    if data.label.kind != "class":
        raise UserError("--recipe=tail is for classes of which some are rare; give --cond=True and a data set with "
                        "class labels")
    weight = float(f"{R1 * data.size.pixels / 32**2 * 32 / run.batch:.3g}")
    start, end = (run.kimg * share for share in SHIFT)
    values = dict(sampling="balanced", sampling_shift=f"{start:g}-{end:g}", gan_loss="rpgan", gamma=weight,
                  r2_gamma=weight)
    return {k: v for k, v in values.items() if given.get(k) is None}


def in_words(values: dict[str, Any]) -> str:
    return " ".join(f"--{k}={v:g}" if isinstance(v, float) else f"--{k}={v}" for k, v in values.items())
