# SPDX-License-Identifier: Apache-2.0
"""The calc_metrics.py command."""

import json
import re
import sys

import numpy as np
import pytest
import torch

from dnnlib.util import Plain
from gantransfer.data.dataset import ImageDataset
from gantransfer.detectors import judge_training
from gantransfer.metrics import table
from gantransfer.networks.stylegan2 import Generator
from gantransfer.snapshot import NetRecord, Snapshot
from tests.conftest import ROOT, write_image_zip
from tests.metrics.conftest import empty_home, no_network  # noqa: F401


@pytest.fixture(scope="module")
def run_dir(tiny_zip, tmp_path_factory):
    """A run folder with the snapshot of an untrained class-conditional network."""
    folder = tmp_path_factory.mktemp("run")
    data = ImageDataset(tiny_zip, use_labels=True)
    torch.manual_seed(0)
    G = Generator(z_dim=8, c_dim=4, w_dim=8, img_resolution=16, img_channels=1,
                  synthesis_kwargs=dict(channel_base=64, channel_max=8))
    Snapshot("stylegan2", {"G_ema": NetRecord.of(G)}, data=data.spec.to_dict(),
             cur_nimg=2000).save(folder / "network-snapshot-000002.pkl")
    (folder / "training_options.json").write_text("{}")
    return folder


@pytest.fixture
def calc(run_dir, tmp_path, call):
    """Run the command in this process on that snapshot, or another."""

    def run(*flags, check=0, network=run_dir / "network-snapshot-000002.pkl"):
        argv = [f"--network={network}"] * (network is not None) + [f"--cache-dir={tmp_path / 'cache'}", *flags]
        return call("calc_metrics", *argv, check=check)

    return run


def lines(done):
    return [json.loads(x) for x in done.stdout.splitlines() if x.startswith("{")]


def test_help_lists_every_family(calc):
    text = " ".join(calc("--help").stdout.split())
    for _, family, _ in table.PATTERNS:
        assert family in text, family


def test_metrics_of_a_snapshot(calc, run_dir):
    done = calc("--metrics=smoke,report_digits32_12")
    names = ["smoke_fd_pixel16_256", "smoke_kid_pixel16_256", "report_digits32_12"]
    got = lines(done)
    assert [x["metric"] for x in got] == names
    for x in got:
        [written] = [json.loads(row) for row in (run_dir / f"metric-{x['metric']}.jsonl").read_text().splitlines()]
        assert written == x
        assert x["snapshot_pkl"] == "network-snapshot-000002.pkl" and x["kimg"] == 2.0 and x["num_gpus"] == 1
    assert "label accuracy" in done.stderr and "not FID" in done.stderr
    again = calc("--metrics=smoke_fd_pixel16_256")
    assert lines(again)[0]["results"] == got[0]["results"], "the same flags give the same numbers"
    assert "already" in again.stderr
    assert len((run_dir / "metric-smoke_fd_pixel16_256.jsonl").read_text().splitlines()) == 1


def test_a_terminal_shows_people_lines_and_a_pipe_json(calc, run_dir, tiny_zip, digits, tmp_path, monkeypatch):
    flags = ["--metrics=fd_pix64_32,report_digits32_11", f"--outdir={tmp_path / 'o'}"]
    whole = lines(calc(*flags))
    monkeypatch.setattr(Plain, "isatty", lambda self: True)
    done = calc(*flags, f"--outdir={tmp_path / 'p'}")
    fd, report = (x["results"] for x in whole)
    assert lines(done) == [] and f"{'fd_pix64_32':<24} {fd['fd_pix64_32']:.3g}\n" in done.stdout
    assert "per-class FD" in done.stderr and "per-class FD" not in done.stdout, "the whole table is there"
    assert f"Written: {tmp_path / 'p'}/metric-NAME.jsonl" in done.stdout
    written = json.loads((tmp_path / "p" / "metric-fd_pix64_32.jsonl").read_text())
    assert written["results"] == fd, "the file has all digits"
    quiet = calc(*flags, "--verbose=False")
    assert f"{'report_digits32_11':<24} per-class FD {report['report_digits32_11_class_fd']:.3g} " in quiet.stdout
    fakes = write_image_zip(tmp_path / "fakes.zip", digits[0][:, :, ::-1], digits[1].tolist())
    [x] = lines(calc("--metrics=fd_pix64_40", f"--data={tiny_zip}", network=fakes))
    assert x["metric"] == "fd_pix64_40", "what no file has is printed in full"


