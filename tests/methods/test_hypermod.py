# SPDX-License-Identifier: Apache-2.0
"""What hyper-modulation promises in training: what rests, what moves, sources, bad input."""

import copy

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner

from dnnlib.util import UserError
from gantransfer.augment import contrastive
from gantransfer.commands import convert, generate
from gantransfer.data.dataset import DataSpec, LabelSpec
from gantransfer.exporters import bake
from gantransfer.importers import load_any
from gantransfer.method import Batch, RunConfig
from gantransfer.methods import METHODS
from gantransfer.networks import biggan, hypermod, hypermod_stylegan1, stylegan1, stylegan2
from gantransfer.snapshot import NetRecord, Snapshot
from tests.made import made
from tests.methods.test_cgantransfer import step
from torch_utils.random import SeedStack

C = 4


def spec(n=C, resolution=16, channels=1, names=()):
    return DataSpec("x", resolution, channels, 4 * n, LabelSpec("class", n, (4,) * n, names))


def sg2_source(**kw):
    torch.manual_seed(0)
    sizes = dict(channel_base=128, channel_max=8)
    G = stylegan2.Generator(8, kw.pop("c_dim", 0), 8, 16, 1, {"num_layers": 2}, sizes)
    D = stylegan2.Discriminator(G.c_dim, 16, 1, **sizes, epilogue_kwargs=dict(mbstd_group_size=4))
    nets = {"G": NetRecord.of(G), "G_ema": NetRecord.of(G), "D": NetRecord.of(D)}
    return Snapshot("stylegan2", nets, data=DataSpec("s", 16, 1, 9, LabelSpec()).to_dict())


def v1_source():
    torch.manual_seed(0)
    G = stylegan1.Generator([6, 6, 4, 4], 8, 2, 2, img_channels=1, img_resolution=16)
    for name, p in G.named_parameters():
        if ".noise" in name:
            p.data.normal_(std=0.1)
    D = stylegan1.Discriminator([6, 6, 4, 4], 2, img_channels=1, img_resolution=16)
    return Snapshot("stylegan1", {"G_ema": NetRecord.of(G), "G": NetRecord.of(G), "D": NetRecord.of(D)},
                    data=DataSpec("s", 16, 1, 9, LabelSpec()).to_dict())


SOURCES = {"stylegan2": sg2_source, "stylegan1": v1_source}


def make(data=None, source=None, stage="main", run=None, **options):
    run = {**dict(batch=8, kimg=0.4, resume="x"), **(run or {})}
    return made("hypermod", data or spec(), run, source or SOURCES[options.get("base", "stylegan2")](), stage,
                **{**dict(cfg="tiny", diffaug="none", vector_dim=4), **options})


def moved(m, before):
    return {f"{k}.{n}" for k, net in m.nets.items() for n, t in net.state_dict().items()
            if not torch.equal(t, before[k][n])}


@pytest.mark.parametrize("base", list(SOURCES))
@pytest.mark.parametrize("finetune", [False, True])
def test_what_rests_and_what_moves(base, finetune):
    m = make(base=base, finetune=finetune, class_lr_mult=1.0)
    before = copy.deepcopy({k: v.state_dict() for k, v in m.nets.items()})
    step(m, 2)
    changed = moved(m, before)
    mine = [k for k in changed if k.startswith("G.")]
    hyper = ("hyper.", "task.", "task_bias_beta.", "G.classes.")
    assert any(any(h in k for h in hyper) for k in mine) and any(k.startswith("G.classes.") for k in mine)
    rest = {k for k in mine if not any(h in k for h in hyper)}
    assert bool(rest) == finetune
    kernels = ("conv0.weight", "conv1.weight", ".W", ".b", "mapping.", "style.1", "style.3", "noise_const", "w_avg")
    assert not any(k.endswith(kernels[:4]) or any(s in k for s in kernels[4:] if "adain" not in k) for k in rest)
    rgb = {k for k in changed if k.startswith("D.") and ("fromrgb" in k or "from_rgb" in k)}
    assert bool(rgb) == finetune
    if base == "stylegan2":
        assert "D.b4.out.weight" in changed
        assert m.G.mapping.fc0.weight.grad is None and m.G.synthesis.b8.conv0.weight.grad is None
    else:  # blocks above the data's resolution exist and rest
        assert not any("progression.3" in k for k in mine)
        assert not any(k.startswith("D.progression.0.") for k in changed)


