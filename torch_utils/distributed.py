# SPDX-License-Identifier: Apache-2.0
"""One program, any number of processes.

`init` joins the processes that torchrun or `launch` started; every other function is an identity with one process, so
callers never ask how many there are. Collectives act on tensors of any device: NCCL for CUDA, gloo for the CPU.

Environment (torchrun's): RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT.
GANTRANSFER_DIST_TIMEOUT: seconds after which a collective that some rank never joins is an error (default 600).
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import datetime
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist

from dnnlib.util import UserError
from torch_utils import launcher, rendezvous
from torch_utils.launcher import cpu_cores, launched

_served: list[dist.TCPStore] = []  # the job's rendezvous store, where this process has it, until its end


class CollectiveError(RuntimeError):
    """A collective operation did not finish. The message names this rank, the operation and the absent ranks."""


def is_initialized() -> bool:
    """True between `init` with several processes and `shutdown`."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    return dist.get_rank() if is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if is_initialized() else 1


def is_main() -> bool:
    """True on rank 0, the one that writes files."""
    return rank() == 0


def elastic() -> bool:
    """True in a process started by torchrun, whose agent starts it again when it fails."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def print0(*args: Any, **kwargs: Any) -> None:
    """`print` on rank 0 only, flushed."""
    if is_main():
        print(*args, **{"flush": True, **kwargs})


def resolve_device(kind: str = "auto") -> str:
    """'cuda' or 'cpu' for 'auto', 'cuda', 'cpu'. Raises UserError when CUDA is asked for and absent."""
    if kind not in ("auto", "cuda", "cpu"):
        raise UserError(f"--device={kind}: expected auto, cuda or cpu")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError("--device=cuda: torch sees no CUDA device; use --device=cpu, or install a CUDA build of torch")
    return ("cuda" if torch.cuda.is_available() else "cpu") if kind == "auto" else kind


def check_world(num: int, kind: str, flag: str = "--gpus") -> None:
    """UserError unless this machine can run `num` processes, one per device ('cuda') or core ('cpu')."""
    have, what = (torch.cuda.device_count(), "GPU") if kind == "cuda" else (cpu_cores(), "CPU core")
    launcher.check_number(num, have, what, flag)


def init(kind: str = "auto") -> torch.device:
    """Join the process group that the environment describes (none: a single process) and return this rank's device.

    Blocks until all ranks have joined. The caller ends the job with `shutdown`.
    """
    kind = resolve_device(kind)
    local_rank = int(os.environ.get("LOCAL_RANK", 0)) if launched() else 0
    if launched():
        check_world(int(os.environ.get("LOCAL_WORLD_SIZE", 1)), kind, flag="--nproc-per-node")
    device = torch.device("cuda", local_rank) if kind == "cuda" else torch.device("cpu")
    if kind == "cuda":
        torch.cuda.set_device(device)
    if os.environ.get("GANTRANSFER_LAUNCHED"):
        threading.Thread(target=_exit_with_launcher, daemon=True, name="launcher-watch").start()
    elif elastic():
        threading.Thread(target=_exit_with_agent, daemon=True, name="agent-watch").start()
    if launched() and int(os.environ["WORLD_SIZE"]) > 1 and not is_initialized():
        # Functions of torch.distributed.nn have the group as a default argument. Imported later, as by torch's
        # compiler, they would hold it beyond `shutdown`, and its threads abort some processes in their last moment.
        from torch.distributed.nn import functional  # noqa: F401

        backend = "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo"
        args = dict(init_method="env://")
        try:
            if fd := os.environ.pop("GANTRANSFER_LISTEN_FD", None):
                _served.append(dist.TCPStore(
                    os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=True, wait_for_workers=False,
                    timeout=datetime.timedelta(seconds=_timeout()), master_listen_fd=int(fd)))
            if elastic():
                args = dict(zip(("store", "rank", "world_size"), rendezvous.attempt_store(_timeout())))
            dist.init_process_group(backend, timeout=datetime.timedelta(seconds=_timeout()), **args)
        except RuntimeError as e:
            raise CollectiveError(f"rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']}: joining the other "
                                  f"processes failed: {_reason(e)}{_remedy()}") from None
        # A process that ends by an exception must leave too, for its threads' sake.
        atexit.register(shutdown)
    return device


def _remedy() -> str:
    # An agent keeps the address of the first rank 0's store, also where a new machine has taken that rank.
    if int(os.environ.get("GROUP_WORLD_SIZE", 1)) < 2 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return ""
    return ("; if a machine was replaced, set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 for torchrun on every machine: "
            "without it those that stayed look in the old place")


def shutdown() -> None:
    """Leave the process group."""
    if is_initialized():
        dist.destroy_process_group()


def _timeout() -> float:
    text = os.environ.get("GANTRANSFER_DIST_TIMEOUT", "600")
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e8:  # nan and inf too
        raise UserError(f"GANTRANSFER_DIST_TIMEOUT={text}: expected a positive number of seconds")
    return value


def _exit_with_launcher() -> None:
    # The launcher holds the other end of stdin and never writes. End of file means that it was killed: going on would
    # leave orphans that write into a run directory which the user may resume elsewhere.
    while os.read(0, 1):
        pass
    os._exit(1)


def _exit_with_agent(seconds: float = 0.5) -> None:
    # torchrun's agent is the parent of its workers, and leaves no pipe: a killed one shows in that the parent changes.
    agent = os.getppid()
    while os.getppid() == agent:
        time.sleep(seconds)
    os._exit(1)


@dataclasses.dataclass(frozen=True)
class Job:
    """A job of torchrun, as the workers that it starts see it."""

    run_id: str  # --rdzv-id; 'none' where none was given
    agents: list[str]  # the processes that started the workers: they outlive the workers that they start again
    restarts: int  # how often an agent has started its workers again because one failed (--max-restarts)

    def same(self, recorded: Any) -> bool:
        """Whether `recorded`, a `dataclasses.asdict` of a job, was an earlier attempt of this one: with one of its
        agents, or with its id where workers were started again. An id alone does not tell: people give the same one to
        one job after the other. Nor do restarts: an agent that has replaced a lost one has none."""
        if not isinstance(recorded, dict) or recorded.get("run_id") != self.run_id:
            return False
        known = recorded.get("agents")
        return bool(isinstance(known, list) and {*self.agents}.intersection(map(str, known))
                    or self.restarts and self.run_id != "none")


def job() -> Job | None:
    """The torchrun job that this process belongs to, the same on all, which must all call it; None outside torchrun."""
    if not elastic():
        return None
    pid, began = os.getppid(), ""
    with contextlib.suppress(OSError, IndexError):  # pids come again; with the time of the start they are unique
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as f:
            began = f.read().rsplit(")", 1)[1].split()[19]
    count = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    everyone = gather_object((f"{socket.gethostname()}:{pid}:{began}", int(count) if count.isdigit() else 0))
    agents, restarts = zip(*everyone)
    return Job(os.environ["TORCHELASTIC_RUN_ID"], sorted(set(agents)), max(restarts))


def barrier() -> None:
    """Wait (on the host) until every rank is here."""
    if is_initialized():
        with _named("barrier"):
            dist.all_reduce(torch.zeros(1))


def all_reduce_sum(x: torch.Tensor) -> torch.Tensor:
    """Replace `x` (any shape, float or int, any device) by its sum over ranks, in place; returns `x`."""
    return _all_reduce(x, dist.ReduceOp.SUM if dist.is_available() else None, "all_reduce_sum")


def all_reduce_max(x: torch.Tensor) -> torch.Tensor:
    """Replace `x` by its elementwise maximum over ranks, in place; returns `x`."""
    return _all_reduce(x, dist.ReduceOp.MAX if dist.is_available() else None, "all_reduce_max")


def all_gather(x: torch.Tensor) -> torch.Tensor:
    """Every rank's `x`, stacked: [world_size, *x.shape]. Shapes must be equal."""
    out = x.new_zeros([world_size(), *x.shape])
    out[rank()] = x
    return all_reduce_sum(out)


