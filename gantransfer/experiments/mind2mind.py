# SPDX-License-Identifier: Apache-2.0
"""gantransfer experiment mind2mind: a new domain through a frozen auto-encoder: Mind2Mind, fine-tuning, FreezeD.

From digits 0-4 to digits 5-9: trains a small StyleGAN2 on the source digits and an encoder for it, encodes the target
digits once, trains Mind2Mind, and, from the same source, full fine-tuning and FreezeD. Measures all at several lengths
against held-out digits: when does each come within 5 % of the way from the start to the auto-encoder's floor? With
--seeds=5 it is the published comparison.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import click
import numpy as np

from dnnlib import json_file
from dnnlib.util import atomic_write
from gantransfer.commands.flags import IntRange
from gantransfer.experiments import cost, harness, jobs, sheets
from gantransfer.experiments.harness import Arm
from gantransfer.metrics.paired import difference, spread, table, train_seconds, versions

ARMS = {
    "mind": Arm("Mind2Mind", ["--method=mind2mind", "--hidden_g=128,128", "--hidden_d=128,128"]),
    "finetune": Arm("fine-tuning", ["--method=stylegan2", "--cfg=tiny"]),
    "freezed": Arm("FreezeD", ["--method=stylegan2", "--cfg=tiny", "--freezed=4"]),
}
BASELINES = {"gaussian": "Gaussian", "class_gaussian": "class-Gaussian"}
COLUMNS = ("class_fd", "accuracy", "diversity", "nearest", "fd_pix64")
SIZES = ["--z_dim=16", "--w_dim=16"]
PRIMARY, SHARE = "class_fd", 0.05


@harness.flags(
    "runs/mind_demo",
    click.option("--arms", default="mind,finetune", show_default=True, help=f"Known: {', '.join(ARMS)}; all"),
    click.option("--seeds", type=IntRange(min=1), default=1, show_default=True, help="Paired repetitions"),
    click.option("--kimg", type=IntRange(min=1), default=4, show_default=True, help="Length of fine-tuning"),
    click.option("--epochs", type=IntRange(min=1), default=150, show_default=True, help="Length of Mind2Mind"),
    harness.source_kimg(20),
    click.option("--encoder-kimg", type=IntRange(min=1), default=10, show_default=True, help="... of the encoder"),
    harness.JUDGES,
    click.option("--parallel", type=IntRange(min=1), default=1, show_default=True,
                 help="Trainings at once; more than one distorts the times"))
def main(folder: Path, arms: str, seeds: int, kimg: int, epochs: int, source_kimg: int, encoder_kimg: int, judges: int,
         parallel: int) -> None:
    """Digits 5-9 in the latent space of a StyleGAN2 of digits 0-4: train, measure, look."""
    names = harness.chosen(arms, ARMS, [*ARMS])
    study = harness.Study(folder, ("data", "judges", "source", "encoder", "latents", "trainings", "figures",
                                   "table and picture"), parallel)
    study.step()
    sets = [folder / f"{name}.zip" for name in ("source", "target", "target-ref")]
    study.run(harness.data_jobs("digits", dict(zip(sets, (
        dict(split=split, classes=classes) for classes, split in (
            ("0-4", "pool"), ("5-9", "pool"), ("5-9", "reference")))))))
    study.step()
    study.run(harness.judge_jobs(sets[1], sets[2], [folder / f"judge{j}.pt" for j in range(judges)]), quiet=True)
    common = [f"--data={sets[0]}", "--cfg=tiny", "--threads=1", "--metrics=none"]
    study.step()
    (source,) = study.train([("source", folder / "runs", "source", source_kimg,
                              ["--method=stylegan2", *SIZES, *common])])
    study.step()
    (encoder,) = study.train([("encoder", folder / "runs", "encoder", encoder_kimg,
                               ["--method=encoder", f"--source={source}", *common])])
    study.step()
    study.run([jobs.Job("encode", ["encode", f"--data={sets[1]}", f"--network={encoder}", "--accept", "--device=cpu"])])
    study.step()
    snapshots = train_arms(study, names, seeds, kimg, epochs, source, encoder)
    study.step()
    values = measure(folder, snapshots, encoder, judges)
    result = summary(folder, names, seeds, snapshots, values, encoder, judges)
    result |= dict(command=dict(arms=names, seeds=seeds, kimg=kimg, epochs=epochs, source_kimg=source_kimg,
                                encoder_kimg=encoder_kimg, judges=judges), primary=PRIMARY, versions=versions())
    study.step()
    draw(folder / "mind.png", folder, {a: snapshots[a, 0][-1] for a in names}, encoder)
    study.finish(report(names, seeds, judges, result), result, picture=folder / "mind.png")


def train_arms(study: harness.Study, names: list[str], seeds: int, kimg: int, epochs: int, source: Path,
               encoder: Path) -> dict[tuple[str, int], list[Path]]:
    """Snapshots of every arm and seed, in order of length."""
    from gantransfer.data.dataset import ImageDataset
    from gantransfer.snapshot import find_snapshots

    target = study.folder / "target.zip"
    length = math.ceil(epochs * len(ImageDataset(target)) / 1000)
    own = {a: [f"--source={source}", *SIZES, "--snap=1", "--tick=1"] for a in names}
    if "mind" in names:
        own["mind"] = [f"--source={encoder}", "--accept_encoder=True", "--snap=1", f"--tick={length / 6:g}"]
    pairs = [(a, s) for s in range(seeds) for a in names]
    found = study.train([(f"{a}/{s}", study.folder / "runs", jobs.run_desc(a, s), length if a == "mind" else kimg, [
        f"--data={target}", "--cond=True", f"--seed={s}", "--metrics=none", "--threads=1", *ARMS[a].flags, *own[a]])
        for a, s in pairs])
    return {pair: find_snapshots(path.parent) for pair, path in zip(pairs, found)}


class Ruler:
    """The judges' reports of samplers, remembered in a file by key."""

    def __init__(self, folder: Path, judges: int):
        from gantransfer.data.dataset import ImageDataset

        self.path, self.judges = folder / "measured.json", judges
        self.known: dict[str, Any] = json_file.read(self.path) if self.path.exists() else {}
        self.reference = ImageDataset(folder / "target-ref.zip", use_labels=True)
        self.training = ImageDataset(folder / "target.zip", use_labels=True)
        self.folder = folder

    def __call__(self, key: str, make: Any) -> list[dict[str, float]]:
        """Per judge, the columns of report_digits32 of the sampler that `make()` gives."""
        from gantransfer.metrics import table

        found = self.known.setdefault(key, [])
        if len(found) < self.judges:
            sampler = make()
            for j in range(len(found), self.judges):
                ctx = table.MetricContext(sampler=sampler, reference=self.reference, training=self.training,
                                          detectors={"digits32": self.folder / f"judge{j}.pt"}, labels="uniform")
                got = table.compute(harness.METRIC, ctx)["results"]
                found.append({k.removeprefix(f"{harness.METRIC}_"): float(v) for k, v in got.items()
                              if isinstance(v, int | float)})
            with atomic_write(self.path) as f:
                json.dump(self.known, f)
            print(f"measured {key}: {PRIMARY} {found[0][PRIMARY]:.2f}", flush=True)
        return found


