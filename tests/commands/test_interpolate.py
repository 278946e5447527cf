# SPDX-License-Identifier: Apache-2.0
"""Walks between classes and latents: what stays, what moves, files, messages."""


import numpy as np
import pytest
import torch
from PIL import Image

from dnnlib.util import UserError
from gantransfer.commands import interpolate
from gantransfer.data.dataset import DataSpec, LabelSpec
from gantransfer.methods import METHODS
from gantransfer.networks import stylegan2
from gantransfer.pictures import grids, video, walks
from gantransfer.sampler import Sampler
from gantransfer.snapshot import NetRecord, Snapshot, find_snapshots, load
from tests.methods.test_hypermod import make, spec, step
from torch_utils.interpolation import slerp


@pytest.fixture(scope="module")
def hyper():
    m = make(spec(names=("a", "b", "c", "d")))
    for p in [*m.G.hyper_parameters(), *m.G_ema.hyper_parameters()]:
        p.data.normal_(std=0.5, generator=torch.Generator().manual_seed(p.numel()))
    return step(m, 1).snapshot(8)


@pytest.fixture(scope="module")
def conditional():
    torch.manual_seed(0)
    G = stylegan2.Generator(8, 4, 8, 16, 1, {"num_layers": 2}, dict(channel_base=128, channel_max=8))
    data = DataSpec("s", 16, 1, 9, LabelSpec("class", 4, (1,) * 4)).to_dict()
    return Snapshot("stylegan2", {"G_ema": NetRecord.of(G)}, data=data)


@pytest.fixture
def plain(tmp_path):
    """The file of a model without labels."""
    torch.manual_seed(0)
    G = stylegan2.Generator(8, 0, 8, 16, 1, {"num_layers": 2}, dict(channel_base=64, channel_max=4))
    data = DataSpec("s", 16, 1, 9).to_dict()
    Snapshot("stylegan2", {"G_ema": NetRecord.of(G)}, data=data).save(tmp_path / "plain.pkl")
    return tmp_path / "plain.pkl"


@pytest.fixture(params=["hyper", "conditional"])
def walk(request):
    snap = request.getfixturevalue(request.param)
    return walks.Walk(METHODS[snap.method].sampler_from(snap), 1.0, "const", torch.device("cpu"))


def ordinary(walk, seed, class_id):
    c = torch.nn.functional.one_hot(torch.tensor([class_id]), 4).float()
    return walk.sampler([seed], c, noise_mode="const").numpy()[0].astype(int)


def near(a, b):
    return np.abs(a.astype(int) - b.astype(int)).max() <= 1


def test_ends_of_walks_are_ordinary_images(walk):
    s = walks.sheet(walk, "class", [5, 6], 1, 3, 4, torch.lerp)
    assert s.shape == (2, 4, 1, 16, 16)
    for row, seed in zip(s, (5, 6)):
        assert near(row[0], ordinary(walk, seed, 1)) and near(row[-1], ordinary(walk, seed, 3))
        assert not near(row[0], row[-1])
    s = walks.sheet(walk, "noise", [5, 6, 7], 2, 0, 3, slerp)
    assert len(s) == 2 and near(s[0, 0], ordinary(walk, 5, 2)) and near(s[1, 2], ordinary(walk, 7, 2))
    assert near(s[0, 2], s[1, 0])
    s = walks.sheet(walk, "class_noise", [5, 6], 1, 3, 3, torch.lerp)
    assert s.shape[:2] == (3, 3)
    assert near(s[0, 0], ordinary(walk, 5, 1)) and near(s[0, 2], ordinary(walk, 5, 3))
    assert near(s[2, 0], ordinary(walk, 6, 1)) and near(s[2, 2], ordinary(walk, 6, 3))


def test_shifts_pass_through_the_unshifted_image(walk):
    for kind in ("z_shift", "class_shift"):
        s = walks.sheet(walk, kind, [5], 1, 0, 5, torch.lerp)
        assert near(s[0, 2], ordinary(walk, 5, 1)) and not near(s[0, 0], s[0, 4])
    s = walks.sheet(walk, "random_z", [5], 1, 0, 3, torch.lerp)
    assert near(s[0, 0], ordinary(walk, 6, 1)) and near(s[0, 2], ordinary(walk, 8, 1))


