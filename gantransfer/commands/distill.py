# SPDX-License-Identifier: Apache-2.0
"""gantransfer distill: knowledge distillation through generated images (cGAN-KD), stage by stage.

teacher -> ratio -> fakes -> refilter -> student, and select-rho, report. Every stage is one of the project's trainings
or a data set; this file only strings them together. A stage that was killed goes on when its command is given again.
"""

from __future__ import annotations

from dnnlib import signals

if __name__ == "__main__":
    signals.end_in_one_line()

import contextlib
import dataclasses
import json
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_WAIT_POLICY"] = os.environ.get("OMP_WAIT_POLICY", "PASSIVE")  # as train.py: waiting threads sleep

import click
import numpy as np

from dnnlib import json_file, seeding
from dnnlib.util import UserError, atomic_write, sha256, sole_writer
from gantransfer.commands.flags import FLOAT, MAX_SEEDS, PATH, PATHS, SEED, FloatRange, IntRange, option_type
from gantransfer.commands.run import processes, result_path, run_stage, settings
from gantransfer.data import resolution
from gantransfer.data.dataset import ImageDataset
from gantransfer.data.labels import some, trained_classes
from gantransfer.distillation import class_match, selection
from gantransfer.distillation import fakes as fake_sets
from gantransfer.distillation.presets import PRESETS
from gantransfer.experiments import jobs
from gantransfer.importers import identity, is_images, load_any
from gantransfer.method import RunConfig
from gantransfer.methods import METHODS, cgan_kd, density_ratio
from gantransfer.methods.cgan_kd import CGANKD, CGANKDOptions
from gantransfer.methods.density_ratio import DensityRatioOptions, DensityRatioTraining
from torch_utils import distributed as dist

STUDENT_ONLY = ("fakes", "nfake", "fake_batch_share", "fake_weight", "teacher", "kd", "T", "ce_weight", "kd_weight",
                "feature_weight", "kd_reduction", "hint_layer", "tf_weight", "ss_weight", "tf_T", "ss_T", "ratio_tf",
                "ratio_ss")
HELDOUT = 0.1  # of each class, when a teacher is given nothing to be measured on
HEAD_RECIPE = dict(lr=0.05, schedule="step", decay="0.5,0.75", optimizer="sgd")  # SSKD: 60 epochs, x.1 at 30, 45


def flag(name: str, help: str, type: Any = str, default: Any = None, **kw: Any) -> Any:
    """One option under both spellings; a bare boolean flag means true."""
    names = dict.fromkeys([f"--{name}", f"--{name.replace('_', '-')}"])
    if type is bool:
        kw.update(is_flag=False, flag_value="true", metavar="BOOL")
    shown = "" if default is None or isinstance(default, bool) and not default else f" [default: {default}]"
    return click.option(*names, name, type=click.BOOL if type is bool else type, default=default, help=help + shown,
                        **kw)


def options_flags(leave_out: tuple[str, ...] = (), options: type = CGANKDOptions) -> Callable:
    """The fields of an Options class as flags; None means: the preset, else the field's default."""
    def add(command: Any) -> Any:
        for f in reversed([f for f in dataclasses.fields(options) if f.name not in leave_out]):
            m = f.metadata
            kind = option_type(m)
            default = "" if f.default is None else f" [default: {f.default}]"
            extra = {"metavar": m["metavar"]} if m["metavar"] else {}
            command = flag(f.name, m["help"] + default, kind, **extra)(command)
        return command
    return add


def data_flags(command: Any) -> Any:
    for add in reversed([
            flag("data", "Real training images with labels", required=True, type=PATH, metavar="PATH"),
            flag("fname", "Label file in --data (or a path) that selects images and gives labels",
                 type=PATH, metavar="NAME")]):
        command = add(command)
    return command


def machine_flags(command: Any) -> Any:
    for add in reversed([
            flag("gpus", "Number of processes: one per GPU, or on the CPU", IntRange(min=1), 1),
            flag("device", "auto, cuda or cpu", click.Choice(["auto", "cuda", "cpu"]), "auto"),
            flag("threads", "CPU threads per process", IntRange(min=1)),
            click.option("-n", "--dry-run", "--dry_run", "dry_run", is_flag=True,
                         help="Print the resolved options and stop")]):
        command = add(command)
    return command


