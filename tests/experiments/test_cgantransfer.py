# SPDX-License-Identifier: Apache-2.0
"""The transfer comparison: splits, tables, bad input."""

import pytest

from dnnlib.util import run_cli
from gantransfer.experiments import biggan_transfer
from gantransfer.experiments import cgantransfer as demo


def test_each_seed_has_its_own_halves():
    splits = [biggan_transfer.digits(s) for s in range(5)]
    assert all(sorted(old + new) == list(range(10)) and len(old) == 5 for old, new in splits)
    assert len({tuple(new) for _, new in splits}) == 5


def test_second_stage_starts_after_a_quarter():
    assert [biggan_transfer.ft_from([k]) for k in (2, 4, 8, 16, 18)] == [2, 2, 2, 4, 4]


def test_seconds_of_the_second_stage_come_on_top_of_the_first(monkeypatch, tmp_path):
    monkeypatch.setattr(biggan_transfer, "bn_at", lambda *_: tmp_path / "bn")
    monkeypatch.setattr(biggan_transfer, "train_seconds", lambda path: {"bn": 5.0, "x": 2.0}[path.name])
    seconds = {(a, k): biggan_transfer.seconds_of(tmp_path, a, 0, k, [4, 16], tmp_path / "x") for a in ("bn", "bn-ft")
               for k in (4, 16)}
    assert seconds == {("bn", 4): 2.0, ("bn", 16): 2.0, ("bn-ft", 4): 2.0, ("bn-ft", 16): 7.0}


def test_report_marks_what_counts():
    values, times = {}, {}
    for s in range(5):
        for k in (2, 4):
            for arm, shift in (("bn", 0.5), ("finetune", 0.0), ("scratch", 0.0)):
                # `scratch` wins under one judge and loses under the other
                judges = [{c: shift + 0.01 * s + (0.3 if arm == "scratch" else 0) * (1 - 2 * j) + 0.001 * (s % 2) * (
                    arm == "bn") for c in demo.COLUMNS} for j in (0, 1)]
                values[arm, s, k], times[arm, s, k] = judges, 60.0 * k
    text = demo.report(["bn", "finetune", "scratch"], 5, [2, 4], values, times, 10, 10)
    lines = text.splitlines()
    assert text.count("| stage BN minus fine-tuning |") == 2 and text.count("| 2 kimg |") == 2
    assert all(c.startswith("**+0.5") for c in lines[-3].split(" | ")[1:])
    (scratch,) = {line for line in lines if line.startswith("| from scratch minus")}
    assert "**" not in scratch
    assert next(line for line in lines if line.startswith("| stage BN |")).endswith("| 2.0 |")
    assert "2.78 standard errors" in text


@pytest.mark.parametrize("argv, says", [
    (["--arms=bn,nothing"], "nothing"), (["--kimg=2,x"], "whole numbers"), (["--kimg=3"], "even numbers"),
    (["--picture-kimg=8"], "none of --kimg")])
def test_bad_input(capsys, tmp_path, argv, says):
    with pytest.raises(SystemExit) as e:
        run_cli(lambda: demo.main([*argv, f"--dir={tmp_path / 'd'}"], prog_name="cgantransfer"))
    err = capsys.readouterr().err
    assert e.value.code == 2 and says in err and len(err.strip().splitlines()) == 1 and not (tmp_path / "d").exists()
