# SPDX-License-Identifier: Apache-2.0
"""Training states, read: what `training-state-*.pt` must hold, and what is said when it does not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from dnnlib.util import UserError, first_line
from gantransfer.formats import torch_file
from gantransfer.formats.pickle_machine import Refused
from gantransfer.snapshot import NetRecord, Snapshot

FORMAT = "gantransfer-training-state"
_FIELDS: dict[str, type | tuple[type, ...]] = dict(
    method=str, stage=str, cur_nimg=int, index=int, tick=int, elapsed=(int, float), nets=dict, records=dict, opts=list,
    method_state=dict, stats=dict)
_COUNTS = ("cur_nimg", "index", "tick")


def read(path: str | Path) -> dict[str, Any]:
    """The content of a state, its fields checked, tensors on the CPU. UserError; nothing in the file is run."""
    path = Path(path)
    try:
        s = torch_file.load(path)
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; name a training state file in it") from None
    except OSError as e:
        raise UserError(f"{path} cannot be read ({e.strerror or e})") from None
    except Refused as e:
        raise UserError(f"{path} cannot be read as a training state: {e}; remove it, and the run continues from the "
                        "state before it") from None
    if not isinstance(s, dict) or s.get("format") != FORMAT:
        raise UserError(f"{path} is not a training state; --resume=latest looks for training-state-*.pt")
    if "records" not in s:
        raise UserError(f"{path} is not a training state of this version; start the run anew")
    wrong = [k for k, kind in _FIELDS.items() if not isinstance(s.get(k), kind) or isinstance(s[k], bool)]
    wrong += [k for k in _COUNTS if k not in wrong and not 0 <= s[k] < 2**62]
    if not wrong and not (all(isinstance(n, dict) and all(isinstance(k, str) and isinstance(t, torch.Tensor)
                                                          for k, t in n.items()) for n in s["nets"].values())
                          and set(s["nets"]) == set(s["records"])
                          and all(isinstance(r, list) and len(r) == 2 and isinstance(r[0], str)
                                  and isinstance(r[1], dict) for r in s["records"].values())):
        wrong = ["nets"]
    if wrong:
        raise UserError(f"{path} is damaged (its {wrong[0]}); remove it, and the run continues from the state before "
                        "it")
    return s


def as_snapshot(path: str | Path) -> Snapshot:
    """The networks of a state; what the method keeps beside them is in `extra`. UserError as `read`."""
    s = read(path)
    nets = {k: NetRecord(*s["records"][k], s["nets"][k]) for k in s["nets"]}
    return Snapshot(method=s["method"], stage=s["stage"], nets=nets, cur_nimg=s["cur_nimg"], extra=s["method_state"])


@contextlib.contextmanager
def applied(path: Path) -> Iterator[None]:
    """Around putting a state into a run: what does not fit it is a UserError that names the file."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RuntimeError) as e:
        reason = f"no {e}" if isinstance(e, KeyError) else first_line(e)
        raise UserError(f"{path} does not fit this run ({reason}); it is damaged, or of a run with other settings: "
                        "remove it, and the run continues from the state before it") from None
