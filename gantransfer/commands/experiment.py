# SPDX-License-Identifier: Apache-2.0
"""`gantransfer experiment STUDY`: a study of gantransfer/experiments, imported when it is called.

A study is a file of that folder whose docstring begins with `gantransfer experiment NAME: what it compares`.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import click

from gantransfer.commands import CONTEXT, load


@cache
def studies() -> dict[str, str]:
    """Name -> one line, read off the files; nothing is imported."""
    found = {}
    for path in sorted(Path(__file__).parents[1].joinpath("experiments").glob("*.py")):
        with open(path, encoding="utf-8") as f:
            head = f.read(400)
        if m := re.search(rf'^"""gantransfer experiment {path.stem}: (.+)\.$', head, re.M):
            found[path.stem] = m[1]
    return found


class Studies(click.Group):
    """Looks a study up by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(studies())

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        return load(name, "gantransfer.experiments") if name in studies() else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Studies"):
            formatter.write_dl(list(studies().items()))


@click.command(cls=Studies, context_settings=CONTEXT)
def main() -> None:
    """Compare methods by the project's protocol: paired seeds, held-out images, judges, a table and a picture.

    A study that was stopped continues where it was when its command is given again.
    """
