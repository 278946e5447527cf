# SPDX-License-Identifier: Apache-2.0
"""Run folders as values: whole, going on, killed, damaged."""

import json
import math

import numpy as np
import pytest

from dnnlib.run_folder import hold
from dnnlib.util import UserError
from gantransfer.metrics import rating
from gantransfer.report import page, read


def test_a_run_as_it_was_planted(planted):
    run = read.read(planted)
    assert run.kimg == 5 and len(run.ticks) == 6, "the half-written last line does not count"
    x, y = run.series("Loss/G/loss")
    assert x.tolist() == [0, 1, 2, 3, 4, 5] and math.isnan(y[2])
    assert np.delete(y, 2).tolist() == [1.5, 2.5, 4.5, 5.5, 6.5]
    assert (run.best.snapshot, run.best.value) == ("network-snapshot-000002.pkl", 41.26)
    assert run.data.label.counts == (16, 8, 4, 2)
    assert any(n.startswith("Loss/G/loss is not a finite number in 1 of 6 ticks, first at 2 kimg") for n in run.notes)


def test_best_is_what_RUN_best_means(planted):
    (planted / "network-snapshot-000002.pkl").unlink()
    run = read.read(planted)
    assert run.best.snapshot == "network-snapshot-000004.pkl"
    assert read.chosen_snapshot(run) == planted / run.best.snapshot
    assert rating.resolve(f"{planted}:best") == str(planted / run.best.snapshot)


def test_how_far_it_came(planted):
    assert read.read(planted).state == "stopped, or killed: 5 of 8 kimg"
    (planted / "log.txt").write_text("tick 5\nStopped at 5.0 kimg: class_fd has not improved for 3 snapshots\n")
    assert read.read(planted).state.startswith("Stopped at 5.0 kimg: class_fd has not improved")
    held = hold(planted)
    try:
        assert read.read(planted).state.startswith("training now: 5 of 8 kimg (process")
    finally:
        held.release()
    options = (planted / "training_options.json").read_text()
    (planted / "training_options.json").write_text(options.replace('"total_kimg": 8', '"total_kimg": 5'))
    assert read.read(planted).state == "finished: 5 of 5 kimg"


def test_a_run_with_little_in_it_is_read_and_the_rest_is_said(planted):
    for path in planted.iterdir():
        if path.name != "stats.jsonl":
            path.unlink()
    run = read.read(planted)
    assert run.kimg == 5 and run.data is None and run.best is None
    assert {"there is no training_options.json", "there is no environment.json"} <= set(run.notes)
    (planted / "stats.jsonl").write_text("")
    assert "no tick is logged yet (stats.jsonl)" in read.read(planted).notes


def test_what_is_no_run(planted):
    for path in planted.iterdir():
        path.unlink()
    with pytest.raises(UserError, match="is no run"):
        read.read(planted)
    (planted / "training_options.json").write_text(json.dumps(dict(
        method=["a"], metrics=[{}], stage=4, total_kimg="many", options=[1], training_set_kwargs=4, reference=5,
        best={})))
    (planted / "environment.json").write_text(json.dumps(dict(command="x", gpus=5, data_fingerprint=3)))
    odd = read.read(planted)
    assert {n.partition(" is left out")[0] for n in odd.notes if "is left out" in n} == {
        f"training_options.json: {k}" for k in ("method", "stage", "best")} | {
        f"environment.json: {k}" for k in ("command", "gpus")}
    assert "planted" in page.page([odd], [])
    (planted / "training_options.json").write_text("{half")
    with pytest.raises(UserError, match="training_options.json is not valid JSON"):
        read.read(planted)
