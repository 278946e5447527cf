# SPDX-License-Identifier: Apache-2.0
"""A few seconds of fuzzing, and the hostile corpus; `python -m tests.fuzz --seconds=600` runs longer."""

import functools
import json
import math
import subprocess
import sys

import pytest

from dnnlib.util import UserError
from gantransfer.data.labels import label_array, parse_label_file
from gantransfer.formats import inert_pickle
from tests.chaos import corpus, mutations
from tests.chaos.__main__ import MAX_MB
from tests.conftest import ROOT


@pytest.mark.slow
def test_mutated_files_load_or_are_refused():
    """A few inputs of every kind, in a process of its own."""
    figures = mutations.run(seconds=6, seed=1)
    assert figures["peak_mb"] < MAX_MB and figures["inputs"] >= 50 and figures["loaded"] > 0 and figures["refused"] > 0
    assert figures["uncaught"] == figures["executed"] == figures["over_1gb"] == 0


@pytest.mark.slow
def test_hostile_files_are_refused():
    figures = corpus.run()
    assert figures["peak_mb"] < MAX_MB and figures["files"] > 350 and figures["refused"] == figures["files"]
    assert figures["uncaught"] == figures["executed"] == figures["over_1gb"] == 0


READERS = {
    "uncaught": "def read(p):\n    raise ZeroDivisionError('boom')",
    "executed": "def read(p):\n    import os\n    os.system('true')",
    "unpickled": "def read(p):\n    import pickle\n    pickle.loads(b'cos\\nsystem\\n.')",
    "written": "def read(p):\n    open(p.parent.parent.parent / 'elsewhere', 'w').close()",
    "over_1gb": "def read(p):\n    len(b'x' * (1300 << 20))",
    "several lines": "def read(p):\n    raise type('E', (UserError,), {'__str__': lambda s: 'a\\nb'})()",
}


WATCHED = """
import os, sys
from pathlib import Path
from dnnlib.util import UserError
from tests.chaos import mutations, seeds
from tests.test_fuzz import READERS
good = b"abc" * 9
for what, text in READERS.items():
    if not os.fork():
        exec(text)
        seeds.make = lambda folder: {"bad": seeds.Seed("x.bin", good, lambda p: p.read_bytes() != good and read(p))}
        (Path(sys.argv[1]) / what).mkdir()
        mutations.work(0.3, 0, Path(sys.argv[1]) / what)
        os._exit(0)
    os.wait()
"""


def test_the_fuzzer_notices(tmp_path):
    done = subprocess.run([sys.executable, "-c", WATCHED, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for what in READERS:
        kind = {"unpickled": "executed", "written": "executed", "several lines": "uncaught"}.get(what, what)
        figures = json.loads((tmp_path / what / "figures.json").read_text())
        assert figures["counts"].get(kind, 0) > 0 and figures["done"], (what, done.stderr[-2000:])


def test_the_fuzzer_notices_the_end_of_its_worker(monkeypatch):
    monkeypatch.setattr(mutations, "ROOT", mutations.ROOT / "tests")  # where no worker can start
    assert mutations.run(seconds=1)["uncaught"] > 0


hypothesis = pytest.importorskip("hypothesis", reason="needs hypothesis (extra `dev`)")
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

quick = settings(max_examples=150, deadline=None, database=None, derandomize=True,
                 suppress_health_check=list(HealthCheck))

@quick
@given(st.lists(st.sampled_from(mutations.OPCODES), max_size=40))
def test_any_sequence_of_opcodes_is_data_or_refused(parts):
    try:
        inert_pickle.load(b"\x80\x04" + b"".join(parts) + b".")
    except inert_pickle.Refused as e:
        assert "\n" not in str(e)


@quick
@given(st.binary(max_size=200))
def test_any_bytes_are_data_or_refused(data):
    for start in (b"", b"\x80\x02", b"\x80\x04"):
        try:
            inert_pickle.load(start + data)
        except inert_pickle.Refused as e:
            assert "\n" not in str(e)
        inert_pickle.names_in(start + data)


# All but surrogates; text() alone first looks through every character for those of UTF-8, for seconds.
text = functools.partial(st.text, st.characters(exclude_categories=["Cs"]))
values = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | text(max_size=5),
                      lambda v: st.lists(v, max_size=4) | st.dictionaries(text(max_size=4), v, max_size=3),
                      max_leaves=12)
rows = st.lists(st.tuples(text(max_size=4), values).map(list) | values, max_size=5)


@quick
@given(st.fixed_dictionaries({"labels": rows | values}, optional={"class_names": values, "meta": values}) | values)
def test_any_label_file_is_labels_or_refused(content):
    content = json.loads(json.dumps(content))
    try:
        parsed = parse_label_file(content, "dataset.json")
        if parsed.labels:
            kind, array = label_array(list(parsed.labels), list(parsed.labels.values()), "dataset.json")
            assert kind in ("class", "value") and len(array) == len(parsed.labels)
            assert all(math.isfinite(v) for v in array.reshape(-1).tolist())
    except UserError as e:
        assert len(str(e)) < 2000
