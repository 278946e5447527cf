# SPDX-License-Identifier: Apache-2.0
"""The commands of distill, strung together on tiny networks; and what they refuse, in one line. With
distillation/validation.py."""

import json
import sys
import zipfile

import numpy as np
import pytest
import torch

from dnnlib.util import UserError
from gantransfer import snapshot
from gantransfer.commands import distill
from gantransfer.data.dataset import ImageDataset
from gantransfer.distillation import report
from gantransfer.methods import METHODS, cgan_kd
from gantransfer.networks.density_ratio import DensityRatio
from tests.conftest import write_image_zip
from tests.made import made
from torch_utils import build

FAST = ["--arch=conv4-8", "--kimg=0.064", "--batch=16", "--lr=0.01", "--optimizer=adamw", "--threads=1", "--crop=1"]
TINY_GAN = {"stylegan2": dict(cfg="tiny", cbase=64, cmax=8), "utlo": dict(cfg="tiny", cbase=64, cmax=8, res_uc=8),
            "transitional": dict(cfg="tiny", cbase=64, cmax=8), "biggan": dict(cfg="tiny", g_ch=4, d_ch=4),
            "ccgan": dict(cfg="tiny", ch=4, embed_kimg=0.1)}


def gan(path, data, method="stylegan2", **options):
    """An untrained snapshot of a method."""
    m = made(method, data.spec, dict(batch=8, kimg=1), **{**TINY_GAN[method], **options})
    m.prepare(data)
    m.snapshot(0).save(path)
    return path


@pytest.fixture(scope="module")
def work(tmp_path_factory, tiny_zip):
    """real.zip, snap.pkl, teacher/teacher.pkl in one folder."""
    folder = tmp_path_factory.mktemp("distill")
    (folder / "real.zip").write_bytes(tiny_zip.read_bytes())
    gan(folder / "snap.pkl", ImageDataset(folder / "real.zip", use_labels=True))
    run("teacher", *FAST, f"--data={folder}/real.zip", f"--outdir={folder}/teacher", f"--test={folder}/real.zip")
    return folder


def run(name, *words):
    distill.main.main([name, *map(str, words)], standalone_mode=False)


def refuse(call, *words):
    """The last line of a refused command."""
    return call("distill", *words, check=2).stderr.strip().splitlines()[-1]


def raw_fakes(work, tmp_path, *words, n=6):
    dest = tmp_path / "raw.zip"
    run("fakes", f"--network={work}/snap.pkl", f"--data={work}/real.zip", f"--teacher={work}/teacher/teacher.pkl",
        f"--num-per-label={n}", f"--dest={dest}", "--threads=1", *words)
    return dest


def content(path):
    with zipfile.ZipFile(path) as z:
        return json.loads(z.read("dataset.json"))


def test_from_teacher_to_report(work, tmp_path, capsys):
    raw = raw_fakes(work, tmp_path, "--rho=1")
    c = content(raw)
    p = c["provenance"]
    assert p["counts"] == dict(drawn=24, after_ratio=24, after_filter=24) and p["rho"] == 1 and not p["replaced"]
    assert {"tool_version", "network_sha256", "seed", "truncation", "teacher_sha256", "quantile", "cutoffs",
            "real_data_sha256", "ratio_M"} <= set(p)
    assert set(c["scores"]) == {"seed", "assigned", "ratio", "error", "predicted"} and c["scores"]["ratio"] is None
    assert not raw.with_name("raw.zip.parts").exists()
    run("refilter", f"--fakes={raw}", "--rho=0.5", "--replace", f"--dest={tmp_path}/f.zip")
    kept = ImageDataset(tmp_path / "f.zip", use_labels=True, label_dim=4)
    assert 12 <= len(kept) <= 24 and content(tmp_path / "f.zip")["provenance"]["agreement"]["final"] == 1
    common = [*FAST, f"--data={work}/real.zip", f"--test={work}/real.zip"]
    kd = ["--kd=blkd", f"--teacher={work}/teacher/teacher.pkl"]
    for seed in (0, 1):
        for name, words in (("nokd", []), ("kd", kd), ("cgankd", [f"--fakes={tmp_path}/f.zip"]),
                            ("both", [*kd, f"--fakes={tmp_path}/f.zip"])):
            run("student", *common, *words, f"--seed={seed}", f"--outdir={tmp_path}/s/{name}{seed}")
    out = capsys.readouterr().out
    run("report", f"--runs={tmp_path}/s", f"--out={tmp_path}/r.md")
    out = capsys.readouterr().out
    for row in ("| conv4-8 | NOKD | 2 | 64 |", "KD (blkd)", "cGAN-KD |", "cGAN-KD + blkd", "minus NOKD"):
        assert row in out, out
    assert (tmp_path / "r.md").read_text().strip() == out.strip() and len(json.loads(
        (tmp_path / "r.json").read_text())) == 8
    results = [json.loads((tmp_path / "s" / f"{n}0" / "results.json").read_text())["images_seen"]
               for n in ("nokd", "both")]
    assert results == [64, 64]  # equal budgets