class _SumOfAll(torch.autograd.Function):
    """The gradient of a sum over processes is the sum of the processes' gradients, which is differentiable again."""

    @staticmethod
    def forward(ctx, x: torch.Tensor) -> torch.Tensor:
        return all_reduce_sum(x.detach().clone())

    @staticmethod
    def backward(ctx, dy: torch.Tensor) -> torch.Tensor:
        return _SumOfAll.apply(dy)


def sum_of_all(x: torch.Tensor) -> torch.Tensor:
    """The sum of every process's x, differentiable any number of times. Every process must differentiate it."""
    return _SumOfAll.apply(x) if is_initialized() else x


def mean_of_all(x: torch.Tensor) -> torch.Tensor:
    """The mean of every process's x, differentiable as `sum_of_all` is."""
    return sum_of_all(x) / world_size() if is_initialized() else x


def gather_rows(x: torch.Tensor) -> torch.Tensor:
    """[n, ...] -> [n * processes, ...]: the rows of a round's images of all processes, in the order in which one
    process has them (row k of process r is row k * processes + r). Differentiable as `sum_of_all` is."""
    if not is_initialized():
        return x
    mine, nothing = rank(), torch.zeros_like(x)
    return sum_of_all(torch.stack([x if r == mine else nothing for r in range(world_size())], 1).flatten(0, 1))


def own_rows(x: torch.Tensor) -> torch.Tensor:
    """The rows that this process has of what is made of `gather_rows`."""
    return x[rank() :: world_size()]


def broadcast_(x: torch.Tensor, src: int = 0) -> torch.Tensor:
    """Replace `x` by rank `src`'s, in place; returns `x`. Same shape and dtype everywhere."""
    if is_initialized():
        with _named(f"broadcast of {_describe(x)}"), torch.no_grad():
            y = x.detach().contiguous()
            dist.broadcast(y, src=src)
            if y.data_ptr() != x.data_ptr():
                x.copy_(y)
    return x


def gather_object(obj: Any) -> list:
    """[rank 0's obj, rank 1's, ...] on every rank. Objects are pickled between the processes of the job."""
    if not is_initialized():
        return [obj]
    out: list = [None] * world_size()
    with _named("gather_object"):
        dist.all_gather_object(out, obj)
    return out


