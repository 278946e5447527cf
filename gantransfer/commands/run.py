# SPDX-License-Identifier: Apache-2.0
"""One training in one folder: the runs of `train` and the stages of `distill` alike.

The folder is the run: training_options.json, environment.json, log.txt, snapshots and states. A start that trains
nothing leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy
import torch

import gantransfer
from dnnlib import json_file, seeding, util
from dnnlib.run_folder import LOCK, RunFolder
from dnnlib.util import Logger, UserError, atomic_write, format_time, sha256
from gantransfer import training_loop
from gantransfer.data.dataset import ImageDataset
from gantransfer.method import Method, Options, RunConfig, Start
from gantransfer.methods.stylegan2 import SOURCE_SIZES
from gantransfer.metrics import directions, rating, summary, table
from gantransfer.snapshot import class_path, find_snapshots, numbered
from torch_utils import build, heap, launcher
from torch_utils import distributed as dist
from torch_utils.graphs import CudaGraphs

WEEK = 7 * 86400
# What a run may change when it goes on: the machine, and how snapshots are rated.
FREE = {"num_gpus", "run_dir", "kernels", "runtime", "cuda_graphs", "best", "stop_after", "keep", "flags"}
WRITTEN = {"training_options.json", "environment.json", "log.txt", "stats.jsonl", LOCK}  # before the first step


# ---- processes -------------------------------------------------------------------------------------------------------


def launched(flags: dict[str, Any]) -> str:
    """Start the processes of --gpus where there are to be several (then this one ends with them); the device's kind."""
    kind = dist.resolve_device(flags["device"])
    if flags.get("graphs") and kind != "cuda":
        raise UserError("--graphs records CUDA graphs, and this run is on the CPU; omit --graphs")
    if flags["gpus"] > 1 and not dist.launched():
        sys.exit(dist.launch(flags["gpus"], kind=kind))
    return kind


