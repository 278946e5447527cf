# SPDX-License-Identifier: Apache-2.0
"""Small networks taught with generated images: a teacher, fakes, their filtered forms, students."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dnnlib import json_file, seeding
from dnnlib.util import atomic_write
from gantransfer.experiments.harness import Arm, Study


@dataclass
class Students:
    """One seed or fold. `real` are the flags that name the training images, `common` those of every teacher and
    student, `recipe` their preset."""

    study: Study
    folder: Path
    real: Sequence[str]
    seed: int
    common: Sequence[str]
    recipe: Sequence[str] = ("--preset=digits",)

    def __post_init__(self) -> None:
        self.words = [*self.recipe, *self.real, *self.common, f"--seed={self.seed}", "--threads=1"]
        self.teacher = self.folder / "teacher"

    def gan(self, name: str, kimg: float, *flags: str, desc: str | None = None,
            cfg: Sequence[str] = ("--cfg=tiny",)) -> Path:
        """The generator."""
        (path,) = self.study.train([(name, self.folder / "gan", desc or f"seed{self.seed}", kimg, [
            *cfg, *self.real, f"--seed={self.seed}", "--metrics=none", "--threads=1", *flags])])
        return path

    def train_teacher(self, *flags: str) -> None:
        from gantransfer.commands import distill

        distill.call(distill.teacher, *self.words, *flags, f"--outdir={self.teacher}")

    def make(self, snapshot: Path, per_label: int, stages: Mapping[str, tuple[float, bool] | None],
             *flags: str, prefix: str = "") -> dict[str, Path]:
        """Fakes by stage: the one of None as they come, the others filtered with (rho, relabelled?)."""
        from gantransfer.commands import distill

        paths = {name: self.folder / f"{prefix}{name}.zip" for name in stages}
        raw = next(paths[name] for name, stage in stages.items() if stage is None)
        for name, path in paths.items():
            if path.exists():
                continue
            if stages[name] is None:
                distill.call(distill.fakes, *self.real, f"--network={snapshot}", f"--seed={self.seed}",
                             f"--teacher={self.teacher / 'teacher.pkl'}", f"--num-per-label={per_label}", "--rho=1",
                             "--threads=1", *flags, f"--dest={path}")
            else:
                rho, replace = stages[name]
                distill.call(distill.refilter, f"--fakes={raw}", f"--rho={rho}", f"--replace={replace}",
                             f"--dest={path}")
        return paths

    def teach(self, arms: Mapping[str, Arm], fakes: Mapping[Any, Path], kimg: float, share: float) -> dict[str, dict]:
        """Figures of every student: `Arm.more` says which fakes it sees; with --kd among its flags it has the teacher.
        """
        from gantransfer.commands import distill

        found = {}
        for name, arm in arms.items():
            words = [f"--fakes={fakes[arm.more]}", f"--fake_batch_share={share}"] if arm.more else []
            words += arm.flags
            words += [f"--teacher={self.teacher / 'teacher.pkl'}"] * any(w.startswith("--kd=") for w in arm.flags)
            distill.call(distill.student, *self.words, f"--kimg={kimg:g}", f"--outdir={self.folder / name}", *words)
            found[name] = result(self.folder / name)
        return found


def result(folder: Path) -> dict[str, float]:
    """Last figures of a finished student or teacher."""
    r = json_file.read(folder / "results.json")
    return dict(r["last"], images_seen=r["images_seen"], seconds=r["seconds"])


def save_labels(path: Path, rows: Iterable[tuple[str, Any]]) -> None:
    """A label file for --fname: image names with their labels."""
    with atomic_write(path) as f:
        json.dump({"labels": [list(row) for row in rows]}, f)


def agreements(files: dict[str, Path]) -> dict[str, float]:
    """Share of fakes whose label is the choice of the teacher, and of a judge trained apart from all this."""
    import torch

    from gantransfer.data.dataset import ImageDataset
    from gantransfer.detectors.judge import DigitsJudge
    from gantransfer.detectors.weights import package_data, read_state
    from gantransfer.distillation import fakes

    judge = DigitsJudge().eval()
    judge.load_state_dict(read_state(package_data() / "digits32.pt"))
    out = {}
    stages = {name: fakes.read(str(path)) for name, path in files.items()}
    for name, path in files.items():
        found = ImageDataset(path, use_labels=True, label_dim=10)
        with torch.no_grad():
            says = judge(torch.from_numpy(found.images_uint8(np.arange(len(found)))).float()).logits.argmax(1).numpy()
        out[f"judge_{name}"] = float((says == found.class_ids).mean())
        if name == "processed":
            out["judge_filtered"] = float((says == stages[name].scores["assigned"]).mean())
        out[f"images_{name}"] = len(found)
    given = stages["processed"].provenance["agreement"]
    out.update({f"teacher_{k}": given[k] for k in ("drawn", "filtered", "final")})
    return out


def label_errors(folder: Path, others: Path, test: Path, made: dict[str, Path], seed: int) -> dict[str, float]:
    """Mean distance between continuous labels and what a judge of its own sees: held-out reals, then fakes by stage.

    The judge learns from `others`. Kept in label_score.json.
    """
    from gantransfer.data.dataset import ImageDataset
    from gantransfer.detectors import judge_training

    path = folder / "label_score.json"
    if not path.exists():
        learn = ImageDataset(others, use_labels=True)
        every = np.arange(len(learn))
        net = judge_training.train_judge(learn.images_uint8(every), learn.labels(every)[:, 0], seed=seed + 1000,
                                         epochs=60, label=learn.spec.label)
        values = {}
        for name, zip_path in {"held-out reals": test, **made}.items():
            data = ImageDataset(zip_path, use_labels=True)
            rows = np.arange(len(data))
            values[name] = judge_training.mean_error(net, data.images_uint8(rows), data.labels(rows)[:, 0])
        with atomic_write(path) as f:
            json.dump(values, f)
    return json_file.read(path)


def draw_filtered(path: Path, data: Path, folder: Path, rho: float, columns: int = 8) -> None:
    """A row per class: training images | fakes with the smallest | with the largest errors, which the filter drops."""
    from gantransfer.data.dataset import ImageDataset
    from gantransfer.distillation import fakes
    from gantransfer.experiments import sheets

    real = ImageDataset(data, fname=str(folder / "train.json"), use_labels=True)
    scores, images = fakes.read(str(folder / "raw.zip")).scores, ImageDataset(folder / "raw.zip", use_labels=True)
    order = sorted(range(10), key=lambda k: -real.spec.label.counts[k])
    train, kept, dropped = sheets.reals(real, columns), [], []
    for k in order:
        mine = np.flatnonzero(scores["assigned"] == k)
        mine = mine[np.argsort(scores["error"][mine], kind="stable")]
        good = mine[: int(rho * len(mine))]
        kept.append(images.images_uint8(good[np.linspace(0, len(good) - 1, columns).astype(int)]))
        dropped.append(images.images_uint8(mine[-columns:][::-1]))
    sheets.save_sheet(path, {"training images": [train[k] for k in order], "fakes that are kept": kept,
                             "fakes that are dropped": dropped}, list(map(real.spec.label.counted, order)),
                      title="Generated images of each class, by the filter")


def draw_values(path: Path, folder: Path, values: Sequence[float], unit: str, columns: int = 8) -> None:
    """Rows: values of a continuous label. Left: training images near it, right: generated ones, a column per latent."""
    import torch

    from gantransfer.data.dataset import ImageDataset
    from gantransfer.experiments import sheets

    sampler = sheets.sampler_of(Path((folder / "snapshot.txt").read_text()))
    data = ImageDataset(folder / "pool.zip", fname=str(folder / "train.json"), use_labels=True)
    y = data.labels(np.arange(len(data)))[:, 0]
    sheets.save_sheet(path, {
        "training images nearest to the value": [
            data.images_uint8(np.argsort(np.abs(y - a), kind="stable")[:columns]) for a in values],
        "generated, a latent per column": [
            sampler(range(columns), torch.full([columns, 1], float(a))).numpy() for a in values],
    }, [f"{a:g} {unit}" for a in values], title="A continuous label")


def few_labels(pool: Path, seed: int, count: int, path: Path) -> None:
    """A label file of `count` images of a continuous label."""
    from gantransfer.data.dataset import ImageDataset

    data = ImageDataset(pool, use_labels=True)
    rows = np.sort(seeding.numpy_rng(seed).permutation(len(data))[:count])
    save_labels(path, ((data.get_details(int(i)).name, [float(data.get_label(int(i))[0])]) for i in rows))
