# SPDX-License-Identifier: Apache-2.0
"""Valid files of every kind that the project reads, each with the function that reads it and what its parts are."""

from __future__ import annotations

import contextlib
import gzip
import importlib
import io
import json
import pickle
import shutil
import struct
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from dnnlib import json_file
from dnnlib.util import EasyDict, UserError
from gantransfer import training_state
from gantransfer.data import sources
from gantransfer.data.container import IMAGE_EXTENSIONS
from gantransfer.data.dataset import ImageDataset
from gantransfer.data.labels import label_array, parse_label_file
from gantransfer.data.sources import cifar, mnist
from gantransfer.detectors.descriptor import read_descriptor
from gantransfer.detectors.weights import read_state
from gantransfer.distillation.fakes import read as read_fakes
from gantransfer.exporters import weights
from gantransfer.formats import inert_pickle, metric_file
from gantransfer.importers import load_any, open_source
from gantransfer.importers.look import names as names_of
from gantransfer.latent import cache
from gantransfer.metrics import rating, stats
from gantransfer.metrics.reference import read_reference
from gantransfer.snapshot import NetRecord, Snapshot
from tests.conftest import write_image_zip


@dataclass(frozen=True)
class Seed:
    """A valid file. `kind` says how it may be changed: 'bytes', 'json', 'pickle', or 'zip' (its members as well)."""

    name: str  # file name that the reader expects
    data: bytes
    read: Callable[[Path], Any]
    kind: str = "bytes"
    valid: bool = True  # False: of the right container, but its reader refuses what is in it


def picture(path: Path) -> Any:
    """Both ways in which an image file is read: for training, and for conversion."""
    from gantransfer.data import decode

    data = path.read_bytes()
    with contextlib.suppress(UserError):  # training takes fewer modes
        decode.decode(data, path.name)
    return decode.read_picture(data, path.name)


def quantised(extension: str) -> bytes | None:
    """A small picture in the format of an extension; None where this Pillow cannot write it."""
    x = np.add.outer(np.arange(16) * 8, np.arange(16) * 7).astype(np.uint8)
    image = Image.fromarray(np.stack([x, x[::-1], x.T], 2))
    stream = io.BytesIO()
    formats = Image.registered_extensions()
    name = formats.get(extension)
    if name is None or name not in Image.SAVE:
        return None
    try:
        image.save(stream, name)
    except (OSError, KeyError, ValueError):
        return None
    return stream.getvalue()


def foreign_pickle() -> bytes:
    """A network pickle of the form that StyleGAN2-ADA writes."""
    from tests.importers.pickles import Persistent, persistence_module

    kwargs = dict(z_dim=4, c_dim=2, w_dim=4, img_resolution=8, img_channels=1, mapping_kwargs=dict(num_layers=1),
                  synthesis_kwargs=dict(channel_base=16, channel_max=2))
    net = importlib.import_module("gantransfer.networks.stylegan2").Generator(**kwargs)
    module = persistence_module()
    sys.modules[module.__name__] = module
    try:
        saved = Persistent(module, net, "Generator", kwargs, table=np.arange(6.0).reshape(2, 3))
        return pickle.dumps(dict(G_ema=saved, training_set_kwargs=EasyDict(path="x", max_size=3)), protocol=3)
    finally:
        del sys.modules[module.__name__]


