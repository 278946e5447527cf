# SPDX-License-Identifier: Apache-2.0
"""Training the small network that judges generated images, and writing it as a detector."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dnnlib import seeding, util
from dnnlib.util import UserError
from gantransfer.detectors.judge import DigitsJudge
from gantransfer.networks.sizes import ImageSize
from torch_utils import optimizers

if TYPE_CHECKING:
    from gantransfer.data.labels import LabelSpec

BATCH, PEAK_LR, SMOOTHING, TOTAL_VARIANCE = 64, 4e-3, 0.05, 100.0
UNEQUAL = 2  # classes are drawn equally often where the largest has so many times the images of the smallest
ENOUGH = 0.5  # a judge goes at least so much of the way from chance to always right


def shift(images: Tensor, offsets: Tensor) -> Tensor:
    """Translate image k by `offsets[k]` = (dy, dx) pixels in -1..1; the border is repeated. [N, C, H, W] -> same."""
    n, _, h, w = images.shape
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    rows = torch.arange(h) + 1 - offsets[:, :1]
    cols = torch.arange(w) + 1 - offsets[:, 1:]
    return padded[torch.arange(n)[:, None, None], :, rows[:, :, None], cols[:, None, :]].permute(0, 3, 1, 2)


@dataclass
class Score:
    """How well a judge names the classes of images that it was not trained on."""

    accuracy: float  # share of images
    balanced: float  # mean over the classes that have images: a judge of the frequent ones only scores low here
    recall: dict[int, float]
    images: dict[int, int]

    @property
    def chance(self) -> float:
        return 1 / max(len(self.recall), 1)

    @property
    def needed(self) -> float:
        """Balanced accuracy below which it is too weak to judge labels, or its features to tell classes apart."""
        return self.chance + ENOUGH * (1 - self.chance)

    @property
    def weak(self) -> bool:
        return self.balanced < self.needed


def unequal(labels: np.ndarray) -> bool:
    """Whether classes are so unequal that training draws each equally often."""
    counts = np.unique(labels, return_counts=True)[1]
    return bool(counts.max() >= UNEQUAL * counts.min())


def _rows(y: Tensor, members: list[Tensor]) -> Tensor:
    """Rows of one epoch, shuffled: every image once, or, with `members`, equally many of each class."""
    if not members:
        return torch.randperm(len(y))
    share = math.ceil(len(y) / len(members))
    rows = torch.cat([torch.cat([m[torch.randperm(len(m))] for _ in range(math.ceil(share / len(m)))])[:share]
                      for m in members])
    return rows[torch.randperm(len(rows))]


def train_judge(images: np.ndarray, labels: np.ndarray, *, seed: int = 0, epochs: int = 40,
                num_classes: int | None = None, progress: bool = False, label: LabelSpec | None = None) -> DigitsJudge:
    """A judge trained on uint8 images [N, C, H, W] with class ids [N]; repeatable for equal arguments and threads.
    `label` of a continuous label: labels [N] in its units; the only logit learns them, in these units, by squared error
    of the normalised label.

    AdamW with a one-cycle schedule to 4e-3, batches of 64, shifts of up to one pixel, label smoothing 0.05. Unequal
    classes (`unequal`) are drawn equally often. Afterwards the features are scaled so that the total variance of
    `images`' features is 100.
    """
    values = label is not None
    labels = label.normalise(np.asarray(labels, np.float64)) if values else labels
    x, y = torch.from_numpy(images).float(), torch.from_numpy(np.asarray(labels, np.float32 if values else np.int64))
    k = 1 if values else int(y.max()) + 1 if num_classes is None else num_classes
    members = [torch.from_numpy(np.flatnonzero(labels == c)) for c in np.unique(labels)] if (
        not values and unequal(labels)) else []
    n = math.ceil(len(x) / len(members)) * len(members) if members else len(x)
    steps = epochs * math.ceil(n / BATCH)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeding.number(seed))
        net = DigitsJudge(ImageSize(*images.shape[2:]).plain, images.shape[1], k).train()
        opt = optimizers.AdamW(net.parameters(), lr=PEAK_LR)
        schedule = torch.optim.lr_scheduler.OneCycleLR(opt, PEAK_LR, total_steps=steps)
        for epoch in range(epochs):
            total = 0.0
            for rows in _rows(y, members).split(BATCH):
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
                print(f"epoch {epoch + 1:3d}/{epochs}  loss {total / n:.4f}", flush=True)
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


def score(net: DigitsJudge, images: np.ndarray, labels: np.ndarray) -> Score:
    """Accuracy over all images, by class, and balanced."""
    right = judge(net, images)[1].argmax(1).numpy() == labels
    ids = np.unique(labels).tolist()
    recall = {k: float(right[labels == k].mean()) for k in ids}
    return Score(float(right.mean()), float(np.mean(list(recall.values()))), recall,
                 {k: int((labels == k).sum()) for k in ids})


def mean_error(net: DigitsJudge, images: np.ndarray, labels: np.ndarray) -> float:
    """Mean absolute error of a judge of a continuous label, in label units."""
    return float(np.abs(judge(net, images)[1][:, 0].double().numpy() - labels).mean())


def save_judge(net: DigitsJudge, out: Path, name: str, heldout: Score | None = None) -> Path:
    """Write the weights (tensors only) and, beside them, the descriptor. Returns the descriptor's path."""
    with util.atomic_path(out) as tmp, open(tmp, "wb") as f:  # by its name torch would call the folder inside:
        torch.save(net.state_dict(), f)  # equal judges are equal files, which studies compare by their hash
    kw = net.init_kwargs
    descriptor = dict(
        name=name, version=1, kind="state_dict", file=out.name, sha256=hashlib.sha256(out.read_bytes()).hexdigest(),
        arch="digits_judge", arch_kwargs=kw, classes=list(range(kw["num_classes"])),
        input=dict(range=[0, 255], dtype="float32", channels=kw["channels"], size=kw["resolution"], resize=None,
                   mean=[0], std=[1], quantize_uint8=True),
        outputs=dict(features=dict(key=0, dim=kw["num_features"]),
                     logits=dict(key=1, dim=kw["num_classes"], unbiased=False)))
    if heldout is not None:
        descriptor["heldout"] = dict(accuracy=heldout.accuracy, balanced=heldout.balanced, needed=heldout.needed)
    path = out.with_suffix(".detector.json")
    with util.atomic_write(path) as f:
        f.write(json.dumps(descriptor, indent=1) + "\n")
    return path
