# SPDX-License-Identifier: Apache-2.0
"""A stage of `distill`: its flags resolved against the data, its networks and images found, its training run."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dnnlib import json_file
from dnnlib.util import UserError
from gantransfer.commands import run as harness
from gantransfer.data import resolution
from gantransfer.data.dataset import ImageDataset
from gantransfer.distillation import class_match, selection
from gantransfer.distillation import fakes as fake_sets
from gantransfer.distillation.presets import PRESETS, filled, length
from gantransfer.distillation.validation import headline
from gantransfer.importers import identity, is_images, load_any
from gantransfer.method import Method, Options, RunConfig
from gantransfer.methods import cgan_kd, density_ratio
from gantransfer.methods.cgan_kd import CGANKD
from gantransfer.model import Model
from gantransfer.model import load as load_model
from gantransfer.snapshot import Snapshot
from torch_utils import distributed as dist

HELDOUT = 0.1  # of each class, when a teacher is given nothing to be measured on


@contextlib.contextmanager
def processes(flags: dict[str, Any]) -> Iterator[torch.device]:
    """The processes of --gpus, started where asked for (then this one ends with them); the device of this one."""
    kind = dist.resolve_device(flags["device"])
    if flags["gpus"] > 1 and not dist.launched():
        dist.check_world(flags["gpus"], kind)
        sys.exit(dist.launch(flags["gpus"], kind=kind))
    with harness.processes(kind, flags["threads"]) as device:
        yield device


def labelled_data(flags: dict[str, Any], **kw: Any) -> ImageDataset:
    """The images of --data and --fname; UserError without labels, or for a size that no network takes."""
    data = ImageDataset(flags["data"], fname=flags["fname"], use_labels=True, **kw)
    resolution.require(data.resolution, flags["data"])
    if data.spec.label.kind == "none":
        raise UserError(f"--data={flags['data']} has no labels")
    return data


def can_hold_out(data: ImageDataset) -> bool:
    """Whether a class has an image to spare for measuring; without classes the set."""
    return len(data) > 1 and (data.class_ids is None or max(data.spec.label.counts) > 1)


class Stage:
    """Flags of one training command, resolved. `kind`: teacher, student or ratio."""

    def __init__(self, flags: dict[str, Any], given: dict[str, Any], kind: str, method: type[Method] = CGANKD):
        self.kind, self.method = kind, method
        self.quirks = PRESETS[flags["preset"]]["quirks"] if flags["preset"] else ()
        self.flags = f = filled(flags["preset"], kind, flags, given)
        names = {f.name for f in dataclasses.fields(method.Options)}
        self.opts = method.Options(**{k: v for k, v in f.items() if k in names and v is not None})
        self.data = ImageDataset(f["data"], fname=f["fname"], use_labels=True)
        if kind == "teacher" and not f["test"] and can_hold_out(self.data):
            self.data = ImageDataset(f["data"], fname=f["fname"], use_labels=True, seed=f["seed"], heldout=HELDOUT,
                                     label_dim=self.data.label_dim or None)
        resolution.require(self.data.resolution, f["data"])
        images = len(self.data)
        if f["epochs"] and f.get("budget") == "epochs" and f.get("fakes"):
            n = len(ImageDataset(f["fakes"]))
            images += min(n, f["nfake"] or n)
        kimg = length(images, f["batch"] or 128, f["epochs"], f["kimg"])
        self.run = RunConfig(
            seed=f["seed"], num_procs=int(os.environ.get("WORLD_SIZE", f["gpus"])), batch=f["batch"],
            batch_gpu=f["batch_gpu"], kimg=kimg, tick=f["tick"] or (max(kimg / 10, 0.001) if kimg else None),
            snap=f["snap"] or 10, sampling=f["sampling"], resume=f.get("init"))
        method.resolve(self.opts, self.run, self.data.spec)

    def show(self) -> None:
        print("Options:")
        print(json.dumps(harness.settings(self.method, self.opts, self.run, self.data, self.kind), indent=2))
        self.notes()

    def notes(self) -> None:
        for quirk in self.quirks:
            dist.print0(f"Note: {self.flags['preset']}: {quirk}")

    @contextlib.contextmanager
    def processes(self) -> Iterator[torch.device]:
        with processes(self.flags) as device:
            self.notes()
            yield device

    def shorter(self, epochs: float) -> RunConfig:
        """The run of a part that comes first: so many passes over the real images."""
        kimg = length(len(self.data), self.run.batch, epochs)
        return dataclasses.replace(self.run, kimg=kimg, tick=max(kimg / 5, 0.001))

    def train(self, stage: str, outdir: Path, device: torch.device, opts: Options | None = None,
              run: RunConfig | None = None, source: Snapshot | None = None) -> Path:
        """Train `stage`, with options and length of its own if given; its snapshot."""
        opts, run = opts or self.opts, dataclasses.replace(run or self.run)
        if run.resume and stage != "head":
            source = load_any(run.resume)
            if source.method != CGANKD.name:
                raise UserError(f"--init={run.resume} is of method {source.method}, not a teacher or student")
            CGANKD.check_source(opts, self.data.spec, source, stage)
        return harness.run_stage(self.method, opts, self.data, run, stage, outdir, device, source)

    @staticmethod
    def say(text: str, more: Callable[[], str] = str) -> None:
        if dist.is_main():
            print("\n".join(filter(None, (text, more()))), flush=True)


def measured(outdir: Path, stage: Stage) -> str:
    """What the teacher is worth, and on which images that was found."""
    figures = json_file.read(outdir / "results.json")["last"]
    name = headline(figures)
    if stage.opts.test:
        where = f"on the images of --test={stage.opts.test}"
    elif stage.data.spec.heldout:
        n = len(cgan_kd.heldout_part(stage.data.spec))
        where = f"on {n} images held out of --data and not trained on; --test=PATH measures on others and trains on all"
    else:
        where = "on the training images themselves, for none could be held out; give --test=PATH"
    return f"{'mean absolute error' if name == 'mae' else name} {figures[name]:.4g} {where}"


def calibrate(snap: Model, stage: Stage, path: Path, device: torch.device) -> None:
    """The snapshot's own discriminator as a density ratio, scaled on held-out images, into `path`."""
    f, spec = stage.flags, stage.data.spec
    cgan_kd.check_labels(snap.sampler().spec, spec, f"--network={snap.name}")
    heldout = cgan_kd.labelled(f["heldout"], f["heldout_fname"], spec, "--heldout")
    if dist.is_main():
        made = density_ratio.calibrated(snap, heldout, os.path.basename(snap.name), f["seed"], device)
        made.save(path)
        e = made.extra
        print(f"ratio = exp({e['scale']:.4g} D + {e['shift']:.4g}), from {e['images']} held-out images")
        if e["scale"] == 0:
            print("Note: the discriminator prefers generated images to held-out ones: nothing is rejected")