def measure(folder: Path, snapshots: dict[tuple[str, int], list[Path]], encoder: Path,
            judges: int) -> dict[str, list[dict[str, float]]]:
    """Reports of every snapshot, of the baselines of the last Mind2Mind snapshots, and of the reconstructions."""
    from gantransfer.importers import load_any
    from gantransfer.latent import autoencoder, cache
    from gantransfer.latent.reconstructions import Reconstructions
    from gantransfer.methods import mind2mind

    ruler, out = Ruler(folder, judges), {}

    def reconstructions():
        images = cache.whole_set(folder / "target.zip")
        return Reconstructions(cache.read(cache.default_path(folder / "target.zip")),
                               autoencoder.load(load_any(encoder)), images, "cpu")

    out["floor"] = ruler("floor", reconstructions)
    for (arm, s), paths in snapshots.items():
        for path in paths:
            key = f"{arm}/{s}/{path.stem[-6:]}"
            out[key] = ruler(key, lambda path=path: sheets.sampler_of(path))
        if arm == "mind":
            for name in BASELINES:
                out[f"{name}/{s}"] = ruler(f"{name}/{s}", lambda name=name, path=paths[-1]: (
                    mind2mind.Mind2Mind.sampler_from(mind2mind.baseline(load_any(path), name))))
    return out


def seconds_of(path: Path) -> float:
    """Seconds of training until a snapshot; without the measuring that Mind2Mind does meanwhile."""
    own = path.parent / "metric-mind2mind.jsonl"
    for r in json_file.lines(own):
        if r["snapshot_pkl"] == path.name:
            return r["results"]["seconds_train"]
    return 0.0 if own.exists() else train_seconds(path)


def kimg_of(path: Path) -> float:
    from gantransfer import snapshot

    return snapshot.load(path).cur_nimg / 1000