def run_flags(command: Any) -> Any:
    """Flags of every training stage."""
    for add in reversed([
            flag("outdir", "The stage's folder; the same command continues it", required=True,
                 type=PATH, metavar="DIR"),
            flag("preset", "Published recipe that fills what is left open", click.Choice(list(PRESETS))),
            flag("kimg", "Length in thousands of images seen", FloatRange(min=0, min_open=True)),
            flag("epochs", "Length in passes, instead of --kimg", FloatRange(min=0, min_open=True)),
            flag("batch", "Images per step, over all processes", IntRange(min=2)),
            flag("batch_gpu", "Images per process and round", IntRange(min=2)),
            flag("sampling", "Which images: as in the data, or towards class balance",
                 click.Choice(["empirical", "sqrt", "effective", "balanced"]), "empirical"),
            flag("seed", "Random seed: any whole number", SEED, 0),
            flag("tick", "kimg per status line", FloatRange(min=0, min_open=True)),
            flag("snap", "Snapshot and figures every so many ticks", IntRange(min=1))]):
        command = add(command)
    return command


@click.group(context_settings={"max_content_width": 110})
def main() -> None:
    """Distil knowledge into small networks through generated images.

    \b
    gantransfer distill teacher --data=real.zip --arch=resnet56 --outdir=teacher
    gantransfer distill fakes   --network=snap.pkl --data=real.zip --teacher=teacher/teacher.pkl \\
                                          --num-per-label=5000 --rho=0.9 --dest=fakes.zip
    gantransfer distill student --data=real.zip --fakes=fakes.zip --kd=blkd --teacher=teacher/teacher.pkl \\
                                          --arch=resnet8 --outdir=student
    """


# ---- training stages -------------------------------------------------------------------------------------------------


class Stage:
    """Flags of one training command, resolved."""

    def __init__(self, flags: dict[str, Any], kind: str, method: Any = CGANKD, options: type = CGANKDOptions):
        given = flags_given(flags)
        preset = dict(PRESETS[flags["preset"]][kind]) if flags["preset"] else {}
        self.quirks = PRESETS[flags["preset"]]["quirks"] if flags["preset"] else ()
        if "kimg" in given or "epochs" in given:
            if "kimg" in given and "epochs" in given:
                raise UserError("--kimg and --epochs both give the length; omit one")
            preset.pop("kimg", None)
            preset.pop("epochs", None)
        self.flags = {**flags, **{k: v for k, v in preset.items() if k not in given}}
        # A preset's fakes settings mean nothing to a student without fakes, its weights nothing without a loss.
        if not self.flags.get("fakes"):
            self.flags["nfake"] = given.get("nfake")
        if self.flags.get("kd") != "blkd":
            for key in ("T", "ce_weight", "kd_weight"):
                self.flags[key] = given.get(key)
        names = {f.name for f in dataclasses.fields(options)}
        self.opts = options(**{k: v for k, v in self.flags.items() if k in names and v is not None})
        f = self.flags
        self.data = ImageDataset(f["data"], fname=f["fname"], use_labels=True)
        if kind == "teacher" and not f["test"] and can_hold_out(self.data):
            self.data = ImageDataset(f["data"], fname=f["fname"], use_labels=True, seed=f["seed"], heldout=HELDOUT,
                                     label_dim=self.data.label_dim or None)
        resolution.require(self.data.resolution, f["data"])
        kimg = f["kimg"]
        if f["epochs"]:
            images = len(self.data)
            if f.get("budget") == "epochs" and f.get("fakes"):
                n = len(ImageDataset(f["fakes"]))
                images += min(n, f["nfake"] or n)
            kimg = f["epochs"] * images / 1000
        if kimg is not None:  # whole batches, so that the last step is the published last one
            batch = f["batch"] or 128
            kimg = max(round(kimg * 1000 / batch), 1) * batch / 1000
        gpus = int(os.environ.get("WORLD_SIZE", f["gpus"]))
        tick = f["tick"] or (max(kimg / 10, 0.001) if kimg else None)
        self.run = RunConfig(seed=f["seed"], num_procs=gpus, batch=f["batch"], batch_gpu=f["batch_gpu"], kimg=kimg,
                             tick=tick, snap=f["snap"] or 10, sampling=f["sampling"], resume=f.get("init"))
        self.method = method
        method.resolve(self.opts, self.run, self.data.spec)

    def show(self, stage: str) -> None:
        print("Options:")
        print(json.dumps(settings(self.method, self.opts, self.run, self.data, stage), indent=2))
        self.notes()

    def notes(self) -> None:
        for quirk in self.quirks:
            dist.print0(f"Note: {self.flags['preset']}: {quirk}")

    def train(self, stage: str, outdir: Path, device: Any, opts: CGANKDOptions | None = None,
              run: RunConfig | None = None) -> Path:
        run = dataclasses.replace(run or self.run)
        source = None
        if run.resume and stage != "head":
            source = load_any(run.resume)
            if source.method != CGANKD.name:
                raise UserError(f"--init={run.resume} is of method {source.method}, not a teacher or student")
            CGANKD.check_source(opts or self.opts, self.data.spec, source, stage)
        return run_stage(self.method, opts or self.opts, self.data, run, stage, outdir, device, source)


