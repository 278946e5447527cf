# SPDX-License-Identifier: Apache-2.0
"""Names, protocols, checks before training, and result lines."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from dnnlib.util import UserError
from gantransfer.data.dataset import ImageDataset, LabelSpec
from gantransfer.detectors import features
from gantransfer.detectors.features import Detector, Features
from gantransfer.detectors.input_path import InputSpec
from gantransfer.metrics import fid, kid, stats
from gantransfer.metrics import table as metrics
from gantransfer.metrics.cmmd import cmmd
from gantransfer.metrics.precision_recall import density_coverage, precision_recall
from tests.conftest import write_image_zip
from tests.metrics.conftest import NoisyMeans

ORIGINAL_KEYS = {"results", "metric", "total_time", "total_time_str", "num_gpus", "snapshot_pkl", "timestamp"}


@pytest.fixture
def stand_in(monkeypatch):
    """Every reserved detector becomes a small fixed projection of the pixels with ten logits."""
    load = features.load

    def network(x):
        x = x.flatten(1)
        g = torch.Generator().manual_seed(0)
        return Features(x @ torch.randn(x.shape[1], 6, generator=g) / 255,
                        x @ torch.randn(x.shape[1], 10, generator=g) / 2550)

    def fake_load(name, device="cpu", overrides=None):
        if name not in features.RESERVED:
            return load(name, device, overrides)
        return Detector(name, network, InputSpec(channels=None, size=None, resize=None), "00", 6, device)

    monkeypatch.setattr(features, "load", fake_load)
    return lambda images: network(torch.as_tensor(images).float())


def drawn(ctx, n, classes=None):
    """What the metric should have generated: images of the context's plan."""
    plan = ctx.plan(n, classes)
    return ctx.images(plan, 0, n), plan


# Names


def test_usual_names_are_accepted_and_canonical():
    assert metrics.parse_names("fid50k_full, kid50k_full,,fid50k_full") == ["fid50k_full", "kid50k_full"]
    assert metrics.parse_names("none") == metrics.parse_names("") == metrics.parse_names(None) == []
    assert metrics.parse_names("smoke") == ["smoke_fd_pixel16_256", "smoke_kid_pixel16_256"]
    assert metrics.parse_names("fd_digits32") == ["fd_digits32_2k"]
    assert metrics.parse_names("fid_clean,kid_fidelity") == ["fid50k_clean", "kid50k_fidelity"]
    assert metrics.parse_names("fd_dinov2,kd_dinov2-edm2") == ["fd_dinov2_50k", "kd_dinov2-edm2_50k"]
    assert all(metrics.lookup(n).name == n for n in metrics.METRICS)


@pytest.mark.parametrize("name,detectors", [
    ("fid50k_full", ("inception",)), ("fid1k", ("inception",)), ("kid10k_few", ("inception",)),
    ("fid50k_clean", ("inception-clean",)), ("fid50k_pytorch", ("inception-pytorch",)),
    ("fid50k_fidelity", ("inception",)), ("is10k_fidelity", ("inception",)), ("fd_dinov2-fidelity_2k_few",
                                                                              ("dinov2-fidelity",)),
    ("cmmd", ("clip",)), ("cmmd500", ("clip",)),
    ("is50k", ("inception",)), ("is10k_biggan", ("inception-biggan",)), ("pr50k3_full", ("vgg16",)),
    ("dc10k5", ("inception",)), ("pr_digits32_500_k3", ("digits32",)), ("dc_mynet_2k_k5", ("mynet",)),
    ("kmmd", ("inception-biggan",)), ("kmmd_unbiased10k", ("inception-biggan",)),
    ("fid_inf", ("inception",)), ("fid_class", ("inception",)),
    ("fd_resnet34-utk_10k", ("resnet34-utk",)), ("kd_pix64_500_shots", ("pix64",)),
    ("memorisation", ("inception",)), ("memorisation_digits32", ("digits32",)), ("memorisation_500", ("inception",)),
    ("memorisation_digits32_500", ("digits32",)), ("report_digits32", ("digits32", "pix64")), ("ppl2_wend", ()),
    ("ppl_zfull_100", ()),
])
def test_families(name, detectors):
    metric = metrics.lookup(name)
    assert metric.name == name and metric.detectors == detectors