def test_start_is_the_source():
    source = sg2_source()
    m = make(source=source)
    G, D = source.build("G_ema"), source.build("D")
    z = torch.randn(6, 8)
    for net in (m.G, m.G_ema):
        a = net(z, F.one_hot(torch.arange(6) % C, C).float(), rng=SeedStack(range(6)))
        b = G(z, None, rng=SeedStack(range(6)))
        assert (a - b).abs().max() < 1e-5 * b.abs().max()
    x = torch.randn(8, 1, 16, 16)
    c = F.one_hot(torch.arange(8) % C, C).float()
    torch.testing.assert_close(m.D(x, c), D(x, None), rtol=1e-5, atol=1e-5)


def test_snapshot_holds_frozen_tensors_once_and_samples(tmp_path):
    m = step(make())
    for a, b in zip(m.G.synthesis.parameters(), m.G_ema.synthesis.parameters()):
        assert (a is b) == (id(a) not in {id(p) for p in m.trainable("G")})
    m.snapshot(16).save(tmp_path / "x.pkl")
    snap = load_any(tmp_path / "x.pkl")
    one = {n: t for n, t in snap.nets["G"].state.items()}
    two = snap.nets["G_ema"].state
    shared = [n for n in one if one[n].data_ptr() == two[n].data_ptr() and one[n].numel()]
    assert "synthesis.b16.conv0.weight" in shared and "mapping.fc0.weight" in shared
    assert not any(".hyper." in n for n in shared)
    s = METHODS["hypermod"].sampler_from(snap)
    c = torch.eye(C)
    images = s(range(C), c)
    assert torch.equal(images, m.sampler()(range(C), c)) and images.dtype == torch.uint8
    mixed = s([3], torch.full([1, C], 1 / C))
    assert mixed.shape == (1, 1, 16, 16)
    net = s.network
    ws = net.mapping(torch.randn(2, 8), c[:2])
    assert net.synthesis(ws, noise_mode="random", rng=SeedStack([1, 2]), force_fp32=True).shape == (2, 1, 16, 16)


@torch.no_grad()
def distance(m):
    """The alignment loss on 64 fixed samples."""
    g = torch.Generator().manual_seed(7)
    batch = Batch(torch.zeros(64, 1, 16, 16), torch.zeros(64, C), g, g, None, 0)
    return float(next(m.align(batch, m.draw("align", batch))).mean())


@pytest.mark.parametrize("base", list(SOURCES))
def test_alignment_comes_first_and_brings_the_student_nearer(base):
    m = make(base=base, hyper_init="random", align_kimg=0.4, glr=0.01)
    seen = []
    m.report = lambda k, v: seen.append((k, float(v.detach().float().mean())))
    before, start = copy.deepcopy(m.D.state_dict()), distance(m)
    step(m, 50)
    assert all(torch.equal(v, before[k]) for k, v in m.D.state_dict().items())
    losses = [v for k, v in seen if k == "Loss/align"]
    assert len(losses) == 51 and not any(k == "Loss/D/loss" for k, _ in seen)
    seen.clear()
    assert distance(m) < 0.9 * start
    assert m.progress()["aligning"] == 0.0
    assert ("G_src" in m.nets) == (base == "stylegan1") and "G_src" not in m.snapshot(400).nets
    seen.clear()
    step(m, 1, start=50)
    assert any(k == "Loss/D/loss" for k, _ in seen) and not any(k == "Loss/align" for k, _ in seen)
    whole = make(base=base, hyper_init="random", stage="align")
    assert [p.name for p in whole.phases()] == ["align"]


