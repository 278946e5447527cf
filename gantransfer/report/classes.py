# SPDX-License-Identifier: Apache-2.0
"""Tables of a run by class and by group of classes, each with its number of training images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dnnlib.util import UserError, three
from gantransfer.data.dataset import ImageDataset
from gantransfer.data.labels import DataSpec
from gantransfer.metrics import directions, rating
from gantransfer.metrics.names import GROUPS, REPORT, group_of
from gantransfer.report import markup
from gantransfer.report.curves import value_name
from gantransfer.report.read import Run, rarest_last

COLUMNS = {**REPORT, "n_train": "training images", "n_real": "real images", "n_gen": "generated", "values": "value"}


def groups_of(data: DataSpec) -> dict[int, str]:
    return {k: g for g, ids in data.label.shots.items() for k in ids}


def continuous_labels(run: Run) -> np.ndarray | None:
    """Labels [n] of the training set, where it is at hand and has one continuous label per image."""
    d = run.data
    if d is None or d.label.kind != "value" or d.label.dim != 1:
        return None
    try:
        data = ImageDataset(d.path, fname=d.fname, use_labels=True, max_size=d.max_size, seed=d.seed, heldout=d.heldout)
    except UserError as e:
        run.notes.append(f"no histogram of labels: {e}")
        return None
    return data.labels(np.arange(len(data)))[:, 0]


def over_images(run: Run) -> str:
    """A table per metric: a row per measured snapshot, the best one by the run's metric marked."""
    out = []
    for metric in dict.fromkeys(r.metric for r in run.measured):
        keys = [k for k in dict.fromkeys(r.key for r in run.measured if r.metric == metric)
                if not group_of(k)[1] and rating.direction(metric, k) != directions.UNRATED]
        rows = {k: run.values(metric, k) for k in keys}
        points = list(dict.fromkeys((r.kimg, r.snapshot) for k in keys for r in rows[k]))
        if not points:
            continue
        found = {(k, r.kimg, r.snapshot): r.value for k in keys for r in rows[k]}
        top = {k: rating.best_of(rows[k]) for k in keys if rating.rates(metric, k) and rows[k]}
        body, marked = [], []
        for i, (kimg, snapshot) in enumerate(sorted(points)):
            best = run.best is not None and (run.best.metric, run.best.kimg, run.best.snapshot) == (
                metric, kimg, snapshot)
            marked += [i] if best else []
            cells = [three(found.get((k, kimg, snapshot))) for k in keys]
            bold = [k in top and (top[k].kimg, top[k].snapshot) == (kimg, snapshot) for k in keys]
            body.append([f"{markup.text(snapshot)}{' <b>best</b>' * best}", three(kimg, "kimg"),
                         *(f"<b>{c}</b>" if b else c for c, b in zip(cells, bold))])
        head = [markup.text(metric), "images", *(markup.text(value_name(metric, k)) for k in keys)]
        out.append(markup.table(head, body, marked))
    return "".join(out)


def by_group(run: Run) -> str:
    """A table per metric of one snapshot, the best, else the last one measured: a row per value, a column per group."""
    out = []
    for metric, rows in _of_one_snapshot(run).items():
        values: dict[str, dict[str, float]] = {}
        for r in rows:
            base, group = group_of(r.key)
            values.setdefault(base, {})[group] = r.value
        values = {b: v for b, v in values.items() if any(v.get(g) is not None for g in GROUPS)}
        if not values:
            continue
        present = [g for g in GROUPS if any(g in v for v in values.values())]
        heads = [f"{g}{_size(run.data, g)}" for g in present]
        body = [[markup.text(value_name(metric, b)), three(v.get("")), *(three(v.get(g)) for g in present)]
                for b, v in values.items()]
        out.append(f"<p>{markup.text(rows[0].snapshot)}, {three(rows[0].kimg, 'kimg')}</p>" + markup.table(
            [markup.text(metric), f"all{_size(run.data, '')}", *heads], body))
    return "".join(out)


def by_class(run: Run) -> str:
    """A table per metric of the same snapshots: a row per class, most training images first."""
    out = []
    for metric, rows in _of_one_snapshot(run).items():
        table = run.line_of(rows[0]).get("per_class")
        if not (isinstance(table, Mapping) and _whole(table)):
            continue
        ids = table["ids"]
        keys = [k for k in table if k != "ids" and isinstance(table[k], list) and len(table[k]) == len(ids)]
        counts = run.data.label.counts if run.data else ()
        keys = [k for k in keys if not (k == "n_train" and counts)]
        place = {k: i for i, k in enumerate(rarest_last(run.data))} if run.data else {}
        groups = groups_of(run.data) if run.data else {}
        body = []
        for i in sorted(range(len(ids)), key=lambda i: (place.get(ids[i], len(place)), ids[i])):
            k = ids[i]
            name = run.data.label.name(k) if run.data else str(k)
            body.append([markup.text(name), *([f"{counts[k]:,}" if k < len(counts) else "-"] if counts else []),
                         *([groups.get(k, "")] if groups else []),
                         *(f"{table[c][i]:,}" if isinstance(table[c][i], int) and c.startswith("n_") else
                           three(table[c][i]) for c in keys)])
        head = ["class", *(["training images"] if counts else []), *(["group"] if groups else []),
                *(markup.text(COLUMNS.get(c, c)) for c in keys)]
        out.append(f"<p>{markup.text(metric)} of {markup.text(rows[0].snapshot)}, {three(rows[0].kimg, 'kimg')}</p>"
                   + markup.table(head, body))
    return "".join(out)


def _of_one_snapshot(run: Run) -> dict[str, list[rating.Rating]]:
    """Metric -> its values of the run's best snapshot, or of the last one that it has measured."""
    out: dict[str, list[rating.Rating]] = {}
    for metric, key in dict.fromkeys((r.metric, r.key) for r in run.measured):
        rows = run.values(metric, key)
        best = [r for r in rows if run.best and r.snapshot == run.best.snapshot]
        out.setdefault(metric, []).append((best or rows)[-1])
    return {m: [r for r in rows if r.snapshot == rows[0].snapshot] for m, rows in out.items()}


def _size(data: DataSpec | None, group: str) -> str:
    """' (3 classes, 52 images)'."""
    if data is None or not data.label.counts:
        return ""
    ids = data.label.shots.get(group, ()) if group else [k for k, n in enumerate(data.label.counts) if n]
    images = sum(data.label.counts[k] for k in ids if k < len(data.label.counts))
    return f" ({len(ids)} classes, {images:,} images)" if ids else ""


def _whole(table: Mapping[str, Any]) -> bool:
    ids = table.get("ids")
    return isinstance(ids, list) and bool(ids) and all(type(k) is int and k >= 0 for k in ids)