@pytest.mark.parametrize("name", ["fid", "fid50k_half", "fd50k", "ppl_xend", "pr503", "is", "kid50k_tail",
                                  "fid50K_full", "report", "fid50k_full;", "smoke_fd_pixel32_10"])
def test_unknown_names_list_the_known(name):
    with pytest.raises(UserError, match=f"unknown metric '{name}'; known are smoke, none, fid<N>"):
        metrics.parse_names(f"fid50k_full,{name}")


def test_a_count_of_zero_is_refused():
    with pytest.raises(UserError, match="must be positive"):
        metrics.parse_names("fid0_full")


# Protocols, by independent computation from the same images


def test_fid_full_uses_all_reals_and_divisor_n(make_context, stand_in, reference):
    ctx = make_context(mirror=True)
    result = metrics.compute("fid30_full", ctx, snapshot="a.pkl", kimg=1.5)
    images, _ = drawn(ctx, 30)
    expected = fid.frechet_distance(stand_in(reference.images_uint8(np.arange(40))).features,
                                    stand_in(images).features, ddof=0)
    assert result["results"] == {"fid30_full": pytest.approx(expected, rel=1e-6)}
    assert ORIGINAL_KEYS <= set(result)
    assert (result["num_real"], result["num_gen"], result["ddof"], result["schema"]) == (40, 30, 0, 2)
    assert (result["snapshot_pkl"], result["kimg"], result["labels"]) == ("a.pkl", 1.5, "reference")
    assert result["detector"]["name"] == "inception" and result["reference"]["sha256"] == reference.fingerprint()
    json.dumps(result, allow_nan=False)


def test_older_names_take_the_first_n_mirrored_as_in_training(make_context, stand_in, reference):
    real = reference.images_uint8(np.arange(40))
    both = np.concatenate([real, real[..., ::-1]])
    for mirror, first in ((True, both[:50]), (False, real)):
        ctx = make_context(mirror=mirror)
        images, _ = drawn(ctx, 50)
        expected = fid.frechet_distance(stand_in(first.copy()).features, stand_in(images).features, ddof=0)
        assert metrics.compute("fid50", ctx)["results"]["fid50"] == pytest.approx(expected, rel=1e-6)


def test_precision_by_the_newer_name_never_sees_mirrored_reals(make_context, stand_in):
    def reals(name, mirror):
        return metrics.compute(name, make_context(mirror=mirror))["num_real"]

    assert reals("pr1k3_full", True) == reals("pr1k3_full", False) == reals("pr1k3", False) == 40
    assert reals("pr1k3", True) == 80


@pytest.mark.parametrize("protocol,detector", [("clean", "inception-clean"), ("fidelity", "inception")])
def test_names_of_other_projects_divide_by_n_minus_1(make_context, stand_in, reference, protocol, detector):
    ctx = make_context(mirror=True)
    images, _ = drawn(ctx, 30)
    expected = fid.frechet_distance(stand_in(reference.images_uint8(np.arange(40))).features,
                                    stand_in(images).features, ddof=1)
    result = metrics.compute(f"fid30_{protocol}", ctx)
    assert result["results"][f"fid30_{protocol}"] == pytest.approx(expected, rel=1e-6)
    assert result["detector"]["name"] == detector and (result["ddof"], result["num_real"]) == (1, 40)


def test_kid_reports_mean_and_std(make_context, stand_in, reference):
    ctx = make_context()
    images, _ = drawn(ctx, 25)
    expected = kid.kid(stand_in(reference.images_uint8(np.arange(40))).features, stand_in(images).features)
    result = metrics.compute("kid25_full", ctx)
    assert result["results"]["kid25_full"] == pytest.approx(expected[0], rel=1e-5)
    assert result["std"]["kid25_full"] == pytest.approx(expected[1], rel=1e-5)


