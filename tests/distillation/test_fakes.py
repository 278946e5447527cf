# SPDX-License-Identifier: Apache-2.0
"""Fakes: one seed per image, subsampling, filtering and relabelling, stored scores, going on after a kill."""

import json
import zipfile

import numpy as np
import pytest
import torch

from dnnlib.util import UserError
from gantransfer.commands.run import processes
from gantransfer.commands.stages import run_stage
from gantransfer.data.dataset import DataSpec, ImageDataset, LabelSpec
from gantransfer.distillation import fakes as fake_sets
from gantransfer.distillation import selection
from gantransfer.distillation.fakes import Filter, Recipe
from gantransfer.method import RunConfig
from gantransfer.methods import cgan_kd
from gantransfer.methods.cgan_kd import CGANKD, CGANKDOptions
from tests.conftest import write_image_zip

SIZE = 8


def bar(angle, thickness=0.9):
    """8 x 8 picture of a bar through the middle, turned by `angle` degrees: a label that is known exactly."""
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    distance = np.abs(x * np.sin(np.deg2rad(angle)) - y * np.cos(np.deg2rad(angle)))
    return (255 * np.clip(1.5 - distance / thickness, 0, 1)).astype(np.uint8)


class Bars:
    """A sampler whose images miss their label: by noise, and for some images wholly."""

    views, label_sets = ("image",), {}

    def __init__(self, label):
        self.spec = DataSpec("bars", SIZE, 1, 0, label)
        self.calls = []

    def true(self, seed, row):
        rng = np.random.RandomState(seed)
        if self.spec.label.kind == "class":
            return rng.randint(4) if rng.rand() < 0.3 else int(row.argmax())
        return float(np.clip(row[0] + rng.randn() * (25 if rng.rand() < 0.3 else 3), 0, 90))

    def __call__(self, seeds, c=None, **kw):
        self.calls.append(len(seeds))
        unit = 45 if self.spec.label.kind == "class" else 1
        angles = [unit * self.true(s, row) for s, row in zip(seeds, c.numpy())]
        return torch.from_numpy(np.stack([bar(a) for a in angles]))[:, None]


CLASSES = LabelSpec("class", 4, names=("a", "b", "c", "d"))


@pytest.fixture
def classes_zip(tmp_path):
    rng = np.random.RandomState(0)
    y = np.repeat(np.arange(4), 40)
    return write_image_zip(tmp_path / "real.zip", [bar(45 * k + rng.uniform(-9, 9)) for k in y], [int(k) for k in y],
                           class_names=list("abcd"))


@pytest.fixture
def values_zip(tmp_path):
    y = np.random.RandomState(0).uniform(0, 90, 200).round(2)
    return write_image_zip(tmp_path / "angles.zip", [bar(a) for a in y], [[float(a)] for a in y],
                           label_meta=dict(kind="regression", unit="degree", offset=0, scale=90, min=0, max=90))


def train_teacher(path, outdir, kimg=20.0):
    data = ImageDataset(path, use_labels=True)
    o = CGANKDOptions(arch="conv8-16", optimizer="adamw", lr=1e-2, wd=0.0, schedule="onecycle", crop=0, test=str(path))
    run = RunConfig(kimg=kimg, batch=50, tick=kimg, snap=1)
    CGANKD.resolve(o, run, data.spec)
    with processes("cpu", 1) as device:
        final = run_stage(CGANKD, o, data, run, "teacher", outdir, device)
    return final, data, json.loads((outdir / "results.json").read_text())["last"]


def judge_of(path, data):
    from gantransfer.commands.stages import judge_of

    return judge_of(str(path), data, "cpu", clip=True, integers=False)


