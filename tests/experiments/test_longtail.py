# SPDX-License-Identifier: Apache-2.0
"""Every arm reads its own runs; a comparison from its first command to its table."""

import itertools
import json

import torch

from gantransfer.experiments import demo, harness, jobs, longtail
from tests.experiments.recorder import children_within
from tests.experiments.test_jobs import finished_run


def test_every_arm_finds_its_own_run(tmp_path):
    arms = sorted({*longtail.ARMS, *demo.ARMS})
    for i, (arm, seed) in enumerate(itertools.product(arms, (0, 1, 10))):
        finished_run(tmp_path, f"{i:05d}-set-cond-kimg20-{jobs.run_desc(arm, seed)}")
    found = [jobs.run_folder(tmp_path, jobs.run_desc(a, s), 20) for a, s in itertools.product(arms, (0, 1, 10))]
    assert len({*found}) == len(found) == 3 * len(arms)
    for (arm, seed), run in zip(itertools.product(arms, (0, 1, 10)), found):
        assert run.name.endswith(f"-{arm}-seed{seed}")


def test_tiny_comparison_end_to_end(tmp_path, call, monkeypatch):
    """Two arms, one seed, a few steps: all commands fit together, and running again does nothing. The judge is made by
    the study's own command, but for its length: 40 epochs would take longer than all else."""
    children_within(monkeypatch)
    data, ref, todo = harness.digits(tmp_path)
    for job in [*todo, *harness.judge_jobs(data, ref, [tmp_path / "judge0.pt"])]:
        call(*job.argv, *["--epochs=1"] * (job.argv[0] == "judge"))
    args = ["experiment", "longtail", f"--dir={tmp_path}", "--arms=baseline,utlo-balanced", "--seeds=1", "--kimg=0.2",
            "--judges=1"]
    out = call(*args).stdout
    assert "UTLO + balanced minus baseline" in out and "| per-class FD, rare classes (primary) |" in out
    assert [f"Step {i} of 5: " in out for i in range(1, 7)] == [True] * 5 + [False]
    result = json.loads((tmp_path / "compare.json").read_text())
    assert result["versions"]["torch"] == torch.__version__
    a, b = (result["values"][k][0][0]["class_fd"] for k in ("baseline", "utlo-balanced"))
    assert a != b
    again = call(*args).stdout
    assert "0 of 2 trainings to do" in again and "tick" not in again
