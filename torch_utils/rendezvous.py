# SPDX-License-Identifier: Apache-2.0
"""Where the processes of one attempt of a torchrun job meet.

torchrun's agent keeps one store for all attempts of a job. A process that is started again may find there what an
earlier attempt has left, such as the address of a process that was killed, and fails to connect to it. So the processes
of each attempt agree on a name that no other attempt has, and keep what they say to each other under it.
"""

from __future__ import annotations

import datetime
import secrets
import time

import torch.distributed as dist

POLL = 0.05  # seconds


def attempt_store(seconds: float) -> tuple[dist.Store, int, int]:
    """(store of this attempt alone, rank, number of processes), from torchrun's environment.

    Raises RuntimeError when not all processes have come within `seconds`.
    """
    timeout = datetime.timedelta(seconds=seconds)
    store, rank, size = next(dist.rendezvous("env://", timeout=timeout))
    store.set_timeout(timeout)
    return dist.PrefixStore(agree(store, rank, size, seconds), store), rank, size


def agree(store: dist.Store, rank: int, size: int, seconds: float) -> str:
    """A name that the `size` processes which call this now have in common, and no earlier ones; each gives its rank.

    Rank 0 chooses it. The others each say hello with a number drawn anew, and wait for an answer to that very number;
    rank 0 answers all it hears, also those of the past, until all have confirmed the name. So nobody takes an old word
    for a new one. RuntimeError after `seconds`.
    """
    mine, end = secrets.token_hex(8), time.monotonic() + seconds
    if rank:
        store.set(f"hello/{rank}", mine)
        _wait(store, f"answer/{mine}", end, "rank 0")
        name = store.get(f"answer/{mine}").decode()
        store.set(f"{name}/joined/{rank}", "1")
        return name
    for other in range(1, size):
        while not store.check([f"{mine}/joined/{other}"]):
            if store.check([f"hello/{other}"]):
                store.set("answer/" + store.get(f"hello/{other}").decode(), mine)
            _pause(end, f"rank {other}")
    return mine


def _wait(store: dist.Store, key: str, end: float, who: str) -> None:
    while not store.check([key]):
        _pause(end, who)


def _pause(end: float, who: str) -> None:
    if time.monotonic() > end:
        raise RuntimeError(f"no sign of {who}")
    time.sleep(POLL)
