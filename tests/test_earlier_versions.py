# SPDX-License-Identifier: Apache-2.0
"""Run folders made by version 0.1.0, one of every method: they load, make images, are measured, and go on.

`fixtures/v0.1.0/runs.zip` holds them with their three data sets of 18 digits or fewer; the flags of each are in its
environment.json. Paths in them are relative to the folder they were made in.
"""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import gantransfer
from dnnlib.util import UserError
from gantransfer import snapshot, training_state
from gantransfer.commands import calc_metrics, distill, train
from gantransfer.methods import METHODS
from gantransfer.training_loop import find_states

VERSIONS = sorted((Path(__file__).parent / "fixtures").glob("v*/runs.zip"))
RUNS = ("alae", "biggan", "ccgan", "cgantransfer", "encoder", "hypermod", "mind2mind", "mind_tune", "minegan",
        "stylegan2", "styletransfer", "transitional", "uncond", "utlo")
STAGES = dict(  # of distill, stopped by SIGTERM
    teacher="--data=set.zip --test=set.zip --arch=conv4-8 --crop=1 --kimg=0.24 --batch=8 --tick=0.016 --snap=1 "
            "--threads=1 --seed=1",
    ratio="--data=set.zip --network=biggan/network-snapshot-000000.pkl --teacher=distill/teacher.pkl --width=tiny "
          "--kimg=0.24 --batch=8 --tick=0.016 --snap=1 --threads=1 --seed=1")


@pytest.fixture(scope="module", params=VERSIONS, ids=lambda p: p.parent.name)
def made(request, tmp_path_factory):
    """The folder that the runs were made in."""
    folder = tmp_path_factory.mktemp("made")
    with zipfile.ZipFile(request.param) as z:
        z.extractall(folder)
    return folder


@pytest.fixture
def here(made, tmp_path, monkeypatch):
    """A copy of it as the current folder."""
    shutil.copytree(made, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def state_of(folder):
    return training_state.read(find_states(folder)[0])


def flags_of(run):
    """What was typed, as in environment.json."""
    return json.loads((Path(run) / "environment.json").read_text())["command"][1:]


def tensors(state):
    return {f"{n}.{k}": t.double() for n, net in state["nets"].items() for k, t in net.items() if t.is_floating_point()}


def assert_went_on(before, after):
    """The weights moved, by little: they were neither left alone nor made anew."""
    old, new = tensors(before), tensors(after)
    assert old.keys() == new.keys()
    moved = sum(float((new[k] - old[k]).square().sum()) for k in old)
    size = sum(float(t.square().sum()) for t in old.values())
    assert 0 < moved < 0.3 * size


def test_every_method_has_a_run(made):
    kept = {json.loads(p.read_text())["method"] for p in made.glob("**/training_options.json")}
    assert kept >= METHODS.keys()
    assert {p.parent.name for p in made.glob("*/training_options.json")} == set(RUNS)


@pytest.mark.parametrize("run", RUNS)
def test_it_loads_and_makes_images(here, run):
    snap = gantransfer.load(snapshot.find_snapshots(Path(run))[-1])
    for name in snap.nets:
        assert isinstance(snap.build(name), torch.nn.Module)
    sampler = snap.sampler()
    label = sampler.spec.label
    images = sampler(seeds=[0, 1, 2, 3], c=torch.eye(label.dim)[[0] * 4] if label.dim else None)
    assert images.dtype == torch.uint8 and images.shape == (4, 1, 16, 16) and images.float().std() > 1
    labels = dict(uncond=0, alae=0, encoder=0, mind2mind=0, mind_tune=0, ccgan=1, cgantransfer=2, minegan=2,
                  styletransfer=2)
    assert label.dim == labels.get(run, 3)


@pytest.mark.parametrize("run", RUNS)
def test_it_is_measured(here, run):
    calc_metrics.main.main(["--metrics=smoke_fd_pixel16_32", f"--network={snapshot.find_snapshots(Path(run))[-1]}"],
                           standalone_mode=False)
    rows = [json.loads(x) for x in (Path(run) / "metric-smoke_fd_pixel16_32.jsonl").read_text().splitlines()]
    assert len(rows) == 1 and all(np.isfinite(v) for v in rows[0]["results"].values())


@pytest.mark.parametrize("run", RUNS)
def test_it_continues(here, run):
    before = state_of(Path(run))
    kimg = json.loads((Path(run) / "training_options.json").read_text())["total_kimg"] + 0.016
    train.main.main([*flags_of(run), f"--kimg={kimg:g}", f"--resume={run}"], standalone_mode=False)
    after = state_of(Path(run))
    assert before["cur_nimg"] == round(kimg * 1000) - 16 and after["cur_nimg"] == round(kimg * 1000)
    assert_went_on(before, after)
    assert gantransfer.load(snapshot.find_snapshots(Path(run))[-1]).cur_nimg == after["cur_nimg"]


@pytest.mark.parametrize("run", ("ccgan", "hypermod", "mind2mind", "stylegan2"))
def test_another_flag_is_noticed(here, run):
    """Continuing compares with what 0.1.0 wrote: not everything passes."""
    with pytest.raises(UserError, match="random_seed=1, not 2"):
        train.main.main([*flags_of(run), "--kimg=1", "--seed=2", f"--resume={run}"], standalone_mode=False)


@pytest.mark.parametrize("stage", STAGES)
def test_stages_of_distill_continue(here, stage):
    folder = Path("distill") / stage
    before = state_of(folder)
    distill.main.main([stage, *STAGES[stage].split(), f"--outdir={folder}"], standalone_mode=False)
    after = state_of(folder)
    assert 0 < before["cur_nimg"] < 100 and after["cur_nimg"] == 240
    assert after["tick"] > before["tick"] and tensors(after).keys() == tensors(before).keys()
    snap = snapshot.load(folder / f"{stage}.pkl")
    assert all(isinstance(snap.build(name), torch.nn.Module) for name in snap.nets)
    assert json.loads((folder / "results.json").read_text())["images_seen"] == 240
