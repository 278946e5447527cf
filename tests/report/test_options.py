# SPDX-License-Identifier: Apache-2.0
"""What differs from the defaults, and between runs."""

import json

from gantransfer.report import options, read


def edited(folder, change):
    path = folder / "training_options.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return read.read(folder)


def test_options_that_differ_from_the_defaults(planted):
    rows, note = options.differing_from_defaults(read.read(planted))
    found = {k: (v, d) for k, v, d in rows}
    assert found["gamma"][0] == "0.75" and found["gamma"][1] not in ("", "0.75")
    assert found["cfg"] == ("tiny", "auto") and found["kimg"][0] == "8" and found["seed"] == ("3", "0")
    assert found["cond"] == ("true", "false")
    # what follows from the preset and the batch is no difference
    assert not found.keys() & {"glr", "ema_kimg", "cbase", "z_dim", "sampling", "gpus", "mirror"} and not note


def test_a_method_or_preset_that_this_version_lacks_is_said(planted):
    run = edited(planted, lambda o: o.update(method="later"))
    rows, note = options.differing_from_defaults(run)
    assert "does not know the method later" in note and ("gamma", "0.75", "") in rows
    run = edited(planted, lambda o: (o.update(method="stylegan2"), o["options"].update(cfg="later")))
    assert "defaults that depend on the data are not known" in options.differing_from_defaults(run)[1]


def test_options_in_which_runs_differ(planted, planted_once):
    other = edited(planted, lambda o: (o["options"].update(gamma=2.5, freezed=1), o.pop("sampling")))
    rows = dict(options.differing_between([read.read(planted_once), other]))
    assert rows == {"gamma": ["0.75", "2.5"], "freezed": ["0", "1"], "sampling": ["empirical", "not set"]}