def flags_given(flags: dict[str, Any]) -> dict[str, Any]:
    """What was typed, or passed by another command."""
    ctx = click.get_current_context()
    return {k: v for k, v in flags.items() if v is not None
            and ctx.get_parameter_source(k) != click.core.ParameterSource.DEFAULT}


def launched_elsewhere(flags: dict[str, Any]) -> str:
    """Start several processes where asked for (then this one ends with them); the device's kind."""
    kind = dist.resolve_device(flags["device"])
    if flags["gpus"] > 1 and not dist.launched():
        dist.check_world(flags["gpus"], kind)
        sys.exit(dist.launch(flags["gpus"], kind=kind))
    return kind


@main.command()
@data_flags
@run_flags
@options_flags(STUDENT_ONLY)
@machine_flags
def teacher(**flags: Any) -> None:
    """Train a classifier (CE) or regressor (MSE of the normalised label) on real images."""
    stage = Stage(flags, "teacher")
    if flags["dry_run"]:
        stage.show("teacher")
        return
    kind = launched_elsewhere(flags)
    with processes(kind, flags["threads"]) as device:
        stage.notes()
        path = stage.train("teacher", Path(flags["outdir"]), device)
        dist.print0(f"Teacher: {path}")
        if dist.is_main():
            print(measured(Path(flags["outdir"]), stage))


def can_hold_out(data: ImageDataset) -> bool:
    """Whether a class has an image to spare for measuring."""
    return len(data) > 1 and (data.class_ids is None or max(data.spec.label.counts) > 1)


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


@main.command()
@data_flags
@run_flags
@flag("budget", "What --epochs counts: images of the real set, whatever fakes there are; or real and generated ones, "
      "as published", click.Choice(["images", "epochs"]), "images")
@flag("init", "Start from the weights of this teacher or student", type=PATH, metavar="PATH")
@flag("assistant", "Architecture of the assistant of --kd=takd", metavar="NAME")
@flag("head_epochs", "Passes that train SSKD's head of the teacher", FloatRange(min=0, min_open=True), 60)
@options_flags()
@machine_flags
def student(**flags: Any) -> None:
    """Train a student on real images, or on real and generated ones, with or without a distillation loss."""
    if (flags["kd"] == "takd") != bool(flags["assistant"]):
        raise UserError("--kd=takd and --assistant=ARCH belong together")
    stage = Stage(flags, "student")
    o, outdir = stage.opts, Path(flags["outdir"])
    if o.teacher:
        cgan_kd.load(o.teacher, stage.data.spec, "--teacher")
    if flags["dry_run"]:
        stage.show("student")
        return
    kind = launched_elsewhere(flags)
    with processes(kind, flags["threads"]) as device:
        stage.notes()
        if o.kd == "takd":
            assistant = dataclasses.replace(o, arch=flags["assistant"])
            CGANKD.resolve(assistant, dataclasses.replace(stage.run), stage.data.spec)
            path = stage.train("student", outdir / "assistant", device, assistant)
            o = dataclasses.replace(o, teacher=str(path))
        elif o.kd == "sskd" and cgan_kd.load(o.teacher, stage.data.spec, "--teacher").projector is None:
            head = dataclasses.replace(o, fakes=None, nfake=None, fake_batch_share=None, fake_weight=1.0,
                                       test=None, test_fname=None, **HEAD_RECIPE)
            kimg = max(round(flags["head_epochs"] * len(stage.data) / stage.run.batch), 1) * stage.run.batch / 1000
            run = dataclasses.replace(stage.run, kimg=kimg, tick=max(kimg / 5, 0.001))
            o = dataclasses.replace(o, teacher=str(stage.train("head", outdir / "head", device, head, run)))
        path = stage.train("student", outdir, device, o)
        dist.print0(f"Student: {path}")


# ---- density ratio ---------------------------------------------------------------------------------------------------


