# SPDX-License-Identifier: Apache-2.0
"""gantransfer distill: knowledge distillation through generated images (cGAN-KD), stage by stage.

teacher -> ratio -> fakes -> refilter -> student, and select-rho, report. Every stage is one of the project's trainings
or a data set; this file only strings them together. A stage that was killed goes on when its command is given again.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dnnlib import json_file
from dnnlib.seeding import MAX_SEEDS
from dnnlib.util import UserError, atomic_write, sha256
from gantransfer.commands import CONTEXT, Group
from gantransfer.commands.flags import (
    CONFIG,
    FLOAT,
    GRAPHS,
    MACHINE,
    PATH,
    PATHS,
    RANDOM,
    RATING,
    SNAPSHOT,
    TICKS,
    Choice,
    Flag,
    FloatRange,
    IntRange,
    Sectioned,
    schedule,
)
from gantransfer.commands.method_flags import flags_of
from gantransfer.distillation import selection
from gantransfer.distillation.presets import PRESETS, filled

if TYPE_CHECKING:
    from gantransfer.distillation.fakes import Filter

STUDENT_ONLY = ("fakes", "nfake", "fake_batch_share", "fake_weight", "teacher", "kd", "T", "ce_weight", "kd_weight",
                "feature_weight", "kd_reduction", "hint_layer", "tf_weight", "ss_weight", "tf_T", "ss_T", "ratio_tf",
                "ratio_ss")
HEAD_RECIPE = dict(lr=0.05, schedule="step", decay="0.5,0.75", optimizer="sgd")  # SSKD: 60 epochs, x.1 at 30, 45

PRESET = Flag("preset", "Published recipe that fills what is left open", Choice(list(PRESETS)))
DATA = [Flag("data", "Real training images with labels", PATH, required=True, metavar="PATH"),
        Flag("fname", "Label file in --data (or a path) that selects images and gives labels", PATH, metavar="NAME")]
DRY_RUN = Flag("dry-run", "Print the resolved options and stop", None, False, short=("-n",), is_flag=True)
TRAINING = {
    "Data and output": [*DATA, Flag("outdir", "The stage's folder; the same command continues it", PATH, required=True,
                                    metavar="DIR")],
    "Schedule": [CONFIG, PRESET, *schedule(least=2),
                 Flag("epochs", "Length in passes, instead of --kimg", FloatRange(min=0, min_open=True))],
    "Snapshots and figures": [*TICKS, *RATING],
    "Machine": [*MACHINE, GRAPHS, DRY_RUN],
}
FILTER = [
    Flag("rho", "Share of images to keep, those with the smallest error", FLOAT),
    Flag("quantile", "Over each class, all images, or equal parts of the labels' range (perclass for classes, "
         "global for values)", Choice(selection.QUANTILES)),
    Flag("bins", "Parts of --quantile=bins", IntRange(min=1), 10),
    Flag("replace", "Replace labels by the teacher's predictions", bool),
    Flag("burn_in", "Take the cut-offs from the first so many images of each group", IntRange(min=2)),
    Flag("ties", "Images whose error equals the cut-off: keep, or drop them (strict, published)",
         Choice(selection.TIES)),
    Flag("dest", "Zip to write", PATH, required=True, metavar="FILE.zip"),
]


@click.group(cls=Group, context_settings=CONTEXT)
def main() -> None:
    """Distil knowledge into small networks through generated images.

    \b
    gantransfer distill teacher --data=real.zip --arch=resnet56 --outdir=teacher
    gantransfer distill fakes   --network=snap.pkl --data=real.zip --teacher=teacher/teacher.pkl \\
                                          --num-per-label=5000 --rho=0.9 --dest=fakes.zip
    gantransfer distill student --data=real.zip --fakes=fakes.zip --kd=blkd --teacher=teacher/teacher.pkl \\
                                          --arch=resnet8 --outdir=student
    """


def stage_command(name: str, method: str, omit: tuple[str, ...] = (), more: list[Flag] | None = None) -> Any:
    """A command that trains: with the flags of every training stage, of `method`'s Options, and `more` of its own."""
    sections = {**TRAINING, f"Of `{name}`": more} if more else TRAINING
    return main.command(name, cls=Sectioned, context_settings=CONTEXT, sections=sections, title="Training and networks",
                        own=partial(flags_of, method, omit))


def given_flags(flags: dict[str, Any]) -> dict[str, Any]:
    """What was typed, or passed by another command."""
    ctx = click.get_current_context()
    return {k: v for k, v in flags.items() if v is not None
            and ctx.get_parameter_source(k) != click.core.ParameterSource.DEFAULT}


