# SPDX-License-Identifier: Apache-2.0
"""Images to features and statistics, with any number of processes, and the cache of real statistics.

Batches have a fixed size and are aligned to the sample index; process r takes batches r, r + W, ... Every step ends in
one exchange after which all processes hold the step's rows in index order, so the result depends neither on the number
of processes nor on who computed what.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from tqdm import tqdm

from dnnlib import json_file, util
from dnnlib.util import UserError, first_line
from gantransfer.data.dataset import ImageDataset
from gantransfer.detectors.features import Detector
from gantransfer.formats import npz
from gantransfer.formats.pickle_machine import Refused
from gantransfer.metrics.context import MetricContext, Plan
from gantransfer.metrics.feature_matrix import check_finite
from gantransfer.metrics.fid import Moments, RunningMoments
from torch_utils import distributed as dist

VERSION = 2  # of these statistics: part of every cache key, raised when the same images would give other numbers
KEEP_BYTES = 1 << 30  # rows are kept in memory up to this size when only their moments were asked for
CACHE_BYTES = 2 << 30  # larger feature matrices are not written to the cache
T = TypeVar("T")


@dataclass
class FeatureSet:
    """Features of one set of images by one detector, on rank 0. `rows` is None when only moments were kept."""

    num: int
    dim: int
    rows: torch.Tensor | None = None  # float32 [num, dim]
    logits: torch.Tensor | None = None  # float32 [num, classes]
    _moments: Moments | None = field(default=None, repr=False)

    @property
    def moments(self) -> Moments:
        if self._moments is None:
            running = RunningMoments()
            for part in self.rows.split(4096):
                running.add(part)
            self._moments = running.finish()
        return self._moments

    @property
    def features(self) -> torch.Tensor:
        if self.rows is None:
            raise ValueError("only the moments of this set were kept")
        return self.rows


@dataclass(frozen=True)
class Selection:
    """Real images: rows of a data set in a given order; item n + i is the mirror image of item i."""

    data: ImageDataset
    indices: np.ndarray  # int64, below len(data), or below 2 len(data) with mirrored items

    @classmethod
    def first(cls, data: ImageDataset, count: int | None = None, mirror: bool = False) -> Selection:
        """All items in index order, or the first `count`, as the published metrics take them."""
        total = len(data) * (1 + mirror)
        return cls(data, np.arange(total if count is None else min(count, total)))

    @classmethod
    def spread(cls, data: ImageDataset, count: int) -> Selection:
        """At most `count` items at even distances (sets are sorted by name, often by class)."""
        n = min(count, len(data))
        return cls(data, np.arange(n) * len(data) // n)

    @classmethod
    def classes(cls, data: ImageDataset, classes: Sequence[int], limit: int | None = None) -> Selection:
        """All items of these classes (at most the first `limit` of each)."""
        rows = [np.flatnonzero(data.class_ids == c)[:limit] for c in classes]
        return cls(data, np.sort(np.concatenate(rows)))

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def ids(self) -> np.ndarray:
        """Class id per item."""
        return self.data.class_ids[self.indices % len(self.data)]

    def images(self, start: int, stop: int) -> torch.Tensor:
        """uint8 [stop - start, C, H, W]."""
        i = self.indices[start:stop]
        n = len(self.data)
        images = self.data.images_uint8(i % n).copy()
        images[i >= n] = images[i >= n, :, :, ::-1]
        return torch.from_numpy(images)


def interleave(per_rank: torch.Tensor) -> torch.Tensor:
    """[W, n, ...] (process, its n items) -> [W * n, ...]: item 0 of every process, item 1 of every process, ..."""
    return per_rank.transpose(0, 1).reshape(-1, *per_rank.shape[2:])


def on_main(fn: Callable[[], T]) -> T:
    """Run `fn` on rank 0 and return its result, or raise its exception, on every rank."""
    result: Any = None
    error: Exception | None = None
    if dist.is_main():
        try:
            result = fn()
        except Exception as e:  # every rank must leave together, whatever went wrong
            error = e
    error = dist.broadcast_object(error)
    if error is not None:
        raise error
    return dist.broadcast_object(result)


def collect(total: int, batch: int, compute: Callable[[int, int], torch.Tensor],
            consume: Callable[[torch.Tensor, int], None], *, what: str, progress: bool = False) -> None:
    """Call `compute(start, stop) -> float32 [stop - start, D]` for all batches, spread over the processes.

    `consume(rows, start)` is called on every rank, for every step, with finite rows in index order. A non-finite row
    raises NonFiniteFeatures on every rank, naming its index.
    """
    world, rank = dist.world_size(), dist.rank()
    slab = world * batch
    # Shown once the first batch is done: the message that kernels are being compiled comes before it.
    bar = tqdm(total=total, desc=what, unit="img", leave=False, file=sys.stderr, delay=0.1,
               disable=None if progress and dist.is_main() else True)  # None: silent unless on a terminal
    with bar:
        for first in range(0, total, slab):
            start = first + rank * batch
            stop = min(start + batch, total)
            rows = compute(start, stop).float().cpu() if start < stop else None
            if world > 1:
                dim = max(d for d in dist.gather_object(0 if rows is None else rows.shape[1]))
                slots = torch.zeros(world, 1, batch, dim)
                if rows is not None:
                    slots[rank, 0, :len(rows)] = rows
                rows = interleave(dist.all_reduce_sum(slots)).reshape(slab, dim)[:min(slab, total - first)]
            check_finite(rows, what, first)
            consume(rows, first)
            bar.update(len(rows))


def extract(detectors: Sequence[Detector], total: int, batch: int, images: Callable[[int, int], torch.Tensor], *,
            keep_rows: bool, logits: bool = False, what: str, progress: bool = False) -> list[FeatureSet]:
    """Features of `total` images, made once and shown to every detector: one FeatureSet each (rank 0's is full).

    Without `keep_rows` only moments are kept when the rows would exceed KEEP_BYTES.
    """
    widths: list[tuple[int, int]] = []  # features, logits per detector

    def compute(start: int, stop: int) -> torch.Tensor:
        x = images(start, stop)
        parts = []
        widths.clear()
        for d in detectors:
            out = d(x)
            extra = out.logits if logits else None
            widths.append((out.features.shape[1], 0 if extra is None else extra.shape[1]))
            parts += [out.features, *([] if extra is None else [extra])]
        return torch.cat([p.cpu() for p in parts], 1)

    running = [RunningMoments() for _ in detectors]
    kept: list[torch.Tensor] | None = []
    shape: list[tuple[int, int]] = []

    def consume(rows: torch.Tensor, start: int) -> None:
        nonlocal kept
        if not dist.is_main():
            return
        shape[:] = widths  # rank 0 has a share of every step
        if not keep_rows and total * rows.shape[1] * 4 > KEEP_BYTES:
            kept = None
        if kept is not None:
            kept.append(rows)
            return
        for r, part in zip(running, rows.split([w for pair in widths for w in pair], 1)[::2]):
            r.add(part)

    collect(total, batch, compute, consume, what=what, progress=progress)
    sizes = dist.broadcast_object(list(shape))
    if not dist.is_main():
        return [FeatureSet(total, w) for w, _ in sizes]
    if kept is None:
        return [FeatureSet(total, w, _moments=r.finish()) for (w, _), r in zip(sizes, running)]
    parts = torch.cat(kept).split([w for pair in sizes for w in pair], 1)
    return [FeatureSet(total, w, f.contiguous(), g.contiguous() if c else None)
            for (w, c), f, g in zip(sizes, parts[::2], parts[1::2])]


def real_features(ctx: MetricContext, detector: Detector, chosen: Selection, *, keep_rows: bool = False) -> FeatureSet:
    """Features of real images, from the cache when the same images were seen by the same detector before."""
    if len(chosen) == 0:
        raise ValueError("no real images")
    key = real_key(detector, chosen)
    got = ctx.memo.get(("real", key))
    if got is not None and (got[1] or not keep_rows):
        return got[0]
    cached = _load_cached(ctx, key, keep_rows) if ctx.use_cache and dist.is_main() else None
    found = dist.broadcast_object(None if cached is None else (cached.num, cached.dim))
    if found:
        result = cached if dist.is_main() else FeatureSet(*found)
    else:
        [result] = extract([detector], len(chosen), ctx.batch, chosen.images, keep_rows=keep_rows,
                           what="real features", progress=ctx.progress)
        if ctx.use_cache and dist.is_main():
            _save_cached(ctx, key, result, keep_rows, chosen)
    # what is kept must look the same on every rank, or they would part ways at the next metric
    ctx.memo["real", key] = (result, dist.broadcast_object(result.rows is not None))
    return result


def generated_features(ctx: MetricContext, detectors: Sequence[Detector], plan: Plan, *, keep_rows: bool = False,
                       logits: bool = False, remember: bool = True) -> list[FeatureSet]:
    """Features of generated images by several detectors; the images are generated once per context and plan.

    `remember=False` keeps nothing in the context, for plans that no other metric shares.
    """
    def usable(d: Detector) -> FeatureSet | None:
        for with_logits in ((True,) if logits else (False, True)):
            got = ctx.memo.get(("generated", d.name, plan.key, with_logits))
            if got is not None and (got[1] or not keep_rows):
                return got[0]
        return None

    missing = [d for d in detectors if usable(d) is None]
    if missing:
        sets = extract(missing, len(plan), ctx.batch, lambda a, b: ctx.images(plan, a, b), keep_rows=keep_rows,
                       logits=logits, what="generated features", progress=ctx.progress)
        kept = dist.broadcast_object([s.rows is not None for s in sets])
        if not remember:
            return sets if len(missing) == len(detectors) else [usable(d) or sets[missing.index(d)] for d in detectors]
        for d, s, has_rows in zip(missing, sets, kept):
            ctx.memo["generated", d.name, plan.key, logits] = (s, has_rows)
    return [usable(d) for d in detectors]


def real_key(detector: Detector, chosen: Selection) -> str:
    """Cache key: what the images are (content, not path), which of them, who looked at them and how."""
    spec = chosen.data.spec
    content = dict(version=VERSION, dataset=chosen.data.fingerprint(), resolution=spec.resolution,
                   selection=hashlib.sha256(np.ascontiguousarray(chosen.indices, np.int64).tobytes()).hexdigest(),
                   detector=detector.identity())
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _cache_path(ctx: MetricContext, key: str, kind: str) -> Path:
    return Path(ctx.cache_dir) / f"{key[:40]}-{kind}.npz"


def _load_cached(ctx: MetricContext, key: str, keep_rows: bool) -> FeatureSet | None:
    for kind in ("rows",) if keep_rows else ("moments", "rows"):
        path = _cache_path(ctx, key, kind)
        if not path.is_file():
            continue
        try:
            return _from_cache(npz.read(path), kind, key)
        except (UserError, Refused, KeyError, ValueError) as e:
            print(f"Cached statistics {path} are damaged ({first_line(e)}); computing them again", file=sys.stderr)
    return None


def _from_cache(a: dict[str, np.ndarray], kind: str, key: str) -> FeatureSet:
    """What a file of the cache holds. ValueError, KeyError or UserError unless it is whole, and of this key."""
    if json_file.parse(str(a["header"]), "its header").get("key") != key:
        raise ValueError("it is of other images or another detector")
    if kind == "rows":
        rows = a["rows"]
        if rows.ndim != 2 or rows.dtype != np.float32 or not rows.size or not np.isfinite(rows).all():
            raise ValueError("its rows are no features")
        return FeatureSet(len(rows), rows.shape[1], torch.from_numpy(rows))
    num, mean, scatter = a["num"], a["mean"], a["scatter"]
    if not (num.shape == () and num.dtype == np.int64 and num > 0 and mean.dtype == scatter.dtype == np.float64
            and mean.ndim == 1 and len(mean) and scatter.shape == (len(mean), len(mean))
            and np.isfinite(mean).all() and np.isfinite(scatter).all()):
        raise ValueError("its mean and covariance do not fit")
    m = Moments(int(num), torch.from_numpy(mean), torch.from_numpy(scatter))
    return FeatureSet(m.num, m.dim, _moments=m)


def _save_cached(ctx: MetricContext, key: str, result: FeatureSet, keep_rows: bool, chosen: Selection) -> None:
    # few rows are worth keeping as they are: the distance of rank-deficient sets needs them
    as_rows = result.rows is not None and (keep_rows or result.num <= result.dim)
    if as_rows:
        if result.rows.numel() * 4 > CACHE_BYTES:
            return
        arrays = dict(rows=result.rows.numpy())
    else:
        m = result.moments
        arrays = dict(num=np.int64(m.num), mean=m.mean.numpy(), scatter=m.scatter.numpy())
    header = json.dumps(dict(key=key, name=chosen.data.spec.name, images=len(chosen), version=VERSION))
    path = _cache_path(ctx, key, "rows" if as_rows else "moments")
    try:
        with util.atomic_path(path) as tmp, open(tmp, "wb") as f:
            np.savez(f, header=np.array(header), **arrays)
    except OSError as e:  # a read-only or full cache costs time, not the result
        text = f"Statistics of the real images cannot be cached in {ctx.cache_dir}: {e.strerror}"
        if text not in ctx.said:
            ctx.said.add(text)
            print(text, file=sys.stderr)
