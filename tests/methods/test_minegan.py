# SPDX-License-Identifier: Apache-2.0
"""MineGAN: what rests in each stage, where it starts, what it refuses."""

import copy

import pytest
import torch

from dnnlib.util import UserError
from gantransfer.data.dataset import DataSpec
from gantransfer.methods import METHODS
from tests.made import moved_by
from tests.methods.test_cgantransfer import NEW, OLD, latents, make, source, spec, step

source = source  # the fixture: a BigGAN of five classes, with a shared embedding and without


@pytest.fixture(scope="module")
def mined(source):
    return step(make("minegan", spec(NEW), source), 3).snapshot(24)


def test_starts_at_the_sources_mean_class(source):
    m = make("minegan", spec(NEW), source)
    old = source.build("G_ema").eval()
    z = latents(old, NEW)
    m.G_ema.eval()
    assert (m.G_ema(z, torch.eye(NEW)) - old(z, torch.full([NEW, OLD], 1 / OLD))).abs().max() < 1e-6
    rows = source.build("D").classes.weight.mean(0)
    assert torch.allclose(m.D.embed.weight, rows.expand(NEW, -1))


def test_stage_mine_trains_the_miners_only(source, mined):
    m = make("minegan", spec(NEW), source, miner_lr=0.5)
    assert [g["lr"] for g in m.phases()[1].opt.param_groups] == [0.5]
    moved = moved_by(lambda: step(m), m.G)
    miners = {k for k in m.G.state_dict() if k.startswith(("miner_z.", "miner_c."))}
    assert len(miners) == 8
    assert moved == miners | {k for k in m.G.state_dict() if k.endswith(("stored_mean", "stored_var"))}
    # classes differ now, and images follow from the snapshot alone
    images = METHODS["minegan"].sampler_from(mined)([0] * NEW, torch.eye(NEW))
    assert not torch.equal(images[0], images[1])


def test_stage_tune_trains_everything(mined):
    m = make("minegan", spec(NEW), mined, "tune", miner_lr=0.5)
    groups = m.phases()[1].opt.param_groups
    assert [g["lr"] for g in groups] == [0.5, m.opts.glr] and len(groups[0]["params"]) == 8
    moved = moved_by(lambda: step(m), m.G)
    assert {"miner_z.fc1.weight", "miner_c.fc0.bias", "linear.weight", "output_layer.0.gain"} <= moved
    idle = {n for n, p in m.G.named_parameters() if any(p is q for q in m.G.idle_biases())}
    assert {n for n, _ in m.G.named_parameters()} - moved == idle


@pytest.mark.parametrize("snapshot, data, stage, says", [
    (None, spec(NEW), "mine", "--source"), ("source", spec(NEW), "tune", "goes on from minegan"),
    ("mined", spec(NEW), "mine", "goes on from biggan"), ("mined", spec(2), "tune", "mined 3 classes"),
    ("source", spec(NEW, 32), "mine", "16 pixels"), ("NaN", spec(NEW), "mine", "not finite"),
    ("source", DataSpec("x", 16, 1, 9), "mine", "--cond")])
def test_bad_input(source, mined, snapshot, data, stage, says):
    snap = {"source": source, "mined": mined, "NaN": copy.deepcopy(source)}.get(snapshot)
    if snapshot == "NaN":
        snap.nets["G"].state["linear.bias"][3] = float("nan")
    with pytest.raises(UserError, match=says) as e:
        make("minegan", data, snap, stage)
    assert "\n" not in str(e.value)
