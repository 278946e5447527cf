# SPDX-License-Identifier: Apache-2.0
"""Students of digits, with classes or turned by an angle: what they learn from, one fold or seed, its judges, its
picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from dnnlib import json_file, seeding
from dnnlib.util import atomic_write
from gantransfer.experiments.folds import FOLDS, parts_by_class, save_chosen
from gantransfer.experiments.harness import Study, data_jobs
from gantransfer.experiments.student_tables import Design
from gantransfer.experiments.students import Students, result, save_labels

Stages = Mapping[str, tuple[float, bool] | None]
Setting = tuple[str, Sequence[str], str, float]  # title, flags of the GAN, sampling of every classifier, imbalance


def of_fold(study: Study, data: Path, name: str, fold: int, setting: Setting, d: Design, stages: Stages,
            gan_kimg: float, student_kimg: float) -> dict:
    """Everything of one fold of digits with classes, in a setting called `name`; the figures."""
    from gantransfer.data.dataset import ImageDataset

    folder, (_, gan_flags, sampling, imbalance) = study.folder / f"{name}-fold{fold}", setting
    folder.mkdir(parents=True, exist_ok=True)
    train, test = folder / "train.json", folder / "test.json"
    if not test.exists():
        fold_labels(data, fold, FOLDS, imbalance, train, test)
    taught = Students(study, folder, [f"--data={data}", f"--fname={train}"], fold, [
        f"--test={data}", f"--test-fname={test}", f"--sampling={sampling}"])
    _, files, students = taught.whole((f"{name}{fold}", gan_kimg, "--cond=True", *gan_flags), d.per_label, stages,
                                      d.arms, student_kimg, d.share)
    return dict(fold=fold, students=students, teacher=result(taught.teacher), fakes=agreements(files),
                train_counts=list(ImageDataset(data, fname=str(train), use_labels=True).spec.label.counts),
                tested=len(json_file.read(test)["labels"]))


def of_seed(study: Study, folder: Path, seed: int, d: Design, stages: Stages, images: int, gan_kimg: float,
            student_kimg: float) -> dict:
    """Everything of one seed of digits turned by an angle; the figures. `gan_kimg`: with its label code."""
    folder.mkdir(parents=True, exist_ok=True)
    study.step()
    pool, test, others = (folder / f"{n}.zip" for n in ("pool", "test", "others"))
    study.run(data_jobs("rotated-digits", {
        pool: dict(split="pool", seed=seed), test: dict(split="reference", seed=seed),
        others: dict(split="all", seed=seed + 1000)}), quiet=True)
    train = folder / "train.json"
    if not train.exists():
        few_labels(pool, seed, images, train)
    taught = Students(study, folder, [f"--data={pool}", f"--fname={train}"], seed, [f"--test={test}"])
    snapshot, made, students = taught.whole((f"gan{seed}", gan_kimg, "--method=ccgan"), d.per_label, stages, d.arms,
                                            student_kimg, d.share, "--num-labels=91")
    (folder / "snapshot.txt").write_text(str(snapshot))
    return dict(seed=seed, students=students, teacher=result(taught.teacher),
                label_score=label_errors(folder, others, test, made, seed))


# ---- data -----------------------------------------------------------------------------------------------------------


def fold_labels(data: Path, fold: int, folds: int, imbalance: float, train: Path, test: Path) -> None:
    """Label files of a data set: one part in `folds` of every class is tested. With an imbalance a class order and a
    choice of images per fold."""
    from gantransfer.data.dataset import ImageDataset

    whole = ImageDataset(data, use_labels=True)
    ids, classes = whole.class_ids, whole.label_dim
    parts = parts_by_class(ids, folds)
    keep = parts != fold
    if imbalance > 1:
        rng = np.random.RandomState(1000 + fold)
        most = min(int((keep & (ids == k)).sum()) for k in range(classes))
        for rank, k in enumerate(rng.permutation(classes)):
            members = rng.permutation(np.flatnonzero(keep & (ids == k)))
            keep[members[round(most * imbalance ** (-rank / (classes - 1))) :]] = False
    save_chosen(train, whole, keep)
    save_chosen(test, whole, parts == fold)


def few_labels(pool: Path, seed: int, count: int, path: Path) -> None:
    """A label file of `count` images of a continuous label."""
    from gantransfer.data.dataset import ImageDataset

    data = ImageDataset(pool, use_labels=True)
    rows = np.sort(seeding.numpy_rng(seed).permutation(len(data))[:count])
    save_labels(path, ((data.get_details(int(i)).name, [float(data.get_label(int(i))[0])]) for i in rows))


# ---- figures and pictures -------------------------------------------------------------------------------------------


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