def summary(folder: Path, names: list[str], seeds: int, snapshots: dict[tuple[str, int], list[Path]],
            values: dict[str, list[dict[str, float]]], encoder: Path, judges: int) -> dict[str, Any]:
    """Curves, thresholds and when they are reached: {arm: per seed ...}."""
    from gantransfer.latent import cache

    config = cache.read(cache.default_path(folder / "target.zip")).config
    out: dict[str, Any] = dict(floor=values["floor"], encode_seconds=config["seconds"],
                               encode_macs=cost.macs_of_encoding(encoder) * config["images"], curves={}, reached={},
                               baselines={n: [values[f"{n}/{s}"] for s in range(seeds)] for n in BASELINES
                                          if f"{n}/0" in values})
    per_image = {a: cost.macs_per_image(snapshots[a, 0][-1]) for a in names}
    out["macs_per_image"] = per_image
    for a in names:
        out["curves"][a] = [[dict(kimg=kimg_of(p), seconds=seconds_of(p), macs=kimg_of(p) * 1000 * per_image[a],
                                  judges=values[f"{a}/{s}/{p.stem[-6:]}"]) for p in snapshots[a, s]]
                            for s in range(seeds)]
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


def report(names: list[str], seeds: int, judges: int, r: dict[str, Any]) -> str:
    """Markdown: final figures, when the bound is reached, cost, and with several seeds paired differences."""
    title = {a: ARMS[a].title for a in names}
    last = {a: [c[-1]["judges"] for c in r["curves"][a]] for a in names}  # [seeds][judges]
    rows = {"reconstructions (floor)": [r["floor"]],
            **{f"{BASELINES[n]} latents": rows for n, rows in r["baselines"].items()},
            **{f"{title[a]}, {r['curves'][a][0][-1]['kimg']:.0f} kimg": last[a] for a in names}}
    lines = [f"Digits 5-9 in the latent space of a StyleGAN2 of digits 0-4, class-conditional; {seeds} paired seed(s), "
             f"{judges} judge(s). Primary column, fixed before the runs: {harness.NAMES[PRIMARY]}.", ""]
    lines += table(["", *map(harness.name_of, COLUMNS)], [
        [name, *(spread([float(np.mean([j[c] for j in one])) for one in of]) for c in COLUMNS)]
        for name, of in rows.items()])
    bound = spread([threshold(r, s, 0) for s in range(seeds)])
    lines += ["", f"Floor + {SHARE:.0%} of the way to the start ({harness.NAMES[PRIMARY]} {bound} under judge 0), on a "
                  f"straight line between snapshots:", ""]
    reached = []
    for a in names:
        got = [x for x in r["reached"][a][0] if x is not None]
        row = [spread([x[k] for x in got]) if got else "-" for k in ("kimg", "seconds", "macs")]
        reached.append([title[a], f"{len(got)} of {seeds}", *row])
        if a == "mind" and got:
            reached.append(["... with encoding", f"{len(got)} of {seeds}", row[0], *(
                spread([x[k] + r[f"encode_{k}"] for x in got]) for k in ("seconds", "macs"))])
    lines += table(["", "reached in", "kimg", "seconds", "multiply-adds"], reached)
    costs = ", ".join(f"{title[a]} {r['macs_per_image'][a]:.3g}" for a in names)
    lines += ["", f"Multiply-adds of training per real image shown: {costs}; encoding the whole set "
                  f"{r['encode_macs']:.3g}, {r['encode_seconds']:.1f} s."]
    if seeds > 1 and "mind" in names:
        others = {**{title[a]: last[a] for a in names if a != "mind"},
                  **{f"{BASELINES[n]} latents": rows for n, rows in r["baselines"].items()}}
        lines += ["", f"Mind2Mind minus each, paired; {harness.bold(seeds)}.", ""]
        lines += table(["", *map(harness.name_of, COLUMNS)], [[name, *(difference(*(
            [[one[j][c] for one in x] for j in range(judges)] for x in (other, last["mind"]))).cell()
            for c in COLUMNS)] for name, other in others.items()])
    return "\n".join(lines)


def draw(path: Path, folder: Path, snapshots: dict[str, Path], encoder: Path) -> None:
    """A row per target class: training images | their reconstructions | each arm."""
    import torch

    from gantransfer.data.dataset import ImageDataset
    from gantransfer.importers import load_any
    from gantransfer.latent import autoencoder
    from gantransfer.sampler import to_uint8

    data = ImageDataset(folder / "target.zip", use_labels=True)
    ae = autoencoder.load(load_any(encoder))
    images = sheets.reals(data, 10)
    with torch.no_grad():
        again = [to_uint8(ae.decode(ae.encode(torch.from_numpy(x).float() / 127.5 - 1))).numpy() for x in images]
    blocks = {"training images": images, "reconstructions": again}
    blocks |= {ARMS[a].title: sheets.generated(sheets.sampler_of(p), data.label_dim, 10) for a, p in snapshots.items()}
    sheets.save_sheet(path, blocks, [str(n) for n in data.spec.label.names])
