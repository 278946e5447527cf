# SPDX-License-Identifier: Apache-2.0
"""The command `gantransfer view`: what it says before it serves. The page is tested in tests/viewer."""

import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile

import pytest
import torch

from gantransfer.commands import view
from gantransfer.data.dataset import DataSpec, LabelSpec
from gantransfer.snapshot import Snapshot
from tests.conftest import ROOT, write_image_zip
from tests.viewer.conftest import snapshot_of

uvicorn = pytest.importorskip("uvicorn", reason="needs the extra `viewer`")
pytest.importorskip("starlette", reason="needs the extra `viewer`")


@pytest.fixture
def trees(tmp_path):
    snapshot_of("classes").save(tmp_path / "trees.pkl")
    return tmp_path / "trees.pkl"


@pytest.fixture
def served(monkeypatch):
    """What would be served, without serving it."""
    seen = []

    def run(self, sockets):
        seen.append((self.config, sockets[0].getsockname()))

    monkeypatch.setattr(uvicorn.Server, "run", run)
    return seen


def test_without_its_packages_it_says_how_to_get_them(call, monkeypatch, trees):
    find = importlib.util.find_spec
    absent = ("starlette", "uvicorn")
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n in absent else find(n, *a))
    done = call("view", f"--network={trees}", check=2)
    assert done.stderr == "Error: the viewer needs the packages starlette and uvicorn: pip install starlette uvicorn\n"


def test_it_prints_the_whole_address_and_listens_here_only(call, served, trees):
    done = call("view", f"--network={trees}", "--port=0", "--device=cpu")
    (config, (host, port)), = served
    assert host == "127.0.0.1" and done.stderr == ""
    found = re.match(rf"Open http://127\.0\.0\.1:{port}/([\w-]+)/\n", done.stdout)
    assert found and len(found[1]) >= 32 and config.app.token == found[1]
    again = call("view", f"--network={trees}", "--port=0", "--device=cpu")
    assert found[1] not in again.stdout


def test_another_address_is_warned_of_and_needs_the_token_too(call, served, trees):
    done = call("view", f"--network={trees}", "--host=0.0.0.0", "--port=0", "--device=cpu")
    assert done.stderr.startswith("Warning: --host=0.0.0.0 lets other machines") and done.stderr.count("\n") == 1
    (config, (host, port)), = served
    assert done.stdout.startswith(f"Open http://{socket.gethostname()}:{port}/"), "no browser elsewhere opens 0.0.0.0"
    scope = dict(type="http", method="GET", path="/", query_string=b"", headers=[(b"host", b"10.0.0.1")])
    assert host == "0.0.0.0" and config.app.problem(scope)[0] == 403
    assert config.app.problem({**scope, "path": f"/{config.app.token}/"}) is None


def test_mistakes_are_one_line(call, served, trees, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        cases = [
            ([f"--network={trees}", f"--port={port}"], f"--port={port} is in use"),
            ([f"--network={trees}", "--host=no.such.name.invalid"], "--host=no.such.name.invalid is no address"),
            ([f"--network={trees}", "--host=192.0.2.1", "--port=0"], "--host=192.0.2.1"),
            ([f"--network={trees}", "--fname=x.json"], "give --data"),
            ([f"--network={trees}", "--port=0", f"--data={tmp_path / 'none.zip'}"], "none.zip"),
            ([f"--network={tmp_path / 'none.pkl'}", "--port=0"], "none.pkl"),
            ([f"--network={trees}", "--port=70000"], "--port"),
        ]
        for flags, words in cases:
            done = call("view", *flags, check=2)
            assert done.stderr.startswith("Error: ") and done.stderr.count("\n") == 1 and words in done.stderr
            assert "Open" not in done.stdout
    assert not served


def test_models_that_make_no_images_are_refused_in_one_line(call, served, tmp_path):
    with zipfile.ZipFile(ROOT / "tests" / "fixtures" / "v0.1.0" / "runs.zip") as z:
        found = [n for n in z.namelist() if re.fullmatch(r"distill/[^/]+(/network-snapshot-\d+)?\.pkl", n)]
        z.extractall(tmp_path, found)
    assert found
    for name in found:
        done = call("view", f"--network={tmp_path / name}", "--port=0", check=2)
        assert re.fullmatch(r"Error: .* makes no images .*\n", done.stderr), name
    assert not served


def test_classes_of_two_networks_are_matched_by_name(trees, tmp_path):
    snap = snapshot_of("classes")
    label = LabelSpec("class", 4, (1, 1, 1, 1), ("oak", "ash", "fir", "birch"))
    other = Snapshot(snap.method, snap.nets, data=DataSpec("b", 16, 1, 4, label).to_dict())
    other.save(tmp_path / "other.pkl")
    one, two = (view._shown(str(p), torch.device("cpu")) for p in (trees, tmp_path / "other.pkl"))
    view._pair(one, two)
    assert two.about["match"] == [1, 3, None, 0] and "match" not in one.about
    assert two.about["set_matches"] == {}
    assert (one.about["path"], two.about["path"]) == (str(trees), str(tmp_path / "other.pkl"))
    old = [LabelSpec("class", 2, (1, 1), names) for names in (("x", "y"), ("y", "x"))]
    for shown, spec in zip((one, two), old):
        shown.sampler.label_sets = {"old": spec}
    one.sampler.label_sets["new"] = LabelSpec("class", 4)
    view._pair(one, two)
    assert two.about["set_matches"] == {"old": [1, 0]}


def test_images_without_classes_are_said(call, served, trees, digits, tmp_path):
    images = write_image_zip(tmp_path / "set.zip", digits[0][:4])
    done = call("view", f"--network={trees}", "--port=0", "--device=cpu", f"--data={images}")
    assert done.stderr == f"Note: {images} has no classes: the nearest of all its images is shown, whatever the class\n"


def test_a_signal_ends_it_in_one_line(trees):
    """As a process of its own, with a browser's requests."""
    child = subprocess.Popen([sys.executable, "-m", "gantransfer", "view", f"--network={trees}", "--port=0",
                              "--kernels=ref", "--device=cpu"], cwd=ROOT, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
                             # A shell's background jobs, this test run perhaps, have SIGINT ignored, and pass that on.
                             preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    try:
        url = child.stdout.readline().split()[1]
        with urllib.request.urlopen(url) as page:
            assert b"gantransfer view" in page.read()
        with pytest.raises(urllib.error.HTTPError) as e:
            urllib.request.urlopen(url.rsplit("/", 2)[0] + "/")
        assert e.value.code == 403
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=30)
    finally:
        child.kill()
    assert child.returncode == 130 and err == "Stopped by SIGINT\n"