@stage_command("teacher", "cgan_kd", STUDENT_ONLY)
def teacher(**flags: Any) -> None:
    """Train a classifier (CE) or regressor (MSE of the normalised label) on real images."""
    from gantransfer.commands.stages import Stage, measured

    stage = Stage(flags, given_flags(flags), "teacher")
    if flags["dry_run"]:
        stage.show()
        return
    with stage.processes() as device:
        path = stage.train("teacher", Path(flags["outdir"]), device)
        stage.say(f"Teacher: {path}", lambda: measured(Path(flags["outdir"]), stage))


@stage_command("student", "cgan_kd", more=[
    Flag("budget", "What --epochs counts: images of the real set, whatever fakes there are; or real and generated "
         "ones, as published", Choice(["images", "epochs"]), "images"),
    Flag("init", "Start from the weights of this teacher or student", SNAPSHOT, metavar="PATH"),
    Flag("assistant", "Architecture of the assistant of --kd=takd", metavar="NAME"),
    Flag("head_epochs", "Passes that train SSKD's head of the teacher", FloatRange(min=0, min_open=True), 60)])
def student(**flags: Any) -> None:
    """Train a student on real images, or on real and generated ones, with or without a distillation loss."""
    from gantransfer.commands.stages import Stage
    from gantransfer.methods import cgan_kd

    if (flags["kd"] == "takd") != bool(flags["assistant"]):
        raise UserError("--kd=takd and --assistant=ARCH belong together")
    stage = Stage(flags, given_flags(flags), "student")
    o, outdir = stage.opts, Path(flags["outdir"])
    if o.teacher:
        cgan_kd.load(o.teacher, stage.data.spec, "--teacher")
    if flags["dry_run"]:
        stage.show()
        return
    with stage.processes() as device:
        if o.kd == "takd":
            assistant = dataclasses.replace(o, arch=flags["assistant"])
            stage.method.resolve(assistant, dataclasses.replace(stage.run), stage.data.spec)
            o = dataclasses.replace(o, teacher=str(stage.train("student", outdir / "assistant", device, assistant)))
        elif o.kd == "sskd" and cgan_kd.load(o.teacher, stage.data.spec, "--teacher").projector is None:
            head = dataclasses.replace(o, fakes=None, nfake=None, fake_batch_share=None, fake_weight=1.0,
                                       test=None, test_fname=None, **HEAD_RECIPE)
            run = stage.shorter(flags["head_epochs"])
            o = dataclasses.replace(o, teacher=str(stage.train("head", outdir / "head", device, head, run)))
        stage.say(f"Student: {stage.train('student', outdir, device, o)}")


@stage_command("ratio", "density_ratio", ("extractor",), more=[
    Flag("feature_epochs", "Passes that train the feature network [default: 200 for sae, 350 for resnet34]",
         FloatRange(min=0, min_open=True)),
    Flag("heldout", "Real images that the snapshot has not seen, to calibrate --features=discriminator", PATH,
         metavar="PATH"),
    Flag("heldout_fname", "Label file in --heldout that selects images", PATH, metavar="NAME")])
def ratio(**flags: Any) -> None:
    """How much likelier real than generated an image is, under its label: what `fakes` subsamples by."""
    from gantransfer.commands.stages import Stage, calibrate, result_path
    from gantransfer.model import load

    if not flags["network"]:
        raise UserError("--network is missing: whose images are judged?")
    if (flags["features"] == "discriminator") != bool(flags["heldout"]):
        raise UserError("--features=discriminator and --heldout belong together: real images that the snapshot has "
                        "not seen")
    stage = Stage(flags, given_flags(flags), "ratio", "density_ratio")
    o, outdir = stage.opts, Path(flags["outdir"])
    if flags["dry_run"]:
        stage.show()
        return
    snap = load(o.network)
    snap.check_makes_images()
    with stage.processes() as device:
        path = result_path(outdir, "ratio")
        if o.features == "discriminator":
            calibrate(snap, stage, path, device)
        else:
            if o.features in ("sae", "resnet34"):
                epochs = flags["feature_epochs"] or (200 if o.features == "sae" else 350)
                found = stage.train("features", outdir / "features", device, o, stage.shorter(epochs))
                o = dataclasses.replace(o, extractor=str(found))
            stage.train("ratio", outdir, device, o, source=snap)
        stage.say(f"Ratio: {path}")


# ---- fakes -----------------------------------------------------------------------------------------------------------


def filter_of(flags: dict[str, Any], kind: str) -> Filter:
    """The flags FILTER, checked against the kind of labels."""
    from gantransfer.distillation import fakes as fake_sets

    rho = 1.0 if flags["rho"] is None else flags["rho"]
    selection.check_rho(rho)
    quantile = flags["quantile"] or ("perclass" if kind == "class" else "global")
    fake_sets.check_quantile(quantile, kind)
    return fake_sets.Filter(rho, quantile, flags["bins"], bool(flags["replace"]), flags["burn_in"],
                            flags["ties"] or "keep")


