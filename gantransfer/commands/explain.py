# SPDX-License-Identifier: Apache-2.0
"""gantransfer explain: which source classes each new class is made of.

Reads a cgantransfer snapshot. Per new class: the source classes with the largest scores, over all layers and in each
of them, and how large residual and combination are. Writes a table, JSON, and a picture of the scores.
"""

from __future__ import annotations

import json
import os

import click

from dnnlib.util import UserError, atomic_path, atomic_write, check_writable
from gantransfer.commands import CONTEXT
from gantransfer.commands.flags import PATH, SNAPSHOT, IntRange


@click.command(context_settings=CONTEXT)
@click.option("--network", required=True, type=SNAPSHOT, metavar="PATH", help="Snapshot of --method=cgantransfer")
@click.option("--top", type=IntRange(min=1), default=5, show_default=True, help="Source classes named per row")
@click.option("--layers", is_flag=True, help="Also a row per layer")
@click.option("--json", "json_path", type=PATH, metavar="FILE", help="Write every score and share here")
@click.option("--picture", type=PATH, metavar="FILE.png",
              help="Draw the scores: a block per new class, a row per source class, a column per layer")
def main(network: str, top: int, layers: bool, json_path: str | None, picture: str | None) -> None:
    """Show which source classes the new classes of a transferred model are made of.

    \b
    gantransfer explain --network=runs/00001-.../network-snapshot-000008.pkl --picture=scores.png
    """
    from gantransfer.model import load
    from gantransfer.pictures.transfer_scores import draw, table

    if picture and os.path.splitext(picture)[1].lower() != ".png":
        raise UserError(f"--picture={picture} should end in .png")
    for flag, path in (("--json", json_path), ("--picture", picture)):
        check_writable(flag, path, True)
    snap = load(network)
    if snap.method != "cgantransfer":
        raise UserError(f"{network} is of the method {snap.method}; scores exist in snapshots of cgantransfer")
    report = snap.sampler().scores()
    print(table(report, top, layers))
    if json_path:
        with atomic_write(json_path) as f:
            json.dump(report, f, indent=1)
        print(f"{json_path}: all scores and shares")
    if picture:
        with atomic_path(picture) as tmp:
            draw(report).save(tmp, format="PNG")
        print(f"{picture}: a block per new class, a row per source class, a column per layer")
