# SPDX-License-Identifier: Apache-2.0
"""torch_utils.stats: collection over reports and ranks, strict JSON lines, optional services."""

import json
import math
import resource
import sys
import time
import types

import numpy as np
import pytest
import torch

from dnnlib.json_file import lines
from torch_utils import stats
from torch_utils.stats import Collector, StatsWriter, append_jsonl, to_json


def test_moments_are_those_of_all_values_whatever_their_shape_and_type():
    c, rng = Collector(), np.random.default_rng(0)
    x = rng.normal(3, 2, size=(7, 5))
    for part in (torch.from_numpy(x[:2]), x[2:4], torch.from_numpy(x[4:6]).requires_grad_(), x[6].tolist()):
        c.report("x", part)
    c.report("one", 2)
    c.report("half", torch.full((3, 1), 0.1, dtype=torch.bfloat16))
    c.report("flag", torch.tensor([True, False]))
    c.report("scalar", np.float32(4))
    out = c.collect()
    assert out["x"]["num"] == 35
    assert out["x"]["mean"] == pytest.approx(x.mean(), rel=1e-12)
    assert out["x"]["std"] == pytest.approx(x.std(), rel=1e-9)
    assert out["one"] == {"num": 1, "mean": 2, "std": 0}
    assert out["half"]["mean"] == float(torch.tensor(0.1, dtype=torch.bfloat16))
    assert (out["flag"]["mean"], out["flag"]["std"]) == (0.5, 0.5) and out["scalar"]["mean"] == 4
    assert list(out) == ["x", "one", "half", "flag", "scalar"]


def test_float32_values_are_summed_in_float64():
    c = Collector()
    for _ in range(3):
        c.report("x", torch.full((100000,), 0.1))
    assert c.collect()["x"]["mean"] == pytest.approx(float(np.float32(0.1)), rel=1e-13)


def test_statistics_without_new_values_keep_their_figures():
    c = Collector()
    c.report("a", [1, 3])
    c.report("b", 5)
    c.report("never", [])
    first = c.collect()
    assert "never" not in first
    c.report("b", 7)
    c.report("a", torch.zeros(0))
    second = c.collect()
    assert second["a"] == first["a"] == {"num": 2, "mean": 2, "std": 1}
    assert second["b"]["mean"] == 7 and second["b"]["num"] == 1


def test_not_a_number_stays_visible():
    c = Collector()
    c.report("nan", [1, math.nan])
    c.report("inf", [1, math.inf])
    out = c.collect()
    assert math.isnan(out["nan"]["mean"]) and math.isnan(out["nan"]["std"])
    assert out["inf"]["mean"] == math.inf and math.isnan(out["inf"]["std"])
    c.report("nan", 1)
    assert c.collect()["nan"]["mean"] == 1


def test_state_continues_between_and_within_ticks():
    a, rng = Collector(), np.random.default_rng(1)
    a.report("old", 1)
    a.collect()
    a.report("x", rng.normal(size=50))
    b = Collector()
    b.load_state(json.loads(json.dumps(a.state())))
    more = rng.normal(size=10)
    for c in (a, b):
        c.report("x", more)
    assert a.collect() == b.collect()


def test_json_is_strict_and_plain(tmp_path):
    value = {"nan": math.nan, "list": [math.inf, -math.inf, (1, 2.5)], "np": np.float32(np.nan), "array": np.arange(3),
             "tensor": torch.tensor([1.0, math.nan]), 3: None, "path": tmp_path, "bool": True, "text": "NaN"}

    def refuse(token):
        raise ValueError(token)

    assert json.loads(to_json(value), parse_constant=refuse) == {
        "nan": None, "list": [None, None, [1, 2.5]], "np": None, "array": [0, 1, 2], "tensor": [1, None], "3": None,
        "path": str(tmp_path), "bool": True, "text": "NaN"}


def test_stats_lines(tmp_path):
    c = Collector()
    before = time.time()
    for x in (1.0, math.nan):
        c.report("Loss/x", x)
        stats.append_stats(tmp_path / "stats.jsonl", c.collect())
    a, b = lines(tmp_path / "stats.jsonl")
    assert a["Loss/x"] == {"num": 1, "mean": 1, "std": 0} and b["Loss/x"]["mean"] is None
    assert before <= a["timestamp"] <= b["timestamp"] <= time.time()


@pytest.mark.parametrize("tail", ["", '{"half', '{"half' + "x" * 10000])
def test_a_broken_last_line_is_replaced(tmp_path, tail):
    path = tmp_path / "a.jsonl"
    assert lines(path) == []
    append_jsonl(path, {"i": 0})
    with open(path, "a") as f:
        f.write(tail)
    assert lines(path) == [{"i": 0}]
    append_jsonl(path, {"i": 1})
    assert path.read_text() == '{"i": 0}\n{"i": 1}\n'


def test_a_file_of_one_broken_line_starts_anew(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("x" * 5000)
    append_jsonl(path, {"i": 1})
    assert path.read_text() == '{"i": 1}\n'


@pytest.mark.skipif(sys.platform == "win32", reason="uses a POSIX file-size limit")
def test_a_line_that_does_not_fit_on_the_disk_leaves_the_file_as_it_was(tmp_path):
    import signal

    path = tmp_path / "a.jsonl"
    append_jsonl(path, {"i": 0})
    old = path.read_text()
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(old) + 20, limits[1]))  # room for half of the line
    try:
        with pytest.raises(OSError) as e:
            append_jsonl(path, {"i": "x" * 100})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_text() == old and e.value.filename == str(path)


