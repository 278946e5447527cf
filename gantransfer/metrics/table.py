# SPDX-License-Identifier: Apache-2.0
"""Metric names: what each one means, whether it can be computed here, and the line it writes.

A name carries its protocol. `fid...` is FID-Inception with the published input path; anything judged by another network
or from other counts has another name. Every metric is a function of a MetricContext; `METRICS` lists the usual names,
`PATTERNS` the families they belong to (any count, any detector).
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gantransfer
from dnnlib import json_file, util
from dnnlib.util import UserError
from gantransfer.data.dataset import DataSpec, ImageDataset
from gantransfer.detectors import features
from gantransfer.metrics import class_report, continuous, directions, intra, path_length, reference
from gantransfer.metrics.cmmd import cmmd
from gantransfer.metrics.context import MetricContext
from gantransfer.metrics.directions import HIGHER, LOWER, UNRATED
from gantransfer.metrics.feature_matrix import MetricError
from gantransfer.metrics.fid import fid_infinity, frechet_distance
from gantransfer.metrics.inception_score import inception_score
from gantransfer.metrics.kid import kid
from gantransfer.metrics.kmmd import kmmd, kmmd_unbiased
from gantransfer.metrics.memorisation import nearest_training
from gantransfer.metrics.precision_recall import density_coverage, precision_recall
from gantransfer.metrics.stats import FeatureSet, Selection, generated_features, on_main, real_features
from torch_utils import distributed as dist

__all__ = ["METRICS", "PATTERNS", "MetricContext", "already_done", "append_jsonl", "compute",
           "format_report", "parse_names", "preflight", "read_reference", "write_reference"]

SCHEMA = 2
SHOTS = ("many", "medium", "few")
FOREIGN = ("clean", "pytorch", "biggan", "fidelity")  # clean-fid, pytorch-fid, BigGAN-PyTorch, torch-fidelity
format_report = class_report.format_report
read_reference = reference.read_reference


@dataclass
class Outcome:
    """What a metric function returns."""

    results: dict[str, float | None]
    detector: str | None = None
    num_real: int | None = None
    num_gen: int | None = None
    ddof: int | None = None
    dim: int | None = None
    labels: str | None = None  # None: the context's policy
    per_class: dict[str, list] | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Metric:
    """One metric: `run(ctx) -> Outcome`, which way each of its values is better, the detectors it needs, and what it
    needs of the data."""

    name: str
    run: Callable[[MetricContext], Outcome]
    better: Mapping[str, str]  # see `directions`: what rates snapshots, and removes them, must not be guessed
    detectors: tuple[str, ...] = ()
    classes: bool = False  # class labels on both sides
    shots: tuple[str, ...] = ()  # groups of classes
    lpips: bool = False
    training: bool = False
    value: bool = False  # one continuous label on both sides


def _mean_and_spread(name: str, better: str) -> dict[str, str]:
    """A mean and its standard deviation, which rates nothing."""
    return {name: better, f"{name}_std": UNRATED}


# Families. Each builds a Metric from the fields of its name.


def _count(text: str | None, default: int) -> int:
    if text is None:
        return default
    n = 0 if len(text) > 10 else int(text[:-1]) * 1000 if text.endswith("k") else int(text)
    if n < 1:
        raise UserError(f"metric count '{text[:20]}' must be positive, and of at most ten digits")
    return n


def _fid_kid(m: re.Match) -> Metric:
    """fid<N>, kid<N>: FID-Inception. _full: all reals; without: the first N, mirrored as in training. As other projects
    compute them, of all reals: _clean, _pytorch, _biggan, _fidelity, and fid_clean and so on for fid50k_clean."""
    named = m.groupdict()
    kind, protocol, text = m["kind"], m["protocol"], named.get("n") or "50k"
    n, name = _count(text, 50000), f"{m['kind']}{text}" + (f"_{m['protocol']}" if m["protocol"] else "")
    detector = {"clean": "inception-clean", "pytorch": "inception-pytorch", "biggan": "inception-biggan"}.get(
        protocol, "inception")
    foreign = protocol in FOREIGN
    ddof = 1 if foreign else 0
    if protocol in (*SHOTS, "shots"):
        return _shots_metric(name, kind, detector, n, ddof, SHOTS if protocol == "shots" else (protocol,))
    if protocol == "class":
        return _class_metric(name, kind, detector, n, ddof)

    every = protocol == "full" or foreign

    def select(ctx: MetricContext) -> Selection:
        if every:
            return Selection.first(ctx.reals, 1000000 if kind == "kid" else None)
        return Selection.first(ctx.reals, n, mirror=ctx.mirrored)

    return Metric(name, lambda ctx: _distance(ctx, name, kind, detector, n, ddof, select, every=every), {name: LOWER},
                  (detector,))


def _named_tables(m: re.Match) -> Metric:
    """fid_shots, kid_shots (UTLO, 50k per group) and fid_class, kid_class (10k per class)."""
    if m["scope"] == "shots":
        return _shots_metric(m[0], m["kind"], "inception", 50000, 0, SHOTS, prefix=m["kind"])
    return _class_metric(m[0], m["kind"], "inception", 10000, 0)


def _fd_kd(m: re.Match) -> Metric:
    """fd_<detector>_<N>, kd_<detector>_<N>: the same distances by any detector, covariances divided by n-1."""
    kind, detector, scope = {"fd": "fid", "kd": "kid"}[m["kind"]], m["detector"], m["scope"]
    text = m["n"] or ("50k" if detector.split("-")[0] == "dinov2" else "2k")  # 50k: as FD-DINOv2 is published
    n, name = _count(text, 2000), f"{m['kind']}_{detector}_{text}" + (f"_{scope}" if scope else "")
    if scope in (*SHOTS, "shots"):
        return _shots_metric(name, kind, detector, n, 1, SHOTS if scope == "shots" else (scope,))
    if scope == "class":
        return _class_metric(name, kind, detector, n, 1)
    return Metric(name, lambda ctx: _distance(ctx, name, kind, detector, n, 1,
                                              lambda c: Selection.spread(c.reals, 50000), every=True),
                  {name: LOWER}, (detector,))


def _smoke(m: re.Match) -> Metric:
    """smoke_fd_pixel16_<N>, smoke_kid_pixel16_<N>: not FID, only for pipeline tests; finds a broken generator."""
    name, kind, n = m[0], "fid" if m["kind"] == "fd" else "kid", _count(m["n"], 256)

    def run(ctx: MetricContext) -> Outcome:
        out = _distance(ctx, name, kind, "pixel16", n, 1, lambda c: Selection.spread(c.reals, 10000))
        out.extra["notes"] = ["not FID; for pipeline tests only"]
        return out

    return Metric(name, run, {name: LOWER}, ("pixel16",))


def _distance(ctx: MetricContext, name: str, kind: str, detector: str, n: int, ddof: int,
              select: Callable[[MetricContext], Selection], classes: Sequence[int] | None = None, *,
              every: bool = False) -> Outcome:
    """FID-like ('fid') or KID-like ('kid') distance of `n` generated images from the selected real ones.

    `every`: all real images are meant, so that published statistics may stand for them.
    """
    plan = ctx.plan(n, classes)  # before hours over the real images: a set may have fewer images than are wanted
    net, rows, scale = ctx.detector(detector), kind == "kid", 1.0
    published = ctx.reference_stats if kind == "fid" and every else None
    if published is not None:
        m = published.of(net)
        real = FeatureSet(published.num, m.dim, _moments=m)
    else:
        real = real_features(ctx, net, select(ctx), keep_rows=rows)
        if detector == "pix64":  # reads as percent of the whole reference's total variance
            whole = real_features(ctx, net, Selection.spread(ctx.reals, 50000))
            scale = on_main(lambda: class_report.pixel_scale(whole))
    [fake] = generated_features(ctx, [net], plan, keep_rows=rows)
    results, extra = on_main(lambda: _distance_values(name, kind, real, fake, scale, ddof))
    if published is not None:
        extra["reference"] = dict(name=published.path.name, sha256=published.sha256)
    return Outcome(results, detector, real.num, fake.num, None if rows else ddof, real.dim,
                   labels=None if classes is None else "uniform", extra=extra)


def _distance_values(name: str, kind: str, real: FeatureSet, fake: FeatureSet, scale: float,
                     ddof: int) -> tuple[dict[str, float], dict[str, Any]]:
    """On rank 0, with features multiplied by `scale`."""
    if kind == "kid":
        mean, std = kid(real.features * scale, fake.features * scale)
        return {name: mean}, {"std": {name: std}}
    return {name: frechet_distance(real.moments, fake.moments, ddof) * scale**2}, {}


def _shots_metric(name: str, kind: str, detector: str, n: int, ddof: int, groups: tuple[str, ...],
                  prefix: str | None = None) -> Metric:
    """Reals of the group's classes against `n` images with labels uniform over them; one value per group."""

    def key_of(group: str) -> str:
        return f"{prefix}_{group}" if prefix else name.replace("shots", group) if len(groups) > 1 else name

    def run(ctx: MetricContext) -> Outcome:
        # a table shows the groups that exist; a group asked for by name must
        members = {g: ids for g, ids in ctx.shots().items() if g in groups} if len(groups) > 1 else \
            {groups[0]: ctx.shot(groups[0])}
        if not members:
            raise UserError(f"metric '{name}': the label file has no shot groups (lt_dataset.py writes them)")
        results: dict[str, float | None] = {}
        table: dict[str, list] = {"ids": [], "classes": [], "values": [], "n_real": [], "n_gen": []}
        for g, ids in members.items():
            key = key_of(g)
            out = _distance(ctx, key, kind, detector, n, ddof, lambda c, ids=ids: Selection.classes(c.reals, ids), ids)
            results |= out.results
            for k, v in zip(table, (g, ids, out.results[key], out.num_real, out.num_gen)):
                table[k].append(v)
        return Outcome(results, detector, min(table["n_real"]), n, ddof if kind == "fid" else None, out.dim, "uniform",
                       table)

    return Metric(name, run, {key_of(g): LOWER for g in groups}, (detector,), classes=True, shots=groups)


