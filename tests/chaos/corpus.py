# SPDX-License-Identifier: Apache-2.0
"""Files made by hand to do harm: `python -m tests.chaos.corpus`.

Each must end in one line: nothing in it runs, no other file is read or written, no gigabyte is taken, no minute passes.
They are read in a worker process under the watch of `mutations`; if one of them ends the worker, the next goes on.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 2**30


# ---- pickles -----------------------------------------------------------------------------------------------------


def text(s: str) -> bytes:
    return b"X" + struct.pack("<I", len(s)) + s.encode()


def name(module: str, what: str) -> bytes:
    return f"c{module}\n{what}\n".encode()


def array(shape: tuple, dtype: str, data: bytes, flags: int | None = None) -> bytes:
    """With `flags`: of a type whose pickled state says something else than its name."""
    state = b"" if flags is None else pickle.dumps((3, "|", None, None, None, -1, -1, flags), 2)[2:-1] + b"b"
    return (name("numpy.core.multiarray", "_reconstruct") + b"(" + name("numpy", "ndarray") + b"K\x00\x85C\x01btR(K\x01"
            + pickle.dumps(shape, 2)[2:-1] + name("numpy", "dtype") + text(dtype) + b"\x89\x88\x87R" + state + b"\x89B"
            + struct.pack("<I", len(data)) + data + b"tb")


LONG = text("x" * 50_000) + b"q\x010"
LIST = b"](" + b"N" * 20_000 + b"eq\x010"
PICKLES = {
    "a tuple of tuples as key": b"\x80\x02})" + b"2\x86" * 60 + b"Ns.",
    "the same in a set": b"\x80\x04\x8f()" + b"2\x86" * 60 + b"\x90.",
    "the same in a frozenset": b"\x80\x04()" + b"2\x86" * 60 + b"\x91.",
    "the same through set()": b"\x80\x02" + name("builtins", "set") + b"])" + b"2\x86" * 60 + b"a\x85R.",
    "the same through dict()": b"\x80\x02" + name("builtins", "dict") + b"])" + b"2\x86" * 60 + b"N\x86a\x85R.",
    "the same through OrderedDict()": b"\x80\x02" + name("collections", "OrderedDict") + b"])" + b"2\x86" * 60
                                      + b"N\x86a\x85R.",
    "keys that collide": b"\x80\x02}(" + b"".join(b"\x8a\x0f" + (k * (2**61 - 1)).to_bytes(15, "little", signed=True)
                                                 + b"N" for k in range(2**20, 2**20 + 99)) + b"u.",
    "a large memo index": b"\x80\x03}r\xff\xff\xff\x7f.",
    "a large number": b"\x80\x02\x8b" + struct.pack("<I", 2_000_000) + b"x" * 2_000_000 + b".",
    "a larger number than there are bytes": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"x.",
    "more bytes than there are": b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"x.",
    "a large frame": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N.",
    "a list without rows": b"\x80\x02" + array((2**40, 0), "f8", b"") + b".",
    "many rows of nothing": b"\x80\x02" + array((2**30, 0), "f8", b"") + b".",
    "a shape that overflows": b"\x80\x02" + array((2**32, 2**32, 2**32), "f8", b"") + b".",
    "objects": b"\x80\x02" + array((1,), "O8", b"A" * 8) + b".",
    "text of a shape": b"\x80\x02" + array((1,), "U4", b"A" * 16) + b".",
    "copies of a list": b"\x80\x02" + LIST + b"](" + (name("builtins", "list") + b"h\x01\x85R") * 2000 + b"e.",
    "copies as sets": b"\x80\x02" + LIST + b"](" + (name("builtins", "set") + b"h\x01\x85R") * 2000 + b"e.",
    "copies as sizes": b"\x80\x02" + LIST + b"](" + (name("torch", "Size") + b"h\x01\x85R") * 2000 + b"e.",
    "encoded strings": b"\x80\x02" + LONG + b"](" + (name("_codecs", "encode") + b"h\x01\x85R") * 2000 + b"e.",
    "long lists of arguments": b"\x80\x02(" + b"N" * 20_000 + b"tq\x010]("
                               + (name("argparse", "Namespace") + b"h\x01R") * 2000 + b"e.",
    "a message of everything": b"\x80\x02" + name("numpy", "dtype") + b")" + b"2\x86" * 60 + b"\x85R.",
    "an encoding of everything": b"\x80\x02" + name("_codecs", "encode") + text("a") + b")" + b"2\x86" * 60 + b"\x86R.",
    "a list of itself": b"\x80\x02]q\x00h\x00a.",
    "a dict of itself": b"\x80\x02}q\x00" + text("a") + b"h\x00s.",
    "doubled in depth": b"\x80\x02)" + b"2\x86" * 100 + b".",
    "wide in depth": b"\x80\x02](" + b"N" * 1000 + b"e" + (b"q\x00](" + b"h\x00" * 1000 + b"e") * 8 + b".",
    "long text many times": b"\x80\x02" + LONG + b"](" + b"h\x01" * 20_000 + b"e.",
    "deep": b"\x80\x02" + b"]" * 20_000 + b"a" * 19_999 + b".",
    "deep tuples": b"\x80\x02)" + b"\x85" * 50_000 + b".",
    "names with line breaks": b"\x80\x04" + text("a\nb") + text("c\x1b[2J") + b"\x93.",
    "a changed tensor": b"\x80\x02]}b.",
    "endless": b"\x80\x02" + b"N0" * 600_000 + b"N.",
}


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function: Callable, *args: Any):
        self.value = function, args

    def __reduce__(self):
        return self.value


def reference(mu: bytes, sigma: bytes) -> bytes:
    fid = b"}(" + text("mu") + mu + text("sigma") + sigma + b"u"
    return b"\x80\x03}(" + text("num_images") + b"K\x64" + text("fid") + fid + b"u."


def references() -> dict[str, bytes]:
    """Statistics of real images that say their arrays are of another kind than they are."""
    pointer = struct.pack("<Q", 0x4141414141414141)
    empty = name("numpy._core.multiarray", "_reconstruct") + b"(" + name("numpy", "ndarray") + b"%s" + text("d") + b"tR"
    size = {k: pickle.dumps((n,), 2)[2:-1] for k, n in (("huge", 2**45), ("large", 2**32))}
    number = array((2, 2), "f8", bytes(32))
    return {
        "pointers as an array": reference(array((4,), "O8", pointer * 4, 0), array((4, 4), "O8", pointer * 16, 0)),
        "a pointer as a number": reference(array((), "O8", pointer, 0), number),
        "types of any code": reference(array((1,), "V8", pointer, 63), number),
        "an allocation of 256 TiB": reference(empty % size["huge"], number),
        "an allocation of 34 GB": reference(empty % size["large"], number),
        "no covariance": reference(array((2,), "f8", bytes(16)), array((2,), "f8", bytes(16))),
        "text as mean": reference(text("mu"), number),
        "rows of nothing": reference(array((2**20, 0), "f8", b""), array((0, 0), "f8", b"")),
        "not finite": reference(array((2,), "f8", b"\xff" * 16), number),
        "no images": b"\x80\x03}(" + text("num_images") + b"J\x00\x00\x00\x80" + text("fid") + b"}u.",
    }


# ---- containers --------------------------------------------------------------------------------------------------


def zipped(compression: int = zipfile.ZIP_STORED, **members: bytes) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(stream, "w", compression) as z:
            for key, data in members.items():
                z.writestr(key, data)
    return stream.getvalue()


def npy(header: str, data: bytes = b"") -> bytes:
    """An .npy file whose header says what you like."""
    head = header.encode("latin1")
    head += b" " * (-(len(head) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + data


@functools.cache
def arrays() -> dict[str, bytes]:
    """Files of arrays that lie."""
    head = "{'descr': %s, 'fortran_order': False, 'shape': %s, }"
    good = npy(head % ("'<f8'", "(2, 2)"), bytes(32))
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.array([Call(os.system, "true")], object), allow_pickle=True)
    found = {
        "objects": stream.getvalue(),
        "huge": npy(head % ("'<f8'", f"({2**50},)")),
        "an overflow": npy(head % ("'<f8'", f"({2**32}, {2**32}, 2)")),
        "no width": npy(head % ("'<U0'", f"({2**60},)")),
        "rows of nothing": npy(head % ("'<f8'", f"({2**60}, 0)")),
        "negative": npy(head % ("'<f8'", "(-1,)")),
        "a wide type": npy(head % ("'<U1000000000'", "(1,)")),
        "records": npy(head % ("[('a', 'O')]", "(1,)"), bytes(8)),
        "nesting": npy("(" * 9000),
        "a call": npy("__import__('os').system('true')"),
        "a version": b"\x93NUMPY\x09\x00" + bytes(9),
        "short": npy(head % ("'<f8'", "(2,)"), bytes(8)),
    }
    out = {k: zipped(**{"mu.npy": v, "sigma.npy": good, "w.npy": v}) for k, v in found.items()}
    zeros = npy(head % ("'<f8'", f"({2**24},)"), bytes(2**27))
    out["a bomb"] = zipped(zipfile.ZIP_DEFLATED, **{"mu.npy": zeros, "sigma.npy": zeros})
    return out


@functools.cache
def torch_files(place: Path) -> dict[str, bytes]:
    """Containers of torch.save that lie or call."""

    def saved(content: Any, legacy: bool = False) -> bytes:
        stream = io.BytesIO()
        torch.save(content, stream, _use_new_zipfile_serialization=not legacy)
        return stream.getvalue()

    mark = str(place / "WRITTEN")
    zeros = torch.zeros(4)

    def own(**kwargs: Any) -> bytes:
        """A snapshot of ours, of a generator with these arguments."""
        net = dict(cls="gantransfer.networks.stylegan2.Generator", state={}, kwargs=dict(
            z_dim=8, c_dim=0, w_dim=8, img_resolution=16, img_channels=3) | kwargs)
        return saved(dict(format="gantransfer-snapshot", version=1, method="stylegan2", stage="main", options={},
                          data={}, cur_nimg=0, extra={}, nets=dict(G_ema=net)))

    state = dict(format="gantransfer-training-state", version=1)
    out = {
        "a call": saved({"a": Call(os.mkdir, mark)}),
        "a call, old container": saved({"a": Call(os.mkdir, mark)}, True),
        "a call in a state": saved({**state, "nets": Call(os.mkdir, mark)}),
        "a wide view": saved({"a": zeros.expand(10**6, 10**6, 4)}),
        "a wide view, old container": saved({"a": zeros.expand(10**6, 10**6, 4)}, True),
        "many views": saved({"a": [torch.zeros(2**20)[i:] for i in range(3)]})[:-300],
        "half a state": saved(state),
        "a state of numbers": saved({**state, "nets": 3, "records": 4}),
        "compressed": zipped(zipfile.ZIP_DEFLATED, **{"x/data.pkl": pickle.dumps({}, 2), "x/data/0": bytes(2**27)}),
        "outside": zipped(**{"../../x/data.pkl": b"\x80\x02cos\nsystem\n."}),
        "a program": zipped(**{"x/data.pkl": b"\x80\x02cos\nsystem\n)R.", "x/constants.pkl": b"\x80\x02)."}),
        "a program without code": zipped(**{"x/data.pkl": b"\x80\x02c__torch__\nM\n)\x81}b.",
                                            "x/constants.pkl": b"\x80\x02)."}),
        "endless modules": zipped(**{"x/data.pkl": b"\x80\x02c__torch__\nM\n)\x81q\x00}(X\x01\x00\x00\x00ah\x00ub.",
                                     "x/constants.pkl": b"\x80\x02).",
                                     "x/code/__torch__.py": b"class M(Module):\n  __parameters__ = []\n"}),
        "a wide network": own(synthesis_kwargs=dict(channel_base=2**20, channel_max=2**20)),
        "a deep network": own(mapping_kwargs=dict(num_layers=2**20)),
        "a large resolution": own(img_resolution=2**70),
    }
    storage = torch.storage.TypedStorage(wrap_storage=zeros.untyped_storage(), dtype=torch.float32, _internal=True)
    out["a wide view, bare"] = pickle.dumps(Call(torch._utils._rebuild_tensor_v2, storage, 0, (1000,) * 3, (0,) * 3,
                                                 False, {}))
    return out


def safetensors() -> dict[str, bytes]:
    def file(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
        head = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(head) if length is None else length) + head + data

    entry = dict(dtype="F32", shape=[2**40], data_offsets=[0, 2**42])
    return {
        "a long header": file(b"{", length=2**40),
        "a large tensor": file(dict(a=entry)),
        "rows of nothing": file(dict(a=dict(dtype="F32", shape=[2**60, 0], data_offsets=[0, 0]))),
        "nesting": file(b"{" + b"[" * 200_000),
        "overlap": file({k: dict(dtype="U8", shape=[4], data_offsets=[0, 4]) for k in "ab"}, bytes(4)),
        "an overflow": file(dict(a=dict(dtype="F32", shape=[2**62, 2**62, 0], data_offsets=[0, 0]))),
        "no numbers": file(dict(a=dict(dtype="F32", shape=["a"], data_offsets=[0, 0]))),
    }


def labels() -> dict[str, bytes]:
    row = ["a.png", 0]
    return {
        "nesting": b"[" * 200_000,
        "nested objects": b'{"labels": ' * 100_000,
        "a dict for a list": json.dumps(dict(labels={"a": 1})).encode(),
        "large numbers": b'{"labels": [["a.png", ' + b"9" * 4000 + b"]]}",
        "more digits": b'{"labels": [["a.png", ' + b"9" * 9999 + b"]]}",
        "not a number": b'{"labels": [["a.png", NaN]]}',
        "infinite": b'{"labels": [["a.png", [1e999]]]}',
        "line breaks": json.dumps(dict(labels=["x\ny\x1b[2J"])).encode(),
        "not text": b'\xff\xfe{"labels": []}',
        "many classes": json.dumps(dict(labels=[["a.png", 2**40]])).encode(),
        "negative": json.dumps(dict(labels=[["a.png", -5]])).encode(),
        "mixed": json.dumps(dict(labels=[row, ["b.png", [1.0]]])).encode(),
        "names": json.dumps(dict(labels=[row], class_names=[1])).encode(),
    }


def descriptors() -> dict[str, bytes]:
    base = dict(name="x", file="net.pth", arch="digits_judge")
    changes: dict[str, dict] = {
        "a program's kind": dict(kind="program"),
        "arguments": dict(arch_kwargs=[1]),
        "classes": dict(classes=5),
        "a class": dict(classes=[{}]),
        "call": dict(call=dict(kwargs=3)),
        "output": dict(outputs=dict(features=dict(key=[]))),
        "range": dict(input=dict(range=[0, "a"])),
        "another name": dict(name="../x"),
        "file": dict(file=3),
        "huge": dict(input=dict(range=[0, 10**400])),
    }
    return {
        **{k: json.dumps({**base, **v}).encode() for k, v in changes.items()},
        "nesting": b"[" * 200_000,
        "not text": b"\xff" * 64,
        "a list": b"[]",
    }


def png(width: int, height: int, body: bytes = bytes(64), depth: int = 8, kind: int = 2) -> bytes:
    def chunk(tag: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data))

    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


def pictures() -> dict[str, bytes]:
    """Name with extension -> picture that claims more than it holds."""
    tags = ((256, 60_000), (257, 60_000), (259, 1), (273, 8))
    tiff = b"II*\x00\x08\x00\x00\x00" + struct.pack("<H", 4) + b"".join(
        struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return {
        "wide.png": png(60_000, 60_000),
        "wider.png": png(2**31 - 1, 2**31 - 1),
        "long.png": png(2**31 - 1, 1),
        "deep.png": png(40_000, 40_000, depth=16),
        "grey.png": png(60_000, 60_000, kind=0),
        "short.png": png(64, 64),
        "no.png": b"",
        "text.png": b"<html>",
        "wide.bmp": b"BM" + struct.pack("<IHHIIiiHHIIIIII", 54, 0, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0),
        "wide.tif": tiff,
        "wide.ppm": b"P6 60000 60000 255\n",
        "deep.pgm": b"P5 9999999999 1 65535\n",
        "wide.gif": b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b";",
        "wide.tga": struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, 65535, 65535, 24, 0),
        "wide.qoi": b"qoif" + struct.pack(">IIBB", 60_000, 60_000, 3, 0),
        "flags.dds": b"DDS " + struct.pack("<I", 124) + bytes(116) + bytes(4),
        "script.eps.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n",
    }


def data_sets() -> dict[str, bytes]:
    one, two = png(1, 1, bytes(4)), png(1, 1, bytes(4))
    listing = json.dumps(dict(labels=[["a.png", 0], ["b.png", 1]])).encode()
    doubled = zipped(**{"a.png": one, "b.png": two}).replace(b"b.png", b"a.png")
    return {
        "a bomb": zipped(zipfile.ZIP_DEFLATED, **{"a.png": bytes(2**28)}),
        "a bomb of labels": zipped(zipfile.ZIP_DEFLATED, **{"a.png": one, "dataset.json": b" " * 2**28}),
        "a name twice": doubled,
        "nested labels": zipped(**{"a.png": one, "dataset.json": b"[" * 100_000}),
        "a name of two lines": zipped(**{"a\n\x1b[2J.png": one, "b.png": one,
                                        "dataset.json": b'{"labels": [["b.png", 0]]}'}),
        "labels of others": zipped(**{"a.png": one, "dataset.json": listing}),
        "nothing": zipped(),
        "half": zipped(**{"a.png": one})[:40],
        "a wide picture": zipped(**{"a.png": png(60_000, 60_000)}),
        "text": b"PK\x03\x04" + b"\xff" * 200,
    }


def archives() -> dict[str, bytes]:
    """CIFAR archives and IDX files that unpack to more than they should, or call."""

    def tar(**members: bytes) -> bytes:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w:gz") as t:
            for key, data in members.items():
                info = tarfile.TarInfo(f"cifar-10-batches-py/{key}")
                info.size = len(data)
                t.addfile(info, io.BytesIO(data))
        return stream.getvalue()

    head = struct.pack(">HBB", 0, 8, 3)
    return {
        "cifar-10-python.tar.gz": tar(**{"batches.meta": pickle.dumps({"label_names": Call(os.system, "true")})}),
        "train-images-idx3-ubyte": head + struct.pack(">III", 2**31, 2**31, 4),
        "t10k-images-idx3-ubyte": head + struct.pack(">III", 2**32 - 1, 0, 2**32 - 1),
        "train-images-idx3-ubyte.gz": gzip.compress(head + struct.pack(">III", 10, 2, 2)),
        "t10k-images-idx3-ubyte.gz": gzip.compress(bytes(2**27)),
    }


# ---- what reads them ---------------------------------------------------------------------------------------------


def attacks(place: Path) -> list[tuple[str, str, bytes | Path, Callable[[Path], Any]]]:
    """(name, file name, content or file, reader) of every attack."""
    from dnnlib import json_file
    from gantransfer import training_state
    from gantransfer.data import sources
    from gantransfer.data.dataset import ImageDataset
    from gantransfer.data.labels import label_array, parse_label_file
    from gantransfer.data.sources import cifar
    from gantransfer.detectors.descriptor import read_descriptor
    from gantransfer.formats import inert_pickle, metric_file
    from gantransfer.importers import load_any, open_source
    from gantransfer.importers.look import names
    from gantransfer.latent import cache
    from gantransfer.metrics.reference import read_reference
    from tests.chaos import seeds

    def network(path: Path) -> Any:
        names(open_source(path))
        return load_any(path).build("G_ema")

    def label_file(path: Path) -> Any:
        parsed = parse_label_file(json_file.parse(path.read_bytes(), "dataset.json", object), "dataset.json")
        values = label_array(list(parsed.labels), list(parsed.labels.values()), "dataset.json")[1]
        return np.zeros([len(values), int(values.max()) + 1], bool)

    def images(path: Path) -> Any:
        d = ImageDataset(path, use_labels=True)
        return [d[i] for i in range(len(d))]

    def source(path: Path) -> Any:
        s = sources.open_source(str(path), sources.SourceOptions(labels="none"))
        return [item.load() for item in s.items()]

    found: list[tuple[str, str, bytes | Path, Callable[[Path], Any]]] = []

    def add(kind: str, file: str | None, contents: dict[str, bytes], read: Callable[[Path], Any]) -> None:
        found.extend((f"{kind}: {k}", file or k, data, read) for k, data in contents.items())

    mark = str(place / "WRITTEN")
    pickles = {**PICKLES, **{f"a call, protocol {p}": pickle.dumps(Call(os.mkdir, mark), p) for p in range(6)}}
    add("pickle", "x.pkl", pickles, lambda p: inert_pickle.load(p.read_bytes()))
    add("network", "x.pkl", pickles, network)
    add("reference", "x.pkl", pickles | references(), read_reference)
    add("old figures", "1.metric", pickles, metric_file.read_metric)
    add("CIFAR", "data_batch_1", pickles, lambda p: cifar.load_arrays(p.read_bytes(), p.name))
    add("reference", "x.npz", arrays(), read_reference)
    add("latents", "x.npz", arrays(), cache.read)
    add("network", "x.pth", torch_files(place), network)
    add("state", "x.pt", torch_files(place), training_state.read)
    add("weights", "x.pt", torch_files(place), _no_weights)
    add("network", "x.safetensors", safetensors(), network)
    add("labels", "dataset.json", labels(), label_file)
    add("descriptor", "x.detector.json", descriptors(), read_descriptor)
    add("picture", None, pictures(), seeds.picture)
    add("data set", "x.zip", {k: v for k, v in data_sets().items() if k != "labels of others"}, images)
    add("archive", None, archives(), source)
    add("weights", "x.pth", {"a program that writes": _program()}, _no_weights)
    return found + hdf5(place)


# A part of what some of the messages say.
SAYS = {
    "network: a large memo index": "reserves memory", "network: endless": "instructions",
    "network: doubled in depth": "nested without end", "network: a wide view": "reaches beyond",
    "network: a wide view, bare": "beyond its data", "network: compressed": "compressed",
    "network: a long header": "header", "network: a large tensor": "does not fit",
    "data set: a bomb of labels": "unpacks to", "data set: a name of two lines": r"a\n\x1b[2J.png",
}


def _no_weights(path: Path) -> Any:
    """Weights where a network is expected: whatever tensors a file holds, they are none of ours."""
    from gantransfer.detectors.judge import DigitsJudge
    from gantransfer.detectors.weights import load_strictly, read_state

    return load_strictly(DigitsJudge(num_classes=3), read_state(path), path)


class Program(torch.nn.Module):
    """As a TorchScript file it writes another file as soon as it is opened."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(1))

    @torch.jit.export
    def __getstate__(self):
        return (self.w, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]):
        self.w = state[0]
        self.training = state[1]
        torch.save(self.w, "WRITTEN")

    def forward(self, x):
        return x


