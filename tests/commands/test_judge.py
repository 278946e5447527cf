# SPDX-License-Identifier: Apache-2.0
"""Training of the judge network."""

import json
import re

import numpy as np
import pytest
import torch

from dnnlib.util import UserError, run_cli
from gantransfer.commands import judge
from gantransfer.detectors import features, judge_training
from tests.conftest import write_image_zip


@pytest.fixture(scope="module")
def all_digits():
    """All real digits enlarged to 16 x 16, split per class: (pool images, labels, held-out images, labels)."""
    from PIL import Image

    data = pytest.importorskip("sklearn.datasets", reason="needs scikit-learn (extra `demo`)").load_digits()
    large = [Image.fromarray((x * 255 / 16).astype(np.float32)).resize((16, 16), Image.Resampling.BICUBIC)
             for x in data.images]
    images = np.stack([np.asarray(x) for x in large]).round().clip(0, 255).astype(np.uint8)[:, None]
    held = np.concatenate([np.random.RandomState(0).permutation(np.flatnonzero(data.target == k))[:60]
                           for k in range(10)])
    pool = np.setdiff1d(np.arange(len(images)), held)
    return images[pool], data.target[pool], images[held], data.target[held]


@pytest.mark.slow
def test_judge_reaches_the_required_accuracy(all_digits):
    x, y, test_x, test_y = all_digits
    net = judge_training.train_judge(x, y)
    assert judge_training.score(net, test_x, test_y).accuracy >= 0.98
    assert float(judge_training.judge(net, x)[0].double().var(0).sum()) == pytest.approx(100, rel=1e-4)


def test_shipped_judge_on_held_out_digits(all_digits):
    """The shipped weights were trained on the pool of this very split rule; on all 1797 digits they hold too."""
    x, y, test_x, test_y = all_digits
    d = features.load("digits32")
    right = d(torch.from_numpy(np.concatenate([x, test_x]))).logits.argmax(1).numpy() == np.concatenate([y, test_y])
    assert right.mean() >= 0.99
    variance = float(d(torch.from_numpy(x)).features.double().var(0).sum())
    assert variance == pytest.approx(100, rel=0.05)


def test_training_repeats(digits):
    images, labels = digits
    state = torch.get_rng_state()
    a, b, c = (judge_training.train_judge(images[:, None], labels, seed=s, epochs=2) for s in (0, 0, 1))
    assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())
    assert not torch.equal(a.embed.weight, c.embed.weight)
    assert torch.equal(torch.get_rng_state(), state), "the caller's random numbers are untouched"


def test_shift_moves_by_a_pixel():
    x = torch.arange(64.0).reshape(1, 1, 8, 8).repeat(3, 1, 1, 1)
    out = judge_training.shift(x, torch.tensor([[0, 0], [1, 0], [0, -1]]))
    assert torch.equal(out[0], x[0])
    assert torch.equal(out[1, 0, 1:], x[1, 0, :-1]) and torch.equal(out[1, 0, 0], x[1, 0, 0])
    assert torch.equal(out[2, 0, :, :-1], x[2, 0, :, 1:]) and torch.equal(out[2, 0, :, -1], x[2, 0, :, -1])


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


def test_unequal_classes_are_drawn_equally_often():
    y = torch.tensor([0] * 40 + [2] * 3)
    members = [torch.arange(40), torch.arange(40, 43)]
    rows = judge_training._rows(y, members)
    assert torch.bincount(y[rows]).tolist() == [22, 0, 22] and torch.bincount(rows)[40:].max() <= 8
    assert len(set(rows[y[rows] == 0].tolist())) == 22, "no image of the frequent class comes twice"
    assert sorted(judge_training._rows(y, []).tolist()) == list(range(43))
    assert judge_training.unequal(np.array([0, 0, 1])) and not judge_training.unequal(np.array([0, 0, 0, 1, 1]))


def test_balanced_accuracy_counts_classes_and_not_images(monkeypatch):
    labels = np.array([0] * 8 + [1, 1])
    logits = torch.eye(2)[torch.zeros(10, dtype=torch.long)]  # it always says 0
    monkeypatch.setattr(judge_training, "judge", lambda net, images: (None, logits))
    got = judge_training.score(None, labels, labels)
    assert (got.accuracy, got.balanced, got.recall, got.images) == (0.8, 0.5, {0: 1.0, 1: 0.0}, {0: 8, 1: 2})
    assert (got.chance, got.needed, got.weak) == (0.5, 0.75, True)


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
