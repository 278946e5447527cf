# SPDX-License-Identifier: Apache-2.0
"""Teachers and students in the one loop: every loss learns, resumes, and does not depend on the processes."""

import copy
import json

import numpy as np
import pytest
import torch

from dnnlib.util import UserError
from gantransfer import snapshot, training_loop
from gantransfer.commands.run import processes
from gantransfer.commands.stages import run_stage
from gantransfer.data.dataset import ImageDataset
from gantransfer.method import RunConfig
from gantransfer.methods import cgan_kd
from gantransfer.methods.cgan_kd import CGANKD, KD, CGANKDOptions
from gantransfer.training_loop import Stepper
from tests.conftest import write_image_zip
from tests.made import made

TINY = dict(arch="conv4-8", optimizer="adamw", lr=1e-2, wd=0.0, schedule="constant", crop=1)


@pytest.fixture
def data(tiny_zip):
    return ImageDataset(tiny_zip, use_labels=True)


@pytest.fixture
def values(digits, tmp_path):
    y = [[float(i % 10)] for i in range(40)]
    return ImageDataset(write_image_zip(tmp_path / "v.zip", digits[0], y), use_labels=True)


def stage(data, name, outdir, kimg=0.064, batch=16, batch_gpu=None, **kw):
    o = CGANKDOptions(**{**TINY, **kw})
    run = RunConfig(kimg=kimg, batch=batch, batch_gpu=batch_gpu, tick=kimg / 2, snap=1)
    CGANKD.resolve(o, run, data.spec)
    with processes("cpu", 1) as device:
        return run_stage(CGANKD, o, data, run, name, outdir, device)


@pytest.fixture
def teacher(data, tmp_path):
    return str(stage(data, "teacher", tmp_path / "teacher", arch="resnet8", kimg=0.032))


@pytest.fixture
def fakes(digits, tmp_path):
    """Stand-ins for generated images: mirrored digits."""
    images, y = digits
    return str(write_image_zip(tmp_path / "fakes.zip", [x[:, ::-1] for x in images], [int(k) for k in y]))


def steps(method, data, n=30, batch_gpu=16):
    """Values of the loss over `n` steps of the loop's own stepper."""
    reals = method.prepare(data)
    order, losses = method.order(reals), []
    original = method._loss

    def recorded(batch):
        loss = original(batch)
        losses.append(float(loss.detach().mean()))
        return loss

    method._loss = recorded
    method.run.batch_gpu = batch_gpu
    stepper = Stepper(method, method.run)

    def fetch(rep, m, k):
        i = order.indices((k * stepper.repeat + rep) * method.run.batch + m * batch_gpu, batch_gpu)
        return reals.read(i).float() / 127.5 - 1, torch.from_numpy(reals.labels(i))

    for k in range(n):
        stepper.step(k, k * method.run.batch, lambda rep, m, k=k: fetch(rep, m, k), None)
        method.end_step(k * method.run.batch, method.run.batch)
    return losses


def make(data, name="student", batch=16, **kw):
    return made(CGANKD, data.spec, dict(kimg=1, batch=batch, batch_gpu=batch), stage=name, **{**TINY, **kw})


@pytest.mark.parametrize("kd", [k for k in KD if k != "sskd"])
def test_every_loss_is_learned(kd, data, teacher):
    m = make(data, kd=kd, teacher=None if kd == "none" else teacher, arch="resnet8")
    m.report = lambda name, value: None
    before = copy.deepcopy(m.teacher.state_dict()) if m.teacher is not None else {}
    losses = steps(m, data, 20)
    assert np.isfinite(losses).all() and np.mean(losses[-4:]) < 0.85 * np.mean(losses[:2]), losses
    if m.teacher is not None:
        assert all(torch.equal(v, before[k]) for k, v in m.teacher.state_dict().items())
        assert torch.equal(m.net.shift, m.teacher.shift)  # one normalisation for both
    assert set(m.snapshot(0).nets) == {"net"}


@pytest.mark.parametrize("kd", ["fitnet", "at", "sp", "vid", "rkd", "pkt"])
def test_feature_losses_between_different_architectures_and_on_values(kd, values, tmp_path):
    t = stage(values, "teacher", tmp_path / "t", arch="resnet8", kimg=0.032)
    m = make(values, kd=kd, teacher=str(t), arch="conv4-8", hint_layer=1)
    m.report = lambda name, value: None
    assert m.opts.kd_weight == 0
    losses = steps(m, values, 6)
    assert np.isfinite(losses).all() and losses[-1] < losses[0]