class Judge(nn.Module):
    """A small module for a TorchScript file."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, x):
        return self.conv(x) + self.mean.sum()


def make(folder: Path) -> dict[str, Seed]:
    """All seeds by name. `folder` is used while they are made."""
    torch.manual_seed(0)
    rng = np.random.RandomState(0)
    found: dict[str, Seed] = {}

    def add(key: str, name: str, data: bytes | Path, read: Callable[[Path], Any], kind: str = "bytes",
            valid: bool = True) -> None:
        found[key] = Seed(name, data.read_bytes() if isinstance(data, Path) else data, read, kind, valid)

    def saved(name: str, save: Callable[[Path], Any]) -> Path:
        save(folder / name)
        return folder / name

    def looked_at(path: Path) -> Any:
        names_of(open_source(path))
        return load_any(path)

    def built(path: Path) -> Any:
        return load_any(path).build("G_ema")

    # networks
    networks = importlib.import_module("gantransfer.networks.stylegan2")
    net = networks.Generator(4, 0, 4, 8, 1, mapping_kwargs={"num_layers": 1},
                             synthesis_kwargs={"channel_base": 16, "channel_max": 2})
    snap = Snapshot("stylegan2", {"G_ema": NetRecord.of(net)}, extra={"log": [1, 2.5, None, "a"]})
    add("snapshot", "own.pkl", saved("own.pkl", snap.save), built, "zip")
    add("safetensors", "own.safetensors", saved("own.safetensors", lambda p: weights.save_safetensors(snap, p)),
        looked_at)
    weights.save_state(snap, "G_ema", folder / "plain.pt")
    state_bytes = (folder / "plain.pt").read_bytes()

    def described(path: Path) -> Any:
        (path.parent / "plain.pt").write_bytes(state_bytes)
        return load_any(path.parent / "plain.pt")

    add("description of a state dict", "plain.pt.json", folder / "plain.pt.json", described, "json")
    add("foreign network", "network-snapshot-000123.pkl", foreign_pickle(), looked_at, "pickle")
    state = {f"blocks.{i}.0.conv1.weight": torch.zeros(4, 4, 1, 1) for i in range(3)}
    for legacy in (False, True):
        path = saved(f"torch{legacy:d}.pth", lambda p, legacy=legacy: torch.save(
            dict(models=dict(mapping_fl=state, generator=state), opt=nn.ReLU(), args=SimpleNamespace(a=1).__dict__), p,
            _use_new_zipfile_serialization=not legacy))
        add("torch's old container" if legacy else "torch's container", path.name, path, looked_at,
            "bytes" if legacy else "zip", valid=False)
    content = dict(G=[1, "a", (2.5, None)], D={"x": {1, 2}, "y": np.arange(4.0), "z": np.float32(1)})
    for protocol in (2, 4, 5):
        add(f"pickle {protocol}", f"p{protocol}.pkl", pickle.dumps(content, protocol),
            lambda p: inert_pickle.load(p.read_bytes()), "pickle")
    add("opcodes", "ops.pkl", b"\x80\x04N.", lambda p: inert_pickle.load(p.read_bytes()), "opcodes", False)
    add("old figures", "7.metric", pickle.dumps({0: {"fid": 3.5, "pr": {0: 0.5}}}, 4), metric_file.read_metric,
        "pickle")

    # training states, detectors
    training = dict(format=training_state.FORMAT, version=1, method="m", stage="main", cur_nimg=4, index=1, tick=2,
                    elapsed=1.5, nets={"G": dict(net.state_dict())}, records={"G": ["a.b.C", {"z": 1}]},
                    opts=[{"state": {0: {"step": torch.zeros(()), "exp_avg": torch.zeros(3)}},
                           "param_groups": [{"lr": 0.1, "betas": (0.0, 0.9), "params": [0]}]}],
                    method_state={"steps": 3}, stats={"latest": {}, "pending": {}})
    add("training state", "training-state-000001.pt", saved("state.pt", lambda p: torch.save(training, p)),
        training_state.read, "zip")
    add("detector weights", "net.pth", saved("net.pth", lambda p: torch.save(Judge().state_dict(), p)), read_state,
        "zip")
    add("TorchScript", "script.pt", saved("script.pt", lambda p: torch.jit.script(Judge()).save(str(p))), read_state,
        "zip")
    text = json.dumps(dict(name="mine", kind="state_dict", file="net.pth", sha256="ab", arch="digits_judge",
                           arch_kwargs=dict(num_classes=3), input=dict(size=32, resize="box", range=[0, 1]),
                           outputs=dict(features=dict(key=0, dim=8), logits=dict(key=1)), classes=[0, 1, 2]))
    add("descriptor", "net.detector.json", text.encode(), read_descriptor, "json")

    # statistics and latents
    mu, sigma = np.zeros(3), np.eye(3)
    edm2 = dict(num_images=10, fid=dict(mu=mu, sigma=sigma), fd_dinov2=dict(mu=mu.astype("f4"), sigma=sigma))
    for protocol in (3, 5):
        add(f"reference pickle {protocol}", "ref.pkl", pickle.dumps(edm2, protocol), read_reference, "pickle")
    header = dict(format="gantransfer-reference", detector=dict(name="d", sha256="ab", input={}), dataset={})

    def npz(**arrays: Any) -> bytes:
        stream = io.BytesIO()
        np.savez(stream, **arrays)
        return stream.getvalue()

    add("reference", "ref.npz", npz(mu=mu, sigma=sigma, num=np.int64(10), header=np.array(json.dumps(header))),
        read_reference, "zip")
    add("reference of EDM", "edm.npz", npz(mu=mu, sigma=sigma), read_reference, "zip")
    key = "0" * 64
    add("statistics cache", f"{key[:40]}-moments.npz", npz(
        num=np.int64(5), mean=mu, scatter=sigma, header=np.array(json.dumps(dict(key=key)))),
        lambda p: quietly(stats._load_cached, SimpleNamespace(cache_dir=p.parent), key, False), "zip")
    n, config = 4, dict(format=cache.FORMAT, label="none", label_dim=0)
    add("latents", "set.mind.npz", npz(
        w=np.zeros([n, 1, 3], "f4"), index=np.arange(n), flip=np.zeros(n, np.uint8), label=np.full(n, -1),
        recon=np.zeros([n, 2], "f4"), mean=mu, eigval=mu, eigvec=sigma, config=json.dumps(config)), cache.read, "zip")
    add("block of latents", "000000.npz", npz(w=np.zeros([n, 1, 3], "f4"), recon=np.zeros([n, 2], "f4"), seconds=1.5),
        lambda p: quietly(cache._block, p, n, SimpleNamespace(slots=1, w_dim=3)), "zip")

    # data sets
    def images(path: Path) -> Any:
        d = ImageDataset(path, use_labels=True)
        return [d[i] for i in range(len(d))]

    write_image_zip(folder / "data.zip", [rng.randint(0, 256, [8, 8, 3], dtype=np.uint8) for _ in range(3)], [0, 1, 0])
    add("data set", "data.zip", folder / "data.zip", images, "zip")
    add("fakes", "fakes.zip", folder / "data.zip", lambda p: read_fakes(str(p)), "zip", False)

    def labelled(path: Path) -> Any:
        parsed = parse_label_file(json_file.parse(path.read_bytes(), "dataset.json", object), "dataset.json")
        return label_array(list(parsed.labels), list(parsed.labels.values()), "dataset.json") if parsed.labels else None

    rows = {"classes": [["a.png", 0], ["b.png", 1]], "values": [["a.png", [0.5]], ["b.png", [1.5]]],
            "vectors": [["a.png", [0, 1]], ["b.png", [1, 0]]]}
    for kind, labels in rows.items():
        text = json.dumps(dict(labels=labels, class_names=["x", "y"],
                               meta=dict(shots={"many": [0]}, class_map={"0": 1}),
                               label_meta=dict(kind="regression", unit="", offset=0, scale=1, min=0, max=2)))
        add(f"labels: {kind}", "dataset.json", text.encode(), labelled, "json")
    with contextlib.suppress(ImportError):
        import h5py

        from gantransfer.data import h5

        def hdf5(path: Path) -> Any:
            got = h5.read(str(path))
            return sum(int(x.sum()) for x in got.images())

        for kind, storage in (("", {}), (", compressed", dict(compression="gzip", chunks=(2, 1, 8, 8)))):
            with h5py.File(folder / "x.h5", "w") as f:
                f.create_dataset("fake_images", data=rng.randint(0, 255, [4, 1, 8, 8]).astype("u1"), **storage)
                f["fake_labels"] = np.arange(4.0) / 2
                f.attrs["label_meta"] = json.dumps(dict(kind="regression", unit="", offset=0, scale=1, min=0, max=2))
            add(f"HDF5{kind}", "x.h5", folder / "x.h5", hdf5)
    with contextlib.suppress(ImportError):
        import lmdb

        def database(path: Path) -> Any:
            place = path.parent / "x_lmdb"
            place.mkdir()
            shutil.copyfile(path, place / "data.mdb")
            try:
                for item in sources.open_source(str(place), sources.SourceOptions()).items():
                    item.load()
            finally:
                (place / "data.mdb").unlink()
                place.rmdir()

        png = quantised(".png")
        for kind, records in (("LSUN", {b"a": png, b"b": png}), ("sized", {
                b"length": b"2", b"num_classes": b"2", **{b"16-0000%d" % i: png for i in range(2)},
                **{b"label-0000%d" % i: b"%d" % i for i in range(2)}})):
            with lmdb.open(str(folder / f"{kind}_lmdb"), map_size=2**20) as db, db.begin(write=True) as txn:
                for key, value in records.items():
                    txn.put(key, value)
            add(f"LMDB, {kind}", "data.mdb", folder / f"{kind}_lmdb/data.mdb", database)
    with contextlib.suppress(ImportError):
        from onnx import TensorProto, helper

        from gantransfer.formats import onnx_info

        ends = [helper.make_tensor_value_info(k, TensorProto.FLOAT, ["batch", 3]) for k in "xy"]
        model = helper.make_model(helper.make_graph(
            [helper.make_node("Add", ["x", "a"], ["y"])], "g", ends[:1], ends[1:],
            [helper.make_tensor("a", TensorProto.FLOAT, [3], [1.0, 2, 3])]))
        helper.set_model_props(model, {onnx_info.KEY: json.dumps(dict(method="stylegan2", net="G_ema", label=dict(
            kind="class", dim=2, names=["a", "b"])))})
        add("ONNX", "x.onnx", model.SerializeToString(), onnx_info.describe)
    batch = {"data": rng.randint(0, 256, (2, 3072), dtype=np.uint8), "labels": [1, 2], "batch_label": "x"}
    for protocol in (0, 2):
        add(f"CIFAR batch {protocol}", "data_batch_1", pickle.dumps(batch, protocol),
            lambda p: cifar.load_arrays(p.read_bytes(), p.name), "pickle")
    idx = struct.pack(">HBBIII", 0, 8, 3, 2, 4, 4) + bytes(32)
    add("IDX", "train-images-idx3-ubyte", idx, lambda p: mnist._idx(str(p)))
    add("IDX, compressed", "train-images-idx3-ubyte.gz", gzip.compress(idx), lambda p: mnist._idx(str(p)))
    for extension in sorted(IMAGE_EXTENSIONS):
        if (data := quantised(extension)) is not None:
            add(f"image {extension}", f"a{extension}", data, picture)

    # what runs leave behind
    line = json.dumps(dict(metric="fid", snapshot_pkl="a.pkl", kimg=1.5, results={"fid": 3.0}))
    add("metric lines", "metric-fid.jsonl", f"{line}\n{line}\n".encode(), lambda p: rating.ratings(p.parent), "json")
    line = json.dumps({"Progress/kimg": dict(num=1, mean=1.0, std=0), "timestamp": 1.0})
    add("log lines", "stats.jsonl", f"{line}\n".encode(), lambda p: training_lines(p), "json")
    return found


def training_lines(path: Path) -> Any:
    """What continuing a run does with its log."""
    from gantransfer import training_loop

    return [training_loop._kimg_of(r) for _, r in json_file.records(path.read_bytes())]


def quietly(function: Callable[..., Any], *args: Any) -> Any:
    """Without what it prints about damage."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        return function(*args)


def members(data: bytes) -> dict[str, bytes] | None:
    """The files of a zip; None for anything else."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as z:
            return {i.filename: z.read(i) for i in z.infolist()}
    except Exception:
        return None
