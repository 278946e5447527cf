# SPDX-License-Identifier: Apache-2.0
"""The folder of an experiment: its table, its differences, its picture, its runs; of one going on, what is measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dnnlib import json_file
from dnnlib.util import UserError, format_time, three
from gantransfer.metrics.names import REPORT, with_group
from gantransfer.report import markup
from gantransfer.report.read import is_run, number
from gantransfer.report.sheets import encoded

TABLES = ("compare.md", "table.md")
RUNS = 24  # of a study that are drawn


@dataclass
class Study:
    folder: Path
    tables: dict[str, str] = field(default_factory=dict)  # file name -> Markdown
    settings: dict[str, Any] = field(default_factory=dict)  # study.json, and what the values' file says of itself
    results: list[dict[str, Any]] = field(default_factory=list)  # a file per arm and seed
    pictures: list[Path] = field(default_factory=list)
    runs: list[Path] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.folder.resolve().name


def is_study(folder: Path) -> bool:
    return any((folder / n).is_file() for n in (*TABLES, "study.json")) or (
        (folder / "runs").is_dir() and bool(run_folders(folder / "runs")))


def run_folders(folder: Path) -> list[Path]:
    """Runs directly in a folder, by name."""
    try:
        return sorted(p for p in folder.iterdir() if p.is_dir() and is_run(p))
    except OSError as e:
        raise UserError(f"cannot read {folder}: {e.strerror}") from None


def read(folder: Path) -> Study:
    study = Study(folder)
    for name in TABLES:
        path = folder / name
        if path.is_file():
            study.tables[name] = path.read_text(encoding="utf-8", errors="replace")
    for path in (folder / "study.json", *(folder / n for n in ("compare.json", "table.json", "values.json"))):
        if path.is_file():
            content = json_file.read(path, (dict, list))
            if isinstance(content, Mapping):
                study.settings |= {k: v for k, v in content.items() if _short(v)}
    results = folder / "results"
    if results.is_dir():
        study.results = [json_file.read(p) for p in sorted(results.glob("*.json"))]
    study.pictures = sorted(p for p in folder.glob("*.png") if p.is_file())
    if (folder / "runs").is_dir():
        study.runs = run_folders(folder / "runs")
    return study


def block(study: Study) -> str:
    """HTML."""
    out = []
    if study.settings:
        rows = [[markup.text(k), markup.text(v if isinstance(v, str) else json.dumps(v, ensure_ascii=False))]
                for k, v in study.settings.items()]
        out.append(markup.folded("What was compared", markup.table(["setting", "value"], rows, words=2)))
    for source in study.tables.values():
        out.append(markup.markdown(source))
    if not study.tables:
        out.append("<p>There is no table yet: the experiment writes it at its end.</p>")
        out.append(_results(study.results))
    notes: list[str] = []
    for path in study.pictures:
        if picture := encoded(path, notes):
            out.append(f"<figure>{markup.image(*picture, f'picture {path.name}')}<figcaption>{markup.text(path.name)}"
                       "</figcaption></figure>")
    return "".join(out) + markup.items(list(dict.fromkeys(notes)))


def _results(results: list[dict[str, Any]]) -> str:
    """What is measured so far, a row per arm and seed, means over judges."""
    rows = []
    for r in results:
        figures = r.get("last") or r.get("figures")
        judges = [f for f in (figures if isinstance(figures, list) else [figures]) if isinstance(f, Mapping)]
        keys = [k for k, v in judges[0].items() if isinstance(v, int | float)] if judges else []
        rows.append((r, {k: sum(number(j.get(k)) for j in judges) / len(judges) for k in keys}))
    keys = list(dict.fromkeys(k for _, figures in rows for k in figures if not k.endswith(("_many", "_medium"))))
    if not keys:
        return ""
    unit = "fold" if any("fold" in r for r, _ in rows) else "seed"
    known = REPORT if unit == "seed" else {}  # folds are of students, whose figures have names of their own
    body = [[markup.text(r.get("arm", "?")), markup.text(r.get(unit, "?")), *(three(figures.get(k)) for k in keys),
             format_time(r["seconds"]) if number(r.get("seconds")) == r.get("seconds") else "-"] for r, figures in rows]
    return "<h3>Measured so far</h3>" + markup.table(
        ["arm", unit, *(markup.text(with_group(k, known).replace("_", " ")) for k in keys), "time"], body)


def _short(value: Any) -> bool:
    """Whether it is a setting, not a table of values."""
    return len(json.dumps(value)) <= 400