def test_published_unequal_budget_is_one_flag(work, tmp_path):
    raw = raw_fakes(work, tmp_path, n=10)
    for budget, images in (("images", 80), ("epochs", 160)):
        run("student", *[w for w in FAST if not w.startswith("--kimg")], "--epochs=2", f"--budget={budget}",
            f"--data={work}/real.zip", f"--fakes={raw}", f"--outdir={tmp_path}/{budget}")
        assert json.loads((tmp_path / budget / "results.json").read_text())["images_seen"] == images


def test_assistant_and_sskd_are_chains_of_stages(work, tmp_path):
    common = [*FAST, f"--data={work}/real.zip", f"--teacher={work}/teacher/teacher.pkl"]
    run("student", *common, "--kd=takd", "--assistant=conv8-8", f"--outdir={tmp_path}/ta")
    assistant = snapshot.load(tmp_path / "ta" / "assistant" / "student.pkl")
    assert assistant.nets["net"].kwargs["arch"] == "conv8-8"
    assert snapshot.load(tmp_path / "ta" / "student.pkl").nets["net"].kwargs["arch"] == "conv4-8"
    run("student", *common, "--kd=sskd", "--head-epochs=1", f"--outdir={tmp_path}/ss")
    assert (tmp_path / "ss" / "head" / "head.pkl").exists() and (tmp_path / "ss" / "student.pkl").exists()
    run("student", *common, "--kd=sskd", "--head-epochs=1", f"--outdir={tmp_path}/ss")  # finished: nothing to do


