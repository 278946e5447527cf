# SPDX-License-Identifier: Apache-2.0
"""How far trainings in a latent space are, and at which cost: figures of every snapshot, the auto-encoder's floor, and
when each curve comes within a share of the way from its start to there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dnnlib import json_file
from dnnlib.util import atomic_write
from gantransfer.experiments import cost, harness, sheets
from gantransfer.metrics.paired import spread, table, train_seconds

PRIMARY, SHARE = "class_fd", 0.05


class Ruler:
    """The judges' reports of samplers, remembered in a file by key."""

    def __init__(self, folder: Path, judges: int, reference: Path):
        from gantransfer.data.dataset import ImageDataset

        self.path, self.judges = folder / "measured.json", judges
        prints = [harness.sha256(folder / f"judge{j}.pt") for j in range(judges)]
        self.known: dict[str, Any] = json_file.read(self.path) if self.path.exists() else {}
        if self.known.get("by") != prints:  # figures of other judges do not count
            self.known = dict(by=prints)
        self.reference = ImageDataset(reference, use_labels=True)
        self.training = ImageDataset(folder / "target.zip", use_labels=True)
        self.folder = folder

    def __call__(self, key: str, make: Any) -> list[dict[str, float]]:
        """Per judge, the columns of `harness.METRIC` of the sampler that `make()` gives."""
        from gantransfer.metrics import table

        found = self.known.setdefault(key, [])
        if len(found) < self.judges:
            sampler = make()
            for j in range(len(found), self.judges):
                ctx = table.MetricContext(sampler=sampler, reference=self.reference, training=self.training,
                                          detectors={harness.JUDGE: self.folder / f"judge{j}.pt"}, labels="uniform")
                got = table.compute(harness.METRIC, ctx)["results"]
                found.append({k.removeprefix(f"{harness.METRIC}_"): float(v) for k, v in got.items()
                              if isinstance(v, int | float)})
            with atomic_write(self.path) as f:
                json.dump(self.known, f)
            print(f"measured {key}: {PRIMARY} {found[0][PRIMARY]:.2f}", flush=True)
        return found


def name_of(snapshot: Path) -> str:
    return snapshot.stem.removeprefix("network-snapshot-")


def measure(folder: Path, snapshots: dict[tuple[str, int], list[Path]], encoder: Path, judges: int,
            baselines: Iterable[str], reference: Path | None = None) -> dict[str, list[dict[str, float]]]:
    """Reports of every snapshot, of the baselines of the last Mind2Mind snapshots, and of the reconstructions.

    `folder` has target.zip with its latents, the judges and, if `reference` is nowhere else, target-ref.zip.
    """
    from gantransfer.latent import autoencoder, cache
    from gantransfer.latent.reconstructions import Reconstructions
    from gantransfer.methods import mind2mind
    from gantransfer.model import load

    ruler, out = Ruler(folder, judges, reference or folder / "target-ref.zip"), {}

    def reconstructions():
        images = cache.whole_set(folder / "target.zip")
        return Reconstructions(cache.read(cache.default_path(folder / "target.zip")),
                               autoencoder.load(load(encoder)), images, "cpu")

    out["floor"] = ruler("floor", reconstructions)
    for (arm, s), paths in snapshots.items():
        for path in paths:
            key = f"{arm}/{s}/{name_of(path)}"
            out[key] = ruler(key, lambda path=path: sheets.sampler_of(path))
        if arm == "mind":
            for name in baselines:
                out[f"{name}/{s}"] = ruler(f"{name}/{s}", lambda name=name, path=paths[-1]: (
                    mind2mind.Mind2Mind.sampler_from(mind2mind.baseline(load(path), name))))
    return out


def seconds_of(path: Path) -> float:
    """Seconds of training until a snapshot; without the measuring that Mind2Mind does meanwhile."""
    own = path.parent / "metric-mind2mind.jsonl"
    for r in json_file.lines(own):
        if r["snapshot_pkl"] == path.name:
            return r["results"]["seconds_train"]
    return 0.0 if own.exists() else train_seconds(path)


