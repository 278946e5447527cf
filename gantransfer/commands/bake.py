# SPDX-License-Identifier: Apache-2.0
"""One class of a hyper-modulated StyleGAN2 as an ordinary unconditional snapshot: `gantransfer bake`.

The class's kernels and biases are written into a plain StyleGAN2 generator: the same images, no hypernetwork left. The
discriminator keeps the class's head, so that the result can also be trained further.
"""

from __future__ import annotations

import os

import click
import torch

from dnnlib.util import UserError, finite_numbers
from gantransfer.commands.flags import ONE_CLASS_HELP, PATH, one_class, warn_untrained
from gantransfer.data.labels import DataSpec, LabelSpec
from gantransfer.importers import load_any
from gantransfer.networks import hypermod, stylegan2
from gantransfer.snapshot import NetRecord, Snapshot


def bake(snap: Snapshot, c: torch.Tensor) -> Snapshot:
    """The unconditional snapshot of a label c [1, classes], one-hot or soft. UserError for snapshots of other kinds."""
    kinds = {k: r.kind() for k, r in snap.nets.items()}
    if kinds.get("G_ema") is not hypermod.Generator:
        raise UserError(f"the snapshot is of method {snap.method}; baking takes the classes of --method=hypermod on "
                        f"StyleGAN2")
    nets = {"G_ema": NetRecord.of(hypermod.bake(snap.build("G_ema"), c))}
    nets["G"] = NetRecord.of(hypermod.bake(snap.build("G"), c)) if "G" in snap.nets else nets["G_ema"]
    if kinds.get("D") is hypermod.Discriminator:
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


@click.command(context_settings={"max_content_width": 110})
@click.option("--network", required=True, type=PATH, metavar="PATH", help="Snapshot of --method=hypermod; file or URL")
@click.option("--class", "class_", metavar="CLASS", help=f"The class: {ONE_CLASS_HELP}")
@click.option("--label", metavar="V,V,...", help="Instead: a weight for every class; they should sum to one")
@click.argument("dest", type=PATH)
def main(network: str, class_: str | None, label: str | None, dest: str) -> None:
    """Write one class of a hyper-modulated StyleGAN2 as an unconditional snapshot.

    \b
    gantransfer bake --network=SNAP.pkl --class=3 three.pkl
    gantransfer generate --network=three.pkl --seeds=0-63 --outdir=out
    """
    if not dest.lower().endswith(".pkl") or os.path.isdir(dest):
        raise UserError(f"DEST={dest} should be a file that ends in .pkl")
    if os.path.exists(dest) and os.path.exists(network) and os.path.samefile(dest, network):
        raise UserError("DEST is the snapshot itself; name another file")
    snap = load_any(network)
    spec = DataSpec.from_dict(snap.data).label
    if (class_ is None) == (label is None):
        raise UserError(f"which class? give --class=0 to --class={spec.dim - 1}, or --label with a weight for each")
    if label is not None:
        c = weights(label, spec.dim)
        warn_untrained(c[0].nonzero().flatten().tolist(), spec, "--label")
    else:
        c = torch.eye(spec.dim)[[one_class(class_, spec)]]
    bake(snap, c).save(dest)
    print(f"{dest}: an unconditional StyleGAN2 of " + (f"class {class_}" if label is None else f"the label {label}"))


def weights(text: str, dim: int) -> torch.Tensor:
    """'0.5,0,0.5' -> [1, dim]. UserError for other than `dim` numbers."""
    values = finite_numbers(text, "--label")
    if len(values) != dim:
        raise UserError(f"--label={text}: {len(values)} numbers for {dim} classes")
    return torch.tensor([values])
