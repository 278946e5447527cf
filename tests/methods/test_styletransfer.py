# SPDX-License-Identifier: Apache-2.0
"""Scores and residuals on StyleGAN2's styles: what rests, what old classes are, what is refused."""

import copy

import numpy as np
import pytest
import torch

from dnnlib.util import UserError
from gantransfer.data.dataset import DataSpec, LabelSpec
from gantransfer.methods import METHODS
from gantransfer.networks import styletransfer
from gantransfer.pictures.mixing import mixing_sheet
from tests.made import moved_by
from tests.methods.test_cgantransfer import NEW, OLD, latents, spec, step
from tests.methods.test_cgantransfer import make as make_any

SMALL = dict(cbase=64, cmax=8, d_reg_interval=0, gamma=0.1)


def make(name, data, source=None, **options):
    return make_any(name, data, source, **{**SMALL, **options})


@pytest.fixture(scope="module")
def source():
    return step(make("stylegan2", spec(OLD), z_dim=10, w_dim=12), 3).snapshot(24)


@pytest.fixture(scope="module")
def added(source):
    return step(make("styletransfer", spec(NEW), source), 3).snapshot(24)


def layer_names(G):
    return [name for name, m in G.synthesis.named_modules() if hasattr(m, "affine")]


def test_tables_are_the_old_classes_centred_styles(source):
    old = source.build("G_ema")
    G = styletransfer.extend(old, OLD)
    z = torch.randn(styletransfer.SAMPLES, G.z_dim, generator=torch.Generator().manual_seed(0))
    w = torch.stack([old.mapping(z, row.expand(len(z), -1))[:, 0].mean(0) for row in torch.eye(OLD)])
    for layer, name in zip(G.style_layers(), layer_names(G)):
        s = old.synthesis.get_submodule(name).affine(w)
        assert torch.allclose(layer.affine.table, (s - s.mean(0)).t(), atol=1e-5), name
        assert layer.affine.table.sum(1).abs().max() < 1e-4
    assert len(G.style_layers()) == 2 * len(G.synthesis.block_resolutions) - 1 + len(G.synthesis.block_resolutions)
    # one-hot scores put new class k where old class k is, on average
    with torch.no_grad():
        for p in G.score_parameters():
            p.copy_(torch.eye(OLD))
    mean = torch.full([1, OLD], 1 / OLD)
    x = latents(G, 1)
    for layer in G.style_layers():
        w_mean = G.mapping(x, mean)[:, 0]
        got = layer.affine(torch.cat([w_mean.expand(OLD, -1), torch.eye(OLD)], 1))
        assert torch.allclose(got, layer.affine(torch.cat([w_mean, torch.zeros(1, OLD)], 1)) + layer.affine.table.t(),
                              atol=1e-5)


def test_old_classes_stay_and_only_scores_and_residuals_move(source, added):
    old, new = METHODS["stylegan2"].sampler_from(source), METHODS["styletransfer"].sampler_from(added)
    c = torch.eye(OLD)
    assert torch.equal(old(range(OLD), c), new(range(OLD), c, label_set="old"))
    images = new([0] * NEW, torch.eye(NEW))
    assert not torch.equal(images[0], images[1])
    m = make("styletransfer", spec(NEW), source)
    assert moved_by(lambda: step(m), m.G) == {
        f"synthesis.{n}.affine.{p}" for n in layer_names(m.G) for p in ("scores", "residual")}
    assert len(m.trainable("G")) == 2 * len(layer_names(m.G))


def test_penalties_enter_the_loss(source):
    losses = {}
    for scale in (0.0, 100.0):
        m = make("styletransfer", spec(NEW), source, comb_l1_scale=scale, res_l2_scale=scale)
        with torch.no_grad():
            for p in m.G.score_parameters():
                p.fill_(0.5)
            for p in m.G.residual_parameters():
                p.fill_(0.1)
        seen = {}
        m.report = lambda k, v, seen=seen: seen.setdefault(k, v.detach())
        step(m, 1)
        losses[scale] = float(seen["Loss/G/loss"].mean())
    layers = len(layer_names(m.G))
    assert losses[100.0] - losses[0.0] == pytest.approx(100 * layers * (0.5 + 0.01), rel=1e-3)


def test_mixing_and_path_lengths_are_those_of_the_new_classes(added):
    """Also where there are as many of them as of old ones, whose labels the mapping network takes."""
    s = METHODS["styletransfer"].sampler_from(added)
    c = torch.eye(NEW)[1:2]
    sheet = mixing_sheet(s, [1], [2], [0], c)
    assert np.array_equal(sheet[1:3], np.concatenate([s([k], c, noise_mode="const").numpy() for k in (2, 1)]))
    z, labels = torch.randn(NEW, s.z_dim, generator=torch.Generator().manual_seed(0)), torch.eye(NEW)
    want = s.images(z, labels, None, noise_mode="const")
    assert torch.equal(s.network.synthesis(s.network.mapping(z, labels), noise_mode="const"), want)
    assert (want[0] - want[1]).abs().max() > 1e-4


@pytest.mark.parametrize("change, data, options, says", [
    ("no source", spec(NEW), {}, "--source"), (dict(method="utlo"), spec(NEW), {}, "class-conditional stylegan2"),
    ("no classes", spec(NEW), {}, "at least two"), ({}, spec(NEW, 32), {}, "16 pixels"),
    ({}, DataSpec("x", 16, 1, 9, LabelSpec()), {}, "--cond"), ({}, spec(NEW), dict(pl_weight=2.0), "--pl_weight")])
def test_bad_input(source, change, data, options, says):
    snap = copy.deepcopy(source)
    if change == "no classes":
        snap.nets["G_ema"].kwargs["c_dim"] = 0
    elif change != "no source":
        vars(snap).update(change)
    with pytest.raises(UserError, match=says) as e:
        make("styletransfer", data, None if change == "no source" else snap, **options)
    assert "\n" not in str(e.value)
