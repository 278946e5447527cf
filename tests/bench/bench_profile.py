# SPDX-License-Identifier: Apache-2.0
"""Where the time of a training step goes: by phase, kind of operator, and size of the feature map that it works on.

    python -m tests.bench.bench_profile --cfg=32,64,128 --out=profile.json

The networks of `against_original`, our side alone, one thread. An operator's time is the median of its calls with the
same shapes, times their number, so that what other programs take away counts little; where the sum is still more than
what the phase takes without the profiler (processor time), all are made less by one factor. "outside operators" is what
the phase takes beyond them: autograd, Python, memory. A size between two powers of two (a border) is
the lower one. Only operators of at least half a per cent of their phase are rows of the file.
"""

import argparse
import re
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dnnlib.util import UserError  # noqa: E402
from tests.bench import common  # noqa: E402
from tests.bench.against_original import NETS, WEIGHT  # noqa: E402
from tests.bench.our_step import Ours  # noqa: E402

OUTSIDE = "outside operators"
MAPPED = 1 << 28  # numbers
KINDS = (  # the first that matches names an operator
    ("3x3, forward", r"gantransfer::conv3x3$"),
    ("3x3, input gradient", r"gantransfer::conv3x3_input_grad"),
    ("3x3, weight gradient", r"gantransfer::conv3x3_weight_grad"),
    ("filters (up, down, blur)", r"gantransfer::(upfirdn2d|blur)"),
    ("bias, noise, activation", r"gantransfer::(epilogue|bias_act)"),
    ("other convolutions", r"aten::.*conv"),
    ("products of matrices", r"aten::(mm|addmm|bmm|baddbmm|dot|mv)$|gantransfer::weight_sq"),
    ("Adam, average, check for infinities", r"adam|_foreach|Optimizer|aten::lerp"),
    ("elementwise, sums, copies", r"aten::"),
)


def kind(name: str) -> str | None:
    return next((k for k, pattern in KINDS if re.search(pattern, name, re.I)), None)


def size_of(shapes: list) -> int:
    """Of the largest feature map among an operator's inputs; 0 without one."""
    sides = [min(s[2:]) for s in shapes if len(s) == 4]
    return 1 << (max(sides).bit_length() - 1) if sides and max(sides) >= 4 else 0


def profiled(ours: Ours, phase: str, rounds: int) -> tuple[dict[tuple[str, int], float], float]:
    """({(kind, size): ms}, ms of the phase without the profiler)."""
    def step():
        ours.ema() if phase == "average" else ours.phase(phase)

    clock = []
    for _ in range(rounds + 1):
        start = time.thread_time()
        step()
        clock.append((time.thread_time() - start) * 1e3)
    calls = defaultdict(list)
    torch.ones(MAPPED)  # in the heap from now on: else the profiler's notes take what a step would use again
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as found:
        for _ in range(rounds):
            step()
    for e in found.events():
        if kind(e.name):
            calls[e.name, str(e.input_shapes)].append((e.self_cpu_time_total / 1e3, e.input_shapes))
    out: Counter = Counter()
    for (name, _), of in calls.items():
        out[kind(name), size_of(of[0][1])] += statistics.median(t for t, _ in of) * len(of) / rounds
    whole = statistics.median(clock[1:])
    share = min(whole / sum(out.values()), 1)
    out = Counter({part: ms * share for part, ms in out.items()})
    out[OUTSIDE, 0] = whole - sum(out.values())
    return dict(out), whole


def run(args) -> dict:
    torch.set_num_threads(1)
    names = args.cfg.split(",")
    if unknown := [n for n in names if n not in NETS]:
        raise UserError(f"--cfg={unknown[0]}: it knows {', '.join(NETS)}")
    rows = []
    for name in names:
        resolution, widest, batch, classes, res_uc = NETS[name]
        with tempfile.TemporaryDirectory() as folder:
            ours = Ours(str(Path(folder, "weights.pt")), resolution, batch, classes,
                        dict(channel_base=16384, channel_max=widest), 512, res_uc, "fp32")
        table: dict[str, Counter] = defaultdict(Counter)
        for phase, weight in WEIGHT.items():
            parts, whole = profiled(ours, phase, args.rounds)
            for (what, size), ms in parts.items():
                table[what][f"{size} px" if size else "none"] += weight * ms
                table[what][phase] += ms
                if ms >= 0.005 * whole:
                    rows.append(common.row(None, bench="profile", op=f"{name} {phase}: {what}", variant="ours",
                                           direction="step", shape=[size], dtype="fp32", layout="auto",
                                           ms=dict(median=ms, q1=None, q3=None, n=args.rounds)))
            table["all"][phase] = whole
        show(name, table)
    return dict(common.facts("cpu", 1), rows=rows, ratios=[], bars=[])


def show(name: str, table: dict[str, Counter]) -> None:
    """Per cent of every phase, and of a whole step by size of the feature map."""
    step = sum(weight * table["all"][p] for p, weight in WEIGHT.items())
    sizes = sorted({s for row in table.values() for s in row if s.endswith("px")}, key=lambda s: int(s.split()[0]))
    print(f"{name}: a step takes {step:.1f} ms. Per cent of each phase; then of the step, by size of the map")
    print(f"{'':37s}" + "".join(f"{h:>8s}" for h in [*WEIGHT, "step", *sizes, "none"]))
    for what in [*(k for k, _ in KINDS), OUTSIDE]:
        row = table[what]
        whole = sum(weight * row[p] for p, weight in WEIGHT.items())
        cells = [100 * row[p] / table["all"][p] for p in WEIGHT]
        cells += [100 * v / step for v in (whole, *(row[s] for s in [*sizes, "none"]))]
        print(f"{what:37s}" + "".join(f"{c:8.1f}" for c in cells), flush=True)


def parser():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--cfg", default="32,64,128", help=f"of {', '.join(NETS)}")
    p.add_argument("--rounds", type=int, default=10)
    return p


if __name__ == "__main__":
    common.main(parser(), run)
