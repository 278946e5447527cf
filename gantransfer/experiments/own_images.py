# SPDX-License-Identifier: Apache-2.0
"""A study's data where they are the user's: what is held out, which classes there are, which of them are rare."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dnnlib import json_file
from dnnlib.util import UserError, atomic_path
from gantransfer.commands.flags import integers
from gantransfer.experiments.jobs import Job


def own_sets(folder: Path, data: str, heldout: str | None) -> tuple[Path, Path, list[Job]]:
    """(to train on, held out, the command that makes them) of a user's own images."""
    if heldout is not None:
        return Path(data), Path(heldout), []
    train, ref = folder / "train.zip", folder / "train-heldout.zip"
    return train, ref, [] if ref.exists() and train.exists() else [Job("data", [
        "dataset_tool", f"--source={data}", f"--dest={train}", "--holdout=0.25", "--overwrite"])]


def halves(folder: Path, ref: Path) -> tuple[Path, Path, list[Job]]:
    """(to test on, to choose a snapshot on, the command that makes them): halves of what is held out, by class."""
    test, validation = folder / "test.zip", folder / "validation.zip"
    return test, validation, [] if test.exists() and validation.exists() else [Job("data", [
        "dataset_tool", f"--source={ref}", f"--dest={test}", "--holdout=0.5", f"--dest-heldout={validation}",
        "--overwrite"])]


def check_classes(train: Path, *others: Path) -> Any:
    """The label spec of a training set. UserError unless it has classes and every other set two images of each."""
    from gantransfer.data.dataset import ImageDataset

    data = ImageDataset(train, use_labels=True)
    label = data.spec.label
    if label.kind != "class" or label.dim < 2:
        raise UserError(f"--data={train}: the study compares classes, and this set has "
                        + ("one" if label.kind == "class" else "none") + "; dataset_tool.py makes them of sub-folders")
    for path in others:
        other = ImageDataset(path, use_labels=True)
        if other.image_shape != data.image_shape:
            raise UserError(f"images of {path} are {other.image_shape}, those of {train} {data.image_shape}")
        held = other.class_ids if other.class_ids is not None else np.zeros(0, int)
        if other.label_dim > label.dim or other.spec.label.names != label.names:
            raise UserError(f"{path} has other classes than {train}: make both at once with dataset_tool.py "
                            "--holdout=0.25, or give one set, of which a part is held out")
        for k, n in enumerate(np.bincount(held, minlength=label.dim).tolist()):
            if n < 2 and label.counts[k]:
                raise UserError(f"{path} has {n} image{'s' * (n != 1)} of class {label.name(k)}, and figures per class "
                                "need two: add images, hold out more, or choose classes with dataset_tool.py --classes")
    return label


def judges_note(paths: Sequence[Path]) -> list[str]:
    """How well judges know the classes, where their files say so."""
    said = [json_file.read(p.with_suffix(".detector.json")).get("heldout") for p in paths
            if p.with_suffix(".detector.json").exists()]
    return ["Balanced accuracy of the judges on held-out images: " + ", ".join(
        f"{a['balanced']:.2f}{' (too weak)' * (a['balanced'] < a['needed'])}" for a in said if a) + "."] * any(said)


def limits(bounds: str) -> tuple[int, int]:
    """(MANY, FEW) of --groups."""
    try:
        many, few = integers(bounds, "--groups")
    except ValueError:
        raise UserError(f"--groups={bounds}: write MANY,FEW: images above which a class is frequent and below which it "
                        "is rare, for example 100,20") from None
    return many, few


def groups_job(pool: Path, path: Path, counts: Sequence[int], bounds: str) -> list[Job]:
    """A copy of the pool with a label file lt_natural.json whose groups are: more than MANY images, fewer than FEW."""
    many, few = limits(bounds)
    n = [c for c in counts if c]
    first, last = sum(c > many for c in n), len(n) - sum(c < few for c in n)
    if not 0 < first < last < len(n):
        raise UserError(f"--groups={bounds}: {first} classes of more than {many} images, {max(last - first, 0)} "
                        f"between, {len(n) - last} of fewer than {few}; there must be some of each, and the classes "
                        f"have {', '.join(map(str, sorted(n, reverse=True)))}")
    if not path.exists():
        with atomic_path(path) as tmp:
            shutil.copyfile(pool, tmp)
    return [Job("groups", ["lt_dataset", f"--fn={path}", "--keep-labels", f"--shots=0,{first},{last}"])]


def groups_note(label: Any, bounds: str | None = None) -> str:
    """'many: 690 to 441 (poly_0, mono_0); ...; by rank' of a label spec with groups: sizes, names, and the rule."""
    def cut(many: int, few: int) -> bool:
        n = label.counts
        return all({k for k in range(len(n)) if n[k] and inside(n[k])} == {*label.shots.get(g, ())} for g, inside in (
            ("many", lambda n: n > many), ("few", lambda n: n < few)))

    most = limits(bounds) if bounds else (100, 20)
    rule = f"more than {most[0]}, fewer than {most[1]} images" if cut(*most) else "by rank, 0.3, 0.3 and the rest"

    def part(ids: Sequence[int]) -> str:
        order = sorted(ids, key=lambda k: -label.counts[k])
        sizes = dict.fromkeys(str(label.counts[k]) for k in (order[0], order[-1]))
        names = list(map(label.name, order))
        shown = ", ".join(names[:6]) + (f", ... {len(names)} in all" if len(names) > 6 else "")
        return f"{' to '.join(sizes)} ({shown})"

    return "; ".join(f"{g}: {part(ids)}" for g, ids in label.shots.items() if ids) + f" ({rule})"
