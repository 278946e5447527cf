# SPDX-License-Identifier: Apache-2.0
"""What a stage of distill is: its settings change with the content of every file it uses, and not with its place."""

import dataclasses

import pytest

from gantransfer.commands.stages import settings
from gantransfer.data.dataset import ImageDataset
from gantransfer.method import RunConfig
from gantransfer.methods import DISTILL

FILES = [(m, f.name) for m in DISTILL.values() for f in dataclasses.fields(m.Options)
         if f.metadata["metavar"] in ("PATH", "SNAPSHOT")]


def test_these_are_the_files():
    assert {name for _, name in FILES} == {"teacher", "fakes", "test", "network", "extractor"}


@pytest.mark.parametrize("method, name", FILES)
def test_content_counts_and_place_does_not(method, name, tiny_zip, tmp_path):
    data = ImageDataset(tiny_zip, use_labels=True)
    (tmp_path / "a.pkl").write_bytes(b"one")
    (tmp_path / "b.pkl").write_bytes(b"one")
    config = staticmethod(lambda opts, run, spec: dict(options=dataclasses.asdict(opts)))

    def now(file):
        kind = type("Kind", (method,), dict(config=config))
        return settings(kind, method.Options(**{name: str(tmp_path / file)}), RunConfig(batch=8, kimg=1), data, "x")

    before = now("a.pkl")
    assert now("b.pkl") == before
    (tmp_path / "a.pkl").write_bytes(b"two")
    assert now("a.pkl") != before
