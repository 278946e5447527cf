# SPDX-License-Identifier: Apache-2.0
"""Fuzz the readers of checkpoints, data sets and dataset.json: `python -m tests.fuzz --seconds=600`.

A byte mutator changes valid files; whatever it makes must load or be refused in one line. The test-suite runs a few
seconds of it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pickle
import random
import struct
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from dnnlib.util import UserError
from gantransfer import plain_weights
from gantransfer.dataset import ImageDataset
from gantransfer.importers import load_any
from gantransfer.snapshot import NetRecord, Snapshot
from tests.conftest import write_image_zip

TOKENS = [b"\x00", b"\xff", b".", b"R", b"b", b"\x93", b"cos\nsystem\n", b"\x8c\x02os", b"(", b"t", b"]", b"}", b"\x85",
          b"q\x00", b"h\x00", struct.pack("<I", 2**31 - 1), struct.pack("<Q", 2**63 - 1), b"-1", b"1e999", b"null",
          b"[", b'{"', b"../", b"PK\x05\x06", b"PK\x01\x02"]


def seeds(folder: Path) -> dict[str, tuple[bytes, Callable[[Path], object]]]:
    """Valid files by name, and what reads them."""
    networks = importlib.import_module("gantransfer.networks.stylegan2")
    torch.manual_seed(0)
    net = networks.Generator(4, 0, 4, 8, 1, mapping_kwargs={"num_layers": 1},
                             synthesis_kwargs={"channel_base": 16, "channel_max": 2})
    snap = Snapshot("stylegan2", {"G_ema": NetRecord.of(net)})
    snap.save(folder / "own.pkl")
    plain_weights.save_safetensors(snap, folder / "own.safetensors")
    state = {f"blocks.{i}.0.conv1.weight": torch.zeros(4, 4, 1, 1) for i in range(3)}
    for legacy in (False, True):
        torch.save(dict(models=dict(mapping_fl=state, generator=state), opt=torch.nn.ReLU()),
                   folder / f"torch{int(legacy)}.pth", _use_new_zipfile_serialization=not legacy)
    (folder / "plain.pkl").write_bytes(pickle.dumps(dict(G=[1, "a", (2.5, None)], D={"x": {1, 2}}), protocol=4))
    rng = np.random.RandomState(0)
    write_image_zip(folder / "data.zip", [rng.randint(0, 256, [8, 8, 3], dtype=np.uint8) for _ in range(3)], [0, 1, 0])

    def model(path: Path) -> object:
        return load_any(path).build("G_ema")

    def data(path: Path) -> object:
        d = ImageDataset(path, use_labels=True)
        return [d[i] for i in range(len(d))]

    def labels(path: Path) -> object:
        target = path.with_suffix(".zip")
        with zipfile.ZipFile(folder / "data.zip") as z, zipfile.ZipFile(target, "w") as out:
            for name in z.namelist():
                out.writestr(name, path.read_bytes() if name == "dataset.json" else z.read(name))
        return data(target)

    with zipfile.ZipFile(folder / "data.zip") as z:
        text = z.read("dataset.json")
    found = {p.name: (p.read_bytes(), model) for p in sorted(folder.iterdir()) if p.name != "data.zip"}
    return {**found, "data.zip": ((folder / "data.zip").read_bytes(), data), "labels.json": (text, labels)}


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One to four changes: bits, tokens, deletions, copies, truncation, and in JSON values of other kinds."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not out:
            break
        at, kind = rng.randrange(len(out)), rng.randrange(6)
        if rng.random() < 0.5:
            at = min(at, rng.randrange(1, 400))  # headers matter more than weights
            at = min(at, len(out) - 1)
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            token = rng.choice(TOKENS)
            out[at : at + len(token)] = token
        elif kind == 2:
            out[at:at] = rng.choice(TOKENS)
        elif kind == 3:
            del out[at : at + rng.randint(1, 32)]
        elif kind == 4:
            out[at:at] = out[(s := rng.randrange(len(out))) : s + rng.randint(1, 64)]
        elif rng.random() < 0.2:
            del out[at:]
    return bytes(out)


def run(seconds: float, seed: int = 0) -> Counter:
    """Counts of 'kind: loaded / refused'. Anything but these two raises AssertionError with the way to repeat it."""
    counts: Counter = Counter()
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "seeds"
        folder.mkdir()
        files = seeds(folder)
        watched = Path(place) / "work"
        watched.mkdir()
        end = time.monotonic() + seconds
        while time.monotonic() < end or len(counts) < len(files):
            for name, (data, read) in files.items():
                path = watched / name
                path.write_bytes(mutate(data, rng))
                start = time.monotonic()
                try:
                    read(path)
                    outcome = "loaded"
                except UserError as e:
                    outcome = "refused"
                    assert "\n" not in str(e), f"{name}: a message of several lines: {e}"
                except Exception as e:
                    keep = Path(tempfile.gettempdir()) / f"fuzz-{seed}-{name}"
                    keep.write_bytes(path.read_bytes())
                    raise AssertionError(f"{name}: {type(e).__name__}: {e}; the file is kept as {keep}") from e
                assert time.monotonic() - start < 20, f"{name} took too long"
                counts[f"{name}: {outcome}"] += 1
                extra = {p.name for p in watched.iterdir()} - {*files, "labels.zip"}
                assert not extra, f"{name}: wrote {extra}"
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    counts = run(args.seconds, args.seed)
    print(json.dumps(dict(sorted(counts.items())), indent=1))
    print(f"{sum(counts.values())} files, all loaded or refused in one line", file=sys.stderr)


if __name__ == "__main__":
    main()
