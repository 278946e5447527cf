# SPDX-License-Identifier: Apache-2.0
"""The contract between a method and everything else. Read this first.

A method is a set of networks and a list of phases. A phase is a set of parameters, an optimiser and a loss. The
training loop runs phases; it does not know what a GAN is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import nn

from dnnlib.util import UserError
from gantransfer import training_state
from gantransfer.data.dataset import BatchSource, DataSpec, ImageDataset
from gantransfer.data.schedule import Span
from gantransfer.sampler import Sampler
from gantransfer.snapshot import NetRecord, Snapshot, plain


@dataclass(frozen=True)
class Graph:
    """That the loss of a phase is written so that --graphs can record it (what that asks: `Method.loss`); `obstacles`
    say why it cannot in this run, if so."""

    obstacles: tuple[str, ...] = ()


@dataclass
class Phase:
    """One kind of update."""

    name: str  # 'Gmain', 'Dreg', 'critic', ...: also the name in the log
    params: list[nn.Parameter]  # exactly what this phase updates; requires_grad is off elsewhere meanwhile
    opt: torch.optim.Optimizer
    every: int = 1  # runs on each k-th step
    gain: float | None = None  # loss multiplier; None = `every` (lazy regularisation keeps its strength)
    repeat: int = 1  # updates per step; each repetition draws fresh data ...
    reuse: bool = False  # ... or all see the first one's
    begin: int = 0  # images shown from which it runs ...
    end: int | None = None  # ... and before which it stops, e.g. what is learned first and then rests
    graph: Graph | None = None  # None: nobody has prepared its loss for recording

    def due(self, index: int, cur_nimg: int) -> bool:
        """Whether it runs in step number `index`, which starts after `cur_nimg` images."""
        return index % self.every == 0 and self.begin <= cur_nimg and (self.end is None or cur_nimg < self.end)


class Reals(Protocol):
    """What the loop draws real items from: an ImageDataset, or what a method's `prepare` made of it."""

    spec: DataSpec
    label_dim: int
    class_ids: np.ndarray | None  # int64 [len], for class-balanced sampling
    in_memory: bool  # reading is a look-up: no threads needed

    def __len__(self) -> int: ...

    def read(self, indices: np.ndarray) -> torch.Tensor:
        """Items [n, ...]: uint8 images, which the loop maps to [-1, 1], or floats on any device, which it leaves."""
        ...

    def labels(self, indices: np.ndarray) -> np.ndarray:
        """float32 [n, label_dim]."""
        ...


@dataclass
class Batch:
    """One micro-batch, and where its randomness comes from.

    The generators draw for the whole batch, and give the micro-batch's rows (torch_utils.random.StepGenerator): draw by
    the functions of that module, images first. What looks across a batch (its mean, its deviation) has to see the
    images of all processes: `mean_of_all`, `gather_rows` of torch_utils/distributed.py.
    """

    x: torch.Tensor  # [n, C, H, W] float32 in [-1, 1], or float items of the method's own `Reals`
    c: torch.Tensor  # [n, label_dim] float32: one-hot, a vector, or width 0
    rng: torch.Generator  # for tensors; lives on the device of x
    choices: torch.Generator  # for decisions in Python, and what else the host must know; lives on the CPU
    draw_c: Callable[[int], torch.Tensor]  # k -> [k, label_dim] labels for generated images, by the run's policy
    cur_nimg: int | None  # images shown before this step; None where the loss may be recorded for replay


@dataclass
class RunConfig:
    """What every method shares: data order, sizes, schedule. None = the method's preset decides."""

    seed: int = 0
    num_procs: int = 1
    batch: int | None = None  # images per step over all processes
    batch_gpu: int | None = None  # images per micro-batch
    kimg: float | None = None  # length of the run in thousands of images
    tick: float | None = None  # status line every so many kimg
    snap: int | None = None  # snapshot every so many ticks
    sampling: str = "empirical"  # which reals: empirical | sqrt | effective | balanced
    sampling_labels: str | None = None  # which labels for generated images; None = as `sampling`
    sampling_shift: Span | None = None  # over which both move there from 'empirical'; None: from the start
    metrics: str | None = None  # comma-separated names; None = the preset's
    resume: str | None = None  # weights the run starts from
    device: str = "cpu"
    notes: list[str] = field(default_factory=list)  # what a user should know of these settings before the first step