@pytest.mark.parametrize("features", ["teacher", "discriminator", "resnet34"])
def test_subsampling(features, work, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(DensityRatio.WIDTHS, "mlp5", (32, 16))
    words = {"teacher": [f"--teacher={work}/teacher/teacher.pkl"], "discriminator": [f"--heldout={work}/real.zip"],
             "resnet34": ["--feature-width=8", "--feature-epochs=1"]}[features]
    run("ratio", f"--network={work}/snap.pkl", f"--data={work}/real.zip", f"--features={features}", "--kimg=0.064",
        "--batch=16", f"--outdir={tmp_path}/r", "--threads=1", "--lr=0.001", *words)
    raw = raw_fakes(work, tmp_path, f"--ratio={tmp_path}/r/ratio.pkl", "--rs-burn-in=40")
    c = content(raw)
    r = np.array(c["scores"]["ratio"])
    assert len(r) == 24 and (r > 0).all() and c["provenance"]["counts"]["drawn"] >= 24
    assert set(c["provenance"]["ratio_M"]) == {f"class {k}" for k in range(4)}
    assert "rejection: acceptance" in capsys.readouterr().out


@pytest.mark.parametrize("features, label_input", [("sae", "ili"), ("sae", "nli"), ("discriminator", "ili")])
def test_values_from_ccgan(features, label_input, tmp_path, digits):
    """A continuous label all the way: ratio on a sparse auto-encoder or the discriminator, fakes, student."""
    data = write_image_zip(tmp_path / "v.zip", digits[0], [[float(i % 10)] for i in range(40)])
    real, spec = f"--data={data}", ImageDataset(data, use_labels=True)
    snap = gan(tmp_path / "g.pkl", spec, "ccgan", label_input=label_input)
    run("teacher", *FAST, real, f"--test={data}", f"--outdir={tmp_path}/t")
    assert json.loads((tmp_path / "t" / "results.json").read_text())["last"]["mae"] < 10
    words = [f"--heldout={data}"] if features == "discriminator" else ["--feature-epochs=1", "--feature-width=8"]
    run("ratio", real, f"--network={snap}", f"--features={features}", "--width=tiny", "--kimg=0.064", "--batch=16",
        f"--outdir={tmp_path}/r", "--threads=1", *words)
    if features == "sae":
        assert set(snapshot.load(tmp_path / "r" / "features" / "features.pkl").nets) == {"F", "decoder", "predictor"}
        assert ("y2h" in snapshot.load(tmp_path / "r" / "ratio.pkl").nets) == (label_input == "ili")
    run("fakes", real, f"--network={snap}", f"--teacher={tmp_path}/t/teacher.pkl", f"--ratio={tmp_path}/r/ratio.pkl",
        "--num-per-label=3", "--num-labels=5", "--rs-burn-in=8", "--rho=0.8", "--replace", f"--dest={tmp_path}/f.zip")
    made = ImageDataset(tmp_path / "f.zip", use_labels=True)
    assert made.spec.label.kind == "value" and 12 <= len(made) <= 15
    assert set(np.array(content(tmp_path / "f.zip")["scores"]["assigned"])[:, 0]) <= {0, 2.25, 4.5, 6.75, 9}
    run("student", *FAST, real, f"--fakes={tmp_path}/f.zip", f"--test={data}", f"--outdir={tmp_path}/s")
    assert "mae" in json.loads((tmp_path / "s" / "results.json").read_text())["last"]


@pytest.mark.parametrize("method", ["utlo", "transitional", "biggan"])
def test_every_conditional_method_gives_fakes_and_a_discriminator(method, work, tmp_path):
    data = ImageDataset(work / "real.zip", use_labels=True)
    snap = gan(tmp_path / "g.pkl", data, method)
    run("ratio", f"--network={snap}", f"--data={work}/real.zip", "--features=discriminator",
        f"--heldout={work}/real.zip", f"--outdir={tmp_path}/r")
    dest = tmp_path / "f.zip"
    run("fakes", f"--network={snap}", f"--data={work}/real.zip", "--num-per-label=3", f"--ratio={tmp_path}/r/ratio.pkl",
        "--rs-burn-in=8", f"--dest={dest}")
    made = ImageDataset(dest, use_labels=True)
    assert np.bincount(made.class_ids).tolist() == [3] * 4 and made.image_shape == [1, 16, 16]


def test_ready_images_and_refilter_need_no_generator(work, tmp_path):
    run("fakes", f"--network={work}/real.zip", f"--data={work}/real.zip", f"--teacher={work}/teacher/teacher.pkl",
        "--num-per-label=10", "--rho=0.5", f"--dest={tmp_path}/f.zip")
    assert len(content(tmp_path / "f.zip")["labels"]) >= 20


def test_select_rho_without_the_leak(work, tmp_path, call):
    flags = [f"--data={work}/real.zip", "--grid=0.5,1.0", "--archs=conv4-8,conv4", f"--outdir={tmp_path}/rho",
             "--teacher-flags=" + " ".join(FAST), "--fakes-flags=--num-per-label=8",
             "--student-flags=" + " ".join(w for w in FAST if not w.startswith("--arch"))]
    assert "it may know the validation images" in refuse(call, "select-rho", *flags, f"--network={work}/snap.pkl")
    part = ImageDataset(work / "real.zip", fname=str(tmp_path / "rho" / "subtrain.json"), use_labels=True)
    valid = ImageDataset(work / "real.zip", fname=str(tmp_path / "rho" / "subvalid.json"), use_labels=True)
    assert np.bincount(part.class_ids).tolist() == [8] * 4 and np.bincount(valid.class_ids).tolist() == [2] * 4
    assert not {part.get_details(i).name for i in range(32)} & {valid.get_details(i).name for i in range(8)}
    snap = gan(tmp_path / "sub.pkl", part)
    run("select-rho", *flags, f"--network={snap}")
    chosen = json.loads((tmp_path / "rho" / "rho.json").read_text())
    assert set(chosen["mean"]) == {"0.5", "1"} and chosen["best"] in (0.5, 1.0)
    assert chosen["mean"][f"{chosen['best']:g}"] == max(chosen["mean"].values())
    for name in ("teacher", "rho0.5-conv4-8"):
        options = json.loads((tmp_path / "rho" / name / "training_options.json").read_text())
        assert options["num_images"] == 32  # nothing but the training part


def test_two_processes_train_the_same(work, tmp_path, monkeypatch):
    """With plain gradient descent: Adam makes steps of full length out of the rounding of gradients that batch norm
    cancels."""
    words = [*FAST, "--arch=resnet8", f"--data={work}/real.zip", f"--test={work}/real.zip", "--optimizer=sgd"]
    run("student", *words, f"--outdir={tmp_path}/one")
    words += [f"--outdir={tmp_path}/two", "--gpus=2", "--device=cpu"]
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, "-m", "gantransfer", "distill", "student", *words])
    with pytest.raises(SystemExit, match="^0$"):
        run("student", *words)
    a, b = (snapshot.load(tmp_path / k / "student.pkl").nets["net"].state for k in ("one", "two"))
    for k in a:
        assert torch.allclose(a[k].float(), b[k].float(), atol=1e-4), k


