# SPDX-License-Identifier: Apache-2.0
"""Quality of a trained model, or of a set of generated images: options in, one JSON line per metric out, or, on a
terminal, a line for people."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from dnnlib.util import UserError
from gantransfer.commands import CONTEXT
from gantransfer.commands.flags import BOOL, FLOAT, KERNELS, PATH, PATHS, SEED, SNAPSHOT, Choice, IntRange, option
from gantransfer.data.classes import CLASS_HELP, note

if TYPE_CHECKING:
    from gantransfer.metrics.evaluation import Evaluation

LABELS = ("reference", "uniform", "training")


@click.command(context_settings=CONTEXT)
@click.option("--network", type=SNAPSHOT, metavar="FILE|URL",
              help="Snapshot or foreign network pickle; or a zip or folder of images [default: newest of runs/]")
@click.option("--metrics", metavar="LIST", help="Comma-separated; see below [default: fid50k_full, or what the run was "
              "measured by in training where the weights for that are not at hand]")
@click.option("--data", type=PATH, metavar="PATH",
              help="Real images (default: the whole data set the model was trained on)")
@click.option("--fname", type=PATH, metavar="NAME",
              help="Label file of --data; restricts the reals to the images it lists "
              "(default: dataset.json, all images)")
@click.option("--ref", type=PATH, metavar="FILE",
              help="Statistics in place of all real images in FID-like metrics: written by "
              "--write-ref, or as published by EDM (.npz) or EDM2 (.pkl)")
@click.option("--write-ref", type=PATH, metavar="FILE.npz",
              help="Write the statistics of --data by the detector of --metrics, and stop")
@click.option("--train-data", type=PATH, metavar="PATH",
              help="Training images for memorisation and reports "
              "(default: as recorded in the snapshot)")
@click.option("--train-fname", type=PATH, metavar="NAME",
              help="Their label file (default: as recorded)")
@click.option("--mirror", type=BOOL, help="Mirrored reals for the metrics without _full (default: as in training)")
@click.option("--labels", type=Choice(LABELS), default="reference", show_default=True,
              help="Class frequencies of generated images")
@click.option("--trunc", type=FLOAT, default=1, show_default=True, help="Truncation psi of generated images")
@click.option("--trunc-center", type=Choice(["global", "class"]), default="global",
              show_default=True, help="What truncation pulls towards: one mean, as published, or the class's mean w")
@click.option("--classes", metavar="LIST",
              help=f"Classes that tables and reports cover: {CLASS_HELP}")
@click.option("--detector", "detectors", multiple=True, type=PATHS, metavar="[NAME=]FILE",
              help="Weights of a detector; repeatable")
@click.option("--fetch-detector", "fetch_name", metavar="NAME",
              help="Download a published detector into the cache (inception, inception-biggan, vgg16, lpips, ...), "
              "then go on if --network is given")
@click.option("--gpus", type=IntRange(min=1), default=1, show_default=True,
              help="Processes: one per GPU, or on the CPU")
@click.option("--device", type=Choice(["auto", "cuda", "cpu"]), default="auto", show_default=True)
@option(KERNELS)
@click.option("--batch", type=IntRange(min=1), default=64, show_default=True, help="Images per step and process")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of the generated images")
@click.option("--cache-dir", type=PATH, metavar="DIR",
              help="Cache of real statistics (default: the user's)")
@click.option("--no-cache", is_flag=True, help="Neither read nor write that cache")
@click.option("--outdir", type=PATH, metavar="DIR",
              help="Where metric-<name>.jsonl goes (default: the snapshot's run folder)")
@click.option("--verbose", type=BOOL, default=True, show_default=True, help="Progress and notes on stderr")
def main(**flags: Any) -> None:
    """Compute metrics of a trained model and append them to its run folder.

    \b
    # FID and KID of a snapshot against its own training set
    python calc_metrics.py --metrics=fid50k_full,kid50k_full --network=run/network-snapshot-001000.pkl
    # many / medium / few shot classes; a table per class judged by the shipped digits network
    python calc_metrics.py --metrics=fid_shots,kid_shots --network=run/network-snapshot-001000.pkl
    python calc_metrics.py --metrics=report_digits32 --network=run/network-snapshot-000020.pkl --data=held-out.zip
    # generated images instead of a model, and another detector
    python calc_metrics.py --metrics=fid10k_full --network=fakes.zip --data=reals.zip
    python calc_metrics.py --metrics=fd_mynet_10k --detector=mynet=mynet.pt --network=snapshot.pkl

    \b
    Metrics (N: a count such as 50k or 500; every name is a protocol):
      fid<N>, kid<N> with _full, _many, _medium, _few, _shots, _class, _clean, _pytorch, _biggan,
        _fidelity
      fid_clean, kid_clean, ... (50k)
      fid_shots, kid_shots, fid_class, kid_class
      is<N>, is<N>_biggan, is<N>_fidelity
      pr<N>k<k>, pr<N>k<k>_full
      pr_<detector>_<N>_k<k>
      pr_class, dc_class
      pr_<detector>_<N>_k<k>_class, dc_...
      diversity_class
      diversity_<detector>_<N>_class
      ppl_class
      dc<N>k<k>
      dc_<detector>_<N>_k<k>
      ppl2_wend, ppl_<z|w><full|end>
      kmmd, kmmd_unbiased, kmmd<N>, kmmd_unbiased<N>
      cmmd, cmmd<N>
      fid_inf, fid_inf_<N>
      lpips_diversity
      memorisation, memorisation_<detector>
      fd_<detector>_<N>, kd_<detector>_<N> with _many, _medium, _few, _shots, _class
      report_<detector>
      sfid_<detector>_<N>
      label_score_<detector>_<N>
      smoke (no weights needed)
    """
    from gantransfer.commands.flags import start_processes

    if flags["fetch_name"] and "GANTRANSFER_LAUNCHED" not in os.environ:
        from gantransfer.detectors import features

        for path in features.fetch(flags["fetch_name"]):
            print(f"{flags['fetch_name']}: {path}")
        if not flags["network"]:
            return
    start_processes(flags["gpus"], flags["device"])
    from gantransfer.data.labels import DataSpec
    from gantransfer.detectors import features
    from gantransfer.importers import is_images
    from gantransfer.metrics import table
    from gantransfer.metrics.evaluation import USUAL, Evaluation, Settings, other_reals, usual_metrics, write_reference
    from gantransfer.model import load
    from torch_utils import distributed as dist

    if not flags["network"] and not flags["write_ref"]:
        from gantransfer.commands.run import newest_snapshot

        flags["network"] = newest_snapshot("--network is missing and runs/ has no snapshot: name one "
                                           "(network-snapshot-*.pkl), or a zip of images")
    if flags["write_ref"] and not flags["data"]:
        raise UserError("--write-ref needs --data, the real images")
    names = table.parse_names(flags["metrics"] or USUAL)
    if not names:
        raise UserError("--metrics names no metric; see --help")
    detectors = features.parse_overrides([p for d in flags["detectors"] for p in d.split(",") if p])
    settings = Settings(**{f.name: flags[f.name] for f in dataclasses.fields(Settings)})

    def evaluation() -> Evaluation:
        model = None if is_images(flags["network"]) else load(flags["network"])
        if model is not None:
            model.check_makes_images()
        chosen, s, why = names, settings, ""
        if flags["metrics"] is None and model is not None:
            chosen, data, why = usual_metrics(flags["network"], DataSpec.from_dict(model.data), detectors,
                                              settings.data)
            s = dataclasses.replace(settings, data=data)
        elif model is not None and not (settings.data or settings.ref):
            why = other_reals(flags["network"], DataSpec.from_dict(model.data))
        if why and dist.is_main():
            note(why)
        return Evaluation(flags["network"], model, chosen, detectors, s)

    device = dist.init(flags["device"])
    failed = False
    try:
        if flags["write_ref"]:
            count = write_reference(flags["write_ref"], names[0], detectors, device, settings)
            dist.print0(f"{flags['write_ref']}: {count} images of {flags['data']}")
        else:
            failed = report(evaluation(), device, flags["verbose"])
    finally:
        dist.shutdown()
    if failed:
        sys.exit(1)


def report(job: Evaluation, device: Any, verbose: bool) -> bool:
    """Print every metric as it comes. True when one failed."""
    from gantransfer.metrics import summary, table
    from torch_utils import distributed as dist

    failed, people = False, sys.stdout.isatty()
    for result, fresh in job.run(None if job.model is None else job.model.sampler(device), device):
        failed |= "error" in result
        if not dist.is_main():
            continue
        name = result["metric"]
        if not fresh:
            print(f"{name}: this evaluation is in {table.jsonl_path(job.run_dir, name)} already", file=sys.stderr)
        if not people or job.run_dir is None:  # a terminal keeps nothing, so what no file has is there in full
            print(json.dumps(result), flush=True)
        whole = verbose and name.startswith("report_") and "error" not in result
        if people and not whole:
            print(summary.row(result), flush=True)
        if verbose:
            if whole:
                print(table.format_report(result, job.spec.label.names), file=sys.stderr)
            for line in table.warnings_of(result):
                print(line, file=sys.stderr)
    if people and job.run_dir is not None and dist.is_main():
        print(f"Written: {job.run_dir}/metric-NAME.jsonl, a line of JSON each; where stdout is no terminal, "
              "it is printed")
    return failed