def test_random_noise_does_not_flicker(hyper):
    walk = walks.Walk(METHODS["hypermod"].sampler_from(hyper), 1.0, "random", torch.device("cpu"))
    s = walks.sheet(walk, "class", [5], 1, 1, 3, torch.lerp)
    assert near(s[0, 0], s[0, 1]) and near(s[0, 0], s[0, 2])


def command(*words):
    interpolate.main([str(w) for w in words], standalone_mode=False)


@pytest.mark.parametrize("kind", interpolate.TYPES)
def test_sheets(kind, hyper, tmp_path):
    hyper.save(tmp_path / "x.pkl")
    command(f"--network={tmp_path / 'x.pkl'}", f"--type={kind}", f"--output={tmp_path / 'o.png'}", "--steps=3",
            "--seeds=0-1", "--class-2=d", "--zoom=2", "--interpolation=spherical")
    rows = {"noise": 1, "class_noise": 3}.get(kind, 2)
    with Image.open(tmp_path / "o.png") as picture:
        assert grids.cells(picture).shape == (rows, 3, 32, 32)


def test_film(hyper, tmp_path):
    ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="needs imageio-ffmpeg (extra `video`)")
    hyper.save(tmp_path / "x.pkl")
    command(f"--network={tmp_path / 'x.pkl'}", f"--output={tmp_path / 'o.mp4'}", "--steps=6", "--seeds=0-2", "--fps=3",
            "--zoom=4")
    frames, seconds = ffmpeg.count_frames_and_secs(str(tmp_path / "o.mp4"))
    assert frames == 6 and seconds == pytest.approx(2, abs=0.2)
    reader = ffmpeg.read_frames(str(tmp_path / "o.mp4"))
    width, height = next(reader)["source_size"]
    assert width == 3 * 64 + 2 * grids.GAP + 2 * grids.PAD and 64 + grids.PAD < height < 128  # words above the images


def test_a_film_without_an_ending_is_of_a_kind_that_can_be_written(hyper, tmp_path, monkeypatch):
    hyper.save(tmp_path / "x.pkl")
    monkeypatch.setattr(video, "video_ending", lambda: ".webp")
    command(f"--network={tmp_path / 'x.pkl'}", f"--video={tmp_path / 'o'}", f"--output={tmp_path / 'o.png'}",
            "--steps=4", "--seeds=0", "--loop")
    with Image.open(tmp_path / "o.webp") as film, Image.open(tmp_path / "o.png") as picture:
        assert film.n_frames == 6 and grids.cells(picture).shape[:2] == (1, 6)


def test_a_loop_ends_beside_its_beginning(walk):
    """There and back without the ends twice; `noise` through all seeds, each of which is its ordinary image."""
    there = walks.sheet(walk, "class", [5], 1, 3, 4, torch.lerp)[0]
    loop = walks.sheet(walk, "class", [5], 1, 3, 4, torch.lerp, loop=True)[0]
    assert [near(a, there[k]) for a, k in zip(loop, (0, 1, 2, 3, 2, 1))] == [True] * 6 and len(loop) == 6
    round_trip = walks.sheet(walk, "noise", [5, 6, 7], 2, 0, 3, torch.lerp, loop=True)
    assert round_trip.shape[:2] == (1, 6)
    assert all(near(round_trip[0, 2 * i], ordinary(walk, s, 2)) for i, s in enumerate((5, 6, 7)))
    back = walks.sheet(walk, "noise", [7, 5], 2, 0, 3, torch.lerp)[0]
    assert near(round_trip[0, 5], back[1])


