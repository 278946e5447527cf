# SPDX-License-Identifier: Apache-2.0
"""A batch on one process or on two: equal losses, gradients and running statistics at equal weights, to rounding; and
what else two processes have in common. They are started once for all tests."""

import numpy as np
import pytest
import torch

from tests import split_batch
from tests.conftest import ROOT
from tests.test_continued import folder  # noqa: F401
from torch_utils import distributed as dist
from torch_utils import random as rnd

pytestmark = pytest.mark.skipif(dist.cpu_cores() < 2, reason="two processes need two CPU cores")


@pytest.fixture(scope="module")
def ranks(folder):  # noqa: F811
    """What each of two processes found (split_batch.main)."""
    names = list(split_batch.CASES)
    split_batch.run(folder, 1, names)
    env = dict(PYTHONPATH=str(ROOT), GANTRANSFER_DIST_TIMEOUT="60")
    assert dist.launch(2, ["-m", "tests.split_batch", str(folder), *names], kind="cpu", env=env) == 0
    return torch.load(folder / "ranks.pt", weights_only=False)  # our own


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one_in_every_method(ranks, folder):  # noqa: F811
    one, two = (torch.load(folder / f"{w}.pt", weights_only=True) for w in (1, 2))
    assert one.keys() == two.keys() == split_batch.CASES.keys()
    for name in one:
        for a, b in zip(one[name], two[name], strict=True):
            assert a["means"].keys() == b["means"].keys() and a["means"]
            for key, value in a["means"].items():
                assert b["means"][key] == pytest.approx(value, rel=1e-4, abs=1e-5), (name, key)
            for k, (g, h) in enumerate(zip(a["gradients"], b["gradients"], strict=True)):
                # The largest difference may be that of an activation at a kink; a fault is not of single numbers.
                assert (g - h).norm() <= 5e-2 * g.norm(), (name, k, float((g - h).norm() / g.norm()))
                assert float((g - h).abs().median()) <= 1e-5 * float(g.abs().max()), (name, k)
            for key, t in a["buffers"].items():
                assert torch.allclose(b["buffers"][key], t, rtol=1e-3, atol=1e-5), (name, key)


def test_metrics_of_two_processes_are_those_of_one(ranks, folder):  # noqa: F811
    """Real statistics to 1e-12, metrics of generated images likewise, errors on all ranks alike."""
    one, (two, other) = split_batch.metrics(folder, 1), [r["metrics"] for r in ranks]
    assert two["lines"] == other["lines"] and two["error"] == other["error"] == one["error"]
    assert "more than 3 rows" in one["error"]
    for scatter in (two["scatter"], other["scatter"]):
        torch.testing.assert_close(scatter, one["scatter"], rtol=1e-12, atol=0)
    for a, b in zip(one["lines"], two["lines"], strict=True):
        assert a == {k: pytest.approx(v, rel=1e-9, abs=1e-12) for k, v in b.items()}


def test_ranks_agree_on_names_and_figures_of_reports(ranks):
    first, second, restored = ranks[0]["reports"]
    assert ranks[1]["reports"] == [first, second, restored]
    both = np.array([0, 1, 2, 10, 11, 12.0])
    assert first["both"] == pytest.approx({"num": 6, "mean": both.mean(), "std": both.std()})
    assert first["only0"]["mean"] == 1 and first["only1"]["mean"] == 11 and first["only1"]["num"] == 3
    assert second["both"]["num"] == 2 and second["both"]["mean"] == 1.5 and second["only1"] == first["only1"]
    assert restored["both"]["num"] == 2 and restored["both"]["mean"] == 1.5, "pending values of all ranks count once"


def test_two_processes_that_replay_train_as_two_that_do_not(ranks):
    """The sum of gradients, and of running means, stays outside the recordings. (What one process trains is the same to
    rounding, which some steps of Adam make large: the gradients above are compared step by step.)"""
    for rank in ranks:
        assert rank["recorded"]["replays"] == 6
        replayed, eager = rank["recorded"]["networks"]
        torch.testing.assert_close(replayed, eager)


def test_shares_of_a_batch_draw_what_the_whole_batch_does():
    def draws(share):
        rng = rnd.step_generator(1, 2, share=share)
        n = 8 // share[1]
        twice = rnd.twin(rng)
        out = dict(z=rnd.randn([n, 3], rng), pair=rnd.rand([2 * n], rng), k=rnd.randint(0, 99, [n, 2], rng),
                   one=rnd.rand([], rng), common=rnd.randn([5], rng, common=True), seed=rnd.rand([n], rnd.derived(rng)),
                   part=rnd.of_whole(n, rng, lambda m: torch.rand(m, generator=rng)), twin=rnd.randn([n, 3], twice))
        net = torch.nn.Sequential(torch.nn.Dropout(0.5)).train()
        with rnd.dropout(rng, net):
            out["dropout"] = net(torch.ones(n, 4))
        assert "forward" not in vars(net[0])
        return out

    whole, parts = draws((0, 1)), [draws((k, 4)) for k in range(4)]
    assert torch.equal(whole["z"], whole["twin"])
    for key, t in whole.items():
        for k, p in enumerate(parts):
            assert torch.equal(p[key], t if key in ("one", "common") else t[k::4]), key


def test_the_rounds_of_all_processes_have_the_rows_of_one_process(tiny_zip, monkeypatch):
    """Round r of two processes has the rows of round r of one: what looks across a round sees the same images."""
    from gantransfer.training_loop import Stepper
    from tests.test_training_loop import build

    def rows(world, batch_gpu):
        monkeypatch.setattr(dist, "world_size", lambda: world)
        rounds = {}
        for rank in range(world):
            monkeypatch.setattr(dist, "rank", lambda rank=rank: rank)
            m, _, config = build(tiny_zip, run=dict(batch=16, batch_gpu=batch_gpu))
            s = Stepper(m, config)
            for r, k in enumerate(s.micro):
                rounds.setdefault(r, set()).update(range(k, 16, s.shares))
        return rounds

    assert rows(1, 16) == rows(2, 8) == {0: set(range(16))}
    assert rows(1, 8) == rows(2, 4) == rows(4, 2) == {0: set(range(0, 16, 2)), 1: set(range(1, 16, 2))}
