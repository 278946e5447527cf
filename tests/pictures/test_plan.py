# SPDX-License-Identifier: Apache-2.0
"""Lists of what is to be drawn."""

import pytest

from dnnlib.util import UserError
from gantransfer.data.dataset import DataSpec, LabelSpec
from gantransfer.pictures import plan
from tests.commands.test_generate import CLASSES


def test_more_images_than_memory_are_refused_before_they_are_listed():
    for kw, words in ((dict(seeds=None, per_class=10**11), "--per-class in 3 classes.*10,000,000 images"),
                      (dict(seeds=list(range(3 * 10**6)), classes=[0, 1, 2, 3]), "--seeds in 4 classes")):
        with pytest.raises(UserError, match=words):
            plan.make_plan(CLASSES, **kw)


def test_a_list_of_values(tmp_path):
    label = LabelSpec("value", 1, meta=dict(min=0.0, max=4.0, offset=0.0, scale=4.0, unit="mm"))
    listed = tmp_path / "l.json"
    listed.write_text('{"images": [[1, [2.5]], [2, [0]]]}')
    made = plan.listed_plan(label, listed)
    assert made.seeds == [1, 2] and made.values == [2.5, 0.0] and made.names == ["seed0001-label2.5", "seed0002-label0"]
    listed.write_text('{"images": [[1, [4.5]]]}')
    with pytest.raises(UserError, match="image 0 has the label 4.5, outside 0 to 4"):
        plan.listed_plan(label, listed)


def test_label_sets_in_a_list(tmp_path):
    class Two:
        spec = DataSpec("x", 16, 3, 1, CLASSES)
        label_sets = {"old": CLASSES, "new": CLASSES}

    assert plan.split_label_set("new:3,1", Two()) == ("new", "3,1")
    assert plan.split_label_set("new:3,new:ash", Two()) == ("new", "3,ash")
    assert plan.split_label_set("name:ash", Two()) == (None, "name:ash")
    with pytest.raises(UserError, match="--class=new:3,old:1: old:1 is of another set"):
        plan.split_label_set("new:3,old:1", Two())
    with pytest.raises(UserError, match="--class=odd:3: this model has old:0 to old:"):
        plan.split_label_set("odd:3", Two())

    class One(Two):
        label_sets = {}

    with pytest.raises(UserError, match="--class=old:3: this model has one set of classes; omit the part before ':'"):
        plan.split_label_set("old:3", One())