def test_sskd_trains_a_head_on_a_frozen_teacher_and_then_a_student(data, teacher, tmp_path):
    net = snapshot.load(teacher).build("net")
    head = stage(data, "head", tmp_path / "head", kd="sskd", teacher=teacher, lr=0.05, optimizer="sgd")
    with_head = snapshot.load(head).build("net")
    assert with_head.projector is not None
    for k, v in net.state_dict().items():
        assert torch.equal(v, with_head.state_dict()[k]), k
    m = make(data, kd="sskd", teacher=str(head), arch="resnet8")
    m.report = lambda name, value: None
    losses = steps(m, data, 12)
    assert losses[-1] < losses[0] and np.isfinite(losses).all()
    with pytest.raises(UserError, match="no projection head"):
        make(data, kd="sskd", teacher=teacher)


@pytest.mark.parametrize("kd", ["none", "uda", "vid"])
def test_a_stage_that_was_stopped_goes_on_as_if_it_had_not_been(kd, data, teacher, fakes, tmp_path, monkeypatch):
    kw = dict(kd=kd, teacher=None if kd == "none" else teacher, arch="resnet8", fakes=fakes, nfake=20, dropout=0.2,
              test=data.spec.path, schedule="step", decay="0.3,0.6")
    straight = stage(data, "student", tmp_path / "a", kimg=0.128, **kw)
    calls = []
    monkeypatch.setattr(training_loop._Terminate, "__call__", lambda self: calls.append(0) or len(calls) == 3)
    with pytest.raises(UserError, match="stopped at 0.048 of 0.128 kimg; run the command again"):
        stage(data, "student", tmp_path / "b", kimg=0.128, **kw)
    assert not (tmp_path / "b" / "student.pkl").exists()
    again = stage(data, "student", tmp_path / "b", kimg=0.128, **kw)
    a, b = (snapshot.load(p).nets["net"].state for p in (straight, again))
    assert all(torch.equal(a[k], b[k]) for k in a)
    results = json.loads((tmp_path / "b" / "results.json").read_text())
    assert results["images_seen"] == 128 and 0 <= results["last"]["accuracy"] <= 1
    # Finished: nothing is trained. Other settings are refused, and nothing is touched.
    monkeypatch.setattr(training_loop, "run", lambda *a: pytest.fail("trained again"))
    assert stage(data, "student", tmp_path / "b", kimg=0.128, **kw) == again
    with pytest.raises(UserError, match="holds a stage with options.lr=0.01, not 0.02"):
        stage(data, "student", tmp_path / "b", kimg=0.128, **{**kw, "lr": 0.02})


# ---- data ------------------------------------------------------------------------------------------------------------


def test_real_and_generated_images_are_concatenated(data, fakes):
    m = make(data, fakes=fakes, fake_weight=0.5)
    mixed = m.prepare(data)
    assert len(mixed) == 80 and mixed.class_ids.tolist() == data.class_ids.tolist() * 2
    i = np.array([3, 43, 79, 0])
    x, c = mixed.read(i), mixed.labels(i)
    assert torch.equal(x[0], data.read([3])[0]) and torch.equal(x[1], data.read([3])[0].flip(2))
    assert c.shape == (4, 5) and c[:, -1].tolist() == [1, 0.5, 0.5, 1]
    assert (c[:, :4].argmax(1) == mixed.class_ids[i]).all()


def test_some_fakes_evenly_over_the_classes(data, fakes):
    m = make(data, fakes=fakes, nfake=13)
    mixed = m.prepare(data)
    assert len(mixed) == 53 and sorted(np.bincount(mixed.class_ids[40:])) == [3, 3, 3, 4]
    with pytest.raises(UserError, match="--nfake=41, but .* has 40 images"):
        make(data, fakes=fakes, nfake=41).prepare(data)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_a_fixed_share_of_fakes(share, data, fakes):
    m = make(data, fakes=fakes, fake_batch_share=share)
    order = m.order(m.prepare(data))
    whole = order.indices(0, 400)
    assert ((whole >= 40).sum() == 400 * share)
    for start in range(0, 400, 16):  # every batch, to one image
        assert abs((whole[start : start + 16] >= 40).sum() - 16 * share) <= 1
    parts = np.concatenate([order.indices(p, 25) for p in range(0, 400, 25)])
    assert (parts == whole).all()
    if 0 < share < 1:
        assert set(whole) == set(range(80))


