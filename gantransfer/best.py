# SPDX-License-Identifier: Apache-2.0
"""`RUN:best` as a path: the snapshot of a run folder with the best value of a metric that was measured in it."""

from __future__ import annotations

import json
import re
from pathlib import Path

from dnnlib.util import UserError

HIGHER = ("is", "pr", "accuracy", "lpips", "dc", "label")  # beginnings of metrics where more is better


def resolve(text: str | None) -> str | None:
    """'RUN:best' or 'RUN:best:METRIC' -> path of the snapshot; any other text as it is. UserError if none is rated."""
    match = re.fullmatch(r"(.+):best(?::(\w+))?", text or "")
    if not match or not Path(match[1]).is_dir():
        if match and "://" not in text:
            raise UserError(f"{text}: {match[1]} is not a run folder")
        return text
    run_dir, rows = Path(match[1]), []
    for path in sorted(run_dir.glob("metric-*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                r = json.loads(line)
                name, snapshot, results = r["metric"], r["snapshot_pkl"], r["results"]
            except (ValueError, KeyError, TypeError):
                continue  # half a line from a killed run
            rows += [(name, key, value, run_dir / snapshot) for key, value in results.items()
                     if isinstance(value, int | float) and snapshot and (run_dir / snapshot).exists()]
    known = list(dict.fromkeys(key for _, key, _, _ in rows))
    wanted = match[2] or (known[0] if known else None)
    if match[2] and match[2] not in known:  # a metric's name stands for its first value
        wanted = next((key for name, key, _, _ in rows if name == match[2]), None)
    if wanted is None:
        what = f"no value of {match[2]}; it has {', '.join(known[:4]) or 'none'}" if known else "no measured snapshot"
        raise UserError(f"{text}: the folder has {what}; train with --metrics=..., or measure with calc_metrics.py")
    rated = [(value, path) for _, key, value, path in rows if key == wanted]
    choose = max if wanted.startswith(HIGHER) or "accuracy" in wanted else min
    value, path = choose(rated, key=lambda r: r[0])
    print(f"{text}: {path.name}, {wanted} {value:.4g}")
    return str(path)