def test_cmmd_compares_embeddings_of_all_reals(make_context, monkeypatch, reference):
    def network(x):
        return Features(torch.nn.functional.normalize(x.flatten(1)), None)

    monkeypatch.setattr(features, "load", lambda name, device="cpu", overrides=None: Detector(
        name, network, InputSpec(channels=None, size=None, resize=None), "00", None, device))
    ctx = make_context()
    images, _ = drawn(ctx, 30)
    expected = cmmd(*(network(torch.as_tensor(x).float()).features for x in (reference.images_uint8(np.arange(40)),
                                                                               images)))
    result = metrics.compute("cmmd30", ctx)
    assert result["results"] == {"cmmd30": pytest.approx(expected, rel=1e-6)} and expected > 0
    assert result["detector"]["name"] == "clip" and result["num_real"] == 40


def test_inception_score_and_pr_keys(make_context, stand_in):
    ctx = make_context()
    assert set(metrics.compute("is20", ctx)["results"]) == {"is20_mean", "is20_std"}
    keys = set(metrics.compute("pr1k3_full", ctx)["results"])
    assert keys == {"pr1k3_full_precision", "pr1k3_full_recall"}
    assert set(metrics.compute("dc1k5", ctx)["results"]) == {"dc1k5_density", "dc1k5_coverage"}
    assert set(metrics.compute("kmmd30", ctx)["results"]) == {"kmmd30"}
    assert set(metrics.compute("kmmd_unbiased30", ctx)["results"]) == {"kmmd_unbiased30", "kmmd_unbiased30_error"}
    line = metrics.compute("fid_inf_40", ctx)
    assert set(line["results"]) == {"fid_inf_40"} and line["sizes"][-1] == 40


def test_shots_restrict_reals_and_labels(make_context, stand_in, reference):
    ctx = make_context()
    result = metrics.compute("fid30_shots", ctx)
    assert list(result["results"]) == ["fid30_many", "fid30_medium", "fid30_few"]
    images, plan = drawn(ctx, 30, classes=[2, 3])
    assert set(plan.ids.tolist()) == {2, 3}
    rows = np.flatnonzero(np.isin(reference.class_ids, [2, 3]))
    expected = fid.frechet_distance(stand_in(reference.images_uint8(rows)).features, stand_in(images).features, 0)
    assert result["results"]["fid30_few"] == pytest.approx(expected, rel=1e-6)
    assert metrics.compute("fid30_few", make_context())["results"]["fid30_few"] == result["results"]["fid30_few"]
    assert result["per_class"]["n_real"] == [10, 10, 20] and result["labels"] == "uniform"


def test_the_published_shot_names(make_context, stand_in, monkeypatch):
    """fid_shots gives fid_many, fid_medium, fid_few (the count is the published 50 000, cut here)."""
    monkeypatch.setattr(stats, "extract", lambda detectors, total, *a, **k: [
        stats.FeatureSet(total, 6, torch.randn(50, 6)) for _ in detectors])
    monkeypatch.setattr("gantransfer.metrics.context.LabelSource",
                        lambda *a, **k: lambda seeds: torch.eye(4)[torch.as_tensor(seeds) % 4])
    for name, keys in (("fid_shots", ["fid_many", "fid_medium", "fid_few"]),
                       ("kid_shots", ["kid_many", "kid_medium", "kid_few"])):
        result = metrics.compute(name, make_context(use_cache=False))
        assert list(result["results"]) == keys and result["num_gen"] == 50000


def test_class_tables(make_context, stand_in, reference):
    ctx = make_context()
    result = metrics.compute("fid20_class", ctx)
    parts = []
    for c in range(4):
        plan = ctx.plan_per_class([c], 20)
        real = stand_in(reference.images_uint8(np.flatnonzero(reference.class_ids == c))).features
        parts.append(fid.frechet_distance(real, stand_in(ctx.images(plan, 0, 20)).features, 0))
    assert result["per_class"]["values"] == pytest.approx(parts, rel=1e-6)
    assert result["results"]["fid20_class"] == pytest.approx(np.mean(parts))
    assert set(result["results"]) == {f"fid20_class{s}" for s in ("", "_std", "_min", "_max")}
    assert result["per_class"]["n_real"] == [10] * 4 and result["per_class"]["n_gen"] == [20] * 4
    kid_line = metrics.compute("kid20_class", make_context())
    assert len(kid_line["per_class"]["values"]) == 4


