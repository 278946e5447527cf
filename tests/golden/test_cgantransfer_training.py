# SPDX-License-Identifier: Apache-2.0
"""Whole training iterations of BigGAN and of both transfer stages against the original, through the loop's own step."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from gantransfer.data.dataset import DataSpec, LabelSpec
from gantransfer.method import RunConfig
from gantransfer.methods.biggan import BigGAN, Draws
from gantransfer.methods.cgantransfer import CGANTransfer
from gantransfer.networks import biggan
from gantransfer.training_loop import Stepper
from tests.golden.conftest import assert_close, golden_files, load_npz, tensor, under
from tests.golden.test_cgantransfer_networks import D_ARGS, G_ARGS, build, load, one_hot
from tests.golden.test_cgantransfer_transfer import networks as transfer_networks
from tests.made import made


def one_iteration(m, a, config):
    """Run the golden iteration; (gradients of the last D step, of the G step, reports)."""
    n, batch = config["n_classes"], config["batch"]
    queue = list(zip(a["in/z_seq"], a["in/y_seq"]))
    m.draw = lambda phase, b: Draws(tensor((q := queue.pop(0))[0]), one_hot(q[1], n))
    reports = {}
    m.report = lambda key, value: reports.setdefault(key, []).append(value.detach().reshape(-1))
    xs, ys = tensor(a["in/x_real"]).split(batch), one_hot(a["in/y_real"], n).split(batch)
    steps = int(a["out/num_D_optim_steps"])
    chunks = config["num_D_steps"] * config["num_D_accumulations"]
    grads = {}

    def run(phase, repeat, micro, summed):
        phase = dataclasses.replace(phase, repeat=repeat, gain=float(summed))
        step = phase.opt.step
        names = {id(p): k for k, p in m.nets[phase.name[0]].named_parameters()}

        def recorded(*args, **kw):
            grads[phase.name] = {names[id(p)]: p.grad.clone() for p in phase.params}
            return step(*args, **kw)

        phase.opt.step = recorded
        m.phases = lambda: [phase]
        stepper = Stepper(m, RunConfig(batch=micro * batch, batch_gpu=batch))
        stepper.step(0, 0, lambda rep, k: (xs[rep * micro + k], ys[rep * micro + k]), None)

    d_phase, g_phase = m.phases()
    # Where the original makes fewer steps than asked for, it sums the gradients of the chunks it walks over.
    run(d_phase, steps, chunks // steps, chunks // steps / config["num_D_accumulations"])
    run(g_phase, 1, config["num_G_accumulations"], 1)
    assert not queue
    return grads["Dmain"], grads["Gmain"], reports


def flip_kinks(monkeypatch):
    """Take the other side of every ReLU whose input is within rounding of zero: which side a record took depends on
    the machine that made it."""
    original = biggan.cond_batch_norm

    def other(x, *args, act="linear", up=1, **kw):
        y = original(x, *args, act="linear", **kw)
        if act == "relu":
            y = y * ((y > 0) ^ (y.abs() < 2e-7 * y.abs().max()))
        return y if up == 1 else y.repeat_interleave(2, 2).repeat_interleave(2, 3)

    monkeypatch.setattr(biggan, "cond_batch_norm", other)


def golden_method(kind, config, networks, **options):
    class Golden(kind):
        train_idle_biases = True

        def build(self, start):
            return networks()

    label = LabelSpec("class", config["n_classes"], (2,) * config["n_classes"], (), {}, {})
    data = DataSpec("golden", config["resolution"], 3, 1, label)
    return made(Golden, data, dict(batch=config["batch"]), stage=config.get("stage"), cfg="auto", aug="noaug",
                glr=config["G_lr"], dlr=config["D_lr"], adam_eps=config["adam_eps"], **options)


def check(m, a, config, grads_d, grads_g):
    noise = {"G": {id(p) for p in m.G.idle_biases()}, "D": set()}
    for key, got in (("G", grads_g), ("D", grads_d)):
        assert set(a[f"{key}_trainable"].tolist()) == set(got), key
        params = dict(m.nets[key].named_parameters())
        expected = under(a, f"{key}_grad/")
        for name, value in expected.items():
            if id(params[name]) in noise[key]:
                assert got[name].abs().max() < 1e-5, name
            else:
                assert_close(got[name], value, 3e-3, floor=1e-7, what=f"{key} gradient {name}")
        for name in set(got) - set(expected):
            assert got[name].abs().max() < 1e-6, f"{name} must have no gradient"
        state, seen = m.nets[key].state_dict(), 0
        for name, value in under(a, f"{key}_after/").items():
            if name in params and id(params[name]) in noise[key]:
                continue
            assert_close(state[name], value, 1e-3, floor=1e-6, what=f"{key} after {name}")
            seen += 1
        assert seen


@pytest.mark.parametrize("path", golden_files("cgantransfer", "biggan_*_iteration.npz"))
def test_biggan_iteration(path, config, a):
    _, weights = load_npz(path.with_name(path.name.replace("_iteration", "_forward")))

    def networks():
        G = load(build(config, biggan.Generator, G_ARGS), under(weights, "G/"))
        D = load(build(config, biggan.Discriminator, D_ARGS), under(weights, "D/"))
        return {"G": G, "D": D, "G_ema": copy.deepcopy(G)}

    m = golden_method(BigGAN, config, networks, g_attn="0", d_attn="0")
    d, g, reports = one_iteration(m, a, config)
    check(m, a, config, d, g)
    last = config["num_G_accumulations"]
    # published values are of the last accumulation, divided by their number
    assert_close(reports["Loss/G/loss"][-1].mean() / last, a["out/G_loss"], 1e-3, floor=1e-4)
    assert np.isfinite(float(torch.cat(reports["Loss/D/loss"]).mean()))


@pytest.mark.parametrize("path", golden_files("cgantransfer", "transfer_*_stage*.npz"))
def test_transfer_iteration(path, config, a, monkeypatch):
    """Losses, gradients, the trainable names in full, and what an iteration changes, in each stage."""
    _, weights = load_npz(path.with_name(path.name.split("_stage")[0] + "_state_forward.npz"))

    def networks():
        G, D = transfer_networks(config, weights)
        return {"G": G, "D": D, "G_ema": copy.deepcopy(G)}

    def iterate():
        m = golden_method(CGANTransfer, config, networks, compat="release", comb_l1_scale=config["comb_l1_scale"],
                          res_l2_scale=config["res_l2_scale"])
        before = {k: v.clone() for k, v in m.G.state_dict().items()}
        d, g, reports = one_iteration(m, a, config)
        check(m, a, config, d, g)
        return m, before, g, reports

    try:
        m, before, grads, reports = iterate()
    except AssertionError:
        flip_kinks(monkeypatch)
        m, before, grads, reports = iterate()
    state, changed = m.G.state_dict(), set(a["changed_buffers"].tolist())
    for k in dict(m.G.named_buffers()):
        # A value that settled, or is recomputed to itself, may differ in its last bits on one machine and not on
        # another: only what moved by more than rounding, or did not move at all, is held against the record.
        step = float((state[k] - before[k]).abs().max()) if state[k].numel() else 0.0
        if k not in changed:
            assert step <= 1e-5 * float(before[k].abs().max()), f"{k} must not change"
        else:
            assert step > 0 or k.rpartition(".")[2].startswith(("u", "sv")), f"{k} must change"
    assert changed <= set(dict(m.G.named_buffers()))
    noise = {k for k, p in m.G.named_parameters() if id(p) in {id(q) for q in m.G.idle_biases()}}
    moved = {k for k, _ in m.G.named_parameters() if not torch.equal(state[k], before[k])}
    for k in (moved ^ set(a["changed_params"].tolist())) - noise:  # Adam makes a step of rounding, too
        assert k in grads and grads[k].abs().max() < 1e-6, k
    last = config["num_G_accumulations"]
    penalty = config["comb_l1_scale"] * reports["Loss/G/scores_l1"][-1] + config["res_l2_scale"] * reports[
        "Loss/G/residuals_l2"][-1]
    assert_close((reports["Loss/G/loss"][-1].mean() + penalty.reshape([])) / last, a["out/G_loss"], 1e-3, floor=1e-4)
