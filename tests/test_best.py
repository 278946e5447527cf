# SPDX-License-Identifier: Apache-2.0
"""RUN:best names the snapshot with the best value."""

import json

import pytest

from dnnlib.util import UserError
from gantransfer import best


def test_best(tmp_path):
    for k, (fid, score) in enumerate([(30, 2.0), (10, 1.5), (20, 3.0)]):
        name = f"network-snapshot-{k:06d}.pkl"
        (tmp_path / name).touch()
        for metric, results in (("fid50k_full", {"fid50k_full": fid}),
                                ("is50k", {"is50k_mean": score, "is50k_std": 0})):
            with open(tmp_path / f"metric-{metric}.jsonl", "a") as f:
                f.write(json.dumps(dict(metric=metric, results=results, snapshot_pkl=name)) + "\n")
    with open(tmp_path / "metric-fid50k_full.jsonl", "a") as f:
        gone = dict(metric="fid50k_full", results={"fid50k_full": 1}, snapshot_pkl="deleted.pkl")
        f.write(json.dumps(gone) + '\n{"me')
    assert best.resolve(f"{tmp_path}:best").endswith("000001.pkl")
    assert best.resolve(f"{tmp_path}:best:is50k").endswith("000002.pkl")
    assert best.resolve(f"{tmp_path}:best:is50k_mean").endswith("000002.pkl")
    for same in (None, "latest", "snap.pkl", str(tmp_path), "https://host/a:best"):
        assert best.resolve(same) == same
    with pytest.raises(UserError, match="kid50k"):
        best.resolve(f"{tmp_path}:best:kid50k")
    with pytest.raises(UserError, match="not a run folder"):
        best.resolve(f"{tmp_path}/none:best")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no measured snapshot"):
        best.resolve(f"{tmp_path}/empty:best")


def test_values_that_are_not_numbers_rate_nothing(tmp_path):
    for k, value in enumerate([5, float("nan"), 4, float("inf"), 6]):
        with open(tmp_path / "metric-fid50k_full.jsonl", "a") as f:
            f.write(json.dumps(dict(metric="fid50k_full", results={"fid50k_full": value}, kimg=k,
                                    snapshot_pkl=f"network-snapshot-{k:06d}.pkl")) + "\n")
    count, top = best.since_best(tmp_path, None)
    assert (count, top.value, top.kimg) == (1, 4, 2)
    assert best.since_best(tmp_path, "is50k") == (0, None)


def test_recorded_choice_comes_first(tmp_path):
    for k in range(2):
        snapshot = f"network-snapshot-{k:06d}.pkl"
        (tmp_path / snapshot).touch()
        for name, value in (("a5k", k), ("b5k", -k)):
            with open(tmp_path / f"metric-{name}.jsonl", "a") as f:
                f.write(json.dumps(dict(metric=name, results={name: value}, kimg=k, snapshot_pkl=snapshot)) + "\n")
    assert best.resolve(f"{tmp_path}:best").endswith("000000.pkl")
    (tmp_path / "training_options.json").write_text(json.dumps({"best": "b5k"}))
    assert best.resolve(f"{tmp_path}:best").endswith("000001.pkl")
    assert best.resolve(f"{tmp_path}:best:a5k").endswith("000000.pkl")
    (tmp_path / "training_options.json").write_text(json.dumps({"best": "nothing measured"}))
    assert best.resolve(f"{tmp_path}:best").endswith("000000.pkl")