@dataclass(frozen=True, eq=False)
class Start:
    """Where a run begins: fresh (neither), from the weights of `source`, or, with `state`, where it was stopped.

    A run that goes on gets all its tensors from the state afterwards (the loop's business): a method only has to
    build networks of the right sizes, and has nothing to copy. Some need `source` then too, for what is not theirs.
    """

    source: Snapshot | None = None
    state: Path | None = None  # training state of the run that goes on

    @property
    def continues(self) -> bool:
        return self.state is not None

    @cached_property
    def networks(self) -> Snapshot | None:
        """The networks that the run has, with their sizes, and what `Method.state` kept in `extra`, where it goes on;
        else the source's. Read when it is asked for."""
        return self.source if self.state is None else training_state.as_snapshot(self.state)

    @property
    def weights(self) -> Snapshot | None:
        """What a method copies into its networks: nothing where the run goes on."""
        return None if self.continues else self.source


FRESH = Start()


@dataclass
class Options:
    """Base of a method's options: each field is one command-line flag (see `option`)."""

    given: ClassVar[frozenset[str]] = frozenset()  # names that the user typed; published records tell them apart

    def to_dict(self) -> dict[str, Any]:
        return plain({f.name: getattr(self, f.name) for f in fields(self)})


def fill(o: Any, **values: Any) -> None:
    """Set those attributes that the user left open, which are None."""
    for key, value in values.items():
        if getattr(o, key) is None:
            setattr(o, key, value)


def said(given: dict[str, Any], *keys: str) -> str:
    """What a run's name says of those flags that the user typed: '-kimg20' of a number, '-hinge' of a word."""
    typed = [(key, given[key]) for key in keys if given.get(key) is not None]
    return "".join(f"-{value}" if isinstance(value, str) else f"-{key}{value:g}" for key, value in typed)


def resolve_schedule(run: RunConfig, *, batch: int, kimg: float, tick: float, snap: int) -> None:
    """Fill what the user left open of batch, length and intervals; UserError where the batch does not divide."""
    run.batch = run.batch or batch
    if run.batch % run.num_procs:
        raise UserError(f"--batch={run.batch} is not divisible by --gpus={run.num_procs}; change one of them")
    run.batch_gpu = run.batch_gpu or run.batch // run.num_procs
    if run.batch % (run.batch_gpu * run.num_procs):
        raise UserError(f"--batch={run.batch} is not a multiple of --batch-gpu={run.batch_gpu} x "
                        f"--gpus={run.num_procs}; change one of them")
    fill(run, kimg=kimg, tick=tick, snap=snap)
    if run.sampling_shift is not None and run.sampling_shift.end > run.kimg:
        run.notes.append(f"the run ends at {run.kimg:g} kimg, before --sampling_shift does; give it an earlier end, or "
                         f"a longer --kimg")


def option(default: Any, help: str, *, type: Any = None, choices: tuple | None = None, low: float | None = None,
           high: float | None = None, metavar: str | None = None) -> Any:
    """A field of an Options class that train.py turns into a flag. `low`/`high` are inclusive bounds."""
    meta = dict(help=help, type=type or _type_of(default), choices=choices, low=low, high=high, metavar=metavar)
    return field(default=default, metadata=meta)


def _type_of(default: Any) -> type:
    return str if default is None else type(default)