class FakeEvents:
    def __init__(self, folder, purge_step=None):
        self.folder, self.purge_step, self.scalars, self.closed = folder, purge_step, [], False
        self.images = []

    def add_scalar(self, name, value, global_step, walltime):
        self.scalars.append((name, value, global_step, walltime))

    def add_image(self, name, pixels, global_step, dataformats):
        self.images.append((name, pixels.shape, int(pixels.max()), global_step, dataformats))

    def flush(self):
        pass

    def close(self):
        self.closed = True


def test_tensorboard_gets_means_at_whole_kimg_and_absolute_time(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=FakeEvents))
    said = []
    w = StatsWriter(tmp_path, start_nimg=3500, say=said.append)
    events = w.events
    w.write({"Loss/x": {"num": 2, "mean": 1.5, "std": 0.5}}, 4999)
    w.write_metrics({"fid": 12.5}, 4999)
    w.close()
    assert events.folder == str(tmp_path) and events.purge_step == 3 and events.closed and not said
    assert [s[:3] for s in events.scalars] == [("Loss/x", 1.5, 4), ("Metrics/fid", 12.5, 4)]
    assert events.scalars[0][3] == lines(tmp_path / "stats.jsonl")[0]["timestamp"]
    assert abs(events.scalars[1][3] - time.time()) < 60


def test_tensorboard_gets_sheets(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=FakeEvents))
    w = StatsWriter(tmp_path)
    w.write_image("fakes", np.full((4, 6), 9, np.uint8), 2999)
    w.write_image("fakes", np.full((4, 6, 3), 8, np.uint8), 3000)
    assert w.events.images == [("Images/fakes", (4, 6), 9, 2, "HW"), ("Images/fakes", (4, 6, 3), 8, 3, "HWC")]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    StatsWriter(tmp_path).write_image("fakes", np.zeros((4, 6), np.uint8), 0)  # nothing to write to, nothing fails


def test_services_that_are_not_installed_are_named_once(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setitem(sys.modules, "wandb", None)
    said = []
    w = StatsWriter(tmp_path, wandb_project="p", say=said.append)
    for i in range(3):
        w.write({"x": {"num": 1, "mean": i, "std": 0}}, 1000 * i)
        w.write_metrics({"fid": 1.0}, 1000 * i)
    w.close()
    assert len(said) == 1  # TensorBoard is never asked for by name: its absence is not worth a line
    assert "--wandb_proj: Weights & Biases is not installed" in said[0]
    assert len(lines(tmp_path / "stats.jsonl")) == 3


def fake_wandb(calls, fail_at=None):
    class Run:
        def log(self, values, step):
            if len(calls) == fail_at:
                raise RuntimeError("network\nis gone")
            calls.append((values, step))

        def finish(self):
            calls.append("finish")

    def init(**kwargs):
        if kwargs["project"] == "refused":
            raise RuntimeError("no key")
        calls.append(kwargs)
        return Run()

    return types.SimpleNamespace(init=init, Settings=lambda **kwargs: kwargs)


def test_wandb_gets_means_and_metrics_on_request_only(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setitem(sys.modules, "wandb", fake_wandb(calls))
    StatsWriter(tmp_path, tensorboard=False).close()
    assert not calls
    w = StatsWriter(tmp_path, tensorboard=False, wandb_project="p", wandb_args={"name": "n"})
    w.write({"x": {"num": 1, "mean": 3.0, "std": 0}}, 500)
    w.write_metrics({"fid": 1.0}, 500)
    w.close()
    assert calls[0]["project"] == "p" and calls[0]["name"] == "n"
    assert calls[1:] == [({"x": 3.0}, 500), ({"Metrics/fid": 1.0}, 500), "finish"]


@pytest.mark.parametrize("project, fail_at, message", [
    ("refused", None, "did not start, nothing is sent: no key"), ("p", 1, "nothing more is sent: network")])
def test_a_failing_wandb_never_stops_training(tmp_path, monkeypatch, project, fail_at, message):
    said = []
    monkeypatch.setitem(sys.modules, "wandb", fake_wandb([], fail_at))
    w = StatsWriter(tmp_path, tensorboard=False, wandb_project=project, say=said.append)
    for i in range(3):
        w.write({"x": {"num": 1, "mean": 3.0, "std": 0}}, i)
    w.close()
    assert len(said) == 1 and said[0].endswith(message)
    assert len(lines(tmp_path / "stats.jsonl")) == 3


@pytest.mark.gpu
def test_reports_do_not_wait_for_the_gpu():
    c = Collector()
    x = torch.ones(1000, device="cuda")
    c.report("x", x)  # first-use allocations and kernel loading
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        c.report("x", x)
        c.report("y", x.half())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    c.report("x", 4.0)
    assert c.collect()["x"] == pytest.approx({"num": 2001, "mean": 2004 / 2001, "std": 0.06702}, rel=1e-3)
