# SPDX-License-Identifier: Apache-2.0
"""Which source classes new classes are made of: files, and places that cannot be written."""

import json

import pytest
from PIL import Image

from gantransfer.snapshot import find_snapshots


@pytest.fixture
def network(earlier_runs):
    return find_snapshots(earlier_runs / "cgantransfer")[-1]


def test_scores_are_written_as_json_and_as_a_picture(call, network, tmp_path):
    done = call("explain", f"--network={network}", f"--json={tmp_path / 's.json'}", f"--picture={tmp_path / 's.png'}")
    scores = json.loads((tmp_path / "s.json").read_text())
    assert all(f"| {c['name']} |" in done.stdout for c in scores["classes"])
    with Image.open(tmp_path / "s.png") as picture:
        assert picture.mode == "RGB"


@pytest.mark.parametrize("flag, name", [("json", "s.json"), ("picture", "s.png")])
def test_a_place_that_cannot_be_written_is_said_before_the_work(flag, name, call, network, tmp_path):
    (tmp_path / "file").touch()
    done = call("explain", f"--network={network}", f"--{flag}={tmp_path / 'file' / name}", check=2)
    assert done.stderr.startswith(f"Error: --{flag}=") and "cannot write there" in done.stderr and not done.stdout
    (tmp_path / name).mkdir()
    done = call("explain", f"--network={network}", f"--{flag}={tmp_path / name}", check=2)
    assert "is a folder; name a file" in done.stderr and not done.stdout