def broadcast_object(obj: Any, src: int = 0) -> Any:
    """Rank `src`'s object on every rank."""
    if not is_initialized():
        return obj
    box = [obj if rank() == src else None]
    with _named("broadcast_object"):
        dist.broadcast_object_list(box, src=src, device=torch.device("cpu"))
    return box[0]


def assert_replicas_equal(named_tensors: Mapping[str, torch.Tensor] | Iterable[tuple[str, torch.Tensor]]) -> None:
    """RuntimeError on every rank unless all ranks hold bit-equal tensors under the same names, in the same order.

    The message names the first tensor that differs and the ranks. NaNs of equal bits are equal. Costs one pass over the
    tensors and one exchange of 16 bytes per tensor.
    """
    if not is_initialized():
        return
    items = list(named_tensors.items() if isinstance(named_tensors, Mapping) else named_tensors)
    sums = torch.stack([_checksum(t) for _, t in items]).tolist() if items else []
    mine = [(name, f"{str(t.dtype)[6:]}{list(t.shape)}", *s) for (name, t), s in zip(items, sums)]
    everyone = gather_object(mine)
    for i in range(max(map(len, everyone))):
        rows = [r[i] if i < len(r) else ("(nothing)",) for r in everyone]
        others = [k for k, row in enumerate(rows) if row != rows[0]]
        if others:
            name, shape = rows[0][0], ""
            if any(row[:2] != rows[0][:2] for row in rows):
                shape = " (" + "; ".join(f"rank {k}: {' '.join(row[:2])}" for k, row in enumerate(rows)) + ")"
            raise RuntimeError(f"replicas differ in '{name}'{shape}: rank{'s' * (len(others) > 1)} "
                               f"{', '.join(map(str, others))} against rank 0")


def _checksum(x: torch.Tensor) -> torch.Tensor:
    # Two wrap-around sums over the bytes, the second weighted by position, so that swapped values show: int64 [2].
    data = x.detach().contiguous().reshape(-1).view(torch.uint8).to(torch.int64)
    weight = torch.arange(data.numel(), device=data.device) % 65521 + 1
    return torch.stack([data.sum(), (data * weight).sum()]).cpu()


def _all_reduce(x: torch.Tensor, op: Any, what: str) -> torch.Tensor:
    if is_initialized():
        with _named(f"{what} of {_describe(x)}"), torch.no_grad():
            y = x.detach().contiguous()
            dist.all_reduce(y, op=op)
            if y.data_ptr() != x.data_ptr():
                x.copy_(y)
    return x


def _describe(x: torch.Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')}{list(x.shape)}"


@contextlib.contextmanager
def _named(what: str) -> Iterator[None]:
    """Turn the backend's error into one that tells which ranks are missing, by asking the rendezvous store."""
    try:
        yield
    except RuntimeError as e:
        me, n = rank(), world_size()
        reason = _reason(e)
        raise CollectiveError(f"rank {me} of {n}: {what} failed: {_absent_ranks(what)}; {reason}") from None


def _reason(e: Exception) -> str:
    first = next((line for line in str(e).splitlines() if line.strip()), type(e).__name__)
    return re.sub(r"^\[[^\]]*\] *", "", first)  # gloo puts its source file in front


def _absent_ranks(what: str, wait: float = 2.0) -> str:
    me, n, key = rank(), world_size(), "gantransfer/failed/{}".format
    with contextlib.suppress(Exception):  # the store may be gone with its process; the backend's own reason is kept
        store = dist.distributed_c10d._get_default_store()
        store.set(key(me), what)
        end, absent = time.monotonic() + wait, [k for k in range(n) if k != me]
        while absent and time.monotonic() < end:
            absent = [k for k in absent if not store.check([key(k)])]
            time.sleep(0.05)
        if absent:
            return f"no sign of rank{'s' * (len(absent) > 1)} {', '.join(map(str, absent))}"
        return "; ".join(f"rank {k} in {store.get(key(k)).decode()}" for k in range(n) if k != me)
    return "the other ranks cannot be asked"


def launch(num_procs: int, argv: Sequence[str] | None = None, *, kind: str = "auto",
           env: Mapping[str, str] | None = None, grace: float = 5.0) -> int:
    """Run `python ARGV` as `num_procs` ranks on this machine and return the exit code of the job.

    `argv` is what follows the interpreter; None repeats this program's own command line (with `-W`, `-m` and so on).
    `launcher.run` tells what becomes of output, signals and failures. Killing this process ends all ranks (see `init`).
    """
    kind = resolve_device(kind)
    check_world(num_procs, kind)
    timeout = datetime.timedelta(seconds=_timeout())
    if kind == "cpu":
        return launcher.on_cpu(num_procs, argv, env, grace)
    # The launcher hosts the rendezvous store: no race for a free port, and the store outlives every rank.
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timeout)
    address = dict(env or {}, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(store.port))
    command = [sys.executable, *(sys.orig_argv[1:] if argv is None else argv)]
    return launcher.run(command, launcher.environments(num_procs, address), grace)
