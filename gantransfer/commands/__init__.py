# SPDX-License-Identifier: Apache-2.0
"""The commands: one file each, which asks and prints, imported when it is called."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import click

import gantransfer
from dnnlib import signals

# Of every command: `--batch-gpu` is `--batch_gpu`, and `dataset-tool` is `dataset_tool`.
CONTEXT: dict[str, Any] = dict(max_content_width=110, token_normalize_func=lambda token: token.replace("-", "_"))

COMMANDS = {  # section of the help -> command -> what the user gets
    "Data": {
        "dataset_tool": "a data set (zip or folder) from images of any kind; check and export one",
        "lt_dataset": "a long-tailed split of a data set",
    },
    "Training": {
        "train": "a generator",
        "distill": "a student network that learns from generated images (cGAN-KD)",
        "encode": "the images of a set as latents of a frozen auto-encoder (Mind2Mind)",
        "judge": "a small classifier that judges generated images",
    },
    "Images": {
        "view": "a page in your browser: seeds, classes, walks, mixing, sheets",
        "generate": "images, sheets and data sets from a snapshot",
        "project": "the latents of given images",
        "interpolate": "walks between classes and latents",
        "explain": "which source classes each new class is made of (cGANTransfer)",
    },
    "Measuring": {
        "report": "runs and experiments as one page with curves, tables and pictures; a training as a film",
        "calc_metrics": "FID, KID, precision, recall, tables per class and more of a snapshot",
    },
    "Checkpoints": {
        "inspect": "what is in a checkpoint, ours or foreign",
        "convert": "a checkpoint in another form: ours, .safetensors, .pt, .onnx, one class alone",
    },
    "Evidence": {
        "demo": "the whole story in minutes, on real handwritten digits",
        "experiment": "methods against each other with paired seeds, on data anyone can get",
    },
    "Machine": {
        "doctor": "whether this machine has what is needed, and if not, what to do",
    },
}


TOP = Path(__file__).resolve().parents[2]  # with train.py and the other scripts in a checkout, without them elsewhere


def load(name: str, package: str = "gantransfer.commands") -> click.Command:
    """The command `main` of a module, imported now. A signal meanwhile ends the process in one line: an exception in
    the middle of an import may be swallowed, or come out as another one. Its examples call the script of a checkout
    where there is one, else the command."""
    with signals.importing():
        command = import_module(f"{package}.{name}").main
    if not (TOP / f"{name}.py").is_file():
        command.help = re.sub(rf"python {name}\.py", f"gantransfer {name}", command.help or "")
    return command


class Group(click.Group):
    """Its commands by both spellings."""

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        known = {n.replace("-", "_"): n for n in self.commands}
        return super().get_command(ctx, known.get(name.replace("-", "_"), name))


class Commands(click.Group):
    """Looks a command up by name; nothing is imported for the list of commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for section in COMMANDS.values() for name in section]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        return load(name) if name in self.list_commands(ctx) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, section in COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl(list(section.items()))


@click.command(cls=Commands, context_settings=CONTEXT)
@click.version_option(gantransfer.__version__, prog_name="gantransfer")
def main() -> None:
    """Class-conditional image generators from little, long-tailed or unlabelled-source data.

    `gantransfer COMMAND --help` tells the options of a command. What each command makes:
    """