@main.command()
@data_flags
@run_flags
@options_flags(("extractor",), DensityRatioOptions)
@flag("feature_epochs", "Passes that train the feature network [default: 200 for sae, 350 for resnet34]",
      FloatRange(min=0, min_open=True))
@flag("heldout", "Real images that the snapshot has not seen, to calibrate --features=discriminator",
      type=PATH, metavar="PATH")
@flag("heldout_fname", "Label file in --heldout that selects images", type=PATH, metavar="NAME")
@machine_flags
def ratio(**flags: Any) -> None:
    """How much likelier real than generated an image is, under its label: what `fakes` subsamples by."""
    if not flags["network"]:
        raise UserError("--network is missing: whose images are judged?")
    if (flags["features"] == "discriminator") != bool(flags["heldout"]):
        raise UserError("--features=discriminator and --heldout belong together: real images that the snapshot has "
                        "not seen")
    stage = Stage(flags, "ratio", DensityRatioTraining, DensityRatioOptions)
    o, outdir, spec = stage.opts, Path(flags["outdir"]), stage.data.spec
    if flags["dry_run"]:
        stage.show("ratio")
        return
    snap = load_any(o.network)
    if snap.method not in METHODS:
        raise UserError(f"--network={o.network} is of method {snap.method}, which makes no images")
    kind = launched_elsewhere(flags)
    with processes(kind, flags["threads"]) as device:
        stage.notes()
        if o.features == "discriminator":
            cgan_kd.check_labels(METHODS[snap.method].sampler_from(snap).spec, spec, f"--network={o.network}")
            heldout = cgan_kd.labelled(flags["heldout"], flags["heldout_fname"], spec, "--heldout")
            path = result_path(outdir, "ratio")
            if dist.is_main():
                made = density_ratio.calibrated(snap, heldout, os.path.basename(o.network), flags["seed"], device)
                made.save(path)
                e = made.extra
                print(f"ratio = exp({e['scale']:.4g} D + {e['shift']:.4g}), from {e['images']} held-out images")
                if e["scale"] == 0:
                    print("Note: the discriminator prefers generated images to held-out ones: nothing is rejected")
        else:
            if o.features in ("sae", "resnet34"):
                epochs = flags["feature_epochs"] or (200 if o.features == "sae" else 350)
                kimg = max(round(epochs * len(stage.data) / stage.run.batch), 1) * stage.run.batch / 1000
                run = dataclasses.replace(stage.run, kimg=kimg, tick=max(kimg / 5, 0.001))
                found = run_stage(DensityRatioTraining, o, stage.data, run, "features", outdir / "features", device)
                o = dataclasses.replace(o, extractor=str(found))
            path = run_stage(DensityRatioTraining, o, stage.data, dataclasses.replace(stage.run), "ratio", outdir,
                             device, snap)
        dist.print0(f"Ratio: {path}")


# ---- fakes -----------------------------------------------------------------------------------------------------------


def filter_flags(command: Any) -> Any:
    for add in reversed([
            flag("rho", "Share of images to keep, those with the smallest error", FLOAT),
            flag("quantile", "Over each class, all images, or equal parts of the labels' range (perclass for classes, "
                 "global for values)", click.Choice(fake_sets.QUANTILES)),
            flag("bins", "Parts of --quantile=bins", IntRange(min=1), 10),
            flag("replace", "Replace labels by the teacher's predictions", bool),
            flag("burn_in", "Take the cut-offs from the first so many images of each group", IntRange(min=2)),
            flag("ties", "Images whose error equals the cut-off: keep, or drop them (strict, published)",
                 click.Choice(selection.TIES)),
            flag("dest", "Zip to write", required=True, type=PATH, metavar="FILE.zip")]):
        command = add(command)
    return command


def filter_of(flags: dict[str, Any], kind: str, rho: float = 1.0) -> fake_sets.Filter:
    rho = rho if flags["rho"] is None else flags["rho"]
    selection.check_rho(rho)
    quantile = flags["quantile"] or ("perclass" if kind == "class" else "global")
    fake_sets.check_quantile(quantile, kind)
    return fake_sets.Filter(rho, quantile, flags["bins"], bool(flags["replace"]), flags["burn_in"],
                            flags["ties"] or "keep")


def check_dest(dest: str) -> Path:
    path = Path(dest)
    if path.suffix.lower() != ".zip":
        raise UserError(f"--dest={dest} should end in .zip")
    if path.is_dir():
        raise UserError(f"--dest={dest} is a folder; name a file")
    return path