def _program() -> bytes:
    stream = io.BytesIO()
    torch.jit.save(torch.jit.script(Program()), stream)
    return stream.getvalue()


def hdf5(place: Path) -> list[tuple[str, str, bytes | Path, Callable[[Path], Any]]]:
    """HDF5 files whose images are in other files, or nowhere."""
    try:
        import h5py
    except ImportError:
        return []
    from gantransfer.data import h5

    def read(path: Path) -> Any:
        return sum(int(x.sum()) for x in h5.read(str(path)).images())

    (place / "secret.txt").write_text("a line that must not leave this machine\n" * 8)
    with h5py.File(place / "other.h5", "w") as f:
        f["x"] = np.zeros([2, 1, 16, 16], np.uint8)
    found: list[tuple[str, str, bytes | Path, Callable[[Path], Any]]] = []

    def add(what: str, fill: Callable[[Any], Any], images: int = 2) -> None:
        path = place / f"made-{len(found)}.h5"
        with h5py.File(path, "w") as f:
            fill(f)
            f["fake_labels"] = np.zeros(images, np.int8)
        found.append((f"HDF5: {what}", "x.h5", path.read_bytes(), read))

    def put(f: Any, **how: Any) -> None:
        f.create_dataset("fake_images", dtype=np.uint8, **how)

    layout = h5py.VirtualLayout((2, 1, 16, 16), dtype=np.uint8)
    layout[:] = h5py.VirtualSource(place / "other.h5", "x", shape=(2, 1, 16, 16))
    million, wide = (10**6, 1, 256, 256), (2, 3, 65535, 65535)
    secret = [(str(place / "secret.txt"), 0, 256)]
    add("external storage", lambda f: put(f, shape=(2, 1, 8, 16), external=secret))
    add("a virtual set", lambda f: f.create_virtual_dataset("fake_images", layout))
    add("a virtual set of nothing", lambda f: f.create_virtual_dataset(
        "fake_images", h5py.VirtualLayout(million, dtype=np.uint8), fillvalue=0), 10**6)
    add("a link", lambda f: f.__setitem__("fake_images", h5py.ExternalLink("other.h5", "x")))
    add("a link to nothing", lambda f: f.__setitem__("fake_images", h5py.ExternalLink("none.h5", "x")))
    add("a link by a link", lambda f: (f.__setitem__("g", h5py.ExternalLink("other.h5", "/")),
                                       f.__setitem__("fake_images", h5py.SoftLink("/g/x"))))
    add("a link to itself", lambda f: f.__setitem__("fake_images", h5py.SoftLink("/fake_images")))
    add("a million images", lambda f: put(f, shape=million, chunks=(1, 1, 256, 256)), 10**6)
    add("a million images, compressed", lambda f: put(f, shape=million, chunks=(1, 1, 256, 256), compression="gzip"),
        10**6)
    add("wide images", lambda f: put(f, shape=wide, chunks=(1, 1, 256, 256)))
    add("a large chunk", lambda f: put(f, shape=(1, 1, 40_000, 40_000), chunks=(1, 1, 40_000, 40_000),
                                       compression="gzip"), 1)
    return found


