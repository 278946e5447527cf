# SPDX-License-Identifier: Apache-2.0
"""What is in a checkpoint: `gantransfer inspect FILE`.

Networks, sizes, options, provenance, and whatever would be refused. Nothing in the file is run: what a pickle refers to
is read off its instructions, so that a hostile file can be looked at too.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import click

from dnnlib.util import UserError, printable
from gantransfer.commands import CONTEXT
from gantransfer.commands.flags import SNAPSHOT


@click.command(context_settings=CONTEXT)
@click.argument("file", type=SNAPSHOT)
@click.option("--tensors", is_flag=True, help="List every tensor and what became of it")
@click.option("--json", "as_json", is_flag=True, help="Of .metric files: one JSON object per checkpoint")
def main(file: str, tensors: bool, as_json: bool) -> None:
    """What is in a checkpoint, ours or foreign, or in an .onnx file, and what would be refused. Runs nothing.

    Of a published Hyper-Modulation run's `.metric` file, or a folder of them: the class means, under their right names.

    \b
    gantransfer inspect network-snapshot-000200.pkl
    gantransfer inspect data/training-runs/00000-x/metrics
    """
    found = metric_files(file)
    if found:
        print_metrics(found, as_json)
        return
    if as_json:
        raise UserError(f"--json is for .metric files, and {file} is none")
    from gantransfer.importers import load_any, open_source
    from gantransfer.importers.account import report
    from gantransfer.importers.look import describe, describe_onnx, names

    if file.lower().endswith(".onnx"):  # such files have no mark of their own
        for line in describe_onnx(file):
            print(line)
        return
    source = open_source(file)
    size = "" if source.kind == "folder" else f", {os.path.getsize(source.path):,} bytes"
    kinds = {"torch": "a file of torch.save", "pickle": "a pickle", "": "of no known container",
             "safetensors": "safetensors", "folder": "a folder"}
    print(f"{Path(file).name}: {kinds[source.kind]}{size}")
    refused = [name for name, known in names(source) if not known]
    for name in refused:
        print(f"refused     {printable(name)}")
    try:
        snap = load_any(file)
    except UserError as e:
        raise UserError(f"{e}" + (f" (refers to {', '.join(refused[:8])})" if refused else "")) from None
    for line in describe(snap):
        print(printable(line))
    text = report(snap, full=tensors)
    if text and tensors:
        print(text)
    elif tensors:
        for name, r in snap.nets.items():
            for key, t in r.state.items():
                print(f"  {printable(f'{name}.{key}')}  {list(t.shape)} {str(t.dtype).removeprefix('torch.')}")


def metric_files(file: str) -> list[Path]:
    """The .metric files that FILE names: itself, or `<iteration>.metric` in it."""
    from gantransfer.formats import metric_file

    path = Path(file)
    if not path.is_dir():
        return [path] if path.suffix == ".metric" else []
    return metric_file.metric_files(path) if any(path.glob("*.metric")) else []


def print_metrics(files: list[Path], as_json: bool) -> None:
    """A line of class means per checkpoint."""
    from gantransfer.formats.metric_file import NAMES, read_metric

    for path in files:
        table = read_metric(path)
        means = {NAMES.get(k, k): math.fsum(row.get(k, math.nan) for row in table.values()) / len(table)
                 for k in next(iter(table.values()))}
        if as_json:
            print(json.dumps(dict(checkpoint=path.stem, classes=len(table), class_mean=means)))
        else:
            print(f"{path.stem:>10s}  " + "  ".join(f"{k} {v:.4g}" for k, v in means.items()))
