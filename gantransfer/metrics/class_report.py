# SPDX-License-Identifier: Apache-2.0
"""The table of a class-conditional model: all columns together, because each alone can be fooled.

Generated images are class-uniform. FD sees wrong labels only through per-class values; copying only shows in the
nearest-training ratio, collapse only in the diversity ratio.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dnnlib.util import UserError, printable
from gantransfer.metrics import intra, label_score
from gantransfer.metrics.context import MetricContext, Plan
from gantransfer.metrics.directions import HIGHER, LOWER
from gantransfer.metrics.feature_matrix import MetricError
from gantransfer.metrics.fid import frechet_distance, total_variance
from gantransfer.metrics.memorisation import nearest_training
from gantransfer.metrics.names import GROUPS, REPORT
from gantransfer.metrics.stats import FeatureSet, Selection, generated_features, on_main, real_features

DDOF = 1
_GROUP = r"(_\w+)?"  # '' for all classes, then groups
BETTER = {f"class_fd{_GROUP}": LOWER, f"fd{_GROUP}": LOWER, f"fd_pix64{_GROUP}": LOWER, f"accuracy{_GROUP}": HIGHER,
          f"diversity{_GROUP}": HIGHER, f"nearest{_GROUP}": HIGHER}  # of each column, see metrics.directions
PIXEL_VARIANCE = 100.0  # fd_pix64 reads as percent of the reference's total variance


@dataclass
class Report:
    results: dict[str, float | None]
    per_class: dict[str, list]
    num_real: int
    num_gen: int
    notes: list[str] = field(default_factory=list)


def pixel_scale(reference: FeatureSet) -> float:
    """Factor that brings the reference's total variance to 100."""
    variance = total_variance(reference.moments, DDOF)
    return (PIXEL_VARIANCE / variance) ** 0.5 if variance > 0 else 1.0


def judged_ids(ctx: MetricContext, logits, classes) -> np.ndarray | None:
    """Predicted class ids [N] in the network's numbering; None when the judge does not know these classes.

    The judge was trained on the data set's own labels, which `class_map` of the label spec translates; a prediction
    without a counterpart becomes -1.
    """
    if logits is None:
        return None
    known = np.asarray(classes if classes is not None else np.arange(logits.shape[1]))
    translate = ctx.label.class_map or ctx.reference.spec.label.class_map or {int(k): int(k) for k in known}
    if not set(ctx.evaluated_classes()) <= {translate.get(int(k), -1) for k in known}:
        return None
    return np.array([translate.get(int(k), -1) for k in known])[logits.argmax(1).numpy()]


def class_report(ctx: MetricContext, detector_name: str, per_class: int) -> Report:
    """`per_class` samples of every evaluated class, judged by `detector_name` and by 8x8 pixels (fd_pix64)."""
    classes, shots = ctx.evaluated_classes(), ctx.shots()
    groups: dict[str, list[int]] = {"all": classes, **shots}
    judge, pixels = ctx.detector(detector_name), ctx.detector("pix64")
    plan = ctx.plan_per_class(classes, per_class)
    fake, fake_pixels = generated_features(ctx, [judge, pixels], plan, keep_rows=True, logits=True)
    chosen = Selection.classes(ctx.reals, classes)
    real, real_pixels = (real_features(ctx, d, chosen, keep_rows=True) for d in (judge, pixels))
    train, train_ids = _training(ctx, judge, classes)
    return on_main(lambda: _assemble(ctx, groups, plan, chosen, fake, fake_pixels, real, real_pixels, train, train_ids,
                                     judge.classes))


def _training(ctx: MetricContext, judge: Any, classes: list[int]) -> tuple[FeatureSet | None, np.ndarray | None]:
    data = ctx.training
    if data is None or data.class_ids is None or not set(classes) <= set(np.unique(data.class_ids).tolist()):
        return None, None
    chosen = Selection(data, np.flatnonzero(np.isin(data.class_ids, classes)))
    return real_features(ctx, judge, chosen, keep_rows=True), chosen.ids


