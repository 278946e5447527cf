# SPDX-License-Identifier: Apache-2.0
import json

import numpy as np
import pytest

from dnnlib.util import UserError
from gantransfer.experiments.results import COLUMNS, Results


def test_a_file_counts_only_for_the_settings_it_was_made_with(tmp_path):
    settings = dict(kimg=4, judges=["a", "b"], groups={"few": (1, 2)})
    here = Results(tmp_path / "results", settings)
    assert here.read("utlo", 3, ["--x=1"], train="t") is None
    here.write("utlo", 3, ["--x=1"], dict(last=[{"fd": 1.5}]), train="t")
    found = Results(tmp_path / "results", settings).read("utlo", 3, ["--x=1"], train="t")
    assert found["last"] == [{"fd": 1.5}] and found["kimg"] == 4 and found["groups"] == {"few": [1, 2]}
    assert here.read("utlo", 2, ["--x=1"], train="t") is None and here.read("utl", 3, ["--x=1"], train="t") is None
    for other, flags, train, word in ((dict(kimg=5), ["--x=1"], "t", "kimg"), ({}, ["--x=2"], "t", "flags"),
                                      ({}, ["--x=1"], "u", "train"),
                                      (dict(judges=["c"]), ["--x=1"], "t", "copy the judges")):
        with pytest.raises(UserError, match=word) as e:
            Results(tmp_path / "results", settings | other).read("utlo", 3, flags, train=train)
        assert "utlo-seed3.json" in str(e.value) and "\n" not in str(e.value)
    here.path("utlo", 3).write_text(json.dumps([1]))
    with pytest.raises(UserError, match="utlo-seed3.json holds a list"):
        here.read("utlo", 3, ["--x=1"], train="t")


@pytest.mark.parametrize("channels", [1, 3])
def test_images_come_back(tmp_path, channels):
    here = Results(tmp_path, {})
    rows = [np.random.RandomState(k).randint(0, 256, (COLUMNS, channels, 8, 8), dtype=np.uint8) for k in range(3)]
    assert here.images("a", 0, 3) is None
    here.save_images("a", 0, rows)
    again = here.images("a", 0, 3)
    assert len(again) == 3 and all(np.array_equal(x, y) for x, y in zip(rows, again))
    assert here.images("a", 0, 4) is None, "a picture of other classes"
    here.write("a", 0, [], {})
    assert here.images("a", 0, 3) is None, "a picture of another training"