def test_seed_labels_and_outdir(calc, run_dir, tmp_path):
    done = calc("--metrics=fd_pix64_40", "--seed=3", "--labels=uniform", f"--outdir={tmp_path / 'o'}", "--verbose=0",
                "--no-cache", "--batch=9")
    [x] = lines(done)
    assert (x["seed"], x["labels"]) == (3, "uniform")
    assert (tmp_path / "o" / "metric-fd_pix64_40.jsonl").exists()
    assert not (run_dir / "metric-fd_pix64_40.jsonl").exists() and not (tmp_path / "cache").exists()
    assert done.stderr == ""


@pytest.mark.slow
def test_two_processes_of_the_script_measure_what_one_does(calc, run_dir, tmp_path, monkeypatch):
    from torch_utils import distributed as dist

    if dist.cpu_cores() < 2:
        pytest.skip("two processes need two cores")
    names = ["fd_digits32_40", "report_digits32_9"]
    for k in (1, 2):
        words = [f"--metrics={','.join(names)}", f"--outdir={tmp_path / str(k)}", f"--gpus={k}", "--batch=8"]
        monkeypatch.setattr(sys, "orig_argv", [  # this process is the launcher
            sys.executable, str(ROOT / "calc_metrics.py"), f"--network={run_dir / 'network-snapshot-000002.pkl'}",
            f"--cache-dir={tmp_path / 'cache'}", *words])
        calc(*words)
    for name in names:
        one, two = (json.loads((tmp_path / k / f"metric-{name}.jsonl").read_text()) for k in "12")
        assert (one["num_gpus"], two["num_gpus"]) == (1, 2) and one["results"]
        for k, value in one["results"].items():
            assert value == pytest.approx(two["results"][k], rel=1e-6, abs=1e-9)


def test_errors_as_a_script(run_script, run_dir):
    """One line, exit code 2, also when several processes were asked for."""
    done = run_script("calc_metrics.py", f"--network={run_dir / 'network-snapshot-000002.pkl'}", "--gpus=2",
                      "--metrics=fd_nowhere_5", check=2)
    assert done.stderr.startswith("Error: ") and len(done.stderr.strip().splitlines()) == 1


def test_images_instead_of_a_model(calc, tiny_zip, digits, tmp_path):
    fakes = write_image_zip(tmp_path / "fakes.zip", digits[0][:, :, ::-1], digits[1].tolist())
    [x] = lines(calc("--metrics=fd_pix64_40", f"--data={tiny_zip}", network=fakes))
    assert x["labels"] == "as given" and x["results"]["fd_pix64_40"] > 1 and x["kimg"] is None
    done = calc("--metrics=fd_pix64_41", f"--data={tiny_zip}", network=fakes, check=2)
    assert "has 40 images, the metric takes 41" in done.stderr


def test_generated_classes_are_matched_by_name(calc, digits, tmp_path):
    """A set of fakes carries the model's numbering (by rank); the reference has its own. Names join them."""
    names = ["zero", "one", "two", "three"]
    reals = write_image_zip(tmp_path / "r.zip", digits[0], digits[1].tolist(), class_names=names)
    fakes = write_image_zip(tmp_path / "f.zip", digits[0], (3 - digits[1]).tolist(), class_names=names[::-1])
    [x] = lines(calc("--metrics=report_digits32_10", f"--data={reals}", network=fakes))
    assert x["results"]["report_digits32_10_class_fd"] < 1e-6 and x["results"]["report_digits32_10_accuracy"] == 1
    other = write_image_zip(tmp_path / "o.zip", digits[0], digits[1].tolist(), class_names=list("abcd"))
    assert "no class name in common" in calc("--metrics=smoke", f"--data={other}", network=fakes, check=2).stderr


def test_reference_statistics(calc, tiny_zip, tmp_path):
    """--write-ref makes a file that --ref takes in place of the images."""
    outdir, ref = f"--outdir={tmp_path / 'o'}", tmp_path / "ref.npz"
    calc("--metrics=fd_digits32_40", f"--data={tiny_zip}", f"--write-ref={ref}", network=None)
    [a] = lines(calc("--metrics=fd_digits32_40", outdir))
    [b] = lines(calc("--metrics=fd_digits32_40", f"--ref={ref}", outdir))
    assert a["results"]["fd_digits32_40"] == pytest.approx(b["results"]["fd_digits32_40"], rel=1e-6)
    assert a["reference"] != b["reference"]
    for flags, message in (([f"--ref={tiny_zip}"], "not a file of reference statistics"),
                           ([f"--write-ref={ref}"], "--write-ref needs --data")):
        assert message in calc("--metrics=fd_digits32_40", *flags, check=2).stderr


