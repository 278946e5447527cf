# SPDX-License-Identifier: Apache-2.0
"""Pickles read without running them: plain data come back, and the rest is refused or becomes words."""

import argparse
import datetime
import pathlib
import pickle
import struct
import tracemalloc
import types

import numpy as np
import pytest
import torch

from gantransfer.formats import inert_pickle
from gantransfer.formats.pickle_machine import Budget, Refused
from tests.chaos.corpus import PICKLES, name

SHARED = ["part"]
PLAIN = [None, True, False, 0, -1, 255, 256, 65536, -(2**31), 2**63 - 1, 2**100, 1.5, float("inf"), "", "a", "ü\n€",
         b"", b"x" * 300, "y" * 300, "z" * 70_000, [], [1, [2, (3, {"a": {4.5: None}})]], (), (1,), (1, 2), (1, 2, 3),
         (1, 2, 3, 4), {"b"}, frozenset((1,)), {"k": [set(), frozenset()]}, [1] * 3000, dict.fromkeys(range(3000))]
PLAIN.append([SHARED, SHARED, {"x": SHARED}])
EXTRAS = dict(
    path=pathlib.PurePosixPath("/data/set.zip"), windows=pathlib.PureWindowsPath("C:\\data\\set"),
    here=pathlib.Path("a"),
    when=datetime.datetime(2024, 1, 2, tzinfo=datetime.timezone(datetime.timedelta(hours=1))),
    day=datetime.date(2024, 1, 2), took=datetime.timedelta(seconds=3), at=datetime.time(1, 2),
    run=types.SimpleNamespace(a=1, b=types.SimpleNamespace()), args=argparse.Namespace(lr=0.1),
    device=torch.device("cuda", 1), cpu=torch.device("cpu"), dtype=torch.float16, half=torch.bfloat16,
    layout=torch.strided, z=1 + 2j, rows=range(3), names=frozenset({"a"}), cut=slice(1, 2))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("value", PLAIN, ids=lambda v: repr(v)[:20])
def test_plain_data_is_what_python_pickled(value, protocol):
    assert inert_pickle.load(pickle.dumps(value, protocol)) == value


def test_shared_parts_stay_shared():
    made = inert_pickle.load(pickle.dumps([SHARED, SHARED]))
    assert made[0] is made[1]


@pytest.mark.parametrize("what", PICKLES)
def test_a_small_file_asks_for_little(what):
    """Memory is measured; time is bounded by the number of instructions: without that `endless` never ends."""
    assert Budget.of_file(len(PICKLES[what])).steps <= 1_000_000
    if what != "endless":
        tracemalloc.start()
    try:
        with pytest.raises(Refused) as e:
            inert_pickle.load(PICKLES[what])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(e.value).isprintable() and len(str(e.value)) < 300
    assert peak < 100 * 2**20


def test_the_budget_is_one_for_the_whole_file():
    """Many things that are small each: together they are more than the file pays for."""
    some = b"h\x01\x85R"
    calls = b"".join(name(*f) + some for f in (("builtins", "list"), ("builtins", "set"), ("torch", "Size")) * 3)
    data = b"\x80\x02](" + b"".join(b"K" + bytes([k]) for k in range(200)) + b"eq\x010](" + calls + b"e."
    budget = Budget(64 * 200 * 8)
    with pytest.raises(Refused, match="more memory"):
        inert_pickle.read(data, 0, inert_pickle.stand_ins(budget), budget=budget)
    budget = Budget(64 * 200 * 9)
    assert len(inert_pickle.read(data, 0, inert_pickle.stand_ins(budget), budget=budget)[0]) == 9


def test_instructions_of_nested_storages_count():
    inner = pickle.dumps(list(range(1000)), 2)
    data = b"\x80\x02B" + struct.pack("<I", len(inner)) + inner + b"q\x010](" + (
        name("torch.storage", "_load_from_bytes") + b"h\x01\x85R") * 50 + b"e."
    with pytest.raises(Refused):
        inert_pickle.load(data)


def test_plain_copies_are_bounded():
    for value in ({"a": "x" * (2**24 + 1)}, {(1, 2): 3}, 2**64, [0] * 100_001, {"a": np.zeros(1)}):
        with pytest.raises(Refused):
            inert_pickle.plain(value)
    assert inert_pickle.plain({1: (2, "a"), None: 1.5}) == {"1": [2, "a"], "None": 1.5}


def test_nothing_is_imported(monkeypatch):
    monkeypatch.setattr("builtins.__import__", lambda *a, **k: pytest.fail(f"imported {a[0]}"))
    with pytest.raises(Refused, match="refers to nowhere.nothing"):
        inert_pickle.load(b"\x80\x02cnowhere\nnothing\n)R.")


def test_stand_ins_cannot_be_changed(tmp_path):
    """BUILD on a function or class of ours would reach into this process."""
    before = dict(vars(inert_pickle._Dict)), dict(vars(inert_pickle._Call))
    for opcodes in (b"\x80\x02ccollections\nOrderedDict\nN}X\x01\x00\x00\x00ax\x01\x00\x00\x00as\x86b.",
                    b"\x80\x02ccollections\nOrderedDict\n}X\x01\x00\x00\x00aK\x01sb.",
                    b"\x80\x02cdnnlib.util\nEasyDict\n}X\x01\x00\x00\x00aK\x01sb.",
                    b"\x80\x02cdnnlib.util\nEasyDict\n)\x81}X\x01\x00\x00\x00aK\x01sb."):
        with pytest.raises(inert_pickle.Refused):
            inert_pickle.load(opcodes)
    assert before == (dict(vars(inert_pickle._Dict)), dict(vars(inert_pickle._Call)))


def test_such_objects_become_words_and_do_nothing():
    read = {k: inert_pickle.load(pickle.dumps(v)) for k, v in EXTRAS.items()}
    assert read["path"] == "/data/set.zip" and read["windows"] == "C:\\data/set" and read["here"] == "a"
    assert read["device"] == "cuda:1" and read["dtype"] == "torch.float16" and read["layout"] == "torch.strided"
    assert isinstance(read["run"], inert_pickle.Opaque) and read["run"].state == dict(a=1, b=read["run"].state["b"])
    assert inert_pickle.settings(dict(a=read["when"], b=[read["run"]])) == dict(a="<datetime.datetime>",
                                                                                b=["<types.SimpleNamespace>"])
    with pytest.raises(inert_pickle.Refused, match="Opaque|datetime"):
        inert_pickle.plain(read["when"])
    for opcodes in (b"\x80\x02ctorch\nfloat16\n}X\x01\x00\x00\x00aK\x01sb.", b"\x80\x02ctorch\nfloat16\n)R.",
                    b"\x80\x02cpathlib\nPosixPath\n}X\x01\x00\x00\x00aK\x01sb.",
                    b"\x80\x02cpathlib\nPosixPath\nK\x01\x85R."):
        with pytest.raises(inert_pickle.Refused):
            inert_pickle.load(opcodes)
