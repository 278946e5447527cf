# SPDX-License-Identifier: Apache-2.0
"""What is recorded of flags whose value is the default, presets on more processes than their own machine had, and both
batches in one pass through the discriminator."""

import pytest
import torch

from gantransfer.data.dataset import DataSpec, LabelSpec
from gantransfer.method import RunConfig
from gantransfer.methods import stylegan2
from gantransfer.methods.stylegan2 import StyleGAN2
from gantransfer.networks import stylegan2 as networks
from tests.losses.test_options import batch, make
from torch_utils import build


def resolved(procs: int = 1, given: dict | None = None, **options):
    run, data = RunConfig(num_procs=procs), DataSpec("set", 32, 3, 100, LabelSpec())
    opts = StyleGAN2.Options(**options, **(given or {}))
    opts.given = frozenset(given or {})
    StyleGAN2.resolve(opts, run, data)
    return run, StyleGAN2.config(opts, run, data), opts


def test_no_frozen_layers_are_recorded_where_they_were_asked_for():
    assert resolved(given={"freezed": 0})[1]["D_kwargs"]["block_kwargs"] == {"freeze_layers": 0}
    assert resolved()[1]["D_kwargs"]["block_kwargs"] == {}
    assert resolved(given={"freezed": 3})[1]["D_kwargs"]["block_kwargs"] == {"freeze_layers": 3}
    assert "given" not in resolved(given={"freezed": 0})[2].to_dict()  # continuing a run compares these


@pytest.mark.parametrize("cfg, procs, batch_gpu", [("cifar", 8, 8), ("cifar", 1, 32), ("cifar", 2, 32),
                                                   ("stylegan2", 16, 2), ("stylegan2", 1, 4)])
def test_a_preset_runs_on_any_number_of_processes_that_divides_its_batch(cfg, procs, batch_gpu):
    run, _, _ = resolved(procs, cfg=cfg)
    assert run.batch_gpu == batch_gpu and run.batch % (run.batch_gpu * procs) == 0


def test_presets_for_a_cpu_have_small_networks_and_augmentation_that_acts_within_their_length(monkeypatch):
    """Without R1 and ADA at published strength, whose time scale is a hundred times as long."""
    monkeypatch.setattr(build, "cpu_flags", lambda: {"avx512_bf16"})
    (tiny, tiny_config, to), (small, config, so) = resolved(cfg="tiny"), resolved(cfg="small")
    for c in (tiny_config, config):
        assert c["G_kwargs"]["synthesis_kwargs"]["channel_max"] == 32 and c["loss_kwargs"]["pl_weight"] == 0
    assert (to.aug, to.diffaug, so.aug, so.diffaug, so.ada_kimg) == ("noaug", "light", "ada", None, 50)
    assert config["ada_kimg"] == 50 and config["ada_target"] == 0.6 and "augment_kwargs" not in tiny_config
    assert resolved(cfg="small", ada_kimg=7.0)[1]["ada_kimg"] == 7 and resolved(cfg="auto")[2].ada_kimg == 500
    assert (tiny.metrics, small.metrics) == ("smoke", "smoke")
    runtime = StyleGAN2.runtime
    assert (runtime(to, tiny)["precision"], runtime(so, small)["precision"]) == ("float32", "bfloat16")
    monkeypatch.setattr(build, "cpu_flags", set)
    assert runtime(so, small)["precision"] == "float32"


def test_woven_batches_keep_their_groups():
    """Six images of two groups each, whose deviations differ: at once as apart."""
    torch.manual_seed(0)
    std, weave = networks.MinibatchStd(3), networks.Weave(6, 3)
    a, b = torch.randn(6, 4, 2, 2), 5 * torch.randn(6, 4, 2, 2)
    x, y = weave.apart(std(weave(a, b)))
    assert torch.equal(x, std(a)) and torch.equal(y, std(b)) and x[0, -1, 0, 0] != x[1, -1, 0, 0]


@pytest.mark.parametrize("name, run, options", [
    ("stylegan2", {}, dict(aug="ada-class", augpipe="bg")), ("utlo", {}, dict(gan_loss="rpgan")),
    ("transitional", dict(sampling_labels="balanced"), dict(lecam=0.1, reweight_reals=True))])
def test_both_batches_at_once_teach_what_two_passes_teach(name, run, options, monkeypatch):
    """Reports, gradients and what the augmentation's controller saw."""
    seen = []
    for limit in (stylegan2.AT_ONCE, 0):
        monkeypatch.setattr(stylegan2, "AT_ONCE", limit)
        m, passes, reports = make(name, run=run, **options), [], {}
        m.D.b4.register_forward_hook(lambda *_, passes=passes: passes.append(1))
        m.report = lambda k, v, reports=reports: reports.setdefault(k, v.detach().clone())
        m.steps = 1  # LeCam pulls from the second step on
        if m.augmentation.by_class is not None:  # what an image gets depends on its label, and on those drawn before
            m.augmentation.by_class.p.copy_(torch.tensor([0.9, 0.2, 0.6]))
        m.D.requires_grad_(True)
        given = batch()
        for term in m.Dmain(given, m.draw("Dmain", given)):
            term.mean().backward()
        seen.append((len(passes), reports, [p.grad for p in m.D.parameters()], m.augmentation.signs.clone()))
    (few, a, grads, signs), (many, b, expected, counted) = seen
    assert 2 * few == many and a.keys() == b.keys() and torch.equal(signs, counted)
    for k in a:
        assert torch.allclose(a[k], b[k], atol=1e-5), k
    for p, q in zip(grads, expected):
        assert (p is None) == (q is None)
        assert p is None or torch.allclose(p, q, atol=1e-5 + 1e-4 * float(q.abs().max()))


def test_both_images_of_a_pair_are_augmented():
    m, given = make("utlo"), batch()
    m.augmentation = lambda x, rng, choices, c: x + 1
    judged = m.as_judged(given.x, given)
    assert [x.shape[2] for x in judged] == [16, 4]
    assert all(torch.equal(b, a + 1) for a, b in zip(judged, m.augmented(judged, given, given.c), strict=True))
    assert len(make("utlo", add_uc=False).as_judged(given.x, given)) == 1


def test_batches_that_minibatch_deviation_would_mix_go_apart():
    m = make("stylegan2")
    assert [n for n in (2, 4, 6, 8) if m.takes_both(n)] == [4, 8]  # groups of four
    assert not m.takes_both(1 << 20)


def test_both_kinds_of_w_at_once_are_those_of_two_passes():
    """Each with the noise on its labels; the running mean is that of the first kind."""
    m = make("stylegan2", noisy_twins=0.1, style_mix=1.0)
    d = m.draw("Gmain", batch())
    first, other = m.map(d.z, d.c, [], d.noise), m.map(d.mix_z, d.c, [], d.mix_noise)
    mixed = torch.cat([first[:, : d.cutoff], other[:, d.cutoff :]], 1)
    assert torch.allclose(m.ws("Gmain", d), mixed, atol=1e-6) and not torch.allclose(mixed, first, atol=1e-2)
    assert torch.allclose(m.pending["Gmain/w_mean"][0], first[:, :1].mean(0), atol=1e-6)
