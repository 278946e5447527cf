# SPDX-License-Identifier: Apache-2.0
"""What a metric is computed from: the model's sampler, the data sets, the detectors, and which samples are drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from dnnlib import seeding, util
from dnnlib.util import UserError
from gantransfer.data.dataset import ImageDataset
from gantransfer.detectors import features
from gantransfer.metrics.reference import ReferenceStats
from gantransfer.sampler import LabelSource, Sampler, one_hot

LABEL_POLICIES = ("reference", "uniform", "training")


@dataclass(frozen=True)
class Plan:
    """Which images to generate: sample k has `seeds[k]` and label row `c[k]`; or which rows of an image set to take."""

    key: tuple  # identifies the plan within one context
    seeds: np.ndarray  # int64 [n]; rows of `generated` when the images come from a set
    c: torch.Tensor | None  # float32 [n, label_dim], None for an unconditional model
    ids: np.ndarray | None  # int64 [n] class per sample, None when there are no classes

    def __len__(self) -> int:
        return len(self.seeds)


@dataclass
class MetricContext:
    """Everything a metric may use. One context per state of the model: generated features are kept in it.

    sampler      images of the model; None when `generated` is given
    generated    images made earlier (a set), judged in place of a sampler
    reference    real images, all of them, unmirrored, labels in the network's numbering; None with `reference_stats`
    reference_stats  published statistics that take the place of all real images in FID-like metrics
    training     the images the model was trained on (nearest-training ratio, labels='training')
    mirror       whether the metrics of the older names (fid50k, ...) see mirrored reals; None: as in training
    seed         sample k has seed `seed * 2^20 + k`, whatever the batch or the number of processes
    labels       class frequencies of generated labels: those of the reference, equal ones, or those of training
    classes      class ids to evaluate (default: those with reference and, if counts are known, training images)
    truncation   psi and centre of generated images, as the sampler takes them; empty: no truncation
    detectors    detector name -> weights file or descriptor
    cache_dir    folder of cached statistics of real images (default: the user's cache); None is replaced
    said         notes that were given: contexts of the same run share it, so that each comes once
    """

    sampler: Sampler | None
    reference: ImageDataset | None
    training: ImageDataset | None = None
    device: torch.device | str = "cpu"
    seed: int = 0
    cache_dir: str | Path | None = None
    use_cache: bool = True
    detectors: Mapping[str, str | Path] = field(default_factory=dict)
    batch: int = 64
    progress: bool = False
    labels: str = "reference"
    classes: Sequence[int] | None = None
    generated: ImageDataset | None = None
    mirror: bool | None = None
    reference_stats: ReferenceStats | None = None
    truncation: Mapping[str, float | str] = field(default_factory=dict)
    said: set[str] = field(default_factory=set)
    memo: dict = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if (self.sampler is None) == (self.generated is None):
            raise ValueError("give a sampler or a set of generated images")
        if self.labels not in LABEL_POLICIES:
            raise UserError(f"--labels={self.labels}: expected one of {', '.join(LABEL_POLICIES)}")
        self.device = torch.device(self.device)
        self.cache_dir = Path(self.cache_dir) if self.cache_dir is not None else util.cache_dir("metrics")
        self.detectors = features.normalise_overrides(self.detectors)
        if self.reference is None and self.reference_stats is None:
            raise ValueError("give real images or statistics of them")
        if self.generated is not None and self.reference is not None:
            got, want = self.generated.spec, self.reference.spec
            if (got.resolution, got.channels) != (want.resolution, want.channels):
                raise UserError(f"{got.path}: images are {got.size}x{got.channels}, the reference's "
                                f"{want.size}x{want.channels}")

    @property
    def label(self):
        """LabelSpec of the generated side."""
        return (self.sampler or self.generated).spec.label

    @property
    def reals(self) -> ImageDataset:
        """The reference images. UserError when only their statistics are at hand."""
        if self.reference is None:
            raise UserError("this metric needs the real images, statistics of them are not enough: give --data")
        return self.reference

    @property
    def mirrored(self) -> bool:
        return bool(self.mirror if self.mirror is not None else self.training is not None and self.training.xflip)

    def detector(self, name: str) -> features.Detector:
        """The detector `name`, loaded once per context."""
        if ("detector", name) not in self.memo:
            self.memo["detector", name] = features.load(name, self.device, self.detectors)
        return self.memo["detector", name]

    def evaluated_classes(self) -> list[int]:
        """Class ids that tables run over. UserError when the two sides have no class in common."""
        reference = self.reals.class_ids
        if reference is None or self.label.kind != "class":
            raise UserError("this metric needs class labels on both sides: a class-conditional model and a reference "
                            "with labels in its dataset.json")
        have = set(np.unique(reference).tolist())
        chosen = sorted(have if self.classes is None else self.classes)
        missing = [c for c in chosen if c not in have]
        if missing:
            raise UserError(f"class {missing[0]} has no image in the reference {self.reference.spec.path}")
        counts = self.label.counts
        if self.classes is None and any(counts):
            chosen = [c for c in chosen if c < len(counts) and counts[c] > 0]
        if not chosen:
            raise UserError("the model and the reference have no class in common")
        return chosen

    def shots(self) -> dict[str, list[int]]:
        """Evaluated class ids of the groups many, medium, few; empty groups are left out."""
        evaluated = set(self.evaluated_classes())
        groups = {g: [c for c in ids if c in evaluated] for g, ids in self.label.shots.items()}
        return {g: ids for g, ids in groups.items() if ids}

    def shot(self, group: str) -> list[int]:
        """Class ids of one group. UserError when there is none."""
        groups = self.shots()
        if group not in groups:
            raise UserError(f"the group '{group}' has no classes; {_shot_remedy(groups)}")
        return groups[group]

    def plan(self, n: int, classes: Sequence[int] | None = None) -> Plan:
        """`n` samples; labels by `self.labels`, or uniform over `classes`."""
        key = ("plan", n, None if classes is None else tuple(classes))
        if key not in self.memo:
            self.memo[key] = self._plan(n, classes)
        return self.memo[key]

    def _plan(self, n: int, classes: Sequence[int] | None) -> Plan:
        if self.generated is not None:
            return self._rows(n, classes)
        seeds = self._seeds(n)
        if self.label.kind == "none":
            return Plan(("all", n), seeds, None, None)
        source = self._label_source() if classes is None else LabelSource(self.label, "uniform", list(classes))
        c = source(seeds.tolist())
        ids = c.argmax(1).numpy() if self.label.kind == "class" else None
        return Plan(("all" if classes is None else tuple(classes), n, self.labels), seeds, c, ids)

    def plan_per_class(self, classes: Sequence[int], per_class: int) -> Plan:
        """`per_class` samples of each class, class by class."""
        if self.generated is not None:
            rows = np.concatenate([self._rows(per_class, [c]).seeds for c in classes])
            return Plan(("per class", tuple(classes), per_class), rows, None, self.generated.class_ids[rows])
        ids = np.repeat(np.asarray(classes, np.int64), per_class)
        return Plan(("per class", tuple(classes), per_class), self._seeds(len(ids)), one_hot(ids, self.label.dim), ids)

    def _seeds(self, n: int) -> np.ndarray:
        # runs with neighbouring base seeds must not share samples
        base = self.seed if 0 <= self.seed < 2**42 else seeding.number(self.seed) % 2**42
        return base * 2**20 + np.arange(n, dtype=np.int64)

    def _label_source(self) -> LabelSource:
        label = self.label
        if label.kind == "value":
            data = self.training if self.labels == "training" else self.reals
            if self.labels == "uniform":
                raise UserError("--labels=uniform: the model has continuous labels; use reference or training")
            values = None if data is None else np.stack([data.get_label(i) for i in range(len(data))])
            return LabelSource(label, "data", values=values)
        if self.labels == "uniform":
            return LabelSource(label, "uniform")
        if self.labels == "training":
            if not any(label.counts):
                raise UserError("--labels=training: the model does not record its training set's class counts; "
                                "use reference or uniform")
            return LabelSource(label, "data")
        if self.reference is None:
            raise UserError("--labels=reference draws the labels of the real images: give --data, or --labels=training "
                            "or uniform")
        if self.reference.class_ids is None:
            raise UserError(f"labels of the reference were asked for, but {self.reference.spec.path} has none; give "
                            "--labels=training or --labels=uniform, or a labelled reference (--data)")
        counts = np.bincount(self.reference.class_ids, minlength=label.dim)
        if len(counts) > label.dim:
            raise UserError(f"the reference {self.reference.spec.path} has {len(counts)} classes, the model "
                            f"{label.dim}; give the reference that belongs to the model (--data)")
        return LabelSource(dataclasses.replace(label, counts=tuple(int(v) for v in counts)), "data")

    def _rows(self, n: int, classes: Sequence[int] | None) -> Plan:
        data = self.generated
        rows = np.arange(len(data))
        if classes is not None:
            if data.class_ids is None:
                raise UserError(f"{data.spec.path} has no class labels, which this metric needs")
            rows = np.flatnonzero(np.isin(data.class_ids, list(classes)))
        if len(rows) < n:
            what = "" if classes is None else f" of class{'es' * (len(classes) > 1)} {', '.join(map(str, classes))}"
            raise UserError(f"{data.spec.path} has {len(rows)} images{what}, the metric takes {n}; generate more, or "
                            f"name a smaller count (fid{len(rows)}_full, fid{len(rows)}_clean, cmmd{len(rows)}, "
                            f"fd_NAME_{len(rows)}, report_NAME_COUNT)")
        if len(rows) > n:
            rows = np.sort(seeding.numpy_rng(self.seed).permutation(rows)[:n])
        return Plan(("rows", None if classes is None else tuple(classes), n), rows, None,
                    None if data.class_ids is None else data.class_ids[rows])

    def images(self, plan: Plan, start: int, stop: int) -> torch.Tensor:
        """uint8 [stop - start, C, H, W]: generated images start..stop of the plan."""
        if self.generated is not None:
            return torch.from_numpy(self.generated.images_uint8(plan.seeds[start:stop]))
        c = None if plan.c is None else plan.c[start:stop].to(self.device)
        images = self.sampler(plan.seeds[start:stop].tolist(), c, **self.truncation)
        if images.dtype != torch.uint8 or len(images) != stop - start:
            raise ValueError(f"the sampler gave {tuple(images.shape)} {images.dtype} for {stop - start} seeds")
        return images


def _shot_remedy(groups: Mapping[str, Sequence[int]]) -> str:
    have = f"there are {', '.join(groups)}" if groups else "the label file has no shot groups"
    return f"{have} (lt_dataset.py writes them; train with --fname=lt_*.json)"
