# SPDX-License-Identifier: Apache-2.0
"""The account of an import: what became of every foreign tensor, and where each of ours is from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from gantransfer.formats.inert_pickle import Refused

ACTIONS = ("copied", "renamed", "initialised", "dropped")


class Ledger:
    """Takes tensors out of a foreign state dict, one by one, into a state dict of ours."""

    def __init__(self, source: Mapping[str, torch.Tensor]):
        self.left = dict(source)
        self.state: dict[str, torch.Tensor] = {}
        self.rows: dict[str, list] = {action: [] for action in ACTIONS}

    def take(self, key: str, target: str | None = None,
             change: Callable[[torch.Tensor], torch.Tensor] | None = None, note: str = "") -> None:
        """Copy `key` to `target` (None: the same name), through `change`. Raises Refused when it is missing."""
        if key not in self.left:
            raise Refused(f"the tensor {key} is missing")
        old = self.left.pop(key)
        new = old if change is None else change(old)
        target = key if target is None else target
        if target in self.state:
            raise Refused(f"two tensors claim the place of {target}")
        self.state[target] = new
        if new.shape != old.shape:
            note = "; ".join(filter(None, [note, f"{list(old.shape)} -> {list(new.shape)}"]))
        if target == key and not note:
            self.rows["copied"].append(key)
        else:
            self.rows["renamed"].append([key, target, note])

    def take_rest(self, keys: Iterable[str] | None = None) -> None:
        """Copy what is left (of `keys`) under its own names."""
        for key in list(self.left if keys is None else keys):
            self.take(key)

    def new(self, target: str, value: torch.Tensor, why: str) -> None:
        """A tensor that the source does not have."""
        self.state[target] = value
        self.rows["initialised"].append([target, why])

    def drop(self, key: str, why: str) -> None:
        """A tensor that we have no use for."""
        if self.left.pop(key, None) is None:
            raise Refused(f"the tensor {key} is missing")
        self.rows["dropped"].append([key, why])

    def close(self, what: str) -> None:
        """Raises Refused if a tensor of the source is unaccounted for."""
        if self.left:
            raise Refused(f"its {what} has {len(self.left)} tensors that our network lacks, such as "
                          f"{next(iter(self.left))}")

    def account(self) -> dict[str, list]:
        return {action: rows for action, rows in self.rows.items() if rows}


def table(networks: Mapping[str, Mapping[str, Any]], left_out: Mapping[str, str], full: bool = False) -> str:
    """The account of an import as text. `full`: also the tensors that were copied under their own names."""
    lines = []
    for name, entry in networks.items():
        if "copy_of" in entry:
            lines.append(f"{name}: the same as {entry['copy_of']}")
            continue
        account = entry["account"]
        counts = ", ".join(f"{action} {len(account.get(action, ()))}" for action in ACTIONS)
        lines.append(f"{name}: {counts}" + (f"; {entry['parameters']:,} numbers" if "parameters" in entry else ""))
        rows = [("copied", key, "") for key in account.get("copied", ()) if full]
        rows += [("renamed", f"{key} -> {target}" if key != target else key, note)
                 for key, target, note in account.get("renamed", ())]
        rows += [(action, key, why) for action in ("initialised", "dropped") for key, why in account.get(action, ())]
        width = min(max((len(r[1]) for r in rows), default=0), 90)
        lines += [f"  {action:11s} {what:{width}s}  {note}".rstrip() for action, what, note in rows]
    lines += [f"not taken: {name} ({why})" for name, why in left_out.items()]
    return "\n".join(lines)
