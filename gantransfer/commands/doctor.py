# SPDX-License-Identifier: Apache-2.0
"""`gantransfer doctor`: can this machine run and build what is needed, and if not, what to do."""

from __future__ import annotations

import sys

import click

from dnnlib.util import UserError
from gantransfer.commands import CONTEXT


@click.command(context_settings=CONTEXT)
@click.option("--build/--no-build", "do_build", default=True, help="also compile the kernels, if not done yet")
def main(do_build: bool) -> None:
    """Check compiler, CUDA toolkit, torch and build folder, and compile the kernels."""
    import torch

    from torch_utils import build
    from torch_utils.machine import checks

    rows = checks()
    for verdict, text, remedy in rows:
        click.echo(f"{verdict:>4}  {text}")
        if remedy:
            click.echo(f"      -> {remedy}")
    bad = sum(v == "bad" for v, _, _ in rows)
    if do_build:
        try:
            path, info = build.build()
            click.echo(f"  ok  kernels for {', '.join(info['devices'])}: {path} (compiled in {info['seconds']} s)")
            if info.get("cuda_missing") and torch.version.cuda:
                click.echo("      without a GPU's part: the reason stands above")
        except build.BuildError as e:
            bad += 1
            click.echo(f" bad  kernels: {e}")
    if bad:
        raise UserError(f"{bad} problem{'s' * (bad > 1)} found; the remedies stand beside them. Without compiled "
                        f"kernels everything still runs, slower (--kernels=ref).")
    click.echo("Everything is in place.")
    sys.stdout.flush()
