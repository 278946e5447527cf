# SPDX-License-Identifier: Apache-2.0
"""Train a generator. Options become a resolved configuration; the configuration runs, or is printed (--dry-run)."""

from __future__ import annotations

from dnnlib import signals

if __name__ == "__main__":
    signals.end_in_one_line()

import contextlib
import dataclasses
import hashlib
import os

# Threads that wait must sleep, not spin: small networks on a busy machine are 15 times slower otherwise (measured).
os.environ["OMP_WAIT_POLICY"] = os.environ.get("OMP_WAIT_POLICY", "PASSIVE")

import json
import re
import sys
import time
from collections import Counter
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dnnlib import json_file, run_folder, seeding
from dnnlib.util import Logger, Stopped, UserError, atomic_write, cache_dir, printable
from gantransfer.commands import kernels
from gantransfer.commands.flags import PATH, PATHS, SEED, SNAPSHOT, FloatRange, IntRange, _OneLine, option_type
from gantransfer.data import resolution

if TYPE_CHECKING:
    from gantransfer.data.schedule import Span
    from gantransfer.method import Method

# Options of more than one method keep one meaning; these choose the method when --method is left out.
IMPLIES = {"add_uc": "utlo", "res_uc": "utlo", "alpha": "utlo", "t_start_kimg": "transitional",
           "t_end_kimg": "transitional", "transition": "transitional"}
WEEK = 7 * 86400
POLICIES = click.Choice(["empirical", "sqrt", "effective", "balanced"])


class Flag(click.Option):
    """One option under both spellings, `--a-b` and `--a_b`; the help shows one. A bare `--flag` means true."""

    def __init__(self, name: str, help: str, type: Any = str, default: Any = None, **kw: Any):
        names = dict.fromkeys([f"--{name}", f"--{name.replace('_', '-')}"])
        if type is bool:
            kw.update(is_flag=False, flag_value="true", metavar="BOOL")
        kw.setdefault("show_default", default is not None and default is not False)
        super().__init__([*names, name], type=click.BOOL if type is bool else type, default=default, help=help, **kw)

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        record = super().get_help_record(ctx)
        return record and (record[0].replace(f"{self.opts[0]}, {self.opts[-1]}", self.opts[0]), record[1])


class MethodName(_OneLine, click.Choice):
    """A method's name; a wrong one is one line."""

    def fail(self, message: str, param: Any = None, ctx: Any = None) -> Any:
        raise UserError(f"--method: {message.rstrip('.')}")


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
        Flag("stage", "Stage of a method that has several", metavar="NAME"),
        Flag("resume", "Start from weights (file, URL, published name), or 'latest' / a run folder to continue a run "
             "exactly; RUN:latest, RUN:best or RUN:best:METRIC are weights of a run's snapshot", PATH, metavar="PATH"),
        Flag("source", "Source model of a transfer method: file, URL, RUN, RUN:latest, RUN:best", SNAPSHOT,
             metavar="PATH"),
        click.Option(["-n", "--dry-run", "--dry_run", "dry_run"], is_flag=True,
                     help="Check all that a run checks, print the resolved options and the time it takes, and stop"),
    ],
    "Schedule": [
        Flag("kimg", "Length of the run in thousands of images", FloatRange(min=0, min_open=True)),
        Flag("batch", "Images per step, over all processes", IntRange(min=1)),
        Flag("batch_gpu", "Images per process and round; smaller saves memory", IntRange(min=1)),
        Flag("sampling", "Which reals and labels: as in the data, or towards class balance", POLICIES, "empirical"),
        Flag("sampling_labels", "Labels of generated images, if other than --sampling", POLICIES),
        Flag("sampling_shift", "kimg over which both move there from the data's own frequencies, e.g. 10-20",
             metavar="START-END"),
        Flag("seed", "Random seed: any whole number", SEED, 0),
    ],
    "Snapshots and metrics": [
        Flag("tick", "kimg per status line", FloatRange(min=0, min_open=True)),
        Flag("snap", "Snapshot every so many ticks", IntRange(min=1)),
        Flag("metrics", "Comma-separated metrics, or none", metavar="LIST"),
        Flag("detector", "Detector weights for the metrics: FILE, or NAME=FILE, comma-separated", PATHS,
             metavar="LIST"),
        Flag("heldout", "Reals that metrics compare with and training does not see: so many per class of --data, or "
             "another data set [default: metrics compare with all of --data]", PATH, metavar="N|PATH"),
        Flag("best", "Metric that rates the run's snapshots [default: the first of --metrics]", metavar="METRIC"),
        Flag("stop_after", "Stop when so many snapshots in a row were no better than the best before them",
             IntRange(min=1)),
        Flag("keep", "Which snapshots stay: all, or the best and the newest", click.Choice(["all", "best"]), "all"),
        Flag("eval_at_start", "Also evaluate the untrained network", bool, False),
        Flag("wandb_proj", "Log to this Weights & Biases project", metavar="NAME"),
    ],
    "Machine": [
        Flag("gpus", "Number of processes: one per GPU, or on the CPU", IntRange(min=1), 1),
        Flag("device", "auto, cuda or cpu", click.Choice(["auto", "cuda", "cpu"]), "auto"),
        Flag("workers", "Image-reading threads per process", IntRange(min=1), 3),
        Flag("threads", "CPU threads per process (default: cores / processes; 1 with --cfg=tiny)", IntRange(min=1)),
        click.Option(["--kernels"], **kernels.FLAG),
        Flag("nobench", "Disable cuDNN benchmarking", bool, False),
        Flag("allow_tf32", "Allow TF32 in training", bool, False),
        Flag("graphs", "Record first-order phases as CUDA graphs and replay them", bool, False),
    ],
}


