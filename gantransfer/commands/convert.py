# SPDX-License-Identifier: Apache-2.0
"""Checkpoints from one form to another: `gantransfer convert SOURCE DEST`.

SOURCE is any file or folder of `gantransfer.importers`, or a snapshot of ours. DEST says by its ending what is written:
.pkl our snapshot, .safetensors the same for other programs, .pt one network's plain state dict (with .pt.json beside
it), .onnx what the sampler computes, with fixed noise. Every tensor of a foreign checkpoint is accounted for in a
printed table.
"""

from __future__ import annotations

import os

import click

from dnnlib.util import UserError
from gantransfer.commands.flags import FLOAT, PATH, IntRange
from gantransfer.exporters import weights
from gantransfer.importers import IMPORTERS, load_any
from gantransfer.importers.common import not_usable
from gantransfer.importers.ledger import table
from gantransfer.snapshot import Snapshot

FORMATS = ("auto", "gantransfer", *(i.name for i in IMPORTERS))
ENDINGS = (".pkl", ".safetensors", ".pt", ".onnx")


def report(snap: Snapshot, full: bool = False) -> str:
    """What an import did, tensor by tensor; empty for a snapshot of ours that was never imported."""
    if "networks" not in snap.extra:
        return ""
    lines = [f"format {snap.extra.get('format', 'stylegan2-ada')}, method {snap.method}",
             table(snap.extra["networks"], snap.extra.get("left_out", {}), full)]
    lines += [f"assumed, because the file does not say: {k} = {v}" for k, v in snap.extra.get("assumed", {}).items()]
    lines += [f"not usable yet: {name}: {why}" for name, why in not_usable(snap.nets).items()]
    if "needs" in snap.extra:
        lines.append(f"needs {snap.extra['needs']}")
    return "\n".join(lines)


def write(snap: Snapshot, dest: str, net: str, trunc: float, opset: int) -> None:
    """Write `snap` in the form that the ending of `dest` names. Raises UserError for another ending."""
    ending = os.path.splitext(dest)[1].lower()
    if ending == ".pkl":
        snap.save(dest)
    elif ending == ".safetensors":
        weights.save_safetensors(snap, dest)
    elif ending == ".pt":
        weights.save_state(snap, net, dest)
    elif ending == ".onnx":
        from gantransfer.exporters.onnx import export_onnx

        export_onnx(snap, dest, net=net, trunc=trunc, opset=opset)
    else:
        raise UserError(f"DEST={dest} should end in {', '.join(ENDINGS)}")


@click.command(context_settings={"max_content_width": 110})
@click.argument("source", type=PATH)
@click.argument("dest", type=PATH)
@click.option("--format", "format_", type=click.Choice(FORMATS), default="auto", show_default=True,
              help="What SOURCE is; auto recognises it by its content")
@click.option("--copy", metavar="NAME", help="Of a BigGAN folder: the weights best0, copy1, ...")
@click.option("--net", default="G_ema", show_default=True, help="The network that goes into .pt and .onnx")
@click.option("--trunc", type=FLOAT, default=1, show_default=True,
              help=".onnx: truncation psi, where that input is left out")
@click.option("--opset", type=IntRange(18, 24), default=18, show_default=True, help=".onnx: version of operators")
@click.option("--bake", is_flag=True, help="Turn a cgantransfer snapshot into an ordinary BigGAN of its new classes")
@click.option("--decoder", type=PATH, metavar="PATH",
              help="Of a MindGAN: the ALAE it was trained on; gives a complete generator")
@click.option("--baseline", type=click.Choice(["gaussian", "class_gaussian"]),
              help="Of a mind2mind snapshot: Gaussian latents in place of the trained ones")
@click.option("--full", is_flag=True, help="List also the tensors that were copied under their own names")
def main(source: str, dest: str, format_: str, copy: str | None, net: str, trunc: float, opset: int,
         bake: bool, decoder: str | None, baseline: str | None, full: bool) -> None:
    """Convert a checkpoint: foreign to ours, ours to plain weights or ONNX. Nothing in SOURCE is executed.

    \b
    gantransfer convert ffhq.pt ffhq.pkl
    gantransfer convert mindgan.pth mind.pkl --decoder=model_submitted.pth
    gantransfer convert SNAP.pkl weights.safetensors
    gantransfer convert SNAP.pkl generator.onnx --trunc=0.7
    """
    if os.path.splitext(dest)[1].lower() not in ENDINGS:
        raise UserError(f"DEST={dest} should end in {', '.join(ENDINGS)}")
    if os.path.isdir(dest):
        raise UserError(f"DEST={dest} is a folder; name a file")
    if os.path.exists(dest) and os.path.exists(source) and os.path.samefile(source, dest):
        raise UserError("DEST is SOURCE; name another file")
    snap = load_any(source, format_, copy or "")
    text = report(snap, full)
    if text:
        print(text)
    if bake:
        from gantransfer.methods import cgantransfer

        snap = cgantransfer.bake(snap)
    if decoder:
        from gantransfer.methods import mind2mind

        snap = mind2mind.with_decoder(snap, load_any(decoder), decoder)
    if baseline:
        from gantransfer.methods import mind2mind

        snap = mind2mind.baseline(snap, baseline)
    write(snap, dest, net, trunc, opset)
    print(f"{dest}: {', '.join(snap.nets) if dest.lower().endswith(('.pkl', '.safetensors')) else net}")
