# SPDX-License-Identifier: Apache-2.0
"""One evaluation: a model or a set of images, the real images it is compared with, and what becomes of the values."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from dnnlib import json_file
from dnnlib.util import UserError
from gantransfer.data.classes import note, parse_classes
from gantransfer.data.dataset import DataSpec, ImageDataset, reference_dataset, training_dataset
from gantransfer.metrics import table
from gantransfer.sampler import Sampler
from gantransfer.snapshot import Snapshot
from torch_utils import distributed as dist

USUAL = "fid50k_full"  # what is measured when no metric is named


@dataclass(frozen=True)
class Settings:
    """What decides an evaluation beside the model: the flags of calc_metrics.py, under their names."""

    data: str | None = None
    fname: str | None = None
    ref: str | None = None
    train_data: str | None = None
    train_fname: str | None = None
    mirror: bool | None = None
    labels: str = "reference"
    trunc: float = 1
    trunc_center: str = "global"
    classes: str | None = None
    batch: int = 64
    seed: int = 0
    cache_dir: str | None = None
    no_cache: bool = False
    outdir: str | None = None
    verbose: bool = True


def usual_metrics(network: str, spec: DataSpec, detectors: dict[str, Path],
                  data: str | None) -> tuple[list[str], str | None, str]:
    """(metrics, the real images to compare with or None for the usual ones, a line that says why) where none is named.

    They are FID, where its weights are at hand; else what the snapshot's run was measured by in training. UserError
    where there is neither, or where the reals of the run are gone. `data` is --data: it comes first.
    """
    try:
        table.preflight([USUAL], spec, detectors)
        return [USUAL], data, ""
    except UserError as e:
        options = run_options(network)
        names, reference = options.get("metrics"), data or options.get("reference")
        if not isinstance(names, list) or not names or not all(isinstance(n, str) and table.find(n) for n in names):
            raise UserError(f"--metrics is missing, and {USUAL}, which is measured without it, cannot be: {e}"
                            ) from None
        if not data and reference and not Path(reference).exists():
            raise UserError(f"no such file or folder: {reference} (the held-out set that the run was measured by; "
                            "give --data)") from None
        whole = f"all images of {spec.path}" + ", held out or not" * bool(spec.heldout)
        return names, reference, (f"no --metrics: {', '.join(names)} as in training, against {reference or whole}, for "
                                  f"the weights of {USUAL} are not at hand")


def run_options(network: str) -> dict[str, Any]:
    """training_options.json of the run that a snapshot lies in; {} where it lies in none."""
    recorded = Path(network).parent / "training_options.json"
    return json_file.read(recorded) if recorded.is_file() else {}


def other_reals(network: str, spec: DataSpec) -> str:
    """A line for a snapshot whose run was measured by other real images than those that are taken without --data; ''
    for others."""
    reference = run_options(network).get("reference") or ("" if not spec.heldout else f"--heldout={spec.heldout}")
    if not reference:
        return ""
    return (f"the reals are all images of {spec.path}; in training they were {reference}, and figures against other "
            "reals are not comparable" + ("" if spec.heldout else f": --data={reference} measures as training did"))


def write_reference(path: str, name: str, detectors: dict[str, Path], device: torch.device, s: Settings) -> int:
    """Statistics of the images `s.data` by the detector of the metric `name`, into the file `path`; how many images."""
    data = ImageDataset(s.data, fname=s.fname)
    table.preflight([name], data.spec, detectors)
    ctx = table.MetricContext(sampler=None, generated=data, reference=data, device=device, batch=s.batch,
                              cache_dir=s.cache_dir, use_cache=not s.no_cache, detectors=detectors, progress=s.verbose)
    table.write_reference(path, name, data, ctx)
    return len(data)


class Evaluation:
    """Metrics `names` of `model`, or of the images at `network` if `model` is None.

    The real images are found, and checked against the labels of what is measured, when it is made. Raises UserError
    naming the flag for what does not fit.
    """

    def __init__(self, network: str, model: Snapshot | None, names: Sequence[str], detectors: dict[str, Path],
                 settings: Settings):
        self.network, self.model, self.names, self.detectors, self.settings = network, model, names, detectors, settings
        self.generated: ImageDataset | None = None
        if model is None:
            if settings.trunc != 1 or settings.trunc_center != "global":
                raise UserError(f"--trunc: the images of {network} are made already; give a snapshot, or omit "
                                "--trunc and --trunc-center")
            self.generated = ImageDataset(network, use_labels=True)
        self.spec = self.generated.spec if model is None else DataSpec.from_dict(model.data)
        self.reference = self._reference()
        self.training = self._training()

    def _reference(self) -> ImageDataset | None:
        """The real images; None where published statistics stand for them and they are not at hand."""
        s = self.settings
        path = s.data or (self.spec.path if self.model else None)
        if s.ref and not s.data and (not path or not Path(path).exists()):
            return None
        if not path:
            raise UserError("--data is missing: name the real images to compare with")
        if not Path(path).exists():
            said = "--data" if s.data else "the data set recorded in the snapshot; give --data"
            raise UserError(f"no such file or folder: {path} ({said})")
        if self.generated is not None:
            return self._beside_generated(path, s.fname)
        # a label file made for training is in the network's numbering already
        extra = {} if s.fname in (None, "dataset.json") else dict(fname=s.fname, class_map=None)
        return reference_dataset(self.spec, path, **extra)

    def _training(self) -> ImageDataset | None:
        """The training set; None when it is not at hand and nobody asked for it."""
        given, spec = self.settings.train_data, self.spec
        path = given or (spec.path if self.model else None)
        if not path or not Path(path).exists():
            if given:
                raise UserError(f"--train-data={given}: no such file or folder")
            return None
        fname = self.settings.train_fname or (spec.fname if self.model else None)
        try:
            if self.generated is not None:
                return self._beside_generated(path, fname)
            return training_dataset(spec, path, fname)
        except UserError as e:
            if given or self.settings.train_fname:
                raise
            # only some metrics look at the training set; those say that it is missing
            dist.print0(f"The training set {path} is not usable here: {e}", file=sys.stderr)
            return None

    def _beside_generated(self, path: str, fname: str | None) -> ImageDataset:
        """Real images in the class numbering of the generated ones: classes are matched by name where both have names.

        A model numbers its classes by rank, so equal numbers in two files need not be the same class.
        """
        data = ImageDataset(path, fname=fname, use_labels=True, resolution=self.spec.resolution)
        ours, theirs = self.spec.label.names, data.spec.label.names
        if not ours or not theirs or theirs[:len(ours)] == ours:
            return data
        class_map = {i: ours.index(n) for i, n in enumerate(theirs) if n in ours}
        if not class_map:
            raise UserError(f"{path} and {self.spec.path} have no class name in common")
        return ImageDataset(path, fname=fname, use_labels=True, resolution=self.spec.resolution, class_map=class_map,
                            label_dim=len(ours))

    @cached_property
    def classes(self) -> list[int] | None:
        """--classes as sorted ids in the network's numbering."""
        text = self.settings.classes
        return None if text is None else sorted(parse_classes(
            text, self.spec.label, "--classes", say=note if dist.is_main() else lambda _: None))

    def preflight(self) -> None:
        """UserError before anything is computed, when a metric cannot be."""
        table.preflight(self.names, self.spec, self.detectors, training=self.training is not None)
        _ = self.classes  # a class that does not exist is said here

    def run(self, sampler: Sampler | None, device: torch.device) -> Iterator[tuple[dict[str, Any], bool]]:
        """Compute and record every metric; (result, whether it is new in the run folder), all processes together."""
        self.preflight()
        s, truncation = self.settings, {}
        if s.trunc_center != "global" and sampler is not None:
            sampler.check_center(s.trunc_center)
        if s.trunc != 1:
            truncation = dict(truncation_psi=s.trunc)
            if s.trunc_center != "global":
                truncation["truncation_center"] = s.trunc_center
        ctx = table.MetricContext(
            sampler=sampler, generated=self.generated, reference=self.reference, training=self.training, device=device,
            seed=s.seed, cache_dir=s.cache_dir, use_cache=not s.no_cache, detectors=self.detectors, batch=s.batch,
            progress=s.verbose, labels=s.labels, mirror=s.mirror, classes=self.classes, truncation=truncation,
            reference_stats=table.read_reference(s.ref) if s.ref else None)
        snapshot, kimg = self._snapshot_name(), None if self.model is None else self.model.cur_nimg / 1000
        for name in self.names:
            result = table.compute(name, ctx, snapshot=snapshot, kimg=kimg)
            fresh = not dist.is_main() or self.run_dir is None or table.append_jsonl(self.run_dir, result)
            yield result, fresh

    @cached_property
    def run_dir(self) -> Path | None:
        """Where results are recorded, if anywhere."""
        if self.settings.outdir:
            Path(self.settings.outdir).mkdir(parents=True, exist_ok=True)
            return Path(self.settings.outdir)
        folder = Path(self.network).parent
        return folder if self.model is not None and (folder / "training_options.json").is_file() else None

    def _snapshot_name(self) -> str:
        """Relative to the run folder; as given when it lies elsewhere."""
        path = Path(self.network)
        if self.run_dir is not None and path.exists() and path.resolve().is_relative_to(self.run_dir.resolve()):
            return path.resolve().relative_to(self.run_dir.resolve()).as_posix()
        return path.name if path.exists() else self.network
