# SPDX-License-Identifier: Apache-2.0
"""Inception's features of uint8 images: our detector against torch-fidelity's extractor, on one file of random weights.

    python -m pip install --no-deps -r requirements-compare.txt
    python -m tests.bench.bench_metrics --out=metrics.json

Both resize as TensorFlow 1 did and run in float32, in turn, a batch at a time; from that the time of 10,000 images is
printed. The largest difference of a feature is reported with the times, as a share of the largest feature.
"""

import argparse
import importlib
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dnnlib.util import UserError  # noqa: E402
from gantransfer.detectors import features, inception  # noqa: E402
from tests.bench import common  # noqa: E402
from tests.metrics.other_libraries import libraries  # noqa: E402
from torch_utils import heap  # noqa: E402


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--sizes", default="32,256", help="pixels a side")
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--rounds", type=int, default=10)
    return p


def run(args: argparse.Namespace) -> dict:
    common.prepare("cpu", args.threads)
    torch.manual_seed(0)
    report = dict(common.facts("cpu", args.threads), rows=[], ratios=[], bars=[])
    with tempfile.TemporaryDirectory() as folder, libraries():
        try:
            kind = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3").FeatureExtractorInceptionV3
        except ImportError as e:
            raise UserError(f"this bench needs torch-fidelity ({e}): pip install --no-deps -r requirements-compare.txt"
                            ) from None
        weights = Path(folder, "inception.pt")
        torch.save(inception.InceptionV3("fid").state_dict(), weights)
        theirs = kind("inception", ["2048"], feature_extractor_weights_path=str(weights))
        heap.keep_freed()  # as calc_metrics does
        ours = features.load("inception", "cpu", {"inception": weights})
        for size in map(int, args.sizes.split(",")):
            x = torch.randint(0, 256, [args.batch, 3, size, size], dtype=torch.uint8)
            variants = {"ours": lambda x=x: ours(x).features, "torch-fidelity": lambda x=x: theirs(x)[0]}
            with torch.no_grad():
                a, b = (f() for f in variants.values())
                gap = float((a - b).abs().max() / b.abs().max())
                timer = common.Timer("cpu", args.threads)
                timer.rounds = {"cpu": args.rounds}
                ms = timer(variants, 0)
            shape = [args.batch, 3, size, size]
            report["rows"] += [common.row(None, bench="metrics", op=f"{size}px Inception", variant=k, direction="fwd",
                                          shape=shape, dtype="fp32", layout="nchw", ms=v, max_err=gap)
                               for k, v in ms.items()]
            a, b = (ms[k]["median"] for k in ("torch-fidelity", "ours"))
            report["ratios"].append(dict(op=f"{size}px Inception", shape=shape, dtype="fp32", layout="nchw",
                                         direction="fwd", vs="torch-fidelity", ratio=a / b))
            many = 10 / args.batch
            print(f"{size} px: 10,000 images take {b * many:.0f} s, torch-fidelity {a * many:.0f} s ({a / b:.2f}); "
                  f"features differ by {gap:.1g} of the largest", flush=True)
    return report


if __name__ == "__main__":
    common.main(parser(), run)
