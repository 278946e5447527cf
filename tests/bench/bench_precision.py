# SPDX-License-Identifier: Apache-2.0
"""Whether bf16 trains as float32 does: the losses of a training by each, and of float32 with another seed, overlaid.

    python -m tests.bench.bench_precision --data=SET.zip --kimg=20 --picture=losses.png --out=losses.json

Points are means over half a kimg. How far apart two curves are is the mean over all points of their distance. That of
two seeds is what is left to chance: a precision that trains as well stays within it.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dnnlib import json_file  # noqa: E402
from dnnlib.util import UserError  # noqa: E402
from tests.bench import common  # noqa: E402

TRAININGS = {"float32": ("fp32", 0), "float32, another seed": ("fp32", 1), "bf16": ("bf16", 0)}
LOSSES = ("Loss/G/loss", "Loss/D/loss")
EVERY = 0.5  # kimg


def train(args: argparse.Namespace, precision: str, seed: int) -> dict[str, list[float]]:
    """{'kimg', loss: a point per EVERY kimg}; what was trained in --dir before is not trained again."""
    folder = Path(args.dir) / f"{precision}-seed{seed}"
    found = sorted(folder.glob("*/network-snapshot-*.pkl"))
    if not found:
        words = ["train", f"--data={args.data}", "--cond=True", f"--cfg={args.cfg}", f"--kimg={args.kimg:g}",
                 f"--tick={EVERY}", "--snap=1000", "--metrics=none", f"--precision={precision}", f"--seed={seed}",
                 f"--outdir={folder}"]
        done = subprocess.run([sys.executable, "-m", "gantransfer", *words], cwd=common.ROOT, check=False)
        if done.returncode:
            raise UserError(f"gantransfer {' '.join(words)} ended with {done.returncode}")
        found = sorted(folder.glob("*/network-snapshot-*.pkl"))
    lines = [x for x in json_file.lines(found[-1].parent / "stats.jsonl") if all(k in x for k in LOSSES)]
    del lines[0]  # of the first step alone
    return {"kimg": [x["Progress/kimg"]["mean"] for x in lines], **{k: [x[k]["mean"] for x in lines] for k in LOSSES}}


def distance(a: dict[str, list[float]], b: dict[str, list[float]], loss: str) -> float:
    n = min(len(a[loss]), len(b[loss]))
    return float(np.abs(np.array(a[loss][:n]) - b[loss][:n]).mean())


def draw(path: str, curves: dict[str, dict[str, list[float]]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for ax, loss in zip(figure.subplots(1, len(LOSSES)), LOSSES):
        for (name, curve), dash in zip(curves.items(), ("-", ":", "--")):
            ax.plot(curve["kimg"], curve[loss], dash, label=name, linewidth=1.3)
        ax.set_title({"Loss/G/loss": "loss of the generator", "Loss/D/loss": "loss of the discriminator"}[loss])
        ax.set_xlabel("thousands of images")
        ax.grid(alpha=0.25)
    ax.legend(frameon=False)
    figure.savefig(path, dpi=110)


def run(args: argparse.Namespace) -> dict:
    with tempfile.TemporaryDirectory() as scratch:
        args.dir = args.dir or scratch
        curves = {name: train(args, *which) for name, which in TRAININGS.items()}
    first, *others = curves
    rows, ratios = [], []
    for loss in LOSSES:
        apart = {name: distance(curves[first], curves[name], loss) for name in others}
        rows += [common.row(None, bench="precision", op=loss, variant=name, direction=f"against {first}",
                            shape=[len(curves[name][loss])], max_err=d) for name, d in apart.items()]
        ratios.append(dict(op=loss, shape=None, dtype="bf16", layout=None, direction="distance", vs=others[0],
                           ratio=apart["bf16"] / apart[others[0]]))
        print(loss, *(f"{name}: {d:.3f}" for name, d in apart.items()), sep="  ", flush=True)
    if args.picture:
        draw(args.picture, curves)
    return dict(common.facts("cpu", 1), rows=rows, ratios=ratios, bars=[])


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", required=True, help="a set of images with classes")
    p.add_argument("--cfg", default="small")
    p.add_argument("--kimg", type=float, default=20)
    p.add_argument("--dir", help="keep the trainings here, and go on from them")
    p.add_argument("--picture", metavar="FILE.png", help="the curves")
    return p


if __name__ == "__main__":
    common.main(parser(), run)