# ---- presets and what is refused -------------------------------------------------------------------------------------


def test_bad_input_is_one_line_and_leaves_nothing(work, tmp_path, digits, call):
    images, y = digits
    real, t, snap = f"--data={work}/real.zip", f"--teacher={work}/teacher/teacher.pkl", f"--network={work}/snap.pkl"
    dest, out = f"--dest={tmp_path}/x.zip", f"--outdir={tmp_path}/x"
    plain = write_image_zip(tmp_path / "plain.zip", images)
    values = write_image_zip(tmp_path / "values.zip", images, [[float(k)] for k in y])
    three = write_image_zip(tmp_path / "three.zip", images[:30], [int(k) for k in y[:30]])
    uncond = gan(tmp_path / "uncond.pkl", ImageDataset(work / "real.zip"))
    make = ["fakes", real, "--num-per-label=2", dest]
    cases = [
        ([*make, f"--network={uncond}"], "the snapshot is unconditional"),
        ([*make, snap, t, "--rho=0"], "outside (0, 1]"), ([*make, snap, t, "--rho=1.5"], "outside (0, 1]"),
        ([*make, snap, "--rho=0.5"], "needs --teacher"), ([*make, snap, "--replace"], "needs --teacher"),
        (["fakes", f"--data={three}", "--num-per-label=2", dest, snap], "knows 4 classes, the data 3"),
        (["fakes", f"--data={values}", "--num-per-label=2", dest, snap], "has classes, the data values"),
        (["fakes", f"--data={plain}", "--num-per-label=2", dest, snap], "has no labels"),
        (["fakes", real, dest, snap], "--num-per-label is missing"),
        (["fakes", real, "--num-per-label=99999999999", dest, snap], "more than 10,000,000 images"),
        (["fakes", real, "--num-per-label=2", f"--dest={tmp_path}/x", snap], "should end in .zip"),
        ([*make, snap, f"--teacher={work}/snap.pkl"], "is of method stylegan2"),
        ([*make, f"--network={work}/teacher/teacher.pkl"], "is of the method cgan_kd, which makes no images"),
        ([*make, snap, f"--ratio={work}/teacher/teacher.pkl"], "is no density ratio"),
        ([*make, snap, t, "--quantile=bins"], "bins is for values"),
        (["refilter", f"--fakes={work}/real.zip", "--rho=0.5", dest], "has no scores"),
        (["refilter", f"--fakes={tmp_path}/none.zip", "--rho=0.5", dest], "none.zip"),
        (["student", *FAST, real, out, "--kd=blkd"], "--kd=blkd needs --teacher"),
        (["student", *FAST, f"--data={three}", out, "--kd=blkd", t], "knows 4 classes, the data 3"),
        (["student", *FAST, f"--data={values}", out, "--kd=at", t], "has classes, the data values"),
        (["student", *FAST, real, out, f"--fakes={values}"], "has values, the data classes"),
        (["student", *FAST, real, out, "--kd=takd", t], "--kd=takd and --assistant=ARCH belong together"),
        (["student", *FAST, real, out, "--arch=resnet9"], "--arch=resnet9: unknown architecture"),
        (["student", *FAST, real, out, "--epochs=3"], "omit one"),
        (["student", *FAST, real, out, f"--init={work}/snap.pkl"], "not a teacher or student"),
        (["teacher", *FAST, f"--data={plain}", out], "has no labels"),
        (["ratio", real, out, snap, "--features=teacher"], "--features=teacher needs --teacher"),
        (["ratio", real, out, snap, "--features=discriminator"], "belong together"),
        (["ratio", real, out, snap, "--features=sae"], "is for labels of one number"),
        (["ratio", real, out, f"--network={uncond}", t], "no labels"),
        (["select-rho", real, out, "--grid=0.5,2", snap], "outside (0, 1]"),
        (["select-rho", real, out], "or --gan-flags to train one"),
        (["select-rho", real, out, "--gan-flags=--cfg=tiny"], "give --kimg=K"),
        (["report", f"--runs={tmp_path}"], "no finished student"),
    ]
    before = {p.name for p in tmp_path.iterdir()}
    for words, message in cases:
        line = refuse(call, *words)
        assert line.startswith("Error: ") and message in line, (words, line)
        left = {p.name for p in tmp_path.iterdir()} - before
        assert not left, (words, left)


