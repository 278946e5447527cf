# SPDX-License-Identifier: Apache-2.0
"""Losses, gradients and whole iterations of the published Hyper-Modulation against golden numbers."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from gantransfer.data.dataset import DataSpec, LabelSpec
from gantransfer.losses.barlow_twins import barlow_twins
from gantransfer.method import Start
from gantransfer.methods.hypermod import Hypermod
from gantransfer.methods.stylegan2 import Draws
from gantransfer.networks import hypermod_stylegan1, stylegan1
from gantransfer.snapshot import NetRecord, Snapshot
from tests.golden.conftest import assert_close, golden_files, load_npz, tensors
from tests.golden.test_hypermod_networks import hyper_generator
from tests.golden.test_hypermod_style1 import discriminator, generator, noises
from tests.golden.training import batch_of
from tests.made import made, train_only

GRAD = 2e-3  # the golden README's figure is 1e-3, and one gradient of the sets lies at it


def beside(path, name: str) -> tuple[dict, dict]:
    """The golden file `name` (as a config names it: 'file.npz:prefix') beside another."""
    return load_npz(path.with_name(name.split(":")[0]))


class Golden(Hypermod):
    """With the golden noise and latents instead of drawn ones."""

    noise: list | None = None

    def synthesise(self, styles, batch, **kw):
        return self.G.synthesis(styles.ws, classes=styles.classes, noise=self.noise, **kw)


def method_of(G: hypermod_stylegan1.Generator, D: stylegan1.Discriminator | None, batch: int, teacher=None,
              **options) -> Golden:
    """A method at work on exactly these networks."""
    n = G.c_dim
    label = LabelSpec("class", n, (1,) * n)
    data = DataSpec("golden", G.img_resolution, G.img_channels, batch, label)
    widths = G.init_kwargs["channels"]
    D = D or stylegan1.Discriminator(widths, len(widths) - G.init_kwargs["fused_from"], num_classes=n)
    nets = {"G": G, "D": D, "G_ema": G} | ({"G_src": teacher} if teacher is not None else {})
    start = Start(state=Path("golden"))
    vars(start)["networks"] = Snapshot("hypermod", {k: NetRecord.of(v) for k, v in nets.items()})  # as if it were read
    defaults = dict(cfg="tiny", base="stylegan1", aug="noaug", diffaug="none", hyper_init="random", style_mix=0.0,
                    mbstd_group=batch)
    run = dict(batch=batch, batch_gpu=batch, resume="golden", kimg=1000)
    return made(Golden, data, run, start, **{**defaults, **options})


def one_hot(labels, n: int) -> torch.Tensor:
    return F.one_hot(torch.as_tensor(labels).long(), n).float()


def backward(m: Golden, key: str, terms) -> list[float]:
    train_only(m, m.trainable(key))
    values = []
    for term in terms:
        term.mean().backward()
        values.append(float(term.mean().detach()))
    return values


def check_gradients(net, expected: dict, what: str) -> None:
    parameters = dict(net.named_parameters())
    assert expected
    for name, value in expected.items():
        grad = parameters[name].grad
        assert grad is not None, f"{what}: no gradient of {name}"
        assert_close(grad, value, GRAD, 1e-6, what=f"{what} {name}")


def trained_names(m: Golden, key: str) -> set[str]:
    chosen = {id(p) for p in m.trainable(key)}
    return {n for n, p in m.nets[key].named_parameters() if id(p) in chosen}


def flat(a: dict, prefix: str, task: str = "T") -> dict[str, torch.Tensor]:
    """HG/ and T/ tensors under their names in the joined generator."""
    return tensors(a, f"{prefix}HG/") | {f"classes.{k}": t for k, t in tensors(a, f"{prefix}{task}/").items()}


@pytest.mark.parametrize("path", golden_files("hypermod", "contrastive*.npz"))
def test_contrastive(path, config, a):
    for case in sorted(k.removesuffix("/f1") for k in a if k.endswith("/f1")):
        f1, f2 = (torch.from_numpy(a[f"{case}/f{k}"]).requires_grad_(True) for k in (1, 2))
        loss = barlow_twins(f1, f2, config["lambd"])
        loss.backward()
        assert_close(loss.detach(), a[f"{case}/loss"], 2e-4)
        for k, f in ((1, f1), (2, f2)):
            # In a batch of two the gradients are almost zero: what is left is rounding.
            assert_close(f.grad, a[f"{case}/grad_f{k}"], GRAD, 1e-4 if len(f) == 2 else 1e-6, what=f"{case} {k}")
    D = discriminator(config, tensors(a, "HD/"))
    generator_config, g = beside(path, "hyper_generator.npz")
    G = hyper_generator(generator_config, tensors(g, "HG/"), tensors(g, "T/"))
    m = method_of(G, D, len(a["disc/view1"]), contrastive=True, contrastive_weight=config["weighting"],
                  contrastive_lambda=config["lambd"])
    v1, v2 = torch.from_numpy(a["disc/view1"]), torch.from_numpy(a["disc/view2"])
    (value,) = backward(m, "D", [m.contrast(v1, v2, "real")])
    assert_close(value, a["disc/loss_weighted"], 2e-4)
    with torch.no_grad():
        assert_close(m.features(v1), a["disc/features_view1"], 2e-4)
        assert_close(m.D(v1, one_hot(a["disc/labels"], config["num_classes"])), a["disc/logits_view1"], 2e-4)
    expected = {k: v for k, v in tensors(a, "disc/grad/HD/").items() if k in trained_names(m, "D")}
    check_gradients(m.D, expected, "contrastive")
    assert len(expected) >= 2 * len(config["channels"])


@pytest.mark.parametrize("path", golden_files("hypermod", "self_alignment*.npz"))
def test_self_alignment(path, config, a):
    teacher, (hconfig, h) = generator(*beside(path, config["teacher"])), beside(path, config["student"])
    G = hyper_generator(hconfig, tensors(h, "HG/"), tensors(a, "T1/"))
    adam = config["adam"]
    m = method_of(G, None, len(a["iter0/z"]), teacher, align_kimg=1.0, glr=adam["lr_hyper"],
                  class_lr_mult=adam["lr_class"] / adam["lr_hyper"])
    (phase,) = [p for p in m.phases() if p.name == "align"]
    c = one_hot([0] * len(a["iter0/z"]), G.c_dim)  # the class network of the file has one class
    for t, expected in enumerate(a["losses"]):
        noise, z = noises(a, f"iter{t}/noise"), torch.from_numpy(a[f"iter{t}/z"])

        def fixed(net, noise=noise):
            original = type(net).synthesis
            return lambda ws, rng=None, noise_mode=None, **kw: original(net, ws, noise=noise, **kw)

        m.G.synthesis, m.nets["G_src"].synthesis = fixed(m.G), fixed(m.nets["G_src"])
        (term,) = list(m.align(batch_of(z, c), Draws(z, c)))
        phase.opt.zero_grad()
        assert_close(float(term.mean().detach()), expected, 2e-4, what=f"iteration {t}")
        term.mean().backward()
        if t == 0:
            check_gradients(m.G, flat(a, "iter0/grad/", "T1"), "alignment")
        phase.opt.step()
    final, state = flat(a, "final/", "T1"), m.G.state_dict()
    assert final
    for name, value in final.items():
        assert_close(state[name], value, 2e-4, 2e-3, what=name)


@pytest.mark.parametrize("path", golden_files("hypermod", "adversarial*.npz"))
def test_adversarial(path, config, a):
    hconfig, h = beside(path, config["generator"])
    _, d = beside(path, config["discriminator"])
    t = tensors(a)
    c = one_hot(t["labels"], config["num_classes"])

    def fresh(**options) -> Golden:
        m = method_of(hyper_generator(hconfig, tensors(h, "HG/"), tensors(h, "T/")),
                      discriminator(config, tensors(d, "HD/")), len(c), **options)
        m.noise = noises(a)
        return m

    m = fresh()
    draws = Draws(t["z"], c)
    with torch.no_grad():
        assert_close(m.synthesise(m.ws("Gmain", draws), None), a["fake"], 2e-4)
        assert_close(m.D(t["real"], c), a["r1/real_logits"], 2e-4)
        assert_close(m.D(t["fake"], c), a["r1/fake_logits"], 2e-4)
    fake, real = backward(m, "D", m.Dmain(batch_of(t["real"], c), draws, reg=True))
    assert_close(fake, a["r1/loss_fake"], 2e-4)
    assert_close(real, a["r1/loss_real"] + a["r1/penalty"], 2e-4)
    check_gradients(m.D, {k: v for k, v in tensors(a, "r1/grad/HD/").items() if k in trained_names(m, "D")}, "r1")

    m = fresh(gan_loss="wgan-gp")
    original = m.gradient_penalty
    m.gradient_penalty = lambda r, f, c, eps: original(r, f, c, t["wgan/eps"])
    values = backward(m, "D", m.Dmain(batch_of(t["real"], c), draws))
    for value, name in zip(values, ("fake_term", "real_term", "penalty"), strict=True):
        assert_close(abs(value) if name != "fake_term" else value,
                     abs(a[f"wgan/{name}"]) if name != "fake_term" else a["wgan/fake_term"], 2e-4, what=name)
    check_gradients(m.D, {k: v for k, v in tensors(a, "wgan/grad/HD/").items() if k in trained_names(m, "D")}, "wgan")

    m = fresh()
    (value,) = backward(m, "G", m.Gmain(batch_of(t["real"], c), draws))
    assert_close(value, a["gen/loss"], 2e-4)
    check_gradients(m.G, flat(a, "gen/grad/"), "generator")


@pytest.mark.parametrize("path", golden_files("hypermod", "train_step*.npz"))
def test_whole_iterations(path, config, a):
    first, second = config["start"].split(" and ")
    hconfig, h = beside(path, first)
    _, d = beside(path, second)
    t = tensors(a)
    n = len(t["iter0/z_d"])
    ema_kimg = -n * math.log(2) / math.log(config["ema"]) / 1000
    m = method_of(hyper_generator(hconfig, tensors(h, "HG/"), tensors(h, "T/")),
                  discriminator(config, tensors(d, "HD/")), n, glr=config["lr"], dlr=config["lr"],
                  gamma=float(config["r1_gamma"]), class_lr_mult=config["lr_class"] / config["lr"],
                  ema_kimg=ema_kimg, ema_ramp=0.0)
    before = copy.deepcopy({k: v.state_dict() for k, v in m.nets.items()})
    phases = m.phases()
    assert [p.name for p in phases] == ["Dboth", "Gboth"]  # the published order
    iterations = sum(f"iter{k}/real" in a for k in range(10))
    for k in range(iterations):
        c, losses = one_hot(t[f"iter{k}/labels"], config["num_classes"]), []
        for phase in phases:
            kind = phase.name[0].lower()
            m.noise = noises(a, f"iter{k}/{kind}_noise")
            m.draw = lambda name, b, z=t[f"iter{k}/z_{kind}"], c=c: Draws(z, c)
            losses += backward(m, phase.name[0], m.loss(phase.name, batch_of(t[f"iter{k}/real"], c)))
            phase.opt.step()
        m.end_step(k * n, n)
        real, r1, fake, gen = a[f"iter{k}/losses"]
        assert_close(losses, [fake, real + r1, gen], 5e-4, 1e-5, what=f"iteration {k}")
    state, average = m.G.state_dict(), m.G_ema.state_dict()
    for name, value in flat(a, "final/").items():
        assert_close(state[name], value, 2e-4, 2e-3, what=name)
    for prefix, lead in (("final/HG_ema/", ""), ("final/T_ema/", "classes.")):
        for name, value in tensors(a, prefix).items():
            assert_close(average[lead + name], value, 2e-4, 2e-5, what=f"average of {name}")
    for name, value in tensors(a, "final/HD/").items():
        assert_close(m.D.state_dict()[name], value, 2e-4, 2e-3, what=name)
    frozen = [("G", x) for x in config.get("frozen_HG", a.get("frozen_HG", []))]
    frozen += [("D", x) for x in config.get("frozen_HD", a.get("frozen_HD", []))]
    for net, name in frozen:
        name = str(name)
        if name in m.nets[net].state_dict():
            assert torch.equal(m.nets[net].state_dict()[name], before[net][name]), name
            assert name not in trained_names(m, net)