def own_field(method: type[Method], name: str) -> Any:
    """What `option` recorded of one of the method's flags."""
    return next(f.metadata for f in dataclasses.fields(method.Options) if f.name == name)


class Train(click.Command):
    """The shared flags, and those of every method. `--help` shows the shared ones in sections, and of the methods the
    one that is chosen: it needs no method's code, and so no torch."""

    @property
    def params(self) -> list[click.Parameter]:  # one list, for click adds --help to it
        if len(self.listed) <= len(self.shared):
            self.listed += method_flags()
        return self.listed

    @params.setter
    def params(self, params: list[click.Parameter]) -> None:
        self.shared, self.listed = tuple(params), list(params)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        with contextlib.suppress(click.UsageError):  # for --help, which comes first whatever else there is
            typed, _, _ = self.make_parser(ctx).parse_args(list(args))
            ctx.meta["method"] = typed.get("method") or next((IMPLIES[k] for k in typed if k in IMPLIES), None)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as e:
            owners = {f"--{o['name']}": name for name, m in method_table().items() for o in m["options"]}
            e.possibilities = [f"{p} of --method={owners[k]}" if (k := p.replace("-", "_").replace("__", "--", 1)) in
                               owners else p for p in e.possibilities or ()]
            raise

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        table, chosen = method_table(), ctx.meta.get("method")
        own = method_flags()
        for title, options in SECTIONS.items():
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
                formatter.write_dl([r for o in fields if (r := method_flag(o).get_help_record(ctx))])
        else:
            with formatter.section("Methods (`--method=NAME --help` adds a method's own flags)"):
                formatter.write_dl([(name, m["about"]) for name, m in table.items()])


@cache
def method_table() -> dict[str, dict[str, Any]]:
    """Of each method: {about, stages, options: [{name, help, default, type, ...}]}."""
    return describe() if "gantransfer.methods" in sys.modules else kept_description()


def describe() -> dict[str, dict[str, Any]]:
    """The table as the methods' code says, JSON-able. Imports them, which takes seconds."""
    from gantransfer.methods import METHODS

    def fields(m: type[Method]) -> list[dict[str, Any]]:
        return [dict(f.metadata, name=f.name, default=f.default, type=f.metadata["type"].__name__)
                for f in dataclasses.fields(m.Options)]

    def about(m: type[Method]) -> str:
        text = getattr(sys.modules.get(m.__module__), "__doc__", None) or m.__doc__ or ""
        first = " ".join(text.strip().split("\n\n")[0].split())
        return re.split(r"\. (?=[A-Z])", first)[0].rstrip(".")

    return {name: dict(about=about(m), stages=m.stages, options=fields(m)) for name, m in METHODS.items()}


