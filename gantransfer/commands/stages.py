# SPDX-License-Identifier: Apache-2.0
"""A stage of `distill`: its flags resolved against the data, its networks and images found, its training run."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dnnlib import json_file, util
from dnnlib.run_folder import hold
from dnnlib.util import UserError, atomic_write, sha256
from gantransfer import training_loop
from gantransfer.commands import config
from gantransfer.commands import run as harness
from gantransfer.data import resolution
from gantransfer.data.dataset import ImageDataset
from gantransfer.distillation import class_match, selection
from gantransfer.distillation import fakes as fake_sets
from gantransfer.distillation.presets import PRESETS, filled, length
from gantransfer.distillation.validation import headline
from gantransfer.importers import identity, is_images, load_any
from gantransfer.method import Method, Options, RunConfig, Start
from gantransfer.methods import DISTILL, cgan_kd, density_ratio
from gantransfer.model import Model
from gantransfer.model import load as load_model
from gantransfer.snapshot import Snapshot, find_snapshots
from torch_utils import distributed as dist

HELDOUT = 0.1  # of each class, when a teacher is given nothing to be measured on


@contextlib.contextmanager
def processes(flags: dict[str, Any]) -> Iterator[torch.device]:
    """The processes of --gpus, started where asked for (then this one ends with them); the device of this one."""
    with harness.processes(harness.launched(flags), flags["threads"]) as device:
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

    def __init__(self, flags: dict[str, Any], given: dict[str, Any], kind: str, name: str = "cgan_kd"):
        self.kind, self.method, self.given = kind, DISTILL[name], given
        self.quirks = PRESETS[flags["preset"]]["quirks"] if flags["preset"] else ()
        self.flags = f = filled(flags["preset"], kind, flags, given)
        harness.check_rating(f, self.method, ())
        names = {f.name for f in dataclasses.fields(self.method.Options)}
        self.opts = self.method.Options(**{k: v for k, v in f.items() if k in names and v is not None})
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
        self.method.resolve(self.opts, self.run, self.data.spec)

    def show(self) -> None:
        print("Options:")
        print(json.dumps(settings(self.method, self.opts, self.run, self.data, self.kind), indent=2))
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
            if source.method != self.method.name:
                raise UserError(f"--init={run.resume} is of method {source.method}, not a teacher or student")
            self.method.check_source(opts, self.data.spec, source, stage)
        flags = {**self.flags, "given": config.recorded(self.given, ("outdir",))}
        return run_stage(self.method, opts, self.data, run, stage, outdir, device, source, flags)

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


# ---- one stage as one run --------------------------------------------------------------------------------------------


def result_path(outdir: Path, stage: str) -> Path:
    return Path(outdir) / f"{stage}.pkl"


def settings(method: type[Method], opts: Options, run: RunConfig, dataset: ImageDataset, stage: str) -> dict[str, Any]:
    """What decides the result: a continued stage must have the same. Files are named by their content, not place."""
    config = method.config(opts, run, dataset.spec)
    options = dict(config.pop("options"))
    contents = {k: sha256(v) for k, v in options.items()
                if k in ("teacher", "fakes", "network", "test", "extractor") and v and os.path.isfile(v)}
    options.update({k: f"sha256:{v[:16]}" for k, v in contents.items()})
    return json.loads(json.dumps(dict(
        method=method.name, stage=stage, **config, options=options, batch_size=run.batch, batch_gpu=run.batch_gpu,
        total_kimg=run.kimg, kimg_per_tick=run.tick, network_snapshot_ticks=run.snap, random_seed=run.seed,
        sampling=run.sampling, resume=run.resume, data=dataset.fingerprint(), num_images=dataset.spec.num_images)))


UNRATED: dict[str, Any] = dict(best=None, stop_after=None, keep="all", graphs=False)


def run_stage(method: type[Method], opts: Options, dataset: ImageDataset, config: RunConfig, stage: str, outdir: Path,
              device: torch.device, source: Snapshot | None = None, flags: dict[str, Any] | None = None) -> Path:
    """Train `stage` of `method` (options and configuration are resolved) in `outdir`, or continue it, or find it
    finished; the snapshot `<stage>.pkl` there, and results.json. `flags`: --best, --stop_after, --keep, --graphs.

    Raises UserError when the folder holds a stage with other settings, or another process trains in it; a failed
    start leaves nothing behind.
    """
    outdir, final, flags = Path(outdir), result_path(outdir, stage), flags or UNRATED
    wanted, old = settings(method, opts, config, dataset, stage), None
    folder, before, path = None, set(), outdir / "training_options.json"
    if dist.is_main():
        try:
            before = {p.name for p in outdir.iterdir()} if outdir.is_dir() else set()
            folder = hold(outdir)
        except OSError as e:
            raise UserError(f"--outdir={outdir} cannot be written: {e.strerror}") from None
    with harness.tidy(outdir, folder, before):
        if path.exists():
            old = json_file.read(path, remedy="choose another --outdir")
            if other := harness.differing(old, wanted, harness.FREE):
                raise UserError(f"{outdir} holds a stage with {other}; give the same flags to continue it, or another "
                                f"--outdir")
            if final.exists():
                dist.print0(f"{stage}: finished before, {final}")
                return final
        elif dist.is_main() and any(outdir.glob("network-snapshot-*.pkl")):
            raise UserError(f"{outdir} holds another run; choose another --outdir")
        states = training_loop.find_states(outdir) if old is not None else []
        dist.barrier()
        config.device = str(device)
        run = harness.Run(method, opts, config, dataset, stage, {**wanted, **harness.chosen(flags)}, best=flags["best"],
                          stop_after=flags["stop_after"], keep=flags["keep"], graphs=flags["graphs"],
                          outdir=str(outdir), flags=flags.get("given") or {},
                          further="to train longer, give a larger --stop-after and another --outdir",
                          outputs=dict(images=False, keep_states=1, again="run the command again to continue"))
        shown = run.train(outdir, folder, Start(source, states[0] if states else None), device)
        if shown < config.kimg * 1000 and not run.enough:
            raise UserError(f"{stage} was stopped at {shown / 1000:g} of {config.kimg:g} kimg; run the command again "
                            "to continue")
        if dist.is_main():
            with util.atomic_path(final) as tmp:
                shutil.copyfile(find_snapshots(outdir)[-1], tmp)
            write_results(outdir, method.name, config, shown)
    dist.barrier()
    return final


def write_results(outdir: Path, name: str, run: RunConfig, shown: int) -> dict[str, Any]:
    """results.json: figures at every snapshot, the last ones, budget and time."""
    path = outdir / f"metric-{name}.jsonl"
    lines = json_file.lines(path)
    lines.sort(key=lambda r: r["kimg"])
    last = json_file.lines(outdir / "stats.jsonl")[-1]
    options = json_file.read(outdir / "training_options.json")
    result = dict(
        last=lines[-1]["results"] if lines else {}, history=[dict(kimg=r["kimg"], **r["results"]) for r in lines],
        images_seen=shown, seconds=last["Timing/total_sec"]["mean"], seed=run.seed,
        options=options["options"], parameters=options.get("parameters"), num_images=options["num_images"],
        data=options["data"], stage=options["stage"])
    with atomic_write(outdir / "results.json") as f:
        json.dump(result, f, indent=1)
    return result
