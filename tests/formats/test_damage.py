# SPDX-License-Identifier: Apache-2.0
"""Damaged files of arrays, JSON and training states: one line, and caches are said once and made again."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dnnlib import json_file
from dnnlib.util import UserError, printable
from gantransfer import training_state
from gantransfer.formats import npz
from gantransfer.formats.pickle_machine import Refused
from gantransfer.latent import cache
from gantransfer.metrics import stats
from gantransfer.metrics.fid import Moments
from tests.chaos.corpus import Call, arrays


def test_arrays_are_what_numpy_wrote(tmp_path):
    given = dict(a=np.arange(6.0).reshape(2, 3), b=np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3)),
                 c=np.array("text"), d=np.float32(3), e=np.zeros((0, 5)), f=np.array([True]))
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **given)
        for got in (npz.read(tmp_path / "a.npz"), npz.read((tmp_path / "a.npz").read_bytes())):
            assert set(got) == set(given)
            assert all(np.array_equal(got[k], v) and got[k].dtype == np.asarray(v).dtype for k, v in given.items())
            assert got["a"].flags.writeable


def test_arrays_that_lie():
    for what, data in arrays().items():
        try:
            npz.read(data)
        except Refused as e:
            assert str(e).isprintable(), what
        else:
            pytest.fail(f"{what}: it was read")


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


def test_a_damaged_block_of_latents_is_said_and_made_again(tmp_path, capsys):
    ae, path = SimpleNamespace(slots=1, w_dim=3), tmp_path / "000000.npz"
    good = dict(w=np.zeros([4, 1, 3], "f4"), recon=np.zeros([4, 2], "f4"), seconds=1.5)
    np.savez(path, **good)
    assert cache._block(path, 4, ae)["w"].shape == (4, 1, 3)
    for change in (dict(w=np.zeros([4, 1, 2], "f4")), dict(w=np.zeros([3, 1, 3], "f4")), dict(recon=np.zeros(4))):
        np.savez(path, **{**good, **change})
        assert cache._block(path, 4, ae) is None and not path.exists()
        assert capsys.readouterr().err.count("encoding these images again") == 1
    path.write_bytes(b"PK\x03\x04")
    assert cache._block(path, 4, ae) is None and not path.exists()


def test_only_a_cache_of_our_own_name_is_replaced(tmp_path):
    assert cache.made_by_us(cache.default_path(tmp_path / "set.zip"))
    assert not cache.made_by_us(tmp_path / "notes.npz")
    (tmp_path / "notes.npz").write_text("notes")
    with pytest.raises(cache.Damaged, match="--overwrite"):
        cache.read(tmp_path / "notes.npz")


def state() -> dict:
    return dict(format=training_state.FORMAT, version=1, method="m", stage="main", cur_nimg=4, index=1, tick=2,
                elapsed=1.5, nets={"G": {"w": torch.zeros(2)}}, records={"G": ["a.C", {}]}, opts=[], method_state={},
                stats={})


@pytest.mark.parametrize("change", [
    dict(nets=3), dict(nets={"G": {"w": 1}}), dict(nets={"D": {}}), dict(records={"G": 1}), dict(cur_nimg="4"),
    dict(cur_nimg=-1), dict(index=2**62), dict(tick=True), dict(method=None), dict(opts={}), dict(stats=[])])
def test_training_states_are_checked(tmp_path, change):
    path = tmp_path / "training-state-000001.pt"
    torch.save(state(), path)
    assert training_state.read(path)["nets"]["G"]["w"].tolist() == [0, 0]
    torch.save({**state(), **change}, path)
    with pytest.raises(UserError, match="is damaged.*continues from the state before"):
        training_state.read(path)


def test_training_states_do_not_run_and_are_whole(tmp_path):
    path = tmp_path / "training-state-000001.pt"
    torch.save({**state(), "stats": Call(os.mkdir, str(tmp_path / "written"))}, path)
    with pytest.raises(UserError, match="mkdir"):
        training_state.read(path)
    torch.save(state(), path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match="cannot be read as a training state"):
        training_state.read(path)
    assert not (tmp_path / "written").exists()
    with pytest.raises(UserError, match="does not fit this run .no 'x'"), training_state.applied(path):
        {}["x"]


@pytest.mark.parametrize("text, said", [(b"{", "not valid JSON"), (b"[" * 99_999, "nested too deeply"),
                                        (b"\xff", "not valid JSON"), (b"[]", "holds a list"), (b"9" * 9999, "digits")])
def test_json_is_one_line(tmp_path, text, said):
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(UserError, match=said) as e:
        json_file.read(tmp_path / "a.json", remedy="make it again")
    assert "a.json" in str(e.value) and str(e.value).endswith("make it again")


def test_json_lines_leave_out_what_is_torn(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"a": 1}\n{"b"\n[3]\n\xff\n' + b"[" * 99_999 + b'\n{"c": 2}\n{"d": 4')
    assert json_file.lines(tmp_path / "a.jsonl") == [{"a": 1}, {"c": 2}] and json_file.lines(tmp_path / "none") == []


def test_messages_are_one_printable_line():
    assert str(UserError("a\nb\x1b[2J\udcff")) == "a\\nb\\x1b[2J\\udcff" and printable("ü €") == "ü €"
    with pytest.raises(Refused) as e:
        npz.read(b"PK\n\x00")
    assert str(e.value).isprintable()


def test_text_of_an_npz_that_is_no_text_is_refused(tmp_path):
    import io
    import zipfile

    import numpy as np

    from gantransfer.formats import npz
    from gantransfer.formats.pickle_machine import Refused

    for order in "<>":
        out = io.BytesIO()
        np.lib.format.write_array(out, np.array("ab", f"{order}U2"), version=(1, 0))
        good = out.getvalue()
        for data, refused in ((good, False), (good[:-8] + b"\xff" * 8, True)):
            with zipfile.ZipFile(tmp_path / "x.npz", "w") as z:
                z.writestr("a.npy", data)
            if refused:
                with pytest.raises(Refused, match="no characters"):
                    npz.read(tmp_path / "x.npz")
            else:
                assert npz.read(tmp_path / "x.npz")["a"] == "ab"