def kept_description() -> dict[str, dict[str, Any]]:
    """`describe` from the user's cache, beside a hash of the source files: made anew when they change."""
    package = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(f"{file.relative_to(package)}\0".encode() + file.read_bytes())
    place = hashlib.sha256(str(package).encode()).hexdigest()[:12]
    path, key = cache_dir("help", f"methods-{place}.json"), digest.hexdigest()
    with contextlib.suppress(UserError, KeyError):
        kept = json_file.read(path)
        if kept["key"] == key:
            return kept["methods"]
    table = describe()
    with contextlib.suppress(OSError), atomic_write(path) as f:
        json.dump({"key": key, "methods": table}, f)
    return table


def method_flag(field: dict[str, Any]) -> Flag:
    """A field of a method's Options as a flag; the default None means: the method decides."""
    kind = option_type(dict(field, type={"int": int, "float": float, "bool": bool, "str": str}[field["type"]]))
    default = "" if field["default"] is None else f" [default: {field['default']}]"
    extra = {"metavar": field["metavar"]} if field["metavar"] else {}
    return Flag(field["name"], field["help"] + default, kind, **extra)


@cache
def method_flags() -> list[Flag]:
    """--method, and every flag of every method once."""
    table = method_table()
    found: dict[str, dict[str, Any]] = {}
    for m in table.values():
        for field in m["options"]:
            known = found.setdefault(field["name"], dict(field, choices=[]))
            known["choices"] += [c for c in field["choices"] or () if c not in known["choices"]]
    name = Flag("method", "Which method [default: stylegan2, or whose flags are given]", MethodName(list(table)),
                metavar="NAME")
    return [name, *map(method_flag, found.values())]


