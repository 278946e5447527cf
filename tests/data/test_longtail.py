# SPDX-License-Identifier: Apache-2.0
"""Which images a long-tailed split keeps, in which order, and its groups of classes."""

import random

import numpy as np
import pytest

from dnnlib.util import UserError
from gantransfer.data import longtail
from gantransfer.data.longtail import Options, make_split


def labels_of(counts, seed: int = 0) -> dict[str, int]:
    ids = np.random.RandomState(seed).permutation(np.repeat(np.arange(len(counts)), counts)).tolist()
    return {f"00000/img{i:08d}.png": k for i, k in enumerate(ids)}


COUNTS = (30, 55, 40, 40, 60)


def counts_of(split) -> list[int]:
    return [len(split.kept[k]) for k in split.order]


def test_published_profiles():
    for n_max, num, imf, total in ((5000, 10, 100, 12406), (5000, 10, 50, 13996), (5000, 10, 10, 20431),
                                   (500, 100, 100, 10847), (500, 100, 50, 12608), (50000, 5, 1000, 60803)):
        assert sum(longtail.profile(n_max, num, imf)) == total
        assert longtail.profile(n_max, num, imf, True) == longtail.profile(n_max, num, imf)[::-1]
    assert longtail.profile(5000, 10, 100) == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]


def test_orders_and_counts():
    labels = labels_of(COUNTS)

    def order(name: str) -> list[int]:
        return make_split(labels, Options(imf=10, order=name)).order

    assert order("count") == [4, 1, 2, 3, 0]  # ties by label
    assert order("label") == [0, 1, 2, 3, 4] and order("label-desc") == [4, 3, 2, 1, 0]
    assert order("file") == list(dict.fromkeys(labels.values()))
    assert sorted(order("random")) == [0, 1, 2, 3, 4]
    assert len({tuple(make_split(labels, Options(imf=10, order="random", seed=s)).order) for s in range(20)}) > 5
    split = make_split(labels, Options(imf=10))
    assert counts_of(split) == longtail.profile(60, 5, 10) == [60, 33, 18, 10, 6]
    assert split.new_label == {4: 0, 1: 1, 2: 2, 3: 3, 0: 4}
    split = make_split(labels, Options(imf=10, reverse=True))
    assert counts_of(split) == [6, 10, 18, 33, 30]  # class 0 has no more than 30
    assert counts_of(make_split(labels, Options(imf=10, n_max=20))) == longtail.profile(20, 5, 10)


def test_selection_is_seeded_nested_and_independent_of_the_file_order():
    labels = labels_of(COUNTS)
    shuffled = list(labels.items())
    random.Random(1).shuffle(shuffled)
    a = make_split(labels, Options(imf=10))
    assert a.labels == make_split(dict(shuffled), Options(imf=10)).labels == make_split(labels, Options(imf=10)).labels
    b = make_split(labels, Options(imf=10, seed=1))
    assert a.labels != b.labels and counts_of(a) == counts_of(b)
    smaller = make_split(labels, Options(imf=30))
    for k in range(5):
        assert set(smaller.kept[k]) <= set(a.kept[k]) <= {n for n, v in labels.items() if v == k}
    names = [n for n, _ in a.labels]
    assert len(set(names)) == len(names) == sum(counts_of(a))


def test_selection_is_the_same_everywhere():
    """Written down once: a split must not change with NumPy or with this code."""
    split = make_split(labels_of((8, 8, 8)), Options(imf=4, order="random", seed=7))
    assert split.order == [1, 0, 2]
    assert [[int(n[-6:-4]) for n in split.kept[k]] for k in split.order] == [
        [0, 1, 3, 6, 9, 16, 22, 23], [10, 14, 19, 20], [4, 15]]


def test_no_class_disappears():
    labels = labels_of(COUNTS)
    split = make_split(labels, Options(imf=1000))
    assert counts_of(split)[-1] == 1
    assert min(counts_of(make_split(labels, Options(imf=1000, min_per_class=7)))) == 7
    assert counts_of(make_split(labels_of((50, 3)), Options(imf=1000, min_per_class=7))) == [50, 3]


def test_groups():
    ten = labels_of((50,) * 10)
    assert make_split(ten, Options(imf=20)).shots == {"many": (0, 1, 2), "medium": (3, 4, 5), "few": (6, 7, 8, 9)}
    assert make_split(ten, Options(imf=20, reverse=True)).shots == {
        "few": (0, 1, 2, 3), "medium": (4, 5, 6), "many": (7, 8, 9)}
    assert make_split(ten, Options(imf=20, shots=(0, 1, 2))).shots["medium"] == (1,)
    assert make_split(ten, Options(imf=20, shots=(0, 1, 2, 10))).shots["few"] == tuple(range(2, 10))
    kept = make_split(ten, Options(imf=20, order="label-desc", keep_labels=True))
    assert kept.shots == {"many": (7, 8, 9), "medium": (4, 5, 6), "few": (0, 1, 2, 3)}
    assert {k for _, k in kept.labels} == set(range(10)) and kept.new_label == {k: k for k in range(10)}
    assert make_split(labels_of((5,) * 20), Options(imf=2, dname="animals")).shots["medium"] == (5, 6, 7, 8, 9)
    # A natural tail is grouped by its counts.
    natural = make_split(labels_of((150, 30, 5, 120, 19)), Options())
    assert natural.order == [0, 3, 1, 4, 2] and natural.shots == {"many": (0, 1), "medium": (2,), "few": (3, 4)}
    assert counts_of(natural) == [150, 120, 30, 19, 5]
    for bad in ((0, 3), (1, 3, 6), (0, 6, 3), (0, 3, 10), (0, 0, 3)):
        with pytest.raises(UserError, match="--shots"):
            make_split(ten, Options(imf=20, shots=bad))


def test_legacy_rules_written_out():
    labels = {f"{i}.png": k for i, k in enumerate([2, 0, 1, 1, 2, 0, 0, 2, 1, 3])}  # 0, 1, 2 tie; 2 is seen first
    files, order, counts = longtail.legacy_files(labels, "animals", 3, False, True, 5)
    assert order == [1, 0, 2, 3] and counts == [3, 2, 1, 1]
    assert set(files) == {"lt_3.json", "class_0_4.json", "class_5_9.json", "class_10_19.json"}
    assert set(files["lt_3.json"]) == {"labels"}
    assert [k for _, k in files["lt_3.json"]["labels"]] == [0, 0, 0, 1, 1, 2, 3]
    rng = np.random.RandomState(5)
    names = ["2.png", "3.png", "8.png"]
    rng.shuffle(names)
    assert [n for n, k in files["lt_3.json"]["labels"] if k == 0] == names
    files, order, counts = longtail.legacy_files(labels, "cifar10", 3, True, False, 0)
    assert order == [3, 2, 1, 0] and counts == [1, 1, 2, 3] and set(files) == {"lt_3_reverse.json"}
