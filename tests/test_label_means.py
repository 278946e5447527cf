# SPDX-License-Identifier: Apache-2.0
"""Truncation towards the mean w of a label: at psi 0 every class is its own mean, whatever the batch."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from dnnlib.util import UserError, run_cli
from gantransfer import label_means
from gantransfer.commands import generate, interpolate
from gantransfer.commands.calc_metrics import main as calc_metrics
from gantransfer.data.dataset import DataSpec, LabelSpec
from gantransfer.methods import METHODS
from gantransfer.methods.styletransfer import StyleTransfer
from gantransfer.metrics import rating
from gantransfer.networks import hypermod, hypermod_stylegan1, mindgan, stylegan2, styletransfer, transitional, utlo
from gantransfer.pictures import grids
from gantransfer.sampler import Sampler, one_hot, to_uint8
from gantransfer.snapshot import NetRecord, Snapshot
from tests.conftest import write_image_zip

SIZES = dict(z_dim=8, w_dim=8, img_resolution=16, img_channels=3, mapping_kwargs=dict(num_layers=2),
             synthesis_kwargs=dict(channel_base=64, channel_max=6))
SPEC = DataSpec("x", 16, 3, 10, LabelSpec("class", 3, (4, 3, 3)))


def generator(method):
    torch.manual_seed(1)
    if method == "stylegan2":
        return stylegan2.Generator(c_dim=3, **SIZES)
    if method == "utlo":
        return utlo.Generator(c_dim=3, res_uc=8, **SIZES)
    if method == "transitional":
        G = transitional.Generator(c_dim=3, **SIZES)
        G.set_transition(0.7)
        return G
    if method == "hypermod":
        G = hypermod.Generator(c_dim=3, exact=False, **SIZES)
        for p in G.hyper_parameters():
            p.data.mul_(0.2)  # images inside the range of colours
        return G
    if method == "hypermod v1":
        return hypermod_stylegan1.Generator([8, 6, 4], 8, 2, fused_from=3, num_classes=3)
    if method == "styletransfer":
        G = styletransfer.extend(stylegan2.Generator(c_dim=4, **SIZES), 3)
        for p in G.residual_parameters():
            p.data.normal_()
        return G
    spec = dict(kind="stylegan2", w_dim=8, img_resolution=16, img_channels=3, **SIZES["synthesis_kwargs"])
    slots = 1 if method == "mind2mind" else 6
    return mindgan.MindGenerator(dict(z_dim=8, c_dim=3, hidden=[8], slots=slots), spec)


def sampler(method):
    G = generator(method).eval().requires_grad_(False)
    if method == "styletransfer":
        return StyleTransfer.sampler_with(G, SPEC, "cpu", LabelSpec("class", 4))
    more = (True,) if method.startswith("mind2mind") else ()
    return METHODS[method.split()[0]].sampler_of(G, SPEC, "cpu", *more)


ALL = ["stylegan2", "utlo", "transitional", "hypermod", "hypermod v1", "styletransfer", "mind2mind",
       "mind2mind w+"]
TRUNCATED = dict(truncation_psi=0, truncation_center="class", noise_mode="const")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(label_means, "COUNT", 2500)


@pytest.mark.parametrize("method", ALL)
def test_at_psi_0_each_image_is_the_mean_of_its_label(method):
    s, soft = sampler(method), torch.tensor([[0.5, 0.2, 0.3]])
    labels = torch.cat([one_hot([0, 2], 3), soft])
    a, b = s([5, 6, 7], labels, **TRUNCATED), s([8, 9, 10], labels, **TRUNCATED)
    assert torch.equal(a, b)  # the latent has no say
    differences = [(a[i].int() - a[j].int()).abs().float().mean() for i, j in ((0, 1), (0, 2), (1, 2))]
    assert min(differences) > 0.2, differences  # the label has
    z = torch.from_numpy(np.random.RandomState(3).randn(20_000, 8)).float()
    for row, image in zip(labels, a):
        with torch.no_grad():
            ws = s.means.styles(z, row.expand(len(z), -1)).mean(0, keepdim=True)
            expected = to_uint8(s.render(ws, noise_mode="const", rng=None))[0]
        assert (image.int() - expected.int()).abs().float().mean() < 6, method  # two estimates of one mean


@pytest.mark.parametrize("method", ALL)
def test_an_image_depends_on_its_seed_and_label_only(method):
    s, kw = sampler(method), dict(TRUNCATED, truncation_psi=0.6)
    together = s([1, 2, 3], one_hot([0, 1, 2], 3), **kw)
    fresh = sampler(method)
    alone = torch.cat([fresh([i + 1], one_hot([i], 3), **kw) for i in (2, 0, 1)])[[1, 2, 0]]
    assert (together.int() - alone.int()).abs().max() <= 1
    assert torch.equal(s([1, 2, 3], one_hot([0, 1, 2], 3), **kw), together)
    plain = s([1, 2, 3], one_hot([0, 1, 2], 3), noise_mode="const")
    assert torch.equal(s([1, 2, 3], one_hot([0, 1, 2], 3), **{**kw, "truncation_psi": 1}), plain)
    assert (together.int() - plain.int()).abs().float().mean() > 0.1


def test_the_default_is_the_published_centre_and_the_cutoff_counts_layers():
    s = sampler("stylegan2")
    s.network.mapping.w_avg.normal_()
    c, kw = one_hot([0, 2], 3), dict(truncation_psi=0.0, noise_mode="const")
    global_ = s([1, 2], c, **kw)
    assert torch.equal(global_[0], global_[1])  # the label is gone, as published
    assert torch.equal(s([1, 2], c, truncation_center="global", **kw), global_)
    cut = [s([1], c[:1], truncation_center="class", truncation_cutoff=k, **kw) for k in (0, 2, None)]
    assert torch.equal(cut[0], s([1], c[:1], noise_mode="const"))
    assert not torch.equal(cut[1], cut[0]) and not torch.equal(cut[1], cut[2])


@pytest.mark.parametrize("psi", [-1.0, 0.0, 0.7, 1.5])
def test_psi_scales_the_distance_from_the_mean_on_either_side(psi):
    ws, center = torch.randn(2, 5, 4), torch.randn(2, 5, 4)
    torch.testing.assert_close(label_means.pull(ws, center, psi), center + psi * (ws - center))
    cut = label_means.pull(ws, center, psi, 2)
    torch.testing.assert_close(cut[:, :2], center[:, :2] + psi * (ws - center)[:, :2])
    assert torch.equal(cut[:, 2:], ws[:, 2:])


def test_every_label_is_measured_once_and_anew_when_the_network_changes(monkeypatch):
    s, asked = sampler("stylegan2"), []
    styles = s.means.styles
    monkeypatch.setattr(s.means, "styles", lambda z, c: (asked.append(len(z)), styles(z, c))[1])
    for seeds in ([1, 2, 3, 4], [5, 6]):
        s(seeds, one_hot([0, 1, 0, 1][: len(seeds)], 3), **TRUNCATED)
    assert sum(n for n in asked if n > 4) == 2 * label_means.COUNT
    before = s([1], one_hot([1], 3), **TRUNCATED)
    s.network.mapping.fc0.weight.data.mul_(-3)
    s.network.mapping.fc0.bias.add_(100)
    assert not torch.equal(s([1], one_hot([1], 3), **TRUNCATED), before)


def test_label_free_images_and_old_classes_have_their_own_means():
    s = sampler("utlo")
    uc = s([1, 2], one_hot([0, 2], 3), view="uc", **TRUNCATED)
    assert uc.shape[2] == 8 and torch.equal(uc[0], uc[1])  # they know no label
    s = sampler("styletransfer")
    old = s([1, 2], one_hot([0, 3], 4), label_set="old", **TRUNCATED)
    assert not torch.equal(old[0], old[1])


def test_models_without_w_or_labels_say_so():
    biggan = Sampler(lambda z, c, rng, **kw: z, 4, SPEC)
    with pytest.raises(UserError, match="has none, its truncation scales z"):
        biggan([1], one_hot([1], 3), truncation_center="class")
    G = stylegan2.Generator(c_dim=0, **SIZES).eval()
    free = METHODS["stylegan2"].sampler_of(G, DataSpec("x", 16, 3, 10), "cpu")
    with pytest.raises(UserError, match="unconditional: omit the flag"):
        free([1], truncation_center="class")
    with pytest.raises(UserError, match="there are global and class"):
        free([1], truncation_center="mean")


def test_results_of_truncated_images_rate_no_snapshot(tmp_path):
    line = dict(metric="fid10_full", snapshot_pkl="a.pkl", kimg=1, results={"fid10_full": 3.0})
    rows = [line, dict(line, results={"fid10_full": 1.0}, truncation={"truncation_psi": 0.5})]
    (tmp_path / "metric-fid10_full.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert [r.value for r in rating.ratings(tmp_path)] == [3.0]


# ---- commands ------------------------------------------------------------------------------------------------------


def run(command, *words):
    run_cli(lambda: command.main([str(w) for w in words], standalone_mode=False))


@pytest.fixture
def snap(tmp_path):
    G = generator("stylegan2")
    nets = {"G_ema": NetRecord.of(G)}
    Snapshot("stylegan2", nets, data=SPEC.to_dict()).save(tmp_path / "snap.pkl")
    return tmp_path / "snap.pkl"


def pixels(path):
    return np.asarray(Image.open(path)).astype(int)


def test_generate_and_interpolate_take_the_flag(tmp_path, snap):
    run(generate.main, f"--network={snap}", "--seeds=1-2", "--class=0,2", "--trunc=0", "--trunc-center=class",
        f"--outdir={tmp_path / 'out'}", "--device=cpu")
    made = {(s, k): pixels(tmp_path / "out" / f"seed000{s}-class{k}.png") for s in (1, 2) for k in (0, 2)}
    assert (made[1, 0] == made[2, 0]).all() and (made[1, 2] == made[2, 2]).all()
    assert np.abs(made[1, 0] - made[1, 2]).mean() > 0.2
    run(interpolate.main, f"--network={snap}", "--class-1=0", "--class-2=2", "--seeds=1-2", "--steps=3", "--trunc=0",
        "--trunc-center=class", f"--output={tmp_path / 'walk.png'}", "--device=cpu")
    sheet = cells(tmp_path / "walk.png")
    assert all((a == b).all() for a, b in zip(*sheet))  # no latent left
    assert np.abs(sheet[0][0] - made[1, 0]).max() <= 1 and np.abs(sheet[0][2] - made[1, 2]).max() <= 1
    run(generate.main, f"--network={snap}", "--mix-rows=1", "--mix-cols=2", "--class=2", "--trunc=0",
        "--trunc-center=class", f"--grid={tmp_path / 'mix.png'}", "--device=cpu")
    assert np.abs(cells(tmp_path / "mix.png")[1][1] - made[1, 2]).max() <= 1


def cells(path):
    """The images of a sheet of 16 pixels, which is enlarged to 32."""
    with Image.open(path) as picture:
        return grids.cells(picture)[:, :, ::2, ::2].astype(int)


def test_metrics_of_truncated_images_are_lines_of_their_own(tmp_path, snap, capsys):
    rng = np.random.RandomState(0)
    data = write_image_zip(tmp_path / "set.zip", rng.randint(0, 255, (12, 16, 16, 3)).astype(np.uint8), [0, 1, 2] * 4)
    words = [f"--data={data}", "--metrics=smoke", "--labels=uniform", "--device=cpu", "--verbose=False",
             f"--cache-dir={tmp_path / 'c'}", f"--outdir={tmp_path / 'm'}"]
    lines = []
    for more in ([], ["--trunc=0.3"], ["--trunc=0.3", "--trunc-center=class"]):
        run(calc_metrics, f"--network={snap}", *words, *more)
        lines.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    assert [x.get("truncation") for x in lines] == [None, dict(truncation_psi=0.3), dict(
        truncation_psi=0.3, truncation_center="class")]
    values = [next(iter(x["results"].values())) for x in lines]
    assert len(set(values)) == 3
    path = tmp_path / "m" / f"metric-{lines[0]['metric']}.jsonl"
    assert len(path.read_text().splitlines()) == 3
    assert [r.value for r in rating.ratings(tmp_path / "m") if r.metric == lines[0]["metric"]] == values[:1]
    with pytest.raises(SystemExit):
        run(calc_metrics, f"--network={data}", *words, "--trunc=0.5")
    assert "are made already" in capsys.readouterr().err