@click.command(cls=Train, params=[o for options in SECTIONS.values() for o in options],
               context_settings={"max_content_width": 110})
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
    kind = dist.resolve_device(flags["device"])
    if flags["graphs"] and kind != "cuda":
        raise UserError("--graphs records CUDA graphs, and this run is on the CPU; omit --graphs")
    if flags["gpus"] > 1 and not dist.launched():
        dist.check_world(flags["gpus"], kind)
        sys.exit(dist.launch(flags["gpus"], kind=kind))
    setup.launch(kind)


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
        from gantransfer.commands import best
        from gantransfer.data.dataset import ImageDataset
        from gantransfer.importers import RESUME_NAMES

        self.folder: run_folder.RunFolder | None = None  # locked, on rank 0
        self.flags, self.given = flags, dict(given, resume_names=tuple(RESUME_NAMES))
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
        resume = best.resolve(flags["resume"])
        self.continues = resume is not None and (resume == "latest" or is_run_folder(resume))
        self._resolve(flags["source"] or (None if self.continues else resume))
        self.run_dir = self._run_to_continue() if self.continues else None
        if self.run_dir and not flags["source"] and (weights := self._weights_of(self.run_dir)):
            self._resolve(weights)  # what a method chooses may depend on whether it starts from weights
        self.metrics = self._metrics()

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

    def _metrics(self) -> list[str]:
        from gantransfer.method import Method
        from gantransfer.metrics import directions, table

        names = table.parse_names(self.run.metrics)
        for key in ("best", "stop_after", "keep"):
            if self.given.get(key) not in (None, "all") and not names and self.method.evaluate is Method.evaluate:
                raise UserError(f"--{key.replace('_', '-')} rates snapshots by a metric; name one with --metrics")
        best = self.flags["best"]
        for better in (self.method.better, *(table.lookup(n).better for n in names)):
            if best and directions.of(better, best) == directions.UNRATED:
                raise UserError(f"--best={best} rates no snapshots: it is not declared whether more or less of it is "
                                f"better; name another value")
        return names

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
        if f["graphs"]:
            options["cuda_graphs"] = True
        for key in ("best", "stop_after"):
            if f[key] is not None:
                options[key] = f[key]
        if f["heldout"] and not spec.heldout:
            options["reference"] = f["heldout"]
        if f["keep"] != "all":
            options["keep"] = f["keep"]
        if run.sampling_shift is not None:
            options["sampling_shift"] = list(run.sampling_shift)
        return dict(options, method=self.method.name, stage=self.stage, kimg_per_tick=run.tick,
                    sampling=run.sampling, sampling_labels=run.sampling_labels or run.sampling,
                    options=self.opts.to_dict())

    # ---- running ----------------------------------------------------------------------------------------------------

    def launch(self, kind: str, dry: bool = False) -> None:
        import torch

        from torch_utils import distributed as dist

        device = dist.init(kind)
        if dist.world_size() != self.run.num_procs and not dry:
            raise UserError(f"--gpus={self.run.num_procs} but {dist.world_size()} processes were started")
        try:
            if device.type == "cpu":
                share = 1 if getattr(self.opts, "cfg", None) == "tiny" else dist.cpu_cores() // dist.world_size()
                torch.set_num_threads(self.flags["threads"] or max(share, 1))
            torch.backends.cudnn.benchmark = not self.flags["nobench"]
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = bool(self.flags["allow_tf32"])
            self.run.device = str(device)
            self.kernels = self._kernels(device)
            self._rehearse(device) if dry else self._run(device)
        finally:
            if self.folder:
                self.folder.release()
            dist.shutdown()

    def _kernels(self, device: Any) -> str:
        """Which operators run, in words. Compiles them if that has not happened on this machine."""
        from torch_utils import build

        try:
            native = build.implementation(device) == "native"
        except build.BuildError as e:
            raise UserError(str(e).splitlines()[0] + "; `gantransfer doctor` tells what is missing") from None
        return "compiled" if native else "PyTorch reference" + (
            "" if build.mode() == "ref" else " (slower; `gantransfer doctor` tells what the compiler lacks)")

    def _rehearse(self, device: Any) -> None:
        """What a run does before its first step, and a few steps for their time; nothing is written."""
        from dnnlib.util import format_time, is_url
        from gantransfer.importers import RESUME_NAMES, load_any
        from gantransfer.method import Start

        self._preflight()
        self.dataset.check_headers()
        start = self.run.resume
        if self.continues or start in RESUME_NAMES or start and is_url(start):
            print(f"Time: not measured, for {start or self.flags['resume']} is read by the run itself")
            return
        weights = Start(None if start in (None, "noresume") else load_any(start))
        self.method.check_source(self.opts, self.dataset.spec, weights.source, self.stage)
        seconds, least = self._pace(weights)
        about, procs = "at least" if least else "about", self.run.num_procs
        where = f" in one process of {procs}" if procs > 1 else ""
        print(f"Time: {about} {seconds:.3g} s per kimg (a few steps{where} were timed), {about} "
              f"{format_time(seconds * self.run.kimg)} for {self.run.kimg:g} kimg; metrics come on top")

    def _pace(self, start: Any) -> tuple[float, bool]:
        import torch

        from gantransfer import training_loop

        torch.manual_seed(seeding.number(self.run.seed))
        trainer = self.method(self.opts, self.dataset.spec, self.run, start, self.stage)
        return training_loop.pace(trainer, self.dataset, self.run)

    def _warn_of_weeks(self, start: Any, device: Any) -> None:
        """A run that takes longer than anybody waits is said before it begins. Timed only where that can be."""
        from dnnlib.util import format_time
        from torch_utils import distributed as dist

        if self.run.kimg < (200 if device.type == "cpu" else 5000):
            return
        seconds, least = self._pace(start)
        if seconds * self.run.kimg > WEEK:
            dist.print0(f"Note:         {self.run.kimg:g} kimg will take {'at least' if least else 'about'} "
                        f"{format_time(seconds * self.run.kimg)} here, at {seconds:.3g} s per kimg; give a shorter "
                        f"--kimg, smaller networks (--cfg=tiny, --cmax) or images"
                        + ("" if device.type == "cuda" else ", or a machine with a GPU"))

    def _run(self, device: Any) -> None:
        import torch

        from gantransfer import training_loop
        from gantransfer.importers import RESUME_NAMES, load_any
        from gantransfer.method import Start
        from gantransfer.snapshot import find_snapshots
        from torch_utils import distributed as dist
        from torch_utils.graphs import CudaGraphs

        self._preflight()
        if dist.is_main():
            self.dataset.check_headers()  # an image of another size shows now, not after hours
        run_dir, state = self._continued() if self.continues else self._restarted()
        start, weights = Start(state=state), self.run.resume
        if state is None:
            start = Start(None if weights in (None, "noresume") else load_any(RESUME_NAMES.get(weights, weights)))
            self.method.check_source(self.opts, self.dataset.spec, start.source, self.stage)
        run_dir = run_dir or self._new_folder()
        logger = None
        try:
            if dist.is_main():
                try:
                    logger = Logger(run_dir / "log.txt")
                except OSError as e:
                    raise UserError(f"--outdir={self.flags['outdir']} cannot be written: {e.strerror}") from None
            self._announce(run_dir, state)
            if state is None:
                self._warn_of_weeks(start, device)
            torch.manual_seed(seeding.number(self.run.seed))
            trainer = self.method(self.opts, self.dataset.spec, self.run, start, self.stage)
            del start  # the weights are copied, and may be large
            out = training_loop.Outputs(run_dir, self.run.snap, evaluate=self._evaluator(run_dir, device),
                                        rate=self._rater(run_dir),
                                        evaluate_at_start=bool(self.flags["eval_at_start"]),
                                        wandb_project=self.flags["wandb_proj"], workers=self.flags["workers"],
                                        folder=self.folder)
            training_loop.run(trainer, self.dataset, self.run, out, state,
                              CudaGraphs(device) if self.flags["graphs"] else None)
            if dist.is_main():
                self._tell(run_dir)
        except (UserError, OSError, Stopped, KeyboardInterrupt):
            if self.folder and not training_loop.find_states(run_dir) and not find_snapshots(run_dir):
                if logger:
                    logger.close()
                self.folder.discard()  # nothing was trained: leave nothing behind of what this run made
            raise
        finally:
            if logger:
                logger.close()

    def _tell(self, run_dir: Path) -> None:
        """What there is now, where, and how good."""
        from gantransfer.commands import best
        from gantransfer.snapshot import find_snapshots, numbered

        print(f"Run folder:   {run_dir}")
        sheets, snapshots = numbered(run_dir, "fakes*.png"), find_snapshots(run_dir)
        if sheets:
            print(f"Sheet:        {sheets[-1]}")
        if snapshots:
            print(f"Snapshot:     {snapshots[-1]}")
            rows = [r for r in best.ratings(run_dir)
                    if r.snapshot == snapshots[-1].name and best.rates(r.metric, r.key)]
            keys = [r.key for r in rows]
            whole = [r for r in rows if not any(r.key.startswith(f"{k}_") for k in keys)]  # no groups of classes
            if whole:
                print("Figures:      " + "   ".join(f"{r.key.removeprefix(f'{r.metric}_')} {r.value:.4g}"
                                                    for r in whole[:3]))

    def _preflight(self) -> None:
        """Anything a metric lacks is said before the first tick, not after the first snapshot."""
        from gantransfer.metrics import table

        table.preflight(self.metrics, self.dataset.spec, detectors=parse_detectors(self.flags["detector"]))
        if self.flags["heldout"]:
            self._reference()

    def _evaluator(self, run_dir: Path, device: Any) -> Any:
        from gantransfer.metrics import directions, table
        from torch_utils import distributed as dist

        detectors, reference = parse_detectors(self.flags["detector"]), None

        def evaluate(method: Method, cur_nimg: int, snapshot: Path) -> dict[str, float]:
            nonlocal reference
            values = method.evaluate(cur_nimg)
            directions.check(method.name, method.better, values)
            if values and dist.is_main():
                result = dict(results=values, metric=method.name, snapshot_pkl=snapshot.name, kimg=cur_nimg / 1000)
                if table.append_jsonl(run_dir, result):
                    print(json.dumps(result))
            if not self.metrics:
                return values
            reference = reference or self._reference()
            ctx = table.MetricContext(sampler=method.sampler(), reference=reference, training=self.dataset,
                                      device=device, seed=self.run.seed, detectors=detectors)
            for name in self.metrics:
                if table.already_done(run_dir, name, snapshot.name):
                    continue
                result = table.compute(name, ctx, snapshot=snapshot.name, kimg=cur_nimg / 1000)
                if dist.is_main():
                    table.append_jsonl(run_dir, result)
                    print(json.dumps({k: result[k] for k in ("metric", "results", "snapshot_pkl")}))
                    for warning in table.warnings_of(result):
                        print(f"Note: {warning}")
                values.update({k: v for k, v in result["results"].items() if isinstance(v, int | float)})
            return values

        return evaluate

    def _reference(self) -> Any:
        """What metrics compare with."""
        from gantransfer.data.dataset import ImageDataset, reference_dataset

        f, spec = self.flags, self.dataset.spec
        if not spec.heldout:
            return reference_dataset(spec, f["heldout"])
        return ImageDataset(f["data"], fname=f["fname"], use_labels=f["cond"], seed=f["seed"], heldout=spec.heldout,
                            part="heldout", label_dim=spec.label.dim if f["cond"] else None)

    def _rater(self, run_dir: Path) -> Any:
        """Early stopping, and what becomes of the snapshots."""
        from gantransfer.commands import best

        metric, patience = self.flags["best"] or (self.metrics[0] if self.metrics else None), self.flags["stop_after"]

        def rate() -> str | None:
            count, top = best.since_best(run_dir, metric)
            if top is None:
                if self.flags["best"] and best.ratings(run_dir):
                    known = dict.fromkeys(r.key for r in best.ratings(run_dir))
                    raise UserError(f"--best={metric} is not measured; there are {', '.join(known)}")
                return None
            if self.flags["keep"] == "best":
                best.keep_best(run_dir, metric)
            if patience is None or count < patience:
                return None
            return (f"{top.key} has not improved for {count} snapshots; the best is {top.snapshot} with "
                    f"{top.value:.4g}; go on with --resume=latest and a larger --stop-after")

        return rate

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

    def _take(self, run_dir: Path, flag: str) -> tuple[Path, Path | None]:
        """Lock a run's folder: (folder, newest state). Without a state the run starts anew in its folder."""
        from gantransfer.training_loop import find_states

        try:
            self.folder = run_folder.hold(run_dir, "it still trains; wait for its end or stop it, then continue")
        except OSError as e:
            raise UserError(f"{flag}: {run_dir} cannot be written: {e.strerror}") from None
        states = find_states(run_dir)
        if states:
            self._check_same(run_dir)
        return run_dir, states[0] if states else None

    def _restarted(self) -> tuple[Path | None, Path | None]:
        """As `_continued`, for a run that this very torchrun job has begun and whose processes it started again: what
        the command says holds for the first start. (None, None) at the first start."""
        from torch_utils import distributed as dist

        choice, job = (None, None), dist.job()
        if job is not None and dist.is_main():
            count, outdir = dist.restarts(), Path(self.flags["outdir"])
            runs = matching_runs(outdir, self.run_name())
            mine = next((r for r in runs if job.same(_job_of(r), count)), None)
            if mine is not None:
                choice = self._take(mine, f"--outdir={outdir}")
                print(f"Restart {count} by torchrun: {mine} goes on" if choice[1] else
                      f"Restart {count} by torchrun: {mine} has no training state yet and starts anew")
            elif count:
                print(f"Restart {count} by torchrun: the processes before had not begun a run in {outdir}; a new one "
                      f"starts")
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

    def _check_same(self, run_dir: Path) -> None:
        """A continued run must be the run it continues."""
        from gantransfer.methods.stylegan2 import SOURCE_SIZES
        from gantransfer.snapshot import class_path

        old = json_file.read(run_dir / "training_options.json", remedy="the run cannot be continued")
        free = {"total_kimg", "metrics", "image_snapshot_ticks", "network_snapshot_ticks", "num_gpus", "run_dir",
                "reader_threads", "cudnn_benchmark", "allow_tf32", "cuda_graphs", "kimg_per_tick", "kernels",
                "runtime", "best", "stop_after", "keep", "reference"}
        free |= {"batch_gpu"}  # what matters is the number of rounds
        free |= {"data_loader_kwargs"}  # of earlier versions, which recorded a loader that they did not have
        new = json.loads(json.dumps(self.resolved()))
        if "resume_pkl" not in old and "G_opt_kwargs" not in old:
            free |= {"resume_pkl"}  # recorded of StyleGANs only
        if "G_kwargs" not in new:
            free |= {"G_kwargs", "D_kwargs"}  # recorded also where sizes are the source's
        for options in (old, new):  # the data may have moved; what it holds may not have changed
            if isinstance(options.get("training_set_kwargs"), dict):
                options["training_set_kwargs"].pop("path", None)
            for part in options.values():
                if isinstance(part, dict) and isinstance(part.get("class_name"), str):
                    part["class_name"] = class_path(part["class_name"])
        for key in [k for k in SOURCE_SIZES if new["options"].get(k, 0) is None]:
            old.get("options", {}).pop(key, None)
            del new["options"][key]
        try:
            before = json_file.read(run_dir / "environment.json")["data_fingerprint"]
        except (UserError, KeyError):
            before = None
        if before is not None and before != self.dataset.fingerprint():
            raise UserError(f"{run_dir} was trained on other data than --data={self.flags['data']} holds now "
                            f"(or with other --fname, --cond, --mirror, --subset, --heldout); continue on the same "
                            f"data")
        try:
            rounds = old["batch_size"] // (old["batch_gpu"] * old["num_gpus"])
        except (KeyError, TypeError, ZeroDivisionError):
            rounds = None
        now = self.run.batch // (self.run.batch_gpu * self.run.num_procs)
        if rounds and old["batch_size"] == self.run.batch and rounds != now:
            each = self.run.batch // (rounds * self.run.num_procs)
            fits = each * rounds * self.run.num_procs == self.run.batch
            raise UserError(
                f"{run_dir} was started with {rounds} round{'s' * (rounds > 1)} of {self.run.batch // rounds} images "
                f"per step, not {now} of {self.run.batch // now}, and what looks across a batch looks at a round; "
                + (f"give --batch-gpu={each} to continue it with --gpus={self.run.num_procs}" if fits else
                   f"continue it with --gpus={old['num_gpus']} --batch-gpu={old['batch_gpu']}"))
        for key in sorted((set(old) | set(new)) - free):
            if old.get(key) != new.get(key):
                a, b = old.get(key), new.get(key)
                if isinstance(a, dict) and isinstance(b, dict):
                    part = next(k for k in sorted({**a, **b}) if a.get(k) != b.get(k))
                    key, a, b = f"{key}.{part}", a.get(part), b.get(part)
                raise UserError(f"{run_dir} was started with {key}={a}, not {b}; give the same flags to continue it")

    def _announce(self, run_dir: Path, state: Path | None) -> None:
        import torch

        from torch_utils import build
        from torch_utils import distributed as dist

        if not dist.is_main():
            return
        options = dict(self.resolved(), run_dir=str(run_dir), kernels=build.record(),
                       runtime=self.method.runtime(self.opts, self.run))
        with atomic_write(run_dir / "training_options.json") as f:
            json.dump(options, f, indent=2)
        if state is None:
            with atomic_write(run_dir / "environment.json") as f:
                json.dump(environment(self.dataset), f, indent=2)
        spec = self.dataset.spec
        label = f"{spec.label.dim} classes" if spec.label.kind == "class" else f"{spec.label.dim} label values"
        print(f"Run folder:   {run_dir}")
        print(f"Method:       {self.method.name}" + (f", stage {self.stage}" if len(self.method.stages) > 1 else ""))
        print(f"Data:         {spec.path}: {spec.num_images} images {spec.resolution}x{spec.resolution}, "
              f"{spec.channels} channels, {label if spec.label.dim else 'no labels used'}"
              + (f", {spec.fname}" if spec.fname else ""))
        n, b = dist.world_size(), self.run.batch_gpu
        print(f"Device:       {self.run.device}, {n} process(es), {torch.get_num_threads()} thread(s) each")
        print(f"Operators:    {self.kernels}" + "".join(f", {k}: {v}" for k, v in options["runtime"].items()))
        print(f"Batch:        {self.run.batch} = {n} process(es) x {self.run.batch // b // n} round(s) x {b} images")
        if not self.flags["cond"] and has_labels(self.flags["data"]):
            print("Note:         the data set has labels; train on them with --cond=True")


