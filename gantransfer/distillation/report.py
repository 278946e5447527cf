# SPDX-License-Identifier: Apache-2.0
"""The table of students: finished runs, grouped by what they learned from, over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dnnlib import json_file
from dnnlib.util import UserError
from gantransfer.metrics.paired import difference, spread


def collect(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Results of all finished students in the folders or below them; an assistant or head is a part of its student.

    Raises UserError when there are none, or when two runs of one kind have the same seed.
    """
    found: dict[Path, dict[str, Any]] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"--runs: {folder} is not a folder")
        for path in sorted(folder.rglob("results.json")):
            r = json_file.read(path)
            if r.get("stage") == "student" and path.parent.name not in ("assistant", "head") and r["last"]:
                found[path.parent.resolve()] = dict(r, folder=str(path.parent))
    if not found:
        raise UserError("--runs: no finished student with figures is there (train with --test)")
    seen: dict[tuple, str] = {}
    for r in found.values():
        key = (arm(r), r["options"]["arch"], r["seed"], r["data"])
        if key in seen:
            raise UserError(f"--runs: {seen[key]} and {r['folder']} are both {key[0]}, {key[1]}, seed {key[2]}, on the "
                            "same images; name one of them")
        seen[key] = r["folder"]
    return list(found.values())


def arm(result: dict[str, Any]) -> str:
    """NOKD, KD (blkd), cGAN-KD, cGAN-KD + blkd."""
    kd, fakes = result["options"]["kd"], result["options"]["fakes"]
    if not fakes:
        return "NOKD" if kd == "none" else f"KD ({kd})"
    return "cGAN-KD" if kd == "none" else f"cGAN-KD + {kd}"


def table(results: Sequence[dict[str, Any]]) -> str:
    """Markdown: a row per architecture and arm; differences against NOKD of the same seeds and images."""
    columns = [c for c in results[0]["last"] if all(c in r["last"] for r in results)]
    if not columns:
        raise UserError("--runs: the runs have no figure in common (classes and values?)")
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for r in results:
        groups.setdefault((r["options"]["arch"], arm(r)), []).append(r)
    lines = ["| student | | seeds | images seen | " + " | ".join(columns) + " | minus NOKD |",
             "|---|---|---|---|" + "---|" * (len(columns) + 1)]
    for (arch, name), runs in sorted(groups.items(), key=lambda g: (g[0][0], _order(g[0][1]))):
        cells = [spread([r["last"][c] for r in runs]) for c in columns]
        budget = sorted({r["images_seen"] for r in runs})
        opponents = {(r["seed"], r["data"]): r for r in groups.get((arch, "NOKD"), [])}
        pairs = [(opponents[k], r) for r in runs if (k := (r["seed"], r["data"])) in opponents]
        cell = ""
        if name != "NOKD" and pairs:
            d = difference(*[[[pair[i]["last"][columns[0]] for pair in pairs]] for i in (0, 1)])
            cell = d.cell() if len(pairs) > 1 else f"{d.mean[0]:+.3g}"
            if {r["images_seen"] for r, _ in pairs} != {r["images_seen"] for _, r in pairs}:
                cell += " (other budget)"
        lines.append(f"| {arch} | {name} | {len(runs)} | {'-'.join(map(str, budget))} | " + " | ".join(cells)
                     + f" | {cell} |")
    lines += ["", f"Mean +- sample standard deviation over seeds; {columns[0]} minus NOKD of the same seed and images: "
                  "mean +- standard error, bold where beyond the critical t (5 %)."]
    return "\n".join(lines)


def _order(name: str) -> tuple[int, str]:
    return (["NOKD", "KD", "cGAN-KD"].index(name.split(" ")[0]) + (name.startswith("cGAN-KD +")), name)
