# SPDX-License-Identifier: Apache-2.0
"""Whole training steps and generation: the original code against ours, each in a process of its own, in turn.

    python -m tests.bench.against_original --original=CHECKOUT [--original-utlo=CHECKOUT] --out=original.json

Both sides have the same weights, float32 unless --precision says otherwise for ours, and run the phases as their own
training does: random inputs, loss, gradients, the check for infinities, Adam; then the average of the generator. A
round times each phase once on either side; at least ten rounds. step = Gmain + Dmain + Greg/4 + Dreg/16 + average.
With one thread processor time counts, so that a shared machine matters less. Before that both draw the same images,
whose largest difference is said. Generation is G_ema through the original's call and through our sampler. The original
compiles nothing on a CPU: it runs its own fallback there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dnnlib.util import UserError  # noqa: E402
from gantransfer.__main__ import WAITING  # noqa: E402
from tests.bench import common  # noqa: E402
from torch_utils import build  # noqa: E402

NETS = {  # resolution, widest, batch, classes, res_uc
    "32": (32, 64, 4, 0, None),
    "64": (64, 256, 8, 0, None),
    "128": (128, 512, 4, 0, None),
    "utlo32": (32, 64, 4, 10, 8),
}
WEIGHT = {"Gmain": 1, "Dmain": 1, "Greg": 1 / 4, "Dreg": 1 / 16, "average": 1}  # of a phase in a step
BATCHES = (1, 8, 32)


class Side:
    """A process that answers requests."""

    def __init__(self, *command: str, env: dict[str, str]):
        self.process = subprocess.Popen([sys.executable, *command], env={**os.environ, **env}, text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def __call__(self, **request) -> dict:
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise UserError(f"{' '.join(self.process.args[1:])} ended: {self.process.stderr.read()[-2000:]}")
        return json.loads(line)

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_) -> None:
        self.process.kill()
        self.process.wait()


def training_memory(command: list, make: dict, env: dict[str, str], threads: int) -> float:
    """MiB at the peak of three rounds of training, over those of networks alone: in a process that draws no images."""
    with Side(*map(str, command), env=env) as side:
        start = side(make=make, threads=threads)["peak_mib"]
        for phase in [p for p in WEIGHT if p != "average"] * 3:
            side(phase=phase)
            end = side(ema=True)["peak_mib"]
    return end - start


def measure(name: str, args) -> tuple[list[dict], list[dict]]:
    """(rows, ratios) of one configuration."""
    resolution, widest, batch, classes, res_uc = NETS[name]
    checkout = args.original_utlo if res_uc else args.original
    here, env = Path(__file__).parent, {"OMP_NUM_THREADS": str(args.threads), "GANTRANSFER_KERNELS": args.kernels}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        sizes = dict(weights=str(Path(folder, "weights.pt")), resolution=resolution, batch=batch, classes=classes,
                     dim=512, res_uc=res_uc, widths=dict(channel_base=16384, channel_max=widest))
        commands = {"ours": ([here / "our_step.py"], dict(sizes, precision=args.precision)),
                    "original": ([here / "original_step.py", Path(checkout).resolve()], sizes)}
        peak, sides = {}, {}
        for k, (command, make) in commands.items():  # ours first: it writes the weights
            waits = WAITING if k == "ours" else {}
            if args.part != "images":
                peak[k] = training_memory(command, make, env | waits, args.threads)
            sides[k] = stack.enter_context(Side(*map(str, command), env=env | waits))
            sides[k](make=make, threads=args.threads)
            sides[k](images=2, seed=7, save=str(Path(folder, k)))
        a, b = (torch.load(Path(folder, k), weights_only=True).int() for k in sides)
        gap = int((a - b).abs().max())
        ms: dict[tuple[str, str], list[float]] = {}
        for r in range(args.rounds + 1 if args.part != "images" else 0):  # the first warms up
            for phase in WEIGHT:
                for k, side in sides.items():
                    took = side(ema=True) if phase == "average" else side(phase=phase)
                    if r:
                        ms.setdefault((phase, k), []).append(took["ms"])
        for n in BATCHES if args.part != "steps" else ():
            for r in range(args.rounds + 1):
                for k, side in sides.items():
                    took = side(images=n)["ms"]
                    if r:
                        ms.setdefault((f"images {n}", k), []).append(took)
    middle = {key: common.quartiles(times) for key, times in ms.items()}
    for k in sides if args.part != "images" else ():
        total = sum(middle[phase, k]["median"] * w for phase, w in WEIGHT.items())
        middle["step", k] = dict(median=total, q1=None, q3=None, n=args.rounds)
    dtype, shape = args.precision, [batch, 3, resolution, resolution]
    rows = [common.row(None, bench="original", op=f"{name} {phase}", variant=k, direction="step", shape=shape,
                       dtype=dtype if k == "ours" else "fp32", layout=args.kernels, ms=v, max_err=gap / 255)
            for (phase, k), v in middle.items()]
    ratios = [dict(op=f"{name} {phase}", shape=shape, dtype=dtype, layout=args.kernels, direction="step",
                   vs="original", ratio=middle[phase, "original"]["median"] / middle[phase, "ours"]["median"])
              for phase, k in middle if k == "ours"]
    if args.part != "images":
        ratios.append(dict(op=f"{name} peak memory", shape=shape, dtype=dtype, layout=args.kernels, direction="step",
                           vs="original", ratio=peak["original"] / peak["ours"]))
    print(f"\n{name}: {resolution} px, {widest} channels, batch {batch}, {dtype}, kernels {args.kernels}, "
          f"{args.threads} thread(s); images differ by {gap} of 255" + (f"; peak over start {peak['original']:.0f} and "
          f"{peak['ours']:.0f} MiB" if peak else ""))
    print(f"{'':12s}{'original':>12s}{'ours':>12s}{'ratio':>8s}")
    for phase in [p for p in (*WEIGHT, "step", *(f"images {n}" for n in BATCHES)) if (p, "ours") in middle]:
        x, y = (middle[phase, k]["median"] for k in ("original", "ours"))
        print(f"{phase:12s}{x:10.1f}ms{y:10.1f}ms{x / y:8.2f}", flush=True)
    return rows, ratios


def run(args) -> dict:
    names = args.cfg.split(",") if args.cfg else [n for n in NETS if args.original_utlo or not n.startswith("utlo")]
    unknown = [n for n in names if n not in NETS]
    if unknown:
        raise UserError(f"--cfg={unknown[0]}: it knows {', '.join(NETS)}")
    for flag, path, needed in (("--original", args.original, [n for n in names if not n.startswith("utlo")]),
                               ("--original-utlo", args.original_utlo, [n for n in names if n.startswith("utlo")])):
        if needed and not (path and Path(path, "training", "networks.py").is_file()):
            raise UserError(f"{flag}={path}: --cfg={needed[0]} needs a checkout that has training/networks.py")
    build.implementation("cpu")  # compiled before it is timed
    report = dict(common.facts("cpu", args.threads), rows=[], ratios=[], bars=[])
    for name in names:
        rows, ratios = measure(name, args)
        report["rows"] += rows
        report["ratios"] += ratios
    found = {r["op"]: r["ratio"] for r in report["ratios"]}
    steps = {"32": 2.0, "64": 1.8, "128": 1.5} if args.precision == "fp32" else {"32": 2.5, "64": 2.5, "128": 2.0}
    if args.threads == 1 and args.kernels != "ref":
        report["bars"] = [common.bar(f"step {n}, {args.precision}", found.get(f"{n} step"), limit)
                          for n, limit in steps.items()]
        report["bars"] += [common.bar(f"images at batch {b}, {n}", found.get(f"{n} images {b}"), limit)
                           for n in steps for b, limit in ((1, 2.0), (8, 3.0))]
        report["bars"] += [common.bar(f"peak memory, {n}", found.get(f"{n} peak memory"), 1 / 0.6) for n in steps]
    return report


def parser():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--original", metavar="CHECKOUT", help="StyleGAN2-ADA for PyTorch; its code is run: trust it")
    p.add_argument("--original-utlo", metavar="CHECKOUT", help="the same of UTLO")
    p.add_argument("--cfg", help=f"of {', '.join(NETS)} [default: those whose original is given]")
    p.add_argument("--precision", default="fp32", choices=("fp32", "bf16"), help="of ours; the original has float32")
    p.add_argument("--part", default="all", choices=("all", "steps", "images"), help="what is measured")
    p.add_argument("--kernels", default="auto", choices=("auto", "ref"))
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--rounds", type=int, default=10)
    return p


if __name__ == "__main__":
    common.main(parser(), run)