@contextlib.contextmanager
def processes(kind: str = "auto", threads: int | None = None, share: int | None = None) -> Iterator[torch.device]:
    """Join the job's processes for the duration; the device of this one. On the CPU each has `threads` threads, or
    else `share`, or what OMP_NUM_THREADS says, or its part of the cores."""
    device = dist.init(kind)
    before = torch.get_num_threads()
    try:
        if device.type == "cpu":
            # torchrun sets OMP_NUM_THREADS to 1 for its processes, asked or not.
            heap.keep_freed()
            said = before if os.environ.get("OMP_NUM_THREADS") and not dist.launched() else None
            torch.set_num_threads(threads or share or said or max(dist.cpu_cores() // dist.world_size(), 1))
        yield device
    finally:
        torch.set_num_threads(before)
        dist.shutdown()


def newest_snapshot(missing: str, runs: str = "runs") -> str:
    """The last snapshot of the newest run of `runs`, said in a line; UserError `missing` where there is none."""
    folders = [p for p in Path(runs).glob("[0-9]*-*") if p.is_dir()] if Path(runs).is_dir() else []
    for folder in sorted(folders, key=lambda p: int(re.match("[0-9]+", p.name)[0]), reverse=True):
        if found := find_snapshots(folder):
            if launcher.speaks():
                print(f"No --network: taking the newest of {runs}/, {found[-1]}")
            return str(found[-1])
    raise UserError(missing)


# ---- the run ---------------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """What is trained, on what, and how it is measured. Options and configuration are resolved."""

    method: type[Method]
    opts: Options
    config: RunConfig
    dataset: ImageDataset
    stage: str
    options: dict[str, Any]  # training_options.json, but for what this machine decides
    metrics: Sequence[str] = ()
    detectors: dict[str, str] = field(default_factory=dict)
    reference: Callable[[], ImageDataset] | None = None  # what metrics compare with
    best: str | None = None  # what rates the snapshots
    stop_after: int | None = None
    keep: str = "all"
    graphs: bool = False
    further: str = "go on with --resume=latest and a larger --stop-after"  # where --stop-after ended it
    outdir: str = ""  # what --outdir says
    outputs: dict[str, Any] = field(default_factory=dict)  # further arguments of training_loop.Outputs
    flags: dict[str, Any] = field(default_factory=dict)  # what it was started with, for --config to repeat it
    torchrun: dist.Job | None = None  # the job that it belongs to
    enough: bool = False  # --stop-after ended it

    def preflight(self) -> None:
        """Anything a metric lacks is said before the first tick, not after the first snapshot."""
        table.preflight(self.metrics, self.dataset.spec, detectors=self.detectors)

    def trainer(self, start: Start) -> Method:
        torch.manual_seed(seeding.number(self.config.seed))
        return self.method(self.opts, self.dataset.spec, self.config, start, self.stage)

    def pace(self, start: Start) -> str:
        """Seconds per kimg from a few steps, and the whole length, in words; nothing is written."""
        if not dist.launched():
            try:
                dist.check_world(self.config.num_procs, torch.device(self.config.device).type)
            except UserError as e:
                return f"Time: unknown here; {e}"
        seconds, about = self._pace(start)
        procs, kimg = self.config.num_procs, self.config.kimg
        where = f" of one process of {procs}" if procs > 1 else ""
        return (f"Time: {about} {seconds:.3g} s per kimg (a few steps{where} were timed), {about} "
                f"{format_time(seconds * kimg)} for {kimg:g} kimg; metrics come on top")

    def _pace(self, start: Start) -> tuple[float, str]:
        seconds, least = training_loop.pace(self.trainer(start), self.dataset, self.config)
        return seconds, "at least" if least else "about"

    def warn_of_length(self, start: Start, device: torch.device) -> None:
        """A run that takes longer than anybody waits is said before it begins; and what a preset that is made for GPUs
        costs on a CPU. Timed only where that can be."""
        presets = self._presets_for_cpu() if device.type == "cpu" else []
        if self.config.kimg < (200 if device.type == "cpu" else 5000) and not presets:
            return
        seconds, about = self._pace(start)
        weeks = seconds * self.config.kimg > WEEK
        if weeks or presets:
            remedies = [f"--cfg={' or '.join(presets)}"] if presets else []
            if weeks:
                width = next((f" (--{k})" for k in ("cmax", "g_ch", "ch", "arch") if hasattr(self.opts, k)), "")
                remedies += ["a shorter --kimg", f"smaller networks{width} or images"]
                remedies += [] if device.type == "cuda" else ["a machine with a GPU"]
            dist.print0(f"Note:         {self.config.kimg:g} kimg will take {about} "
                        f"{format_time(seconds * self.config.kimg)} here, at {seconds:.3g} s per kimg; give "
                        + ", ".join(remedies[:-1]) + (" or " if remedies[1:] else "") + remedies[-1])

    def _presets_for_cpu(self) -> list[str]:
        """Presets to propose instead of `auto`."""
        if getattr(self.opts, "cfg", None) != "auto":
            return []
        choices = next(f for f in fields(self.opts) if f.name == "cfg").metadata["choices"]
        return [c for c in ("small", "tiny") if c in choices]

    def train(self, run_dir: Path, folder: RunFolder | None, start: Start, device: torch.device,
              operators: str = "") -> int:
        """Train in `run_dir`, which `folder` holds on the first process, within `tidy`; images shown.

        `operators`: which compiled operators run, in words; "" where the networks use none.
        """
        logger, fresh = None, not start.continues
        try:
            if dist.is_main():
                try:
                    logger = Logger(run_dir / "log.txt")
                except OSError as e:
                    raise UserError(f"--outdir={self.outdir} cannot be written: {e.strerror}") from None
                runtime = self._record(run_dir, fresh, bool(operators))
                self._announce(run_dir, operators and operators + "".join(f", {k}: {v}" for k, v in runtime.items()))
            if fresh:
                self.warn_of_length(start, device)
            state, trainer = start.state, self.trainer(start)
            del start  # the weights are copied, and may be large
            out = training_loop.Outputs(run_dir, self.config.snap, evaluate=self._evaluator(run_dir, device),
                                        rate=self._rater(run_dir), folder=folder, **self.outputs)
            shown = training_loop.run(trainer, self.dataset, self.config, out, state,
                                      CudaGraphs(device) if self.graphs else None)
            self.enough = dist.broadcast_object(self.enough)
            return shown
        finally:
            if logger:
                logger.close()

    def _record(self, run_dir: Path, fresh: bool, compiled: bool) -> dict[str, Any]:
        """training_options.json, and of a new run environment.json; what the machine decides. `compiled`: networks use
        compiled operators (to ask which compiles them)."""
        runtime = self.method.runtime(self.opts, self.config)
        options = dict(self.options, num_gpus=self.config.num_procs, run_dir=str(run_dir), runtime=runtime,
                       flags=self.flags, **({"kernels": build.record()} if compiled else {}))
        with atomic_write(run_dir / "training_options.json") as f:
            json.dump(options, f, indent=2)
        if fresh:
            with atomic_write(run_dir / "environment.json") as f:
                json.dump(environment(self.dataset, self.config.resume, self.torchrun), f, indent=2)
        return runtime

    def _announce(self, run_dir: Path, operators: str) -> None:
        spec, config = self.dataset.spec, self.config
        label = f"{spec.label.dim} classes" if spec.label.kind == "class" else (
            f"labels of {spec.label.dim} value{'s' * (spec.label.dim != 1)}")
        n, b = dist.world_size(), config.batch_gpu
        print(f"Run folder:   {run_dir}")
        print(f"Method:       {self.method.name}" + (f", stage {self.stage}" if len(self.method.stages) > 1 else ""))
        print(f"Data:         {spec.path}: {spec.num_images} images {spec.size}, "
              f"{spec.channels} channel{'s' * (spec.channels > 1)}, {label if spec.label.dim else 'no labels used'}"
              + (f", {spec.fname}" if spec.fname else ""))
        print(f"Device:       {config.device}, {n} process(es), {torch.get_num_threads()} thread(s) each")
        if operators:
            print(f"Operators:    {operators}")
        print(f"Batch:        {config.batch} = {n} process(es) x {config.batch // b // n} round(s) x {b} images")
        for note in config.notes:
            print(f"Note:         {note}")

    def _evaluator(self, run_dir: Path, device: torch.device) -> Callable:
        """Measures the method's own values and the metrics of each snapshot: into the run folder in full, and as one
        line for people."""
        reference, said = None, set()

        def measure(method: Method, cur_nimg: int, snapshot: Path) -> Iterator[dict[str, Any]]:
            """Result lines, which are in the run folder when they come; of metrics only those that were not."""
            nonlocal reference
            values = method.evaluate(cur_nimg)
            directions.check(method.name, method.better, values)
            if values:
                result = dict(results=values, metric=method.name, snapshot_pkl=snapshot.name, kimg=cur_nimg / 1000)
                if dist.is_main():
                    table.append_jsonl(run_dir, result)
                yield result
            if not self.metrics:
                return
            reference = reference or self.reference()
            ctx = table.MetricContext(sampler=method.sampler(), reference=reference, training=self.dataset,
                                      device=device, seed=self.config.seed, detectors=self.detectors,
                                      said=said)
            for name in self.metrics:
                if not table.already_done(run_dir, name, snapshot.name):
                    result = table.compute(name, ctx, snapshot=snapshot.name, kimg=cur_nimg / 1000)
                    if dist.is_main():
                        table.append_jsonl(run_dir, result)
                    yield result

        def evaluate(method: Method, cur_nimg: int, snapshot: Path) -> dict[str, float]:
            results = []
            try:
                for result in measure(method, cur_nimg, snapshot):
                    results.append(result)
            finally:  # what a signal has interrupted is measured again, but for what is in the folder by now
                if results and dist.is_main():
                    print(f"metrics    kimg {cur_nimg / 1000:<8.1f} {summary.line(results)}", flush=True)
                    for warning in (w for r in results for w in table.warnings_of(r)):
                        if warning not in said:
                            said.add(warning)
                            print(f"Note: {warning}", flush=True)
            return {k: v for r in results for k, v in r["results"].items() if isinstance(v, int | float)}

        return evaluate

    def _rater(self, run_dir: Path) -> Callable:
        """Early stopping, and what becomes of the snapshots."""
        metric = self.best or (self.metrics[0] if self.metrics else None)

        def rate() -> str | None:
            count, top = rating.since_best(run_dir, metric)
            if top is None:
                if self.best and (rows := rating.ratings(run_dir)):
                    known = dict.fromkeys(r.key for r in rows)
                    raise UserError(f"--best={metric} is not measured; there are {', '.join(known)}")
                return None
            if self.keep == "best":
                rating.keep_best(run_dir, metric)
            if self.stop_after is None or count < self.stop_after:
                return None
            self.enough = True
            return (f"{top.key} has not improved for {count} snapshots; the best is {top.snapshot} with "
                    f"{top.value:.4g}; {self.further}")

        return rate


@contextlib.contextmanager
def tidy(run_dir: Path, folder: RunFolder | None, before: set[str]) -> Iterator[None]:
    """Where a start fails before anything is trained, what it wrote goes: the folder if it was made, else what was not
    there `before`. The folder is free afterwards."""
    try:
        yield
    except (UserError, OSError, util.Stopped, KeyboardInterrupt):
        if folder is not None and not training_loop.find_states(run_dir) and not find_snapshots(run_dir):
            for name in WRITTEN - before:
                (run_dir / name).unlink(missing_ok=True)
            folder.discard()
        raise
    finally:
        if folder is not None:
            folder.release()


def chosen(flags: dict[str, Any]) -> dict[str, Any]:
    """What training_options.json says of --best, --stop-after, --keep and --graphs: nothing where they say nothing."""
    found = {"best": flags["best"], "stop_after": flags["stop_after"], "cuda_graphs": flags["graphs"] or None,
             "keep": None if flags["keep"] == "all" else flags["keep"]}
    return {k: v for k, v in found.items() if v is not None}


def tell(run_dir: Path) -> None:
    """What there is now, where, and how good."""
    print(f"Run folder:   {run_dir}")
    sheets, snapshots = numbered(run_dir, "fakes*.png"), find_snapshots(run_dir)
    if sheets:
        print(f"Sheet:        {sheets[-1]}")
    if snapshots:
        print(f"Snapshot:     {snapshots[-1]}")
        results: dict[str, dict[str, float]] = {}
        for r in rating.ratings(run_dir):
            if r.snapshot == snapshots[-1].name:
                results.setdefault(r.metric, {})[r.key] = r.value
        if results:
            print(f"Figures:      {summary.line([dict(metric=m, results=v) for m, v in results.items()])}")


def check_rating(flags: dict[str, Any], method: type[Method], metrics: Sequence[str]) -> None:
    """UserError where --best, --stop-after or --keep ask for a rating that there is not."""
    for key in ("best", "stop_after", "keep"):
        if flags[key] not in (None, "all") and not metrics and method.evaluate is Method.evaluate:
            raise UserError(f"--{key.replace('_', '-')} rates snapshots by a metric; name one with --metrics")
    if (best := flags["best"]) is None:
        return
    own = {method.name: method.better} if method.better else {}
    declared = own | {n: table.lookup(n).better for n in metrics}
    found = [directions.of(better, best) for better in declared.values()]
    if directions.UNRATED in found:
        raise UserError(f"--best={best} rates no snapshots: it is not declared whether more or less of it is "
                        f"better; name another value")
    if best not in declared and not any(found):
        values = [v.partition("(")[0] for b in declared.values() for v, d in b.items() if d != directions.UNRATED]
        known = dict.fromkeys([*(v for v in values if re.fullmatch(r"\w+", v)), *declared])
        raise UserError(f"--best={best} is not measured; there are {', '.join(known)}")


def differing(old: dict[str, Any], new: dict[str, Any], free: set[str]) -> str | None:
    """'key=before, not now' of the first setting that is not the same, but for those that are `free` to change."""
    for key in sorted((set(old) | set(new)) - free):
        if old.get(key) != new.get(key):
            a, b = old.get(key), new.get(key)
            if isinstance(a, dict) and isinstance(b, dict):
                part = next(k for k in sorted({**a, **b}) if a.get(k) != b.get(k))
                key, a, b = f"{key}.{part}", a.get(part), b.get(part)
            short = [f"{v:g}" if isinstance(v, float) else v for v in (a, b)]
            return "{}={}, not {}".format(key, *(short if short[0] != short[1] else (a, b)))
    return None


def check_continues(run: Run, run_dir: Path, data: str) -> None:
    """UserError where a run of `train` is not the one that `run_dir` holds; `data` is what --data says."""
    old = json_file.read(run_dir / "training_options.json", remedy="the run cannot be continued")
    new, config = json.loads(json.dumps(run.options)), run.config
    free = FREE | {"total_kimg", "metrics", "image_snapshot_ticks", "network_snapshot_ticks", "reader_threads",
                   "cudnn_benchmark", "allow_tf32", "kimg_per_tick", "reference"}
    free |= {"batch_gpu"}  # what matters is the number of rounds
    free |= {"data_loader_kwargs"}  # of earlier versions, which recorded a loader that they did not have
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
        began = json_file.read(run_dir / "environment.json")
    except UserError:
        began = {}
    if (weights := content_of(config.resume)) and weights == began.get("weights"):
        free |= {"resume_pkl"}  # they may have moved, as the data may
    before = began.get("data_fingerprint")
    if before is not None and before != run.dataset.fingerprint():
        raise UserError(f"{run_dir} was trained on other data than --data={data} holds now (or with other --fname, "
                        f"--cond, --mirror, --subset, --heldout); continue on the same data")
    try:
        rounds = old["batch_size"] // (old["batch_gpu"] * old["num_gpus"])
    except (KeyError, TypeError, ZeroDivisionError):
        rounds = None
    now = config.batch // (config.batch_gpu * config.num_procs)
    if rounds and old["batch_size"] == config.batch and rounds != now:
        each = config.batch // (rounds * config.num_procs)
        fits = each * rounds * config.num_procs == config.batch
        raise UserError(
            f"{run_dir} was started with {rounds} round{'s' * (rounds > 1)} of {config.batch // rounds} images "
            f"per step, not {now} of {config.batch // now}, and what looks across a batch looks at a round; "
            + (f"give --batch-gpu={each} to continue it with --gpus={config.num_procs}" if fits else
               f"continue it with --gpus={old['num_gpus']} --batch-gpu={old['batch_gpu']}"))
    if other := differing(old, new, free):
        raise UserError(f"{run_dir} was started with {other}; give the same flags to continue it")


def job_of(run_dir: Path) -> Any:
    """What a run's record says of the torchrun job that began it."""
    try:
        return json_file.read(run_dir / "environment.json").get("job")
    except (UserError, AttributeError):
        return None


def record_job(run_dir: Path, job: dist.Job) -> None:
    """Add to a run's record the agents that have joined its job since: those that began it may all be gone one day."""
    began = json_file.read(run_dir / "environment.json")
    known = job_of(run_dir) if job.same(job_of(run_dir)) else {}
    agents = sorted({*job.agents, *known.get("agents", ())})
    began["job"] = dataclasses.asdict(dataclasses.replace(job, agents=agents))
    with atomic_write(run_dir / "environment.json") as f:
        json.dump(began, f, indent=2)


def content_of(weights: str | None) -> str | None:
    """SHA-256 of the file that a run begins with; None for none, and for what is no file here."""
    return sha256(weights) if weights and os.path.isfile(weights) else None


def commit_of(file: str) -> str | None:
    """The commit that is checked out of the repository which `file` belongs to; None for a file that is installed, also
    where that is inside a repository of the user's own."""
    try:
        known, head = (subprocess.run(["git", "-C", os.path.dirname(file), *words], capture_output=True, text=True,
                                      timeout=10).stdout.strip()
                       for words in (("ls-files", os.path.basename(file)), ("rev-parse", "HEAD")))
    except (OSError, subprocess.SubprocessError):
        return None
    return head if known and head else None


def environment(dataset: ImageDataset, weights: str | None, job: dist.Job | None = None) -> dict[str, Any]:
    """What a result depends on beside the options."""
    return dict(gantransfer=gantransfer.__version__, commit=commit_of(os.path.abspath(__file__)),
                torch=torch.__version__, numpy=numpy.__version__,
                python=platform.python_version(), platform=platform.platform(), cuda=torch.version.cuda,
                gpus=[torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
                command=sys.argv, data_fingerprint=dataset.fingerprint(),
                **({"weights": content} if (content := content_of(weights)) else {}),
                **({"job": dataclasses.asdict(job)} if job else {}),
                started=time.strftime("%Y-%m-%dT%H:%M:%S%z"))
