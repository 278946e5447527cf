# SPDX-License-Identifier: Apache-2.0
"""One training stage in one folder: started, continued, or found finished, by calling it again.

For methods that `train.py` does not offer because they make no images. The folder is the run: training_options.json,
log.txt, snapshots and states as of any run, and at the end `<stage>.pkl` and results.json.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from dnnlib import json_file, seeding, util
from dnnlib.run_folder import LOCK, RunFolder, hold
from dnnlib.util import Logger, UserError, atomic_write
from gantransfer import training_loop
from gantransfer.data.dataset import ImageDataset
from gantransfer.method import Method, Options, RunConfig, Start
from gantransfer.metrics import directions, table
from gantransfer.snapshot import Snapshot, find_snapshots
from torch_utils import distributed as dist


@contextlib.contextmanager
def processes(kind: str = "auto", threads: int | None = None) -> Iterator[torch.device]:
    """Join the job's processes for the duration; the device of this one."""
    device = dist.init(kind)
    before = torch.get_num_threads()
    try:
        if device.type == "cpu" and threads:
            torch.set_num_threads(threads)
        yield device
    finally:
        torch.set_num_threads(before)
        dist.shutdown()


def newest_snapshot(missing: str, runs: str = "runs") -> str:
    """The last snapshot of the newest run of `runs`, said in a line; UserError `missing` where there is none."""
    folders = [p for p in Path(runs).glob("[0-9]*-*") if p.is_dir()] if Path(runs).is_dir() else []
    for folder in sorted(folders, key=lambda p: int(re.match("[0-9]+", p.name)[0]), reverse=True):
        if found := find_snapshots(folder):
            if not dist.launched():
                print(f"No --network: taking the newest of {runs}/, {found[-1]}")
            return str(found[-1])
    raise UserError(missing)


def result_path(outdir: Path, stage: str) -> Path:
    return Path(outdir) / f"{stage}.pkl"


def settings(method: type[Method], opts: Options, run: RunConfig, dataset: ImageDataset, stage: str) -> dict[str, Any]:
    """What decides the result: a continued stage must have the same. Files are named by their content, not place."""
    config = method.config(opts, run, dataset.spec)
    options = dict(config.pop("options"))
    contents = {k: util.sha256(v) for k, v in options.items()
                if k in ("teacher", "fakes", "network", "test", "extractor") and v and os.path.isfile(v)}
    options.update({k: f"sha256:{v[:16]}" for k, v in contents.items()})
    return json.loads(json.dumps(dict(
        method=method.name, stage=stage, **config, options=options, batch_size=run.batch, batch_gpu=run.batch_gpu,
        total_kimg=run.kimg, kimg_per_tick=run.tick, network_snapshot_ticks=run.snap, random_seed=run.seed,
        sampling=run.sampling, resume=run.resume, data=dataset.fingerprint(), num_images=dataset.spec.num_images)))


def run_stage(method: type[Method], opts: Options, dataset: ImageDataset, run: RunConfig, stage: str, outdir: Path,
              device: torch.device, source: Snapshot | None = None) -> Path:
    """Train `stage` of `method` (options and `run` are resolved) in `outdir`; the snapshot `<stage>.pkl` there.

    Raises UserError when the folder holds a stage with other settings, or another process trains in it; a failed
    start leaves nothing behind.
    """
    outdir, wanted = Path(outdir), settings(method, opts, run, dataset, stage)
    folder, before = None, set()
    if dist.is_main():
        try:
            before = {p.name for p in outdir.iterdir()} if outdir.is_dir() else set()
            folder = hold(outdir)
        except OSError as e:
            raise UserError(f"--outdir={outdir} cannot be written: {e.strerror}") from None
    try:
        return _run_stage(method, opts, dataset, run, stage, outdir, device, source, wanted, folder)
    except (UserError, OSError, util.Stopped, KeyboardInterrupt):
        if folder is not None and not training_loop.find_states(outdir) and not find_snapshots(outdir):
            _remove(outdir, before)
            folder.discard()
        raise
    finally:
        if folder is not None:
            folder.release()


