# SPDX-License-Identifier: Apache-2.0
"""Which real images an evaluation takes, and that it says so where training took others."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np

from gantransfer.data.container import Container
from gantransfer.data.dataset import DataSpec, ImageDataset, LabelSpec
from gantransfer.metrics.evaluation import Evaluation, Settings, other_reals
from tests.conftest import write_image_zip

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


def test_a_label_file_made_for_training_is_in_the_networks_numbering(digits, tmp_path):
    """Labels of dataset.json are those of the whole set and are translated; those of lt_25.json are the network's."""
    images, labels = digits
    data = write_image_zip(tmp_path / "set.zip", images, labels.tolist())
    made = ImageDataset(data, use_labels=True)
    label = LabelSpec("class", 2, (10, 10), class_map={3: 0, 1: 1})  # the network knows classes 3 and 1, as 0 and 1
    model = SimpleNamespace(data=replace(made.spec, label=label, path=str(data)).to_dict())
    chosen = [Container(data).image_names[k] for k in (3, 12, 20)]
    (tmp_path / "lt.json").write_text(json.dumps({"labels": [[n, k] for n, k in zip(chosen, (1, 0, 1))]}))
    whole = Evaluation("x.pkl", model, ["smoke"], {}, Settings(data=str(data)))
    assert np.bincount(whole.reference.class_ids).tolist() == [10, 10]
    split = Evaluation("x.pkl", model, ["smoke"], {}, Settings(data=str(data), fname=str(tmp_path / "lt.json")))
    assert split.reference.class_ids.tolist() == [1, 0, 1]
