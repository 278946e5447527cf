# SPDX-License-Identifier: Apache-2.0
"""`.metric` files of published runs: numbers come out, nothing is executed."""

import os
import pickle

import pytest

from dnnlib.util import UserError
from gantransfer.formats import metric_file
from tests.chaos.corpus import Call

EVIL = Call(os.system, "touch pwned")


def table(shift=0.0):
    return {k: {"fid": 10.0 * k + shift, "kid": 0.1, "pr": {"0": 0.2, "1": 0.6}, "dc": {"0": 1.0, "1": 0.5}}
            for k in range(3)}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, content in (("020000", table(1)), ("1000", table()), ("train_step-7", table(9))):
        (tmp_path / f"{name}.metric").write_bytes(pickle.dumps(content))
    (tmp_path / "030000.lock").touch()
    return tmp_path


def test_figures_by_iteration(folder):
    assert [p.name for p in metric_file.metric_files(folder)] == ["1000.metric", "020000.metric"]
    assert metric_file.read_metric(folder / "1000.metric")[2]["dc.0"] == 1.0


@pytest.mark.parametrize("content", [
    {0: {"fid": EVIL}}, EVIL, [1, 2], {}, {0: {"fid": "low"}}, {"cat": {"fid": 1.0}}, {0: {"fid": True}}],
    ids=["a program in it", "a program", "list", "empty", "text", "name", "bool"])
def test_anything_else_is_refused_and_not_run(folder, content):
    (folder / "5.metric").write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match="not a .metric file") as e:
        metric_file.read_metric(folder / "5.metric")
    assert "\n" not in str(e.value) and not (folder / "pwned").exists()


def test_damaged_and_absent_files(folder):
    (folder / "6.metric").write_bytes(b"\x80\x04 cut off")
    with pytest.raises(UserError):
        metric_file.read_metric(folder / "6.metric")
    with pytest.raises(UserError, match="no such file"):
        metric_file.read_metric(folder / "absent.metric")
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match="no <iteration>"):
        metric_file.metric_files(folder / "empty")