def source_of(network: str, data: ImageDataset, device: torch.device, options: dict[str, Any]) -> Any:
    """Generator or ready images; their labels must be those of the data."""
    flag = f"--network={network}"
    if is_images(network):
        if options:
            raise UserError(f"--trunc: the images of {network} are made already; give a snapshot, or omit --trunc")
        source: Any = fake_sets.ReadyImages(network, data.spec)
    else:
        made = load_model(network).sampler(device)
        sampler = class_match.translated(made, data.spec.label, flag)
        if sampler is not made:
            dist.print0(class_match.say(made.spec.label, data.spec.label, flag))
        source = fake_sets.Generator(sampler, identity(network), **options)
    cgan_kd.check_labels(source.spec, data.spec, flag, isinstance(source, fake_sets.Generator))
    return source


def judge_of(path: str, data: ImageDataset, device: torch.device, clip: bool, integers: bool) -> Callable:
    """(images, labels) -> (errors, predictions) of a teacher; it sees images as they are, without augmentation."""
    net, label = cgan_kd.load(path, data.spec, "--teacher").to(device), data.spec.label

    def judge(images: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        out = cgan_kd.predict_images(net, images)
        if label.kind == "class":
            return selection.classification_errors(out, c.argmax(1)), out.argmax(1)
        if label.dim != 1:
            raise UserError("fakes are filtered by classes, or by labels of one number")
        predicted = selection.regression_labels(out, label.meta["offset"], label.meta["scale"], clip=clip,
                                                integers=integers)
        return selection.regression_errors(predicted, c), predicted

    return judge