# (images [N, C, R, R] in [-1, 1], labels [N, label_dim] as data sets have them) -> logits [N]
Judge = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Method:
    """A way to train. Subclasses fill in the class variables and the methods that raise here."""

    name: ClassVar[str]
    stages: ClassVar[tuple[str, ...]] = ("main",)
    Options: ClassVar[type[Options]]
    needs_labels: ClassVar[bool] = False  # train.py then reads labels without being asked to
    # Which way each value of `evaluate` is better (metrics/directions.py); snapshots are rated by nothing else.
    better: ClassVar[dict[str, str]] = {}

    nets: dict[str, nn.Module]  # everything worth saving, by name
    report: Callable[[str, torch.Tensor], None]  # statistics for the log; set by the loop
    pending: dict[str, list[torch.Tensor]]  # what the losses of this step leave for end_step, which empties it

    def __init__(self, opts: Options, data: DataSpec, run: RunConfig, start: Start = FRESH, stage: str | None = None):
        """Build networks on `run.device`; copy weights as `start` says. `opts` and `run` are resolved; `stage` None is
        the first."""
        self.opts, self.data, self.run, self.stage = opts, data, run, stage or self.stages[0]
        self.device = torch.device(run.device)
        self.report = lambda name, value: None
        self.pending = {}

    @classmethod
    def resolve(cls, opts: Options, run: RunConfig, data: DataSpec) -> None:
        """Fill every value left None, in place, and check them. Raises UserError naming the flag."""
        raise NotImplementedError

    @classmethod
    def run_name(cls, opts: Options, given: dict[str, Any], run: RunConfig, data: DataSpec) -> str:
        """The run folder's name after its number; `given` holds what the user typed."""
        raise NotImplementedError

    @classmethod
    def config(cls, opts: Options, run: RunConfig, data: DataSpec) -> dict[str, Any]:
        """Resolved settings for training_options.json, JSON-able."""
        return {"options": opts.to_dict()}

    @classmethod
    def runtime(cls, opts: Options, run: RunConfig) -> dict[str, Any]:
        """What the machine decides (`run.device` is known): printed and recorded, free to change when a run goes on
        elsewhere. Asked by the harness, which knows no method; only StyleGANs leave something to the machine."""
        return {}

    @classmethod
    def check_source(cls, opts: Options, data: DataSpec, source: Snapshot | None, stage: str) -> None:
        """Whether `source` can start this stage on this data; called before anything is written. UserError if not."""

    def prepare(self, dataset: ImageDataset) -> Reals:
        """What the loop draws real items from; called once, before `phases`. Most methods return `dataset`."""
        return dataset

    def order(self, reals: Reals, repeat: int = 1) -> BatchSource:
        """Which real item is number p of the endless stream: `.indices(position, n)`, a function of seed and position
        alone. Most methods draw by the run's --sampling. `repeat`: items drawn per image shown."""
        return BatchSource(reals, seed=self.run.seed, policy=self.run.sampling, shift=self.run.sampling_shift,
                           repeat=repeat)

    def phases(self) -> list[Phase]:
        """The phases of this stage, in the order they run within a step."""
        raise NotImplementedError

    def loss(self, phase: str, batch: Batch) -> Iterator[torch.Tensor]:
        """Yield the phase's loss as terms [k], unreduced. The loop averages and back-propagates each term before it
        asks for the next, so that two terms never hold their graphs at once.

        With --graphs the loss of a phase that has a `graph` without obstacles runs a few times and is then replayed
        without Python, on another batch. So it draws from the batch alone, decides nothing by values of tensors, uses
        no number that changes from step to step unless it is in a tensor that keeps its memory, and leaves nothing
        but gradients, reports, `pending`, and changes of such tensors."""
        raise NotImplementedError

    def end_step(self, cur_nimg: int, batch_size: int) -> None:
        """After all phases: EMA, controllers, schedules. `cur_nimg` does not count this step yet."""

    def state(self) -> dict[str, Any]:
        """What resuming needs beside networks and optimisers: plain data and tensors. Called on every process; the
        first one's is kept, and given to all."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Undo `state`."""

    def progress(self) -> dict[str, float]:
        """Extra numbers for the log, e.g. {'augment': p}."""
        return {}

    def sampler(self) -> Sampler | None:
        """Of the live averaged network: grids and metrics during training. None: this method makes no images."""
        return None

    def evaluate(self, cur_nimg: int) -> dict[str, float]:
        """Figures of the method's own at every snapshot (accuracy of a classifier, ...), called on every process with
        the same result; they go to metric-<method>.jsonl beside the image metrics. `better` declares each of them."""
        return {}

    @classmethod
    def sampler_from(cls, snap: Snapshot, device: torch.device | str = "cpu") -> Sampler:
        """The same from a snapshot alone: no data set, no optimiser."""
        raise NotImplementedError

    @classmethod
    def judge_from(cls, snap: Snapshot, device: torch.device | str = "cpu") -> Judge:
        """What the snapshot's discriminator says of an image and its label, each image by itself. UserError where it
        judges something else."""
        raise UserError(f"the discriminator of a snapshot of method {cls.name} judges other things than images with "
                        "labels; use --features=teacher")

    def snapshot(self, cur_nimg: int) -> Snapshot:
        """This state as a shareable record."""
        return Snapshot(method=self.name, stage=self.stage, nets={k: NetRecord.of(v) for k, v in self.nets.items()},
                        options=self.opts.to_dict(), data=self.data.to_dict(), cur_nimg=cur_nimg)
