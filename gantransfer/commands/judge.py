# SPDX-License-Identifier: Apache-2.0
"""Train the small classifier that judges generated images: `gantransfer judge --data=POOL --heldout=REF`.

It becomes the detector `digits32` (or --name): metrics fd_digits32_<N>, report_digits32. The shipped weights were made
by this command from real digits; see gantransfer/data.
"""

from __future__ import annotations

from dnnlib import signals

if __name__ == "__main__":
    signals.end_in_one_line()

import hashlib
import json
import math
import sys
import time
from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dnnlib import seeding, util
from dnnlib.util import UserError
from gantransfer.commands.flags import PATH, SEED, FloatRange, IntRange
from gantransfer.data import resolution
from gantransfer.data.dataset import ImageDataset, LabelSpec
from gantransfer.detectors.descriptor import NAME
from gantransfer.detectors.features import reserved_names
from gantransfer.detectors.judge import DigitsJudge
from gantransfer.detectors.weights import package_data

HELDOUT = 0.1  # of each class, when nothing else is given to measure on
BATCH, PEAK_LR, SMOOTHING, TOTAL_VARIANCE = 64, 4e-3, 0.05, 100.0


def shift(images: Tensor, offsets: Tensor) -> Tensor:
    """Translate image k by `offsets[k]` = (dy, dx) pixels in -1..1; the border is repeated. [N, C, H, W] -> same."""
    n, _, h, w = images.shape
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    rows = torch.arange(h) + 1 - offsets[:, :1]
    cols = torch.arange(w) + 1 - offsets[:, 1:]
    return padded[torch.arange(n)[:, None, None], :, rows[:, :, None], cols[:, None, :]].permute(0, 3, 1, 2)


def train_judge(images: np.ndarray, labels: np.ndarray, *, seed: int = 0, epochs: int = 40,
                num_classes: int | None = None, progress: bool = False, label: LabelSpec | None = None) -> DigitsJudge:
    """A judge trained on uint8 images [N, C, R, R] with class ids [N]; repeatable for equal arguments and threads.
    `label` of a continuous label: labels [N] in its units; the only logit learns them, in these units, by squared error
    of the normalised label.

    AdamW with a one-cycle schedule to 4e-3, batches of 64, shifts of up to one pixel, label smoothing 0.05. Afterwards
    the features are scaled so that the total variance of `images`' features is 100.
    """
    values = label is not None
    labels = label.normalise(np.asarray(labels, np.float64)) if values else labels
    x, y = torch.from_numpy(images).float(), torch.from_numpy(np.asarray(labels, np.float32 if values else np.int64))
    k = 1 if values else int(y.max()) + 1 if num_classes is None else num_classes
    steps = epochs * math.ceil(len(x) / BATCH)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeding.number(seed))
        net = DigitsJudge(images.shape[2], images.shape[1], k).train()
        opt = torch.optim.AdamW(net.parameters(), lr=PEAK_LR)
        schedule = torch.optim.lr_scheduler.OneCycleLR(opt, PEAK_LR, total_steps=steps)
        for epoch in range(epochs):
            total = 0.0
            for rows in torch.randperm(len(x)).split(BATCH):
                batch = shift(x[rows], torch.randint(-1, 2, (len(rows), 2)))
                logits = net(batch).logits
                loss = F.mse_loss(logits[:, 0], y[rows]) if values else F.cross_entropy(
                    logits, y[rows], label_smoothing=SMOOTHING)
                opt.zero_grad(set_to_none=True)
                loss.backward()
                opt.step()
                schedule.step()
                total += float(loss.detach()) * len(rows)
            if progress and (epoch + 1) % 10 == 0:
                print(f"epoch {epoch + 1:3d}/{epochs}  loss {total / len(x):.4f}", flush=True)
    net.eval().requires_grad_(False)
    variance = float(judge(net, images)[0].double().var(0).sum())
    if not math.isfinite(variance) or variance <= 0:
        raise UserError("training of the judge failed: its features do not vary; try another --seed")
    net.feature_scale.fill_((TOTAL_VARIANCE / variance) ** 0.5)
    if values:  # from normalised labels to label units, inside the last layer
        net.classify.weight.mul_(label.raw(1.0) - label.raw(0.0))
        net.classify.bias.copy_(label.raw(net.classify.bias))
    return net


@torch.no_grad()
def judge(net: DigitsJudge, images: np.ndarray) -> tuple[Tensor, Tensor]:
    """(features [N, D], logits [N, K]) of uint8 images, in batches."""
    out = [net(part.float()) for part in torch.from_numpy(images).split(512)]
    return torch.cat([o.features for o in out]), torch.cat([o.logits for o in out])


def accuracy(net: DigitsJudge, images: np.ndarray, labels: np.ndarray) -> float:
    """Share of images whose class the judge names."""
    return float((judge(net, images)[1].argmax(1).numpy() == labels).mean())


def mean_error(net: DigitsJudge, images: np.ndarray, labels: np.ndarray) -> float:
    """Mean absolute error of a judge of a continuous label, in label units."""
    return float(np.abs(judge(net, images)[1][:, 0].double().numpy() - labels).mean())


def save_judge(net: DigitsJudge, out: Path, name: str) -> Path:
    """Write the weights (tensors only) and, beside them, the descriptor. Returns the descriptor's path."""
    with util.atomic_path(out) as tmp:
        torch.save(net.state_dict(), tmp)
    kw = net.init_kwargs
    descriptor = dict(
        name=name, version=1, kind="state_dict", file=out.name, sha256=hashlib.sha256(out.read_bytes()).hexdigest(),
        arch="digits_judge", arch_kwargs=kw, classes=list(range(kw["num_classes"])),
        input=dict(range=[0, 255], dtype="float32", channels=kw["channels"], size=kw["resolution"], resize=None,
                   mean=[0], std=[1], quantize_uint8=True),
        outputs=dict(features=dict(key=0, dim=kw["num_features"]),
                     logits=dict(key=1, dim=kw["num_classes"], unbiased=False)))
    path = out.with_suffix(".detector.json")
    with util.atomic_write(path) as f:
        f.write(json.dumps(descriptor, indent=1) + "\n")
    return path


def _load(flag: str, path: str) -> ImageDataset:
    data = ImageDataset(path, use_labels=True)
    if data.class_ids is None and not data.spec.label.meta:
        raise UserError(f"{flag}={path}: the judge learns classes or one continuous label, and this set has neither in "
                        "dataset.json")
    return data


@click.command()
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
    if not NAME.fullmatch(name) or name in reserved_names():
        raise UserError(f"--name={name}: letters, digits, '-' and '.' only, and not a published detector's name")
    util.check_writable("--out", out, True)
    train = _load("--data", data)
    test, where = train, "on the training images themselves, for none could be held out; give --heldout"
    if heldout:
        test, where = _load("--heldout", heldout), ""
    elif len(train) > 1 and (train.class_ids is None or max(train.spec.label.counts) > 1):
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


if __name__ == "__main__":
    util.run_cli(main)
