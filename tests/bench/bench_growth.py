# SPDX-License-Identifier: Apache-2.0
"""How cost grows: `python -m tests.bench.bench_growth [--parts=size,channels,batch,classes,images]`.

A training step (Gmain, Dmain, a share of the lazy phases as in training) and the generation of images, of StyleGAN2
networks that differ in one thing; and opening a data set of so many images. Processor time on one thread, what differs
in turn within a round.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dnnlib.util import UserError  # noqa: E402
from gantransfer.data.dataset import ImageDataset  # noqa: E402
from tests.bench import bench_step, common  # noqa: E402
from tests.bench.against_original import WEIGHT  # noqa: E402
from tests.bench.our_step import Ours  # noqa: E402

BASE = dict(size=32, channels=64, batch=8, classes=0)
PARTS = {"size": (16, 32, 64, 128), "channels": (32, 64, 128, 256), "batch": (2, 4, 8, 16, 32),
         "classes": (10, 100, 1000, 10_000), "images": (1000, 10_000, 100_000, 1_000_000)}


def network(**changed) -> Ours:
    s = BASE | changed
    with tempfile.TemporaryDirectory() as folder:
        return Ours(f"{folder}/weights", s["size"], s["batch"], s["classes"],
                    dict(channel_base=1 << 20, channel_max=s["channels"]), 512, None, "fp32")


def compare(part: str, values: tuple[int, ...], rounds: int) -> dict[tuple[int, str], dict]:
    """{(value, 'step' or 'images'): quartiles of ms}"""
    nets = {v: network(**{part: v}) for v in values}
    ms: dict[tuple[int, str], list[float]] = {}
    for r in range(rounds + 1):
        for v, net in nets.items():
            total = 0.0
            for phase, weight in WEIGHT.items():
                start = time.process_time()
                net.ema() if phase == "average" else net.phase(phase)
                total += (time.process_time() - start) * weight
            start = time.process_time()
            net.images(net.batch, 0)
            made = time.process_time() - start
            if r:
                ms.setdefault((v, "step"), []).append(total * 1e3)
                ms.setdefault((v, "images"), []).append(made * 1e3)
    return {k: common.quartiles(t) for k, t in ms.items()}


def make_set(path: Path, images: int) -> None:
    """A zip of equal 8-pixel images, a tenth as many classes."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(out, "png")
    names = [f"{i // 1000:05d}/img{i:08d}.png" for i in range(images)]
    with zipfile.ZipFile(path, "w") as z:
        for name in names:
            z.writestr(zipfile.ZipInfo(name), out.getvalue())
        z.writestr("dataset.json", json.dumps({"labels": [[n, k // 10] for k, n in enumerate(names)]}))


def open_set(path: str) -> dict:
    """Processor ms and MiB above the start, of opening a set in this process."""
    peak, start = bench_step.high_water(), time.process_time()
    ImageDataset(path, use_labels=True)
    ms = (time.process_time() - start) * 1e3
    return dict(ms=ms, mib=(bench_step.high_water() - peak) / 1024)


def opened(images: int, rounds: int) -> tuple[dict, float]:
    """(quartiles of ms, MiB) of opening a set, each time in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "set.zip")
        make_set(path, images)
        found = [json.loads(subprocess.run([sys.executable, __file__, f"--open={path}"], capture_output=True, text=True,
                                           check=True, cwd=common.ROOT).stdout) for _ in range(rounds)]
    return common.quartiles([f["ms"] for f in found]), max(f["mib"] for f in found)


def run(args) -> dict:
    parts = args.parts.split(",")
    if unknown := [p for p in parts if p not in PARTS]:
        raise UserError(f"--parts={unknown[0]}: it knows {', '.join(PARTS)}")
    torch.set_num_threads(1)
    rows = []

    def add(part: str, value: int, direction: str, ms: dict, each: str, **more) -> None:
        rows.append(common.row(None, bench="growth", op=f"{part} {value}", variant="ours", direction=direction, ms=ms,
                               dtype="fp32", **more))
        print(f"{part:10s}{value:>9d}  {direction:8s}{ms['median']:12.1f} ms  {each}", flush=True)

    for part in parts:
        values = tuple(v for v in PARTS[part] if v <= args.most)
        if part == "images":
            for v in values:
                ms, mib = opened(v, min(args.rounds, 3))
                add(part, v, "open", ms, f"{ms['median'] / v * 1e3:.2f} us each, {mib:.0f} MiB",
                    saved_bytes=int(mib * 2**20))
            continue
        for (v, what), ms in sorted(compare(part, values, args.rounds).items(), key=lambda kv: (kv[0][1], kv[0][0])):
            add(part, v, what, ms, f"{ms['median'] / (v if part == 'batch' else BASE['batch']):.2f} ms an image")
    return dict(common.facts("cpu", 1), rows=rows, ratios=[], bars=[])


def parser():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--parts", default=",".join(PARTS))
    p.add_argument("--most", type=int, default=1_000_000, help="leave out larger values")
    p.add_argument("--rounds", type=int, default=5)
    return p


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1].startswith("--open="):  # a set, by this process, for `opened`
        print(json.dumps(open_set(sys.argv[1].removeprefix("--open="))))
        sys.stdout.flush()
        os._exit(0)
    common.main(parser(), run)
