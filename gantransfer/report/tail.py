# SPDX-License-Identifier: Apache-2.0
"""Fakes of the rare classes beside the training images that are nearest to them: whether the tail is copied."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from dnnlib.util import UserError, three
from gantransfer.data.dataset import ImageDataset
from gantransfer.detectors import features
from gantransfer.metrics.distances import nearest
from gantransfer.metrics.evaluation import Evaluation, Settings
from gantransfer.metrics.feature_matrix import MetricError
from gantransfer.metrics.intra import rows_of
from gantransfer.metrics.memorisation import nearest_training
from gantransfer.metrics.stats import Selection, extract, real_features
from gantransfer.metrics.table import MetricContext
from gantransfer.pictures.grids import image_grid, zoom_to
from gantransfer.report import markup
from gantransfer.report.read import Run, chosen_snapshot, generator, rarest_last

CLASSES, SHOWN = 8, 8  # classes at most, and fakes of each
MOST = 10_000  # images at even distances that stand for a larger set without classes
PIXELS = "pixel16"  # what stands for a detector where there is none


@dataclass
class Copies:
    """One class: its `SHOWN` fakes nearest to a training image, as pictures of two rows, fakes above."""

    title: str
    train: int
    ratio: float  # mean distance of fakes over that of new real images; NaN where none are at hand
    picture: bytes
    distances: list[float]


@dataclass
class Tail:
    snapshot: str
    ruler: str
    per_class: int
    classes: list[Copies] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def look(run: Run, per_class: int, data: str | None = None, detectors: Mapping[str, Path] | None = None,
         device: torch.device | str = "cpu") -> Tail:
    """`per_class` fakes of each class of the tail, made by the best snapshot, else the newest. UserError says what is
    not at hand."""
    path = chosen_snapshot(run)
    if path is None:
        raise UserError("there is no snapshot")
    model = generator(path)
    place = data or (run.data.path if run.data else "")
    if not place or not Path(place).exists():
        raise UserError(f"the training images are not here ({place or 'nobody says where'}); name them with --data")
    reference = run.options.get("reference")
    held_out = reference if isinstance(reference, str) and Path(reference).exists() else data
    evaluation = Evaluation(str(path), model, (), {}, Settings(data=held_out, train_data=data))
    training = evaluation.training
    if training is None:
        raise UserError(f"the training images {place} are not usable")
    sampler = model.sampler(device)
    detector, notes = _ruler(run, detectors or {}, device)
    ctx = MetricContext(sampler=sampler, reference=evaluation.reference, training=training, device=device,
                        labels="reference" if training.spec.label.kind == "none" else "training")
    known = run.environment.get("data_fingerprint")
    if known and known != training.fingerprint():
        notes.append(f"{place} holds other images now than those that the run was trained on")
    classes, note = _classes(run, training)
    notes += note
    if classes:
        plan = ctx.plan_per_class(classes, per_class)
        chosen = Selection.classes(training, classes)
    else:
        plan, chosen = ctx.plan(per_class), Selection.spread(training, MOST)
        notes += [f"{MOST:,} of {len(training):,} training images were looked at"] * (len(training) > MOST)
    batches = [ctx.images(plan, i, min(i + ctx.batch, len(plan))).cpu() for i in range(0, len(plan), ctx.batch)]
    fakes = torch.cat(batches)
    [fake] = extract([detector], len(fakes), ctx.batch, lambda a, b: fakes[a:b], keep_rows=True, what="fakes")
    train = real_features(ctx, detector, chosen, keep_rows=True)
    out = Tail(path.name, detector.name, per_class, notes=notes)
    ids = (chosen.ids, plan.ids) if classes else (np.zeros(len(chosen), int), np.zeros(len(plan), int))
    distance, index, ratios = _nearest(ctx, detector, train.features, fake.features, *ids, classes or [0], out.notes)
    for k, ratio in zip(classes or [0], ratios):
        rows = rows_of(ids[1], k).numpy()
        rows = rows[np.argsort(distance[rows], kind="stable")][:SHOWN]
        copied = chosen.data.images_uint8(chosen.indices[index[rows]])
        picture = image_grid(np.concatenate([fakes[rows].numpy(), copied]), len(rows),
                             zoom=zoom_to(fakes.shape[-1], 64))
        file = io.BytesIO()
        picture.save(file, format="PNG")
        count = int(training.spec.label.counts[k]) if classes else training.spec.num_images
        out.classes.append(Copies(training.spec.label.name(k) if classes else "all images", count, ratio,
                                  file.getvalue(), distance[rows].tolist()))
    return out


def _classes(run: Run, training: ImageDataset) -> tuple[list[int], list[str]]:
    """(rare classes, rarest first, notes); none: the images are looked at together."""
    label = training.spec.label
    if label.kind != "class" or training.class_ids is None:
        return [], ["there are no classes: the images are looked at together"]
    order = rarest_last(training.spec)[::-1]
    few = [k for k in order if k in label.shots.get("few", ())]
    if few:
        chosen = few[:CLASSES]
        return chosen, [f"the rarest {CLASSES} of {len(few)} rare classes are shown"] * (len(few) > CLASSES)
    return order[:min(CLASSES, 4)], ["the classes fall into no groups: those with fewest images are shown"]


def _ruler(run: Run, given: Mapping[str, Path], device: torch.device | str) -> tuple[features.Detector, list[str]]:
    """(detector, notes): one that is named, or that the run was measured by, or pixels."""
    words = [w for w in run.environment.get("command", []) if isinstance(w, str)]
    typed = [w.partition("=")[2] for w in words if w.startswith("--detector=")]
    measured = dict.fromkeys(x["detector"]["name"] for x in run.lines
                             if isinstance(x.get("detector"), Mapping) and isinstance(x["detector"].get("name"), str))
    try:
        recorded = features.parse_overrides([p for t in typed for p in t.split(",") if p])
    except UserError:
        recorded = {}
    if given:
        return features.load(next(iter(given)), device, given), []
    missing = []
    for name in measured:
        if name not in features.PIXELS:
            try:
                if name in recorded and features.is_program(name, recorded):  # the folder says so, not who reads it
                    missing.append(f"{name}, which is a program: name it if you trust it")
                else:
                    return features.load(name, device, recorded), []
            except UserError:
                missing.append(f"{name}, whose files are not here")
    why = f"the run was measured by {missing[0]}" if missing else "the run was measured by no detector"
    return features.load(PIXELS, device), [f"{why}; nearest by pixels at 16 x 16; --detector=[NAME=]FILE names one"]


def _nearest(ctx: MetricContext, detector: features.Detector, train: torch.Tensor, fake: torch.Tensor,
             train_ids: np.ndarray, fake_ids: np.ndarray, classes: Sequence[int],
             notes: list[str]) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """(distance [M], row of the nearest training image [M], ratio per class)."""
    reference, labelled = ctx.reference, ctx.training.spec.label.kind == "class"
    try:
        held = Selection.classes(reference, classes) if labelled and reference.class_ids is not None else \
            Selection.spread(reference, MOST)
        if not len(held):
            raise MetricError("the real images at hand have none of these classes")
        held_ids = held.ids if labelled else np.zeros(len(held), int)
        real = real_features(ctx, detector, held, keep_rows=True)
        near = nearest_training(train, fake, real.features, train_ids, fake_ids, held_ids, classes)
        return near.fake_distance, near.fake_index, near.ratio.tolist()
    except MetricError as e:
        notes.append(f"no ratio to new real images: {e}")
    distance, index = np.zeros(len(fake)), np.zeros(len(fake), int)
    for k in classes:
        t, f = rows_of(train_ids, k), rows_of(fake_ids, k)
        d, i = nearest(fake[f], train[t])
        distance[f], index[f] = d.numpy(), t[i.numpy()]
    return distance, index, [float("nan")] * len(classes)


def block(tail: Tail) -> str:
    """HTML."""
    out = [f"<p>Of {tail.per_class} fakes of each class by {markup.text(tail.snapshot)} the {SHOWN} nearest to a "
           f"training image of their class (above), and that image (below), by {markup.text(tail.ruler)}. The ratio is "
           "the mean distance of fakes over that of new real images: about 1 is as new as those, well below 1 is "
           "copying.</p>", markup.items(tail.notes)]
    for c in tail.classes:
        ratio = f", ratio {three(c.ratio)}" if np.isfinite(c.ratio) else ""
        # A name from right to left must not take the numbers behind it along.
        out.append(f"<figure><figcaption><bdi>{markup.text(c.title)}</bdi>: {c.train:,} training images{ratio}, "
                   f"distances {three(c.distances[0])} to {three(c.distances[-1])}</figcaption>"
                   + markup.image(c.picture, "png", f"fakes and nearest training images of {c.title}") + "</figure>")
    return "".join(out)
