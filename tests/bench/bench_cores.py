# SPDX-License-Identifier: Apache-2.0
"""What a second core gives: commands with one thread, with two threads, and with two processes; seconds of the clock.

    python -m tests.bench.bench_cores --data=SET.zip --network=SNAPSHOT --out=cores.json

`train` is --cfg=small on the set, in seconds per kimg of the last status line, which counts no start. `generate` writes
10,000 images, `calc_metrics` compares 10,000 with the set: the whole command, of which importing torch and joining are
2 to 3 s. In turn, the least of --rounds; only on a machine that does nothing else does it say anything.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dnnlib.util import UserError  # noqa: E402
from tests.bench import common  # noqa: E402

WAYS = {"one": (1, 1), "two threads": (1, 2), "two processes": (2, 1)}  # processes, threads of each
PER_KIMG = r"sec/kimg ([0-9.]+)"
COMMANDS = {  # name -> words, and what the seconds are in the output (None: the clock's)
    "train": (["train", "--data=DATA", "--cond=True", "--cfg=small", "--kimg=KIMG", "--tick=0.5", "--metrics=none",
               "--outdir=OUT", "--threads=THREADS", "--gpus=PROCESSES"], PER_KIMG),
    "generate": (["generate", "--network=NETWORK", "--seeds=0-LAST", "--class=0", "--outdir=OUT/set.zip",
                  "--gpus=PROCESSES"], None),
    "calc_metrics": (["calc_metrics", "--network=NETWORK", "--metrics=METRIC_IMAGES", "--data=DATA",
                      "--gpus=PROCESSES"], None),
}


def once(name: str, args, processes: int, threads: int) -> float:
    """Seconds of one command."""
    words, pattern = COMMANDS[name]
    with tempfile.TemporaryDirectory() as out:
        put = dict(DATA=args.data, NETWORK=args.network, OUT=out, THREADS=threads,
                   PROCESSES=processes, KIMG=args.kimg, LAST=args.images - 1, IMAGES=args.images, METRIC=args.metric)
        words = [re.sub("|".join(put), lambda m: str(put[m[0]]), w) for w in words]
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "gantransfer", *words], cwd=common.ROOT,
                              env=dict(os.environ, OMP_NUM_THREADS=str(threads)), capture_output=True, text=True,
                              check=False)
        took = time.perf_counter() - start
    found = re.findall(pattern, done.stdout + done.stderr) if pattern else [took]
    if done.returncode or not found:
        raise UserError(f"gantransfer {' '.join(words)}: {(done.stdout + done.stderr)[-1000:]}")
    return float(found[-1])


def run(args) -> dict:
    names = args.commands.split(",")
    if unknown := [n for n in names if n not in COMMANDS]:
        raise UserError(f"--commands={unknown[0]}: it knows {', '.join(COMMANDS)}")
    args.data, args.network = (str(Path(p).resolve()) if Path(p).exists() else p for p in (args.data, args.network))
    rows, ratios = [], []
    for name in names:
        took: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(args.rounds):
            for way, (processes, threads) in WAYS.items():
                took[way].append(once(name, args, processes, threads) * 1e3)
        for way, ms in took.items():
            rows.append(common.row(None, bench="cores", op=name, variant=way, direction=way, shape=[args.images],
                                   ms=dict(common.quartiles(ms), median=min(ms))))
            ratio = min(took["one"]) / min(ms)
            ratios.append(dict(op=name, shape=[args.images], dtype=None, layout=None, direction=way, vs="one",
                               ratio=ratio))
            print(f"{name:14s}{way:16s}{min(ms) / 1e3:9.2f} s{ratio:8.2f}", flush=True)
    return dict(common.facts("cpu", 1), rows=rows, ratios=ratios, bars=[])


def parser():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", required=True, help="a set of 32-pixel images with classes")
    p.add_argument("--network", required=True, help="a snapshot of its classes")
    p.add_argument("--commands", default=",".join(COMMANDS))
    p.add_argument("--images", type=int, default=10_000)
    p.add_argument("--metric", default="fd_pix64", help="calc_metrics: without the number of images")
    p.add_argument("--kimg", type=float, default=3)
    p.add_argument("--rounds", type=int, default=2)
    return p


if __name__ == "__main__":
    common.main(parser(), run)