def _assemble(ctx: MetricContext, groups: dict[str, list[int]], plan: Plan, chosen: Selection, fake: FeatureSet,
              fake_pixels: FeatureSet, real: FeatureSet, real_pixels: FeatureSet, train: FeatureSet | None,
              train_ids: np.ndarray | None, judge_classes) -> Report:
    classes, ids, real_ids = groups["all"], plan.ids, chosen.ids
    out: dict[str, float] = {}
    notes: list[str] = []
    sides = real.features, fake.features, real_ids, ids

    def group_mean(values: np.ndarray, members: list[int]) -> float:
        chosen = np.array([values[classes.index(c)] for c in members])
        return float(chosen[np.isfinite(chosen)].mean()) if np.isfinite(chosen).any() else float("nan")

    single = [c for c in classes if (real_ids == c).sum() < 2]
    if single:
        raise UserError(f"class {single[0]} has fewer than two images in the reference {ctx.reference.spec.path}: "
                        "per-class distances need two or more")
    fd = intra.intra_fid(*sides, classes, DDOF)
    diversity = intra.diversity_ratio(*sides, classes)
    for g, members in groups.items():
        out[_key("class_fd", g)] = group_mean(fd.values, members)
    for g, members in groups.items():
        r, f = intra.rows_of(real_ids, members), intra.rows_of(ids, members)
        out[_key("fd", g)] = frechet_distance(real.features[r], fake.features[f], DDOF)
    scale = pixel_scale(real_pixels)
    for g, members in groups.items():
        r, f = intra.rows_of(real_ids, members), intra.rows_of(ids, members)
        out[_key("fd_pix64", g)] = frechet_distance(real_pixels.features[r] * scale,
                                                    fake_pixels.features[f] * scale, DDOF)
    table: dict[str, list] = {"ids": classes, "fd": fd.values.tolist(), "diversity": diversity.values.tolist(),
                              "n_real": fd.n_real, "n_gen": fd.n_fake}
    predicted = judged_ids(ctx, fake.logits, judge_classes)
    if predicted is None:
        notes.append("no label accuracy: the judge does not classify these classes")
    else:
        accuracy = np.array([label_score.label_accuracy(predicted[ids == c], ids[ids == c]) for c in classes])
        table["accuracy"] = accuracy.tolist()
        for g, members in groups.items():
            out[_key("accuracy", g)] = group_mean(accuracy, members)
    for g, members in groups.items():
        out[_key("diversity", g)] = group_mean(diversity.values, members)
    if train is None:
        notes.append("no nearest-training ratio: the training set is not at hand, or lacks labels or classes")
    else:
        table["n_train"] = [int(ctx.training.spec.label.counts[c]) for c in classes]  # mirrored copies do not count
        try:
            near = nearest_training(train.features, fake.features, real.features, train_ids, ids, real_ids, classes)
        except MetricError as e:
            notes.append(f"no nearest-training ratio: {e}")
        else:
            table["nearest"] = near.ratio.tolist()
            for g, members in groups.items():
                out[_key("nearest", g)] = near.mean(members)
            if near.excluded:
                notes.append(f"{near.excluded} reference images are training images and do not count as held out")
    # a class whose reals are all alike, or all in the training set, has no ratio: null, and left out of group means
    return Report({k: v if math.isfinite(v) else None for k, v in out.items()}, table, len(chosen), len(plan), notes)


def _key(column: str, group: str) -> str:
    """The plain name stands for all classes."""
    return column if group == "all" else f"{column}_{group}"


def format_report(result: dict[str, Any], names: tuple[str, ...] = ()) -> str:
    """The result line of a report as a table for people."""
    values = {k.removeprefix(result["metric"] + "_"): v for k, v in result["results"].items()}
    table = result["per_class"]
    columns = [g for g in ("all", *GROUPS) if _key("fd", g) in values]
    lines = [f"{result['metric']}: {result['num_gen']} generated against {result['num_real']} real images",
             f"{'':24}" + "".join(f"{g:>9}" for g in columns)]
    for key, title in REPORT.items():
        if key in values:
            lines.append(f"{title:24}" + "".join(_number(values.get(_key(key, g))) for g in columns))
    keys = [k for k in ("n_train", "n_real", "n_gen", "fd", "accuracy", "diversity", "nearest") if k in table]
    lines.append(f"{'class':24}" + "".join(f"{k:>10}" for k in keys))
    for i, c in enumerate(table["ids"]):
        name = f"{c} {printable(names[c])}" if c < len(names) and names[c] != str(c) else str(c)
        lines.append(f"{name[:23]:24}" + "".join(f"{table[k][i]:10d}" if k.startswith("n_") else
                                                 _number(table[k][i], 10) for k in keys))
    return "\n".join(lines)


def _number(value: float | None, width: int = 9) -> str:
    return " " * (width - 1) + "-" if value is None else f"{value:{width}.3f}" if abs(value) < 10 else \
        f"{value:{width}.1f}"
