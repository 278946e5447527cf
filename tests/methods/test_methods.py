# SPDX-License-Identifier: Apache-2.0
"""What each method promises about its losses and trained parameters. Golden numbers are compared in tests/golden."""

import pytest
import torch
import torch.nn.functional as F

from gantransfer.data.dataset import DataSpec, LabelSpec
from gantransfer.method import Batch, Graph, RunConfig
from gantransfer.methods import METHODS, TRAIN
from gantransfer.sampler import LabelSource
from gantransfer.training_loop import Stepper
from tests.made import made, train_only

DATA = DataSpec("x", 16, 1, 40, LabelSpec("class", 4, (10,) * 4, (), {}, {}))


def make(name, run=None, **options):
    m = made(name, DATA, {**dict(batch=8), **(run or {})},
             **{**dict(cfg="tiny", cbase=64, cmax=8, z_dim=8, w_dim=8, diffaug="none"), **options})
    m.noise_mode = "const"
    return m


def batch(seed=0, n=8):
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 1, 16, 16, generator=g) * 2 - 1
    c = F.one_hot(torch.arange(n) % 4, 4).float()
    source = LabelSource(DATA.label, "uniform")
    return Batch(x, c, g, g, lambda k: source.draw(k, g), 0)


def grads_of(m, phase, b, key):
    train_only(m, m.nets[key].parameters())
    for term in m.loss(phase, b):
        term.mean().backward()
    return {n: p.grad for n, p in m.nets[key].named_parameters()}


@pytest.mark.parametrize("name", TRAIN)
def test_a_runs_name_says_its_method(name):
    """Alone the base is not named, and UTLO by its two options, both as published."""
    kind, label = METHODS[name], LabelSpec("none") if name == "alae" else DATA.label
    if name == "ccgan":
        label = LabelSpec("value", 1)
    data, run = DataSpec("x", 16, 1, 40, label), RunConfig(batch=8, kimg=1000)
    o = kind.Options()
    kind.resolve(o, run, data)
    said = {"stylegan2": "x-cond-auto1", "utlo": "-res-uc8-add-uc-alpha-1"}.get(name, f"-{name}")
    assert said in kind.run_name(o, {}, run, data)


@pytest.mark.parametrize("name", [n for n, m in TRAIN.items() if issubclass(m, METHODS["stylegan2"])
                                  and n not in ("styletransfer", "hypermod", "mind_tune")])
def test_phases_train_their_own_network_only(name):
    """Every step changes G, D and G_ema, and each phase's optimiser holds exactly one network's parameters."""
    m = make(name)
    own = {k: {id(p) for p in m.nets[k].parameters()} for k in ("G", "D")}
    for phase in m.phases():
        assert {id(p) for p in phase.params} == own[phase.name[0]], phase.name
        second_order = phase.name.endswith("reg") or (phase.name == "Gboth" and m.opts.pl_weight > 0)
        assert phase.graph == (None if name == "transitional" else Graph(("second order",) * second_order))
    before = {k: [p.clone() for p in v.parameters()] for k, v in m.nets.items()}
    stepper = Stepper(m, m.run)
    b = batch()
    for i in range(2):
        stepper.step(i, 8 * i, lambda rep, k: (b.x, b.c), lambda n, g: b.draw_c(n))
        m.end_step(8 * i, 8)
    for k, v in m.nets.items():
        moved = sum(not torch.equal(p, q) for p, q in zip(v.parameters(), before[k]))
        assert moved > 0.8 * len(before[k]), k
        assert not any(p.requires_grad for p in v.parameters())


def test_freeze_d_keeps_the_highest_layers():
    m = make("stylegan2", freezed=4)
    frozen = {n: t.clone() for n, t in m.D.named_buffers() if n.endswith(("weight", "bias"))}
    assert {n.split(".")[0] for n in frozen} == {"b16"} and len(frozen) >= 5
    stepper, b = Stepper(m, m.run), batch()
    stepper.step(0, 0, lambda rep, k: (b.x, b.c), lambda n, g: b.draw_c(n))
    assert all(torch.equal(t, frozen[n]) for n, t in m.D.named_buffers() if n in frozen)


def test_lecam_pulls_towards_the_other_mean():
    """Squared distance of reals to the mean of fakes, of fakes to the mean of reals, times the weight."""
    plain, reg = make("stylegan2"), make("stylegan2", lecam=0.5)
    reg.steps, reg.lecam = 1, torch.tensor([2.0, -3.0])
    a, b = (sum(t.detach() for t in m.loss("Dmain", batch())) for m in (plain, reg))
    logits = {}
    plain.report = lambda k, v: logits.setdefault(k, v)
    list(plain.loss("Dmain", batch()))
    fake, real = (logits[f"Loss/scores/{kind}"] for kind in ("fake", "real"))
    assert torch.allclose(b - a, 0.5 * ((fake - 2.0) ** 2 + (real + 3.0) ** 2), atol=1e-4)
    reg.commit()
    want = torch.tensor([2.0, -3.0]) * 0.99 + 0.01 * torch.tensor(
        [float(logits["Loss/scores/real"].mean()), float(logits["Loss/scores/fake"].mean())])
    assert torch.allclose(reg.lecam, want, atol=1e-4)


def test_path_length_with_one_image():
    m = make("stylegan2", run=dict(batch=1), pl_weight=2.0, mbstd_group=1)
    (term,) = m.loss("Greg", batch(n=1))
    assert term.shape == (1,) and torch.isfinite(term).all()