def source_of(network: str, data: ImageDataset, device: Any, options: dict[str, Any]) -> Any:
    """Generator or ready images; their labels must be those of the data."""
    if is_images(network):
        if options:
            raise UserError(f"--trunc: the images of {network} are made already; give a snapshot, or omit --trunc")
        source: Any = fake_sets.ReadyImages(network, data.spec)
    else:
        snap = load_any(network)
        if snap.method not in METHODS:
            raise UserError(f"--network={network} is of method {snap.method}, which makes no images")
        made = METHODS[snap.method].sampler_from(snap, device)
        sampler = class_match.translated(made, data.spec.label, f"--network={network}")
        if sampler is not made:
            dist.print0(class_match.say(made.spec.label, data.spec.label, f"--network={network}"))
        source = fake_sets.Generator(sampler, identity(network), **options)
    cgan_kd.check_labels(source.spec, data.spec, f"--network={network}", isinstance(source, fake_sets.Generator))
    return source


def drawn_labels(labels: np.ndarray, source: Any, data: ImageDataset, network: str) -> np.ndarray:
    """`labels` [L, dim] without the classes whose input a generator never trained: their images would be noise."""
    label = data.spec.label
    if label.kind != "class" or not isinstance(source, fake_sets.Generator):
        return labels
    trained = set(trained_classes(source.spec.label))
    absent = [int(row.argmax()) for row in labels if int(row.argmax()) not in trained]
    if absent:
        dist.print0(f"Note: --network={network} had no image of class {some(absent)}, so none are made")
    kept = labels[[int(row.argmax()) in trained for row in labels]]
    if not len(kept):
        raise UserError(f"--network={network} had images of none of the data's classes")
    return kept


def truncation_of(flags: dict[str, Any]) -> dict[str, Any]:
    """--trunc and --trunc-center as the sampler takes them."""
    if flags["trunc"] == 1:
        return {}
    center = {} if flags["trunc_center"] == "global" else dict(truncation_center=flags["trunc_center"])
    return dict(truncation_psi=flags["trunc"], **center)


def judge_of(path: str, data: ImageDataset, device: Any, clip: bool, integers: bool) -> Callable:
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


@main.command()
@flag("network", "Conditional snapshot, or a zip or folder of ready images with class labels", required=True,
      type=PATH, metavar="PATH")
@data_flags
@flag("teacher", "Trained teacher: errors, predictions", type=PATH, metavar="PATH")
@flag("ratio", "Density ratio made by `distill ratio`: subsample by it", type=PATH, metavar="PATH")
@flag("preset", "Published recipe that fills what is left open", click.Choice(list(PRESETS)))
@flag("num_per_label", "Images per label, after subsampling and before filtering", IntRange(min=1))
@flag("num_labels", "Values: so many evenly spaced labels, instead of those of the data", IntRange(min=2))
@filter_flags
@flag("clip", "Values: predictions stay inside the labels' range", bool, True)
@flag("integers", "Values: truncate predictions to integers, as published for ages", bool, False)
@flag("trunc", "Truncation psi of the generator", FLOAT, 1.0)
@flag("trunc_center", "What truncation pulls towards: one mean, as published, or the mean w of the class",
      click.Choice(["global", "class"]), "global")
@flag("rs_mode", "Rejection: M fixed after the burn-in, or running as published",
      click.Choice(["fixed", "running"]), "fixed")
@flag("rs_M", "Rejection: M is this quantile of the burn-in's ratios [default: their maximum]",
      FloatRange(0, 1, min_open=True))
