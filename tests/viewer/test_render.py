# SPDX-License-Identifier: Apache-2.0
"""One thread: the newest request of a slot wins, slots take turns, results are kept."""

import threading
import time

import pytest

from dnnlib.util import UserError
from gantransfer.viewer.render import WAITING, Renderer, Superseded


@pytest.fixture
def renderer():
    r = Renderer()
    yield r
    r.close()


class Gate:
    """Work that waits until it is let go, and notes the order."""

    def __init__(self):
        self.open, self.begun, self.order = threading.Event(), threading.Event(), []

    def __call__(self, name):
        def make(job):
            self.begun.set()
            assert self.open.wait(10)
            job.go_on()
            self.order.append(name)
            return name.encode()
        return make


def test_the_newest_of_a_slot_wins_and_older_ones_are_dropped(renderer):
    gate = Gate()
    busy = renderer.submit("other", "busy", gate("busy"))
    assert gate.begun.wait(10)
    old = [renderer.submit("a", k, gate(str(k))) for k in range(5)]
    new = renderer.submit("a", "new", gate("new"))
    for f in old:
        assert isinstance(f.exception(1), Superseded)
    gate.open.set()
    assert busy.result(10) == b"busy" and new.result(10) == b"new" and gate.order == ["busy", "new"]


def test_what_runs_is_told_that_it_is_old(renderer):
    gate = Gate()
    running = renderer.submit("a", 1, gate("one"))
    assert gate.begun.wait(10)
    same = renderer.submit("a", 1, gate("one again"))  # wanted still
    gate.open.set()
    assert running.result(10) == same.result(10) == b"one" and gate.order == ["one"]
    gate = Gate()
    running = renderer.submit("a", 2, gate("two"))
    assert gate.begun.wait(10)
    newer = renderer.submit("a", 3, gate("three"))
    gate.open.set()
    assert isinstance(running.exception(10), Superseded) and newer.result(10) == b"three"


def test_slots_take_turns(renderer):
    gate = Gate()
    renderer.submit("x", "busy", gate("busy"))
    assert gate.begun.wait(10)
    renderer.submit("a", "a1", gate("a1"))
    last = renderer.submit("b", "b1", gate("b1"))
    renderer.submit("a", "a2", gate("a2"))  # in the place of a1: before b
    gate.open.set()
    assert last.result(10) and gate.order == ["busy", "a2", "b1"]


def test_one_thread_makes_everything(renderer):
    seen = [renderer.submit(k, k, lambda job: threading.current_thread().name.encode()).result(10) for k in range(3)]
    assert set(seen) == {b"renderer"}


def test_results_are_kept_within_bounds():
    r, made = Renderer(kept=250), []

    def get(key):
        def make(job):
            made.append(key)
            return bytes(100)
        return r.submit("a", key, make).result(10)

    for key in (1, 2, 1, 1, 3, 2, 1):
        assert len(get(key)) == 100
    assert made == [1, 2, 3, 2, 1]  # room for two: 3 drops 2, 2 drops 1
    r.close()


def test_errors_reach_who_asked_and_the_thread_goes_on(renderer):
    def bad(job):
        raise UserError("no such class")

    for _ in range(2):  # an error is not kept
        assert str(renderer.submit("a", 1, bad).exception(10)) == "no such class"
    assert renderer.submit("a", 1, lambda job: b"x").result(10) == b"x"


def test_too_many_slots_are_refused(renderer):
    gate = Gate()
    renderer.submit("x", "busy", gate("busy"))
    assert gate.begun.wait(10)
    for k in range(WAITING):
        renderer.submit(k, k, gate("k"))
    with pytest.raises(UserError, match="busy"):
        renderer.submit("more", "more", gate("more"))
    renderer.submit(3, "newer", gate("newer"))  # a slot that waits already
    gate.open.set()


def test_closing_drops_what_waits():
    r, gate = Renderer(), Gate()
    running = r.submit("x", "busy", gate("busy"))
    assert gate.begun.wait(10)
    waiting = r.submit("a", 1, gate("1"))
    threading.Timer(0.1, gate.open.set).start()
    began = time.monotonic()
    r.close()
    assert time.monotonic() - began < 5
    assert isinstance(waiting.exception(1), Superseded) and isinstance(running.exception(5), Superseded)
