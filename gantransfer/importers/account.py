# SPDX-License-Identifier: Apache-2.0
"""What an import did, in words."""

from __future__ import annotations

from gantransfer.importers.common import not_usable
from gantransfer.importers.ledger import table
from gantransfer.snapshot import Snapshot


def report(snap: Snapshot, full: bool = False) -> str:
    """What an import did, tensor by tensor; empty for a snapshot of ours that was never imported."""
    if "networks" not in snap.extra:
        return ""
    lines = [f"format {snap.extra.get('format', 'stylegan2-ada')}, method {snap.method}",
             table(snap.extra["networks"], snap.extra.get("left_out", {}), full)]
    lines += [f"assumed, because the file does not say: {k} = {v}" for k, v in snap.extra.get("assumed", {}).items()]
    lines += [f"not usable yet: {name}: {why}" for name, why in not_usable(snap.nets).items()]
    if "needs" in snap.extra:
        lines.append(f"needs {snap.extra['needs']}")
    return "\n".join(lines)
