# SPDX-License-Identifier: Apache-2.0
"""The report command: the whole page of a planted run, of several, of experiments; and what cannot be reported. With
report/classes.py and report/sheets.py."""

import json
import re
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from gantransfer.report import study
from tests.report.conftest import NAMES, Page

pytest.importorskip("matplotlib", reason="needs matplotlib (extra `report`)")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def read_page(path):
    source = path.read_text(encoding="utf-8")
    page = Page(source)
    outside = [v for _, k, v in page.attributes if k in ("src", "href", "xlink:href") and not re.match("#|data:", v)]
    assert not outside and not re.search(r"(?:src|href)\s*=\s*[\"']?\s*(?:https?:)?//|@import|url\((?!#)", source)
    ids = [v for _, k, v in page.attributes if k == "id"]
    assert len(ids) == len(set(ids))
    return page, source


def test_the_page_of_a_run(call, planted, tmp_path):
    done = call("report", planted, "--tail=4")
    assert done.stdout.startswith("report.html: 1 run, ")
    page, source = read_page(tmp_path / "report.html")
    assert "best snapshot: network-snapshot-000002.pkl, report_pix_class_fd 41.3" in page.texts
    marked, groups = (t for t in page.tables if t[0][0] == "report_pix")
    assert marked[2] == ["network-snapshot-000002.pkl best", "2 kimg", "41.3", "0.123"]
    assert [r[2] for r in marked] == ["per-class FD", "90", "41.3", "55"]
    assert '<tr class=marked><td class=word>network-snapshot-000002.pkl <b>best</b>' in source
    assert ["gamma", "0.75"] in [r[:2] for r in page.table("option")]
    rows = {r[0]: r[1:] for r in page.table("class")}
    assert [rows[n][0] for n in NAMES] == ["16", "8", "4", "2"], "the names come back unharmed, with their counts"
    assert rows["猫 |x|"][1] == "few" and "333" in rows["猫 |x|"] and "-" in rows["猫 |x|"]
    assert groups[0][1].startswith("all (4 classes, 30 images)") and groups[0][2].startswith("many (1 classes, 16")
    assert groups[1] == ["per-class FD", "41.3", "20.6", "41.3", "82.5"]
    assert "Loss/G/loss is not a finite number in 1 of 6 ticks, first at 2 kimg" in page.texts
    assert "<b>&" not in source.replace("<b>best", "") and "a&lt;b&gt;&amp;&quot;c&quot;" in source
    shown = [v for _, k, v in page.attributes if k == "alt"]
    assert [a for a in shown if a.startswith("generated images")] == [
        f"generated images at {t}" for t in ("before training", "0 kimg", "2 kimg", "4 kimg")]
    assert sum(a.startswith("fakes and nearest") for a in shown) == 2
    assert source.count("<svg") == 11 and not any(re.search(r"\bnan\b", t, re.I) for t in page.texts)


def test_two_runs_on_common_axes(call, planted, planted_once, tmp_path):
    options = json.loads((planted / "training_options.json").read_text())
    options["options"]["gamma"] = 2.5
    (planted / "training_options.json").write_text(json.dumps(options))
    call("report", planted_once, planted, "--out=both.html", "--tail=0")
    page, _ = read_page(tmp_path / "both.html")
    [differ] = [t for t in page.tables if t[0][0] == "option" and len(t) == 2]
    assert differ[1] == ["gamma", "0.75", "2.5"] and "/" in differ[0][1], "equal names have the folder above"


def test_a_run_with_neither_pictures_nor_snapshots_nor_records(call, planted, tmp_path):
    for path in planted.iterdir():
        if path.name != "stats.jsonl":
            path.unlink()
    done = call("report", planted)
    assert "No nearest training images" in done.stdout
    page, _ = read_page(tmp_path / "report.html")
    assert "there is no training_options.json" in page.texts


def test_an_experiment_finished_and_going_on(call, planted, tmp_path):
    folder = tmp_path / "study"
    (folder / "results").mkdir(parents=True)
    shutil.copytree(planted, folder / "runs" / planted.name)
    (folder / "study.json").write_text('{"data": "ab<c"}')
    (folder / "results" / "a-seed0.json").write_text(json.dumps(dict(
        arm="a<x>", seed=0, last=[{"class_fd": 10.0}, {"class_fd": 21.0}], seconds=75.0)))
    call("report", folder, "--out=now.html")
    page, _ = read_page(tmp_path / "now.html")
    assert page.table("arm") == [["arm", "seed", "per-class FD", "time"], ["a<x>", "0", "15.5", "1m 15s"]]
    (folder / "compare.md").write_text("Three seeds.\n\n| | a | b |\n|---|---|---|\n| FD | 1 +- 2 | **3** |\n")
    Image.fromarray(np.full((40, 50), 9, np.uint8)).save(folder / "compare.png")
    call("report", folder, "--out=done.html")
    page, source = read_page(tmp_path / "done.html")
    assert ["FD", "1 ± 2", "3"] in [r for t in page.tables for r in t] and "picture compare.png" in source
    assert study.is_study(folder) and not study.is_study(tmp_path)


def test_numbers_and_latest_stand_for_runs(call, planted, tmp_path):
    (tmp_path / "runs").mkdir()
    shutil.move(planted, tmp_path / "runs" / "00007-planted")
    (tmp_path / "runs" / "00003-older").mkdir()
    for name in ("7", "latest", "00007"):
        call("report", name, "--tail=0")
        assert "00007-planted" in (tmp_path / "report.html").read_text()
        (tmp_path / "report.html").unlink()
    assert "no such folder" in call("report", "8", check=2).stderr


def test_a_film_of_the_training(call, planted, tmp_path):
    done = call("report", planted, "--video=film.webp", "--seeds=0-2")
    assert "film.webp: 3 snapshots" in done.stdout and not (tmp_path / "report.html").exists()
    with Image.open(tmp_path / "film.webp") as film:
        assert film.n_frames == 3
        times = []
        for k in range(3):
            film.seek(k)
            film.load()
            times.append(film.info["duration"])
        assert times == [250, 250, 2250]


def test_what_cannot_be_reported_is_one_line(call, refused, planted, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    for args, says in ((["absent"], "no such folder"), (["empty"], "neither a run"), (["notes.txt"], "is a file"),
                       ([tmp_path], "name one, such as"), ([planted, "--out=x.txt"], "should end in .html"),
                       ([planted, "--out=notes.txt/x.html"], "not a folder"),
                       ([planted, "--video=x.gif"], "should end in .mp4 or .webp"),
                       ([planted, planted, "--video=x.webp"], "--video shows one run")):
        assert says in refused(*args, command="report")
    assert not (tmp_path / "report.html").exists()
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    assert "write a .webp" in call("report", planted, "--video=x.mp4", check=2).stderr
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install matplotlib" in call("report", planted, check=2).stderr


def test_a_page_into_a_folder_that_is_not_there(call, planted, tmp_path):
    call("report", planted, "--out=a/b/page.html", "--tail=0")
    page, _ = read_page(tmp_path / "a" / "b" / "page.html")
    assert page.attributes