def test_labels_of_another_set_keep_known_classes():
    first = make(spec(3, names=("b", "new", "a")))
    snap = step(first).snapshot(16)
    m = make(spec(4, names=("a", "x", "b", "y")), snap)
    old, new = snap.nets["G_ema"].state["classes.task.0.weight_orig"], m.G.classes.task[0].weight_orig
    assert torch.equal(new[0], old[2]) and torch.equal(new[2], old[0])
    assert not any(torch.equal(new[1], row) for row in old)
    heads, was = m.D.b4.out.weight, snap.nets["D"].state["b4.out.weight"]
    assert torch.equal(heads[0], was[2]) and torch.equal(heads[2], was[0])
    torch.testing.assert_close(heads[1], was.mean(0))
    G = snap.build("G_ema")
    z = torch.randn(2, 8)
    with torch.no_grad():
        torch.testing.assert_close(m.G_ema(z, torch.eye(4)[[0, 2]], noise_mode="const"),
                                   G(z, torch.eye(3)[[2, 0]], noise_mode="const"))
    step(m)


def test_identical_class_vectors():
    m = make(class_init="identical")
    rows = m.G.classes.task[0].weight_orig
    assert torch.equal(rows, rows[:1].expand_as(rows)) and not torch.equal(
        *make().G.classes.task[0].weight_orig[:2])


def test_published_checkpoints_train_on(tmp_path):
    """A published full base checkpoint, and a self-aligned one with a single class."""
    base = v1_source()
    states = {"generator": base.nets["G"].state, "g_running": base.nets["G_ema"].state,
              "discriminator": base.nets["D"].state, "g_optimizer": {"state": {}, "param_groups": []}}
    torch.save(states, tmp_path / "base.model")
    snap = load_any(tmp_path / "base.model")
    assert snap.nets["G_ema"].kwargs["img_resolution"] == 32  # its noise strengths say that all was trained
    data = spec(resolution=32)
    m = make(data, snap, base="stylegan1", hyper_init="random", faithful=True)
    assert m.G.init_kwargs["faithful"] and [p.name for p in m.phases()] == ["Dboth", "Gboth"]
    one = hypermod_stylegan1.convert(snap.build("G_ema"), 1, 4, exact=False, faithful=True)
    published = {k: t for k, t in one.state_dict().items() if not k.startswith("classes.")}
    task = {k.removeprefix("classes."): t for k, t in one.state_dict().items() if k.startswith("classes.")}
    torch.save(dict(generator=published, task=task, discriminator=base.nets["D"].state), tmp_path / "010000.model")
    aligned = load_any(tmp_path / "010000.model")
    m = make(data, aligned, base="stylegan1", hyper_init="random")
    z = torch.randn(3, 8).double()  # float32 rounds the two formulations differently
    with torch.no_grad():
        a = m.G.double()(z, torch.eye(C)[:3].double(), noise_mode="const")
        b = one.double()(z, torch.ones(3, 1).double(), noise_mode="const")
    assert a.dtype == torch.float64
    torch.testing.assert_close(a, b)
    # Images come out of the published file as it is, too.
    s = METHODS["hypermod"].sampler_from(aligned)
    assert s([1], torch.ones(1, 1)).shape == (1, 1, 32, 32)