def test_label_file_restricts_the_reals(calc, digits, tmp_path):
    """--fname names a label file of --data: only its images are the reference."""
    path = write_image_zip(tmp_path / "set.zip", digits[0], digits[1].tolist())
    names = [f"00000/img{i:08d}.png" for i in range(40)]
    (tmp_path / "half.json").write_text(json.dumps({"labels": [[n, int(y)] for n, y in zip(names, digits[1])][::2]}))
    for fname, count in ((None, 40), ("dataset.json", 40), (str(tmp_path / "half.json"), 20)):
        extra = [f"--fname={fname}"] if fname else []
        [x] = lines(calc("--metrics=fd_pix64_40", f"--data={path}", f"--outdir={tmp_path / str(count)}", *extra))
        assert x["num_real"] == count


def test_own_detector(calc, digits, tmp_path):
    outdir = f"--outdir={tmp_path / 'o'}"
    net = judge_training.train_judge(digits[0][:, None], digits[1], epochs=1)
    judge_training.save_judge(net, tmp_path / "j.pt", "mine")
    for flag in (f"--detector=mine={tmp_path / 'j.pt'}", f"--detector={tmp_path / 'j.detector.json'}"):
        [x] = lines(calc("--metrics=fd_mine_40", flag, outdir))
        assert x["detector"]["name"] == "mine"
    # a judge of the same name as the shipped one takes its place
    judge_training.save_judge(net, tmp_path / "k.pt", "digits32")
    [own] = lines(calc("--metrics=fd_digits32_40", f"--detector=digits32={tmp_path / 'k.pt'}", outdir))
    [shipped] = lines(calc("--metrics=fd_digits32_40", outdir))
    assert own["detector"]["sha256"] != shipped["detector"]["sha256"]
    # studies tell judges by the hashes of their files, which hold nothing but the numbers
    assert (tmp_path / "j.pt").read_bytes() == (tmp_path / "k.pt").read_bytes()


def test_without_metrics_it_is_what_training_measured_where_no_weights_are(calc, run_dir, digits, tmp_path,
                                                                           empty_home, no_network):  # noqa: F811
    snap = tmp_path / "run" / "network-snapshot-000002.pkl"
    snap.parent.mkdir()
    snap.write_bytes((run_dir / "network-snapshot-000002.pkl").read_bytes())
    done = calc(check=2, network=snap)
    assert done.stderr.startswith("Error: --metrics is missing, and fid50k_full, which is measured without it, ")
    assert "--detector=inception=FILE" in done.stderr
    held = write_image_zip(tmp_path / "held.zip", 255 - digits[0][:40], digits[1][:40].tolist())
    (snap.parent / "training_options.json").write_text(json.dumps(
        {"metrics": ["smoke_fd_pixel16_16"], "reference": str(held)}))
    done = calc(network=snap)
    assert done.stderr.startswith("Note: no --metrics: smoke_fd_pixel16_16 as in training, against ")
    assert done.stderr.count("no --metrics") == 1
    named = calc("--metrics=smoke_fd_pixel16_16", f"--data={held}", network=snap)
    own = calc("--metrics=smoke_fd_pixel16_16", network=snap)
    assert lines(done)[0]["results"] == lines(named)[0]["results"] != lines(own)[0]["results"]
    assert "Note:" not in named.stderr
    assert f"in training they were {held}" in own.stderr and f"--data={held}" in own.stderr
    other = write_image_zip(tmp_path / "other.zip", digits[0][:40], digits[1][:40].tolist())
    assert f"as in training, against {other}, for" in calc(f"--data={other}", network=snap).stderr
    held.unlink()
    done = calc(check=2, network=snap)
    assert done.stderr == (f"Error: no such file or folder: {held} (the held-out set that the run was measured by; "
                           "give --data)\n")


def test_missing_weights(calc, empty_home, no_network):  # noqa: F811
    done = calc("--metrics=fid50k_full", check=2)
    assert done.stderr.startswith("Error: metric 'fid50k_full' needs the weights of detector 'inception'")
    assert len(done.stderr.strip().splitlines()) == 1 and "--fetch-detector=inception" in done.stderr


