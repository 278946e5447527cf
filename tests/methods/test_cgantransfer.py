# SPDX-License-Identifier: Apache-2.0
"""What BigGAN and cGANTransfer promise beyond the published numbers: exactness, frozen parts, resuming, bad input."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dnnlib.util import UserError
from gantransfer.data.dataset import DataSpec, LabelSpec
from gantransfer.method import Batch, Graph
from gantransfer.methods import METHODS
from gantransfer.methods.biggan import Draws
from gantransfer.methods.cgantransfer import bake, labels_of, scores_of
from gantransfer.networks import biggan, cgantransfer
from gantransfer.pictures.transfer_scores import table
from gantransfer.snapshot import NetRecord, Snapshot
from gantransfer.training_loop import Stepper
from tests.made import made, moved_by

OLD, NEW = 5, 3


def spec(n, resolution=16, channels=1, count=4):
    return DataSpec("x", resolution, channels, n * count, LabelSpec("class", n, (count,) * n))


def make(name, data, source=None, stage=None, run=None, **options):
    few = {"standing": 2} if hasattr(METHODS[name].Options, "standing") else {}
    return made(name, data, {**dict(batch=8), **(run or {})}, source, stage,
                **{**dict(cfg="tiny", diffaug="none"), **few, **options})


def step(m, times=2, batch=8, start=0):
    g = torch.Generator().manual_seed(1)
    n = m.data.label.dim
    x, c = torch.rand(batch, m.data.channels, m.data.resolution, m.data.resolution, generator=g) * 2 - 1, F.one_hot(
        torch.arange(batch) % n, n).float()
    stepper = Stepper(m, m.run)
    for i in range(start, start + times):
        stepper.step(i, i * batch, lambda rep, k: (x, c),
                     lambda k, gen: F.one_hot(torch.randint(n, [k], generator=gen), n).float())
        m.end_step(i * batch, batch)
    return m


@pytest.fixture(scope="module", params=["hier", "tables"])
def source(request):
    options = dict(g_ch=2, d_ch=2, z_dim=12, shared_dim=6) if request.param == "hier" else dict(
        g_ch=2, d_ch=2, z_dim=7, shared_dim=0, hier=False)
    return step(make("biggan", spec(OLD), **options), 3).snapshot(24)


@pytest.fixture(scope="module")
def added(source):
    return step(make("cgantransfer", spec(NEW), source), 3).snapshot(24)


def latents(G, n=6):
    return torch.randn(n, G.z_dim, generator=torch.Generator().manual_seed(3))


def test_one_hot_scores_reproduce_an_old_class(source):
    old = source.build("G_ema")
    G = cgantransfer.extend(old, OLD).eval()
    G.set_scores(torch.eye(OLD))
    z, c = latents(old), torch.eye(OLD)[[0, 1, 2, 3, 4, 0]]
    assert (G(z, c) - old(z, c)).abs().max() < 1e-5
    assert torch.equal(G.forward_old(z, c), old(z, c))
    release = cgantransfer.extend(old, OLD, compat="release").eval()
    with pytest.raises(ValueError):
        release.forward_old(z, c)


def test_stage_bn_leaves_old_classes_and_trains_scores_and_residuals_only(source, added):
    old = METHODS["biggan"].sampler_from(source)
    new = METHODS["cgantransfer"].sampler_from(added)
    c = torch.eye(OLD)
    assert torch.equal(old(range(OLD), c), new(range(OLD), c, label_set="old"))
    assert torch.equal(new(range(NEW), torch.eye(NEW)), new(range(NEW), torch.eye(NEW), label_set="new"))
    m = make("cgantransfer", spec(NEW), source)
    names = {n for n, p in m.G.named_parameters() if id(p) in {id(q) for q in m.trainable("G")}}
    assert names and all(n.split(".")[-2] in ("comb_layer_g", "comb_layer_b", "res_g", "res_b") for n in names)
    assert len(names) == 4 * len(m.G.norm_names()) + 2 * len(m.G.norm_names())  # weights, and the scores' biases
    assert moved_by(lambda: step(m), m.G) == names | {
        k for k in m.G.state_dict() if k.endswith(("stored_mean", "stored_var"))}


def test_stage_ft_rests_scores_and_tables(source, added):
    m = make("cgantransfer", spec(NEW), added, "FT")
    moved, resting = moved_by(lambda: step(m), m.G), ("comb_layer_g", "comb_layer_b", "prev_knowledge_g",
                                                      "prev_knowledge_b")
    assert not any(k.split(".")[-2] in resting for k in moved)
    assert {"linear.weight", "blocks.0.0.conv1.weight", "blocks.0.0.bn1.res_g.weight", "output_layer.0.gain"} <= moved
    # old classes come from the source's generator, which is kept
    snap = m.snapshot(0)
    c = torch.eye(OLD)
    assert torch.equal(METHODS["biggan"].sampler_from(source)(range(OLD), c),
                       METHODS["cgantransfer"].sampler_from(snap)(range(OLD), c, label_set="old"))


def test_classes_added_later_leave_earlier_ones(source, added):
    m = step(make("cgantransfer", spec(2), added), 3)
    again = m.snapshot(0)
    first, second = (METHODS["cgantransfer"].sampler_from(s) for s in (added, again))
    a = first(range(NEW), torch.eye(NEW))
    b = second(range(NEW), torch.eye(NEW + 2)[:NEW], label_set="new")
    assert (a.int() - b.int()).abs().max() <= 1  # the same numbers, rounded once more
    assert second.label_sets["new"].dim == NEW + 2 and second.spec.label.dim == 2
    c = torch.eye(OLD)
    assert torch.equal(METHODS["biggan"].sampler_from(source)(range(OLD), c), second(range(OLD), c, label_set="old"))
    before = NetRecord.of(added.build("G_ema")).state
    after = m.G.state_dict()
    for k, v in after.items():
        if k.split(".")[-2] in ("res_g", "comb_layer_g") and v.ndim == 2:
            assert torch.equal(v[:, :NEW], before[k]) and not torch.equal(v[:, NEW:], torch.zeros_like(v[:, NEW:]))
    with pytest.raises(UserError, match="fine-tune"):
        make("cgantransfer", spec(2), again, "FT")
    again.stage = "FT"
    with pytest.raises(UserError, match="the source is of stage FT, compat exact"):
        make("cgantransfer", spec(2), again)


@pytest.mark.parametrize("options", [dict(scores="softmax"), dict(scores="none"), dict(scores="fixed"),
                                     dict(residual=False), dict(share_scores="all"), dict(share_scores="pair"),
                                     dict(compat="release"), dict(train_prior=True)], ids=str)
def test_baking_and_explaining_every_variant(source, options):
    snap = step(make("cgantransfer", spec(NEW), source, **options)).snapshot(8)
    out = bake(snap)
    c = torch.eye(NEW)
    G, plain = snap.build("G_ema"), out.build("G_ema")
    assert type(plain) is biggan.Generator
    assert (G(latents(G, NEW), c) - plain(latents(G, NEW), c)).abs().max() < 1e-5
    D, plain_d = snap.build("D"), out.build("D")
    x = torch.rand(NEW, 1, 16, 16)
    assert torch.equal(D(x, c), plain_d(x, c))
    METHODS["biggan"].sampler_from(out)(range(NEW), c)
    r = scores_of(G, *labels_of(snap))
    assert len(r["classes"]) == NEW and (r["classes"][0]["scores"] is None) == (options.get("scores") == "none")
    assert table(r, 2, True).count("\n") == 1 + NEW * (1 + len(r["layers"]))
    if options.get("scores") in ("softmax",):
        assert np.allclose(np.sum(r["classes"][0]["layers"][0]["scores_gain"]), 1, atol=1e-5)


def test_penalty_reductions(source):
    values = {}
    for how in ("mean", "sum_per_class"):
        m = make("cgantransfer", spec(NEW), source, reg_reduction=how, comb_l1_scale=1.0, res_l2_scale=0.0)
        values[how] = float(m.penalty().detach())
    layers = len(m.G.norm_names())
    # scores of 1/m and biases of 0, gain and bias: mean 1/m per tensor; summed over m old classes: 1 per class
    assert values["mean"] == pytest.approx(2 * layers / OLD, rel=1e-5)
    assert values["sum_per_class"] == pytest.approx(2 * layers, rel=1e-5)


def test_frozen_discriminator_blocks(source):
    m = make("biggan", spec(OLD), g_ch=2, d_ch=2, freezed=2)
    moved = moved_by(lambda: step(m), m.D)
    assert moved and not any(k.startswith(("blocks.0.", "blocks.1.")) for k in moved)


@pytest.mark.parametrize("name", ["biggan", "cgantransfer"])
def test_r1(source, name):
    """The penalty is half gamma times the squared gradient on reals, and moves the discriminator."""
    snap = None if name == "biggan" else source
    m, plain = (make(name, spec(NEW), snap, **(dict(g_ch=2, d_ch=2) if name == "biggan" else {}), gamma=g)
                for g in (4.0, 0.0))
    if name == "biggan":
        assert [n.phases()[0].graph for n in (m, plain)] == [Graph(("second order",)), Graph()]
    seen = {}
    m.report = lambda k, v: seen.setdefault(k, v.clone())
    D = copy.deepcopy(m.D)
    x, c = torch.rand(4, 1, 16, 16) * 2 - 1, torch.eye(NEW)[[0, 1, 2, 0]]
    rng = torch.Generator().manual_seed(1)
    draws = Draws(torch.randn(4, m.G.z_dim, generator=rng), c)
    fake = m.G(draws.z, c).detach()
    leaf = x.clone().requires_grad_(True)
    (g,) = torch.autograd.grad(D(torch.cat([fake, leaf]), torch.cat([c, c]))[4:].sum(), leaf)
    with_r1 = m.discriminator_loss(Batch(x, c, rng, rng, None, 0), draws)
    without = plain.discriminator_loss(Batch(x, c, rng, rng, None, 0), draws)
    assert torch.allclose(seen["Loss/r1_penalty"], g.square().sum([1, 2, 3]), rtol=1e-4)
    assert torch.allclose(with_r1 - without, 2 * g.square().sum([1, 2, 3]), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["biggan", "cgantransfer"])
def test_adaptive_augmentation_moves_and_acts(source, name):
    options = dict(g_ch=2, d_ch=2) if name == "biggan" else {}
    m = make(name, spec(NEW), None if name == "biggan" else source, aug="ada", augpipe="blit", ada_kimg=0.1, dlr=0.0,
             **options)
    with torch.no_grad():
        m.D.linear.bias.fill_(1000)  # sure of every real: p must rise by 4 steps of 8 images in 100
    step(m, 4)
    assert m.augmentation.p == pytest.approx(0.32) and m.progress() == {"augment": pytest.approx(0.32)}
    seen = []
    m.D.register_forward_pre_hook(lambda net, args: seen.append(args[0].detach()))
    x, c, rng = torch.rand(8, 1, 16, 16) * 2 - 1, torch.eye(NEW)[[0, 1, 2, 0] * 2], torch.Generator().manual_seed(1)
    m.discriminator_loss(Batch(x, c, rng, rng, None, 0), Draws(torch.randn(8, m.G.z_dim), c))
    changed = ((seen[0][8:] - x).abs() > 0.05).flatten(1).any(1)
    assert 0 < changed.sum() < 8  # some, not all, at p = 0.32


def test_diffaugment_acts_on_reals_fakes_and_in_the_generators_loss(source):
    m = make("cgantransfer", spec(NEW), source, diffaug="translation,cutout")
    seen = []
    m.D.register_forward_pre_hook(lambda net, args: seen.append(args[0]))
    x, c, rng = torch.rand(4, 1, 16, 16) * 2 - 1, torch.eye(NEW)[[0, 1, 2, 0]], torch.Generator().manual_seed(1)
    draws = Draws(torch.randn(4, m.G.z_dim), c)
    batch = Batch(x, c, rng, rng, None, 0)
    m.discriminator_loss(batch, draws)
    assert all((seen[0][4 + i] != x[i]).any() for i in range(4))
    for p in m.trainable("G"):
        p.requires_grad_(True)
    m.generator_loss(batch, draws).sum().backward()
    assert all((seen[1][i] == 0).sum() >= 16 for i in range(4))  # cut out, or moved in from outside
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in m.G.residual_parameters())


def test_averaged_generator_ramps_up():
    """Half-life = ramp times the images shown, up to ema_kimg; 0 images: the generator itself."""
    m = make("biggan", spec(NEW), g_ch=2, d_ch=2, ema_kimg=0.02, ema_ramp=0.5)
    stepper = Stepper(m, m.run)
    x, c = torch.rand(8, 1, 16, 16) * 2 - 1, torch.eye(NEW)[[0, 1, 2, 0] * 2]
    for i in range(7):
        stepper.step(i, 8 * i, lambda rep, k: (x, c), lambda k, gen: c[:k])
        before = m.G_ema.linear.weight.clone()
        m.end_step(8 * i, 8)
        half_life = min(0.5 * 8 * i, 20)
        decay = 0.5 ** (8 / half_life) if i else 0
        expected = decay * before + (1 - decay) * m.G.linear.weight
        assert torch.allclose(m.G_ema.linear.weight, expected, atol=1e-7), i


def test_fine_tuning_keeps_known_classes(source):
    data = DataSpec("x", 16, 1, 12, LabelSpec("class", 3, (4,) * 3, ("b", "new", "a")))
    named = copy.deepcopy(source)
    named.data["label"]["names"] = ["a", "b", "c", "d", "e"]
    kwargs = source.nets["G"].kwargs
    options = dict(shared_dim=kwargs["shared_dim"], hier=kwargs["hier"], z_dim=kwargs["dim_z"], g_ch=2, d_ch=2)
    m = make("biggan", data, named, **options)
    old, new = source.nets["D"].state["embed.weight"], m.D.embed.weight
    assert torch.equal(new[0], old[1]) and torch.equal(new[2], old[0]) and torch.allclose(new[1], old.mean(0))


@pytest.mark.parametrize("what, says", [
    ("method", "BigGAN"), ("one class", "at least two"), ("nothing", "nothing to learn"), ("no labels", "--cond")])
def test_bad_input(source, what, says):
    """More of it, as typed: test_biggan.py."""
    snap, data, options = copy.deepcopy(source), spec(NEW), {}
    if what == "method":
        snap.method = "stylegan2"
    elif what == "one class":
        snap.nets["G_ema"].kwargs["n_classes"] = 1
    elif what == "nothing":
        options = dict(scores="none", residual=False)
    elif what == "no labels":
        data = DataSpec("x", 16, 1, 9, LabelSpec())
    with pytest.raises(UserError, match=says) as e:
        make("cgantransfer", data, snap, **options)
    assert "\n" not in str(e.value)


def test_warm_start_prefers_the_most_similar_class(source):
    """New images that are the source's own images of one class get that class's scores."""
    m = make("cgantransfer", spec(NEW), source, warm_start="nearest")
    images = METHODS["biggan"].sampler_from(source)(range(12), torch.eye(OLD)[[0] * 4 + [2] * 4 + [4] * 4]).numpy()

    class Data:
        class_ids = np.repeat(np.arange(NEW), 4)

        def images_uint8(self, indices):
            return images[indices]

    D = source.build("D")
    x = torch.from_numpy(images).float() / 127.5 - 1
    expected = cgantransfer.affinities(D, x).reshape(NEW, 4, OLD).mean(1)
    m.prepare(Data())
    got = m.G.classes()[0]["a_g"]
    assert torch.allclose(got, expected, atol=1e-5)
    assert torch.allclose(m.D.new_embed.weight, expected @ source.nets["D"].state["embed.weight"], atol=1e-5)


def test_source_with_unknown_labels_is_numbered(source):
    snap = Snapshot(method="cgantransfer", nets=source.nets)
    snap.nets = {"G": NetRecord("x", dict(n_pretrain_classes=7, n_classes=2), {})}
    old, new = labels_of(snap)
    assert (old.dim, new.dim) == (7, 2)


def test_published_sizes():
    """BigGAN-128 with 96 channels has the published numbers of parameters and tensors."""
    with torch.device("meta"):
        G = biggan.Generator(G_ch=96, dim_z=120, shared_dim=128, hier=True, G_init="N02")
        D = biggan.Discriminator(D_ch=96, D_init="N02")
        T = cgantransfer.TransferGenerator(5, 1000, "release", G_ch=96, dim_z=120, shared_dim=128, hier=True,
                                           G_init="N02")
    assert (sum(p.numel() for p in G.parameters()), len(G.state_dict())) == (70433988, 166)
    assert (sum(p.numel() for p in D.parameters()), len(D.state_dict())) == (87982370, 88)
    assert sum(p.numel() for p in T.parameters()) == 85722372


@pytest.mark.parametrize("resolution", sorted(biggan.D_TABLES))
def test_every_resolution_and_grey_images(resolution):
    G = biggan.Generator(G_ch=1, dim_z=16, resolution=resolution, G_attn="0", n_classes=3, shared_dim=4, hier=True,
                         img_channels=1)
    D = biggan.Discriminator(D_ch=1, resolution=resolution, D_attn="0", n_classes=3, img_channels=1)
    x = G(torch.randn(2, G.z_dim), torch.eye(3)[:2])
    assert x.shape == (2, 1, resolution, resolution) and D(x, torch.eye(3)[:2]).shape == (2, 1)
    assert G(torch.randn(1, G.z_dim), torch.tensor([[0.5, 0.5, 0.0]])).isfinite().all()  # between classes