# ---- running them ------------------------------------------------------------------------------------------------


def work(start: int, place: Path) -> None:
    """Read the attacks from number `start` on; a line of JSON for each goes to place/results.jsonl."""
    import torch._dynamo  # noqa: F401 - the first network's shapes import it, and it sets a variable

    from tests.chaos.mutations import Watch, guard, high_water, outcome

    warnings.simplefilter("ignore")
    os.chdir(place)  # where a program writes
    listed = attacks(place)
    (place / "count").write_text(str(len(listed)))
    area = place / "area"
    area.mkdir(exist_ok=True)
    for left in place.glob("WRITTEN*"):
        left.rmdir() if left.is_dir() else left.unlink()
    watch = Watch(area)
    guard()
    with open(place / "results.jsonl", "a") as out:
        for number, (what, file, data, read) in list(enumerate(listed))[start:]:
            (place / "current").write_text(f"{number}\t{what}")
            path = area / file
            path.write_bytes(data)
            before, began = high_water(), time.monotonic()
            kind, fault, says = outcome(read, path, watch)
            if kind == "loaded":
                fault = "it was read"
            elif kind == "refused" and SAYS.get(what, "") not in says:
                fault = f"its message is: {says}"
            ran = watch.seen[0] if watch.seen else "a file was written" if list(place.glob("WRITTEN*")) else ""
            watch.seen.clear()
            for left in area.iterdir():
                left.unlink()
            peak = high_water()
            row = dict(what=what, fault=fault, ran=ran, mb=(peak - before) / 1024, peak_mb=peak / 1024,
                       seconds=round(time.monotonic() - began, 2))
            out.write(json.dumps(row) + "\n")
            out.flush()


