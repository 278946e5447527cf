# SPDX-License-Identifier: Apache-2.0
"""A folder of hostile files: nothing in them runs or is written, time and memory stay bounded, the message says why."""

from __future__ import annotations

import functools
import json
import os
import pickle
import resource
import struct
import subprocess
import sys
import time
import zipfile
import zlib

import numpy as np
import pytest
import torch

from dnnlib.util import UserError
from gantransfer.data.dataset import ImageDataset
from gantransfer.formats import inert_pickle, torch_file
from gantransfer.importers import load_any
from gantransfer.networks import stylegan2
from gantransfer.snapshot import NetRecord, Snapshot
from tests.conftest import ROOT, write_image_zip


class Call:
    def __init__(self, function, *args, state=None):
        self.value = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.value


def payloads(target) -> dict[str, tuple[bytes, str]]:
    """Pickles that make the folder `target` when an ordinary unpickler reads them, and what the refusal names."""
    path = str(target)
    q = pickle.dumps(path, protocol=2)[2:-1]
    calls = {"posix.mkdir": Call(os.mkdir, path), "posix.system": Call(os.system, f"mkdir '{path}'"),
             "eval": Call(eval, f"__import__('os').mkdir({path!r})")}
    return {
        **{f"{name} {k}": (pickle.dumps(call, protocol=k), name) for name, call in calls.items() for k in (2, 3, 4, 5)},
        "in a state dict": (pickle.dumps(dict(G=dict(w=Call(os.mkdir, path))), protocol=3), "posix.mkdir"),
        "dotted name": (b"\x80\x04" + _text("builtins") + _text("eval.__call__") + b"\x93" + _text(
            f"__import__('os').mkdir({path!r})") + b"\x85R.", "builtins.eval.__call__"),
        "through an allowed module": (b"\x80\x04" + _text("collections") + _text("_sys.modules.os") + b"\x93.",
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


def _text(text: str) -> bytes:
    """The opcode that pushes a text."""
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


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


def bounded(code: str, *args, seconds: float = 60, mib: int = 600) -> str:
    """Run code in a process of its own that may use `mib` more memory than torch needs; its output."""
    script = (f"import resource, sys; import torch\nfrom gantransfer.importers import load_any\n"
              f"from gantransfer.formats import inert_pickle\nfrom dnnlib.util import UserError\nload_any; "
              f"base = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
              f"resource.setrlimit(resource.RLIMIT_AS, (base + {mib} * 2**20,) * 2)\n{code}")
    start = time.monotonic()
    out = subprocess.run([sys.executable, "-c", script, *map(str, args)], cwd=ROOT, capture_output=True, text=True,
                         timeout=seconds)
    assert out.returncode == 0, out.stderr[-2000:]
    assert time.monotonic() - start < seconds
    return out.stdout


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs /proc")
def test_bombs_stay_small(tmp_path):
    """Every file is small; what it asks for is not."""
    zeros = torch.zeros(4)
    own = dict(format="gantransfer-snapshot", version=1, method="stylegan2", stage="main", options={}, data={},
               cur_nimg=0, extra={})
    cls = "gantransfer.networks.stylegan2.Generator"
    sizes = dict(z_dim=8, c_dim=0, w_dim=8, img_resolution=16, img_channels=3)
    storage = torch.storage.TypedStorage(wrap_storage=zeros.untyped_storage(), dtype=torch.float32, _internal=True)
    files = {
        "stride.pkl": pickle.dumps(Call(torch._utils._rebuild_tensor_v2, storage, 0, (1000,) * 3, (0,) * 3, False, {})),
        "memo.pkl": b"\x80\x03}r\xff\xff\xff\x7f.",
        "length.pkl": b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"x.",
        "long.pkl": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"x.",
        "frame.pkl": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N.",
        "deep.pkl": b"\x80\x02" + b"]" * 900_000 + b"a" * 899_999 + b".",
        "tuples.pkl": b"\x80\x02)" + b"\x85" * 900_000 + b".",
        "twice.pkl": pickle.dumps(functools.reduce(lambda inner, _: [inner, inner], range(64), [])),
        "many.pkl": b"\x80\x02" + b"N0" * 600_000 + b"N.",
        "header.safetensors": struct.pack("<Q", 2**40) + b"{",
        "tensor.safetensors": (h := json.dumps(dict(a=dict(dtype="F32", shape=[2**40], data_offsets=[0, 2**42]))
                                               ).encode()) and struct.pack("<Q", len(h)) + h,
        "nested.safetensors": struct.pack("<Q", 200_001) + b"{" + b"[" * 200_000,
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    torch.save({"": zeros.expand(10**6, 10**6, 4)}, tmp_path / "stride.pth")
    torch.save({**own, "nets": {"G_ema": dict(cls=cls, kwargs={**sizes, "synthesis_kwargs": dict(
        channel_base=2**20, channel_max=2**20)}, state={})}}, tmp_path / "wide.pkl")
    torch.save({**own, "nets": {"G_ema": dict(cls=cls, kwargs={**sizes, "mapping_kwargs": dict(num_layers=2**20)},
                                              state={})}}, tmp_path / "layers.pkl")
    torch.save({**own, "nets": {"G_ema": dict(cls=cls, kwargs={**sizes, "img_resolution": 2**70}, state={})}},
               tmp_path / "resolution.pkl")
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("x/data.pkl", pickle.dumps({}, protocol=2))
        z.writestr("x/data/0", bytes(2**27))
    code = ("for path in sys.argv[1:]:\n"
            "    try:\n        load_any(path).build('G_ema')\n        print('LOADED', path)\n"
            "    except UserError as e:\n        print(e)")
    names = sorted(p.name for p in tmp_path.iterdir())
    assert all((tmp_path / n).stat().st_size < 4 * 2**20 for n in names)
    lines = bounded(code, *(tmp_path / n for n in names)).splitlines()
    assert len(lines) == len(names), lines
    assert not [line for line in lines if "LOADED" in line]
    by_name = dict(zip(names, lines))
    assert "compressed" in by_name["bomb.pth"] and "reaches beyond" in by_name["stride.pth"]
    assert "header" in by_name["header.safetensors"] and "does not fit" in by_name["tensor.safetensors"]
    assert "instructions" in by_name["many.pkl"] and "reserves memory" in by_name["memo.pkl"]
    assert "beyond its data" in by_name["stride.pkl"] and "nested without end" in by_name["twice.pkl"]


def test_absurd_storages_of_torch_files(tmp_path):
    """Records that are missing, short, doubled, or of another type than the pickle says."""
    torch.save(dict(a=torch.arange(8.0)), tmp_path / "good.pth")
    with zipfile.ZipFile(tmp_path / "good.pth") as z:
        records = {i.filename: z.read(i) for i in z.infolist()}
    key = next(k for k in records if k.endswith("/data/0"))

    def changed(change):
        with zipfile.ZipFile(tmp_path / "bad.pth", "w", zipfile.ZIP_STORED) as z:
            for name, data in change(dict(records)).items():
                z.writestr(name, data)
        with pytest.raises(inert_pickle.Refused) as e:
            torch_file.load(tmp_path / "bad.pth")
        return str(e.value)

    assert "missing" in changed(lambda r: {k: v for k, v in r.items() if k != key})
    assert "length" in changed(lambda r: {**r, key: r[key][:-4]})
    assert "length" in changed(lambda r: {**r, key: r[key] * 2})
    assert "big-endian" in changed(lambda r: {**r, key.replace("data/0", "byteorder"): b"big"})
    assert "TorchScript" in changed(lambda r: {**r, key.replace("data/0", "constants.pkl"): b""})
    assert "not one of torch.save" in changed(lambda r: {"../../evil/readme": b"x"})
    assert "not one of torch.save" in changed(lambda r: {**r, "../data.pkl": b"x"})
    assert "missing" in changed(lambda r: {k: v.replace(b"X\x01\x00\x00\x000", b"X\x04\x00\x00\x00../x")
                                           for k, v in r.items()})
    assert not (tmp_path.parent / "evil").exists() and not (tmp_path.parent / "x").exists()


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


# ---- data sets ---------------------------------------------------------------------------------------------------


def png(width, height, body=b"\x00" * 64):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


def write_zip(path, entries, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as z:
        for name, data in entries.items():
            z.writestr(name, data)
    return path


def test_giant_png_headers(tmp_path):
    for size in ((2**31 - 1, 2**31 - 1), (60_000, 60_000), (2**31 - 1, 1)):
        path = write_zip(tmp_path / "x.zip", {"a.png": png(*size), "b.png": png(*size)})
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(UserError, match=r"[ab]\.png|square|power|differ|pixels"):
            ImageDataset(path)[0]
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024


def test_zip_bombs_in_data_sets(tmp_path):
    path = write_zip(tmp_path / "x.zip", {"a.png": png(16, 16), "dataset.json": b" " * 2**27},
                     zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**20
    with pytest.raises(UserError, match="dataset.json.*unpacks to"):
        ImageDataset(path, use_labels=True)


@pytest.mark.parametrize("text, says", [
    (b"[" * 200_000, "nested too deeply|not valid JSON"),
    (b'{"labels": ' * 100_000, "nested too deeply|not valid JSON"),
    (b'{"labels": [["a.png", 1e400]]}', "number|finite|class"),
    (b'{"labels": [["a.png", ' + b"9" * 6000 + b"]]}", "not valid JSON|class"),
    (b'{"labels": [["../../etc/passwd", 0]]}', "passwd|label|a.png"),
    (b"\xff\xfe", "not valid JSON"),
])
def test_hostile_dataset_json(text, says, tmp_path):
    path = write_image_zip(tmp_path / "x.zip", [np.zeros([16, 16, 3], np.uint8)])
    entries = {i: zipfile.ZipFile(path).read(i) for i in zipfile.ZipFile(path).namelist() if i.endswith(".png")}
    write_zip(path, {"a.png": next(iter(entries.values())), "dataset.json": text})
    with pytest.raises(UserError, match=says):
        ImageDataset(path, use_labels=True)


def test_names_that_climb_out_of_an_archive_write_nothing(tmp_path, call):
    """Images are read where they are; a name is never a place to write to."""
    inner = tmp_path / "deep" / "er"
    inner.mkdir(parents=True)
    image = write_image_zip(tmp_path / "y.zip", [np.zeros([16, 16, 3], np.uint8)])
    data = next(zipfile.ZipFile(image).read(n) for n in zipfile.ZipFile(image).namelist() if n.endswith(".png"))
    path = write_zip(inner / "x.zip", {"../../evil.png": data, "/abs/evil.png": data})
    before = {p for p in tmp_path.rglob("*")}
    with pytest.raises(UserError, match="lead out of it: .*evil.png"):
        ImageDataset(path)
    call("dataset_tool", f"--source={path}", f"--dest={inner / 'out'}", check=2)
    new = {p for p in tmp_path.rglob("*")} - before
    assert not new, new
    assert not os.path.exists("/abs")


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


def test_names_with_control_characters_do_not_reach_the_terminal(tmp_path):
    image = write_image_zip(tmp_path / "y.zip", [np.zeros([16, 16, 3], np.uint8)])
    data = next(zipfile.ZipFile(image).read(n) for n in zipfile.ZipFile(image).namelist() if n.endswith(".png"))
    path = write_zip(tmp_path / "x.zip", {"a\n\x1b[2J.png": data, "b.png": data,
                                          "dataset.json": b'{"labels": [["b.png", 0]]}'})
    with pytest.raises(UserError) as e:
        ImageDataset(path, use_labels=True)
    assert str(e.value).isprintable() and r"a\n\x1b[2J.png" in str(e.value)
