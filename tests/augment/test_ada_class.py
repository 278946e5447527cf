# SPDX-License-Identifier: Apache-2.0
"""A probability per class: the controller's moves, and the pipe with one p per sample."""

import pytest
import torch

from gantransfer.augment.ada import AUGPIPES, AdaController, AugmentPipe
from gantransfer.augment.ada_class import ENOUGH, ClassControllers


def signs(*pairs):
    return torch.tensor(pairs, dtype=torch.float64)


def test_one_class_is_ada_itself():
    rng = torch.Generator().manual_seed(0)
    ada, mine = AdaController(0.6, 4, 1.0), ClassControllers(1, 0.6, 4, 1.0)
    for _ in range(40):
        s = torch.where(torch.rand(64, generator=rng) < 0.82, 1.0, -1.0)
        ada.update(float(s.mean()), 16)
        mine.update(signs((float(s.sum()), 64)), 16)
        assert float(mine.p[0]) == pytest.approx(ada.p, abs=1e-12)
    assert ada.p > 0


def test_each_class_goes_its_own_way():
    m = ClassControllers(3, target=0.6, interval=4, kimg=1)
    for _ in range(5):
        m.update(signs((30, 30), (-30, 30), (18, 30)), 16)  # learnt by heart; not at all; on target
    assert m.p[0] == pytest.approx(5 * 64 / 1000) and m.p[1] == 0 and m.p[2] == 0


def test_a_rare_class_waits_until_its_mean_says_something_and_then_moves_as_far():
    m = ClassControllers(2, target=0.6, interval=4, kimg=1)
    for k in range(1, ENOUGH + 1):
        m.update(signs((63, 63), (1, 1)), 16)
        assert m.p[0] == pytest.approx(k * 64 / 1000)
        assert m.p[1] == pytest.approx(ENOUGH * 64 / 1000 if k == ENOUGH else 0)
    assert m.signs[1].tolist() == [0, 0] and m.images[1] == 0


def test_a_class_without_reals_keeps_its_p():
    m = ClassControllers(2, target=0.6, interval=4, kimg=1)
    for _ in range(9):
        m.update(signs((64, 64), (0, 0)), 16)
    assert m.p[0] > 0 and m.p[1] == 0


def test_batches_smaller_than_enough_are_judged_as_ada_judges_them():
    m = ClassControllers(1, target=0.6, interval=4, kimg=1)
    m.update(signs((4, 4)), 1)
    assert float(m.p[0]) == pytest.approx(4 / 1000)


def test_the_state_continues_it():
    a, b = ClassControllers(2, 0.6, 4, 1), ClassControllers(2, 0.6, 4, 1)
    a.update(signs((60, 60), (3, 3)), 16)
    b.load_state({k: v.clone() for k, v in a.state().items()})
    for m in (a, b):
        m.update(signs((0, 60), (14, 14)), 16)
    assert torch.equal(a.p, b.p) and torch.equal(a.signs, b.signs) and torch.equal(a.images, b.images)
    assert a.p[1] > 0


def test_numbers_that_are_not_finite_are_named():
    m = ClassControllers(2, 0.6)
    with pytest.raises(ValueError, match="class 1 is nan"):
        m.update(signs((1, 1), (float("nan"), 1)), 16)


@pytest.mark.parametrize("name", AUGPIPES)
def test_a_p_per_sample_that_is_the_same_everywhere_is_one_p(name):
    """The paper's transforms, bit for bit."""
    pipe = AugmentPipe(**AUGPIPES[name])
    x = torch.rand([6, 3, 24, 24], generator=torch.Generator().manual_seed(0)) * 2 - 1
    for p in (0.0, 0.37, 1.0):
        one, each = (pipe(x, rng=torch.Generator().manual_seed(5), p=q)
                     for q in (torch.tensor(p), torch.full([6], p)))
        assert torch.equal(one, each), p


def test_a_sample_with_p_0_stays_as_it_is_beside_others():
    pipe = AugmentPipe(**AUGPIPES["color"])
    x = torch.rand([8, 3, 16, 16], generator=torch.Generator().manual_seed(0)) * 2 - 1
    p = torch.tensor([0.0, 1.0] * 4)
    y = pipe(x, rng=torch.Generator().manual_seed(1), p=p)
    torch.testing.assert_close(y[::2], x[::2], rtol=0, atol=1e-6)
    assert all(not torch.allclose(a, b, atol=1e-3) for a, b in zip(y[1::2], x[1::2]))