def _run_stage(method: type[Method], opts: Options, dataset: ImageDataset, run: RunConfig, stage: str, outdir: Path,
               device: torch.device, source: Snapshot | None, wanted: dict[str, Any], folder: RunFolder | None) -> Path:
    final = result_path(outdir, stage)
    run.device = str(device)
    before = None
    if (outdir / "training_options.json").exists():
        before = json_file.read(outdir / "training_options.json", remedy="choose another --outdir")
        free = {"num_gpus", "run_dir"}
        for key in sorted((set(before) | set(wanted)) - free):
            if before.get(key) != wanted.get(key):
                a, b = before.get(key), wanted.get(key)
                if isinstance(a, dict) and isinstance(b, dict):
                    part = next(k for k in sorted({**a, **b}) if a.get(k) != b.get(k))
                    key, a, b = f"{key}.{part}", a.get(part), b.get(part)
                raise UserError(f"{outdir} holds a stage with {key}={a}, not {b}; give the same flags to continue it, "
                                f"or another --outdir")
        if final.exists():
            dist.print0(f"{stage}: finished before, {final}")
            return final
    elif dist.is_main() and outdir.is_dir() and any(outdir.iterdir()) and any(
            outdir.glob("network-snapshot-*.pkl")):
        raise UserError(f"{outdir} holds another run; choose another --outdir")
    states = training_loop.find_states(outdir) if before is not None else []
    dist.barrier()
    if dist.is_main():
        try:
            with atomic_write(outdir / "training_options.json") as f:
                json.dump(dict(wanted, num_gpus=run.num_procs, run_dir=str(outdir)), f, indent=2)
        except OSError as e:
            raise UserError(f"--outdir={outdir} cannot be written: {e.strerror}") from None
    logger = Logger(outdir / "log.txt") if dist.is_main() else None
    try:
        torch.manual_seed(seeding.number(run.seed))
        trainer = method(opts, dataset.spec, run, Start(source, states[0] if states else None), stage)
        spec = dataset.spec
        dist.print0(f"Stage {stage}: {spec.path}, {spec.num_images} images {spec.resolution}x{spec.resolution}; "
                    f"{run.kimg:g} kimg in batches of {run.batch}; {outdir}")

        def evaluate(m: Method, cur_nimg: int, snap: Path) -> dict[str, float]:
            values = m.evaluate(cur_nimg)
            directions.check(m.name, m.better, values)
            if values and dist.is_main():
                result = dict(results=values, metric=m.name, snapshot_pkl=snap.name, kimg=cur_nimg / 1000)
                if table.append_jsonl(outdir, result):
                    print(json.dumps(result))
            return values

        out = training_loop.Outputs(outdir, run.snap, False, keep_states=1, evaluate=evaluate, folder=folder,
                                    again="run the command again to continue")
        done = training_loop.run(trainer, dataset, run, out, states[0] if states else None)
        if done < run.kimg * 1000:
            raise UserError(f"{stage} was stopped at {done / 1000:g} of {run.kimg:g} kimg; run the command again to "
                            "continue")
        if dist.is_main():
            with util.atomic_path(final) as tmp:
                shutil.copyfile(find_snapshots(outdir)[-1], tmp)
            write_results(outdir, method.name, run)
    finally:
        if logger is not None:
            logger.close()
    dist.barrier()
    return final


def _remove(outdir: Path, before: set[str]) -> None:
    """What a stage that never began has written; never what was there before it."""
    for name in {"training_options.json", "log.txt", "stats.jsonl", LOCK} - before:
        (outdir / name).unlink(missing_ok=True)


def write_results(outdir: Path, name: str, run: RunConfig) -> dict[str, Any]:
    """results.json: figures at every snapshot, the last ones, budget and time."""
    path = outdir / f"metric-{name}.jsonl"
    lines = json_file.lines(path)
    lines.sort(key=lambda r: r["kimg"])
    last = json_file.lines(outdir / "stats.jsonl")[-1]
    options = json_file.read(outdir / "training_options.json")
    result = dict(
        last=lines[-1]["results"] if lines else {}, history=[dict(kimg=r["kimg"], **r["results"]) for r in lines],
        images_seen=int(round(run.kimg * 1000)), seconds=last["Timing/total_sec"]["mean"], seed=run.seed,
        options=options["options"], parameters=options.get("parameters"), num_images=options["num_images"],
        data=options["data"], stage=options["stage"])
    with atomic_write(outdir / "results.json") as f:
        json.dump(result, f, indent=1)
    return result
