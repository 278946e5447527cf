# SPDX-License-Identifier: Apache-2.0
"""Checkpoints from one form to another: `gantransfer convert SOURCE DEST`.

SOURCE is any file or folder of `gantransfer.importers`, or a snapshot of ours. DEST says by its ending what is written:
.pkl our snapshot, .safetensors the same for other programs, .pt one network's plain state dict (with .pt.json beside
it), .onnx what the sampler computes, with fixed noise. Every tensor of a foreign checkpoint is accounted for in a
printed table.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from dnnlib.util import UserError, finite_numbers
from gantransfer.commands import CONTEXT
from gantransfer.commands.flags import FLOAT, PATH, SNAPSHOT, Choice, IntRange
from gantransfer.data.classes import ONE_CLASS_HELP, one_class, warn_untrained

if TYPE_CHECKING:
    from gantransfer.snapshot import Snapshot

# The names of importers.IMPORTERS; said here because --help imports none of them.
FORMATS = ("auto", "gantransfer", "stylegan2-ada", "rosinality-stylegan2", "hypermod",
           "rosinality-stylegan1", "alae", "mindgan", "biggan")


@click.command(context_settings=CONTEXT)
@click.argument("source", type=SNAPSHOT)
@click.argument("dest", type=PATH)
@click.option("--format", "format_", type=Choice(FORMATS), default="auto", show_default=True,
              help="What SOURCE is; auto recognises it by its content")
@click.option("--copy", metavar="NAME", help="Of a BigGAN folder: the weights best0, copy1, ...")
@click.option("--net", default="G_ema", show_default=True, help="The network that goes into .pt and .onnx")
@click.option("--trunc", type=FLOAT, default=1, show_default=True,
              help=".onnx: truncation psi, where that input is left out")
@click.option("--opset", type=IntRange(18, 24), default=18, show_default=True, help=".onnx: version of operators")
@click.option("--bake", is_flag=True, help="Leave the method behind: of a hypermod snapshot one class as an "
              "unconditional StyleGAN2, of a cgantransfer snapshot an ordinary BigGAN of its new classes")
@click.option("--class", "class_", metavar="CLASS", help=f"--bake of hypermod: the class: {ONE_CLASS_HELP}")
@click.option("--label", metavar="V,V,...", help="--bake of hypermod: instead of --class a weight for every class; "
              "they should sum to one")
@click.option("--decoder", type=SNAPSHOT, metavar="PATH",
              help="Of a MindGAN: the ALAE it was trained on; gives a complete generator")
@click.option("--baseline", type=Choice(["gaussian", "class_gaussian"]),
              help="Of a mind2mind snapshot: Gaussian latents in place of the trained ones")
@click.option("--full", is_flag=True, help="List also the tensors that were copied under their own names")
def main(source: str, dest: str, format_: str, copy: str | None, net: str, trunc: float, opset: int,
         bake: bool, class_: str | None, label: str | None, decoder: str | None, baseline: str | None,
         full: bool) -> None:
    """Convert a checkpoint: foreign to ours, ours to plain weights or ONNX. Nothing in SOURCE is executed.

    \b
    gantransfer convert ffhq.pt ffhq.pkl
    gantransfer convert mindgan.pth mind.pkl --decoder=model_submitted.pth
    gantransfer convert SNAP.pkl weights.safetensors
    gantransfer convert SNAP.pkl generator.onnx --trunc=0.7
    gantransfer convert SNAP.pkl three.pkl --bake --class=3
    """
    from gantransfer.exporters.files import ENDINGS, write
    from gantransfer.importers import load_any
    from gantransfer.importers.account import report

    if os.path.splitext(dest)[1].lower() not in ENDINGS:
        raise UserError(f"DEST={dest} should end in {', '.join(ENDINGS)}")
    if os.path.isdir(dest):
        raise UserError(f"DEST={dest} is a folder; name a file")
    if os.path.exists(dest) and os.path.exists(source) and os.path.samefile(source, dest):
        raise UserError("DEST is SOURCE; name another file")
    if not bake and (class_ is not None or label is not None):
        raise UserError(f"{'--class' if class_ is not None else '--label'} belongs to --bake")
    snap = load_any(source, format_, copy or "")
    text = report(snap, full)
    if text:
        print(text)
    if bake:
        snap = baked(snap, class_, label)
    if decoder:
        from gantransfer.methods import mind2mind

        snap = mind2mind.with_decoder(snap, load_any(decoder), decoder)
    if baseline:
        from gantransfer.methods import mind2mind

        snap = mind2mind.baseline(snap, baseline)
    write(snap, dest, net, trunc, opset)
    print(f"{dest}: {', '.join(snap.nets) if dest.lower().endswith(('.pkl', '.safetensors')) else net}")


def baked(snap: Snapshot, class_: str | None, label: str | None) -> Snapshot:
    """--bake: a snapshot of hypermod or cgantransfer as one of the method that it was adapted from."""
    if snap.method == "cgantransfer":
        from gantransfer.methods import cgantransfer

        if class_ is not None or label is not None:
            raise UserError(f"{'--class' if class_ is not None else '--label'}: a cgantransfer snapshot is baked with "
                            "all its new classes; omit it")
        return cgantransfer.bake(snap)
    import torch

    from gantransfer.data.labels import DataSpec
    from gantransfer.exporters import bake

    bake.check(snap)
    spec = DataSpec.from_dict(snap.data).label
    if (class_ is None) == (label is None):
        raise UserError(f"which class? give --class=0 to --class={spec.dim - 1}, or --label with a weight for each")
    if label is None:
        return bake.bake(snap, torch.eye(spec.dim)[[one_class(class_, spec)]])
    weights = finite_numbers(label, "--label")
    if len(weights) != spec.dim:
        raise UserError(f"--label={label}: {len(weights)} numbers for {spec.dim} classes")
    warn_untrained([k for k, w in enumerate(weights) if w], spec, "--label")
    return bake.bake(snap, torch.tensor([weights]))