def test_filtering_lowers_the_label_error_and_relabelling_lowers_it_further_for_classes(classes_zip, tmp_path):
    teacher, data, figures = train_teacher(classes_zip, tmp_path / "t")
    assert figures["accuracy"] > 0.95
    sampler = Bars(CLASSES)
    raw = fake_sets.draw(fake_sets.Generator(sampler, "bars"), fake_sets.grid(CLASSES, data), Recipe(60),
                         tmp_path / "parts", judge=judge_of(teacher, data), progress=False)
    truth = np.array([sampler.true(s, np.eye(4)[k]) for s, k in zip(raw.scores["seed"], raw.scores["assigned"])])
    right = {}
    for name, f in {"raw": Filter(), "filtered": Filter(0.8), "replaced": Filter(0.8, replace=True)}.items():
        keep, labels, _ = fake_sets.apply(raw.scores, "class", f)
        right[name] = (labels == truth[keep]).mean()
    assert right["raw"] < 0.85 and right["filtered"] > right["raw"] + 0.05 and right["replaced"] >= right["filtered"]
    assert right["replaced"] > 0.95
    per_class = np.bincount(raw.scores["assigned"][fake_sets.apply(raw.scores, "class", Filter(0.8))[0]])
    assert (per_class >= 48).all() and (per_class < 56).all()  # four fifths of each class, and equal images beside


def test_filtering_lowers_the_label_error_and_relabelling_lowers_it_further_for_values(values_zip, tmp_path):
    teacher, data, figures = train_teacher(values_zip, tmp_path / "t", kimg=30)
    assert figures["mae"] < 3
    label = data.spec.label
    sampler = Bars(label)
    labels = fake_sets.grid(label, data, 40)
    assert labels.shape == (40, 1) and (labels[0, 0], labels[-1, 0]) == pytest.approx(
        (data.labels(range(200)).min(), data.labels(range(200)).max()))
    raw = fake_sets.draw(fake_sets.Generator(sampler, "bars"), labels, Recipe(6), tmp_path / "parts",
                         judge=judge_of(teacher, data), progress=False)
    assert set(sampler.calls) == {fake_sets.CHUNK}
    truth = np.array([sampler.true(s, row) for s, row in zip(raw.scores["seed"], raw.scores["assigned"])])
    error = {}
    for name, f in {"raw": Filter(quantile="global"), "filtered": Filter(0.7, "global"),
                    "bins": Filter(0.7, "bins", bins=5), "replaced": Filter(0.7, "global", replace=True)}.items():
        keep, given, _ = fake_sets.apply(raw.scores, "value", f)
        error[name] = np.abs(given[:, 0] - truth[keep]).mean()
    assert error["filtered"] < 0.6 * error["raw"] and error["bins"] < 0.7 * error["raw"]
    assert error["replaced"] < error["filtered"]
    # Written and read back: an ordinary data set with values.
    p = fake_sets.write_raw(tmp_path / "f.zip", raw, label, {}, Filter(0.7, "global", replace=True))
    again = ImageDataset(tmp_path / "f.zip", use_labels=True)
    assert again.spec.label.kind == "value" and again.spec.label.meta["scale"] == 90
    assert len(again) == p["counts"]["after_filter"] and p["agreement"]["final"] == 0 < p["agreement"]["drawn"]


def test_an_image_depends_on_its_seed_label_and_number_only(tmp_path):
    sampler = Bars(CLASSES)
    labels = np.eye(4, dtype=np.float32)
    few, many = (fake_sets.draw(fake_sets.Generator(sampler, "b"), labels, Recipe(n, seed=3), tmp_path / str(n),
                                progress=False) for n in (5, 40))
    for k in range(4):
        a, b = (np.flatnonzero(r.scores["assigned"] == k)[:5] for r in (few, many))
        assert (few.images[a] == many.images[b]).all() and (few.scores["seed"][a] == many.scores["seed"][b]).all()
    other = fake_sets.draw(fake_sets.Generator(sampler, "b"), labels, Recipe(5, seed=4), tmp_path / "o", progress=False)
    assert set(other.scores["seed"]).isdisjoint(few.scores["seed"])
    assert len(set(many.scores["seed"])) == 160


class Preference:
    """A ratio that likes some images better: by the number of bright pixels."""

    identity = "bright"

    def ratios(self, images, c):
        return images.reshape(len(images), -1).mean(1) / 255


