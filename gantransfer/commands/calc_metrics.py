# SPDX-License-Identifier: Apache-2.0
"""Quality of a trained model, or of a set of generated images: options in, one JSON line per metric out."""

from __future__ import annotations

from dnnlib import signals

if __name__ == "__main__":
    signals.end_in_one_line()

import json
import sys
from functools import cached_property
from pathlib import Path
from typing import Any

import click

from dnnlib.util import UserError
from gantransfer.commands import kernels
from gantransfer.commands.flags import CLASS_HELP, FLOAT, PATH, PATHS, SEED, SNAPSHOT, IntRange, note, parse_classes

BOOL = click.BOOL
LABELS = ("reference", "uniform", "training")


@click.command(context_settings={"max_content_width": 110})
@click.option("--network", type=SNAPSHOT, metavar="FILE|URL",
              help="Snapshot or foreign network pickle; or a zip or folder of images [default: newest of runs/]")
@click.option("--metrics", default="fid50k_full", show_default=True, metavar="LIST", help="Comma-separated; see below")
@click.option("--data", type=PATH, metavar="PATH",
              help="Real images (default: the whole data set the model was trained on)")
@click.option("--fname", type=PATH, metavar="NAME",
              help="Label file of --data; restricts the reals to the images it lists "
              "(default: dataset.json, all images)")
@click.option("--ref", type=PATH, metavar="FILE",
              help="Statistics in place of all real images in FID-like metrics: written by "
              "--write-ref, or as published by EDM (.npz) or EDM2 (.pkl)")
@click.option("--write-ref", "--write_ref", type=PATH, metavar="FILE.npz",
              help="Write the statistics of --data by the detector of --metrics, and stop")
@click.option("--train-data", "--train_data", type=PATH, metavar="PATH",
              help="Training images for memorisation and reports "
              "(default: as recorded in the snapshot)")
@click.option("--train-fname", "--train_fname", type=PATH, metavar="NAME",
              help="Their label file (default: as recorded)")
@click.option("--mirror", type=BOOL, help="Mirrored reals for the metrics without _full (default: as in training)")
@click.option("--labels", type=click.Choice(LABELS), default="reference", show_default=True,
              help="Class frequencies of generated images")
@click.option("--trunc", type=FLOAT, default=1, show_default=True, help="Truncation psi of generated images")
@click.option("--trunc-center", "--trunc_center", type=click.Choice(["global", "class"]), default="global",
              show_default=True, help="What truncation pulls towards: one mean, as published, or the class's mean w")
@click.option("--classes", metavar="LIST",
              help=f"Classes that tables and reports cover: {CLASS_HELP}")
@click.option("--detector", "detectors", multiple=True, type=PATHS, metavar="[NAME=]FILE",
              help="Weights of a detector; repeatable")
@click.option("--fetch-detector", "--fetch_detector", "fetch_name", metavar="NAME",
              help="Download a published detector into the cache (inception, inception-biggan, vgg16, lpips, ...), "
              "then go on if --network is given")
@click.option("--gpus", type=IntRange(min=1), default=1, show_default=True,
              help="Processes: one per GPU, or on the CPU")
@click.option("--device", type=click.Choice(["auto", "cuda", "cpu"]), default="auto", show_default=True)
@click.option("--kernels", **kernels.FLAG)
@click.option("--batch", type=IntRange(min=1), default=64, show_default=True, help="Images per step and process")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of the generated images")
@click.option("--cache-dir", "--cache_dir", type=PATH, metavar="DIR",
              help="Cache of real statistics (default: the user's)")