def test_figures_of_groups(data, digits, tmp_path):
    images, y = digits
    rows = [i for k, n in enumerate((10, 8, 5, 3)) for i in np.flatnonzero(y == k)[:n]]
    few = ImageDataset(write_image_zip(tmp_path / "few.zip", images[rows], [int(y[i]) for i in rows]), use_labels=True)
    outputs = np.eye(4)[np.where(y == 3, 0, y)]  # class 3 is always missed
    f = cgan_kd.figures(outputs, data, few.spec.label)
    assert f["accuracy"] == 0.75 and f["accuracy_few"] < 1 and f["accuracy_many"] == 1


def test_errors_of_values_are_in_label_units(values):
    label = values.spec.label
    truth = values.labels(range(40))
    f = cgan_kd.figures(label.normalise(truth + 2).astype(np.float32), values, label)
    assert f["mae"] == pytest.approx(2, rel=1e-5) and f["rmse"] == pytest.approx(2, rel=1e-5)


def test_normalisation_is_of_the_real_images_only(data, fakes):
    m = make(data, fakes=fakes)
    m.prepare(data)
    x = data.images_uint8(np.arange(40)) / 255
    assert m.net.init_kwargs["mean"] == pytest.approx([x.mean()], abs=1e-5)
    assert m.net.init_kwargs["std"] == pytest.approx([x.std()], abs=1e-5)


def test_rates():
    assert [cgan_kd.rate_at(d, "step", [0.5, 0.75]) for d in (0, 0.5, 0.9)] == pytest.approx([1, 0.1, 0.01])
    assert cgan_kd.rate_at(0.5, "cosine", []) == pytest.approx(0.5) and cgan_kd.rate_at(1, "cosine", []) < 1e-9
    assert cgan_kd.rate_at(0.3, "onecycle", []) == pytest.approx(1) and cgan_kd.rate_at(0, "onecycle", []) == 0.04
    assert cgan_kd.rate_at(0.7, "constant", []) == 1


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kw, message", [
    (dict(arch="conv4-4-4-4-4"), "16 pixels are too few"),
    (dict(teacher="t.pkl"), "--teacher has no meaning with --kd=none"),
    (dict(decay="0.7,0.4"), "--decay=0.7,0.4 is not a rising list"),
    (dict(decay="x"), "--decay=x is not a rising list"),
    (dict(nfake=3), "need --fakes"), (dict(fake_batch_share=0.5), "need --fakes"),
    (dict(test_fname="x.json"), "--test_fname needs --test"),
    (dict(nesterov=True), "belongs to --optimizer=sgd"),
])
def test_bad_options(kw, message, data):
    """More of it, as typed: tests/commands/test_distill.py."""
    with pytest.raises(UserError, match=message):
        make(data, **kw)


def test_labels_that_do_not_match(data, values, teacher, digits, tmp_path):
    images, y = digits
    with pytest.raises(UserError, match="compares class probabilities"):
        make(values, kd="blkd", teacher=teacher)
    with pytest.raises(UserError, match="--test=.*values"):
        make(data, test=values.spec.path).prepare(data)
    named = write_image_zip(tmp_path / "n.zip", images, [int(k) for k in y], class_names=list("abcd"))
    other = write_image_zip(tmp_path / "o.zip", images, [int(k) for k in y], class_names=list("abxd"))
    with pytest.raises(UserError, match="calls class 2 'x', the data 'c'"):
        make(ImageDataset(named, use_labels=True), fakes=str(other)).prepare(ImageDataset(named, use_labels=True))


def test_a_failed_start_leaves_nothing_behind(data, values, tmp_path):
    with pytest.raises(UserError):
        stage(data, "student", tmp_path / "run", fakes=values.spec.path)
    assert not (tmp_path / "run").exists()


def test_a_batch_cannot_be_one_image(data):
    o = CGANKDOptions(**TINY)
    with pytest.raises(UserError, match="at least 2 images"):
        CGANKD.resolve(o, RunConfig(batch=4, batch_gpu=1), data.spec)


def test_a_student_makes_no_images(data):
    with pytest.raises(UserError, match="makes none"):
        CGANKD.sampler_from(make(data).snapshot(0))