def _class_metric(name: str, kind: str, detector: str, n: int, ddof: int) -> Metric:
    """Intra-class distance: `n` images per class against that class's (first `n`) reals; mean, std, min, max."""

    def value(real: torch.Tensor, fake: torch.Tensor, device: Any) -> tuple[float]:
        zeros = [np.zeros(len(x), np.int64) for x in (real, fake)]
        if kind == "kid":
            return (intra.intra_kid(real, fake, *zeros, [0]).values[0],)
        return (intra.intra_fid(real, fake, *zeros, [0], ddof).values[0],)

    def run(ctx: MetricContext) -> Outcome:
        out = _within_classes(ctx, name, detector, n, ("",), value)
        values = np.array(out.per_class["values"])
        out.results |= {f"{name}_std": float(values.std()), f"{name}_min": float(values.min()),
                        f"{name}_max": float(values.max())}
        out.ddof = ddof if kind == "fid" else None
        return out

    better = {**_mean_and_spread(name, LOWER), f"{name}_min": LOWER, f"{name}_max": LOWER}
    return Metric(name, run, better, (detector,), classes=True)


def _is(m: re.Match) -> Metric:
    """is<N>: inception score over 10 splits, logits without bias. _biggan: torchvision's network, with bias. _fidelity:
    images in torch-fidelity's order, which matters where they are sorted by class."""
    name, n, biggan = m[0], _count(m["n"], 50000), m["protocol"] == "biggan"
    detector = "inception-biggan" if biggan else "inception"
    shuffle = 2020 if m["protocol"] == "fidelity" else None

    def run(ctx: MetricContext) -> Outcome:
        [fake] = generated_features(ctx, [ctx.detector(detector)], ctx.plan(n), keep_rows=True, logits=True)
        mean, std = on_main(lambda: inception_score(fake.logits, 10, drop_tail=biggan, shuffle_seed=shuffle))
        return Outcome({f"{name}_mean": mean, f"{name}_std": std}, detector, None, n)

    return Metric(name, run, {f"{name}_mean": HIGHER, f"{name}_std": UNRATED}, (detector,))


