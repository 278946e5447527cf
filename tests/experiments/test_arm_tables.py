# SPDX-License-Identifier: Apache-2.0
"""The comparison's arithmetic: what is bold, what one pair says, what --best adds."""

import numpy as np

from gantransfer.experiments import arm_tables, longtail


def report(names, values, seconds, *more):
    arms = longtail.ARMS | {a: longtail.Arm(a) for a in names if a not in longtail.ARMS}
    return arm_tables.of_recipes(names, values, seconds, 4, arms, longtail.PRIMARY, longtail.BESIDE, *more)


def values(arms, shift, noise, seeds=5):
    rng = np.random.RandomState(0)
    base = rng.rand(seeds) * 10
    return {a: [[{"class_fd_few": float(base[s] + shift[a] + noise * rng.randn())} for s in range(seeds)]
                for _ in range(2)] for a in arms}


def test_only_differences_beyond_t_under_every_judge_are_bold():
    arms = ["baseline", "far", "near"]
    v = values(arms, dict(baseline=0, far=-5, near=0), noise=0.3)
    text = report(arms, v, {a: [1.0] * 5 for a in arms})
    rows = {line.split(" minus ")[0]: text.splitlines()[i + 4] for i, line in enumerate(text.splitlines())
            if " minus " in line}
    assert "**-" in rows["far"] and "(5/5)" in rows["far"] and "**" not in rows["near"]
    v["far"][1] = v["baseline"][1]  # the second judge sees no difference
    text = report(arms, v, {a: [1.0] * 5 for a in arms})
    assert "**" not in text.split("far minus")[1].split("near minus")[0] and text.count("Student's t") == 1


def test_one_pair_has_no_interval():
    values = {a: [[dict(class_fd_few=v, fd=2 * v)]] for a, v in (("baseline", 5.0), ("utlo", 3.0))}
    text = report(["baseline", "utlo"], values, {"baseline": [1.0], "utlo": [2.0]})
    assert "nan" not in text and "+-" not in text and "**" not in text
    assert "| per-class FD, rare classes (primary) | -2 |" in text and "| seconds | 1 | 2 |" in text
    none_rare = {a: [[dict(class_fd=v[0][0]["fd"])]] for a, v in values.items()}
    assert "| per-class FD (primary) | 10 | 6 |" in report(list(values), none_rare, {a: [1.0] for a in values})


def test_best_has_columns_of_its_own():
    values = {a: [[dict(class_fd_few=v + s, fd=2.0) for s in range(3)]] for a, v in (("baseline", 5.0), ("utlo", 3.0))}
    best = {a: [[{**v, "fd": 1.0} for v in judge] for judge in judges] for a, judges in values.items()}
    seconds = {a: [1.0] * 3 for a in values}
    text = report(list(values), values, seconds, ["A note."], best)
    assert "| | baseline | baseline, best | UTLO (res_uc 4) | UTLO (res_uc 4), best |" in text
    assert "| FD | 2 +- 0 | 1 +- 0 | 2 +- 0 | 1 +- 0 |" in text and "A note." in text
    assert "| | judge 0 | judge 0, best |" in text
