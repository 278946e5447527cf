# SPDX-License-Identifier: Apache-2.0
"""The flags of `train` and its help: the shared ones in sections, and those of the method that is chosen."""

from __future__ import annotations

import contextlib
from collections import Counter
from functools import cache

import click

from gantransfer.commands import recipe
from gantransfer.commands.flags import (
    CONFIG,
    GRAPHS,
    MACHINE,
    PATH,
    PATHS,
    POLICIES,
    RATING,
    SNAPSHOT,
    TICKS,
    WORD,
    Choice,
    Flag,
    IntRange,
    Sectioned,
    schedule,
)
from gantransfer.commands.method_flags import described, flag_of

# Options of more than one method keep one meaning; these choose the method when --method is left out.
IMPLIES = {"add_uc": "utlo", "res_uc": "utlo", "alpha": "utlo", "t_start_kimg": "transitional",
           "t_end_kimg": "transitional", "transition": "transitional"}

SECTIONS: dict[str, list[click.Option]] = {
    "Data and output": [
        Flag("data", "Training images: zip or folder made by dataset_tool.py [default: handwritten digits]",
             PATH, metavar="PATH"),
        Flag("outdir", "Where run folders are made", PATH, "runs", metavar="DIR"),
        Flag("fname", "Label file in --data that also selects the images, e.g. lt_25.json", PATH, metavar="NAME"),
        Flag("cond", "Train a conditional model on the data set's labels", bool, False),
        Flag("subset", "Train on this many images only", IntRange(min=1)),
        Flag("mirror", "Add mirrored images", bool, False),
        Flag("desc", "Added to the run folder's name", metavar="TEXT"),
        Flag("description", "As --desc", metavar="TEXT"),
    ],
    "Method and start": [
        CONFIG,
        Flag("recipe", "tail: class sampling, loss and regularisation for classes of which some are rare, where these "
             "are not given", Choice(list(recipe.NAMES)), metavar="NAME"),
        Flag("stage", "Stage of a method that has several", metavar="NAME"),
        Flag("resume", "Start from weights (file, URL, published name), or 'latest' / a run folder to continue a run "
             "exactly, 'auto' if there is one; RUN:latest, RUN:best or RUN:best:METRIC are weights of a run's snapshot",
             PATH, metavar="PATH"),
        Flag("source", "Source model of a transfer method: file, URL, RUN, RUN:latest, RUN:best", SNAPSHOT,
             metavar="PATH"),
        Flag("dry-run", "Check all that a run checks, print the resolved options and the time it takes, and stop",
             None, False, short=("-n",), is_flag=True),
    ],
    "Schedule": [
        *schedule(least=1),
        Flag("sampling_labels", "Labels of generated images, if other than --sampling", POLICIES),
        Flag("sampling_shift", "kimg over which both move there from the data's own frequencies, e.g. 10-20",
             metavar="START-END"),
    ],
    "Snapshots and metrics": [
        *TICKS,
        Flag("metrics", "Comma-separated metrics, or none", metavar="LIST"),
        Flag("detector", "Detector weights for the metrics: FILE, or NAME=FILE, comma-separated", PATHS,
             metavar="LIST"),
        Flag("heldout", "Reals that metrics compare with and training does not see: so many per class of --data, or "
             "another data set [default: metrics compare with all of --data]", PATH, metavar="N|PATH"),
        *RATING,
        Flag("eval_at_start", "Also evaluate the untrained network", bool, False),
        Flag("wandb_proj", "Log to this Weights & Biases project", metavar="NAME"),
    ],
    "Machine": [
        *MACHINE,
        Flag("workers", "Image-reading threads per process", IntRange(min=1), 3),
        Flag("nobench", "Disable cuDNN benchmarking", bool, False),
        Flag("allow_tf32", "Allow TF32 in training", bool, False),
        GRAPHS,
    ],
}


class Train(Sectioned):
    """The shared flags, and those of every method. `--help` shows the shared ones in sections, and of the methods the
    one that is chosen."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        with contextlib.suppress(click.UsageError):  # for --help, which comes first whatever else there is
            typed, _, _ = self.make_parser(ctx).parse_args(list(args))
            ctx.meta["method"] = typed.get("method") or next((IMPLIES[k] for k in typed if k in IMPLIES), None)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as e:
            owners = {f"--{o['name']}": name for name, m in described().items() for o in m["options"]}
            e.possibilities = [f"{p} of --method={owners[p]}" if p in owners else p for p in e.possibilities or ()]
            raise

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        table, chosen = described(), ctx.meta.get("method")
        own = self.own()
        for title, options in self.sections.items():
            options = [o for o in own if o.name == "method"] * (title == "Method and start") + options
            with formatter.section(title):
                formatter.write_dl([record for o in options if (record := o.get_help_record(ctx))])
        if chosen in table:
            stages = table[chosen]["stages"]
            with formatter.section(f"--method={chosen}"):
                formatter.write_text(table[chosen]["about"])
                if len(stages) > 1:
                    formatter.write_text(f"Stages, for --stage: {', '.join(stages)}")
                count = Counter(o["name"] for m in table.values() for o in m["options"])
                fields = sorted(table[chosen]["options"], key=lambda o: count[o["name"]])  # its very own first
                formatter.write_dl([r for o in fields if (r := flag_of(o).get_help_record(ctx))])
        else:
            with formatter.section("Methods (`--method=NAME --help` adds a method's own flags)"):
                formatter.write_dl([(name, m["about"]) for name, m in table.items()])


@cache
def method_flags() -> list[Flag]:
    """--method, and every flag of every method once. Which words a flag takes is the chosen method's matter."""
    found: dict[str, Flag] = {}
    for field in (field for m in described().values() for field in m["options"]):
        if field["name"] not in found:
            flag = found[field["name"]] = flag_of(field)
            flag.type = WORD if isinstance(flag.type, Choice) else flag.type
    name = Flag("method", "Which method [default: stylegan2, or whose flags are given]", Choice(list(described())),
                metavar="NAME")
    return [name, *found.values()]