@main.command(cls=Sectioned, context_settings=CONTEXT, sections={
    "Images and labels": [
        Flag("network", "Conditional snapshot, or a zip or folder of ready images with class labels", SNAPSHOT,
             required=True, metavar="PATH"),
        *DATA, CONFIG, PRESET,
        Flag("num_per_label", "Images per label, after subsampling and before filtering", IntRange(min=1)),
        Flag("num_labels", "Values: so many evenly spaced labels, instead of those of the data", IntRange(min=2)),
        Flag("trunc", "Truncation psi of the generator", FLOAT, 1.0),
        Flag("trunc_center", "What truncation pulls towards: one mean, as published, or the mean w of the class",
             Choice(["global", "class"]), "global"),
        RANDOM],
    "Subsampling": [
        Flag("ratio", "Density ratio made by `distill ratio`: subsample by it", SNAPSHOT, metavar="PATH"),
        Flag("rs_mode", "Rejection: M fixed after the burn-in, or running as published", Choice(["fixed", "running"]),
             "fixed"),
        Flag("rs_M", "Rejection: M is this quantile of the burn-in's ratios [default: their maximum]",
             FloatRange(0, 1, min_open=True)),
        Flag("rs_burn_in", "Rejection: images per label that find M", IntRange(min=1))],
    "Filter": [
        Flag("teacher", "Trained teacher: errors, predictions", SNAPSHOT, metavar="PATH"), *FILTER,
        Flag("clip", "Values: predictions stay inside the labels' range", bool, True),
        Flag("integers", "Values: truncate predictions to integers, as published for ages", bool, False)],
    "Machine": [*MACHINE, DRY_RUN]})
def fakes(**flags: Any) -> None:
    """Generate a data set: one seed per image, subsampled, filtered, relabelled; with provenance and scores."""
    from gantransfer.commands.stages import judge_of, labelled_data, processes, source_of
    from gantransfer.distillation import fakes as fake_sets
    from gantransfer.methods import density_ratio
    from gantransfer.model import load
    from torch_utils import distributed as dist

    flags = filled(flags["preset"], "fakes", flags, given_flags(flags))
    dest, data = fake_sets.check_dest(flags["dest"]), labelled_data(flags)
    label, f = data.spec.label, filter_of(flags, data.spec.label.kind)
    if not flags["num_per_label"]:
        raise UserError("--num-per-label is missing: how many images of each label?")
    if not flags["teacher"] and (f.rho < 1 or f.replace):
        raise UserError(f"{'--rho below 1' if f.rho < 1 else '--replace'} needs --teacher=SNAPSHOT")
    truncation = {} if flags["trunc"] == 1 else dict(truncation_psi=flags["trunc"])
    if truncation and flags["trunc_center"] != "global":
        truncation["truncation_center"] = flags["trunc_center"]
    recipe = fake_sets.Recipe(flags["num_per_label"], flags["seed"], flags["rs_mode"], flags["rs_M"],
                              rs_burn_in=flags["rs_burn_in"] or 1000, options=truncation)
    labels = fake_sets.grid(label, data, flags["num_labels"])
    if recipe.num_per_label * len(labels) > MAX_SEEDS:
        raise UserError(f"--num-per-label={recipe.num_per_label} of {len(labels)} labels: these are more than "
                        f"{MAX_SEEDS:,} images; make fewer at a time")
    if flags["dry_run"]:
        print(json.dumps(dict(dataclasses.asdict(recipe), labels=len(labels), **f.settings()), indent=2))
        return
    with processes(flags) as device:
        source = source_of(flags["network"], data, device, recipe.options)
        labels = fake_sets.trained_labels(labels, source, f"--network={flags['network']}")
        if flags["trunc_center"] != "global" and isinstance(source, fake_sets.Generator):
            source.sampler.check_center(flags["trunc_center"])
        judge = judge_of(flags["teacher"], data, device, flags["clip"], flags["integers"]) if flags["teacher"] else None
        made = fake_sets.make(
            dest, source, labels, data, recipe, f,
            dict(teacher_sha256=sha256(flags["teacher"]) if flags["teacher"] else None, clip=flags["clip"],
                 integers=flags["integers"]),
            ratio=density_ratio.of_snapshot(load(flags["ratio"]), data.spec, device) if flags["ratio"] else None,
            judge=judge)
        if made is not None:
            dist.print0("\n".join(fake_sets.summary(dest, made, label.kind)))


