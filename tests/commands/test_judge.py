# SPDX-License-Identifier: Apache-2.0
"""The judge command; the training itself: tests/detectors/test_judge_training.py."""

import json
import re

import numpy as np
import pytest
import torch

from dnnlib.util import UserError, run_cli
from gantransfer.commands import judge
from gantransfer.detectors import features, judge_training
from tests.conftest import write_image_zip


def test_command(tiny_zip, tmp_path, call):
    out = tmp_path / "my_own.pt"
    done = call("judge", f"--data={tiny_zip}", f"--heldout={tiny_zip}", f"--out={out}", "--epochs=3")
    assert "held-out accuracy" in done.stdout and f"--detector=my-own={out}" in done.stderr
    descriptor = json.loads((tmp_path / "my_own.detector.json").read_text())
    assert descriptor["name"] == "my-own" and descriptor["arch_kwargs"]["num_classes"] == 4
    d = features.load("my-own", overrides={"my-own": out})
    assert d(torch.zeros(2, 1, 16, 16, dtype=torch.uint8)).features.shape == (2, 32)


@pytest.mark.parametrize("flags, said", [(["--out=1.pt"], "--out=1.pt: give --name: letters"),
                                         (["--out=j.pt", "--name=inception"], "--name=inception: letters"),
                                         (["--out=vgg16.pt"], "--out=vgg16.pt: give --name")])
def test_names_that_cannot_be(flags, said, tiny_zip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=re.escape(said)):
        judge.main(args=[f"--data={tiny_zip}", *flags], standalone_mode=False)
    assert not list(tmp_path.glob("*.pt"))


def test_it_holds_out_of_every_class_and_says_when_it_is_weak(tmp_path, capsys, digits):
    images, labels = digits
    keep = np.concatenate([np.flatnonzero(labels == k)[:n] for k, n in ((0, 10), (1, 5), (2, 2), (3, 1))])
    data = write_image_zip(tmp_path / "few.zip", images[keep], labels[keep].tolist())
    ids = labels[keep]
    held = judge.held_out(ids, len(ids), 0)
    assert np.bincount(ids[held]).tolist() == [2, 1, 1]
    run_cli(lambda: judge.main(args=[f"--data={data}", f"--out={tmp_path / 'j.pt'}", "--epochs=1", "--name=j"],
                               standalone_mode=False))
    out, err = capsys.readouterr()
    assert "trained on 14 images" in out and "every class equally often" in out
    assert "on 4 images, balanced 0." in out and "1 class without an image to measure on" in out
    assert "Warning: this judge is too weak" in err
    said = json.loads((tmp_path / "j.detector.json").read_text())["heldout"]
    assert set(said) == {"accuracy", "balanced", "needed"} and said["needed"] == pytest.approx(2 / 3)
    features.load("j", overrides={"j": tmp_path / "j.pt"})  # the descriptor is read


@pytest.mark.parametrize("flags,message", [
    (["--name=inception"], "--name=inception"),
    (["--name=a b"], "--name=a b"),
    (["--epochs=1", "--min-accuracy=1.0"], "held-out accuracy"),  # held out by itself
    (["--epochs=1", "--heldout={data}", "--min-accuracy=1.0"], "below --min-accuracy"),
    (["--data=/nowhere.zip"], "/nowhere.zip"),
    (["--heldout={rgb}"], "--heldout"),
    (["--data={bare}"], "this set has neither"),
])
def test_bad_input(tiny_zip, tmp_path, capsys, digits, flags, message):
    rgb = write_image_zip(tmp_path / "rgb.zip", [np.repeat(x[..., None], 3, 2) for x in digits[0]], digits[1].tolist())
    bare = write_image_zip(tmp_path / "bare.zip", digits[0])
    flags = [f.format(data=tiny_zip, rgb=rgb, bare=bare) for f in flags]
    out = tmp_path / "out" / "net.pt"
    with pytest.raises(SystemExit) as e:
        run_cli(lambda: judge.main(args=[f"--data={tiny_zip}", f"--out={out}", *flags]))
    assert e.value.code == 2 and message in capsys.readouterr().err
    assert not out.exists()


def test_a_destination_that_cannot_be_written_is_said_before_the_training(tiny_zip, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(judge_training, "train_judge", lambda *a, **k: pytest.fail("trained first"))
    with pytest.raises(SystemExit) as e:
        run_cli(lambda: judge.main(args=[f"--data={tiny_zip}", f"--out={tmp_path}"]))
    assert e.value.code == 2 and "--out" in capsys.readouterr().err


def test_images_of_any_size(digits, tmp_path):
    """A judge of images 20 wide and 28 high: its descriptor says so, it judges those and refuses others."""
    images = np.pad(digits[0], ((0, 0), (6, 6), (2, 2)))
    data = write_image_zip(tmp_path / "set.zip", images, digits[1].tolist())
    run_cli(lambda: judge.main(args=[f"--data={data}", f"--out={tmp_path / 'tall.pt'}", "--epochs=1", "--name=tall"],
                               standalone_mode=False))
    assert json.loads((tmp_path / "tall.detector.json").read_text())["input"]["size"] == [28, 20]
    found = features.load("tall", overrides={"tall": tmp_path / "tall.pt"})
    made = found(torch.from_numpy(images[:3, None]))
    assert made.features.shape == (3, 32) and made.logits.shape == (3, 4) and torch.isfinite(made.logits).all()
    found.input.check(1, (28, 20), "tall")
    with pytest.raises(UserError, match="judges 20x28 images, the data set has 28x28"):
        found.input.check(1, 28, "tall")