def test_memorisation_of_a_copying_sampler(make_context, reference, digits, tmp_path):
    """The sampler repeats training images; the reference has new ones as well."""
    images, labels = digits
    half = np.arange(40) % 10 < 5
    train = ImageDataset(write_image_zip(tmp_path / "t.zip", images[half], labels[half].tolist()), use_labels=True)

    class Copies(NoisyMeans):
        def __call__(self, seeds, c=None, **kw):
            pick = [np.flatnonzero(train.class_ids == k)[s % 5] for s, k in zip(seeds, c.argmax(1).tolist())]
            return torch.from_numpy(train.images_uint8(pick).copy())

    ctx = make_context(sampler=Copies(reference), training=train)
    result = metrics.compute("memorisation_digits32_60", ctx)
    assert result["results"]["memorisation_digits32_60"] == 0
    assert result["excluded"] == 20 and result["closest"][0]["distance"] == 0
    honest = metrics.compute("memorisation_digits32_60", make_context(training=train))
    assert honest["results"]["memorisation_digits32_60"] > 0.2
    with pytest.raises(UserError, match="--train-data"):
        metrics.compute("memorisation_digits32_60", make_context())


def test_pix64_is_percent_of_the_reference_variance(make_context, reference):
    """Scaling the images' contrast leaves the value as it is."""
    ctx = make_context()
    net = features.load("pix64")
    images, _ = drawn(ctx, 50)
    real = net(torch.from_numpy(reference.images_uint8(np.arange(40)))).features
    expected = fid.frechet_distance(real, net(images).features, 1) * 100 / fid.total_variance(real)
    assert metrics.compute("fd_pix64_50", ctx)["results"]["fd_pix64_50"] == pytest.approx(expected, rel=1e-6)


# Labels


def test_unconditional_models(make_context, reference):
    ctx = make_context(sampler=NoisyMeans(reference, labelled=False))
    result = metrics.compute("fd_pix64_50", ctx)
    assert result["labels"] is None and result["results"]["fd_pix64_50"] > 0
    with pytest.raises(UserError, match="class labels on both sides"):
        metrics.compute("report_digits32_5", ctx)


def test_value_labels_come_from_the_reference(tmp_path, digits):
    images, labels = digits
    data = ImageDataset(write_image_zip(tmp_path / "v.zip", images, [[float(v), 0.5] for v in labels]), use_labels=True)
    sampler = NoisyMeans(data, labelled=False)
    sampler.spec = data.spec
    ctx = metrics.MetricContext(sampler=sampler, reference=data, cache_dir=tmp_path / "c")
    assert set(ctx.plan(200).c[:, 0].tolist()) == {0.0, 1.0, 2.0, 3.0}
    with pytest.raises(UserError, match="continuous labels"):
        metrics.MetricContext(sampler=sampler, reference=data, labels="uniform").plan(5)


def test_reference_without_labels(make_context, tmp_path, digits):
    bare = ImageDataset(write_image_zip(tmp_path / "bare.zip", digits[0]), use_labels=True)
    with pytest.raises(UserError, match="has none; give --labels=training"):
        metrics.compute("fd_pix64_50", make_context(reference=bare))
    assert metrics.compute("fd_pix64_50", make_context(reference=bare, labels="uniform"))["results"]["fd_pix64_50"] > 0


# Report


# Errors as results


def test_unusable_statistics_become_null_with_the_reason(make_context):
    result = metrics.compute("pr_pix64_3_k3", make_context())
    assert result["results"] == {"pr_pix64_3_k3": None} and "more than 3 rows" in result["error"]
    assert "failed" in metrics.warnings_of(result)[0]


def test_non_finite_values_become_null(make_context, monkeypatch):
    monkeypatch.setattr(metrics, "frechet_distance", lambda *a, **k: float("nan"))
    result = metrics.compute("fd_pix64_50", make_context())
    assert result["results"] == {"fd_pix64_50": None} and "not finite" in result["error"]
    json.dumps(result, allow_nan=False)


