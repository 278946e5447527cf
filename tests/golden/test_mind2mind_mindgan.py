# SPDX-License-Identifier: Apache-2.0
"""MindGAN: networks, every loss and its gradients, and the published loop, number for number."""

import numpy as np
import pytest
import torch

from gantransfer.data.dataset import DataSpec
from gantransfer.methods.mind2mind import Draws
from gantransfer.networks import alae
from gantransfer.snapshot import NetRecord, Snapshot
from gantransfer.training_loop import Stepper
from tests.golden.conftest import assert_close, golden_files, tensor, tensors, under
from tests.golden.training import batch_of
from tests.made import made

FILES = golden_files("mind2mind", "mindgan*.npz")


def source(config):
    """The narrowest auto-encoder with as many layers and latents as the golden one."""
    size, layers = config["latent_dim"], config["num_ws"] // 2
    nets = {"E": alae.Encoder(size, [1] * (layers + 1), 1), "G": alae.Generator(size, [1] * layers, 1)}
    return Snapshot("alae", {k: NetRecord.of(v) for k, v in nets.items()}), 2 ** (layers + 1)


def make(config, arrays, batch):
    """The method with the paper preset and the file's weights."""
    snap, resolution = source(config)
    text = {k: ",".join(map(str, config[k])) or "none" for k in ("hidden_g", "hidden_c")}
    m = made("mind2mind", DataSpec("golden", resolution, 1, 1000), dict(batch=batch), snap, mind_preset="paper",
             z_dim=config["z_dim"], hidden_g=text["hidden_g"], hidden_d=text["hidden_c"], n_critic=config["c_iter"],
             gp=config["gp"], drift=config["epsilon"], glr=config["lr"], dlr=config["lr"],
             betas=",".join(map(str, config["betas"])), latent_aug="none")
    m.M.model.load_state_dict(tensors(arrays, "G/model."))
    m.K.load_state_dict(tensors(arrays, "C/"))
    return m


def gradients(m, name, phase, x, draws, arrays, prefix):
    """Back-propagate a phase's loss and compare every gradient. Returns what was reported, averaged."""
    reports = {}
    m.report = lambda key, value: reports.__setitem__(key, float(value.detach().mean()))
    m.draw = lambda p, b: draws
    net = m.nets[name]
    for other in m.nets.values():
        other.requires_grad_(other is net)
        other.zero_grad(set_to_none=True)
    for term in m.loss(phase, batch_of(x)):
        term.mean().backward()
    expected = under(arrays, prefix)
    assert expected
    for key, p in net.named_parameters():
        if key in expected:
            assert_close(p.grad, expected[key], 3e-4, what=f"{prefix}{key}")
        else:
            assert p.grad is None or not p.grad.abs().max() > 1e-6, key
    return reports


@pytest.mark.parametrize("path", FILES)
def test_networks_and_losses(config, a):
    m = make(config, a, len(a["z"]))
    z, real = tensor(a["z"]), tensor(a["real"])
    with torch.no_grad():
        fake = m.M.codes(z)
        assert_close(fake, a["fake"], 2e-5, what="fake")
        ws = m.M.decode(fake)
        assert ws.shape[1] == config["num_ws"]
        assert_close(ws[:, : a["sample"].shape[1]], a["sample"], 2e-5, what="sample")
        assert_close(m.K(fake), a["score_fake"], 2e-5, what="score_fake")
        assert_close(m.K(real), a["score_real"], 2e-5, what="score_real")
        assert_close(m.K(real[:, None]), a["score_real_3d"], 2e-5, what="score_real_3d")
        assert_close(m.K(real).square().mean(), a["epsilon_penalty"], 2e-5, what="epsilon_penalty")
    c = torch.zeros(len(z), 0)
    got = gradients(m, "K", "critic", a["real"], Draws(z, c, t=tensor(a["critic_loss/t"])), a,
                    "critic_loss/grad/C/")
    total = float(a["critic_loss/total"].reshape(()))
    assert got["Loss/critic"] == pytest.approx(total, rel=2e-5, abs=1e-6)
    assert got["Loss/scores/real"] == pytest.approx(float(a["critic_loss/real_mean"][0]), rel=2e-5, abs=1e-6)
    assert got["Loss/scores/fake"] == pytest.approx(float(a["critic_loss/fake_mean"][0]), rel=2e-5, abs=1e-6)
    assert got["Loss/penalty"] == pytest.approx(config["gp"] * float(a["critic_loss/gp"]), rel=2e-5, abs=1e-6)
    # the penalty alone
    expected = under(a, "gp/grad/C/")
    m.opts.drift, seen = 0.0, {}
    m.report = lambda key, value: seen.__setitem__(key, value)
    m.K.requires_grad_(True)
    m.draw = lambda p, b: Draws(z, c, t=tensor(a["gp/t"]))
    next(m.loss("critic", batch_of(a["real"])))
    penalty = seen["Loss/penalty"].mean() / config["gp"]
    assert_close(penalty.detach(), a["gp/value"], 2e-5, what="gp")
    for key, grad in zip(expected, torch.autograd.grad(penalty, [dict(m.K.named_parameters())[k] for k in expected],
                                                       allow_unused=True)):
        grad = torch.zeros(expected[key].shape) if grad is None else grad  # not reached: zero
        assert_close(grad, expected[key], 3e-4, what=f"gp {key}")
    m = make(config, a, len(a["z"]))
    got = gradients(m, "M", "map", a["real"], Draws(z, c), a, "gen_loss/grad/G/")
    assert got["Loss/map"] == pytest.approx(float(a["gen_loss/value"].reshape(())), rel=2e-5, abs=1e-6)


@pytest.mark.parametrize("path", FILES)
def test_the_published_loop(config, a):
    """Critic steps on one batch, each drawing z and t, then the generator; through the loop's own Stepper."""
    first = len(a["train/real/0"])
    m = make(config, a, first)
    reports = {"Loss/critic": [], "Loss/map": []}
    m.report = lambda key, value: key in reports and reports[key].append(float(value.detach().mean()))
    zs, ts, reads = iter(range(10**6)), iter(range(10**6)), []

    def draw(phase, batch):
        z = tensor(a[f"train/z/{next(zs)}"])
        t = tensor(a[f"train/t/{next(ts)}"]) if phase == "critic" else None
        return Draws(z, torch.zeros(len(z), 0), t=t)

    m.draw = draw
    stepper = Stepper(m, m.run)
    for i in range(config["steps"]):
        x = tensor(a[f"train/real/{i}"])
        m.run.batch = m.run.batch_gpu = len(x)
        stepper.step(i, i * first, lambda rep, k, x=x: (reads.append(rep), (x, torch.zeros(len(x), 0)))[1],
                     lambda n, g: torch.zeros(n, 0))
        m.end_step(i * first, len(x))
    assert reads == [0] * config["steps"]  # one batch per iteration
    for prefix, net in (("G", m.M), ("C", m.K)):
        state = net.state_dict()
        for key, value in under(a, f"train/after/{prefix}/").items():
            assert_close(state[key], value, 2e-3, what=f"{prefix} {key}")
    assert all(torch.equal(p, q) for p, q in zip(m.G_ema.mapping.parameters(), m.M.parameters()))  # no averaging
    assert np.mean(reports["Loss/map"]) == pytest.approx(float(a["train/mean_gen_loss"]), rel=2e-3, abs=1e-5)
    assert np.mean(reports["Loss/critic"]) == pytest.approx(float(a["train/mean_critic_loss"]), rel=2e-3,
                                                            abs=1e-5)
