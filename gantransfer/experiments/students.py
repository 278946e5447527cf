# SPDX-License-Identifier: Apache-2.0
"""Small networks taught with generated images: a teacher, fakes, their filtered forms, students."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnnlib import json_file
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

    def whole(self, gan: tuple, per_label: int, stages: Mapping[str, tuple[float, bool] | None],
              arms: Mapping[str, Arm], kimg: float, share: float,
              *flags: str) -> tuple[Path, dict[str, Path], dict[str, dict]]:
        """Four steps of the study: the generator (name, kimg, its flags), teacher, fakes (see `make`), students; the
        snapshot, the fakes and the students' figures."""
        self.study.step()
        snapshot = self.gan(*gan)
        self.study.step()
        self.train_teacher()
        self.study.step()
        made = self.make(snapshot, per_label, stages, *flags)
        self.study.step()
        return snapshot, made, self.teach(arms, made, kimg, share)

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