@flag("rs_burn_in", "Rejection: images per label that find M", IntRange(min=1))
@flag("seed", "Random seed: any whole number", SEED, 0)
@machine_flags
def fakes(**flags: Any) -> None:
    """Generate a data set: one seed per image, subsampled, filtered, relabelled; with provenance and scores."""
    given = flags_given(flags)
    if flags["preset"]:
        flags.update({k: v for k, v in PRESETS[flags["preset"]]["fakes"].items() if k not in given})
    dest = check_dest(flags["dest"])
    data = ImageDataset(flags["data"], fname=flags["fname"], use_labels=True)
    resolution.require(data.resolution, flags["data"])
    label = data.spec.label
    if label.kind == "none":
        raise UserError(f"--data={flags['data']} has no labels")
    f = filter_of(flags, label.kind)
    if not flags["num_per_label"]:
        raise UserError("--num-per-label is missing: how many images of each label?")
    if not flags["teacher"] and (f.rho < 1 or f.replace):
        raise UserError(f"{'--rho below 1' if f.rho < 1 else '--replace'} needs --teacher=SNAPSHOT")
    recipe = fake_sets.Recipe(
        flags["num_per_label"], flags["seed"], flags["rs_mode"], flags["rs_M"],
        rs_burn_in=flags["rs_burn_in"] or 1000,
        options=truncation_of(flags))
    labels = fake_sets.grid(label, data, flags["num_labels"])
    if recipe.num_per_label * len(labels) > MAX_SEEDS:
        raise UserError(f"--num-per-label={recipe.num_per_label} of {len(labels)} labels: these are more than "
                        f"{MAX_SEEDS:,} images; make fewer at a time")
    if flags["dry_run"]:
        print(json.dumps(dict(dataclasses.asdict(recipe), labels=len(labels), **f.settings()), indent=2))
        return
    kind = launched_elsewhere(flags)
    with processes(kind, flags["threads"]) as device:
        source = source_of(flags["network"], data, device, recipe.options)
        labels = drawn_labels(labels, source, data, flags["network"])
        if flags["trunc_center"] != "global" and isinstance(source, fake_sets.Generator):
            source.sampler.check_center(flags["trunc_center"])
        judge = judge_of(flags["teacher"], data, device, flags["clip"], flags["integers"]) if flags["teacher"] else None
        ratio = None
        if flags["ratio"]:
            ratio = density_ratio.load(flags["ratio"], data.spec, device)
        provenance = dict(
            network_sha256=source.identity, sampler=type(source).__name__, seed=recipe.seed,
            truncation=flags["trunc"], num_per_label=recipe.num_per_label, num_labels=len(labels),
            **{k: v for k, v in recipe.options.items() if k == "truncation_center"},
            ratio_sha256=ratio.identity if ratio else None, rs_mode=recipe.rs_mode, rs_M=recipe.rs_quantile,
            teacher_sha256=sha256(flags["teacher"]) if flags["teacher"] else None, clip=flags["clip"],
            integers=flags["integers"], real_data_sha256=data.fingerprint(),
            num_classes=label.dim if label.kind == "class" else None,
            class_map={str(k): k if not label.class_map else label.class_map[k]
                       for k in label.class_map or range(label.dim)} if label.kind == "class" else None)
        parts = dest.with_name(dest.name + ".parts")
        with sole_writer(dest, "--dest=") if dist.is_main() else contextlib.nullcontext():
            if dist.is_main():
                fake_sets.open_parts(parts, dict(provenance, rs_burn_in=recipe.rs_burn_in))
            dist.barrier()
            raw = fake_sets.draw(source, labels, recipe, parts, ratio=ratio, judge=judge)
            if raw is not None:
                try:
                    made = fake_sets.write_raw(dest, raw, label, provenance, f)
                except UserError as e:
                    raise UserError(f"{e} (what was drawn is kept in {parts} for another --rho)") from None
                tell(dest, made, label.kind)
                fake_sets.discard(parts)


@main.command()
@flag("fakes", "Unfiltered fakes made with --teacher and --rho=1", required=True, type=PATH, metavar="FILE.zip")
@filter_flags
def refilter(**flags: Any) -> None:
    """Another share of the same fakes, from their stored scores: no network is needed."""
    dest = check_dest(flags["dest"])
    if flags["rho"] is None:
        raise UserError("--rho is missing: which share of the images is kept?")
    kind = fake_sets.read(flags["fakes"]).label.kind
    tell(dest, fake_sets.refilter(flags["fakes"], dest, filter_of(flags, kind)), kind)


def tell(dest: Path, p: dict[str, Any], kind: str) -> None:
    c, a = p["counts"], p["agreement"]
    print(f"{dest}: {c['after_filter']} images (drawn {c['drawn']}, after the ratio {c['after_ratio']}, "
          f"after the filter {c['after_filter']})")
    if a["drawn"] is not None:
        word = "label is the teacher's choice" if kind == "class" else "distance to the teacher's value"
        print(f"{word}: {a['drawn']:.4g} drawn, {a['filtered']:.4g} filtered, {a['final']:.4g} final")
    for k, n in enumerate(p.get("class_counts") or []):
        if n == 0 and p.get("assigned_counts", [1] * (k + 1))[k]:
            print(f"Note: no image of class {k} is left after replacing labels")
    if p["acceptance"]:
        rates = [r["rate"] for r in p["acceptance"].values()]
        above = sum(r["exceeded"] for r in p["acceptance"].values())
        print(f"rejection: acceptance {np.mean(rates):.3g} (from {min(rates):.3g} to {max(rates):.3g}), "
              f"{above} ratios above M")


