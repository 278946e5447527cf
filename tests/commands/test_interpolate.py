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
from gantransfer.pictures import video, walks
from gantransfer.snapshot import NetRecord, Snapshot
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
    assert Image.open(tmp_path / "o.png").size == (3 * 32, rows * 32)


def test_film(hyper, tmp_path):
    ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="needs imageio-ffmpeg (extra `video`)")
    hyper.save(tmp_path / "x.pkl")
    command(f"--network={tmp_path / 'x.pkl'}", f"--output={tmp_path / 'o.mp4'}", "--steps=6", "--seeds=0-2", "--fps=3",
            "--zoom=2")
    frames, seconds = ffmpeg.count_frames_and_secs(str(tmp_path / "o.mp4"))
    assert frames == 6 and seconds == pytest.approx(2, abs=0.2)
    reader = ffmpeg.read_frames(str(tmp_path / "o.mp4"))
    assert tuple(next(reader)["source_size"]) == (3 * 32, 32)


def test_messages(hyper, conditional, tmp_path, monkeypatch):
    hyper.save(tmp_path / "x.pkl")
    base = [f"--network={tmp_path / 'x.pkl'}", f"--output={tmp_path / 'o.png'}"]
    for words, says in ((["--class-1=9"], "--class-1=9"), (["--class-2=zebra"], "--class-2=zebra"),
                        (["--output=o.gif"], "ends in .png, .mp4 or .webp"),
                        (["--type=noise", "--seeds=1"], "two or more"),
                        (["--seeds=x"], "--seeds=x")):
        with pytest.raises(UserError, match=says) as e:
            command(*base, *words)
        assert "\n" not in str(e.value)
    conditional.data["label"] = LabelSpec().to_dict()
    try:
        plain = Snapshot("stylegan2", {"G_ema": NetRecord.of(stylegan2.Generator(
            8, 0, 8, 16, 1, {"num_layers": 2}, dict(channel_base=64, channel_max=4)))}, data=conditional.data)
        plain.save(tmp_path / "plain.pkl")
    finally:
        conditional.data["label"] = LabelSpec("class", 4, (1,) * 4).to_dict()
    with pytest.raises(UserError, match="no classes"):
        command(f"--network={tmp_path / 'plain.pkl'}", f"--output={tmp_path / 'o.png'}")
    monkeypatch.setitem(__import__("sys").modules, "imageio_ffmpeg", None)
    with pytest.raises(UserError, match="pip install imageio-ffmpeg"):
        video.write_video(str(tmp_path / "o.mp4"), np.zeros((1, 2, 1, 8, 8), np.uint8), 3, 1)


def test_walks_go_between_classes_that_had_images(conditional, tmp_path, monkeypatch, capsys):
    snap = Snapshot("stylegan2", conditional.nets, data={**conditional.data, "label": LabelSpec(
        "class", 4, (0, 5, 0, 5), ("ash", "beech", "cedar", "0")).to_dict()})
    snap.save(tmp_path / "x.pkl")
    ends = []
    monkeypatch.setattr(walks, "sheet", lambda walk, kind, seeds, a, b, *_: ends.append((a, b)) or np.zeros(
        (1, 2, 1, 16, 16), np.uint8))
    words = [f"--network={tmp_path / 'x.pkl'}", f"--output={tmp_path / 'o.png'}"]
    command(*words)
    assert not capsys.readouterr().err
    command(*words, "--class-1=cedar", "--class-2=0", f"--seeds={2**40}")
    assert ends == [(1, 3), (2, 0)]
    err = capsys.readouterr().err
    assert "--class-1: class 2 had no" in err and "--class-2=0 is class number 0 (ash)" in err
    with pytest.raises(UserError, match="--class-1=1,3 are 2 classes"):
        command(*words, "--class-1=1,3")
