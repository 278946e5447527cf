# SPDX-License-Identifier: Apache-2.0
"""CcGAN beyond the published numbers: phases, sampling by value, bad input."""

import dataclasses

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from dnnlib.util import UserError
from gantransfer import training_loop
from gantransfer.commands.generate import main
from gantransfer.data.dataset import DataSpec, ImageDataset, LabelSpec
from gantransfer.importers import load_any
from gantransfer.method import Phase, RunConfig
from gantransfer.methods import METHODS
from gantransfer.methods.ccgan import CFGS, CcGAN
from gantransfer.networks import ccgan as networks
from tests.conftest import write_image_zip
from tests.made import made

META = dict(kind="regression", unit="degree", offset=0.0, scale=90.0, min=0.0, max=90.0)
SMALL = dict(cfg="tiny", ch=2, z_dim=4, h_dim=16, embed_width=2, standing=2)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Bars whose position is their label, 0 to 90."""
    labels = np.repeat(np.arange(0, 91, 10), 3)
    images = np.zeros([len(labels), 16, 16], np.uint8)
    for k, v in enumerate(labels):
        images[k, :, v // 7 : v // 7 + 3] = 200 + k % 3 * 20
    return write_image_zip(tmp_path_factory.mktemp("bars") / "bars.zip", images, [[float(v)] for v in labels],
                           label_meta=META)


def make(data, run=None, source=None, **options):
    run = {**dict(batch=8, kimg=0.128, tick=0.064, snap=1, metrics="none"), **(run or {})}
    m = made("ccgan", data.spec, run, source, **{**SMALL, **options})
    return m, m.run


def trained(data, folder, run=None, state=None, **options):
    m, config = make(data, run, **{"embed_kimg": 0.064, **options})
    training_loop.run(m, data, config, training_loop.Outputs(folder, images=False, network_ticks=1), state)
    return m


def states(m):
    return {f"{k}.{n}": t.clone() for k, v in m.nets.items() for n, t in v.state_dict().items()}


def test_a_naive_label_of_zero_is_not_without_effect():
    torch.manual_seed(0)
    D = networks.SNGANDiscriminator(h_dim=1, ch=1, resolution=16, img_channels=1)
    x, zero = torch.randn(3, 1, 16, 16), torch.zeros(3, 1)
    from gantransfer.methods.ccgan import projected

    assert torch.equal(projected(zero, True), zero + 1) and torch.equal(projected(zero, False), zero)
    assert (D(x, projected(zero, True)) - D(x, zero)).abs().min() > 0


# ---- training ----------------------------------------------------------------------------------------------------


def test_phases_run_in_their_part_of_the_run():
    p = Phase("x", [], None, every=2, begin=16, end=48)
    assert [n for n in range(0, 80, 8) if p.due(n // 8, n)] == [16, 32]
    assert Phase("x", [], None).due(3, 10**9)


@pytest.mark.parametrize("options", [{}, dict(arch="sagan", vicinity="hard", gan_loss="vanilla"),
                                     dict(label_input="nli", embed_kimg=None), dict(svdl_normalize=True)],
                         ids=["sngan-ili-soft", "sagan-hard-vanilla", "nli", "svdl"])
def test_each_part_trains_what_it_should(path, tmp_path, options):
    data = ImageDataset(path, use_labels=True)
    m, config = make(data, **{"embed_kimg": 0.064, **options})
    first, changed = states(m), []
    stop = training_loop.Outputs(tmp_path, images=False, network_ticks=1)
    hook = m.end_step

    def end_step(nimg, batch):
        hook(nimg, batch)
        now = states(m)
        changed.append({k.split(".")[0] for k in now if not torch.equal(now[k], last[0][k])})
        last[0] = now

    last = [first]
    m.end_step = end_step
    training_loop.run(m, data, config, stop)
    if m.y2h is None:
        assert m.gan_begin == 0 and all(c >= {"G", "D", "G_ema"} for c in changed)
    else:
        assert changed[:6] == [{"x2y"}] * 6 and changed[6:8] == [{"y2h"}] * 2
        assert all(c == {"G", "D", "G_ema"} for c in changed[8:]) and len(changed) == 16
    assert all(torch.isfinite(t).all() for t in last[0].values() if t.is_floating_point())


# ---- sampling ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def snap(path, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    trained(ImageDataset(path, use_labels=True), folder)
    return sorted(folder.glob("network-snapshot-*.pkl"))[-1]


def test_images_depend_on_seed_and_label_only(snap):
    sampler = METHODS["ccgan"].sampler_from(load_any(snap))
    c = torch.tensor([[0.0], [45.0], [90.0], [45.0]])
    whole = sampler([1, 1, 1, 2], c)
    one = torch.cat([sampler([s], c[k : k + 1]) for k, s in enumerate([1, 1, 1, 2])])
    assert (whole.int() - one.int()).abs().max() <= 1
    assert not torch.equal(whole[0], whole[2]) and not torch.equal(whole[1], whole[3])


def test_a_snapshot_judges_images(snap):
    judge = CcGAN.judge_from(load_any(snap))
    x = torch.randn(3, 1, 16, 16)
    c = torch.tensor([[0.0], [45.0], [90.0]])
    logits = judge(x, c)
    assert logits.shape == (3,) and (judge(x, c.flip(0))[[0, 2]] - logits[[0, 2]]).abs().min() > 0


def test_generate_by_value(snap, tmp_path):
    def generate(*words):
        CliRunner().invoke(main, [f"--network={snap}", *words], catch_exceptions=False, standalone_mode=False)

    generate("--label=10,55.5", "--seeds=0-2", f"--outdir={tmp_path / 'f.zip'}", f"--grid={tmp_path / 'g.png'}")
    data = ImageDataset(tmp_path / "f.zip", use_labels=True)
    assert sorted(data.labels(range(6))[:, 0].tolist()) == [10.0] * 3 + [55.5] * 3
    assert data.spec.label.meta == {k: META[k] for k in data.spec.label.meta}
    with pytest.raises(UserError) as e:
        generate("--label=91", f"--grid={tmp_path / 'x.png'}")
    assert str(e.value) == "--label=91 is outside the labels of this model, 0 to 90 degree"
    generate(f"--grid={tmp_path / 'h.png'}")  # a row for each of ten values
    assert Image.open(tmp_path / "h.png").height >= 160 and not (tmp_path / "x.png").exists()


def test_continued_from_weights(path, snap, tmp_path):
    data = ImageDataset(path, use_labels=True)
    source = load_any(snap)
    m, _ = make(data, run=dict(resume=str(snap)), source=source)
    assert m.gan_begin == 0 and [p.name for p in m.phases()] == ["Dmain", "Gmain"]
    for name in ("G_ema", "y2h", "x2y"):
        assert all(torch.equal(t, source.nets[name].state[k]) for k, t in m.nets[name].state_dict().items())
    opts = CcGAN.Options(**SMALL, label_input="nli")
    with pytest.raises(UserError, match="--label_input=ili"):
        CcGAN.check_source(opts, data.spec, source, "main")
    with pytest.raises(UserError, match="is of method other"):
        CcGAN.check_source(opts, data.spec, dataclasses.replace(source, method="other"), "main")


def test_the_contact_sheet_goes_from_low_to_high_labels(path):
    data = ImageDataset(path, use_labels=True)
    indices, names, columns = training_loop.grid_layout(data, rows=4)
    y = data.labels(np.asarray(indices))[:, 0]
    assert len(indices) == 4 * columns and (np.diff(y) >= 0).all()
    assert [float(n) for n in names] == pytest.approx(y.reshape(4, -1).mean(1).tolist(), rel=1e-2)


# ---- options -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cfg", CFGS)
def test_presets_resolve(cfg):
    data = DataSpec("x", 64, 3, 1000, LabelSpec("value", 1, meta=META))
    opts, run = CcGAN.Options(cfg=cfg), RunConfig()
    CcGAN.resolve(opts, run, data)
    assert all(getattr(opts, k) is not None for k in ("arch", "ch", "z_dim", "h_dim", "d_steps", "kappa", "embed_kimg"))
    assert run.kimg > opts.embed_kimg and opts.diffaug == CFGS[cfg]["diffaug"]


VALUE = LabelSpec("value", 1, meta=META)


@pytest.mark.parametrize("label, resolution, options, said", [
    (LabelSpec("class", 3, (1, 1, 1)), 16, {}, "has classes"),
    (LabelSpec(), 16, {}, "no labels in use"),
    (LabelSpec("value", 3), 16, {}, "vectors of 3 numbers"),
    (VALUE, 8, {}, "dataset_tool.py --transform=center-crop --resolution=16x16"),
    (VALUE, 16, dict(kappa=0.0), "--kappa=0"),
    (VALUE, 16, dict(h_dim=20), "multiple of 8"),
    (VALUE, 16, dict(embed_kimg=500.0), "leaves nothing"),
    (VALUE, 16, dict(vicinity="hard", svdl_normalize=True), "--vicinity=soft"),
])
def test_bad_options(label, resolution, options, said):
    opts = CcGAN.Options(**{**SMALL, **options})
    with pytest.raises(UserError, match=said) as e:
        CcGAN.resolve(opts, RunConfig(kimg=50), DataSpec("x", resolution, 1, 30, label))
    assert "\n" not in str(e.value)


def test_bad_labels_are_said_before_training(tmp_path):
    x = np.zeros([4, 16, 16], np.uint8)
    for labels, meta, said in (([[5.0]] * 4, None, "at least two different values"),
                               ([[1.0], [2.0], [3.0], [4.0]], dict(META, scale=2.0), "not within 0 to 1")):
        write_image_zip(tmp_path / "x.zip", x, labels, **(dict(label_meta=meta) if meta else {}))
        data = ImageDataset(tmp_path / "x.zip", use_labels=True)
        with pytest.raises(UserError, match=said):
            make(data, embed_kimg=0.064)[0].prepare(data)


def test_bad_data_leave_no_run_behind(tmp_path, call):
    write_image_zip(tmp_path / "x.zip", np.zeros([4, 16, 16], np.uint8), [[5.0]] * 4)
    out = call("train", "--method=ccgan", "--cfg=tiny", f"--data={tmp_path / 'x.zip'}",
               f"--outdir={tmp_path / 'runs'}", check=2)
    assert out.stderr.count("\n") == 1 and "at least two different values" in out.stderr
    assert not list((tmp_path / "runs").glob("*"))
