# SPDX-License-Identifier: Apache-2.0
"""What measured values are called in tables, plots and lines for people; files keep the values' own names.

Nothing here imports torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

GROUPS = {"many": "frequent classes", "medium": "medium classes", "few": "rare classes"}
# The columns of metrics.class_report, of which a judge makes one table.
REPORT = {"class_fd": "per-class FD", "fd": "FD", "fd_pix64": "pixel FD", "accuracy": "label accuracy",
          "diversity": "diversity ratio", "nearest": "nearest-training ratio"}


def group_of(key: str) -> tuple[str, str]:
    """('fid_x', 'few') of fid_x_few; ('fid_x', '') of a value over all classes."""
    match = re.fullmatch(rf"(.+)_({'|'.join(GROUPS)})", key)
    return (match[1], match[2]) if match else (key, "")


def with_group(key: str, known: Mapping[str, str]) -> str:
    """'per-class FD, rare classes' of class_fd_few; as it is where its value is not `known`."""
    base, group = group_of(key)
    return f"{known[base]}, {GROUPS[group]}" if group and base in known else known.get(key, key)


def title(metric: str, key: str) -> str:
    """What the value `key` of `metric` is called: a report's by its column, all others by their own names."""
    own = key.removeprefix(f"{metric}_")
    return with_group(own, REPORT) if metric.startswith("report_") and own != key else key