def run(seconds: float = 600, seed: int = 0) -> dict[str, float]:
    """Figures: files, refused, uncaught, executed, over_1gb, peak_mb, slowest. All files are tried, whatever `seconds`
    says (they take about a minute); every fault is printed."""
    place = Path(tempfile.mkdtemp(prefix="chaos-corpus-"))
    results, start = place / "results.jsonl", 0
    crashes: list[str] = []
    while not (place / "count").exists() or start < int((place / "count").read_text()):
        with open(place / "log.txt", "w") as log:
            done = subprocess.run([sys.executable, "-m", "tests.chaos.corpus", f"--start={start}", f"--work={place}"],
                                  cwd=ROOT, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
        if not (place / "current").exists():
            raise RuntimeError(f"the corpus cannot be made: {(place / 'log.txt').read_text()[-2000:]}")
        number, what = (place / "current").read_text().split("\t")
        if done.returncode != 0:
            crashes.append(f"{what}: the process ended with {done.returncode}")
        start = int(number) + 1
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    for line in [*crashes, *(f"{r['what']}: {r['fault'] or r['ran']}" for r in rows if r["fault"] or r["ran"])]:
        print(f"  {line}", flush=True)
    return dict(
        files=float(len(rows) + len(crashes)),
        refused=float(sum(not r["fault"] for r in rows)),
        uncaught=float(sum(bool(r["fault"]) for r in rows) + len(crashes)),
        executed=float(sum(bool(r["ran"]) for r in rows)),
        over_1gb=float(sum(r["mb"] * 2**20 > LIMIT for r in rows)),
        peak_mb=round(max(r["peak_mb"] for r in rows), 1),
        slowest=max(r["seconds"] for r in rows),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args.start, Path(args.work))
        return
    figures = run()
    print(json.dumps(figures))
    sys.exit(1 if figures["uncaught"] or figures["executed"] or figures["over_1gb"] else 0)


if __name__ == "__main__":
    main()