# (of features, what is measured of them): pr is published with VGG16 features, dc with Inception's.
_NEIGHBOURS = {"pr": ("vgg16", precision_recall, ("precision", "recall")),
               "dc": ("inception", density_coverage, ("density", "coverage"))}


def _pr_dc(m: re.Match) -> Metric:
    """pr<N>k<k>[_full]: the first 200 000 reals (_full) or N. dc<N>k<k>, and pr_ and dc_<detector>_<N>_k<k> by any
    detector: at most N reals at even distances."""
    named = m.groupdict()
    published, measure, columns = _NEIGHBOURS[m["kind"]]
    name, n, k, detector = m[0], _count(m["n"], 10000), int(m["k"]), named.get("detector", published)
    first, full = "full" in named, bool(named.get("full"))

    def run(ctx: MetricContext) -> Outcome:
        chosen = Selection.first(ctx.reals, 200000 if full else n, mirror=ctx.mirrored and not full) if first else \
            Selection.spread(ctx.reals, n)
        real, fake = _both(ctx, detector, n, chosen)
        values = on_main(lambda: measure(real.features, fake.features, k, device=ctx.device))
        return Outcome({f"{name}_{c}": getattr(values, c) for c in columns}, detector, real.num, n, dim=real.dim)

    return Metric(name, run, {f"{name}_{c}": HIGHER for c in columns}, (detector,))


def _pr_dc_class(m: re.Match) -> Metric:
    """pr_class, dc_class: precision and recall, density and coverage within each class, k = 5, open balls, 10k
    generated images and the first 10k reals per class; pr_<detector>_<N>_k<k>_class: any detector."""
    named = m.groupdict()
    kind, own = named["kind"], "detector" in named
    name, detector = m[0], named["detector"] if own else "inception"
    n, k = (_count(m["n"], 10000), int(m["k"])) if own else (10000, 5)
    _, measure, columns = _NEIGHBOURS[kind]
    strict = dict(strict=True) if kind == "pr" else {}  # the other always is

    def value(real: torch.Tensor, fake: torch.Tensor, device: Any) -> tuple[float, float]:
        return tuple(measure(real, fake, k, device=device, **strict))

    return _per_class_metric(name, detector, n, columns, value)


def _diversity_class(m: re.Match) -> Metric:
    """diversity_class: spread of a class's generated features over that of its reals, 10k per class;
    diversity_<detector>_<N>_class: any detector."""
    named = m.groupdict()
    detector, n = (named["detector"], _count(named["n"], 10000)) if "detector" in named else ("inception", 10000)

    def value(real: torch.Tensor, fake: torch.Tensor, device: Any) -> tuple[float]:
        zeros = [np.zeros(len(x), np.int64) for x in (real, fake)]
        return (float(intra.diversity_ratio(real, fake, *zeros, [0]).values[0]),)

    return _per_class_metric(m[0], detector, n, ("",), value)


