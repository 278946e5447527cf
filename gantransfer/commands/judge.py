# SPDX-License-Identifier: Apache-2.0
"""Train the small classifier that judges generated images: `gantransfer judge --data=POOL --heldout=REF`.

It becomes the detector `digits32` (or --name): metrics fd_digits32_<N>, report_digits32. The shipped weights were made
by this command from real digits; see gantransfer/assets.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dnnlib import util
from dnnlib.util import UserError
from gantransfer.commands import CONTEXT
from gantransfer.commands.flags import PATH, SEED, FloatRange, IntRange

if TYPE_CHECKING:
    from gantransfer.data.dataset import ImageDataset

def _load(flag: str, path: str) -> ImageDataset:
    from gantransfer.data.dataset import ImageDataset

    data = ImageDataset(path, use_labels=True)
    if data.class_ids is None and not data.spec.label.meta:
        raise UserError(f"{flag}={path}: the judge learns classes or one continuous label, and this set has neither in "
                        "dataset.json")
    return data


@click.command(context_settings=CONTEXT)
@click.option("--data", required=True, type=PATH, metavar="ZIP|DIR", help="Labelled images to learn from")
@click.option("--heldout", type=PATH, metavar="ZIP|DIR", help="Labelled images to report the accuracy on "
              "[default: a tenth of each class of --data, which is then not trained on]")
@click.option("--out", required=True, type=PATH, metavar="FILE",
              help="Weights file to write; the descriptor goes beside it")
@click.option("--name", default="digits32", show_default=True,
              help="Detector name: metrics are called fd_NAME_<N>, report_NAME")
@click.option("--seed", type=SEED, default=0, show_default=True)
@click.option("--epochs", type=IntRange(min=1), default=40, show_default=True)
@click.option("--min-accuracy", type=FloatRange(0, 1), help="Fail when that accuracy is lower")
def main(data: str, heldout: str | None, out: str, name: str, seed: int, epochs: int,
         min_accuracy: float | None) -> None:
    """Train a small judge network on labelled images."""
    import numpy as np

    from gantransfer.data import resolution
    from gantransfer.data.dataset import HELDOUT, ImageDataset, can_hold_out
    from gantransfer.detectors.descriptor import NAME
    from gantransfer.detectors.features import reserved_names
    from gantransfer.detectors.judge_training import accuracy, mean_error, save_judge, train_judge
    from gantransfer.detectors.weights import package_data

    if not NAME.fullmatch(name) or name in reserved_names():
        raise UserError(f"--name={name}: letters, digits, '-' and '.' only, and not a published detector's name")
    util.check_writable("--out", out, True)
    train = _load("--data", data)
    test, where = train, "on the training images themselves, for none could be held out; give --heldout"
    if heldout:
        test, where = _load("--heldout", heldout), ""
    elif can_hold_out(train):
        where = "held out of --data and not trained on; --heldout=PATH measures on others and trains on all"
        args = dict(use_labels=True, seed=seed, heldout=HELDOUT, label_dim=train.label_dim)
        train, test = ImageDataset(data, **args), ImageDataset(data, part="heldout", **args)
    if train.resolution % 8:
        to = resolution.nearest(train.resolution, 8)
        raise UserError(f"{data} has {train.resolution}x{train.resolution} images; the judge needs a multiple of 8: "
                        f"dataset_tool.py --resolution={to}x{to}")
    if test.image_shape != train.image_shape:
        raise UserError(f"--heldout={heldout}: images are {test.image_shape}, those of --data {train.image_shape}")
    values = train.class_ids is None
    if (test.class_ids is None) != values:
        raise UserError(f"--heldout={heldout}: classes on one side, a continuous label on the other")
    if values and min_accuracy is not None:
        raise UserError("--min-accuracy is for classes; --data has a continuous label")
    start = time.time()
    images = train.images_uint8(np.arange(len(train)))
    classes = max(train.label_dim, test.label_dim)
    label = train.spec.label if values else None
    y = train.labels(np.arange(len(train)))[:, 0] if values else train.class_ids
    net = train_judge(images, y, seed=seed, epochs=epochs, num_classes=classes, progress=True, label=label)
    print(f"trained on {len(train)} images in {time.time() - start:.1f} s")
    kind = "training" if test is train else "held-out"
    if values:
        error = mean_error(net, test.images_uint8(np.arange(len(test))), test.labels(np.arange(len(test)))[:, 0])
        print(f"{kind} error {error:.3g} {label.meta['unit']} (mean absolute) on {len(test)} images {where}".rstrip())
    else:
        value = accuracy(net, test.images_uint8(np.arange(len(test))), test.class_ids)
        print(f"{kind} accuracy {value:.4f} on {len(test)} images {where}".rstrip())
        if min_accuracy is not None and value < min_accuracy:
            raise UserError(f"{kind} accuracy {value:.4f} is below --min-accuracy={min_accuracy}; nothing written")
    path = save_judge(net, Path(out), name)
    print(f"wrote {out} and {path}")
    if path.parent.resolve() != package_data():
        print(f"use it with --detector={name}={out}", file=sys.stderr)
