# SPDX-License-Identifier: Apache-2.0
"""The comparison's arithmetic, and that every arm reads its own runs."""

import itertools
import json

import numpy as np
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


def values(arms, shift, noise, seeds=5):
    rng = np.random.RandomState(0)
    base = rng.rand(seeds) * 10
    return {a: [[{"class_fd_few": float(base[s] + shift[a] + noise * rng.randn())} for s in range(seeds)]
                for _ in range(2)] for a in arms}


def test_only_differences_beyond_t_under_every_judge_are_bold():
    arms = ["baseline", "far", "near"]
    v = values(arms, dict(baseline=0, far=-5, near=0), noise=0.3)
    text = longtail.report(arms, v, {a: [1.0] * 5 for a in arms}, 20)
    rows = {line.split(" minus ")[0]: text.splitlines()[i + 4] for i, line in enumerate(text.splitlines())
            if " minus " in line}
    assert "**-" in rows["far"] and "(5/5)" in rows["far"] and "**" not in rows["near"]
    v["far"][1] = v["baseline"][1]  # the second judge sees no difference
    text = longtail.report(arms, v, {a: [1.0] * 5 for a in arms}, 20)
    assert "**" not in text.split("far minus")[1].split("near minus")[0] and text.count("Student's t") == 1


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
