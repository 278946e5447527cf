# SPDX-License-Identifier: Apache-2.0
"""gantransfer project and generate --projected-w, on a snapshot of every method that makes images."""


import numpy as np
import pytest
from PIL import Image

from gantransfer.commands import project

MAKERS = ("alae", "biggan", "ccgan", "cgantransfer", "encoder", "hypermod", "mind2mind", "mind_tune", "minegan",
          "stylegan2", "styletransfer", "transitional", "uncond", "utlo")
FLAGS = {"ccgan": ["--label=1"]}


@pytest.fixture
def picture(tmp_path):
    rng = np.random.RandomState(0)
    Image.fromarray(rng.randint(0, 256, (20, 30, 3), np.uint8)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def pixels(path):
    return np.asarray(Image.open(path)).astype(int)


@pytest.mark.parametrize("run", MAKERS)
def test_every_method_that_makes_images(call, earlier_runs, picture, tmp_path, run):
    """What was found makes the same image again."""
    network = sorted((earlier_runs / run).glob("network-snapshot-*.pkl"))[-1]
    out = call("project", f"--network={network}", f"--target={picture}", f"--outdir={tmp_path / 'o'}",
               "--steps=12", "--video=False", *FLAGS.get(run, [])).stdout
    assert "distance" in out and "Nearness" in out
    assert pixels(tmp_path / "o" / "target.png").shape == pixels(tmp_path / "o" / "proj.png").shape
    call("generate", f"--network={network}", f"--projected-w={tmp_path / 'o' / 'projected_w.npz'}",
         f"--outdir={tmp_path / 'again'}")
    assert np.array_equal(pixels(tmp_path / "again" / "proj00.png"), pixels(tmp_path / "o" / "proj.png"))


def test_a_folder_a_film_and_the_class(call, picture, tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "in" / name).write_bytes(picture.read_bytes())
    out = call("project", "--network=digits", f"--target={tmp_path / 'in'}", f"--outdir={tmp_path / 'o'}",
               "--steps=3", "--class=4").stdout
    assert out.count("class 4") == 2
    for name in "ab":
        assert {f.name for f in (tmp_path / "o" / name).iterdir()} == {
            "target.png", "proj.png", "projected_w.npz", "proj.mp4"}
    with np.load(tmp_path / "o" / "a" / "projected_w.npz") as f:
        assert f["c"].argmax() == 4 and f["w"].shape[0] == 1 and any(k.startswith("noise/") for k in f.files)


@pytest.mark.parametrize("flags, says", [
    (["--target=missing.png"], "missing.png"),
    (["--target=EMPTY"], "holds no images"),
    (["--target=TEXT"], "text.png"),
    (["--target=PHOTO", "--class=11"], "11"),
    (["--target=PHOTO", "--label=3"], "--label: this model has classes"),
    (["--target=PHOTO", "--steps=0"], "--steps"),
    (["--target=PHOTO", "--detector=lpips=nowhere.pt"], "nowhere.pt"),
    (["--target=PHOTO", "--detector=inception=PHOTO"], "--detector: inception is not asked here; give lpips=FILE"),
    (["--target=PHOTO", "--detector=PHOTO"], "say which detector it is"),
    (["--target=PHOTO", "--outdir=PHOTO"], "--outdir"),
])
def test_bad_input(refused, picture, tmp_path, flags, says):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("no image")
    names = dict(EMPTY=tmp_path / "empty", TEXT=tmp_path / "text.png", PHOTO=picture)
    for name, path in names.items():
        flags = [f.replace(name, str(path)) for f in flags]
    err = refused("--network=digits", "--video=False", f"--outdir={tmp_path / 'o'}", *flags, command="project")
    assert says in err and not (tmp_path / "o").exists()


@pytest.mark.parametrize("run, flags, says", [
    ("ccgan", ["--label=1e30"], "--label=1e+30 is outside the labels of this model"),
    ("ccgan", [], "give --label=VALUE"), ("biggan", ["--plus"], "--plus: this model (biggan) has no w"),
    ("uncond", ["--class=1"], "--class: this model has no labels")])
def test_what_a_model_does_not_have(refused, earlier_runs, picture, tmp_path, run, flags, says):
    network = sorted((earlier_runs / run).glob("network-snapshot-*.pkl"))[-1]
    err = refused(f"--network={network}", f"--target={picture}", f"--outdir={tmp_path / 'o'}", *flags,
                  command="project")
    assert says in err and not (tmp_path / "o").exists()


def test_a_film_has_no_more_frames_than_it_says(call, picture, tmp_path, monkeypatch):
    shapes = []
    monkeypatch.setattr(project, "FRAMES", 3)
    monkeypatch.setattr("gantransfer.pictures.video.write_video", lambda path, pairs, *a: shapes.append(pairs.shape))
    call("project", "--network=digits", f"--target={picture}", f"--outdir={tmp_path / 'o'}", "--steps=5",
         "--class=4")
    assert [s[1] for s in shapes] == [4], "three on the way, and the result"


@pytest.mark.parametrize("flags, says", [
    (["--seeds=1"], "--projected-w says which latents"),
    (["--class=1"], "--projected-w says which latents"),
    (["--trunc=0.5"], "--projected-w says which latents"),
    ([], "is not an .npz file")])
def test_bad_input_of_generate(refused, picture, tmp_path, flags, says):
    assert says in refused("--network=digits", f"--projected-w={picture}", f"--grid={tmp_path / 'g.png'}", *flags,
                           command="generate")


def test_latents_are_not_drawn_into_a_picture_too_large_to_open(refused, tmp_path):
    np.savez(tmp_path / "w.npz", w=np.zeros((200, 64), np.float32), c=np.eye(10, dtype=np.float32)[:1])
    assert "million pixels in one picture" in refused(
        "--network=digits", f"--projected-w={tmp_path / 'w.npz'}", f"--grid={tmp_path / 'g.png'}", "--zoom=64",
        command="generate")
    assert not (tmp_path / "g.png").exists()
