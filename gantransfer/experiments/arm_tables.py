# SPDX-License-Identifier: Apache-2.0
"""Tables of arms that were trained on one data set with paired seeds (paired_arms.py), figures in rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gantransfer.experiments import harness
from gantransfer.experiments.harness import Arm
from gantransfer.metrics.paired import difference, spread, table


def of_recipes(names: Sequence[str], values: dict, seconds: dict, kimg: float, arms: Mapping[str, Arm], primary: str,
               beside: Sequence[tuple[str, str]], notes: Sequence[str] = (), best: dict | None = None) -> str:
    """Markdown: mean and spread per arm, then paired differences, per judge: against the first arm, and of those pairs
    `beside` that have all their arms. `values` and `best`: as `PairedArms.figures` has them."""
    seeds, judges = len(values[names[0]][0]), range(len(values[names[0]]))
    kinds = {"": values} | ({", best": best} if best else {})
    keys = [k for k in values[names[0]][0][0]
            if all(v.get(k) is not None for kind in kinds.values() for a in names for js in kind[a] for v in js)]
    primary = primary if primary in keys else "class_fd"  # without groups of classes
    title = {a: arms[a].title if a in arms else a for a in names}
    many = seeds > 1
    lines = [f"{kimg:g} kimg, {seeds} paired seed{'s' * many}{'; mean +- sample standard deviation' * many}. Primary "
             f"column, fixed before the runs: {harness.name_of(primary)}.", *notes]
    if best:
        lines.append("'best': the snapshot of each run with the lowest per-class FD on a part that no figure is of.")
    for j in judges:
        rows = [[harness.name_of(k, primary), *(spread([v[k] for v in kind[a][j]]) for a in names
                                                for kind in kinds.values())] for k in keys]
        rows += [["seconds", *(spread(seconds[a]) if not kind else "" for a in names for kind in kinds)]] * (j == 0)
        lines += ["", f"Judge {j}:", "", *table(["", *(title[a] + kind for a in names for kind in kinds)], rows)]
    pairs = [(names[0], other) for other in names[1:]] + [p for p in beside if {*p} <= {*names[1:]}]
    how = (f"mean +- standard error, in brackets the pairs in which it is lower; {harness.bold(seeds)}" if many else
           "one pair tells nothing of chance: no interval, and nothing is bold")
    lines += ["", f"Paired differences: {how}."]
    for a, b in pairs:
        lines += ["", f"{title[b]} minus {title[a]}:", ""]
        lines += table(["", *(f"judge {j}{kind}" for kind in kinds for j in judges)], [
            [harness.name_of(k, primary), *(cell for kind in kinds.values() for cell in difference(
                *([[v[k] for v in judge] for judge in kind[x]] for x in (a, b))).cells())] for k in keys])
    return "\n".join(lines)
