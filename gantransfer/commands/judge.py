# SPDX-License-Identifier: Apache-2.0
"""Train the small classifier that judges generated images: `gantransfer judge --data=POOL --heldout=REF`.

It becomes the detector --name: metrics fd_NAME_<N>, report_NAME. The shipped weights, `digits32`, were made by this
command from real digits; see gantransfer/assets.
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
    import numpy as np

    from gantransfer.data.dataset import ImageDataset
    from gantransfer.detectors.judge_training import Score

HELDOUT = 0.2  # of each class, when nothing else is given to measure on
SHOWN = 30  # classes in the table; of more, those named worst


def _load(flag: str, path: str) -> ImageDataset:
    from gantransfer.data.dataset import ImageDataset

    data = ImageDataset(path, use_labels=True)
    if data.class_ids is None and not data.spec.label.meta:
        raise UserError(f"{flag}={path}: the judge learns classes or one continuous label, and this set has neither in "
                        "dataset.json")
    return data


def held_out(ids: np.ndarray | None, count: int, seed: int) -> np.ndarray:
    """Sorted positions to measure on: of each class with two images or more HELDOUT, at least one; without classes of
    all images."""
    import numpy as np

    from gantransfer.data import holdout

    ids = np.zeros(count, np.int64) if ids is None else ids
    several = np.flatnonzero(np.bincount(ids)[ids] > 1)
    return several[holdout.choose(ids[several], HELDOUT, seed)]


def _table(found: Score, names: tuple, classes: int) -> str:
    """A line per class; of many classes the ones that are named worst."""
    order = list(found.recall)
    if len(order) > SHOWN:
        order = sorted(order, key=lambda k: found.recall[k])[:SHOWN]
    lines = [f"  {'class':24}{'images':>7}  accuracy"]
    for k in order:
        name = f"{k} {util.printable(str(names[k]))}" if k < len(names) and str(names[k]) != str(k) else str(k)
        lines.append(f"  {name[:23]:24}{found.images[k]:7d}{found.recall[k]:10.2f}")
    if len(order) < len(found.recall):
        lines.append(f"  ... and {len(found.recall) - len(order)} classes that it names better")
    if missing := classes - len(found.recall):
        lines.append(f"  {missing} class{'es' * (missing > 1)} without an image to measure on")
    return "\n".join(lines)


@click.command(context_settings=CONTEXT)
@click.option("--data", required=True, type=PATH, metavar="ZIP|DIR", help="Labelled images to learn from")
@click.option("--heldout", type=PATH, metavar="ZIP|DIR", help="Labelled images to report the accuracy on "
              "[default: a fifth of each class of --data, which is then not trained on]")
@click.option("--out", required=True, type=PATH, metavar="FILE",
              help="Weights file to write; the descriptor goes beside it")
@click.option("--name", help="Detector name: metrics are called fd_NAME_<N>, report_NAME [default: that of --out]")
@click.option("--seed", type=SEED, default=0, show_default=True)
@click.option("--epochs", type=IntRange(min=1), default=40, show_default=True)
@click.option("--min-accuracy", type=FloatRange(0, 1), help="Fail when that accuracy is lower")
def main(data: str, heldout: str | None, out: str, name: str | None, seed: int, epochs: int,
         min_accuracy: float | None) -> None:
    """Train a small judge network on labelled images."""
    import numpy as np

    from gantransfer.detectors.descriptor import NAME
    from gantransfer.detectors.features import reserved_names
    from gantransfer.detectors.judge_training import mean_error, save_judge, score, train_judge, unequal
    from gantransfer.detectors.weights import package_data

    named, name = (f"--name={name}", name) if name else (f"--out={out}: give --name", Path(out).stem.replace("_", "-"))
    if not NAME.fullmatch(name) or name in reserved_names():
        raise UserError(f"{named}: letters, digits, '-' and '.' only, and not a published detector's name")
    util.check_writable("--out", out, True)
    train = _load("--data", data)
    test, rows, tested, where = train, np.arange(len(train)), None, ""
    if heldout:
        test = _load("--heldout", heldout)
    else:
        tested = held_out(train.class_ids, len(train), seed)
        rows = np.setdiff1d(rows, tested) if len(tested) else rows
        where = ("held out of --data and not trained on; --heldout=PATH measures on others and trains on all"
                 if len(tested) else
                 "on the training images themselves, for none could be held out; give --heldout")
    if test.image_shape != train.image_shape:
        raise UserError(f"--heldout={heldout}: images are {test.image_shape}, those of --data {train.image_shape}")
    values = train.class_ids is None
    if (test.class_ids is None) != values:
        raise UserError(f"--heldout={heldout}: classes on one side, a continuous label on the other")
    if values and min_accuracy is not None:
        raise UserError("--min-accuracy is for classes; --data has a continuous label")
    if tested is None or not len(tested):
        tested = np.arange(len(test))
    start = time.time()
    classes = max(train.label_dim, test.label_dim)
    label = train.spec.label if values else None
    y = train.labels(rows)[:, 0] if values else train.class_ids[rows]
    net = train_judge(train.images_uint8(rows), y, seed=seed, epochs=epochs, num_classes=classes, progress=True,
                      label=label)
    equally = "" if values or not unequal(y) else ", every class equally often"
    print(f"trained on {len(rows)} images in {time.time() - start:.1f} s{equally}")
    kind = "training" if test is train and len(rows) == len(train) else "held-out"
    images, found = test.images_uint8(tested), None
    if values:
        error = mean_error(net, images, test.labels(tested)[:, 0])
        print(f"{kind} error {error:.3g} {label.meta['unit']} (mean absolute) on {len(tested)} images {where}".rstrip())
    else:
        found = score(net, images, test.class_ids[tested])
        print(f"{kind} accuracy {found.accuracy:.4f} on {len(tested)} images, balanced {found.balanced:.4f} {where}"
              .rstrip())
        print(_table(found, train.spec.label.names, train.label_dim))
        if min_accuracy is not None and found.accuracy < min_accuracy:
            raise UserError(f"{kind} accuracy {found.accuracy:.4f} is below --min-accuracy={min_accuracy}; nothing "
                            "written")
        if found.weak:
            print(f"Warning: this judge is too weak: balanced accuracy {found.balanced:.2f} on {len(found.recall)} "
                  f"classes is less than half the way from chance ({found.chance:.2f}) to 1, that is, below "
                  f"{found.needed:.2f}. What it says of labels and of rare classes means little: larger or more "
                  "images, fewer classes (dataset_tool --classes), or more --epochs", file=sys.stderr)
    path = save_judge(net, Path(out), name, found if kind == "held-out" else None)
    print(f"wrote {out} and {path}")
    if path.parent.resolve() != package_data():
        print(f"use it with --detector={name}={out}", file=sys.stderr)
