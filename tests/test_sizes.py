# SPDX-License-Identifier: Apache-2.0
"""Images that are neither square nor of a power of two, through training and through every command that takes them."""

import json

import numpy as np
import PIL.Image
import pytest
import torch

from gantransfer.data.dataset import ImageDataset
from gantransfer.formats import onnx_info
from gantransfer.importers import load_any
from gantransfer.model import load
from gantransfer.pictures.grids import cells
from gantransfer.sampler import LabelSource
from gantransfer.training_loop import Stepper, normalised
from gantransfer.viewer import sheets
from tests.conftest import write_image_zip
from tests.test_step import trainer
from torch_utils import stats

HEIGHT, WIDTH = 24, 16  # begins with 6 x 4
SMALL = ("--cbase=128", "--cmax=8", "--z_dim=8", "--w_dim=8")


@pytest.fixture(scope="module")
def data(digits, tmp_path_factory):
    """Digits on a ground of 24 x 16, in three grey values of their own: colour images."""
    images = np.pad(digits[0], ((0, 0), (6, 2), (0, 0)))
    images = np.stack([images, images // 2, 255 - images], -1)
    return write_image_zip(tmp_path_factory.mktemp("sizes") / "set.zip", list(images), digits[1].tolist())


def train(call, data, folder, method, *more, length="--kimg=0.016"):
    cfg = [] if method == "mind2mind" else ["--cfg=tiny"]
    call("train", f"--data={data}", f"--outdir={folder}", f"--method={method}", *cfg, "--batch=8", "--tick=0.008",
         length, "--metrics=none", *more)
    return max(folder.iterdir(), key=lambda p: p.name)


@pytest.fixture(scope="module")
def once():
    """What the tests of this file share."""
    return {}


@pytest.fixture
def run(data, tmp_path_factory, call, once):
    """A run of UTLO; its small image has the second level, 12 x 8."""
    if "run" not in once:
        once["run"] = train(call, data, tmp_path_factory.mktemp("runs"), "utlo", "--cond=True", *SMALL)
    return once["run"]


@pytest.fixture
def snap(run):
    return max(run.glob("network-snapshot-*.pkl"))


@pytest.mark.parametrize("method, options", [
    ("stylegan2", dict(pl_weight=2.0, aug="ada", style_mix=0.5, lecam=0.1)), ("stylegan2", dict(precision="bf16")),
    ("utlo", dict(res_uc=6, aug="fixed", p=0.8)), ("utlo", dict(res_uc=24, diffaug="color,translation,cutout")),
    ("transitional", dict(transition="0-1"))])
def test_a_step(data, method, options):
    """Every phase: all that is trained moves, and nothing is NaN."""
    m, dataset = trainer(data, method, **options)
    before = {k: v.clone() for net in (m.G, m.D) for k, v in net.named_parameters()}
    m.report = stats.Collector().report
    x, c = normalised(dataset.read(range(8))), torch.from_numpy(dataset.labels(range(8)))
    stepper = Stepper(m, m.run)
    for index in range(2):  # noise strengths and what they weigh start at zero
        stepper.step(index, 8 * index, lambda rep, micro: (x, c), LabelSource(dataset.spec.label).draw)
        m.end_step(8 * index, 8)
    after = {k: v for net in (m.G, m.D) for k, v in net.named_parameters()}
    assert all(torch.isfinite(v).all() for v in after.values())
    still = [k for k, v in after.items() if torch.equal(v, before[k]) and v.numel() > 1 and "torgb" not in k]
    assert not still, still
    assert m.sampler()([0, 1], c[:2]).shape == (2, 3, HEIGHT, WIDTH)


def test_the_record_and_the_run_that_goes_on(run, snap, data, call):
    options = json.loads((run / "training_options.json").read_text())
    assert options["training_set_kwargs"]["resolution"] == [HEIGHT, WIDTH] and options["options"]["res_uc"] == 12
    found = load_any(snap)
    assert found.data["resolution"] == found.nets["G_ema"].kwargs["img_resolution"] == [HEIGHT, WIDTH]
    assert f"{WIDTH}x{HEIGHT} pixels" in call("inspect", snap).stdout
    assert onnx_info._size([HEIGHT, WIDTH]) == f"{WIDTH}x{HEIGHT}" and onnx_info._size(64) == 64
    with PIL.Image.open(run / "reals.png") as sheet:
        shown = cells(sheet)
        zoom = shown.shape[3] // WIDTH
        assert shown.shape[2:] == (HEIGHT * zoom, WIDTH * zoom, 3)
        reals = ImageDataset(data).images_uint8(range(40)).transpose(0, 2, 3, 1)
        assert any(np.array_equal(x, shown[0, 0, ::zoom, ::zoom]) for x in reals)
    with PIL.Image.open(run / "fakes_uc000000.png") as sheet:
        assert cells(sheet).shape[2] * 8 == cells(sheet).shape[3] * 12
    train(call, data, run.parent, "utlo", "--cond=True", *SMALL, f"--resume={run}", length="--kimg=0.024")
    assert (run / "network-snapshot-000000_024.pkl").exists()


@pytest.mark.slow
def test_metrics_generation_and_pictures(run, snap, data, call, tmp_path):
    out = call("calc_metrics", f"--network={snap}", "--metrics=fd_pix64_32", f"--data={data}").stdout
    assert "fd_pix64_32" in out and "nan" not in out
    call("generate", f"--network={snap}", f"--grid={tmp_path / 'grid.png'}")
    with PIL.Image.open(tmp_path / "grid.png") as sheet:
        assert cells(sheet).shape[2] * WIDTH == cells(sheet).shape[3] * HEIGHT
    call("generate", f"--network={snap}", f"--outdir={tmp_path / 'made'}", "--seeds=0-2", "--class=1")
    files = sorted((tmp_path / "made").rglob("*.png"))
    want = load(snap).sampler()([0, 1, 2], torch.eye(4)[[1, 1, 1]], noise_mode="const").permute(0, 2, 3, 1).numpy()
    assert len(files) == 3 and all(np.array_equal(np.asarray(PIL.Image.open(f)), x) for f, x in zip(files, want))
    call("interpolate", f"--network={snap}", f"--output={tmp_path / 'walk.png'}", "--steps=3")
    PIL.Image.fromarray(np.zeros([30, 90, 3], np.uint8)).save(tmp_path / "wide.png")
    call("project", f"--network={snap}", f"--target={tmp_path / 'wide.png'}", f"--outdir={tmp_path / 'proj'}",
         "--steps=2", "--class=0")
    for name in ("target", "proj"):
        assert PIL.Image.open(tmp_path / "proj" / f"{name}.png").size == (WIDTH, HEIGHT)
    call("report", run, f"--out={tmp_path / 'report.html'}")
    assert f"{WIDTH} x {HEIGHT}" in (tmp_path / "report.html").read_text()


def test_files_of_other_programs(snap, call, tmp_path):
    want = load(snap).sampler()([0], torch.eye(4)[:1])
    for name in ("g.safetensors", "g.pt"):
        call("convert", snap, tmp_path / name)
        assert torch.equal(load(tmp_path / name).sampler()([0], torch.eye(4)[:1]), want)


def test_the_page_shows_them_in_their_shape(snap):
    sampler = load(snap).sampler()
    p, plan = sheets.parse(dict(seeds=[0, 1]), sampler)
    assert sheets.grid(sheets.images(sampler, p, plan, slice(0, 8)), 2).shape == (3, 4 * HEIGHT, 2 * WIDTH)
    assert sheets.grid(np.zeros([1, 3, 384, 256], np.uint8), 1).shape == (3, 128, 85)


@pytest.mark.slow
def test_methods_that_start_from_such_a_network(data, call, tmp_path):
    """A source without classes and one with; encoder, Mind2Mind, its tuning, hyper-modulation, style transfer."""
    def last(run):
        return max(run.glob("network-snapshot-*.pkl"))

    free = last(train(call, data, tmp_path / "free", "stylegan2", *SMALL))
    classes = last(train(call, data, tmp_path / "classes", "stylegan2", "--cond=True", *SMALL))
    encoder = last(train(call, data, tmp_path / "encoder", "encoder", f"--source={free}"))
    mind = last(train(call, data, tmp_path / "mind", "mind2mind", f"--source={encoder}", "--accept_encoder=True"))
    tuned = last(train(call, data, tmp_path / "tuned", "mind_tune", f"--source={mind}"))
    hyper = last(train(call, data, tmp_path / "hyper", "hypermod", f"--source={free}", "--cond=True"))
    styles = last(train(call, data, tmp_path / "styles", "styletransfer", f"--source={classes}", "--cond=True"))
    for file in (encoder, mind, tuned, hyper, styles):
        sampler = load(file).sampler()
        assert sampler([0], torch.eye(4)[:1] if sampler.label_dim else None).shape == (1, 3, HEIGHT, WIDTH)
    call("convert", hyper, tmp_path / "one.pkl", "--bake", "--class=2")
    assert torch.equal(load(tmp_path / "one.pkl").sampler()([3]), load(hyper).sampler()([3], torch.eye(4)[2:3]))
    square = write_image_zip(tmp_path / "square.zip", [np.zeros([16, 16, 3], np.uint8)] * 4, [0, 1, 2, 3])
    said = call("train", f"--data={square}", f"--outdir={tmp_path}/no", "--method=hypermod", f"--source={free}",
                "--cfg=tiny", "--cond=True", "--dry-run", check=2).stderr
    assert "images of 16x24 pixels" in said and "has 16x16; convert the data" in said and "--resolution=16x24" in said
