# SPDX-License-Identifier: Apache-2.0
"""The flags within the methods: each loss is what its formula says of the method's own networks, nothing is used or
recorded unasked, and what cannot be is refused in one line."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dnnlib.util import UserError
from gantransfer.data.dataset import DataSpec, LabelSpec
from gantransfer.data.schedule import Span
from gantransfer.losses.barlow_twins import barlow_twins
from gantransfer.losses.group_spectral import GroupSpectral
from gantransfer.method import Batch, RunConfig
from gantransfer.methods import METHODS, density_ratio
from gantransfer.model import Model
from gantransfer.sampler import LabelSource
from tests.made import made
from torch_utils import distributed as dist

COUNTS = (90, 9, 1)
CLASSES = DataSpec("x", 16, 1, 100, LabelSpec("class", 3, COUNTS, (), {}, {}))
SMALL = {"biggan": dict(cfg="tiny", g_ch=2, d_ch=2, diffaug="none")}
STYLE = dict(cfg="tiny", cbase=64, cmax=8, z_dim=8, w_dim=8, precision="fp32", diffaug="none")
STYLES = ("stylegan2", "utlo", "transitional")
ALL = (*STYLES, "biggan")


def resolved(name, data=CLASSES, run=None, **options):
    kind = METHODS[name]
    opts = kind.Options(**{**SMALL.get(name, STYLE), **(dict(res_uc=4) if name == "utlo" else {}), **options})
    opts.given = frozenset(options)
    config = RunConfig(**{**dict(batch=8, metrics="none"), **(run or {})})
    kind.resolve(opts, config, data)
    return kind, opts, config


def make(name, run=None, **options):
    kind, opts, config = resolved(name, run=run, **options)
    torch.manual_seed(0)
    m = kind(opts, CLASSES, config)
    m.noise_mode = "const"
    if name == "transitional":
        m.set_weight(10**9)
    return m


def batch(n=8, c=None):
    g = torch.Generator().manual_seed(1)
    x = torch.rand(n, 1, 16, 16, generator=g) * 2 - 1
    c = F.one_hot(torch.arange(n) % 3, 3).float() if c is None else c
    source = LabelSource(CLASSES.label, "balanced")
    return Batch(x, c, g, g, lambda k: source.draw(k, g), 0)


def terms(m, phase, **kw):
    """The phase's terms, and what it reports."""
    seen = {}
    m.report = lambda name, value: seen.setdefault(name, value.detach())
    return [t.detach() for t in m.loss(phase, batch(**kw))], seen


def phase_of(name, network):
    return f"{network}main" if name == "biggan" else {"G": "Gboth", "D": "Dmain"}[network]


# ---- nothing unasked -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_what_is_not_used_is_not_recorded(name):
    kind, opts, run = resolved(name)
    flags = {"gan_loss", "r2_gamma", "gsr", "reweight_reals", "noisy_twins", "noisy_twins_gamma", "noisy_twins_sigma",
             "noisy_twins_alpha", "noisy_twins_start"}
    own = "hinge" if name == "biggan" else "logistic"
    explicit = resolved(name, gan_loss=own, r2_gamma=0.0, gsr=0.0, reweight_reals=False)
    for o in (opts, explicit[1]):
        assert not flags & set(o.to_dict())
        assert kind.run_name(o, {}, run, CLASSES) == kind.run_name(opts, {}, run, CLASSES)
    used = resolved(name, r2_gamma=0.5, gsr=0.25, gan_loss="rpgan")[1]
    assert {k: used.to_dict()[k] for k in flags & set(used.to_dict())} == dict(r2_gamma=0.5, gsr=0.25, gan_loss="rpgan")
    assert "-rpgan-r2gamma0.5-gsr0.25" in kind.run_name(used, {}, run, CLASSES)
    assert make(name).state().keys() == make(name, gan_loss=own).state().keys()


@pytest.mark.parametrize("name", ALL)
def test_the_methods_own_loss_by_name_changes_nothing(name):
    own = "hinge" if name == "biggan" else "logistic"
    for network in "GD":
        a, b = (terms(make(name, **o), phase_of(name, network))[0] for o in ({}, dict(gan_loss=own)))
        assert len(a) == len(b) and all(torch.equal(s, t) for s, t in zip(a, b))


# ---- adversarial losses ----------------------------------------------------------------------------------------------


