# SPDX-License-Identifier: Apache-2.0
"""Which real images an evaluation takes, and that it says so where training took others."""

import json
from dataclasses import replace

from gantransfer.data.dataset import DataSpec, LabelSpec
from gantransfer.metrics.evaluation import other_reals

SPEC = DataSpec("x", 16, 1, 40, LabelSpec("class", 2, (20, 20)), path="x.zip")


def test_reals_of_training_are_named_where_they_were_others(tmp_path):
    network = str(tmp_path / "network-snapshot-000001.pkl")
    assert other_reals(network, SPEC) == ""  # in no run
    (tmp_path / "training_options.json").write_text(json.dumps({"metrics": ["smoke"]}))
    assert other_reals(network, SPEC) == ""
    said = other_reals(network, replace(SPEC, heldout=5))  # part of the same file, which no --data names
    assert "all images of x.zip; in training they were --heldout=5" in said and "--data" not in said
    (tmp_path / "training_options.json").write_text(json.dumps({"reference": "held.zip"}))
    assert "in training they were held.zip" in (said := other_reals(network, SPEC)) and "--data=held.zip" in said