@click.option("--no-cache", "--no_cache", is_flag=True, help="Neither read nor write that cache")
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
      fid<N>, kid<N> with _full, _many, _medium, _few, _shots, _class, _clean, _pytorch, _biggan
      fid_shots, kid_shots, fid_class, kid_class
      is<N>, is<N>_biggan
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
      fid_inf, fid_inf_<N>
      lpips_diversity
      memorisation, memorisation_<detector>
      fd_<detector>_<N>, kd_<detector>_<N> with _many, _medium, _few, _shots, _class
      report_<detector>
      sfid_<detector>_<N>
      label_score_<detector>_<N>
      smoke (no weights needed)
    """
    from gantransfer.detectors import features
    from gantransfer.metrics import table
    from torch_utils import distributed as dist

    if flags["fetch_name"]:
        for path in features.fetch(flags["fetch_name"]):
            print(f"{flags['fetch_name']}: {path}")
        if not flags["network"]:
            return
    if not flags["network"] and not flags["write_ref"]:
        from gantransfer.commands.run import newest_snapshot

        flags["network"] = newest_snapshot("--network is missing and runs/ has no snapshot: name one "
                                           "(network-snapshot-*.pkl), or a zip of images")
    if flags["write_ref"] and not flags["data"]:
        raise UserError("--write-ref needs --data, the real images")
    names = table.parse_names(flags["metrics"])
    if not names:
        raise UserError("--metrics names no metric; see --help")
    detectors = features.parse_overrides([p for d in flags["detectors"] for p in d.split(",") if p])
    kind = dist.resolve_device(flags["device"])
    if flags["gpus"] > 1 and not dist.launched():
        dist.check_world(flags["gpus"], kind)
        if not flags["write_ref"]:
            Job(flags, names, detectors).preflight()  # say what is wrong once, not once per process
        sys.exit(dist.launch(flags["gpus"], kind=kind))
    device = dist.init(kind)
    failed = False
    try:
        if flags["write_ref"]:
            write_reference(flags, names, detectors, device)
        else:
            failed = Job(flags, names, detectors).run(device)
    finally:
        dist.shutdown()
    if failed:
        sys.exit(1)


def write_reference(flags: dict[str, Any], names: list[str], detectors: dict[str, Path], device: Any) -> None:
    """Statistics of --data by the detector of the first metric, into one file."""
    from gantransfer.data.dataset import ImageDataset
    from gantransfer.metrics import table
    from torch_utils import distributed as dist

    data = ImageDataset(flags["data"], fname=flags["fname"])
    table.preflight(names[:1], data.spec, detectors)
    ctx = table.MetricContext(sampler=None, generated=data, reference=data, device=device, batch=flags["batch"],
                              cache_dir=flags["cache_dir"], use_cache=not flags["no_cache"], detectors=detectors,
                              progress=flags["verbose"])
    table.write_reference(flags["write_ref"], names[0], data, ctx)
    dist.print0(f"{flags['write_ref']}: {len(data)} images of {flags['data']}")


class Job:
    """Flags resolved against the model and the data sets."""

    def __init__(self, flags: dict[str, Any], names: list[str], detectors: dict[str, Path]):
        from gantransfer.data.dataset import DataSpec, ImageDataset
        from gantransfer.importers import is_images, load_any

        self.flags, self.names, self.detectors = flags, names, detectors
        self.snapshot = self.generated = None
        if is_images(flags["network"]):
            if flags["trunc"] != 1 or flags["trunc_center"] != "global":
                raise UserError(f"--trunc: the images of {flags['network']} are made already; give a snapshot, or omit "
                                "--trunc and --trunc-center")
            self.generated = ImageDataset(flags["network"], use_labels=True)
            self.spec = self.generated.spec
        else:
            self.snapshot = load_any(flags["network"])
            self.spec = DataSpec.from_dict(self.snapshot.data)
        self.reference = self._reference()
        self.training = self._training()

    def _reference(self) -> Any:
        from gantransfer.data.dataset import reference_dataset

        path = self.flags["data"] or (self.spec.path if self.snapshot else None)
        if self.flags["ref"] and not self.flags["data"] and (not path or not Path(path).exists()):
            return None
        if not path:
            raise UserError("--data is missing: name the real images to compare with")
        if not Path(path).exists():
            said = "--data" if self.flags["data"] else "the data set recorded in the snapshot; give --data"
            raise UserError(f"no such file or folder: {path} ({said})")
        fname = self.flags["fname"]
        if self.generated is not None:
            return self._beside_generated(path, fname)
        extra: dict[str, Any] = {}
        if fname not in (None, "dataset.json"):
            # a label file made for training is in the network's numbering already
            extra = dict(fname=fname, class_map=None)
        return reference_dataset(self.spec, path, **extra)

    def _training(self) -> Any:
        """The training set; None when it is not at hand and nobody asked for it."""
        from gantransfer.data.dataset import ImageDataset

        given, spec = self.flags["train_data"], self.spec
        path = given or (spec.path if self.snapshot else None)
        if not path or not Path(path).exists():
            if given:
                raise UserError(f"--train-data={given}: no such file or folder")
            return None
        fname = self.flags["train_fname"] or (spec.fname if self.snapshot else None)
        labelled = spec.label.kind != "none"
        try:
            if self.generated is not None:
                return self._beside_generated(path, fname)
            return ImageDataset(path, fname=fname, use_labels=labelled, max_size=spec.max_size, xflip=spec.xflip,
                                seed=spec.seed, resolution=spec.resolution, heldout=spec.heldout,
                                label_dim=spec.label.dim if labelled else None)
        except UserError as e:
            if given or self.flags["train_fname"]:
                raise
            # only some metrics look at the training set; those say that it is missing
            print(f"The training set {path} is not usable here: {e}", file=sys.stderr)
            return None

    def _beside_generated(self, path: str, fname: str | None) -> Any:
        """Real images in the class numbering of the generated ones: classes are matched by name where both have names.

        A model numbers its classes by rank, so equal numbers in two files need not be the same class.
        """
        from gantransfer.data.dataset import ImageDataset

        data = ImageDataset(path, fname=fname, use_labels=True, resolution=self.spec.resolution)
        ours, theirs = self.spec.label.names, data.spec.label.names
        if not ours or not theirs or theirs[:len(ours)] == ours:
            return data
        class_map = {i: ours.index(n) for i, n in enumerate(theirs) if n in ours}
        if not class_map:
            raise UserError(f"{path} and {self.spec.path} have no class name in common")
        return ImageDataset(path, fname=fname, use_labels=True, resolution=self.spec.resolution, class_map=class_map,
                            label_dim=len(ours))

    def preflight(self) -> None:
        """UserError before anything is computed, when a metric cannot be."""
        from gantransfer.metrics import table

        table.preflight(self.names, self.spec, self.detectors, training=self.training is not None)
        _ = self._classes  # a class that does not exist is said here
        if self.snapshot is not None:
            self._methods()

    def _methods(self) -> Any:
        from gantransfer.methods import METHODS

        if self.snapshot.method not in METHODS:
            raise UserError(f"{self.flags['network']} was made by method '{self.snapshot.method}', which makes no "
                            f"images in this version; those that do are {', '.join(METHODS)}")
        return METHODS[self.snapshot.method]

    def run(self, device: Any) -> bool:
        """Compute, print and record every metric. True when one failed."""
        from gantransfer.metrics import table
        from torch_utils import distributed as dist

        self.preflight()
        flags = self.flags
        sampler = None if self.snapshot is None else self._methods().sampler_from(self.snapshot, device)
        truncation: dict[str, Any] = {}
        if flags["trunc_center"] != "global" and sampler is not None:
            sampler.check_center(flags["trunc_center"])
        if flags["trunc"] != 1:
            truncation = dict(truncation_psi=flags["trunc"])
            if flags["trunc_center"] != "global":
                truncation["truncation_center"] = flags["trunc_center"]
        ctx = table.MetricContext(
            sampler=sampler, generated=self.generated, reference=self.reference, training=self.training, device=device,
            seed=flags["seed"], cache_dir=flags["cache_dir"], use_cache=not flags["no_cache"], detectors=self.detectors,
            batch=flags["batch"], progress=flags["verbose"], labels=flags["labels"], mirror=flags["mirror"],
            classes=self._classes, truncation=truncation,
            reference_stats=table.read_reference(flags["ref"]) if flags["ref"] else None)
        run_dir = self._run_dir()
        failed = False
        for name in self.names:
            result = table.compute(name, ctx, snapshot=self._snapshot_name(run_dir), kimg=self._kimg())
            failed |= "error" in result
            if not dist.is_main():
                continue
            if run_dir is not None and not table.append_jsonl(run_dir, result):
                print(f"{name}: this evaluation is in {table.jsonl_path(run_dir, name)} already", file=sys.stderr)
            print(json.dumps(result), flush=True)
            if flags["verbose"]:
                if name.startswith("report_") and "error" not in result:
                    print(table.format_report(result, self.spec.label.names), file=sys.stderr)
                for line in table.warnings_of(result):
                    print(line, file=sys.stderr)
        return failed

    @cached_property
    def _classes(self) -> list[int] | None:
        """--classes as sorted ids in the network's numbering."""
        from torch_utils import distributed as dist

        text = self.flags["classes"]
        return None if text is None else sorted(parse_classes(
            text, self.spec.label, "--classes", say=note if dist.is_main() else lambda _: None))

    def _kimg(self) -> float | None:
        return None if self.snapshot is None else self.snapshot.cur_nimg / 1000

    def _run_dir(self) -> Path | None:
        if self.flags["outdir"]:
            Path(self.flags["outdir"]).mkdir(parents=True, exist_ok=True)
            return Path(self.flags["outdir"])
        folder = Path(self.flags["network"]).parent
        return folder if self.snapshot is not None and (folder / "training_options.json").is_file() else None

    def _snapshot_name(self, run_dir: Path | None) -> str:
        """Relative to the run folder; as given when it lies elsewhere."""
        path = Path(self.flags["network"])
        if run_dir is not None and path.exists() and path.resolve().is_relative_to(run_dir.resolve()):
            return path.resolve().relative_to(run_dir.resolve()).as_posix()
        return path.name if path.exists() else self.flags["network"]