@pytest.mark.parametrize("name, frechet", [
    ("fid50k_full", True), ("fid_class", True), ("fid_inf", True), ("sfid_mynet_100", True), ("fd_kidnet_100", True),
    ("smoke_fd_pixel16_256", True), ("report_digits32", True), ("kid50k_full", False), ("kd_pix64_100_class", False),
    ("smoke_kid_pixel16_256", False), ("pr50k3_full", False), ("dc10k5", False), ("is50k", False),
    ("diversity_class", False), ("kmmd", False)])
def test_only_of_frechet_distances_it_is_said_that_few_images_bias_them(name, frechet):
    assert metrics.lookup(name).name == name
    said = metrics.warnings_of(dict(metric=name, results={}, low_sample=True, num_real=9))
    assert bool(said) == frechet and all("Frechet" in s for s in said)


def test_low_sample_is_flagged(make_context):
    assert metrics.compute("smoke_fd_pixel16_256", make_context())["low_sample"] is True
    many = metrics.compute("fd_digits32_50", make_context())
    assert many["low_sample"] is False
    warned = metrics.warnings_of(metrics.compute("smoke_fd_pixel16_256", make_context()))
    assert "singular" in warned[0] and "not FID" in warned[1]


# Before training


def spec_of(reference, **label):
    return dataclasses.replace(reference.spec, label=dataclasses.replace(reference.spec.label, **label))


def test_preflight_passes_without_weights(reference, empty_home, no_network):
    assert metrics.preflight(metrics.parse_names("smoke,report_digits32,fd_digits32,kd_pix64"),
                             spec_of(reference)) is None  # anything missing would have raised


@pytest.mark.parametrize("name,wanted", [
    ("fid50k_full", "weights-inception-2015-12-05-6726825d.pth"), ("pr50k3_full", "vgg16.pt"),
    ("kmmd", "inception_v3_google"), ("ppl2_wend", "weights-vgg16-lpips.pth"), ("fd_mine_1k", "mine.detector.json")])
def test_preflight_names_metric_file_and_remedies(reference, empty_home, no_network, name, wanted):
    with pytest.raises(UserError) as e:
        metrics.preflight([name], spec_of(reference))
    text = str(e.value)
    assert f"metric '{name}'" in text and wanted in text and str(empty_home) in text
    assert "--detector=" in text and "GANTRANSFER_DETECTORS" in text and "--metrics=none" in text and "\n" not in text


def test_preflight_checks_the_data(reference):
    none = dataclasses.replace(reference.spec, label=LabelSpec("none", 0))
    with pytest.raises(UserError, match="'report_digits32' needs class labels.*--cond=1"):
        metrics.preflight(["report_digits32"], none)
    with pytest.raises(UserError, match="'fd_digits32_2k_shots': the label file has no classes in many or medium"):
        metrics.preflight(["fd_digits32_2k_shots"], spec_of(reference, shots={}))
    with pytest.raises(UserError, match="metric 'fd_digits32_2k': detector 'digits32' judges 16x16"):
        metrics.preflight(["fd_digits32_2k"], dataclasses.replace(reference.spec, resolution=32))
    with pytest.raises(UserError, match="grey images"):
        metrics.preflight(["fd_digits32_2k"], dataclasses.replace(reference.spec, channels=3))
    with pytest.raises(UserError, match="training images: give --train-data"):
        metrics.preflight(["memorisation_digits32"], spec_of(reference), training=False)


# Files


def line(**kw):
    return {**dict(metric="fd_pix64_2k", results={"fd_pix64_2k": 1.0}, kimg=1.0, snapshot_pkl="a.pkl", seed=0,
                   labels="reference"), **kw}


