# SPDX-License-Identifier: Apache-2.0
"""From a command to its first useful output: `python -m tests.bench.bench_start [--commands=view,generate]`.

Each command is a process of its own, in turn with `python -c "import torch"`, which most of them contain; processor
seconds, and seconds of the clock, until the line that a user waits for (of commands that end soon, until their end).
With warm caches: kernels are compiled and every file was read before the first round counts.
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

TORCH = "import torch"
SEEDS = ["--network=digits", "--seeds=0"]
COMMANDS = {  # name -> its words, and what the line says that a user waits for (None: its end)
    "help": (["--help"], None),
    "train, help": (["train", "--help"], None),
    "generate, help": (["generate", "--help"], None),
    "dataset_tool, help": (["dataset_tool", "--help"], None),
    "inspect": (["inspect", "digits"], None),
    "generate": (["generate", *SEEDS, "--class=0", "--grid=OUT/sheet.png"], None),
    "view": (["view", "--network=digits", "--port=0"], "http://"),
    "convert": (["convert", "digits", "OUT/digits.safetensors"], None),
    "interpolate": (["interpolate", "--network=digits", "--output=OUT/walk.png"], None),
    "dataset_tool": (["dataset_tool", "--source=sklearn:digits", "--dest=OUT/digits.zip"], None),
    "lt_dataset": (["lt_dataset", "--fn=OUT/digits.zip", "--imf=25"], None),  # of the line above
    "calc_metrics": (["calc_metrics", "--network=digits", "--metrics=fd_digits32_500", "--data=OUT/digits.zip"], None),
    "doctor": (["doctor"], None),
    "calc_metrics, help": (["calc_metrics", "--help"], None),
    "train": (["train", "--cond=True", "--outdir=OUT"], "tick"),
}


def processor_seconds(pid: int) -> float:
    """Of a process and of those it has waited for, from its place in /proc."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def once(command: list[str], waits_for: str | None) -> tuple[float, float]:
    """(processor, clock) seconds until the line that holds `waits_for`, or until the end."""
    start, said = time.perf_counter(), ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=common.ROOT) as p:
        for line in p.stdout:
            said += line
            if waits_for is not None and re.search(waits_for, line):
                break
        else:
            os.waitid(os.P_PID, p.pid, os.WEXITED | os.WNOWAIT)  # ended, and not yet forgotten
        took = processor_seconds(p.pid), time.perf_counter() - start
        p.kill()
    if waits_for is not None and not re.search(waits_for, said) or waits_for is None and p.returncode:
        raise UserError(f"`{' '.join(command)}` ended without what was waited for: {said[-500:]}")
    return took


def run(args) -> dict:
    names = args.commands.split(",") if args.commands else list(COMMANDS)
    if unknown := [n for n in names if n not in COMMANDS]:
        raise UserError(f"--commands={unknown[0]}: it knows {', '.join(COMMANDS)}")
    times: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as out:
        for r in range(args.rounds + 1):  # the first warms the caches
            for name in (TORCH, *names):
                words, waits_for = COMMANDS.get(name, ([], None))
                command = [sys.executable, "-c", TORCH] if name == TORCH else [
                    sys.executable, "-m", "gantransfer", *(w.replace("OUT", f"{out}/{r}") for w in words)]
                took = once(command, waits_for)
                if r:
                    times.setdefault(name, []).append(took)
    processor = {n: common.quartiles([t[0] * 1e3 for t in ts]) for n, ts in times.items()}
    clock = {n: common.quartiles([t[1] * 1e3 for t in ts]) for n, ts in times.items()}
    report = dict(common.facts("cpu", 1), rows=[
        common.row(None, bench="start", op=n, variant=variant, direction="start", ms=ms[n])
        for variant, ms in (("processor", processor), ("clock", clock)) for n in times], ratios=[])
    print(f"{'':20s}{'processor':>12s}{'clock':>10s}{'/ import torch':>16s}")
    for n in times:
        ms, ratio = processor[n]["median"], processor[n]["median"] / processor[TORCH]["median"]
        report["ratios"].append(dict(op=n, shape=None, dtype=None, layout=None, direction="start", vs=TORCH,
                                     ratio=ratio))
        print(f"{n:20s}{ms / 1e3:10.2f} s{clock[n]['median'] / 1e3:8.2f} s{ratio:16.2f}", flush=True)
    report["bars"] = [common.bar(f"{n}, processor seconds", processor[n]["median"] / 1e3, 2.0, most=True)
                      for n in names]
    return report


def parser():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--commands", help=f"of {', '.join(COMMANDS)} [default: all]")
    p.add_argument("--rounds", type=int, default=5)
    return p


if __name__ == "__main__":
    common.main(parser(), run)
