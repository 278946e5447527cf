# SPDX-License-Identifier: Apache-2.0
"""Damaged caches of statistics are said once and made again; messages are one printable line."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dnnlib.util import UserError, printable
from gantransfer.formats import npz
from gantransfer.formats.pickle_machine import Refused
from gantransfer.metrics import stats
from gantransfer.metrics.fid import Moments


def test_a_damaged_cache_of_statistics_is_said_and_made_again(tmp_path, capsys):
    ctx, key = SimpleNamespace(cache_dir=tmp_path), "k" * 64
    chosen = SimpleNamespace(data=SimpleNamespace(spec=SimpleNamespace(name="x")), __len__=lambda s: 5)

    class Chosen(list):
        data = chosen.data

    m = Moments(5, torch.zeros(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64))
    stats._save_cached(ctx, key, stats.FeatureSet(5, 3, _moments=m), False, Chosen(range(5)))
    [path] = tmp_path.iterdir()
    assert torch.equal(stats._load_cached(ctx, key, False).moments.scatter, m.scatter)
    whole = path.read_bytes()
    good = {k: np.asarray(v) for k, v in npz.read(path).items()}
    for damage in (whole[:200], b"", whole[:-30] + bytes(30), dict(good, mean=np.zeros(2)),
                   dict(good, num=np.int64(-1)),
                   dict(good, scatter=np.full((3, 3), np.nan)), dict(good, header=np.array("{"))):
        if isinstance(damage, dict):
            np.savez(path, **damage)
        else:
            path.write_bytes(damage)
        assert stats._load_cached(ctx, key, False) is None
        assert capsys.readouterr().err.count("computing them again") == 1


def test_messages_are_one_printable_line():
    assert str(UserError("a\nb\x1b[2J\udcff")) == "a\\nb\\x1b[2J\\udcff" and printable("ü €") == "ü €"
    with pytest.raises(Refused) as e:
        npz.read(b"PK\n\x00")
    assert str(e.value).isprintable()