def test_jsonl_has_no_duplicates(tmp_path):
    assert metrics.append_jsonl(tmp_path, line())
    assert not metrics.append_jsonl(tmp_path, line(results={"fd_pix64_2k": 2.0}))
    assert metrics.append_jsonl(tmp_path, line(snapshot_pkl="b.pkl", kimg=2.0))
    assert metrics.append_jsonl(tmp_path, line(seed=1))
    rows = [json.loads(x) for x in (tmp_path / "metric-fd_pix64_2k.jsonl").read_text().splitlines()]
    assert [r["snapshot_pkl"] for r in rows] == ["a.pkl", "b.pkl", "a.pkl"]
    assert metrics.already_done(tmp_path, "fd_pix64_2k", "b.pkl")
    assert not metrics.already_done(tmp_path, "fd_pix64_2k", "c.pkl")
    assert not metrics.already_done(tmp_path, "kd_pix64_2k", "b.pkl")


def test_a_failed_evaluation_may_be_repeated(tmp_path):
    assert metrics.append_jsonl(tmp_path, line(results={"fd_pix64_2k": None}, error="reason"))
    assert not metrics.already_done(tmp_path, "fd_pix64_2k", "a.pkl")
    assert metrics.append_jsonl(tmp_path, line())


def test_a_torn_line_is_removed(tmp_path):
    metrics.append_jsonl(tmp_path, line())
    path = tmp_path / "metric-fd_pix64_2k.jsonl"
    good = path.read_bytes()
    path.write_bytes(good + good[:40])
    metrics.append_jsonl(tmp_path, line(kimg=2.0))
    rows = path.read_text().splitlines()
    assert len(rows) == 2 and [json.loads(r)["kimg"] for r in rows] == [1.0, 2.0]


def test_jsonl_holds_no_nan(tmp_path):
    with pytest.raises(ValueError):
        metrics.append_jsonl(tmp_path, line(results={"x": float("nan")}))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_whole_lines(tmp_path, monkeypatch):
    metrics.append_jsonl(tmp_path, line())
    path = tmp_path / "metric-fd_pix64_2k.jsonl"
    good = path.read_bytes()
    write = metrics.os.write
    monkeypatch.setattr(metrics.os, "write", lambda fd, data: write(fd, data[:10]))
    with pytest.raises(OSError, match="no space"):
        metrics.append_jsonl(tmp_path, line(kimg=2.0))
    assert path.read_bytes() == good


def test_quality_and_variety_within_classes(make_context, stand_in, reference):
    ctx = make_context()
    made = {name: metrics.compute(name, ctx) for name in ("pr_digits32_20_k3_class", "dc_digits32_20_k3_class",
                                                          "diversity_digits32_20_class")}
    judge = ctx.detector("digits32")
    values: dict[str, list] = {k: [] for k in ("precision", "recall", "density", "coverage", "diversity")}
    for c in range(4):
        real = judge(torch.from_numpy(reference.images_uint8(np.flatnonzero(reference.class_ids == c)))).features
        fake = judge(ctx.images(ctx.plan_per_class([c], 20), 0, 20)).features
        p, d = precision_recall(real, fake, 3, strict=True), density_coverage(real, fake, 3)
        for key, value in (*p._asdict().items(), *d._asdict().items()):
            values[key].append(value)
        values["diversity"].append(float((fake.double().var(0).sum() / real.double().var(0).sum()).sqrt()))
    for name, columns in (("pr", ("precision", "recall")), ("dc", ("density", "coverage"))):
        result = made[f"{name}_digits32_20_k3_class"]
        for key in columns:
            assert result["per_class"][key] == pytest.approx(values[key])
            assert result["results"][f"{name}_digits32_20_k3_class_{key}"] == pytest.approx(np.mean(values[key]))
    result = made["diversity_digits32_20_class"]
    assert result["per_class"]["values"] == pytest.approx(values["diversity"], rel=1e-5)
    assert result["results"]["diversity_digits32_20_class"] == pytest.approx(np.mean(values["diversity"]))
    assert {metrics.lookup(n).name for n in ("pr_class", "dc_class", "ppl_class", "diversity_class")} == {
        "pr_class", "dc_class", "ppl_class", "diversity_class"}
    with pytest.raises(UserError, match="class labels"):
        metrics.preflight(["diversity_digits32_20_class"], dataclasses.replace(reference.spec, label=LabelSpec()))
