# SPDX-License-Identifier: Apache-2.0
"""The walk-through of hyper-modulation: its commands, its table, its messages."""

import numpy as np
import pytest

from dnnlib.util import UserError
from gantransfer.commands.train import main as train
from gantransfer.experiments import hyper_transfer
from gantransfer.experiments import hypermod as demo


def test_every_arm_is_a_command_that_train_knows(tmp_path):
    """All arms of a seed share the source, the images, the length and the seed; alignment comes on top."""
    known = {o.replace("-", "_") for p in train.params for o in p.opts}
    for arm, (_, flags, align) in ((a, (x.title, x.flags, x.more)) for a, x in demo.ARMS.items()):
        _, outdir, desc, kimg, argv = hyper_transfer.run(
            tmp_path, tmp_path / "s.pkl", arm, demo.ARMS[arm], 3, 8, ["--glr=0.01"] if arm == "full" else [])
        words = {w.split("=")[0]: w.partition("=")[2] for w in argv}  # --ema-kimg is --ema_kimg
        assert {w.replace("-", "_") for w in words} <= known, arm
        assert all(f in argv for f in flags)
        assert (outdir, desc, kimg) == (tmp_path / "runs", f"arm-{arm}-seed3", 8 + align) and words["--seed"] == "3"
        assert words["--source"] == str(tmp_path / "s.pkl") and words["--data"] == str(hyper_transfer.few(tmp_path, 3))
        assert ("--align-kimg" in words) == bool(align) and ("--glr" in words) == (arm == "full")


def test_table_and_differences():
    rng, names, values, seconds = np.random.RandomState(0), ["hypermod", "aligned"], {}, {}
    for a, level in zip(names, (20.0, 60.0)):
        for s in range(3):
            seconds[a, s, 8] = 5.0 + s
            values[a, s, 8] = [{c: level + rng.rand() for c in demo.COLUMNS} for _ in range(2)]
    text = demo.report(names, range(3), [8], values, seconds)
    assert "aligned for 2 kimg before" in text and "3 seed(s), 2 judge(s)" in text
    (row,) = [line for line in text.splitlines() if line.startswith("| hypermod | 2")]
    assert row.endswith("| 6 +- 1 |") and len(row.split("|")) == 2 + 1 + len(demo.COLUMNS) + 1
    last = text.splitlines()[-1]
    assert last.startswith("| hypermod minus random, aligned | **-") and last.count("**") == 2 * len(demo.COLUMNS)


def test_messages():
    found = hyper_transfer.extra_flags("hypermod:--glr=1,hypermod:--dlr=2", demo.ARMS)
    assert found == {"hypermod": ["--glr=1", "--dlr=2"]}
    for words, says in ((["--arms=x"], "x is not known"), (["--arms=full,full"], "given twice"),
                        (["--kimg=a"], "whole numbers"), (["--kimg=0"], "from 1 on"),
                        (["--flags=glr=3"], "ARM:--flag=value"), (["--flags=what:--glr=3"], "with an arm of")):
        with pytest.raises(UserError, match=says) as e:
            demo.main(words, standalone_mode=False)
        assert "\n" not in str(e.value)