def choose_method(flags: dict[str, Any], given: dict[str, Any]) -> type[Method]:
    """The method by --method, or by the flags that only one method owns."""
    from gantransfer.methods import METHODS

    name = flags["method"]
    if name is None:
        implied = {IMPLIES[k] for k in given if k in IMPLIES and given[k] is not False}
        if len(implied) > 1:
            raise UserError(f"the flags belong to different methods ({', '.join(sorted(implied))}); "
                            f"choose one with --method")
        name = implied.pop() if implied else "stylegan2"
    if name not in METHODS:
        raise UserError(f"--method={name} does not exist; there are {', '.join(METHODS)}")
    own = {f.name for f in dataclasses.fields(METHODS[name].Options)}
    for key in given:
        owners = [m for m, c in METHODS.items() if key in {f.name for f in dataclasses.fields(c.Options)}]
        if owners and key not in own and given[key] not in (None, False):
            raise UserError(f"--{key} belongs to method {' and '.join(owners)}, not to {name}")
        choices = own_field(METHODS[name], key)["choices"] if key in own else None
        if choices and given[key] is not None and given[key] not in choices:
            raise UserError(f"--{key}={given[key]} does not exist in method {name}; it has {', '.join(choices)}")
    return METHODS[name]


def parse_detectors(text: str | None) -> dict[str, str]:
    """'FILE' or 'NAME=FILE', comma-separated -> {name: file}; a bare file has the name ''."""
    out = {}
    for part in filter(None, (text or "").split(",")):
        name, _, path = part.rpartition("=")
        out[name.strip()] = path.strip()
    return out


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