def _per_class_metric(name: str, detector: str, n: int, columns: tuple[str, ...],
                      value: Callable[..., tuple[float, ...]]) -> Metric:
    """`value` within each class, of which more is better."""
    return Metric(name, lambda ctx: _within_classes(ctx, name, detector, n, columns, value),
                  {f"{name}_{c}" if c else name: HIGHER for c in columns}, (detector,), classes=True)


def _within_classes(ctx: MetricContext, name: str, detector: str, n: int, columns: tuple[str, ...],
                    value: Callable[..., tuple[float, ...]]) -> Outcome:
    """`value(real rows, generated rows, device)`, a number per column, of `n` images per class and that class's first
    `n` reals; class means, and a table of every class."""
    classes, net = ctx.evaluated_classes(), ctx.detector(detector)
    chosen = Selection.classes(ctx.reals, classes, limit=n)
    real = real_features(ctx, net, chosen, keep_rows=True)
    rows = []
    for c in classes:  # one class at a time: n images of all classes may not fit in memory
        [fake] = generated_features(ctx, [net], ctx.plan_per_class([c], n), keep_rows=True, remember=False)
        rows.append(on_main(lambda c=c, fake=fake: value(
            real.features[torch.as_tensor(np.flatnonzero(chosen.ids == c))], fake.features, ctx.device)))
    values = np.array(rows, np.float64)
    table = dict(ids=classes, n_real=[int((chosen.ids == c).sum()) for c in classes], n_gen=[n] * len(classes))
    table |= {c or "values": values[:, i].tolist() for i, c in enumerate(columns)}
    return Outcome({f"{name}_{c}" if c else name: float(values[:, i].mean()) for i, c in enumerate(columns)}, detector,
                   min(table["n_real"]), n * len(classes), None, real.dim, "uniform", table)


