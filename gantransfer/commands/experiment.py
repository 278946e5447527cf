# SPDX-License-Identifier: Apache-2.0
"""`gantransfer experiment STUDY`: a study of gantransfer/experiments, imported when it is called."""

from __future__ import annotations

from importlib import import_module

import click

STUDIES = {
    "longtail": "long-tailed classes: baseline, UTLO, balanced sampling, ...",
    "cgantransfer": "new classes from few images: cGANTransfer, MineGAN, fine-tuning, ...",
    "hypermod": "classes for an unconditional generator: Hyper-Modulation, fine-tuning, ...",
    "mind2mind": "a new domain through a frozen auto-encoder: Mind2Mind, fine-tuning, FreezeD",
    "distill": "classifiers taught by generated images: cGAN-KD",
    "ccgan": "regressors taught by generated images of a continuous label: CcGAN and cGAN-KD",
}


class Studies(click.Group):
    """Looks a study up by name; nothing is imported for the list."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(STUDIES)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        return import_module(f"gantransfer.experiments.{name}").main if name in STUDIES else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Studies"):
            formatter.write_dl(list(STUDIES.items()))


@click.command(cls=Studies, context_settings={"max_content_width": 110})
def main() -> None:
    """Compare methods by the project's protocol: paired seeds, held-out images, judges, a table and a picture.

    A study that was stopped continues where it was when its command is given again.
    """
