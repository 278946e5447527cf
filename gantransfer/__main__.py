# SPDX-License-Identifier: Apache-2.0
"""`gantransfer COMMAND`, the same as `python -m gantransfer COMMAND`. A command is imported when it is called."""

from __future__ import annotations

import os

# Threads that wait must sleep, not spin: small networks on a busy machine are 15 times slower otherwise (measured).
os.environ["OMP_WAIT_POLICY"] = os.environ.get("OMP_WAIT_POLICY", "PASSIVE")

from importlib import import_module

import click

import gantransfer
from dnnlib.util import run_cli

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
        "generate": "images, sheets and data sets from a snapshot",
        "interpolate": "walks between classes and latents",
        "explain": "which source classes each new class is made of (cGANTransfer)",
    },
    "Measuring": {
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


class Commands(click.Group):
    """Looks a command up by name; nothing is imported for the list of commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for section in COMMANDS.values() for name in section]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        name = name.replace("-", "_")
        return import_module(f"gantransfer.commands.{name}").main if name in self.list_commands(ctx) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, section in COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl(list(section.items()))


@click.command(cls=Commands, context_settings={"max_content_width": 110})
@click.version_option(gantransfer.__version__, prog_name="gantransfer")
def main() -> None:
    """Class-conditional image generators from little, long-tailed or unlabelled-source data.

    `gantransfer COMMAND --help` tells the options of a command. What each command makes:
    """


def run(name: str | None = None) -> None:
    """Entry point of the console command, and with a name of the scripts at the top of a checkout."""
    run_cli(main if name is None else import_module(f"gantransfer.commands.{name}").main)


if __name__ == "__main__":
    run_cli(lambda: main(prog_name="gantransfer"))