@pytest.mark.parametrize("mode, quantile", [("fixed", None), ("fixed", 0.9), ("running", None)])
def test_subsampling_by_a_ratio(tmp_path, mode, quantile):
    source = fake_sets.Generator(Bars(CLASSES), "b")
    recipe = Recipe(30, rs_mode=mode, rs_quantile=quantile, rs_burn_in=64, rs_batch=32)
    raw = fake_sets.draw(source, np.eye(4, dtype=np.float32), recipe, tmp_path / "p", ratio=Preference(),
                         progress=False)
    assert len(raw.images) == 120 and set(raw.reports) == {"a", "b", "c", "d"}
    report = raw.reports["a"]
    assert 0 < report["rate"] <= 1 and report["drawn"] >= 30
    assert np.allclose(raw.scores["ratio"], Preference().ratios(raw.images, None))
    # The stored seeds make the same images again.
    again = source.draw(np.eye(4, dtype=np.float32)[raw.scores["assigned"]], raw.scores["seed"].tolist(), 0)
    assert (again == raw.images).all()


def test_the_images_that_find_the_largest_ratio_are_never_candidates(tmp_path):
    """Else the one that sets the bound is accepted for certain."""
    source, asked = fake_sets.Generator(Bars(CLASSES), "b"), []
    draw = source.draw
    source.draw = lambda c, seeds, first: asked.append((int(c[0].argmax()), list(seeds))) or draw(c, seeds, first)
    recipe = Recipe(30, rs_burn_in=64, rs_batch=32)
    raw = fake_sets.draw(source, np.eye(4, dtype=np.float32), recipe, tmp_path / "p", ratio=Preference(),
                         progress=False)
    for k in range(4):
        seeds = [s for label, part in asked if label == k for s in part]
        assert raw.reports["abcd"[k]]["burn_in"] == 64 and len(seeds) >= 64 + raw.reports["abcd"[k]]["drawn"]
        assert set(seeds[:64]).isdisjoint(seeds[64:]) and len(set(seeds)) == len(seeds)


def test_parts_are_not_made_twice_and_not_mixed_up(tmp_path):
    sampler, labels = Bars(CLASSES), np.eye(4, dtype=np.float32)
    fake_sets.open_parts(tmp_path / "p", dict(seed=1))
    whole = fake_sets.draw(fake_sets.Generator(sampler, "b"), labels, Recipe(70, 1), tmp_path / "p", progress=False)
    (tmp_path / "p" / "part-00002.npz").unlink()  # as if killed there
    made = len(sampler.calls)
    again = fake_sets.draw(fake_sets.Generator(sampler, "b"), labels, Recipe(70, 1), tmp_path / "p", progress=False)
    assert len(sampler.calls) - made == 3  # one class of 70 in chunks of 32
    assert (again.images == whole.images).all()
    fake_sets.open_parts(tmp_path / "p", dict(seed=1))
    with pytest.raises(UserError, match="parts of other fakes"):
        fake_sets.open_parts(tmp_path / "p", dict(seed=2))


def test_several_processes_share_the_labels(tmp_path, monkeypatch):
    labels, recipe = np.eye(4, dtype=np.float32), Recipe(70, 5)
    alone = fake_sets.draw(fake_sets.Generator(Bars(CLASSES), "b"), labels, recipe, tmp_path / "a", progress=False)
    monkeypatch.setattr(fake_sets.dist, "world_size", lambda: 2)
    found = None
    for rank in (1, 0):  # process 0 last: it joins the parts
        monkeypatch.setattr(fake_sets.dist, "rank", lambda r=rank: r)
        monkeypatch.setattr(fake_sets.dist, "is_main", lambda r=rank: r == 0)
        found = fake_sets.draw(fake_sets.Generator(Bars(CLASSES), "b"), labels, recipe, tmp_path / "b", progress=False)
    assert (found.images == alone.images).all() and (found.scores["seed"] == alone.scores["seed"]).all()


def scored(tmp_path, name="raw.zip"):
    """A written set of 4 x 10 images with errors that rise within each class."""
    source = fake_sets.Generator(Bars(CLASSES), "b")
    raw = fake_sets.draw(source, np.eye(4, dtype=np.float32), Recipe(10), tmp_path / "scored", progress=False)
    raw.scores["error"] = np.tile(np.linspace(0, 1, 10), 4).astype(np.float32) + np.repeat(np.arange(4), 10)
    raw.scores["predicted"] = np.where(np.arange(40) % 5 == 0, 1, raw.scores["assigned"])
    fake_sets.write_raw(tmp_path / name, raw, CLASSES, dict(num_classes=4), Filter())
    return tmp_path / name, raw


