# SPDX-License-Identifier: Apache-2.0
"""Every study starts the same processes as the code that made the published tables (children.json), in the same order.
With experiments/demo.py and experiments/mind2mind.py.

`python -m tests.experiments.test_children` writes the file anew: for a change of a study that is meant.
"""

import json
import tempfile
from pathlib import Path

import pytest

from tests.experiments.recorder import CALLS, record

FILE = Path(__file__).with_name("children.json")


@pytest.fixture(scope="module")
def made():
    return {}  # data sets are made once for all calls


@pytest.mark.parametrize("study, flags", CALLS, ids=[" ".join([s, *f]) for s, f in CALLS])
def test_the_same_processes_as_before(study, flags, tmp_path, monkeypatch, made):
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    before = json.loads(FILE.read_text("utf-8"))[" ".join([study, *flags])]
    now = record(study, flags, tmp_path / "d", monkeypatch, made)
    assert list(map(by_flag, now)) == list(map(by_flag, before))


def by_flag(words: list[str]) -> list[str]:
    """Flags sorted by name, under one spelling; those of one name keep their order, of which the last counts."""
    pairs = [w.partition("=") for w in words]
    return [(n.replace("-", "_"), *rest) for n, *rest in sorted(pairs[1:], key=lambda p: p[0].replace("-", "_"))] + [
        words[0]]


def write() -> None:
    made: dict = {}
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch, open(FILE, "w") as f:
        found = [(" ".join([s, *flags]), record(s, flags, Path(folder) / str(i), patch, made))
                 for i, (s, flags) in enumerate(CALLS)]
        f.write("{\n" + ",\n".join(f"{json.dumps(name)}: [\n" + ",\n".join(f"  {json.dumps(c)}" for c in children) + "]"
                                   for name, children in found) + "}\n")


if __name__ == "__main__":
    write()