@main.command(cls=Sectioned, context_settings=CONTEXT, sections={"Options": [
    Flag("fakes", "Unfiltered fakes made with --teacher and --rho=1", PATH, required=True, metavar="FILE.zip"),
    *FILTER]})
def refilter(**flags: Any) -> None:
    """Another share of the same fakes, from their stored scores: no network is needed."""
    from gantransfer.distillation import fakes as fake_sets

    dest = fake_sets.check_dest(flags["dest"])
    if flags["rho"] is None:
        raise UserError("--rho is missing: which share of the images is kept?")
    kind = fake_sets.read(flags["fakes"]).label.kind
    made = fake_sets.refilter(flags["fakes"], dest, filter_of(flags, kind))
    print("\n".join(fake_sets.summary(dest, made, kind)))


# ---- choosing rho ----------------------------------------------------------------------------------------------------


def call(command: click.Command, *words: str) -> None:
    """One of our commands in this process."""
    print(f"$ gantransfer distill {command.name} {' '.join(words)}", flush=True)
    command.main(list(words), prog_name=command.name, standalone_mode=False)


@main.command("select-rho", cls=Sectioned, context_settings=CONTEXT, sections={"Options": [
    *DATA,
    Flag("outdir", "Where everything goes; running again continues", PATH, required=True, metavar="DIR"),
    Flag("grid", "Values of rho", default="0.5,0.6,0.7,0.8,0.9,1.0", metavar="LIST"),
    Flag("val_split", "Share of the images to validate on; nothing else sees them",
         FloatRange(0, 1, min_open=True, max_open=True), 0.2),
    Flag("archs", "Students, comma-separated", default="resnet20", metavar="LIST"),
    Flag("network", "Snapshot trained on OUTDIR/subtrain.json alone", SNAPSHOT, metavar="PATH"),
    Flag("gan_flags", "Or flags of train.py that train one", metavar="'FLAGS'"),
    Flag("teacher_flags", "Flags of `distill teacher`", default="", metavar="'FLAGS'"),
    Flag("fakes_flags", "Flags of `distill fakes`", default="", metavar="'FLAGS'"),
    Flag("student_flags", "Flags of `distill student`", default="", metavar="'FLAGS'"),
    Flag("replace", "Replace labels by the teacher's predictions", bool, False),
    RANDOM]})
def select_rho(**flags: Any) -> None:
    """Choose rho on images that neither the GAN, the teacher, nor the students have seen."""
    from gantransfer.commands.stages import labelled_data, result_path
    from gantransfer.distillation.validation import Choice as RhoChoice
    from gantransfer.distillation.validation import split_files
    from gantransfer.importers import is_images, load_any

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
    data = labelled_data(flags)
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
    choice = RhoChoice([a.strip() for a in flags["archs"].split(",") if a.strip()])
    for rho in rhos:
        chosen = outdir / f"rho{rho:g}.zip"
        if not chosen.exists():
            call(refilter, f"--fakes={raw}", f"--rho={rho:g}", f"--replace={flags['replace']}", f"--dest={chosen}")
        for arch in choice.archs:
            folder = outdir / f"rho{rho:g}-{arch}"
            call(student, *real, f"--fakes={chosen}", f"--test={flags['data']}", f"--test-fname={valid}",
                 f"--arch={arch}", f"--outdir={folder}", seed, *shlex.split(flags["student_flags"]))
            choice.add(rho, arch, json_file.read(folder / "results.json")["last"])
    with atomic_write(outdir / "rho.json") as f:
        json.dump(choice.to_dict(), f, indent=1)
    print(f"{choice.table()}\nBest rho on the validation part: {choice.best:g} ({outdir / 'rho.json'})")


def gan_on(outdir: Path, real: list[str], text: str, kimg: float, seed: int) -> str:
    """Train the GAN of --gan-flags on the training part, or continue it; its last snapshot."""
    from gantransfer.experiments import jobs

    rest = [w for w in shlex.split(text) if not w.startswith("--kimg=")]
    job, done = jobs.train_job("gan", outdir / "gan", f"seed{seed}", kimg,
                               [*real, "--cond=True", f"--seed={seed}", *rest])
    if job:
        print(f"$ {job}", flush=True)
        jobs.run_jobs([job], threads=jobs.cores())
        done = jobs.final_snapshot(jobs.run_folder(outdir / "gan", f"seed{seed}", kimg), kimg)
    return str(done)


# ---- report ----------------------------------------------------------------------------------------------------------


@main.command(cls=Sectioned, context_settings=CONTEXT, sections={"Options": [
    Flag("runs", "Folders of finished students, comma-separated, or folders above them", PATHS, required=True,
         metavar="LIST"),
    Flag("out", "Also write the table here (.md; the numbers beside it as .json)", PATH, metavar="FILE.md")]})
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
