# SPDX-License-Identifier: Apache-2.0
"""Hostile files of networks: nothing in them runs or is written, the message says why. More of them, and bounds of time
and memory: tests/chaos/corpus.py."""

import os
import pickle

import pytest
import torch

from dnnlib.util import UserError
from gantransfer.importers import load_any
from gantransfer.networks import stylegan2
from gantransfer.snapshot import NetRecord, Snapshot
from tests.chaos.corpus import Call, text
from tests.conftest import ROOT


def payloads(target) -> dict[str, tuple[bytes, str]]:
    """Pickles that make the folder `target` when an ordinary unpickler reads them, and what the refusal names."""
    path = str(target)
    q = pickle.dumps(path, protocol=2)[2:-1]
    calls = {"posix.mkdir": Call(os.mkdir, path), "posix.system": Call(os.system, f"mkdir '{path}'"),
             "eval": Call(eval, f"__import__('os').mkdir({path!r})")}
    return {
        **{f"{name} {k}": (pickle.dumps(call, protocol=k), name) for name, call in calls.items() for k in (2, 3, 4, 5)},
        "in a state dict": (pickle.dumps(dict(G=dict(w=Call(os.mkdir, path))), protocol=3), "posix.mkdir"),
        "dotted name": (b"\x80\x04" + text("builtins") + text("eval.__call__") + b"\x93" + text(
            f"__import__('os').mkdir({path!r})") + b"\x85R.", "builtins.eval.__call__"),
        "through an allowed module": (b"\x80\x04" + text("collections") + text("_sys.modules.os") + b"\x93.",
                                      "collections._sys.modules.os"),
        "old opcode": (b"(cos\nmkdir\nV" + path.encode() + b"\no.", "protocol 2 to 5"),
        "inst": (b"\x80\x02(V" + path.encode() + b"\nios\nmkdir\n.", "opcode UNICODE"),
        "extension": (b"\x80\x02\x82\x01.", "EXT1"),
        "buffer": (pickle.dumps(pickle.PickleBuffer(bytearray(b"x")), 5, buffer_callback=[].append), "NEXT_BUFFER"),
        "persistent id": (b"\x80\x02" + q + b"Q.", "BINPERSID"),
        "build": (b"\x80\x02ccollections\nOrderedDict\n)R}U\x09__class__cos\nsystem\nsb.", "SHORT_BINSTRING"),
        "storage": (pickle.dumps(Call(torch.storage._load_from_bytes, pickle.dumps(Call(os.mkdir, path)))),
                    "posix.mkdir"),
    }


@pytest.mark.parametrize("name", list(payloads("x")))
def test_payloads_are_named_and_do_not_run(name, tmp_path):
    target = tmp_path / "written"
    data, says = payloads(target)[name]
    path = tmp_path / "net.pkl"
    path.write_bytes(data)
    if name[-2:] in (" 2", " 3", " 4", " 5"):
        pickle.loads(data)
        target.rmdir()  # the payload works
    with pytest.raises(UserError) as e:
        load_any(path)
    assert says in str(e.value) and "\n" not in str(e.value)
    assert not target.exists() and sorted(p.name for p in tmp_path.iterdir()) == ["net.pkl"]


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_payloads_in_files_of_torch(legacy, own, tmp_path):
    target = tmp_path / "written"
    content = dict(format="gantransfer-snapshot", version=1) if own else {}
    torch.save({**content, "G": Call(os.mkdir, str(target)), "w": torch.zeros(3)}, tmp_path / "net.pth",
               _use_new_zipfile_serialization=not legacy)
    torch.load(tmp_path / "net.pth", weights_only=False)
    assert target.exists(), "the payload of this test does not work"
    target.rmdir()
    with pytest.raises(UserError, match="posix.mkdir"):
        load_any(tmp_path / "net.pth")
    assert not target.exists()


def test_a_live_module_of_another_class_is_refused_and_its_source_stays_data(tmp_path):
    """Old files store the source text of module classes; ours reads neither that nor the class."""
    for module, says in ((torch.nn.ReLU(), "no known kind"), (torch.nn.Tanh(), "activation.Tanh")):
        for legacy in (False, True):
            torch.save(dict(act=module, w=torch.zeros(2)), tmp_path / "x.pth",
                       _use_new_zipfile_serialization=not legacy)
            with pytest.raises(UserError, match=says):
                load_any(tmp_path / "x.pth")


def test_damaged_own_snapshots_are_refused(tmp_path):
    net = stylegan2.Generator(4, 0, 4, 8, 1, mapping_kwargs={"num_layers": 2},
                              synthesis_kwargs={"channel_base": 32, "channel_max": 4})
    good = dict(format="gantransfer-snapshot", version=1, method="stylegan2", stage="main", options={}, data={},
                cur_nimg=0, extra={}, nets=dict(G_ema=dict(cls=NetRecord.of(net).cls, kwargs=net.init_kwargs,
                                                           state=dict(net.state_dict()))))
    path = tmp_path / "x.pkl"
    torch.save(good, path)
    load_any(path).build("G_ema")
    for key, value in (("nets", 3), ("nets", {"G": 1}), ("nets", {"G": dict(cls=1, kwargs={}, state={})}),
                       ("nets", {"G": dict(cls="x", kwargs={}, state={"a": 1})}), ("options", []), ("version", "1"),
                       ("version", 0), ("cur_nimg", "many"), ("method", None), ("extra", None)):
        torch.save({**good, key: value}, path)
        with pytest.raises(UserError, match="damaged"):
            load_any(path)
    torch.save({k: v for k, v in good.items() if k != "data"}, path)
    with pytest.raises(UserError, match="damaged"):
        load_any(path)


def test_a_snapshot_of_every_past_version_loads():
    files = sorted((ROOT / "tests" / "fixtures").glob("snapshot_v*.pkl"))
    from gantransfer.snapshot import VERSION

    assert [f.stem for f in files] == [f"snapshot_v{i + 1}" for i in range(VERSION)]
    for f in files:
        snap = load_any(f)
        image = snap.build("G_ema")(torch.zeros(1, 4), torch.eye(2)[:1])
        assert isinstance(snap, Snapshot) and image.shape == (1, 1, 8, 8)


def test_older_contents_are_upgraded_in_one_place(monkeypatch):
    from gantransfer import snapshot

    monkeypatch.setattr(snapshot, "VERSION", 3)
    monkeypatch.setitem(snapshot.UPGRADES, 1, lambda c: {**c, "stage": c["stage"] + "-from1"})
    monkeypatch.setitem(snapshot.UPGRADES, 2, lambda c: {**c, "stage": c["stage"] + "-from2"})
    content = dict(version=1, stage="main", nets={}, method="m", options={}, data={}, cur_nimg=0, extra={})
    snap = snapshot.from_content(content, "x.pkl")
    assert (snap.stage, snap.version) == ("main-from1-from2", 3) and content["stage"] == "main"
