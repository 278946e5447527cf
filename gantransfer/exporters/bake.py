# SPDX-License-Identifier: Apache-2.0
"""One class of a hyper-modulated StyleGAN2 as an ordinary unconditional snapshot.

The class's kernels and biases are written into a plain StyleGAN2 generator: the same images, no hypernetwork left. The
discriminator keeps the class's head, so that the result can also be trained further.
"""

from __future__ import annotations

import torch

from dnnlib.util import UserError
from gantransfer.data.labels import DataSpec, LabelSpec
from gantransfer.networks import hypermod, stylegan2
from gantransfer.snapshot import NetRecord, Snapshot


def check(snap: Snapshot) -> None:
    """UserError for a snapshot that is not of a hyper-modulated StyleGAN2."""
    if "G_ema" not in snap.nets or snap.nets["G_ema"].kind() is not hypermod.Generator:
        raise UserError(f"the snapshot is of method {snap.method}; --bake takes those of cgantransfer, and of hypermod "
                        "on StyleGAN2")


def bake(snap: Snapshot, c: torch.Tensor) -> Snapshot:
    """The unconditional snapshot of a label c [1, classes], one-hot or soft. UserError for snapshots of other kinds."""
    check(snap)
    nets = {"G_ema": NetRecord.of(hypermod.bake(snap.build("G_ema"), c))}
    nets["G"] = NetRecord.of(hypermod.bake(snap.build("G"), c)) if "G" in snap.nets else nets["G_ema"]
    if "D" in snap.nets and snap.nets["D"].kind() is hypermod.Discriminator:
        nets["D"] = NetRecord.of(_one_head(snap.build("D"), c))
    data = DataSpec.from_dict(snap.data).to_dict() | {"label": LabelSpec().to_dict()}
    return Snapshot(method="stylegan2", nets=nets, data=data, cur_nimg=snap.cur_nimg,
                    extra=dict(baked_label=c[0].tolist(), baked_from=snap.options))


def _one_head(D: hypermod.Discriminator, c: torch.Tensor) -> stylegan2.Discriminator:
    out = stylegan2.Discriminator(**{**D.init_kwargs, "c_dim": 0})
    state = D.state_dict()
    for key in ("b4.out.weight", "b4.out.bias"):
        state[key] = torch.tensordot(c[0], state[key], 1)[None]
    out.load_state_dict(state)
    return out