def test_baked_class_is_an_ordinary_snapshot(tmp_path):
    snap = step(make(spec(names=("a", "b", "c", "d"))), 3).snapshot(24)
    snap.save(tmp_path / "x.pkl")
    run = CliRunner().invoke(convert.main, ["--bake", "--class=c", str(tmp_path / "x.pkl"), str(tmp_path / "c.pkl")])
    assert run.exit_code == 0, run.output
    baked = load_any(tmp_path / "c.pkl")
    plain, own = METHODS["stylegan2"].sampler_from(baked), METHODS["hypermod"].sampler_from(snap)
    c = torch.eye(C)[[2] * 3]
    assert (plain(range(3)).int() - own(range(3), c).int()).abs().max() <= 1
    x = torch.randn(4, 1, 16, 16)
    torch.testing.assert_close(baked.build("D")(x, None), snap.build("D")(x, torch.eye(C)[[2] * 4]))
    for args, says in ((["--class=9"], "no class"), (["--class=0,1"], "one class"), ([], "which class"),
                       (["--label=1,2"], "2 numbers"), (["--label=a"], "not a list")):
        with pytest.raises(UserError, match=says):
            convert.main(["--bake", *args, str(tmp_path / "x.pkl"), str(tmp_path / "d.pkl")], standalone_mode=False)
    for args in ["--class=1"], ["--label=1,0,0,0"]:
        with pytest.raises(UserError, match="belongs to --bake"):
            convert.main([*args, str(tmp_path / "x.pkl"), str(tmp_path / "d.pkl")], standalone_mode=False)
    with pytest.raises(UserError, match="--bake takes"):
        convert.main(["--bake", str(tmp_path / "c.pkl"), str(tmp_path / "d.pkl")], standalone_mode=False)
    assert not (tmp_path / "d.pkl").exists()
    with pytest.raises(UserError, match="hypermod"):
        bake.bake(baked, torch.ones(1, 1))


def test_contrastive_term_reaches_the_discriminator_only():
    m = make(contrastive=True, contrastive_weight=1.0)
    seen = {}
    m.report = lambda k, v: seen.setdefault(k, float(v.detach().float().mean()))
    step(m, 1)
    assert seen["Loss/contrastive/real"] > 0 and seen["Loss/contrastive/fake"] > 0
    x = torch.rand(8, 1, 16, 16) * 2 - 1
    m.D.requires_grad_(True)
    (grad,) = torch.autograd.grad(m.contrast(x, x, "real").sum(), m.D.b4.fc.weight)
    assert grad.abs().max() > 0


def test_views_differ_and_repeat():
    x = torch.rand(5, 3, 16, 16) * 2 - 1
    a, b = contrastive.two_views(x, torch.Generator().manual_seed(0))
    again, _ = contrastive.two_views(x, torch.Generator().manual_seed(0))
    assert torch.equal(a, again) and a.shape == x.shape and (a - b).abs().max() > 0.1 and a.abs().max() <= 1
    alone = contrastive.two_views(x[2:3], SeedStack([7]))[0]
    other = contrastive.two_views(x[1:3], SeedStack([3, 7]))[0]
    torch.testing.assert_close(alone, other[1:])
    full = torch.ones(5, 1, 1, 1)
    torch.testing.assert_close(contrastive.crop(x, full, full, 0 * full, 0 * full), x, rtol=1e-4, atol=1e-4)
    same = contrastive.jitter((x + 1) / 2, full, full, full, 0 * full)
    torch.testing.assert_close(same, (x + 1) / 2, rtol=1e-3, atol=1e-3)


def spoilt(change):
    """The source after `change(its networks)`."""
    source = sg2_source()
    change(source.nets)
    return source


