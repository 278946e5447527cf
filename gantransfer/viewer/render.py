# SPDX-License-Identifier: Apache-2.0
"""One thread makes everything that is asked for, so that requests never share the processor or a network's memory.

Every request has a slot: a place on a page that shows one thing. Where a newer request for a slot arrives, an older one
that still waits is dropped, and one that is being made may notice (`Job.go_on`). Slots are served in turn, so that
one page does not starve another. Results are kept.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field

from dnnlib.util import UserError

KEPT = 128 * 2**20  # bytes of results
WAITING = 64  # slots


class Superseded(Exception):
    """A newer request for the same slot came."""


@dataclass(eq=False)
class Job:
    key: Hashable  # equal keys have equal results
    make: Callable[[Job], bytes]
    result: Future = field(default_factory=Future)
    dropped: bool = False

    def go_on(self) -> None:
        """Called between parts of long work; raises Superseded where it is no longer wanted."""
        if self.dropped:
            raise Superseded


class Renderer:
    """`submit` from any thread; the results are futures."""

    def __init__(self, kept: int = KEPT):
        self._limit, self._size = kept, 0
        self._results: OrderedDict[Hashable, bytes] = OrderedDict()
        self._waiting: OrderedDict[Hashable, Job] = OrderedDict()  # by slot
        self._running: tuple[Hashable, Job] | None = None
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="renderer", daemon=True)
        self._thread.start()

    def submit(self, slot: Hashable, key: Hashable, make: Callable[[Job], bytes]) -> Future:
        """`make(job)`'s bytes, or Superseded, or what it raises. UserError where too many slots wait."""
        job = Job(key, make)
        with self._changed:
            known = self._results.get(key)
            old = self._waiting.get(slot)
            if old is not None:
                old.dropped = True
            if self._running is not None and self._running[0] == slot and self._running[1].key != key:
                self._running[1].dropped = True
            if known is not None:
                self._results.move_to_end(key)
                self._waiting.pop(slot, None)
                job.result.set_result(known)
            elif old is None and len(self._waiting) >= WAITING:
                raise UserError("the server is busy with other pages")
            else:
                self._waiting[slot] = job  # in the place of the older one
                self._changed.notify()
        if old is not None:
            _fail(old, Superseded())
        return job.result

    def close(self) -> None:
        """Nothing more is begun; what waits is dropped."""
        with self._changed:
            self._closed = True
            waiting = list(self._waiting.values())
            self._waiting.clear()
            if self._running is not None:
                self._running[1].dropped = True
            self._changed.notify()
        for job in waiting:
            _fail(job, Superseded())
        self._thread.join(timeout=5)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._running = None
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                slot, job = self._waiting.popitem(last=False)
                self._running = slot, job
                known = self._results.get(job.key)  # made meanwhile for another slot
            if not job.result.set_running_or_notify_cancel():  # the page went away
                continue
            try:
                made = job.make(job) if known is None else known
            except BaseException as e:
                job.result.set_exception(e)
                continue
            self._keep(job.key, made)
            job.result.set_result(made)

    def _keep(self, key: Hashable, made: bytes) -> None:
        with self._changed:
            if key in self._results:
                return
            self._results[key] = made
            self._size += len(made)
            while self._size > self._limit:
                self._size -= len(self._results.popitem(last=False)[1])


def _fail(job: Job, error: Exception) -> None:
    if job.result.set_running_or_notify_cancel():
        job.result.set_exception(error)
