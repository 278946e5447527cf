# SPDX-License-Identifier: Apache-2.0
"""Seeds of any size."""

import ast

import numpy as np
import torch

from dnnlib import seeding
from tests.commands.test_flags import LARGE
from tests.conftest import ROOT
from torch_utils import random as rnd


def test_small_seeds_give_the_numbers_of_numpy_and_torch():
    for s in (0, 1, 12345, 2**31, 2**32 - 1):
        assert seeding.number(s) == s
        assert np.array_equal(seeding.numpy_rng(s).randn(3), np.random.RandomState(s).randn(3))
        assert torch.equal(torch.randn(3, generator=rnd.generator(s)),
                           torch.randn(3, generator=torch.Generator().manual_seed(s)))
    words = np.random.SeedSequence([7, 3]).generate_state(2, np.uint32)
    assert rnd.step_generator(7, 3).initial_seed() == int(words[0]) << 32 | int(words[1])


def test_all_other_seeds_are_seeds_too_and_none_is_another():
    seeds = [0, 1, 2**32 - 1, *LARGE]
    assert len({seeding.number(s) for s in seeds}) == len(seeds)
    assert all(0 <= seeding.number(s) < 2**63 and seeding.number(s) >= 2**32 for s in LARGE)
    for make in (lambda s: seeding.numpy_rng(s).randint(2**31), lambda s: rnd.generator(s).initial_seed(),
                 lambda s: rnd.step_generator(s, 5).initial_seed(), lambda s: seeding.hashed_rng(s, 1).randint(2**31)):
        found = [make(s) for s in seeds]
        assert len(set(found)) == len(seeds) and found == [make(s) for s in seeds]


def test_generators_start_from_seeding_only():
    """NumPy's and torch's constructors take other ranges each: only constants may go to them directly."""
    allowed = {"dnnlib/seeding.py", "torch_utils/random.py"}
    files = [f for f in [*ROOT.glob("*.py"), *(f for d in ("gantransfer", "torch_utils", "dnnlib")
                                               for f in (ROOT / d).rglob("*.py"))]
             if f.relative_to(ROOT).as_posix() not in allowed]
    wrong = []
    for f in files:
        for node in ast.walk(ast.parse(f.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
                name, text = node.func.attr, ast.unparse(node.args[0])
                fine = isinstance(node.args[0], ast.Constant) or "seeding." in text or "randint(" in text or (
                    text in ("r", "layer", "1000 + fold"))  # sizes and places in a network, not seeds of the user's
                if name in ("RandomState", "SeedSequence", "manual_seed", "default_rng", "MT19937") and not fine:
                    wrong.append(f"{f.relative_to(ROOT)}:{node.lineno} {name}({text})")
    assert not wrong