# ---- choosing rho ----------------------------------------------------------------------------------------------------


def split_files(data: ImageDataset, share: float, seed: int, outdir: Path) -> tuple[Path, Path]:
    """Label files of the training and the validation part; classes are split alike."""
    n = len(data)
    rng = seeding.numpy_rng(seed)
    groups = data.class_ids if data.class_ids is not None else np.zeros(n, int)
    valid = np.zeros(n, bool)
    for k in np.unique(groups):
        members = rng.permutation(np.flatnonzero(groups == k))
        valid[members[: int(round(share * len(members)))]] = True
    if not valid.any() or data.class_ids is not None and len(np.unique(groups[~valid])) < len(np.unique(groups)):
        raise UserError(f"--val-split={share:g} leaves no validation image, or a class without training images")
    # A class behind the last one with images is known from one-hot lists only.
    as_ids = data.class_ids is not None and data.label_dim == data.class_ids.max() + 1
    out = []
    for name, chosen in (("subtrain", ~valid), ("subvalid", valid)):
        rows = []
        for i in np.flatnonzero(chosen):
            label = data.labels([i])[0]
            rows.append([data.get_details(int(i)).name, int(label.argmax()) if as_ids else [float(v) for v in label]])
        content: dict[str, Any] = dict(labels=rows)
        if data.spec.label.names:
            content["class_names"] = list(data.spec.label.names)
        if data.spec.label.meta:
            content["label_meta"] = data.spec.label.meta
        path = outdir / f"{name}.json"
        text = json.dumps(content)
        if path.exists() and path.read_text(encoding="utf-8") != text:
            raise UserError(f"{path} is of another split; choose another --outdir")
        with atomic_write(path) as f:
            f.write(text)
        out.append(path)
    return out[0], out[1]


def call(command: click.Command, *words: str) -> None:
    """One of our commands in this process."""
    print(f"$ gantransfer distill {command.name} {' '.join(words)}", flush=True)
    command.main(list(words), prog_name=command.name, standalone_mode=False)


@main.command("select-rho")
@data_flags
@flag("outdir", "Where everything goes; running again continues", required=True, type=PATH, metavar="DIR")
@flag("grid", "Values of rho", default="0.5,0.6,0.7,0.8,0.9,1.0", metavar="LIST")
@flag("val_split", "Share of the images to validate on; nothing else sees them",
      FloatRange(0, 1, min_open=True, max_open=True), 0.2)
