# SPDX-License-Identifier: Apache-2.0
"""Metrics along a continuous label: a model with a known error, windows, bad input, a judge that learns an angle."""

import json

import numpy as np
import pytest
import torch

from dnnlib.util import UserError
from gantransfer.data.dataset import ImageDataset
from gantransfer.detectors import features, judge_training
from gantransfer.metrics import table as metrics
from gantransfer.metrics.continuous import Windows
from gantransfer.metrics.fid import frechet_distance
from tests.conftest import write_image_zip

META = dict(kind="regression", unit="grey", offset=0.0, scale=200.0, min=0.0, max=200.0)


def grey(values, seed=0):
    """uint8 [N, 16, 16]: images of mean grey level `values`."""
    noise = np.random.RandomState(seed).randn(len(values), 16, 16)
    return (np.asarray(values)[:, None, None] + 5 * noise).clip(0, 255).astype(np.uint8)


class Shifted:
    """Images whose grey level is the label plus `off`."""

    views = ("image",)

    def __init__(self, spec, off):
        self.spec, self.off = spec, off

    def __call__(self, seeds, c=None, **kw):
        noise = np.stack([np.random.RandomState(s % 2**32).randn(1, 16, 16) for s in seeds])
        x = c[:, 0].numpy()[:, None, None, None] + self.off + 5 * noise
        return torch.from_numpy(x.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("grey") / "grey.zip"
    levels = np.linspace(20, 180, 120)
    write_image_zip(path, grey(levels), [[float(v)] for v in levels], label_meta=META)
    return ImageDataset(path, use_labels=True)


@pytest.fixture(scope="module")
def detector(data, tmp_path_factory):
    y = data.labels(range(len(data)))[:, 0]
    net = judge_training.train_judge(data.images_uint8(np.arange(len(data))), y, epochs=30, label=data.spec.label)
    assert judge_training.mean_error(net, data.images_uint8(np.arange(len(data))), y) < 8
    path = tmp_path_factory.mktemp("judge") / "grey.pt"
    judge_training.save_judge(net, path, "grey")
    return {"grey": path}


def compute(name, data, off, detector, tmp_path, **kw):
    kw.setdefault("sampler", Shifted(data.spec, off))
    ctx = metrics.MetricContext(reference=data, detectors=detector, cache_dir=tmp_path, **kw)
    return metrics.compute(name, ctx)


def test_label_score_is_the_error_of_the_labels_in_their_units(data, detector, tmp_path):
    right, off = (compute("label_score_grey_200", data, d, detector, tmp_path) for d in (0, 30))
    assert right["results"]["label_score_grey_200"] < 10
    assert off["results"]["label_score_grey_200"] == pytest.approx(30, abs=8)
    assert len(off["per_class"]["ids"]) == 10 and sum(off["per_class"]["n_gen"]) == 200


def test_sfid_rises_with_wrong_labels_and_is_the_mean_over_windows(data, detector, tmp_path):
    right, off = (compute("sfid_pixel16_200_c4", data, d, {}, tmp_path) for d in (0, 40))
    assert right["results"]["sfid_pixel16_200_c4"] * 3 < off["results"]["sfid_pixel16_200_c4"]
    table = off["per_class"]
    assert np.mean(table["values"]) == pytest.approx(off["results"]["sfid_pixel16_200_c4"])
    assert table["ids"] == [40, 80, 120, 160] and sum(table["n_real"]) == 120


def test_sfid_of_one_window_is_the_distance(data, tmp_path):
    out = compute("sfid_pixel16_100_c1_r90", data, 10, {}, tmp_path)
    net, sampler = features.load("pixel16"), Shifted(data.spec, 10)
    ctx = metrics.MetricContext(sampler=sampler, reference=data, cache_dir=tmp_path)
    plan = ctx.plan(100)
    fake = net(sampler(plan.seeds, plan.c)).features
    real = net(torch.from_numpy(data.images_uint8(np.arange(len(data))))).features
    assert out["results"]["sfid_pixel16_100_c1_r90"] == pytest.approx(frechet_distance(real, fake, 1), rel=1e-6)


def test_a_set_of_images_is_judged_like_a_model(data, detector, tmp_path):
    made = write_image_zip(tmp_path / "fakes.zip", grey(np.linspace(20, 180, 60) + 30, 1),
                           [[float(v)] for v in np.linspace(20, 180, 60)], label_meta=META)
    out = compute("label_score_grey_60", data, 0, detector, tmp_path, sampler=None,
                  generated=ImageDataset(made, use_labels=True))
    assert out["results"]["label_score_grey_60"] == pytest.approx(30, abs=8)


def test_windows_without_reals_are_left_out():
    w = Windows.over(np.array([0.0, 1, 9, 10]), 5, None)
    assert w.centres.tolist() == [1, 9] and w.radius == 1
    assert [m.tolist() for m in w.members(np.array([0.5, 5, 8.5]))] == [[0], [2]]


def test_bad_input(data, reference, detector, tmp_path):
    for name in ("sfid_pix64_100", "label_score_grey_100"):
        with pytest.raises(UserError, match="one continuous label"):
            metrics.preflight([name], reference.spec, detector)
    assert "does not predict one number" in compute("label_score_digits32_20", data, 0, {}, tmp_path)["error"]
    with pytest.raises(UserError, match="window"):
        metrics.parse_names("sfid_pix64_100_c0")
    with pytest.raises(UserError, match="--metrics: unknown metric"):
        metrics.parse_names("sfid_pix64_100_r")


def test_judge_command(data, tmp_path, call):
    out = call("judge", f"--data={data.spec.path}", f"--heldout={data.spec.path}",
                     f"--out={tmp_path / 'j.pt'}", "--name=g", "--epochs=2")
    assert "grey (mean absolute) on 120 images" in out.stdout
    assert json.loads((tmp_path / "j.detector.json").read_text())["arch_kwargs"]["num_classes"] == 1
    out = call("judge", f"--data={data.spec.path}", f"--heldout={data.spec.path}",
                     f"--out={tmp_path / 'k.pt'}", "--name=g", "--min-accuracy=0.9", check=2)
    assert out.stderr.startswith("Error: --min-accuracy is for classes") and not (tmp_path / "k.pt").exists()
