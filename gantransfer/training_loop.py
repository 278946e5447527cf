# SPDX-License-Identifier: Apache-2.0
"""The training loop: runs the phases of a method, and keeps score, snapshots and the state to resume from.

It knows the contract in method.py and nothing of networks or losses. Everything is counted in images (`cur_nimg`).
All randomness of a step is a function of (seed, cur_nimg, phase, repetition): a resumed run repeats the uninterrupted
one. It is drawn for the whole batch, of which each micro-batch takes its rows, so that the same batch over more rounds
or processes has the same images, latents and labels. A step has `rounds`, in each of which every process works on one
micro-batch; what looks across a batch sees all images of the round.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import dnnlib.util as util
from dnnlib import json_file, signals
from dnnlib.run_folder import RunFolder, hold
from dnnlib.util import UserError, atomic_path
from gantransfer import training_state
from gantransfer.data.dataset import BatchSource, ImageDataset
from gantransfer.method import Batch, Method, Phase, Reals, RunConfig
from gantransfer.phase_graph import PhaseGraph
from gantransfer.pictures.grids import save_grid, zoom_to
from gantransfer.sampler import LabelSource
from gantransfer.snapshot import find_snapshots, numbered, plain, written_after
from torch_utils import distributed as dist
from torch_utils import random as rnd
from torch_utils import stats, whole_batch
from torch_utils.graphs import CudaGraphs
from torch_utils.pixels import from_uint8

# Beyond these training has diverged, though its numbers are finite. Trainings that go well stay a hundred times below:
# losses (means over a tick) below about 1e3; weights below 2e3, the size of those that are stored a hundred times too
# large for a lower learning rate; variances and other buffers below about 1e4.
MAX_LOSS, MAX_WEIGHT, MAX_BUFFER = 1e6, 1e5, 1e12
SILENCE = 20  # seconds after which a line comes between ticks
# (method, cur_nimg, snapshot file) -> new values by name; called on every process
Evaluate = Callable[[Method, int, Path], dict[str, float]]


class Diverged(UserError):
    """Training produced numbers that are not finite, or beyond all use, and cannot go on."""


class _StopNow(BaseException):
    """A signal came while metrics were computed, whose training state is written already."""


@dataclass
class Outputs:
    """What the loop writes, and how often. Times are in ticks."""

    run_dir: Path
    network_ticks: int | None = 50  # a snapshot, with a sheet of images, every so many; None = at the end only
    images: bool = True  # whether there are sheets
    keep_states: int = 2  # training states kept; snapshots are all kept
    evaluate: Evaluate | None = None
    rate: Callable[[], str | None] | None = None  # after each evaluation, on one process: why to stop, or None
    evaluate_at_start: bool = False  # an untrained network's metrics are costly and say nothing
    wandb_project: str | None = None
    workers: int = 3  # image-reading threads
    folder: RunFolder | None = None  # the lock of run_dir, on rank 0; None: the loop takes it
    again: str = "continue with --resume=latest"  # what to do after a stop


def run(method: Method, dataset: ImageDataset, run: RunConfig, out: Outputs, state_path: Path | None = None,
        graphs: CudaGraphs | None = None) -> int:
    """Train until `run.kimg`. Continues from `state_path` if given. Returns the number of images shown.

    `graphs` records and replays the phases that allow it; UserError if none does.

    A signal (SIGTERM, SIGUSR1, SIGINT, SIGHUP) stops it early and cleanly, with the training state of the step in which
    it came. After the first two it returns, or, under torchrun, raises Stopped; other signals are then handed on to the
    handler that was there before. A second Ctrl-C is handed on at once. Raises Diverged when training cannot go on,
    UserError when another process trains in the folder, or when the folder was moved or removed.
    """
    own = hold(out.run_dir) if out.folder is None and dist.is_main() else None
    folder, terminate = own or out.folder, _Terminate()
    try:
        loop = _Loop(method, dataset, run, out, graphs, folder)
        try:
            if state_path is not None:
                loop.load_state(state_path)
            with terminate:
                shown = loop.train(terminate)
        except OSError:
            if folder is not None:
                folder.check()  # a lost folder shows in many ways
            raise
        finally:
            loop.close()
    finally:
        if own is not None:
            own.release()
    terminate.hand_on()
    return shown


class _Enough(Exception):
    """The time for a measurement is used up."""


def pace(method: Method, dataset: ImageDataset, run: RunConfig, budget: float = 5.0) -> tuple[float, bool]:
    """(seconds per kimg here, whether it is only a lower bound), by a step or two of all phases that run at the start.

    Each phase is weighed by how often it runs. Stops within `budget` seconds and a micro-batch. Nothing is written,
    but the networks of `method` have learned afterwards: take it for nothing else.
    """
    loop, begin, alone = _Loop(method, dataset, run, Outputs(Path(), workers=1), None, None), time.time(), (
        dist.world_size() == 1)
    seconds, stepper = 0.0, loop.stepper
    # A rehearsal is one process of several: it has one's share of the micro-batches.
    stepper.micro = stepper.micro[: len(stepper.micro) * dist.world_size() // run.num_procs]

    def fetch(rep: int, m: int) -> tuple[torch.Tensor, torch.Tensor]:
        if alone and time.time() - begin > budget:
            raise _Enough
        return loop.loader(m * run.batch_gpu, run.batch_gpu)

    try:
        for _ in range(2):  # the first one also pays for what is done once
            stepper.step(0, loop.cur_nimg, fetch, loop.labels.draw)
            seconds = sum(ms / 1000 / p.every for ms, p in zip(stepper.timer.collect(), stepper.phases))
            after = time.time()
            method.end_step(loop.cur_nimg, run.batch)
            seconds += time.time() - after
            loop.cur_nimg += run.batch
            if alone and time.time() - begin > budget / 2:
                break
    except _Enough:
        if not seconds:
            return (time.time() - begin) / run.batch * 1000, True
    finally:
        loop.close()
    return seconds / run.batch * 1000, False


class FlatGradients:
    """Gradients of one set of parameters as views of one vector: zeroed, reduced and checked in one operation each.

    A parameter that a phase's loss does not reach therefore has a zero gradient, never none: Adam's moments decay for
    it as in the published training.
    """

    def __init__(self, params: list[torch.nn.Parameter]):
        self.params = params
        self.flat = torch.zeros(sum(p.numel() for p in params), device=params[0].device)
        self.on_cpu = self.flat.device.type == "cpu"  # where reading a value makes nobody wait
        self.views, at = [], 0
        for p in params:
            view = self.flat[at : at + p.numel()].view_as(p)
            if p.ndim == 4 and p.is_contiguous(memory_format=torch.channels_last):
                # In the parameter's own layout: fused Adam pairs the two by address, not by index.
                view = self.flat.as_strided(p.shape, p.stride(), at)
            self.views.append(view)
            at += p.numel()

    def attach(self) -> None:
        self.flat.zero_()
        for p, view in zip(self.params, self.views):
            p.requires_grad_(True)
            p.grad = view

    def detach(self) -> None:
        for p in self.params:
            p.requires_grad_(False)
            p.grad = None

    def finish(self) -> torch.Tensor:
        """Sum over processes; replace NaN by 0 and infinities by +-1e5. Returns how many were not finite (0-dim)."""
        dist.all_reduce_sum(self.flat)
        if self.on_cpu and math.isfinite(self.flat.sum()):  # then each is; a sum that overflows proves nothing
            return self.flat.new_zeros([])
        # v - v is 0 or NaN: counted so it takes a fifteenth of what isfinite does.
        bad = torch.nan_to_num_(self.flat - self.flat, nan=1.0).sum()
        torch.nan_to_num_(self.flat, nan=0.0, posinf=1e5, neginf=-1e5)
        return bad


class Stepper:
    """Runs one training step: every phase that is due, on this process's share of the micro-batches."""

    def __init__(self, method: Method, run: RunConfig, graphs: CudaGraphs | None = None):
        self.method, self.run = method, run
        self.phases: list[Phase] = method.phases()
        for net in method.nets.values():
            net.requires_grad_(False)
            whole_batch.share(net)
        buffers: dict[tuple, FlatGradients] = {}
        self.grads = [buffers.setdefault(tuple(map(id, p.params)), FlatGradients(p.params)) for p in self.phases]
        self.repeat = max(1 if p.reuse else p.repeat for p in self.phases)
        self.shares = run.batch // run.batch_gpu
        rounds = self.shares // dist.world_size()
        # Number m of a round r in process k is r + rounds * k, and has the rows m, m + shares, ... of the batch: all
        # processes together have every rounds-th row, as one process with so many rounds.
        self.micro = range(rounds * dist.rank(), rounds * (dist.rank() + 1))
        self.timer = _Timer(method.device, len(self.phases))
        self.eager = {p.name: f"{method.name} is not prepared" if p.graph is None else ", ".join(p.graph.obstacles)
                      for p in self.phases}  # why --graphs leaves a phase as it is; '' where it does not
        self.graphs = [PhaseGraph(method, p, self.accumulate, graphs) if graphs and not self.eager[p.name] else None
                       for p in self.phases]
        if graphs and not any(self.graphs):
            raise UserError(f"--graphs: no phase of this run can be recorded: {self._left_out()}; omit --graphs")

    def recorded(self) -> str:
        """Which phases --graphs records, and why not the others."""
        names = ", ".join(p.name for p, g in zip(self.phases, self.graphs) if g)
        return names + (f"; not {self._left_out()}" if any(self.eager.values()) else "")

    def _left_out(self) -> str:
        return ", ".join(f"{name} ({why})" for name, why in self.eager.items() if why)

    def step(self, index: int, cur_nimg: int, fetch: Callable[[int, int], tuple[torch.Tensor, torch.Tensor]],
             draw_c: Callable[[int, torch.Generator], torch.Tensor]) -> None:
        """One step. `fetch(repetition, micro)` gives real x and c of a micro-batch."""
        cache: dict[tuple[int, int], tuple] = {}
        for k, phase in enumerate(self.phases):
            if not phase.due(index, cur_nimg):
                continue
            self.timer.start()
            for rep in range(phase.repeat):
                self.grads[k].attach()
                backward = self.graphs[k] or self.accumulate
                for m in self.micro:
                    key = (0 if phase.reuse else rep, m)
                    if key not in cache:
                        cache[key] = fetch(*key)
                    x, c = cache[key]
                    keys, share = (self.run.seed, cur_nimg, k, rep, 0), (m, self.shares)
                    choices = rnd.step_generator(*keys, share=share)
                    rng = choices if x.device.type == "cpu" else rnd.step_generator(*keys, device=x.device, share=share)
                    batch = Batch(x=x, c=c, rng=rng, choices=choices, cur_nimg=cur_nimg,
                                  draw_c=lambda n, g=choices, d=x.device: rnd.to_device(draw_c(n, g), d))
                    backward(phase, batch)
                bad = self.grads[k].finish()
                self.method.report(f"Grad/nonfinite/{phase.name}", bad.float())
                phase.opt.step()
                self.grads[k].detach()
            self.timer.stop(k)

    def accumulate(self, phase: Phase, batch: Batch) -> None:
        gain = (phase.every if phase.gain is None else phase.gain) * len(batch.x) / self.run.batch
        for term in self.method.loss(phase.name, batch):
            (term.mean() * gain).backward()


