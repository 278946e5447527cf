# SPDX-License-Identifier: Apache-2.0
"""The processes of one attempt agree on a name, whatever earlier attempts have left in the store."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch.distributed as dist

from torch_utils import rendezvous


def agree(store, ranks, size=3, seconds=20.0):
    with ThreadPoolExecutor(size) as pool:
        return [f.result() for f in [pool.submit(rendezvous.agree, store, r, size, seconds) for r in ranks]]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_all_have_one_name_and_each_attempt_another(order):
    store, names = dist.HashStore(), []
    for _ in range(3):
        found = agree(store, order)
        assert len(set(found)) == 1
        names.append(found[0])
    assert len(set(names)) == 3


def test_the_words_of_a_killed_attempt_are_not_taken_for_new_ones():
    """A rank said hello and was killed; rank 0 answers it, and waits for the one that lives."""
    store = dist.HashStore()
    store.set("hello/1", "of the past")
    store.set("answer/of the past", "an old name")
    found = agree(store, (0, 1), size=2)
    assert found[0] == found[1] != "an old name"


@pytest.mark.parametrize("present, absent", [(0, "rank 1"), (1, "rank 0")])
def test_who_does_not_come_is_named(present, absent):
    with pytest.raises(RuntimeError, match=f"no sign of {absent}"):
        agree(dist.HashStore(), [present], size=2, seconds=0.3)