def found(folder: Path, snapshots: dict[tuple[str, int], list[Path]], values: dict[str, list[dict[str, float]]],
          encoder: Path, baselines: Iterable[str]) -> dict[tuple[str, int], dict[str, Any]]:
    """What there is to know of each arm and seed: its curve, what it costs, and what all of them rest on."""
    from gantransfer.latent import cache

    config = cache.read(cache.default_path(folder / "target.zip")).config
    common = dict(floor=values["floor"], encode_seconds=config["seconds"],
                  encode_macs=cost.macs_of_encoding(encoder) * config["images"])
    per_image: dict[str, float] = {}
    for (a, _), paths in snapshots.items():
        if a not in per_image:
            per_image[a] = cost.macs_per_image(paths[-1])
    return {(a, s): dict(
        common, macs_per_image=per_image[a],
        baselines={n: values[f"{n}/{s}"] for n in baselines if a == "mind" and f"{n}/{s}" in values},
        curve=[dict(kimg=(kimg := harness.kimg_of(p)), seconds=seconds_of(p), macs=kimg * 1000 * per_image[a],
                    judges=values[f"{a}/{s}/{name_of(p)}"]) for p in paths])
        for (a, s), paths in snapshots.items()}


def summary(names: list[str], seeds: int, each: dict[tuple[str, int], dict[str, Any]], judges: int) -> dict[str, Any]:
    """Curves, thresholds and when they are reached: {arm: per seed ...}."""
    first = each[names[0], 0]
    out: dict[str, Any] = {k: first[k] for k in ("floor", "encode_seconds", "encode_macs")}
    out |= dict(curves={a: [each[a, s]["curve"] for s in range(seeds)] for a in names}, reached={},
                baselines={n: [each["mind", s]["baselines"][n] for s in range(seeds)]
                           for n in (each["mind", 0]["baselines"] if "mind" in names else ())},
                macs_per_image={a: each[a, 0]["macs_per_image"] for a in names})
    opponent = "finetune" if "finetune" in names else names[0]
    out["start"] = [[out["curves"][opponent][s][0]["judges"][j][PRIMARY] for s in range(seeds)] for j in range(judges)]
    for a in names:
        out["reached"][a] = [[cost.first_below(out["curves"][a][s], j, threshold(out, s, j), PRIMARY)
                              for s in range(seeds)] for j in range(judges)]
    return out


def threshold(result: dict[str, Any], seed: int, judge: int) -> float:
    """Floor plus 5 % of the distance from there to the untrained start."""
    floor = result["floor"][judge][PRIMARY]
    return floor + SHARE * (result["start"][judge][seed] - floor)


def reached(title: Mapping[str, str], seeds: int, r: dict[str, Any], encoded: str) -> list[str]:
    """Markdown: when each arm reaches the bound under the first judge, and what it cost; of the arm `encoded` also
    with the encoding of the whole set."""
    bound = spread([threshold(r, s, 0) for s in range(seeds)])
    rows = []
    for a, name in title.items():
        got = [x for x in r["reached"][a][0] if x is not None]
        row = [spread([x[k] for x in got]) if got else "-" for k in ("kimg", "seconds", "macs")]
        rows.append([name, f"{len(got)} of {seeds}", *row])
        if a == encoded and got:
            rows.append(["... with encoding", f"{len(got)} of {seeds}", row[0], *(
                spread([x[k] + r[f"encode_{k}"] for x in got]) for k in ("seconds", "macs"))])
    costs = ", ".join(f"{name} {r['macs_per_image'][a]:.3g}" for a, name in title.items())
    return ["", f"Floor + {SHARE:.0%} of the way to the start ({harness.NAMES[PRIMARY]} {bound} under judge 0), on a "
                "straight line between snapshots:", "",
            *table(["", "reached in", "kimg", "seconds", "multiply-adds"], rows),
            "", f"Multiply-adds of training per real image shown: {costs}; encoding the whole set "
                f"{r['encode_macs']:.3g}, {r['encode_seconds']:.1f} s."]


def reconstructions(folder: Path, encoder: Path, columns: int) -> list[np.ndarray]:
    """Per class of target.zip, what the auto-encoder makes of its first images."""
    import torch

    from gantransfer.data.dataset import ImageDataset
    from gantransfer.latent import autoencoder
    from gantransfer.model import load
    from torch_utils.pixels import from_uint8, to_uint8

    ae = autoencoder.load(load(encoder))
    with torch.no_grad():
        return [to_uint8(ae.decode(ae.encode(from_uint8(torch.from_numpy(x))))).numpy()
                for x in sheets.reals(ImageDataset(folder / "target.zip", use_labels=True), columns)]


def draw(path: Path, folder: Path, snapshots: dict[str, Path], encoder: Path) -> None:
    """A row per target class: training images | their reconstructions | each arm."""
    from gantransfer.data.dataset import ImageDataset

    sheets.save_classes(path, ImageDataset(folder / "target.zip", use_labels=True), snapshots, 10,
                        beside={"reconstructions": reconstructions(folder, encoder, 10)},
                        title="Other classes through a frozen decoder")