def test_walks_say_where_they_are():
    label = LabelSpec("class", 3, (1,) * 3, ("oak", "ash", "elm"))
    w = walks.words(label, "class", [4], 0, 2, 3, loop=True)
    assert w.columns == ["oak", "50 %", "elm", "50 %"] and w.rows == ["seed 4"] and w.title == "class oak to elm"
    assert w.frames == ["oak", "oak: 50 %, elm: 50 %", "elm", "oak: 50 %, elm: 50 %"] and w.marks == [0, 2]
    w = walks.words(LabelSpec(), "noise", [4, 9], 0, 0, 3, loop=True)
    assert w.frames == ["seed 4", "seed 4 to 9: 50 %", "seed 9", "seed 9 to 4: 50 %"] and w.title == ""
    w = walks.words(label, "noise", [4, 9, 2], 1, 0, 2)
    assert w.rows == ["seed 4 to 9", "seed 9 to 2"] and w.frames == ["class ash, 0 %", "class ash, 100 %"]
    degrees = LabelSpec("value", 1, meta=dict(min=0.0, max=90.0, unit="deg"))
    assert walks.words(degrees, "class", [4], 10, 90, 3).frames == ["10 deg", "50 deg", "90 deg"]
    for kind in interpolate.TYPES:
        for loop in (False, True):
            frames = len(walks._times(kind, 4, 3, loop))
            w = walks.words(label, kind, [1, 2, 3], 0, 1, 4, loop)
            assert len(w.columns) == len(w.frames) == frames and max(w.marks) < frames


def test_models_without_labels_walk_between_latents(plain, tmp_path):
    command(f"--network={plain}", f"--output={tmp_path / 'o.png'}", "--steps=3", "--seeds=5,6")
    with Image.open(tmp_path / "o.png") as picture:
        made = grids.cells(picture)[0, :, ::2, ::2]
    sampler = METHODS["stylegan2"].sampler_from(load(plain))
    assert all(near(made[k], sampler([s], noise_mode="const").numpy()[0, 0]) for k, s in ((0, 5), (2, 6)))
    for words, match in ((["--type=class"], "--type=class: .*no classes"), (["--class-1=0"], "--class-1: .*no classes"),
                         (["--loop", "--type=random_z"], "omit --loop"), (["--seeds=1"], "two or more")):
        with pytest.raises(UserError, match=match):
            command(f"--network={plain}", f"--output={tmp_path / 'o.png'}", *words)


def test_a_walk_from_a_class_to_itself_is_none(hyper, conditional, tmp_path):
    hyper.save(tmp_path / "x.pkl")
    base = [f"--network={tmp_path / 'x.pkl'}", f"--output={tmp_path / 'o.png'}", "--seeds=0,1", "--steps=2"]
    for words in (["--class-1=c", "--class-2=id:2"], ["--type=class_noise", "--class-1=c", "--class-2=c"]):
        with pytest.raises(UserError, match="both are c: give two that differ, or --type=noise"):
            command(*base, *words)
    command(*base, "--type=noise", "--class-1=c", "--class-2=c")
    label = LabelSpec("class", 4, (0, 5, 0, 0), ("ash", "beech", "cedar", "elm"))  # of which one had images
    snap = Snapshot("stylegan2", conditional.nets, data={**conditional.data, "label": label.to_dict()})
    snap.save(tmp_path / "x.pkl")
    (tmp_path / "o.png").unlink()
    with pytest.raises(UserError, match="both are beech"):
        command(*base, "--type=class")
    command(*base)  # from latent to latent
    with Image.open(tmp_path / "o.png") as picture:
        made = grids.cells(picture)[0, :, ::2, ::2]
    sampler = METHODS["stylegan2"].sampler_from(load(tmp_path / "x.pkl"))
    c = torch.nn.functional.one_hot(torch.tensor([1]), 4).float()
    assert all(near(made[k], sampler([k], c, noise_mode="const").numpy()[0, 0]) for k in (0, 1))