@pytest.mark.parametrize("flags,message", [
    (["--metrics=fid50k_foo"], "unknown metric 'fid50k_foo'"),
    (["--metrics=none"], "names no metric"),
    (["--metrics=smoke", "--data=/nowhere.zip"], "no such file or folder: /nowhere.zip"),
    (["--metrics=smoke", "--train-data=/nowhere.zip"], "--train-data=/nowhere.zip"),
    (["--metrics=smoke", "--fname=lt_99.json"], "lt_99.json"),
    (["--metrics=smoke", "--detector=/nowhere.pt"], "--detector=/nowhere.pt"),
    (["--metrics=report_digits32", "--classes=0-x"], "--classes=0-x"),
    (["--metrics=report_digits32_5", "--classes=9"], "--classes=9: there is no class 9; the model knows 0 to 3"),
    (["--metrics=report_digits32_5", "--classes=0,zebra"], "--classes=zebra: no such class"),
    (["--metrics=fid99999999999999999999_full"], "metric count"),
    (["--metrics=smoke", "--batch=nan"], "--batch=nan"),
    (["--metrics=smoke", "--gpus=500"], "--gpus=500"),
    (["--fetch-detector=foo"], "--fetch-detector=foo"),
])
def test_bad_input(calc, flags, message):
    done = calc(*flags, check=2)
    errors = [x for x in done.stderr.splitlines() if x.startswith("Error: ")]
    assert len(errors) == 1 and message in errors[0], done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("network,message", [
    (None, "--network is missing"), ("/nowhere.pkl", "/nowhere.pkl"), (ROOT / "LICENSE", "LICENSE")])
def test_bad_networks(calc, network, message):
    done = calc("--metrics=smoke", network=network, check=2)
    assert message in done.stderr and "Traceback" not in done.stderr


def test_data_set_that_moved_away(calc, run_dir, tiny_zip, tmp_path):
    """A snapshot names its data set; where that is gone, the message says which flag helps."""
    from gantransfer import snapshot

    snap = snapshot.load(run_dir / "network-snapshot-000002.pkl")
    snap.data["path"] = "/gone/set.zip"
    snap.save(tmp_path / "moved.pkl")
    done = calc("--metrics=smoke", network=tmp_path / "moved.pkl", check=2)
    assert re.search(r"/gone/set.zip .*give --data", done.stderr)
    assert lines(calc("--metrics=smoke_fd_pixel16_256", f"--data={tiny_zip}", network=tmp_path / "moved.pkl"))


def test_failed_metric_has_exit_code_1(calc, tmp_path):
    """Statistics that cannot be formed: null in the line, the reason beside it, and a failing exit code."""
    done = calc("--metrics=pr_pix64_3_k3", f"--outdir={tmp_path / 'o'}", check=1)
    [x] = lines(done)
    assert x["results"] == {"pr_pix64_3_k3": None} and "more than 3 rows" in x["error"]


def test_unconditional_model_and_held_out_reference(calc, tiny_zip, digits, tmp_path):
    data = ImageDataset(tiny_zip)
    torch.manual_seed(0)
    G = Generator(z_dim=8, c_dim=0, w_dim=8, img_resolution=16, img_channels=1,
                  synthesis_kwargs=dict(channel_base=64, channel_max=8))
    Snapshot("stylegan2", {"G_ema": NetRecord.of(G)}, data=data.spec.to_dict()).save(tmp_path / "u.pkl")
    other = write_image_zip(tmp_path / "other.zip", digits[0][:20])
    [x] = lines(calc("--metrics=fd_pix64_30", f"--data={other}", network=tmp_path / "u.pkl"))
    assert x["num_real"] == 20 and x["labels"] is None and np.isfinite(x["results"]["fd_pix64_30"])
    done = calc("--metrics=report_digits32", network=tmp_path / "u.pkl", check=2)
    assert "needs class labels" in done.stderr


def test_truncation_below_one_counts_and_is_recorded(calc, tmp_path):
    found = [lines(calc("--metrics=smoke_fd_pixel16_16", f"--outdir={tmp_path}", *flags))[0]
             for flags in ([], ["--trunc=1"], ["--trunc=0.3"])]
    assert found[0]["results"] == found[1]["results"] != found[2]["results"]
    assert [x.get("truncation") for x in found] == [None, None, {"truncation_psi": 0.3}]