BIGGAN = dict(G_ch=1, dim_z=8, resolution=16, G_attn="0", n_classes=2)
# What differs from a fitting start, made when it is needed; options; what the message says.
BAD = [
    (lambda: dict(source=sg2_source(c_dim=3)), {}, "conditional (3 labels)"),
    (lambda: dict(data=spec(resolution=32)), {}, "16x16 pixels, x has 32x32"),
    (lambda: dict(data=spec(channels=3)), {}, "grey images (1 channel), x has colour"),
    (lambda: dict(source=spoilt(lambda nets: nets.pop("D"))), {}, "no network D"),
    (lambda: dict(source=spoilt(lambda nets: nets["D"].state["b4.fc.bias"].fill_(float("nan")))), {}, "not finite"),
    (lambda: dict(source=None), {}, "--resume=SNAPSHOT"),
    (lambda: dict(source=spoilt(lambda nets: nets.update(G_ema=NetRecord.of(biggan.Generator(**BIGGAN))))), {},
     "stylegan2"),
    (lambda: dict(source=v1_source()), {}, "--base=stylegan1"),
    (dict, dict(base="stylegan1"), "--base=stylegan2"),
    (lambda: dict(data=DataSpec("x", 16, 1, 9, LabelSpec())), {}, "--cond=True"),
    (dict, dict(hyper_rank="0"), "--hyper_rank=0"),
    (dict, dict(hyper_rank="four"), "--hyper_rank=four"),
    (dict, dict(hyper_rank="-1"), "--hyper_rank=-1"),
    (dict, dict(align_kimg=0.1), "nothing to align"),
    (lambda: dict(stage="align"), {}, "nothing to align"),
    (dict, dict(align_kimg=9.0, hyper_init="random"), "more than --kimg"),
    (dict, dict(cbase=64), "--cbase"),
    (dict, dict(pl_weight=2.0), "--pl_weight"),
    (dict, dict(base="stylegan1", hyper_rank="4"), "--base=stylegan2"),
    (dict, dict(faithful=True), "--base=stylegan1"),
    (dict, dict(base="stylegan1", faithful=True), "cannot equal"),
    (dict, dict(class_vectors="onehot", class_init="identical"), "onehot"),
    (dict, dict(base="stylegan1", d_head="projection"), "--d_head"),
    (dict, dict(gan_loss="wgan-gp", gamma=3.0), "--gamma"),
    (dict, dict(base="stylegan1", freezed=2), "--freezed"),
]


@pytest.mark.parametrize("change, options, says", BAD, ids=[f"{says}{o}" for _, o, says in BAD])
def test_bad_input(change, options, says):
    kind, start = METHODS["hypermod"], dict(source=sg2_source(), data=spec(), stage="main") | change()
    with pytest.raises(UserError) as e:
        opts, run = kind.Options(cfg="tiny", **options), RunConfig(batch=8, kimg=0.4, resume="x")
        kind.resolve(opts, run, start["data"])
        kind.check_source(opts, **start)
    assert says in str(e.value) and "\n" not in str(e.value)


def test_command_line(tiny_zip, tmp_path, call):
    """The method's command, one of its errors, and images of the result."""
    sg2_source().save(tmp_path / "source.pkl")
    base = ["train", f"--data={tiny_zip}", "--method=hypermod", "--cfg=tiny", "--metrics=none",
            f"--outdir={tmp_path / 'runs'}", f"--resume={tmp_path / 'source.pkl'}", "--kimg=0.016"]
    out = call(*base, "--align-kimg=1", check=2)
    (line,) = out.stderr.strip().splitlines()
    assert line.startswith("Error: --align_kimg") and "nothing to align" in line
    call(*base, "--hyper-rank=full", "--contrastive=True", "--finetune=True", "--class-lr-mult=0.1")
    (snap,) = (tmp_path / "runs").glob("0*/network-snapshot-000000.pkl")
    assert isinstance(load_any(snap).build("G_ema"), hypermod.Generator)

    def make_images(*words):
        generate.main([f"--network={snap}", *words], standalone_mode=False)

    with pytest.raises(UserError, match="no class 9"):
        make_images("--seeds=0", "--class=9", f"--outdir={tmp_path / 'o'}")
    make_images("--seeds=0-1", "--label=0.5,0,0.5,0", f"--outdir={tmp_path / 'o'}")
    with pytest.raises(UserError, match="one class per image"):
        make_images("--seeds=0", "--label=0.5,0,0.5,0", f"--outdir={tmp_path / 'o.zip'}")
    make_images("--mix-rows=0", "--mix-cols=1", "--class=1", f"--grid={tmp_path / 'mix.png'}")
    assert len(list((tmp_path / "o").glob("*.png"))) == 2 and (tmp_path / "mix.png").exists()