class _Timer:
    """Time per phase. On a GPU it is measured by events, which do not make the host wait."""

    def __init__(self, device: torch.device, phases: int):
        self.cuda, self.seconds, self.events = device.type == "cuda", [0.0] * phases, []

    def start(self) -> None:
        self.mark = self._now()

    def stop(self, k: int) -> None:
        if self.cuda:
            self.events.append((k, self.mark, self._now()))
        else:
            self.seconds[k] += self._now() - self.mark

    def collect(self) -> list[float]:
        """Milliseconds per phase since the last call."""
        if self.events:
            torch.cuda.synchronize()
            for k, a, b in self.events:
                self.seconds[k] += a.elapsed_time(b) / 1000
        out, self.seconds, self.events = [1000 * s for s in self.seconds], [0.0] * len(self.seconds), []
        return out

    def _now(self):
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


class _Loop:
    def __init__(self, method: Method, dataset: ImageDataset, run: RunConfig, out: Outputs, graphs: CudaGraphs | None,
                 folder: RunFolder | None):
        self.method, self.dataset, self.run, self.out, self.folder = method, dataset, run, out, folder
        self.reals = method.prepare(dataset)
        self.collector = stats.Collector()
        method.report = self.collector.report
        self.device = method.device
        spec = self.reals.spec.label
        values = self.reals.labels(np.arange(len(self.reals))) if spec.kind == "value" else None
        self.labels = LabelSource(spec, run.sampling_labels or run.sampling, values=values, shift=run.sampling_shift)
        self.stepper = Stepper(method, run, graphs)
        self.source = method.order(self.reals, self.stepper.repeat)
        if graphs:
            dist.print0(f"CUDA graphs:  {self.stepper.recorded()}")
        self.loader = _Loader(self.reals, self.source, self.device, out.workers)
        self.cur_nimg = self.index = self.tick = 0
        self.snapshot_nimg = -1  # images shown at the newest snapshot, and what its file is called by
        self.snapshot_label = ""
        self.elapsed, self.start_time = 0.0, time.time()  # seconds of earlier sessions of this run
        self.last_snapshot: Path | None = None
        self.writer: stats.StatsWriter | None = None

    def close(self) -> None:
        self.loader.close()
        if self.writer is not None:
            self.writer.close()

    # ---- state -----------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """What continues the run; called on every process."""
        m = self.method
        return dict(
            format=training_state.FORMAT, version=1, method=m.name, stage=m.stage, cur_nimg=self.cur_nimg,
            index=self.index,
            tick=self.tick, elapsed=self._total_sec(), snapshot_nimg=self.snapshot_nimg,
            snapshot_label=self.snapshot_label,
            nets={k: {n: t.detach() for n, t in v.state_dict().items()} for k, v in m.nets.items()},
            records={k: [f"{type(v).__module__}.{type(v).__qualname__}", plain(v.init_kwargs)]
                     for k, v in m.nets.items()},
            opts=[o.state_dict() for o in self._optimisers()],
            method_state=plain(m.state()), stats=plain(self.collector.state()),
        )

    def load_state(self, path: Path) -> None:
        s = training_state.read(path)
        if (s["method"], s["stage"]) != (self.method.name, self.method.stage):
            raise UserError(f"{path} belongs to --method={s['method']} (stage {s['stage']}), "
                            f"not to --method={self.method.name} (stage {self.method.stage})")
        with training_state.applied(path):
            for name, net in self.method.nets.items():
                net.load_state_dict(s["nets"][name])
            for opt, content in zip(self._optimisers(), s["opts"], strict=True):
                opt.load_state_dict(content)
            self.method.load_state(s["method_state"])
            self.collector.load_state(s["stats"])
        self.cur_nimg, self.index, self.tick, self.elapsed = s["cur_nimg"], s["index"], s["tick"], s["elapsed"]
        self.snapshot_nimg = s.get("snapshot_nimg", self.cur_nimg)
        self.snapshot_label = s.get("snapshot_label", label_of(self.snapshot_nimg, -1))

    def _optimisers(self) -> list[torch.optim.Optimizer]:
        return list({id(p.opt): p.opt for p in self.stepper.phases}.values())

    def _write_state(self) -> None:
        self._check_weights()
        state = self.state()
        if dist.is_main():
            self.folder.check()
            path = self.out.run_dir / f"training-state-{self._label()}.pt"
            with atomic_path(path, parents=False) as tmp:
                torch.save(state, tmp)
            for old in find_states(self.out.run_dir)[self.out.keep_states :]:
                old.unlink(missing_ok=True)

    # ---- training --------------------------------------------------------------------------------------------

    def train(self, terminate: _Terminate) -> int:
        self.terminate = terminate
        with contextlib.suppress(_StopNow):
            if self._train():
                return self.cur_nimg
        dist.print0(f"Stopped at {self.cur_nimg / 1000:.1f} kimg as asked; {self.out.again}")
        return self.cur_nimg

    def _train(self) -> bool:
        """Whether there is nothing left to do; False: stopped by a signal, with the state written."""
        total = int(round(self.run.kimg * 1000))
        self.start_time = tick_time = time.time()
        tick_nimg, maintenance = self.cur_nimg, 0.0
        self.paced = None
        if dist.is_main():
            self._prepare_folder()
        self._broadcast()
        if self.cur_nimg == 0:
            self._images("fakes_init")
        else:
            dist.print0(f"Continuing at {self.cur_nimg / 1000:.1f} kimg")
            self._evaluate_unfinished()
            if self._rate():
                return True
        if self.cur_nimg >= total:
            dist.print0(f"Done: {self.cur_nimg / 1000:.1f} of {self.run.kimg:g} kimg were trained before")
            return True
        dist.print0(f"Training for {self.run.kimg:g} kimg")
        self.said = time.time()
        while True:
            self._step()
            done, stop, written = self.cur_nimg >= total, self.terminate(), False
            self.paced = self.paced or (time.time(), self.cur_nimg, time.time() - self.said)
            # Ticks end on a fixed grid of images, so that a resumed run has the uninterrupted run's ticks. Rounded: the
            # product of three times 0.4 kimg lies above 1200 images.
            if done or self.tick == 0 or self.cur_nimg >= round(self.tick * self.run.tick * 1000, 6):
                now = time.time()
                self._tick(now - tick_time, self.cur_nimg - tick_nimg, maintenance)
                tick = self.tick
                self.tick += 1
                if done or (self.out.network_ticks and tick % self.out.network_ticks == 0):
                    snapshot = self._snapshot()
                    self._write_state()
                    written = True
                    self._images(f"fakes{self._label()}")
                    if not stop and (tick > 0 or done or self.out.evaluate_at_start):
                        self._evaluate(snapshot)  # after a stop the continued run does it
                        done = self._rate() or done
                self.said = tick_time = time.time()
                tick_nimg = self.cur_nimg
                maintenance = tick_time - now
            elif time.time() - self.said > SILENCE:
                self.said = time.time()
                dist.print0(f"  kimg {self.cur_nimg / 1000:.2f} of {self.run.kimg:g}, sec/kimg "
                            f"{(self.said - tick_time) / (self.cur_nimg - tick_nimg) * 1000:.2f}, "
                            f"left {self._left()}")
            if stop:
                if not written:
                    self._check_losses(self.collector.pending())
                    self._write_state()
                return False
            if done:
                return True

    def _evaluate_unfinished(self) -> None:
        """A run killed between its snapshot and the end of its metrics computes them now."""
        path = self._snapshot_path()
        if self.tick > 1 and self.snapshot_nimg == self.cur_nimg and path.exists():  # training has not gone on since
            self._evaluate(path)

    def _evaluate(self, snapshot: Path) -> None:
        if self.out.evaluate is not None:
            with self.terminate.at_once():
                values = self.out.evaluate(self.method, self.cur_nimg, snapshot)
            if dist.is_main() and values:
                self.writer.write_metrics(values, self.cur_nimg)

    def _rate(self) -> bool:
        """Whether training has stopped paying. Judged by the run's files, so that a resumed run judges the same."""
        reason: str | UserError | None = None
        if self.out.rate is not None and dist.is_main():
            try:
                reason = self.out.rate()
            except UserError as e:
                reason = e
        reason = dist.broadcast_object(reason)
        if isinstance(reason, UserError):
            raise reason
        if reason:
            dist.print0(f"Stopped at {self.cur_nimg / 1000:.1f} kimg: {reason}")
        return bool(reason)

    def _step(self) -> None:
        b, n, shares = self.run.batch_gpu, self.run.batch, self.stepper.shares
        first = self.cur_nimg // n * self.stepper.repeat

        def fetch(rep: int, m: int) -> tuple[torch.Tensor, torch.Tensor]:
            return self.loader((first + rep) * n + m, b, shares)

        for ahead in range(1, 4):
            later = first + ahead * self.stepper.repeat
            self.loader.expect([((later + rep) * n + m, b, shares) for rep in range(self.stepper.repeat)
                                for m in self.stepper.micro])
        self.labels.nimg = self.cur_nimg
        self.stepper.step(self.index, self.cur_nimg, fetch, self.labels.draw)
        self.method.end_step(self.cur_nimg, n)
        self.cur_nimg += n
        self.index += 1

    def _broadcast(self) -> None:
        """Every process starts from the first one's tensors."""
        if dist.world_size() > 1:
            for net in self.method.nets.values():
                for t in net.state_dict().values():
                    dist.broadcast_(t)

    def _check_weights(self) -> None:
        for name, net in self.method.nets.items():
            params = {key for key, _ in net.named_parameters()}
            for key, t in net.state_dict().items():
                if not t.is_floating_point() or not t.numel():
                    continue
                if not bool(torch.isfinite(t).all()):
                    raise Diverged(self._diverged(f"{name}.{key} is not finite"))
                if (most := float(t.abs().max())) > (MAX_WEIGHT if key in params else MAX_BUFFER):
                    raise Diverged(self._diverged(f"{name}.{key} has grown to {most:.3g}"))

    def _check_losses(self, means: dict[str, float]) -> None:
        for key, mean in means.items():
            if key.startswith("Loss/") and not abs(mean) <= MAX_LOSS:
                what = f"has grown to {mean:.3g}" if np.isfinite(mean) else "is not finite"
                raise Diverged(self._diverged(f"{key} {what}"))

    def _diverged(self, what: str) -> str:
        last = f"the last good snapshot is {self.last_snapshot}" if self.last_snapshot else "no snapshot was written"
        states = find_states(self.out.run_dir)
        last += f", the last good training state {states[0].name}" if states else ""
        return (f"training diverged at {self.cur_nimg / 1000:.1f} kimg: {what}; {last}. "
                f"Try a lower learning rate or more regularisation (for GANs: --glr, --dlr, --gamma)")

    # ---- output ----------------------------------------------------------------------------------------------

    def _prepare_folder(self) -> None:
        self.folder.check()
        util.sweep_temporaries(self.out.run_dir)
        trim_logs(self.out.run_dir, self.cur_nimg / 1000, fresh=self.cur_nimg == 0)
        if 0 < self.cur_nimg < self.run.kimg * 1000 and (later := written_after(self.out.run_dir, self.cur_nimg)):
            # Under other ticks they would stay among what follows, and the last of them be the run's newest snapshot.
            print(f"Removed, for the run makes its own again: {', '.join(p.name for p in later)}, written after the "
                  f"training state that it continues from")
            for path in later:
                path.unlink(missing_ok=True)
        snapshots = find_snapshots(self.out.run_dir)
        self.last_snapshot = snapshots[-1] if snapshots else None
        self.writer = stats.StatsWriter(self.out.run_dir, start_nimg=self.cur_nimg,
                                        wandb_project=self.out.wandb_project,
                                        wandb_args={"name": self.out.run_dir.name, "resume": "allow"})
        if self.out.images and not (self.out.run_dir / "reals.png").exists():
            indices, labels, columns = grid_layout(self.dataset, rows=None)
            images = self.dataset.images_uint8(indices)
            self._sheet("reals", images, columns, labels, "training images", "reals")

    def _total_sec(self) -> float:
        return self.elapsed + time.time() - self.start_time

    def _left(self) -> str:
        """The time that the rest takes at the pace since this process's first step, which is slower than all others;
        snapshots and metrics count."""
        at, nimg, first = self.paced
        images = self.cur_nimg - nimg
        pace = (time.time() - at) / images if images else first / self.run.batch
        return util.format_time(max(self.run.kimg * 1000 - self.cur_nimg, 0) * pace)

    def _tick(self, tick_sec: float, images: int, maintenance: float) -> None:
        if dist.is_main():
            self.folder.check()
        c, m = self.collector, self.method
        total_sec = self._total_sec()
        cpu_gb, gpu_gb = _memory(self.device)
        numbers = {
            "Progress/tick": self.tick, "Progress/kimg": self.cur_nimg / 1000,
            **{f"Progress/{k}": v for k, v in m.progress().items()},
            "Timing/total_sec": total_sec, "Timing/total_hours": total_sec / 3600,
            "Timing/total_days": total_sec / 86400, "Timing/sec_per_tick": tick_sec,
            "Timing/sec_per_kimg": tick_sec / max(images, 1) * 1000, "Timing/maintenance_sec": maintenance,
            **{f"Timing/{p.name}": ms for p, ms in zip(self.stepper.phases, self.stepper.timer.collect())},
            "Resources/cpu_mem_gb": cpu_gb, "Resources/peak_gpu_mem_gb": gpu_gb,
        }
        for key, value in numbers.items():
            c.report(key, value)
        summary = c.collect()
        extra = "".join(f" {k} {v:<8.3f}" for k, v in m.progress().items())
        dist.print0(f"tick {self.tick:<5d} kimg {self.cur_nimg / 1000:<8.1f} time {util.format_time(total_sec):<12s} "
                    f"left {self._left():<12s} "
                    f"sec/tick {tick_sec:<7.1f} sec/kimg {tick_sec / max(images, 1) * 1000:<7.2f} "
                    f"maintenance {maintenance:<6.1f} cpumem {cpu_gb:<6.2f} gpumem {gpu_gb:<6.2f}{extra}".rstrip())
        if dist.is_main():
            self.writer.write(summary, self.cur_nimg)
        bad = {k.rsplit("/", 1)[1]: v for k, v in summary.items() if k.startswith("Grad/nonfinite/")}
        for name, s in bad.items():
            if s["num"] and s["mean"] > 0:
                dist.print0(f"Warning: phase {name} had {s['mean'] * s['num']:.0f} non-finite gradients this tick; "
                            f"they were replaced (stats.jsonl: Grad/nonfinite/{name})")
        self._check_losses({k: s["mean"] for k, s in summary.items() if s["num"]})

    def _snapshot(self) -> Path:
        self._check_weights()
        if dist.world_size() > 1:
            dist.assert_replicas_equal({f"{k}.{n}": t for k, v in self.method.nets.items()
                                        for n, t in v.state_dict().items()})
        self.snapshot_label, self.snapshot_nimg = self._label(), self.cur_nimg
        path = self._snapshot_path()
        if dist.is_main():
            snap = self.method.snapshot(self.cur_nimg)
            snap.extra.setdefault("run", plain(vars(self.run)))
            snap.save(path, parents=False)
        self.last_snapshot = path
        return path

    def _snapshot_path(self) -> Path:
        """Of the newest snapshot."""
        return self.out.run_dir / f"network-snapshot-{self.snapshot_label}.pkl"

    def _label(self) -> str:
        """What files of now are called by; those of a snapshot share its label."""
        if self.snapshot_nimg == self.cur_nimg:
            return self.snapshot_label
        return label_of(self.cur_nimg, self.snapshot_nimg)

    def _images(self, name: str) -> None:
        sampler = self.method.sampler() if self.out.images else None
        if sampler is None or not dist.is_main():
            return
        indices, labels, columns = grid_layout(self.dataset, rows=None)
        c = torch.from_numpy(self.dataset.labels(indices))
        for view in sampler.views:
            images = [sampler(range(i, min(i + 32, len(c))), c[i : i + 32], **({} if view == sampler.views[0] else
                                                                              {"view": view})).cpu()
                      for i in range(0, len(c), 32)]
            main = view == sampler.views[0]
            stem, tag = (name, "fakes") if main else (re.sub("^fakes", f"fakes_{view}", name), f"fakes_{view}")
            what = f"{self.method.name}, {round(self.cur_nimg / 1000, 1):g} kimg"
            what += "" if main else f", {sampler.beside.get(view, view)}"
            self._sheet(stem, torch.cat(images).numpy(), columns, labels if main else None, what, tag)

    def _sheet(self, stem: str, images: np.ndarray, columns: int, labels: list[str] | None, what: str,
               tag: str) -> None:
        picture = save_grid(self.out.run_dir / f"{stem}.png", images, columns, row_labels=labels,
                            zoom=zoom_to(images.shape[-1]), title=f"{self.dataset.spec.name}: {what}", parents=False)
        self.writer.write_image(tag, picture, self.cur_nimg)


