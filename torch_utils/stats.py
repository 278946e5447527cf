# SPDX-License-Identifier: Apache-2.0
"""Training statistics: report values anywhere, collect count, mean and spread once per tick over all ranks.

There is no global registry. The loop owns a `Collector` and hands its `report` to the method:

    method.report = collector.report
    stats = collector.collect()             # every tick, on all ranks: {'Loss/G/loss': {num, mean, std}, ...}
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from dnnlib.util import EasyDict, first_line
from torch_utils import distributed


class Moments(NamedTuple):
    """Values that are summed already. May stand for them in a report."""

    count: int
    sums: torch.Tensor  # [2]: sum and sum of squares

    @classmethod
    def of(cls, values: Any) -> Moments:
        x = values if isinstance(values, torch.Tensor) else torch.as_tensor(values, dtype=torch.float64)
        x = x.detach().reshape(-1)
        x = x.to(torch.float32 if x.device.type == "mps" else torch.float64)  # MPS has no float64
        return cls(x.numel(), torch.stack([x.sum(), (x * x).sum()]))


class Collector:
    """Accumulates (count, sum, sum of squares) per name in float64, on the device of the values (no host sync)."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._sums: dict[tuple[str, torch.device], torch.Tensor] = {}
        self._latest: dict[str, EasyDict] = {}

    def report(self, name: str, values: Any) -> None:
        """Add `values` (number, array, tensor, `Moments`; any shape and dtype; may be empty) to statistic `name`."""
        count, sums = values if isinstance(values, Moments) else Moments.of(values)
        self._counts[name] = self._counts.get(name, 0) + count
        key = (name, sums.device)
        self._sums[key] = self._sums[key] + sums if key in self._sums else sums

    def collect(self) -> dict[str, EasyDict]:
        """Statistics since the last call, over all ranks: name -> {num: int, mean: float, std: float}.

        A collective: call it on every rank. Ranks may have reported different names, in any order. A name without new
        values keeps its previous figures. `std` is that of the population; one exchange of names, one of sums.
        """
        names = list(dict.fromkeys(n for ranks in distributed.gather_object(list(self._counts)) for n in ranks))
        rows = {name: i for i, name in enumerate(names)}
        moments = torch.zeros(len(names), 3, dtype=torch.float64)
        for name, count in self._counts.items():
            moments[rows[name], 0] = count
        for device in {d for _, d in self._sums}:  # one copy per device
            here = [(rows[n], s) for (n, d), s in self._sums.items() if d == device]
            moments[[i for i, _ in here], 1:] += torch.stack([s for _, s in here]).cpu().to(torch.float64)
        distributed.all_reduce_sum(moments)
        self._counts, self._sums = {}, {}
        for name, (num, total, squares) in zip(names, moments.tolist()):
            if num:
                mean = total / num
                # max(0, nan) is 0: a statistic that is not a number must not look like a constant
                variance = squares / num - mean * mean
                std = math.sqrt(variance) if variance > 0 else 0.0 if math.isfinite(variance) else math.nan
                self._latest[name] = EasyDict(num=int(num), mean=mean, std=std)
        return {name: EasyDict(s) for name, s in self._latest.items()}

    def pending(self) -> dict[str, float]:
        """Means of what this rank reported since the last `collect`."""
        return {k: v[1] / v[0] for k, v in self._pending().items() if v[0]}

    def state(self) -> dict:
        """Everything as plain numbers: {'latest': last figures, 'pending': count, sum, squares over all ranks}.

        A collective, as `collect` is."""
        total: dict[str, list[float]] = {}
        for pending in distributed.gather_object(self._pending()):
            for name, values in pending.items():
                total[name] = [a + b for a, b in zip(total.get(name, [0.0, 0.0, 0.0]), values)]
        return {"latest": {k: dict(v) for k, v in self._latest.items()}, "pending": total}

    def _pending(self) -> dict[str, list[float]]:
        """This rank's."""
        pending = {name: [float(n), 0.0, 0.0] for name, n in self._counts.items()}
        for (name, _), sums in self._sums.items():
            for i, v in enumerate(sums.tolist()):
                pending[name][1 + i] += v
        return pending

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`, which rank 0 wrote: its pending values count once, not once per rank."""
        self._latest = {k: EasyDict(v) for k, v in state["latest"].items()}
        pending = state["pending"] if distributed.is_main() else {}
        self._counts = {name: int(v[0]) for name, v in pending.items()}
        cpu = torch.device("cpu")
        self._sums = {(name, cpu): torch.tensor(v[1:], dtype=torch.float64) for name, v in pending.items()}


def to_json(value: Any, **kwargs: Any) -> str:
    """Strict JSON: NaN and infinities become null; numpy and torch scalars and arrays, paths and tuples are plain."""
    return json.dumps(_plain(value), allow_nan=False, **kwargs)


def _plain(v: Any) -> Any:
    if isinstance(v, Mapping):
        return {str(k): _plain(x) for k, x in v.items()}
    if isinstance(v, (np.ndarray, np.generic, torch.Tensor)):
        return _plain(v.tolist())
    if isinstance(v, (list, tuple)):
        return [_plain(x) for x in v]
    if isinstance(v, float) and not math.isfinite(v):
        return None
    return os.fspath(v) if isinstance(v, os.PathLike) else v


def append_jsonl(path: str | os.PathLike, record: Mapping[str, Any]) -> None:
    """Append `record` as one line of strict JSON with a single write: the file holds whole lines at all times.

    A broken last line (left by a full disk or a power cut) is removed first. When the line does not fit on the disk,
    the file is restored and OSError is raised.
    """
    line = (to_json(record) + "\n").encode()
    fd = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
    try:
        size = _whole_lines(fd)
        os.lseek(fd, size, os.SEEK_SET)
        try:
            while line:  # a second write only where the first met the end of the disk, and then says why
                line = line[os.write(fd, line) :]
        except OSError as e:
            with contextlib.suppress(OSError):
                os.ftruncate(fd, size)
            raise OSError(e.errno, e.strerror, os.fspath(path)) from None
    finally:
        os.close(fd)


def _whole_lines(fd: int) -> int:
    # Size of the file up to and with its last newline; what follows is cut off.
    end = size = os.lseek(fd, 0, os.SEEK_END)
    while size:
        start = max(0, size - 4096)
        os.lseek(fd, start, os.SEEK_SET)
        cut = os.read(fd, size - start).rfind(b"\n")
        size = start + cut + 1 if cut >= 0 else start
        if cut >= 0:
            break
    if size != end:
        os.ftruncate(fd, size)
    return size


def append_stats(path: str | os.PathLike, stats: Mapping[str, Mapping[str, float]]) -> float:
    """Append one tick to `stats.jsonl`: {name: {num, mean, std}, ..., 'timestamp': seconds since 1970}. -> time"""
    now = time.time()
    append_jsonl(path, {**stats, "timestamp": now})
    return now


class StatsWriter:
    """Sends each tick to `stats.jsonl` and, where installed, to TensorBoard (sheets of images too) and (on request)
    Weights & Biases.

    For rank 0 only. Nothing but `stats.jsonl` can stop a training: a service that is not installed, or fails, is named
    in one line (through `say`) and left out from then on. Weights & Biases' own variables, such as
    WANDB_MODE=offline, hold.

    start_nimg       where a resumed run goes on: TensorBoard hides an earlier session's events of later steps
    wandb_project    None = no Weights & Biases
    wandb_args       further arguments of wandb.init: name, config, id, ...
    """

    def __init__(self, run_dir: str | os.PathLike, *, tensorboard: bool = True, start_nimg: int = 0,
                 wandb_project: str | None = None, wandb_args: Mapping[str, Any] | None = None,
                 say: Callable[[str], None] = print):
        self.path, self.say = Path(run_dir, "stats.jsonl"), say
        self.events = self.wandb = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                pass  # nobody asked for it; stats.jsonl holds the same numbers
            else:
                self.events = SummaryWriter(os.fspath(run_dir), purge_step=start_nimg // 1000 if start_nimg else None)
        if wandb_project:
            try:
                import wandb
                # a forgotten login must not wait for a person at the keyboard
                self.wandb = wandb.init(project=wandb_project, dir=os.fspath(run_dir), **(wandb_args or {}),
                                        settings=wandb.Settings(login_timeout=10))
            except ImportError:
                say("--wandb_proj: Weights & Biases is not installed, nothing is sent (pip install wandb)")
            except Exception as e:
                say(f"--wandb_proj: Weights & Biases did not start, nothing is sent: {first_line(e)}")

    def write(self, stats: Mapping[str, Mapping[str, float]], cur_nimg: int) -> None:
        """One tick. Services get the means, at step = whole kimg (TensorBoard) or images (Weights & Biases)."""
        now = append_stats(self.path, stats)
        self._send({name: s["mean"] for name, s in stats.items()}, cur_nimg, now)

    def write_metrics(self, results: Mapping[str, float], cur_nimg: int) -> None:
        """Metric values, as `Metrics/<key>`, for the services only: the metric-*.jsonl files are the record."""
        self._send({f"Metrics/{k}": v for k, v in results.items()}, cur_nimg, time.time())

    def write_image(self, name: str, picture: Any, cur_nimg: int) -> None:
        """A sheet (anything numpy reads as uint8 [H, W] or [H, W, 3]), as `Images/<name>`, for TensorBoard only."""
        def add(events: Any) -> None:
            pixels = np.asarray(picture)
            events.add_image(f"Images/{name}", pixels, global_step=cur_nimg // 1000,
                             dataformats="HW" if pixels.ndim == 2 else "HWC")
            events.flush()

        self._events(add)

    def close(self) -> None:
        self._events(lambda events: events.close())
        self._wandb(lambda run: run.finish())

    def _send(self, values: Mapping[str, float], cur_nimg: int, now: float) -> None:
        def add(events: Any) -> None:
            for name, value in values.items():
                events.add_scalar(name, value, global_step=cur_nimg // 1000, walltime=now)
            events.flush()

        self._events(add)
        self._wandb(lambda run: run.log(dict(values), step=cur_nimg))

    def _events(self, use: Callable[[Any], None]) -> None:
        try:
            if self.events is not None:
                use(self.events)
        except Exception as e:
            self.events = None
            self.say(f"TensorBoard failed, no further events: {first_line(e)}")

    def _wandb(self, use: Callable[[Any], None]) -> None:
        try:
            if self.wandb is not None:
                use(self.wandb)
        except Exception as e:
            self.wandb = None
            self.say(f"Weights & Biases failed, nothing more is sent: {first_line(e)}")