def test_walks_of_a_continuous_label(earlier_runs, tmp_path):
    path = find_snapshots(earlier_runs / "ccgan")[-1]
    sampler = METHODS["ccgan"].sampler_from(load(path))
    low, high = (sampler.spec.label.meta[k] for k in ("min", "max"))
    command(f"--network={path}", f"--output={tmp_path / 'o.png'}", "--steps=3", "--seeds=5", f"--class-1={low:g}",
            f"--class-2={high:g}", "--zoom=1")
    with Image.open(tmp_path / "o.png") as picture:
        made = grids.cells(picture)[0]
    for image, value in zip(made, (low, (low + high) / 2, high)):
        assert near(image, np.squeeze(sampler([5], torch.tensor([[value]])).numpy()))

    def grey(z, c, rng, **kw):  # a network whose images say which label they were asked for
        return ((c - 128) / 127.5)[:, :, None, None].expand(-1, 1, 8, 8)

    label = LabelSpec("value", 1, meta=dict(min=0.0, max=90.0, unit="deg"))
    walk = walks.Walk(Sampler(grey, 4, DataSpec("x", 8, 1, 9, label)), 1.0, "const", torch.device("cpu"))
    levels = walks.sheet(walk, "class", [5], 20, 80, 3, torch.lerp, loop=True)[0, :, 0, 0, 0]
    assert np.abs(levels.astype(int) - [20, 50, 80, 50]).max() <= 1
    for text in (f"{high + 1:g}", "1,2", "x"):
        with pytest.raises(UserError, match=f"--class-2={text}"):
            command(f"--network={path}", f"--output={tmp_path / 'o.png'}", f"--class-2={text}")


@pytest.mark.parametrize("run", ["alae", "biggan", "ccgan", "cgantransfer", "hypermod", "mind2mind", "minegan",
                                 "stylegan2", "styletransfer", "utlo"])
def test_every_method_that_makes_images_walks(run, earlier_runs, tmp_path):
    path = find_snapshots(earlier_runs / run)[-1]
    command(f"--network={path}", f"--output={tmp_path / 'o.png'}", "--steps=2", "--seeds=0,1", "--loop",
            f"--video={tmp_path / 'o.webp'}")
    with Image.open(tmp_path / "o.png") as picture, Image.open(tmp_path / "o.webp") as film:
        assert grids.cells(picture).shape[1] == film.n_frames == 2


def test_messages(hyper, conditional, tmp_path, monkeypatch):
    hyper.save(tmp_path / "x.pkl")
    base = [f"--network={tmp_path / 'x.pkl'}", f"--output={tmp_path / 'o.png'}"]
    for words, says in ((["--class-1=9"], "--class-1=9"), (["--class-2=zebra"], "--class-2=zebra"),
                        (["--output=o.gif"], "ends in .png, .mp4 or .webp"),
                        (["--type=noise", "--seeds=1"], "two or more"),
                        (["--seeds=x"], "--seeds=x"),
                        (["--steps=1000000000"], "million pixels in one picture.*--steps=1000000000: give fewer"),
                        (["--steps=20000", "--type=class_noise", "--seeds=0,1"], "million pixels")):
        with pytest.raises(UserError, match=says) as e:
            command(*base, *words)
        assert "\n" not in str(e.value)
    with pytest.raises(UserError, match="--output=FILE.png, or --video"):
        command(base[0])
    with pytest.raises(UserError, match="two films"):
        command(base[0], "--output=a.webp", "--video=b.webp")
    monkeypatch.setitem(__import__("sys").modules, "imageio_ffmpeg", None)
    with pytest.raises(UserError, match="pip install imageio-ffmpeg"):
        video.write_video(str(tmp_path / "o.mp4"), np.zeros((1, 2, 1, 8, 8), np.uint8), 3, 1)


def test_walks_go_between_classes_that_had_images(conditional, tmp_path, monkeypatch, capsys):
    snap = Snapshot("stylegan2", conditional.nets, data={**conditional.data, "label": LabelSpec(
        "class", 4, (0, 5, 0, 5), ("ash", "beech", "cedar", "0")).to_dict()})
    snap.save(tmp_path / "x.pkl")
    ends = []
    monkeypatch.setattr(walks, "sheet", lambda walk, kind, seeds, a, b, *_: ends.append((a, b)) or np.zeros(
        (1, 10, 1, 16, 16), np.uint8))
    words = [f"--network={tmp_path / 'x.pkl'}", f"--output={tmp_path / 'o.png'}"]
    command(*words)
    assert not capsys.readouterr().err
    command(*words, "--class-1=cedar", "--class-2=0", f"--seeds={2**40}")
    assert ends == [(1, 3), (2, 0)]
    err = capsys.readouterr().err
    assert "--class-1: class 2 had no" in err and "--class-2=0 is class number 0 (ash)" in err
    with pytest.raises(UserError, match="--class-1=1,3 are 2 classes"):
        command(*words, "--class-1=1,3")