@flag("archs", "Students, comma-separated", default="resnet20", metavar="LIST")
@flag("network", "Snapshot trained on OUTDIR/subtrain.json alone", type=PATH, metavar="PATH")
@flag("gan_flags", "Or flags of train.py that train one", metavar="'FLAGS'")
@flag("teacher_flags", "Flags of `distill teacher`", default="", metavar="'FLAGS'")
@flag("fakes_flags", "Flags of `distill fakes`", default="", metavar="'FLAGS'")
@flag("student_flags", "Flags of `distill student`", default="", metavar="'FLAGS'")
@flag("replace", "Replace labels by the teacher's predictions", bool, False)
@flag("seed", "Random seed: any whole number", SEED, 0)
def select_rho(**flags: Any) -> None:
    """Choose rho on images that neither the GAN, the teacher, nor the students have seen."""
    try:
        rhos = [float(v) for v in flags["grid"].split(",")]
    except ValueError:
        raise UserError(f"--grid={flags['grid']} is not a list of numbers") from None
    for rho in rhos:
        selection.check_rho(rho)
    if bool(flags["network"]) == bool(flags["gan_flags"]):
        raise UserError("give --network, a snapshot trained on OUTDIR/subtrain.json, or --gan-flags to train one")
    kimg = None
    if flags["gan_flags"]:
        kimg = next((w.split("=")[1] for w in shlex.split(flags["gan_flags"]) if w.startswith("--kimg=")), None)
        if kimg is None:
            raise UserError("--gan-flags: give --kimg=K, the length of the GAN's training")
    data = ImageDataset(flags["data"], fname=flags["fname"], use_labels=True)
    resolution.require(data.resolution, flags["data"])
    if data.spec.label.kind == "none":
        raise UserError(f"--data={flags['data']} has no labels")
    outdir = Path(flags["outdir"])
    train, valid = split_files(data, flags["val_split"], flags["seed"], outdir)
    real = [f"--data={flags['data']}", f"--fname={train}"]
    network = flags["network"] or gan_on(outdir, real, flags["gan_flags"], float(kimg), flags["seed"])
    seen = {} if is_images(network) else load_any(network).data
    subtrain = len(json_file.read(train)["labels"])
    if os.path.basename(seen.get("fname") or "") != train.name or seen.get("num_images") != subtrain:
        raise UserError(f"--network={network} was not trained on {train} alone: it may know the validation images; "
                        f"train it with --fname={train}")
    seed = f"--seed={flags['seed']}"
    call(teacher, *real, f"--outdir={outdir / 'teacher'}", seed, f"--test={flags['data']}", f"--test-fname={valid}",
         *shlex.split(flags["teacher_flags"]))
    raw, judge = outdir / "raw.zip", result_path(outdir / "teacher", "teacher")
    if not raw.exists():
        call(fakes, *real, f"--network={network}", f"--teacher={judge}", "--rho=1", f"--dest={raw}", seed,
             *shlex.split(flags["fakes_flags"]))
    table: dict[float, dict[str, float]] = {}
    archs = [a.strip() for a in flags["archs"].split(",") if a.strip()]
    for rho in rhos:
        chosen = outdir / f"rho{rho:g}.zip"
        if not chosen.exists():
            call(refilter, f"--fakes={raw}", f"--rho={rho:g}", f"--replace={flags['replace']}", f"--dest={chosen}")
        for arch in archs:
            folder = outdir / f"rho{rho:g}-{arch}"
            call(student, *real, f"--fakes={chosen}", f"--test={flags['data']}", f"--test-fname={valid}",
                 f"--arch={arch}", f"--outdir={folder}", seed, *shlex.split(flags["student_flags"]))
            figures = json_file.read(folder / "results.json")["last"]
            table.setdefault(rho, {})[arch] = figures[headline(figures)]
    error = headline(figures) == "mae"
    mean = {rho: float(np.mean(list(v.values()))) for rho, v in table.items()}
    best = (min if error else max)(mean, key=lambda r: mean[r])
    lines = ["| rho | " + " | ".join(archs) + " | mean |", "|---|" + "---|" * (len(archs) + 1)]
    lines += [f"| {r:g} | " + " | ".join(f"{v[a]:.4g}" for a in archs) + f" | {mean[r]:.4g} |"
              for r, v in table.items()]
    with atomic_write(outdir / "rho.json") as f:
        json.dump(dict(best=best, figure=headline(figures), mean={f"{r:g}": m for r, m in mean.items()},
                       students={f"{r:g}": v for r, v in table.items()}), f, indent=1)
    print("\n".join(lines) + f"\nBest rho on the validation part: {best:g} ({outdir / 'rho.json'})")


def gan_on(outdir: Path, real: list[str], text: str, kimg: float, seed: int) -> str:
    """Train the GAN of --gan-flags on the training part, or continue it; its last snapshot."""
    rest = [w for w in shlex.split(text) if not w.startswith("--kimg=")]
    job, done = jobs.train_job("gan", outdir / "gan", f"seed{seed}", kimg,
                               [*real, "--cond=True", f"--seed={seed}", *rest])
    if job:
        print(f"$ {job}", flush=True)
        jobs.run_jobs([job], threads=jobs.cores())
        done = jobs.final_snapshot(jobs.run_folder(outdir / "gan", f"seed{seed}", kimg), kimg)
    return str(done)


def headline(figures: dict[str, float]) -> str:
    """The figure a student is judged by."""
    if not figures:
        raise UserError("the student's results hold no figures; it was trained without --test")
    return "mae" if "mae" in figures else "accuracy"


# ---- report ----------------------------------------------------------------------------------------------------------


@main.command()
@flag("runs", "Folders of finished students, comma-separated, or folders above them", required=True,
      type=PATHS, metavar="LIST")
@flag("out", "Also write the table here (.md; the numbers beside it as .json)", type=PATH, metavar="FILE.md")
def report(runs: str, out: str | None) -> None:
    """NOKD, KD, cGAN-KD, cGAN-KD+KD: mean and spread over seeds, and paired differences."""
    from gantransfer.distillation.report import collect, table

    found = collect([Path(p.strip()) for p in runs.split(",") if p.strip()])
    text = table(found)
    print(text)
    if out:
        with atomic_write(out) as f:
            f.write(text + "\n")
        with atomic_write(Path(out).with_suffix(".json")) as f:
            json.dump(found, f, indent=1)