def test_refiltering_from_the_scores_is_filtering(tmp_path):
    path, raw = scored(tmp_path)
    for f in (Filter(0.5), Filter(0.5, "global"), Filter(0.7, replace=True), Filter(0.5, ties="strict")):
        direct, again = tmp_path / "direct.zip", tmp_path / "again.zip"
        fake_sets.write_raw(direct, raw, CLASSES, dict(num_classes=4), f)
        p = fake_sets.refilter(str(path), again, f)
        a, b = (zipfile.ZipFile(z) for z in (direct, again))
        assert a.namelist() == b.namelist()
        for n in a.namelist()[:-1]:
            assert a.read(n) == b.read(n)
        x, y = (json.loads(z.read("dataset.json")) for z in (a, b))
        assert x["labels"] == y["labels"] and x["scores"] == y["scores"]
        assert p["counts"] == dict(drawn=40, after_ratio=40, after_filter=len(y["labels"]))
    with pytest.raises(UserError, match="was filtered before"):
        fake_sets.refilter(str(again), tmp_path / "x.zip", Filter(0.5))


def test_refilter_says_what_is_missing(tmp_path, classes_zip):
    with pytest.raises(UserError, match="has no scores"):
        fake_sets.refilter(str(classes_zip), tmp_path / "x.zip", Filter(0.5))
    source = fake_sets.Generator(Bars(CLASSES), "b")
    raw = fake_sets.draw(source, np.eye(4, dtype=np.float32), Recipe(3), tmp_path / "parts", progress=False)
    fake_sets.write_raw(tmp_path / "blind.zip", raw, CLASSES, {}, Filter())
    with pytest.raises(UserError, match="has no errors: it was made without --teacher"):
        fake_sets.refilter(str(tmp_path / "blind.zip"), tmp_path / "x.zip", Filter(0.5))
    with pytest.raises(UserError, match="give --teacher"):
        fake_sets.write_raw(tmp_path / "x.zip", raw, CLASSES, {}, Filter(0.5))
    path, _ = scored(tmp_path)
    with pytest.raises(UserError, match="perclass needs classes"):
        fake_sets.apply({"error": np.zeros(3), "assigned": np.zeros((3, 1))}, "value", Filter(0.5))
    with pytest.raises(UserError, match="bins is for values"):
        fake_sets.refilter(str(path), tmp_path / "x.zip", Filter(0.5, "bins"))
    with pytest.raises(UserError, match=r"outside \(0, 1\]"):
        fake_sets.refilter(str(path), tmp_path / "x.zip", Filter(1.5))
    assert not (tmp_path / "x.zip").exists()


def test_ready_images(classes_zip, tmp_path):
    data = ImageDataset(classes_zip, use_labels=True)
    source = fake_sets.ReadyImages(str(classes_zip), data.spec)
    raw = fake_sets.draw(source, np.eye(4, dtype=np.float32), Recipe(12), tmp_path / "p", progress=False)
    assert (raw.images[12:24] == data.images_uint8(np.flatnonzero(data.class_ids == 1)[:12])).all()
    with pytest.raises(UserError, match="has 40 images of class 0"):
        fake_sets.draw(source, np.eye(4, dtype=np.float32), Recipe(41), tmp_path / "q", progress=False)


def test_unconditional_samplers_are_refused():
    with pytest.raises(UserError, match="unconditional"):
        fake_sets.Generator(Bars(LabelSpec()), "b")


def test_predictions_do_not_depend_on_how_many_images_there_are():
    torch.manual_seed(0)
    net = cgan_kd.Student("resnet8", SIZE, 1, 4).eval()
    images = np.random.RandomState(0).randint(0, 256, (150, 1, SIZE, SIZE)).astype(np.uint8)
    whole = cgan_kd.predict_images(net, images)
    assert (cgan_kd.predict_images(net, images[:7]) == whole[:7]).all()
    assert (selection.classification_errors(whole, np.zeros(150)) >= 0).all()
