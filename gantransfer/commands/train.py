# SPDX-License-Identifier: Apache-2.0
"""Train a generator. Options become a resolved configuration; the configuration runs, or is printed (--dry-run)."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dnnlib import json_file, run_folder
from dnnlib.util import UserError, printable
from gantransfer.commands import CONTEXT, config
from gantransfer.commands.flags import STUDY, check_choice, named_files
from gantransfer.commands.train_flags import IMPLIES, SECTIONS, Train, method_flags
from gantransfer.data import resolution

LEASE = 120.0  # seconds, more than the usual lease of NFS 4 (90), and less than other processes wait (600)

if TYPE_CHECKING:
    from gantransfer.commands.run import Run
    from gantransfer.data.schedule import Span
    from gantransfer.method import Method
    from torch_utils.distributed import Job


@click.command(cls=Train, sections=SECTIONS, own=method_flags, context_settings=CONTEXT)
def main(**flags: Any) -> None:
    """Train a GAN on a data set made by dataset_tool.py, or first on the handwritten digits that are at hand.

    \b
    # UTLO on digits of which some are rare
    python train.py --cond=True --add_uc=True
    # a conditional StyleGAN2-ADA, and UTLO on a long-tailed set
    python train.py --data=set.zip --cond=True
    python train.py --data=set.zip --fname=lt_25.json --cond=True --add_uc=True
    # continue the newest run of --outdir exactly where it stopped
    python train.py --data=set.zip --cond=True --resume=latest
    """
    given = {k: v for k, v in flags.items()
             if click.get_current_context().get_parameter_source(k) == click.core.ParameterSource.COMMANDLINE}
    from gantransfer.commands import run as harness
    from torch_utils import distributed as dist

    if flags["data"] is None and flags["fname"] is None:
        train_on_digits(flags, given)
    setup = Setup(flags, given)
    if flags["dry_run"]:
        print("Training options:")
        print(json.dumps(setup.resolved(), indent=2))
        print(f"Run folder: {os.path.join(flags['outdir'] or '', '#####-' + setup.run_name())}", flush=True)
        setup.launch(dist.resolve_device(flags["device"]), dry=True)
        print("Dry run; exiting.")
        return
    if not flags["outdir"]:
        raise UserError("--outdir is empty: name the folder that shall hold the run, or omit it for runs/")
    setup.launch(harness.launched(flags))


def train_on_digits(flags: dict[str, Any], given: dict[str, Any]) -> None:
    """Without --data: the digits, what suits them where nothing else is given, and a line about it."""
    from gantransfer.commands import digits
    from torch_utils import distributed as dist

    data, flags["fname"], heldout = digits.long_tailed()
    flags["data"] = str(data)
    method = choose_method(flags, given)
    chosen = {}
    if any("tiny" in (f.metadata["choices"] or ()) for f in dataclasses.fields(method.Options) if f.name == "cfg"):
        chosen["cfg"] = "tiny"
    flags["heldout"] = flags["heldout"] or str(heldout)
    if flags["cond"] or method.needs_labels:
        flags["metrics"] = flags["metrics"] or "report_digits32"  # judged by the network that is shipped for them
    chosen = {k: v for k, v in chosen.items() if given.get(k) is None}
    flags.update(chosen)
    given.update(chosen)
    if not dist.launched():
        print(f"No --data: training on long-tailed handwritten digits ({data})"
              + "".join(f" with --{k}={v}" for k, v in chosen.items())
              + "; for images of yours: dataset_tool.py --source=FOLDER --dest=set.zip, then --data=set.zip")


class Setup:
    """Flags resolved against the data: method, options, run configuration."""

    def __init__(self, flags: dict[str, Any], given: dict[str, Any]):
        from gantransfer.commands import run as harness
        from gantransfer.data.dataset import ImageDataset
        from gantransfer.importers import RESUME_NAMES
        from gantransfer.metrics import rating, table

        self.folder: run_folder.RunFolder | None = None  # locked, on rank 0
        self.torchrun: Job | None = None  # the job that this process belongs to
        self.flags, self.given = flags, dict(given, resume_names=tuple(RESUME_NAMES))
        self.by_recipe: tuple[str, ...] = ()  # flags that --recipe chose
        self.method = choose_method(flags, given)
        self.stage = flags["stage"] or self.method.stages[0]
        if self.stage not in self.method.stages:
            raise UserError(f"--stage={self.stage} does not exist in method {self.method.name}; "
                            f"it has {', '.join(self.method.stages)}")
        if not flags["data"]:
            raise UserError("--data is missing: name a zip or folder made by dataset_tool.py")
        if self.method.needs_labels and "cond" not in given:
            flags["cond"] = True
        self.dataset = ImageDataset(flags["data"], fname=flags["fname"], use_labels=flags["cond"],
                                    max_size=flags["subset"], xflip=flags["mirror"], seed=flags["seed"],
                                    heldout=self._held_out())
        resolution.require(self.dataset.resolution, flags["data"])
        if flags["cond"] and not self.dataset.label_dim:
            raise UserError(f"--cond=True needs labels, and {flags['data']} has none; make the set with "
                            f"dataset_tool.py from class sub-folders, or with a dataset.json")
        if flags["subset"] and flags["subset"] > self.dataset.spec.num_images:
            raise UserError(f"--subset={flags['subset']} is more than the "
                            f"{self.dataset.spec.num_images} images there are")
        resume = rating.resolve(flags["resume"])
        self.auto = resume == "auto"
        self.continues = resume is not None and not self.auto and (resume == "latest" or is_run_folder(resume))
        weights = flags["source"] or (None if self.continues or self.auto else resume)
        self._resolve(weights)
        if flags["recipe"]:
            self._follow_recipe(weights)
        self.run_dir = self._run_to_continue() if self.continues else None
        if self.run_dir and not flags["source"] and (weights := self._weights_of(self.run_dir)):
            self._resolve(weights)  # what a method chooses may depend on whether it starts from weights
        self.metrics = table.parse_names(self.run.metrics)
        harness.check_rating(flags, self.method, self.metrics)

    def _resolve(self, weights: str | None) -> None:
        """Options and run configuration from the flags; `weights`: what the run begins with."""
        from gantransfer.method import RunConfig

        flags, given = self.flags, self.given
        names = {f.name for f in dataclasses.fields(self.method.Options)}
        self.opts = self.method.Options(**{k: given[k] for k in names if given.get(k) is not None})
        self.opts.given = frozenset(k for k in names if given.get(k) is not None)
        self.run = RunConfig(seed=flags["seed"], num_procs=flags["gpus"], batch=flags["batch"],
                             batch_gpu=flags["batch_gpu"], kimg=flags["kimg"], tick=flags["tick"], snap=flags["snap"],
                             sampling=flags["sampling"], sampling_labels=flags["sampling_labels"],
                             sampling_shift=self._shift(), metrics=flags["metrics"], resume=weights)
        if "WORLD_SIZE" in os.environ:
            world = int(os.environ["WORLD_SIZE"])
            if given.get("gpus", world) != world:
                raise UserError(f"--gpus={given['gpus']} but torchrun started {world} processes; omit --gpus")
            self.run.num_procs = world
        self.method.resolve(self.opts, self.run, self.dataset.spec)

    def _follow_recipe(self, weights: str | None) -> None:
        from gantransfer.commands import recipe
        from torch_utils import distributed as dist

        values = recipe.chosen(self.method, self.run, self.dataset.spec, self.given)
        self.flags.update(values)
        self.given.update(values)
        self.by_recipe = tuple(values)  # a run that is repeated with another batch or length has its own
        if not dist.launched():
            print(f"Recipe {self.flags['recipe']}: {recipe.in_words(values) or 'every flag of it is given otherwise'}")
        self._resolve(weights)

    def _run_to_continue(self) -> Path:
        """The folder that --resume names; `latest` is the newest whose name the flags give, whatever weights it began
        with unless --source names them."""
        from gantransfer.importers import RESUME_NAMES

        outdir, resume = Path(self.flags["outdir"]), self.flags["resume"]
        if resume != "latest":
            return Path(resume)
        starts = [self.flags["source"]] if self.flags["source"] else [None, "noresume", "a file", *RESUME_NAMES]
        runs = matching_runs(outdir, *map(self.name_with, starts))
        if not runs:
            raise UserError(f"--resume=latest: {outdir} has no run '#####-{self.name_with(starts[0])}'; "
                            f"start one without --resume, or name a run folder")
        return runs[0]

    def _weights_of(self, run_dir: Path) -> str | None:
        """What the run began with, which it knows itself."""
        from gantransfer.training_loop import find_states

        options, states = run_dir / "training_options.json", find_states(run_dir)
        known = json_file.read(options, remedy="the run cannot be continued") if states or options.exists() else {}
        fresh = [self.name_with(None), self.name_with("noresume")]
        if not states and "resume_pkl" not in known and run_dir not in matching_runs(run_dir.parent, *fresh):
            raise UserError(f"{run_dir} has no training state, nor says which weights it began with; name them with "
                            f"--source")
        return known.get("resume_pkl")

    def _held_out(self) -> int:
        """--heldout as images per class; 0 where it names a data set, or is not given."""
        text = self.flags["heldout"]
        if text is None or not re.fullmatch(r"-?[0-9]{1,18}", text):
            return 0
        if int(text) < 1:
            raise UserError(f"--heldout={text}: at least one image per class, or omit it")
        return int(text)

    def _shift(self) -> Span | None:
        from gantransfer.data.schedule import Span

        f = self.flags
        if f["sampling_shift"] is None:
            return None
        if {f["sampling"], f["sampling_labels"] or f["sampling"]} == {"empirical"}:
            raise UserError(f"--sampling_shift={f['sampling_shift']} moves from the data's own frequencies to those of "
                            f"--sampling; give e.g. --sampling=balanced")
        return Span.parse(f["sampling_shift"], "--sampling_shift")

    def run_name(self) -> str:
        return self.name_with(self.run.resume)

    def name_with(self, weights: str | None) -> str:
        """What a run of these flags that begins with `weights` is called after its number."""
        given = {k: v for k, v in self.given.items() if k != "resume"} | ({"resume": weights} if weights else {})
        name = self.method.run_name(self.opts, given, self.run, self.dataset.spec)
        for key in ("desc", "description"):
            name += f"-{self.flags[key]}" if self.flags[key] else ""
        return re.sub(r'[<>:"/\\|?*\s]', "_", printable(name))

    def resolved(self) -> dict[str, Any]:
        """training_options.json: the published keys, then our own."""
        from gantransfer.commands import run as harness

        f, run, spec = self.flags, self.run, self.dataset.spec
        training_set = dict(class_name="gantransfer.data.dataset.ImageDataset", path=f["data"],
                            use_labels=bool(f["cond"]),
                            max_size=spec.num_images, xflip=bool(f["mirror"]), resolution=spec.resolution)
        if f["subset"]:
            training_set["random_seed"] = f["seed"]
        if f["fname"]:
            training_set["fname"] = f["fname"]
        if spec.heldout:
            training_set["heldout"] = spec.heldout
        options = dict(
            num_gpus=run.num_procs, image_snapshot_ticks=run.snap, network_snapshot_ticks=run.snap,
            metrics=self.metrics, random_seed=run.seed, training_set_kwargs=training_set,
            reader_threads=f["workers"], total_kimg=run.kimg, batch_size=run.batch, batch_gpu=run.batch_gpu,
            **self.method.config(self.opts, run, spec),
        )
        if run.resume not in (None, "noresume"):
            options["resume_pkl"] = run.resume
        if f["nobench"]:
            options["cudnn_benchmark"] = False
        if f["allow_tf32"]:
            options["allow_tf32"] = True
        if f["heldout"] and not spec.heldout:
            options["reference"] = f["heldout"]
        if run.sampling_shift is not None:
            options["sampling_shift"] = list(run.sampling_shift)
        return dict(options, **harness.chosen(f), method=self.method.name, stage=self.stage, kimg_per_tick=run.tick,
                    sampling=run.sampling, sampling_labels=run.sampling_labels or run.sampling,
                    options=self.opts.to_dict())

    # ---- running ----------------------------------------------------------------------------------------------------

    def job(self) -> Run:
        """What runs, for the harness."""
        from gantransfer.commands.run import Run

        f = self.flags
        again = {}
        # A study continues its trainings by itself; by another --kimg `latest` looks for another name.
        if self.auto or os.environ.get(STUDY) or self.continues and f["resume"] != "latest":
            again["again"] = "run the command again to continue"
        return Run(self.method, self.opts, self.run, self.dataset, self.stage, self.resolved(), self.metrics,
                   named_files(f["detector"]), lambda: self._reference, f["best"], f["stop_after"], f["keep"],
                   f["graphs"], outdir=f["outdir"], torchrun=self.torchrun,
                   flags=config.recorded(self.given, ("resume", *self.by_recipe)) | self._weights(),
                   outputs=dict(evaluate_at_start=bool(f["eval_at_start"]), wandb_project=f["wandb_proj"],
                                workers=f["workers"], **again))

    def _weights(self) -> dict[str, str]:
        """--resume, as a repetition needs it: a run that goes on began with weights, or with none."""
        return {"resume": self.run.resume} if self.run.resume and not self.flags["source"] else {}

    def launch(self, kind: str, dry: bool = False) -> None:
        import torch

        from gantransfer.commands import run as harness
        from torch_utils import distributed as dist

        share = 1 if getattr(self.opts, "cfg", None) == "tiny" else None
        if dry and self.run.num_procs > 1:  # this is one process of them
            share = share or max(dist.cpu_cores() // self.run.num_procs, 1)
        try:
            with harness.processes(kind, self.flags["threads"], share) as device:
                if dist.world_size() != self.run.num_procs and not dry:
                    raise UserError(f"--gpus={self.run.num_procs} but {dist.world_size()} processes were started")
                torch.backends.cudnn.benchmark = not self.flags["nobench"]
                torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = bool(
                    self.flags["allow_tf32"])
                self.run.device = str(device)
                self.operators = self._operators(device)
                self._preflight()
                self._rehearse() if dry else self._run(device)
        finally:
            if self.folder:
                self.folder.release()

    def _operators(self, device: Any) -> str:
        """Which operators run, in words. Compiles them if that has not happened on this machine."""
        from torch_utils import build

        try:
            native = build.implementation(device) == "native"
        except build.BuildError as e:
            raise UserError(str(e).splitlines()[0] + "; `gantransfer doctor` tells what is missing") from None
        return "compiled" if native else "PyTorch reference" + (
            "" if build.mode() == "ref" else " (slower; `gantransfer doctor` tells what the compiler lacks)")

    def _preflight(self) -> None:
        """What can be said before the first step is said then, not after the first snapshot."""
        from torch_utils import distributed as dist

        self.job().preflight()
        if self.flags["heldout"]:
            _ = self._reference
        if not self.flags["cond"] and has_labels(self.flags["data"]):
            self.run.notes.append("the data set has labels, which this run leaves unused; most methods learn them with "
                                  "--cond=True")
        if dist.is_main():
            self.dataset.check_headers()  # an image of another size shows now, not after hours

    def _rehearse(self) -> None:
        """What a run does before its first step, and a few steps for their time; nothing is written."""
        from dnnlib.util import is_url
        from gantransfer.commands.run import check_continues
        from gantransfer.importers import RESUME_NAMES, load_any
        from gantransfer.method import Start
        from gantransfer.training_loop import find_states

        for note in self.run.notes:
            print(f"Note: {note}")
        start, run_dir = self.run.resume, self.run_dir
        if self.auto:
            run_dir = next(iter(matching_runs(Path(self.flags["outdir"]), self.run_name())), None)
        if goes_on := run_dir is not None and bool(find_states(run_dir)):
            check_continues(self.job(), run_dir, self.flags["data"])
            print(f"--resume={self.flags['resume']}: {run_dir} would go on")
        if self.continues or goes_on or start in RESUME_NAMES or start and is_url(start):
            print(f"Time: not measured, for {run_dir or start} is read by the run itself")
            return
        weights = Start(None if start in (None, "noresume") else load_any(start))
        self.method.check_source(self.opts, self.dataset.spec, weights.source, self.stage)
        print(self.job().pace(weights))

    def _run(self, device: Any) -> None:
        from gantransfer.commands import run as harness
        from gantransfer.importers import RESUME_NAMES, load_any
        from gantransfer.method import Start
        from torch_utils import distributed as dist

        self.torchrun = dist.job()
        run_dir, state = self._continued() if self.continues else self._restarted()
        start, weights = Start(state=state), self.run.resume
        if state is None:
            start = Start(None if weights in (None, "noresume") else load_any(RESUME_NAMES.get(weights, weights)))
            self.method.check_source(self.opts, self.dataset.spec, start.source, self.stage)
        run_dir = run_dir or self._new_folder()
        with harness.tidy(run_dir, self.folder, {p.name for p in run_dir.iterdir()}):
            self.job().train(run_dir, self.folder, start, device, self.operators)
            if dist.is_main():
                harness.tell(run_dir)

    @cached_property
    def _reference(self) -> Any:
        """What metrics compare with."""
        from gantransfer.data.dataset import ImageDataset, reference_dataset

        f, spec = self.flags, self.dataset.spec
        if not spec.heldout:
            return reference_dataset(spec, f["heldout"])
        return ImageDataset(f["data"], fname=f["fname"], use_labels=f["cond"], seed=f["seed"], heldout=spec.heldout,
                            part="heldout", label_dim=spec.label.dim if f["cond"] else None)

    def _continued(self) -> tuple[Path, Path | None]:
        """(run folder, training state to continue from); the folder is locked. Rank 0 decides."""
        from gantransfer.training_loop import find_states
        from torch_utils import distributed as dist

        resume, choice = self.flags["resume"], None
        if dist.is_main():
            if resume != "latest" and not find_states(self.run_dir):
                raise UserError(f"--resume={resume}: the folder has no training-state-*.pt")
            choice = self._take(self.run_dir, f"--resume={resume}")
        choice = dist.broadcast_object(choice)
        if choice[0] != self.run_dir:
            raise UserError(f"--resume=latest: another run began in {self.flags['outdir']} just now; start again")
        return choice

    def _take(self, run_dir: Path, flag: str, lost: float = 0.0) -> tuple[Path, Path | None]:
        """Lock a run's folder: (folder, newest state). Without a state the run starts anew in its folder. `lost`:
        seconds to wait for the lock of a machine that may be gone."""
        from gantransfer.commands.run import check_continues
        from gantransfer.snapshot import find_snapshots
        from gantransfer.training_loop import find_states

        try:
            self.folder = run_folder.hold(run_dir, "it still trains; wait for its end or stop it, then continue",
                                          lost=lost)
        except OSError as e:
            raise UserError(f"{flag}: {run_dir} cannot be written: {e.strerror}") from None
        states = find_states(run_dir)
        if states:
            check_continues(self.job(), run_dir, self.flags["data"])
        elif len(find_snapshots(run_dir)) > 1:  # one may be of a run that was killed before its first state
            raise UserError(f"{flag}: {run_dir} has snapshots but no training-state-*.pt to continue from, and a new "
                            f"start would mix with them; begin with their weights: --resume={run_dir}:latest")
        return run_dir, states[0] if states else None

    def _restarted(self) -> tuple[Path | None, Path | None]:
        """As `_continued`, for the run that --resume=auto finds, and for one that this very torchrun job has begun and
        whose processes it started again: what the command says holds for the first start. (None, None) at that."""
        from gantransfer.commands.run import job_of, record_job
        from gantransfer.training_loop import find_states
        from torch_utils import distributed as dist

        choice, job = (None, None), self.torchrun
        if dist.is_main():
            outdir = Path(self.flags["outdir"])
            runs = matching_runs(outdir, self.run_name())
            mine = next((r for r in runs if job and job.same(job_of(r))), None)
            who = "--resume=auto" if mine is None and self.auto else "Restart by torchrun"
            mine = mine or next((r for r in runs if self.auto), None)
            if mine is not None:
                choice = self._take(mine, f"--outdir={outdir}", LEASE)
                other = next((r for r in runs if find_states(r)), None)
                print(f"{who}: {mine} " + ("goes on" if choice[1] else "has no training state yet and starts anew"
                                           + (f"; --resume={other} would continue that one" if other else "")))
                if choice[1] and job:
                    record_job(mine, job)
            elif self.auto:
                print(f"{who}: {outdir} has no run '#####-{self.run_name()}'; a new one starts")
            elif job and job.restarts:
                print(f"{who}: the processes before had not begun a run in {outdir}; a new one starts")
        return dist.broadcast_object(choice)

    def _new_folder(self) -> Path:
        """The folder of a new run, made and locked by rank 0."""
        from torch_utils import distributed as dist

        outdir = Path(self.flags["outdir"])
        if dist.is_main():
            try:
                self.folder = run_folder.claim(outdir, self.run_name())
            except OSError as e:
                raise UserError(f"--outdir={outdir} cannot be written: {e.strerror}") from None
        return dist.broadcast_object(outdir / self.folder.path.name if self.folder else None)

def choose_method(flags: dict[str, Any], given: dict[str, Any]) -> type[Method]:
    """The method by --method, or by the flags that only one method owns."""
    from gantransfer.methods import TRAIN

    name = flags["method"]
    if name is None:
        implied = {IMPLIES[k] for k in given if k in IMPLIES and given[k] is not False}
        if len(implied) > 1:
            raise UserError(f"the flags belong to different methods ({', '.join(sorted(implied))}); "
                            f"choose one with --method")
        name = implied.pop() if implied else "stylegan2"
    own = {f.name: f.metadata["choices"] for f in dataclasses.fields(TRAIN[name].Options)}
    for key in given:
        owners = [m for m, c in TRAIN.items() if key in {f.name for f in dataclasses.fields(c.Options)}]
        if owners and key not in own and given[key] not in (None, False):
            methods = f"method {owners[0]}" if len(owners) == 1 else (
                f"the methods {', '.join(owners[:-1])} and {owners[-1]}")
            raise UserError(f"--{key} belongs to {methods}, not to {name}")
        if own.get(key) and given[key] is not None:
            check_choice(f"--{key}", given[key], own[key], f" in method {name}")
    return TRAIN[name]


def is_run_folder(path: str) -> bool:
    """Whether --resume names a run to continue; a BigGAN is a folder as well, of weights to start from."""
    if not os.path.isdir(path):
        return False
    from gantransfer.importers.biggan import is_checkpoint

    return not is_checkpoint(path)


def matching_runs(outdir: Path, *names: str) -> list[Path]:
    """Run folders of `outdir` called '#####-name' for one of the names, newest first."""
    runs = [p for p in outdir.glob("*-*") if re.match(r"\d+-", p.name) and p.name.split("-", 1)[1] in names
            and p.is_dir()]
    return sorted(runs, key=lambda p: int(p.name.split("-")[0]), reverse=True)


def has_labels(path: str) -> bool:
    """Whether the set has usable labels that --cond=False leaves unused."""
    from gantransfer.data.dataset import ImageDataset

    try:
        return ImageDataset(path, use_labels=True).label_dim > 0
    except UserError:
        return False