def _ppl_class(m: re.Match) -> Metric:
    """ppl_class[_<N>]: path length between classes: latent and noise fixed, the class changes by a step."""
    name, n = m[0], _count(m["n"], 5000)

    def run(ctx: MetricContext) -> Outcome:
        if ctx.generated is not None:
            raise UserError(f"metric '{name}' needs a model, not a set of images")
        classes, values, mean = path_length.class_path_length(ctx, n)
        table = dict(ids=classes, values=values, n_gen=[2 * n // len(classes)] * len(classes))
        return Outcome({name: mean}, "lpips", None, n, labels="uniform", per_class=table)

    return Metric(name, run, {name: LOWER}, classes=True, lpips=True)


def _kmmd(m: re.Match) -> Metric:
    """kmmd[<N>]: cGANTransfer's biased kernel MMD on torchvision-Inception features, 25k generated and real images;
    kmmd_unbiased[<N>]: the papers' MMD^2 over pairs of different images, with its standard error."""
    name, n = m[0], _count(m["n"], 25000)

    def run(ctx: MetricContext) -> Outcome:
        real, fake = _both(ctx, "inception-biggan", n, Selection.spread(ctx.reals, n))
        if m["unbiased"]:
            value, error = on_main(lambda: kmmd_unbiased(real.features, fake.features))
            values = {name: value, f"{name}_error": error}
        else:
            values = {name: on_main(lambda: kmmd(real.features, fake.features))}
        return Outcome(values, "inception-biggan", real.num, n, dim=real.dim)

    return Metric(name, run, {name: LOWER, f"{name}_error": UNRATED}, ("inception-biggan",))


def _cmmd(m: re.Match) -> Metric:
    """cmmd[<N>]: maximum mean discrepancy of CLIP embeddings, 30k generated images."""
    name, n = m[0], _count(m["n"], 30000)

    def run(ctx: MetricContext) -> Outcome:
        real, fake = _both(ctx, "clip", n, Selection.spread(ctx.reals, 50000))
        return Outcome({name: on_main(lambda: cmmd(real.features, fake.features))}, "clip", real.num, n)

    return Metric(name, run, {name: LOWER}, ("clip",))


def write_reference(path: str | Path, name: str, data: ImageDataset, ctx: MetricContext) -> None:
    """Write the statistics of all images of `data` by the detector of metric `name`, for --ref. Collective."""
    detectors = lookup(name).detectors
    if len(detectors) != 1:
        raise UserError(f"--write-ref: metric '{name}' has no single detector; name one such as fid50k_full")
    net, chosen = ctx.detector(detectors[0]), Selection.first(data)
    real = real_features(ctx, net, chosen)
    on_main(lambda: reference.write_reference(
        path, real.moments, net, dict(name=data.spec.name, sha256=data.fingerprint(), images=len(chosen))))


def _both(ctx: MetricContext, detector: str, n: int, chosen: Selection) -> tuple[FeatureSet, FeatureSet]:
    plan, net = ctx.plan(n), ctx.detector(detector)
    real = real_features(ctx, net, chosen, keep_rows=True)
    return real, generated_features(ctx, [net], plan, keep_rows=True)[0]


def _fid_inf(m: re.Match) -> Metric:
    """fid_inf[_<N>]: FID extrapolated to infinitely many generated images, from at most N."""
    name, n = m[0], _count(m["n"], 50000)

    def run(ctx: MetricContext) -> Outcome:
        plan, net = ctx.plan(n), ctx.detector("inception")
        real = real_features(ctx, net, Selection.first(ctx.reals))
        [fake] = generated_features(ctx, [net], plan, keep_rows=True)
        value, sizes, values = on_main(lambda: fid_infinity(real.moments, fake.features))
        return Outcome({name: value}, "inception", real.num, n, 0, real.dim,
                       extra={"sizes": sizes.tolist(), "values": values.tolist()})

    return Metric(name, run, {name: LOWER}, ("inception",))


def _ppl(m: re.Match) -> Metric:
    """ppl2_wend (whole image) and ppl_<z|w><full|end> (face crop); 50 000 pairs unless counted."""
    name, n, crop = m[0], _count(m["n"], 50000), not m["two"]

    def run(ctx: MetricContext) -> Outcome:
        if ctx.generated is not None:
            raise UserError(f"metric '{name}' needs a model, not a set of images")
        value = path_length.path_length(ctx, n, m["space"], m["sampling"], crop)
        return Outcome({name: value}, "lpips", None, n)

    return Metric(name, run, {name: LOWER}, lpips=True)


def _lpips_diversity(m: re.Match) -> Metric:
    """lpips_diversity[_<pairs>]: mean LPIPS of generated pairs within a class (default 1000 pairs per class)."""
    name, pairs = m[0], _count(m["n"], 1000)

    def run(ctx: MetricContext) -> Outcome:
        classes, values = path_length.lpips_diversity(ctx, pairs)
        return Outcome({name: float(values.mean())}, "lpips", None, 2 * pairs * len(classes), labels="uniform",
                       per_class=dict(ids=classes, values=values.tolist(), n_gen=[2 * pairs] * len(classes)))

    return Metric(name, run, {name: HIGHER}, lpips=True)


def _memorisation(m: re.Match) -> Metric:
    """memorisation[_<detector>][_<N>]: distance to the nearest training image, relative to held-out real images."""
    name, n, detector = m[0], _count(m["n"], 10000), m["detector"] or "inception"

    def run(ctx: MetricContext) -> Outcome:
        if ctx.training is None:
            raise UserError(f"metric '{name}' compares with the training images: give --train-data")
        net, train_set = ctx.detector(detector), ctx.training
        plan = ctx.plan(n)
        labelled = plan.ids is not None and train_set.class_ids is not None and ctx.reals.class_ids is not None
        train = real_features(ctx, net, Selection.first(train_set), keep_rows=True)
        real = real_features(ctx, net, Selection.first(ctx.reals), keep_rows=True)
        [fake] = generated_features(ctx, [net], plan, keep_rows=True)
        ids = [Selection.first(train_set).ids, plan.ids, Selection.first(ctx.reals).ids] if labelled else \
            [np.zeros(s.num, np.int64) for s in (train, fake, real)]
        classes = sorted(set(np.unique(ids[0]).tolist()) & set(np.unique(ids[1]).tolist()))
        if not classes:
            raise UserError(f"metric '{name}': no class has both training and generated images")

        def value() -> tuple[dict, dict, dict]:
            near = nearest_training(train.features, fake.features, real.features, *ids, classes)
            order = np.argsort(near.fake_distance, kind="stable")[:10]
            closest = [dict(sample=int(plan.seeds[i]), training=int(near.fake_index[i]),
                            distance=float(near.fake_distance[i])) for i in order]
            table = dict(ids=classes, values=near.ratio.tolist(), n_real=[int((ids[0] == c).sum()) for c in classes],
                         n_gen=[int((ids[1] == c).sum()) for c in classes])
            return {name: near.mean()}, table, {"closest": closest, "excluded": near.excluded}

        results, table, extra = on_main(value)
        return Outcome(results, detector, real.num, n, dim=real.dim, per_class=table if labelled else None, extra=extra)

    return Metric(name, run, {name: HIGHER}, (detector,), training=True)  # low values are copies


def _report(m: re.Match) -> Metric:
    """report_<detector>[_<per class>]: the table of metrics/report.py, 200 images per class unless counted."""
    name, detector, per_class = m[0], m["detector"], _count(m["n"], 200)

    def run(ctx: MetricContext) -> Outcome:
        r = class_report.class_report(ctx, detector, per_class)
        results = {f"{name}_{k}": v for k, v in r.results.items()}
        return Outcome(results, detector, r.num_real, r.num_gen, class_report.DDOF, labels="uniform",
                       per_class=r.per_class,
                       extra={"notes": r.notes} if r.notes else {})

    better = {rf"{re.escape(name)}_{key}": d for key, d in class_report.BETTER.items()}
    return Metric(name, run, better, (detector, "pix64"), classes=True)


def _sfid(m: re.Match) -> Metric:
    """sfid_<detector>_<N>[_c<centres>][_r<radius>]: FID per window of a continuous label; labels as the reference's."""
    name, detector, n = m[0], m["detector"], _count(m["n"], 2000)
    count, radius = int(m["c"] or continuous.WINDOWS), None if m["r"] is None else float(m["r"])
    if count < 1:
        raise UserError(f"metric '{name}': at least one window is needed")

    def run(ctx: MetricContext) -> Outcome:
        net, y_real, plan = ctx.detector(detector), continuous.reals_of(ctx, name), ctx.plan(n)
        y_fake = continuous.requested(ctx, plan, name)
        real = real_features(ctx, net, Selection.first(ctx.reals), keep_rows=True)
        [fake] = generated_features(ctx, [net], plan, keep_rows=True)
        windows = continuous.Windows.over(y_real, count, radius)
        scale = on_main(lambda: class_report.pixel_scale(real)) if detector == "pix64" else 1.0
        t = on_main(lambda: continuous.sfid(real, fake, y_real, y_fake, windows, scale))
        return Outcome({name: t.mean, f"{name}_std": t.std}, detector, min(t.n_real), n, 1, real.dim,
                       per_class=dict(ids=t.ids, values=t.values.tolist(), n_real=t.n_real, n_gen=t.n_fake))

    return Metric(name, run, _mean_and_spread(name, LOWER), (detector,), value=True)


def _label_score(m: re.Match) -> Metric:
    """label_score_<detector>_<N>: |what a judge sees - the label asked for|, in label units: mean, std, per window."""
    name, detector, n = m[0], m["detector"], _count(m["n"], 2000)

    def run(ctx: MetricContext) -> Outcome:
        net, y_real, plan = ctx.detector(detector), continuous.reals_of(ctx, name), ctx.plan(n)
        y = continuous.requested(ctx, plan, name)
        [fake] = generated_features(ctx, [net], plan, keep_rows=True, logits=True)
        windows = continuous.Windows.over(y_real, continuous.WINDOWS, None)
        mean, std, t = on_main(lambda: continuous.score(fake, y, windows))
        return Outcome({name: mean, f"{name}_std": std}, detector, None, n,
                       per_class=dict(ids=t.ids, values=t.values.tolist(), n_gen=t.n_fake))

    return Metric(name, run, _mean_and_spread(name, LOWER), (detector,), value=True)


_DET = r"(?P<detector>[a-zA-Z][a-zA-Z0-9.-]*)"
_N = r"(?P<n>\d+k?)"
PATTERNS: list[tuple[str, str, Callable[[re.Match], Metric]]] = [
    (rf"(?P<kind>fid|kid){_N}(?:_(?P<protocol>full|many|medium|few|shots|class|{'|'.join(FOREIGN)}))?",
     "fid<N>, kid<N> with _full, _many, _medium, _few, _shots, _class, _clean, _pytorch, _biggan, _fidelity", _fid_kid),
    (rf"(?P<kind>fid|kid)_(?P<protocol>{'|'.join(FOREIGN)})", "fid_clean, kid_clean, ... (50k)", _fid_kid),
    (r"(?P<kind>fid|kid)_(?P<scope>shots|class)", "fid_shots, kid_shots, fid_class, kid_class", _named_tables),
    (rf"is{_N}(?:_(?P<protocol>biggan|fidelity))?", "is<N>, is<N>_biggan, is<N>_fidelity", _is),
    (r"(?P<kind>pr)(?P<n>\d+k)(?P<k>\d+)(?P<full>_full)?", "pr<N>k<k>, pr<N>k<k>_full", _pr_dc),
    (rf"(?P<kind>pr)_{_DET}_{_N}_k(?P<k>\d+)", "pr_<detector>_<N>_k<k>", _pr_dc),
    (r"(?P<kind>pr|dc)_class", "pr_class, dc_class", _pr_dc_class),
    (rf"(?P<kind>pr|dc)_{_DET}_{_N}_k(?P<k>\d+)_class", "pr_<detector>_<N>_k<k>_class, dc_...", _pr_dc_class),
    (r"diversity_class", "diversity_class", _diversity_class),
    (rf"diversity_{_DET}_{_N}_class", "diversity_<detector>_<N>_class", _diversity_class),
    (rf"ppl_class(?:_{_N})?", "ppl_class", _ppl_class),
    (r"(?P<kind>dc)(?P<n>\d+k)(?P<k>\d+)", "dc<N>k<k>", _pr_dc),
    (rf"(?P<kind>dc)_{_DET}_{_N}_k(?P<k>\d+)", "dc_<detector>_<N>_k<k>", _pr_dc),
    (rf"ppl(?P<two>2)?_(?P<space>z|w)(?P<sampling>full|end)(?:_{_N})?", "ppl2_wend, ppl_<z|w><full|end>", _ppl),
    (rf"kmmd(?P<unbiased>_unbiased)?{_N}?", "kmmd, kmmd_unbiased, kmmd<N>, kmmd_unbiased<N>", _kmmd),
    (rf"cmmd{_N}?", "cmmd, cmmd<N>", _cmmd),
    (rf"fid_inf(?:_{_N})?", "fid_inf, fid_inf_<N>", _fid_inf),
    (rf"lpips_diversity(?:_{_N})?", "lpips_diversity", _lpips_diversity),
    (rf"memorisation(?:_{_DET})??(?:_{_N})?", "memorisation, memorisation_<detector>", _memorisation),
    (rf"smoke_(?P<kind>fd|kid)_pixel16_{_N}", "smoke (no weights needed)", _smoke),
    (rf"(?P<kind>fd|kd)_{_DET}(?:_{_N})?(?:_(?P<scope>many|medium|few|shots|class))?",
     "fd_<detector>_<N>, kd_<detector>_<N> with _many, _medium, _few, _shots, _class", _fd_kd),
    (rf"report_{_DET}(?:_{_N})?", "report_<detector>", _report),
    (rf"sfid_{_DET}(?:_{_N})?(?:_c(?P<c>\d+))?(?:_r(?P<r>\d+(?:\.\d+)?))?", "sfid_<detector>_<N>", _sfid),
    (rf"label_score_{_DET}(?:_{_N})?", "label_score_<detector>_<N>", _label_score),
]


def _build(name: str) -> Metric | None:
    for pattern, _, family in PATTERNS:
        m = re.fullmatch(pattern, name)
        if m:
            return family(m)
    return None


# The usual names; any other count or detector is built from the patterns when it is asked for.
METRICS: dict[str, Metric] = {name: _build(name) for name in (
    "fid50k_full", "kid50k_full", "pr50k3_full", "is50k", "ppl2_wend", "fid50k", "kid50k", "pr50k3",
    "ppl_zfull", "ppl_wfull", "ppl_zend", "ppl_wend", "dc10k5", "kmmd", "kmmd_unbiased", "fid_shots", "kid_shots",
    "fid_class", "kid_class", "pr_class", "dc_class", "diversity_class", "ppl_class", "fid_inf", "fid50k_clean",
    "fid50k_fidelity", "fd_dinov2_50k", "cmmd",
    "lpips_diversity", "memorisation", "sfid_pix64_2k",
    "smoke_fd_pixel16_256", "smoke_kid_pixel16_256", "fd_digits32_2k", "fd_pix64_2k", "report_digits32")}
GROUPS = {"smoke": ("smoke_fd_pixel16_256", "smoke_kid_pixel16_256"), "none": ()}


def find(name: str) -> Metric | None:
    """The metric of that name, or None."""
    try:
        return METRICS.get(name) or _build(name)
    except UserError:  # a name of a known kind with impossible numbers
        return None


def lookup(name: str) -> Metric:
    """The metric of that name. UserError, listing the valid ones, for an unknown name."""
    metric = METRICS.get(name) or _build(name)
    if metric is None:
        raise UserError(f"--metrics: unknown metric '{name}'; known are {', '.join(GROUPS)}, "
                        f"{'; '.join(text for _, text, _ in PATTERNS)} (N: a count such as 50k or 500)")
    return metric


def parse_names(text: str | Sequence[str] | None) -> list[str]:
    """'fid50k_full,smoke' -> full metric names, without repetition. 'none' and '' give []. UserError if unknown."""
    items = (text or "").split(",") if isinstance(text, str) or text is None else list(text)
    names: list[str] = []
    for item in (i.strip() for i in items):
        if item:
            names += [lookup(n).name for n in GROUPS.get(item, (item,))]
    return list(dict.fromkeys(names))


def preflight(names: Sequence[str], spec: DataSpec, detectors: Mapping[str, str | Path] | None = None, *,
              training: bool = True) -> None:
    """UserError, naming metric, cause and remedy, when one of `names` cannot be computed for a model of `spec`.

    Looks for weights and checks their hashes, and that the data has the labels, groups, size and channels that the
    metric needs. Reads no network into memory.
    """
    overrides = features.normalise_overrides(detectors or {})
    for name in names:
        metric = lookup(name)
        for detector in metric.detectors:
            try:
                features.require(detector, overrides).check(spec.channels, spec.resolution, detector)
            except features.MissingWeights as e:
                raise UserError(e.describe(name)) from None
            except UserError as e:
                raise UserError(f"metric '{name}': {e}") from None
        if metric.lpips:
            try:
                features.require_lpips(overrides)
            except features.MissingWeights as e:
                raise UserError(e.describe(name)) from None
        if metric.classes and spec.label.kind != "class":
            raise UserError(f"metric '{name}' needs class labels, and {spec.name} has none in use (train with --cond=1 "
                            "on a labelled set, or omit this metric)")
        if metric.value and (spec.label.kind != "value" or spec.label.dim != 1):
            raise UserError(f"metric '{name}' needs one continuous label per image, and {spec.name} has none in use")
        if metric.shots and not any(spec.label.shots.get(g) for g in metric.shots):
            raise UserError(f"metric '{name}': the label file has no classes in {' or '.join(metric.shots)}; "
                            "lt_dataset.py writes the groups (--fname=lt_*.json)")
        if metric.training and not training:
            raise UserError(f"metric '{name}' compares with the training images: give --train-data")


def compute(name: str, ctx: MetricContext, *, snapshot: str | None = None, kimg: float | None = None) -> dict[str, Any]:
    """Compute one metric and return its result line (the same on every rank).

    `results` maps value names to numbers; a metric whose statistics cannot be formed (non-finite features, too few
    rows) has null there and the reason in `error`. UserError when something the user controls is missing.
    """
    metric = lookup(name)
    start = time.time()
    error = None
    try:
        out = metric.run(ctx)
    except MetricError as e:
        out, error = Outcome({metric.name: None}, *metric.detectors[:1]), str(e)
    else:
        directions.check(name, metric.better, out.results)
    seconds = time.time() - start
    bad = [k for k, v in out.results.items() if v is not None and not math.isfinite(v)]
    if bad:
        error = f"{bad[0]} is not finite"
    detector = None
    if out.detector == "lpips":
        detector = {"name": "lpips", "sha256": path_length.perceptual(ctx).sha256, "input": None}
    elif out.detector is not None:
        detector = ctx.detector(out.detector).identity()
    result = dict(
        results={k: _json_number(v) for k, v in out.results.items()}, metric=metric.name, total_time=seconds,
        total_time_str=util.format_time(seconds), num_gpus=dist.world_size(), snapshot_pkl=snapshot,
        timestamp=time.time(), schema=SCHEMA, kimg=kimg, detector=detector, num_real=out.num_real, num_gen=out.num_gen,
        labels=_labels(ctx, out), seed=ctx.seed, dtype="float32 features, float64 statistics", ddof=out.ddof,
        low_sample=None if out.num_real is None or out.dim is None else out.num_real <= out.dim,
        reference=None if ctx.reference is None else dict(name=ctx.reference.spec.name,
                                                          sha256=ctx.reference.fingerprint()),
        versions=dict(torch=torch.__version__, gantransfer=gantransfer.__version__))
    if out.per_class is not None:
        result["per_class"] = {k: [_json_number(v) for v in column] for k, column in out.per_class.items()}
    result |= out.extra
    if ctx.truncation:
        result["truncation"] = dict(ctx.truncation)
    if error:
        result["error"] = error
    return dist.broadcast_object(result)


def _labels(ctx: MetricContext, out: Outcome) -> str | None:
    if ctx.generated is not None:
        return "as given"
    return None if ctx.label.kind == "none" else out.labels or ctx.labels


def _json_number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def warnings_of(result: Mapping[str, Any]) -> list[str]:
    """What a reader of the result should be told on the terminal."""
    out = []
    if result.get("error"):
        out.append(f"{result['metric']} failed: {result['error']}")
    if result.get("low_sample") and re.match(r"s?fid|(smoke_)?fd_|report_", result["metric"]):
        out.append(f"{result['metric']}: {result['num_real']} real images are no more than the detector's features: "
                   "a singular covariance biases a Frechet distance upwards; compare at equal counts only, or use KID")
    return out + [f"{result['metric']}: {n}" for n in result.get("notes", [])]


def jsonl_path(run_dir: str | Path, name: str) -> Path:
    return Path(run_dir) / f"metric-{name}.jsonl"


def _read_lines(path: Path) -> tuple[list[dict], int]:
    """(complete lines, number of bytes they take). A line torn by a kill or a full disk is left out."""
    if not path.is_file():
        return [], 0
    data = path.read_bytes()
    good = data.rfind(b"\n") + 1
    return [record for _, record in json_file.records(data[:good])], good


def already_done(run_dir: str | Path, name: str, snapshot: str | None) -> bool:
    """True when metric-<name>.jsonl of the run has a result for this snapshot, without truncation."""
    lines, _ = _read_lines(jsonl_path(run_dir, lookup(name).name))
    return any(x.get("snapshot_pkl") == snapshot and "error" not in x and not x.get("truncation") for x in lines)


def append_jsonl(run_dir: str | Path, result: Mapping[str, Any]) -> bool:
    """Append one result to metric-<name>.jsonl in one write. Returns False when the same evaluation is there already.

    Same: metric, kimg, snapshot, and protocol (seed, labels, reference, detector, truncation); a failed one may be
    repeated. Call on rank 0. A torn last line of a killed process is removed first.
    """
    path = jsonl_path(run_dir, result["metric"])
    lines, good = _read_lines(path)
    if any(_identity(x) == _identity(result) and "error" not in x for x in lines):
        return False
    line = (json.dumps(result, allow_nan=False) + "\n").encode()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
    try:
        if os.fstat(fd).st_size != good:
            os.ftruncate(fd, good)
        os.lseek(fd, 0, os.SEEK_END)
        if os.write(fd, line) != len(line):
            os.ftruncate(fd, good)
            raise OSError(28, "no space left on the disk", str(path))
    finally:
        os.close(fd)
    return True


def protocol(line: Mapping[str, Any]) -> str:
    """What the values of a line of metric-*.jsonl depend on beside the network: equal text, comparable values."""
    def part(group: str, key: str) -> Any:
        return value.get(key) if isinstance(value := line.get(group), Mapping) else None

    return json.dumps([*(line.get(k) for k in ("seed", "labels", "num_gen", "num_real")), line.get("truncation") or {},
                       part("reference", "sha256"), part("detector", "sha256"), part("detector", "input"),
                       part("per_class", "ids")], sort_keys=True)


def _identity(x: Mapping[str, Any]) -> tuple:
    return (*(x.get(k) for k in ("metric", "kimg", "snapshot_pkl")), protocol(x))