def normalised(x: torch.Tensor) -> torch.Tensor:
    """uint8 images to float32 in [-1, 1]; floats as they are. In place: each new tensor costs more than the sums."""
    return from_uint8(x) if x.dtype == torch.uint8 else x


class _Loader:
    """n real items number `position`, `position + step`, ... of the stream, as floats on the device; reads ahead in
    threads.

    The order of requests repeats from step to step, shifted by a constant, so the next step's are known."""

    def __init__(self, reals: Reals, source: BatchSource, device: torch.device, workers: int):
        self.reals, self.source, self.device = reals, source, device
        self.pin = device.type == "cuda"
        # A set held in memory is indexed faster than it is handed between threads.
        self.pool = None if reals.in_memory else ThreadPoolExecutor(workers, thread_name_prefix="reader")
        self.ahead: dict[tuple[int, ...], Future] = {}

    def __call__(self, position: int, n: int, step: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        future = self.ahead.pop((position, n, step), None)
        x, c = future.result() if future is not None else self._read(position, n, step)
        x = x.to(self.device, non_blocking=True)
        return normalised(x), c.to(self.device, non_blocking=True)

    def expect(self, requests: list[tuple[int, int, int]]) -> None:
        """Start reading what will be asked for soon."""
        if self.pool is not None:
            for key in requests:
                if key not in self.ahead:
                    self.ahead[key] = self.pool.submit(self._read, *key)

    def close(self) -> None:
        if self.pool is not None:
            self.pool.shutdown(wait=False, cancel_futures=True)

    def _read(self, position: int, n: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        indices = self.source.indices(position, (n - 1) * step + 1)[::step]
        x, c = self.reals.read(indices), torch.from_numpy(self.reals.labels(indices))
        return (x if x.is_cuda else x.pin_memory(), c.pin_memory()) if self.pin else (x, c)


class _Terminate:
    """A signal asks for a clean stop at the end of the step; all processes agree on the step, and on the signal."""

    def __init__(self) -> None:
        self.signum, self.received, self.interruptible = 0, 0.0, False
        self.old: dict[int, Any] = {}
        self.steps, self.every, self.asked = 0, 1, time.monotonic()

    def __enter__(self) -> _Terminate:
        if threading.current_thread() is threading.main_thread():
            self.old = signals.handle(self._receive)
        return self

    def __exit__(self, *exc: object) -> None:
        for signum, handler in self.old.items():
            signal.signal(signum, handler)

    def _receive(self, signum: int, frame: Any) -> None:
        now, before = time.monotonic(), self.received
        first, self.received = not self.signum, now
        self.signum = self.signum or signum
        if self.interruptible:
            raise _StopNow
        # A batch system may send a signal twice. Somebody who presses Ctrl-C again does not want to wait for the step.
        if not first and signum == signal.SIGINT and now - before > 1:
            self._call(signum)

    def _call(self, signum: int) -> None:
        if callable(self.old.get(signum)):
            self.old[signum](signum, None)

    def hand_on(self) -> None:
        """After the clean stop: Ctrl-C ends the program too. A batch system has had what it asked for; but a torchrun
        agent whose own machine goes on must not take the stop of another one for the end of the job."""
        if self.signum and self.signum not in signals.OF_BATCH_SYSTEMS:
            self._call(self.signum)
        elif self.signum and dist.elastic():
            raise util.Stopped(self.signum)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Within, a signal raises _StopNow: for what takes long and is done again by the continued run."""
        self.interruptible = True
        try:
            if self.signum:
                raise _StopNow
            yield
        finally:
            self.interruptible = False

    def __call__(self) -> bool:
        if dist.world_size() == 1:
            return bool(self.signum)
        self.steps += 1
        if self.steps < self.every:
            return False
        now = time.monotonic()
        seconds = (now - self.asked) / self.steps
        signum, slowest = dist.all_reduce_max(torch.tensor([self.signum, seconds], dtype=torch.float64)).tolist()
        # Agreeing costs a collective: about twice a second is soon enough.
        self.steps, self.every, self.asked = 0, int(min(max(0.5 / max(slowest, 1e-6), 1), 8)), now
        self.signum = int(signum)
        return bool(signum)


def grid_layout(dataset: ImageDataset, rows: int | None) -> tuple[list[int], list[str] | None, int]:
    """(data-set indices, row labels, columns) of the contact sheet: one row per class, rarest class last; for one
    continuous label rows of rising labels."""
    size = dataset.spec.size
    columns = int(np.clip(2048 // size.width, 8, 24))
    ids = dataset.class_ids
    rng = np.random.RandomState(0)
    if ids is None or dataset.spec.label.kind != "class":
        order = rng.permutation(len(dataset))
        n = columns * (rows or int(np.clip(1024 // size.height, 4, 16)))
        if not dataset.spec.label.meta:
            return [int(order[i % len(order)]) for i in range(n)], None, columns
        values = dataset.labels(np.arange(len(dataset)))[:, 0]
        chosen = order[np.arange(n) % len(order)]
        chosen = chosen[np.argsort(values[chosen], kind="stable")]
        means = values[chosen].reshape(-1, columns).mean(1)
        return chosen.tolist(), [f"{v:.3g}" for v in means], columns
    spec = dataset.spec.label
    classes = sorted((k for k in range(spec.dim) if (ids == k).any()), key=lambda k: (-int((ids == k).sum()), k))
    classes = classes[: rows or 100]
    indices = []
    for k in classes:
        members = rng.permutation(np.flatnonzero(ids == k))
        indices += [int(members[i % len(members)]) for i in range(columns)]
    return indices, list(map(spec.counted, classes)), columns


def label_of(nimg: int, before: int) -> str:
    """What files are called by after `nimg` images, the newest snapshot having been written after `before`: thousands,
    and where that snapshot has as many the remaining images too, so that each has a name of its own."""
    return f"{nimg // 1000:06d}" + (f"_{nimg % 1000:03d}" if before // 1000 == nimg // 1000 else "")


def find_states(run_dir: str | os.PathLike) -> list[Path]:
    """Training states of a run, newest first."""
    return numbered(run_dir, "training-state-*.pt")[::-1]


def trim_logs(run_dir: Path, kimg: float, fresh: bool) -> None:
    """Drop log lines after `kimg`: a resumed run writes them again."""
    for path in [*run_dir.glob("stats.jsonl"), *run_dir.glob("metric-*.jsonl")]:
        lines = [] if fresh else json_file.records(path.read_bytes())
        kept = [line + b"\n" for line, record in lines if _kimg_of(record) <= kimg + 1e-9]
        with util.atomic_write(path, "wb", parents=False) as f:
            f.writelines(kept)


def _kimg_of(record: dict[str, Any]) -> float:
    progress = record.get("Progress/kimg")
    kimg = progress.get("mean") if isinstance(progress, dict) else record.get("kimg")
    return kimg if isinstance(kimg, int | float) else -1.0


def _memory(device: torch.device) -> tuple[float, float]:
    """(resident GiB of this process, peak GiB on the GPU since the last call)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        cpu = pages * os.sysconf("SC_PAGE_SIZE") / 2**30
    except OSError:
        cpu = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    gpu = 0.0
    if device.type == "cuda":
        gpu = torch.cuda.max_memory_allocated(device) / 2**30
        torch.cuda.reset_peak_memory_stats(device)
    return cpu, gpu