def heads(name, seen, kind):
    """(logits, weight) of each head, from what was reported."""
    scores = [seen[f"Loss/scores/{kind}"]]
    scores += [seen[f"Loss/scores/{kind}{s}"] for s in ("_uc", "_c") if f"Loss/scores/{kind}{s}" in seen]
    return list(zip(scores, {"utlo": (0.5, 0.5), "transitional": (1.0, 1.0)}.get(name, (1.0,)), strict=True))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("loss", ["logistic", "hinge", "rpgan"])
def test_the_loss_is_the_named_one_of_every_head(name, loss):
    m = make(name, gan_loss=loss)
    got, seen = terms(m, phase_of(name, "D"))
    on_fake, on_real = heads(name, seen, "fake"), heads(name, seen, "real")
    want = dict(logistic=lambda f, r: F.softplus(f) + F.softplus(-r), hinge=lambda f, r: F.relu(1 + f) + F.relu(1 - r),
                rpgan=lambda f, r: F.softplus(f - r))[loss]
    assert torch.allclose(sum(got), sum(w * want(f, r) for (f, w), (r, _) in zip(on_fake, on_real)), atol=1e-5)
    got, seen = terms(m, phase_of(name, "G"))
    fakes = heads(name, seen, "fake")
    rivals = heads(name, seen, "rival") if loss == "rpgan" else fakes
    want = dict(logistic=lambda f, r: F.softplus(-f), hinge=lambda f, r: -f, rpgan=lambda f, r: F.softplus(r - f))[loss]
    assert torch.allclose(got[0], sum(w * want(f, r) for (f, w), (r, _) in zip(fakes, rivals)), atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_a_pairs_common_offset_is_nobodys_business(name):
    """Neither a loss, a trained parameter nor the augmentation's controller depends on it."""
    runs = []
    for offset in (0.0, 3.0):
        m = make(name, gan_loss="rpgan", aug="ada", augpipe="bgc")
        seen, honest = [], m.augmentation.observe
        m.augmentation.observe = lambda x, c=None, seen=seen, honest=honest: (seen.append(x), honest(x, c))
        biases = [p for n, p in m.D.named_parameters() if n in ("linear.bias", "b4.out.bias", "b4.out_c.bias",
                                                                "b4.out_uc.bias")]
        trained = {id(p) for phase in m.phases() for p in phase.params}
        assert biases and not trained & {id(p) for p in biases}
        with torch.no_grad():
            for p in biases:
                p += offset
        got, scores = terms(m, phase_of(name, "D"))
        runs.append((got, seen, scores["Loss/scores/real"]))
    (a, seen, before), (b, again, after) = runs
    assert (after - before).abs().min() > 0.01 and len(seen) == len(again) == 1
    assert all(torch.allclose(s, t, atol=1e-4) for s, t in zip([*a, *seen], [*b, *again], strict=True))


@pytest.mark.parametrize("name", ALL)
def test_pairs_have_one_label(name):
    m, b = make(name, gan_loss="rpgan"), batch()
    for phase in (phase_of(name, "D"), phase_of(name, "G")):
        assert torch.equal(m.draw(phase, b).c, b.c)


@pytest.mark.parametrize("name", STYLES)
def test_r2_is_the_squared_gradient_on_generated_images(name):
    """Against the gradient of each generated image's logit, one image at a time in a network without a look across the
    batch."""
    m = make(name, r2_gamma=3.0, gamma=0.0, d_reg_interval=16, mbstd_group=1)
    assert "Dreg" in [p.name for p in m.phases()]
    kept = []
    honest = m.synthesise
    m.synthesise = lambda *a, **kw: kept.append(honest(*a, **kw)) or kept[-1]
    d = {}
    draw = m.draw
    m.draw = lambda phase, b: d.setdefault(phase, draw(phase, b))
    (got,), seen = terms(m, "Dreg")
    x = kept[0].detach()
    for k in range(8):
        one = x[k : k + 1].clone().requires_grad_()
        logits = m.D(one, d["Dreg"].c[k : k + 1])
        (grad,) = torch.autograd.grad((logits.uncond if name == "transitional" else logits).sum(), one)
        assert float(got[k]) == pytest.approx(1.5 * float(grad.square().sum()), rel=1e-4)
    assert (got > 0).all() and torch.allclose(seen["Loss/r2_penalty"] * 1.5, got)


def test_r2_of_biggan():
    plain, m = make("biggan"), make("biggan", r2_gamma=2.0)
    (a,), _ = terms(plain, "Dmain")
    (b,), seen = terms(m, "Dmain")
    assert torch.allclose(b - a, seen["Loss/r2_penalty"], atol=1e-5) and (seen["Loss/r2_penalty"] > 0).all()


@pytest.mark.parametrize("interval", [0, 16])
def test_r1_and_r2_run_together(interval):
    m = make("stylegan2", gan_loss="rpgan", r2_gamma=1.0, gamma=1.0, d_reg_interval=interval)
    _, seen = terms(m, "Dreg" if interval else "Dboth")
    assert {"Loss/r1_penalty", "Loss/r2_penalty"} <= seen.keys()
    before = m.pending.keys()
    assert not any(k.startswith("Dreg") for k in before), "R2's latents move no running mean"


def test_a_discriminator_of_pairs_is_asked_about_no_single_image():
    """Its logits have a constant of their own in every class."""
    snap = make("stylegan2", gan_loss="rpgan").snapshot(0)
    with pytest.raises(UserError, match="--gan_loss=rpgan.*--features=teacher"):
        density_ratio.discriminator(Model(**vars(snap)), "cpu")
    plain = Model(**vars(make("stylegan2").snapshot(0)))
    assert density_ratio.discriminator(plain, "cpu")(batch().x, batch().c).shape == (8,)
    source = make("biggan", gan_loss="rpgan").snapshot(0)
    data = DataSpec("y", 16, 1, 8, LabelSpec("class", 2, (4, 4), (), {}, {}))
    with pytest.raises(UserError, match="--warm_start=nearest.*--gan_loss=rpgan"):
        made("cgantransfer", data, dict(batch=8, metrics="none"), source, cfg="tiny", warm_start="nearest")


# ---- reals by weight -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_reals_weigh_what_makes_up_for_their_frequency(name):
    run = dict(sampling_labels="balanced")
    extra = {} if name == "biggan" else dict(d_reg_interval=0, r1_aug=True)
    plain, m = make(name, run, gamma=2.0, **extra), make(name, run, gamma=2.0, reweight_reals=True, **extra)
    phase = phase_of(name, "D") if name == "biggan" else "Dboth"
    (a, seen), (b, _) = terms(plain, phase), terms(m, phase)
    w = torch.tensor([10 / 27, 100 / 27, 100 / 3])[torch.arange(8) % 3]
    if name == "biggan":
        fake = F.relu(1 + seen["Loss/scores/fake"])
        assert torch.allclose(b[0] - fake, (a[0] - fake) * w, rtol=1e-4, atol=1e-5)
    else:
        assert torch.equal(a[0], b[0]), "generated images count as before"
        assert torch.allclose(b[1], a[1] * w[:, None], rtol=1e-5)


def test_lecams_mean_of_reals_is_weighed_too():
    m = make("stylegan2", dict(sampling_labels="balanced"), reweight_reals=True, lecam=0.1, d_reg_interval=16)
    _, seen = terms(m, "Dmain")
    w = torch.tensor([10 / 27, 100 / 27, 100 / 3])[torch.arange(8) % 3]
    assert torch.allclose(m.pending["D/logits_real"][0], (seen["Loss/scores/real"][:, 0] * w).mean(), rtol=1e-4)
    assert torch.allclose(m.pending["D/logits_fake"][0], seen["Loss/scores/fake"].mean(), rtol=1e-4)


def test_lazy_r1_is_weighed_too():
    run, o = dict(sampling_labels="balanced"), dict(gamma=2.0, d_reg_interval=16)
    (a,), _ = terms(make("stylegan2", run, **o), "Dreg")
    (b,), _ = terms(make("stylegan2", run, reweight_reals=True, **o), "Dreg")
    assert torch.allclose(b, a * torch.tensor([10 / 27, 100 / 27, 100 / 3])[torch.arange(8) % 3][:, None], rtol=1e-5)


# ---- NoisyTwins ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STYLES)
def test_twins_share_latent_and_label_and_nothing_else(name):
    m = make(name, noisy_twins=0.01)
    d = m.draw("Gboth", batch())
    assert torch.equal(d.z[:4], d.z[4:]) and torch.equal(d.c[:4], d.c[4:])
    assert (d.noise[:4] - d.noise[4:]).abs().min() > 0
    assert len(torch.unique(d.z[:4], dim=0)) == 4
    d = m.draw("Dmain", batch())
    assert len(torch.unique(d.z, dim=0)) == 8 and d.noise is not None, "the discriminator sees noise, and no twins"


@pytest.mark.parametrize("name", STYLES)
def test_the_generators_loss_has_the_twins_in_it(name):
    lam, gamma = 0.5, 0.05
    noise = make(name, noisy_twins=0.0, noisy_twins_sigma=0.75)
    m = make(name, noisy_twins=lam, noisy_twins_gamma=gamma)
    b = batch()
    d = m.draw("Gboth", b)
    m.draw = noise.draw = lambda phase, batch: d
    b_state = b.rng.get_state()
    (a, *_) = (t.detach() for t in noise.loss("Gboth", b))
    b.rng.set_state(b_state)
    (got, *_) = (t.detach() for t in m.loss("Gboth", b))
    w = m.G.mapping(d.z, d.c, update_w_avg=False, label_noise=d.noise)[:, -1]
    want = lam * barlow_twins(*w.chunk(2), gamma)
    assert torch.allclose(got - a, want.detach().expand_as(got), rtol=1e-4, atol=1e-5) and want.item() > 0
    assert not torch.allclose(w, m.G.mapping(d.z, d.c, update_w_avg=False)[:, -1])


def test_noise_follows_the_class():
    """Deviations: 1 / effective number, with mean sigma."""
    m = make("stylegan2", noisy_twins=0.01, noisy_twins_sigma=0.6, noisy_twins_alpha=0.9)
    raw = np.array([(1 - 0.9) / (1 - 0.9**n) for n in COUNTS])
    np.testing.assert_allclose(m.losses.sigma, 0.6 * raw / raw.mean(), rtol=1e-5)
    equal = make("stylegan2", noisy_twins=0.01, noisy_twins_sigma=0.6, noisy_twins_alpha=0.0)
    assert torch.allclose(equal.losses.sigma, torch.tensor(0.6))
    c = torch.eye(3)[[0] * 8]
    d = m.draw("Dmain", Batch(**{**vars(batch()), "draw_c": lambda n: c[:n]}))
    assert 0.2 < float(d.noise.std()) / float(m.losses.sigma[0]) < 2


def test_noise_moves_the_embedding_before_it_is_normalised():
    m = make("stylegan2")
    z, c, noise = torch.randn(2, 8), torch.eye(3)[:2], torch.randn(2, 8)
    got = m.G.mapping(z, c, update_w_avg=False, label_noise=noise)
    with torch.no_grad():
        weight = m.G.mapping.embed.weight
        weight[:, :2] += noise.t() / m.G.mapping.embed.weight_gain
        assert torch.allclose(m.G.mapping(z, c, update_w_avg=False), got, atol=1e-5)


def test_utlos_label_free_layers_see_no_noise():
    m = make("utlo")
    z, c, noise = torch.randn(2, 8), torch.eye(3)[:2], torch.randn(2, 8)
    a, b = (m.G.mapping(z, c, update_w_avg=False, label_noise=n) for n in (noise, None))
    free = m.G.mapping.num_uc_ws
    assert free and torch.equal(a[:, :free], b[:, :free]) and not torch.allclose(a[:, free:], b[:, free:])


def test_sampling_sees_no_noise():
    a, b = make("stylegan2"), make("stylegan2", noisy_twins=0.01)
    images = [m.sampler()([1, 2], torch.eye(3)[:2]) for m in (a, b)]
    assert torch.equal(*images)


def test_twins_that_begin_later():
    """Before that, latents of their own, and the noise; a continued run knows where it was."""
    m = make("stylegan2", noisy_twins=0.01, noisy_twins_start=0.016)
    d = m.draw("Gmain", batch())
    assert len(torch.unique(d.z, dim=0)) == len(d.z) and d.noise is not None
    assert "Loss/G/twins" not in terms(m, "Gmain")[1] and m.losses.obstacles()
    m.end_step(0, 8)
    assert m.losses.twins == 0
    m.end_step(8, 8)
    assert len(torch.unique(m.draw("Gmain", batch()).z, dim=0)) == len(d.z) // 2
    assert "Loss/G/twins" in terms(m, "Gmain")[1]
    resumed = make("stylegan2", noisy_twins=0.01, noisy_twins_start=0.016)
    resumed.load_state(m.state())
    assert resumed.losses.twins == 0.01
    assert "twins" not in make("stylegan2", noisy_twins=0.01).state()


def test_twins_and_pairs():
    """Both twins are compared with the real image of their label."""
    m = make("stylegan2", noisy_twins=0.01, gan_loss="rpgan")
    (got, *_), seen = terms(m, "Gboth")
    rival = seen["Loss/scores/rival"]
    want = F.softplus(torch.cat([rival[:4]] * 2) - seen["Loss/scores/fake"]) + seen["Loss/G/twins"]
    assert torch.allclose(got, want, atol=1e-5)
    d = m.draw("Gboth", batch())
    assert torch.equal(d.c, torch.cat([batch().c[:4]] * 2))


# ---- gSR -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_gsr_is_a_term_of_its_own(name):
    m = make(name, gsr=0.5)
    tables = m.G.class_tables()
    got, _ = terms(m, phase_of(name, "G"))
    plain, _ = terms(make(name), phase_of(name, "G"))
    assert len(got) == len(plain) + 1
    assert all(torch.equal(a, b) for a, b in zip([t for t in got if t.ndim], plain))
    assert torch.allclose(got[1], GroupSpectral(COUNTS, 0.5, tables).penalty(tables), rtol=1e-3)


def test_the_state_holds_gsrs_vectors():
    """A run goes on with the vectors it had, not with those that the singular value decomposition begins with."""
    a, b = make("stylegan2", gsr=0.5), make("stylegan2", gsr=0.5)
    for u in a.losses.gsr.u:
        u.copy_(F.normalize(u.flip(0) + 0.1, dim=1))
    tables = a.G.class_tables()
    before = a.losses.gsr.penalty(tables)
    assert not torch.allclose(before, b.losses.gsr.penalty(tables))
    b.losses.load_state(a.losses.state())
    assert torch.equal(before, b.losses.gsr.penalty(tables)) and before > 0


def test_biggans_tables_are_the_gains_and_biases_of_each_class():
    m = make("biggan")
    G = m.G
    before = {k: v.clone() for k, v in G.state_dict().items()}
    tables = G.class_tables()
    norms = [n for n in G.modules() if type(n).__name__ == "CondNorm"]
    assert len(tables) == 2 * len(norms) and all(t.shape[0] == 3 for t in tables)
    assert all(torch.equal(v, before[k]) for k, v in G.state_dict().items()), "no spectral norm has moved on"
    assert not any(getattr(n, "frozen", False) for n in G.modules())
    G.eval()
    code = torch.cat([G.shared(torch.eye(3)), torch.zeros(3, G.chunk)], 1)
    gain, bias = norms[0].affine(code)
    assert torch.allclose(tables[0], gain - 1, atol=1e-6) and torch.allclose(tables[1], bias, atol=1e-6)


def test_stylegans_table_is_the_embedding():
    m = make("stylegan2")
    (table,) = m.G.class_tables()
    assert torch.allclose(table, m.G.mapping.embed(torch.eye(3)), atol=1e-6)


def test_gsr_trains_class_parameters_only():
    m = make("biggan", gsr=0.5)
    for p in m.G.parameters():
        p.requires_grad_(True)
    (term,) = m.losses.on_weights(m.report)
    term.backward()
    with_gradient = {n for n, p in m.G.named_parameters() if p.grad is not None and p.grad.any()}
    assert with_gradient and all(".bn" in n or n.startswith("shared") for n in with_gradient)


# ---- refusals --------------------------------------------------------------------------------------------------------

NONE = DataSpec("x", 16, 1, 100, LabelSpec("none", 0, (), (), {}, {}))
VALUE = DataSpec("x", 16, 1, 100, LabelSpec("value", 1, (), (), {}, {}))


@pytest.mark.parametrize("flag", [dict(gsr=0.5), dict(reweight_reals=True), dict(noisy_twins=0.01),
                                  dict(aug="ada-class")])
@pytest.mark.parametrize("data", [NONE, VALUE])
def test_classes_are_needed(flag, data):
    with pytest.raises(UserError, match=f"--{next(iter(flag))}.*class labels"):
        resolved("stylegan2", data, dict(sampling_labels="balanced"), **flag)


@pytest.mark.parametrize("options, run, match", [
    (dict(reweight_reals=True), {}, "--reweight_reals.*sampling_labels"),
    (dict(reweight_reals=True), dict(sampling="balanced"), "--reweight_reals.*both are balanced"),
    (dict(reweight_reals=True), dict(sampling_labels="balanced", sampling_shift=Span(0, 1)), "--sampling_shift"),
    (dict(gan_loss="rpgan"), dict(sampling_labels="balanced"), "--gan_loss=rpgan.*--sampling_labels"),
    (dict(noisy_twins=0.01), dict(batch=2, batch_gpu=2), "--noisy_twins.*4 images"),
    (dict(noisy_twins=0.01), dict(batch=9, batch_gpu=9), "--noisy_twins.*even --batch-gpu"),
    (dict(noisy_twins=0.01), dict(batch=1, batch_gpu=1), "--noisy_twins.*1 image in 1 process"),
    (dict(noisy_twins_sigma=0.5), {}, "--noisy_twins_sigma belongs to --noisy_twins"),
    (dict(noisy_twins_start=5), {}, "--noisy_twins_start belongs to --noisy_twins"),
])
def test_refusals(options, run, match):
    with pytest.raises(UserError, match=match) as e:
        resolved("stylegan2", run=run, **(dict(mbstd_group=1) | options))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("flag", [dict(noisy_twins=0.01), dict(gsr=0.5)])
def test_a_generator_without_labels_has_nothing_to_regularise(flag):
    with pytest.raises(UserError, match=f"--{next(iter(flag))}.*--res_uc=16"):
        resolved("utlo", res_uc=16, **flag)


def test_pairs_without_labels():
    kind, opts, config = resolved("stylegan2", NONE, gan_loss="rpgan", r2_gamma=1.0)
    m, b = kind(opts, NONE, config), batch(c=torch.zeros(8, 0))
    b.draw_c = lambda n: torch.zeros(n, 0)
    for phase in ("Gboth", "Dmain", "Dreg"):
        assert all(torch.isfinite(t).all() for t in m.loss(phase, b))


def test_two_processes_of_two_images_have_pairs_enough():
    pairs = dict(batch=4, batch_gpu=2)
    assert resolved("stylegan2", run=dict(pairs, num_procs=2), noisy_twins=0.01)[1].noisy_twins == 0.01
    with pytest.raises(UserError, match="2 images in 1 process cannot be paired"):
        resolved("stylegan2", run=dict(pairs, num_procs=1), noisy_twins=0.01)


def test_noise_alone_works_with_one_image():
    m = make("stylegan2", dict(batch=1), noisy_twins=0.0, mbstd_group=1)
    for phase in ("Gboth", "Dmain"):
        got, _ = terms(m, phase, n=1)
        assert all(torch.isfinite(t).all() for t in got)


@pytest.mark.parametrize("name", ALL)
def test_a_batch_of_one_class_with_one_image(name):
    """Everything at once, on images of the rarest class only."""
    o = dict(gsr=0.5, r2_gamma=1.0, gan_loss="rpgan", gamma=1.0) | (
        {} if name == "biggan" else dict(noisy_twins=0.01, d_reg_interval=0))
    m, c = make(name, **o), torch.eye(3)[[2] * 8]
    for phase in [p.name for p in m.phases()]:
        got, _ = terms(m, phase, c=c)
        assert got and all(torch.isfinite(t).all() for t in got)


# ---- --graphs --------------------------------------------------------------------------------------------------------


def test_what_stays_eager(monkeypatch):
    for name in ("stylegan2", "biggan"):
        m = make(name, aug="ada-class")
        obstacles = {p.name: p.graph.obstacles for p in m.phases()}
        assert all("augmentation by class reads labels" in o for o in obstacles.values())
    m = make("stylegan2", noisy_twins=0.01, gsr=0.5, gan_loss="rpgan")
    assert {p.name: p.graph.obstacles for p in m.phases()}["Gboth"] == ()
    monkeypatch.setattr(dist, "world_size", lambda: 2)
    assert m.graph("G").obstacles == ("NoisyTwins gathers over processes",) and not m.graph("D").obstacles
