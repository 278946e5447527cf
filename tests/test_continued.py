# SPDX-License-Identifier: Apache-2.0
"""A run that was stopped between two ticks and continued records what the uninterrupted one does, in every method."""

import json
import os
import re
import signal

import pytest
import torch

from gantransfer import snapshot, training_loop
from tests import split_batch
from tests.conftest import write_blobs

RUN = dict(kimg=0.064, tick=0.024, snap=1)  # 8 steps; ticks end after the steps 1, 3, 6, 8
TIMES = re.compile(r"Timing/|Resources/|seconds|timestamp")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("continued")
    write_blobs(folder, 20)
    return folder


def train(folder, name, run_dir, stop_after=None, state=None):
    m, dataset, run = split_batch.made(folder, split_batch.CASES[name], 1, state=state, **RUN)
    torch.manual_seed(0 if state is None else 123)  # global generators must not matter
    honest = m.end_step

    def end_step(cur_nimg, batch_size):
        honest(cur_nimg, batch_size)
        if stop_after is not None and cur_nimg + batch_size == stop_after * split_batch.BATCH:
            os.kill(os.getpid(), signal.SIGTERM)

    def evaluate(method, cur_nimg, path):
        values = method.evaluate(cur_nimg)
        with open(run_dir / "metric-own.jsonl", "a") as f:
            f.write(json.dumps(dict(results=values, kimg=cur_nimg / 1000)) + "\n")
        return values

    m.end_step = end_step
    out = training_loop.Outputs(run_dir, images=False, network_ticks=1, evaluate=evaluate)
    return training_loop.run(m, dataset, run, out, state)


def flat(value, name=""):
    """(name, leaf) of nested records; times are left out."""
    if TIMES.search(name):
        return
    if isinstance(value, dict):
        for k, v in value.items():
            yield from flat(v, f"{name}.{k}")
    elif isinstance(value, list | tuple):
        yield f"{name} length", len(value)
        for i, v in enumerate(value):
            yield from flat(v, f"{name}[{i}]")
    else:
        yield name, value


def recorded(run_dir):
    """Everything that a run leaves, but times."""
    found = {}
    for path in snapshot.find_snapshots(run_dir):
        snap = snapshot.load(path)
        fields = {k: v for k, v in vars(snap).items() if k != "nets"}
        fields["nets"] = {k: dict(cls=r.cls, kwargs=r.kwargs, state=r.state) for k, r in snap.nets.items()}
        found |= dict(flat(fields, path.name))
    for path in run_dir.glob("*.jsonl"):
        found |= dict(flat([json.loads(line) for line in path.read_text().splitlines()], path.name))
    return found


@pytest.mark.parametrize("name", [
    "stylegan2", "tail", "utlo", "tail utlo", "transitional", "biggan", "tail biggan", "cgantransfer", "minegan",
    "styletransfer", "hypermod", "alae", "encoder", "mind2mind", "mind_tune", "ccgan code", "teacher",
    "head", "student fitnet", "ratio features", "ratio"])
def test_a_continued_run_records_what_the_uninterrupted_one_does(folder, name, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train(folder, name, whole) == 64
    assert train(folder, name, parts, stop_after=5) == 40
    assert train(folder, name, parts, state=training_loop.find_states(parts)[0]) == 64
    a, b = recorded(whole), recorded(parts)
    assert a.keys() == b.keys(), sorted(set(a) ^ set(b))[:9]
    if name == "mind2mind":  # a continued run could forget what is known of its encoder
        assert any(k.endswith(".extra.accepted") for k in b)
    if name == "tail":  # p has moved before the stop
        assert any(k.endswith("Progress/augment.mean") and 0 < v < 1 for k, v in a.items())
    assert any("stats.jsonl" in k for k in a) and any(".nets." in k for k in a)
    differ = [k for k, v in a.items() if not (torch.equal(v, b[k]) if isinstance(v, torch.Tensor) else
                                              v == b[k] or v != v and b[k] != b[k])]
    assert not differ, [(k, a[k], b[k]) if not isinstance(a[k], torch.Tensor) else k for k in differ[:9]]