def test_a_class_that_the_filter_empties_is_named_and_another_rho_needs_no_drawing(work, tmp_path, call, monkeypatch):
    words = ["fakes", f"--data={work}/real.zip", f"--network={work}/snap.pkl", "--num-per-label=1",
             f"--teacher={work}/teacher/teacher.pkl", f"--dest={tmp_path}/x.zip", "--ties=strict"]
    line = refuse(call, *words, "--rho=0.5")
    assert "--rho=0.5 leaves no image of class 0 (1 before filtering)" in line and "x.zip.parts" in line
    assert not (tmp_path / "x.zip").exists()
    monkeypatch.setattr("gantransfer.distillation.fakes.draw_label", lambda *a: pytest.fail("drawn again"))
    run(*words, "--rho=1")
    assert len(content(tmp_path / "x.zip")["labels"]) == 4 and not (tmp_path / "x.zip.parts").exists()


def test_report_tells_runs_of_one_kind_apart(work, tmp_path):
    for name in ("a", "b"):
        run("student", *FAST, f"--data={work}/real.zip", f"--test={work}/real.zip", f"--outdir={tmp_path}/{name}")
    with pytest.raises(UserError, match="are both NOKD, conv4-8, seed 0"):
        report.collect([tmp_path])
    (only,) = report.collect([tmp_path / "a"])
    assert report.arm(only) == "NOKD" and 0 <= only["last"]["accuracy"] <= 1


def renumbered(path, digits, class_names=()):
    """The digits 0 to 3 with a label file that numbers them 3, 2, 1, 0, as lt_dataset.py does by rank."""
    images, y = digits
    extra = {"class_names": list(class_names)} if class_names else {}
    write_image_zip(path, images, [int(k) for k in y], **extra)
    with zipfile.ZipFile(path, "a") as z:
        rows = json.loads(z.read("dataset.json"))["labels"]
        back = {"labels": [[n, 3 - k] for n, k in rows], "meta": {"class_map": {str(k): 3 - k for k in range(4)}}}
        if class_names:
            back["class_names"] = list(class_names)[::-1]
        z.writestr("back.json", json.dumps(back))
    return path


@pytest.mark.parametrize("names", [(), ("zero", "one", "two", "three")])
def test_classes_of_another_label_file_are_translated(tmp_path, digits, names, capsys):
    """A GAN and a teacher of a --fname run: class k of the data is class 3 - k of theirs."""
    data = renumbered(tmp_path / "d.zip", digits, names)
    back = ImageDataset(data, fname="back.json", use_labels=True)
    assert back.spec.label.class_map == {k: 3 - k for k in range(4)}
    snap = gan(tmp_path / "snap.pkl", back)
    make = [f"--network={snap}", "--num-per-label=2", "--seed=5"]
    run("fakes", *make, f"--data={data}", f"--dest={tmp_path}/own.zip")
    assert "numbers its classes otherwise" in capsys.readouterr().out
    run("fakes", *make, f"--data={data}", "--fname=back.json", f"--dest={tmp_path}/back.zip")
    assert "otherwise" not in capsys.readouterr().out
    own = ImageDataset(tmp_path / "own.zip", use_labels=True)
    sampler = METHODS["stylegan2"].sampler_from(snapshot.load(snap))
    with zipfile.ZipFile(tmp_path / "own.zip") as z:
        content = json.loads(z.read("dataset.json"))
    for i, (seed, label) in enumerate(zip(content["scores"]["seed"], content["scores"]["assigned"])):
        right = sampler([seed], torch.eye(4)[[3 - label]]).numpy()[0]
        assert np.abs(own.images_uint8([i])[0].astype(int) - right.astype(int)).max() <= 1

    run("teacher", *FAST, f"--data={data}", "--fname=back.json", f"--outdir={tmp_path}/t")
    plain, turned = (cgan_kd.load(f"{tmp_path}/t/teacher.pkl", s, "--teacher").eval()
                     for s in (back.spec, ImageDataset(data, use_labels=True).spec))
    x = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert torch.allclose(plain(x), turned(x).flip(1))

    # Fakes know whose numbering theirs is.
    zip_, own = str(tmp_path / "back.zip"), ImageDataset(data, use_labels=True).spec
    found = cgan_kd.labelled(zip_, None, own, "--fakes", False)
    there = ImageDataset(tmp_path / "back.zip", use_labels=True)
    assert np.array_equal(found.class_ids, 3 - there.class_ids)
    same = cgan_kd.labelled(zip_, None, back.spec, "--fakes", False)
    assert np.array_equal(same.class_ids, there.class_ids)


