# SPDX-License-Identifier: Apache-2.0
"""The `.metric` files of published Hyper-Modulation runs, read without executing anything.

The published script passed real and generated features in the wrong order to two of its metrics: what it stored as
pr.0 is recall and pr.1 precision; its density and coverage have the generated images as the reference and have no
counterpart here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from dnnlib.util import UserError, open_regular
from gantransfer.formats import inert_pickle

NAMES = {"pr.0": "recall", "pr.1": "precision", "dc.0": "density (roles exchanged)",
         "dc.1": "coverage (roles exchanged)"}


def read_metric(path: str | Path) -> dict[int, dict[str, float]]:
    """Class -> {'fid', 'kid', 'pr.0', ...}. UserError for anything but a pickle of numbers in dicts."""
    try:
        content = inert_pickle.plain(inert_pickle.load(open_regular(path).read()))
    except (inert_pickle.Refused, OSError) as e:
        raise UserError(f"{path} is not a .metric file: {e}") from None
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path} is not a .metric file: it holds no dict of classes")
    return {_class(k, path): dict(_numbers(v, "", path)) for k, v in content.items()}


def _class(key: Any, path: Any) -> int:
    if isinstance(key, int) or isinstance(key, str) and key.isdecimal():
        return int(key)
    raise UserError(f"{path} is not a .metric file: {str(key)[:40]!r} is not a class number")


def _numbers(value: Any, prefix: str, path: Any) -> list[tuple[str, float]]:
    if isinstance(value, bool) or not isinstance(value, int | float | dict):
        raise UserError(f"{path} is not a .metric file: {prefix or 'an entry'} is no number")
    if not isinstance(value, dict):
        return [(prefix, float(value))]
    return [n for k, v in value.items() for n in _numbers(v, f"{prefix}.{k}" if prefix else str(k), path)]


def metric_files(folder: str | Path) -> list[Path]:
    """`<iteration>.metric` files of a folder in order of iterations. UserError where there are none."""
    found = [p for p in Path(folder).glob("*.metric") if re.fullmatch(r"\d+", p.stem)]
    if not found:
        raise UserError(f"{folder} has no <iteration>.metric file")
    return sorted(found, key=lambda p: int(p.stem))