def _job_of(run_dir: Path) -> Any:
    """What a run's record says of the torchrun job that began it."""
    try:
        return json_file.read(run_dir / "environment.json").get("job")
    except (UserError, AttributeError):
        return None


def has_labels(path: str) -> bool:
    """Whether the set has usable labels that --cond=False leaves unused."""
    from gantransfer.data.dataset import ImageDataset

    try:
        return ImageDataset(path, use_labels=True).label_dim > 0
    except UserError:
        return False


def environment(dataset: Any) -> dict[str, Any]:
    """What a result depends on beside the options."""
    import platform
    import subprocess

    import numpy
    import torch

    import gantransfer
    from torch_utils import distributed as dist

    try:
        commit = subprocess.run(["git", "-C", os.path.dirname(os.path.abspath(__file__)), "rev-parse", "HEAD"],
                                capture_output=True, text=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        commit = None
    return dict(gantransfer=gantransfer.__version__, commit=commit, torch=torch.__version__, numpy=numpy.__version__,
                python=platform.python_version(), platform=platform.platform(), cuda=torch.version.cuda,
                gpus=[torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
                command=sys.argv, data_fingerprint=dataset.fingerprint(),
                **({"job": dataclasses.asdict(job)} if (job := dist.job()) else {}),
                started=time.strftime("%Y-%m-%dT%H:%M:%S%z"))