def test_fakes_of_classes_with_images_only(tmp_path, digits):
    images, y = digits
    keep = np.isin(y, (1, 3))
    data = write_image_zip(tmp_path / "gap.zip", images[keep], [int(k) for k in y[keep]])
    snap = gan(tmp_path / "snap.pkl", ImageDataset(data, use_labels=True))
    run("fakes", f"--network={snap}", f"--data={data}", "--num-per-label=3", f"--dest={tmp_path}/f.zip")
    assert ImageDataset(tmp_path / "f.zip", use_labels=True).spec.label.counts == (0, 3, 0, 3)


def test_a_teacher_says_how_good_it_is(tmp_path, tiny_zip, digits, capsys):
    words = ["teacher", *FAST, f"--data={tiny_zip}"]
    run(*words, f"--outdir={tmp_path}/a")
    out = capsys.readouterr().out
    figures = json.loads((tmp_path / "a" / "results.json").read_text())
    assert f"accuracy {figures['last']['accuracy']:.4g} on 4 images held out of --data" in out
    assert figures["num_images"] == 36
    run(*words, f"--outdir={tmp_path}/b", f"--test={tiny_zip}")
    assert f"on the images of --test={tiny_zip}" in capsys.readouterr().out
    assert json.loads((tmp_path / "b" / "results.json").read_text())["num_images"] == 40
    images, y = digits
    single = write_image_zip(tmp_path / "single.zip", images[[0, 10, 20]], [0, 1, 2])  # none to spare
    run("teacher", *FAST, f"--data={single}", f"--outdir={tmp_path}/c")
    assert "on the training images themselves" in capsys.readouterr().out


def test_stages_are_rated_kept_and_stopped_as_runs_of_train(work, tmp_path, capsys, call, monkeypatch):
    """A network that does not learn: with nothing better for three snapshots in a row the stage is finished."""
    monkeypatch.setattr(build, "implementation", lambda device: pytest.fail("compiles kernels that nothing uses"))
    words = [f"--data={work}/real.zip", f"--outdir={tmp_path}/t", f"--test={work}/real.zip", "--tick=0.016", "--snap=1"]
    run("teacher", *FAST, *words, "--kimg=0.48", "--lr=0", "--stop_after=3", "--keep=best", "--best=accuracy")
    out, seen = capsys.readouterr().out, json.loads((tmp_path / "t/results.json").read_text())["images_seen"]
    assert "accuracy has not improved for 3 snapshots" in out and 64 <= seen < 480
    assert (tmp_path / "t/teacher.pkl").exists() and 1 <= len(snapshot.find_snapshots(tmp_path / "t")) <= 2
    options = json.loads((tmp_path / "t/training_options.json").read_text())
    assert (options["stop_after"], options["keep"], options["best"]) == (3, "best", "accuracy")
    environment = json.loads((tmp_path / "t/environment.json").read_text())
    assert environment["data_fingerprint"] == options["data"] and environment["torch"] == torch.__version__
    run("teacher", *FAST, *words, "--kimg=0.48", "--lr=0", "--stop_after=5")  # what rates may change
    assert "teacher: finished before" in capsys.readouterr().out
    words[1] = f"--outdir={tmp_path}/u"
    assert "--best=loss is not measured; there are accuracy" in refuse(call, "teacher", *FAST, *words, "--best=loss")
