# SPDX-License-Identifier: Apache-2.0
"""torch's optimisers, made and stepped without torch's compiler.

`torch.optim` imports `torch._dynamo` in its first call: a second of every start, for the sake of compiled steps, which
nothing here has; and where a process group exists by then, the compiler holds on to it, so that the group's threads
outlive it. The classes below are torch's own with those wrappers taken off: same numbers, same states.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch

Kind = TypeVar("Kind", bound=torch.optim.Optimizer)


def _bare(function: Any) -> Any:
    """What torch's decorators go round; the function itself where a version of torch has none."""
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return function


def without_compiler(kind: type[Kind]) -> type[Kind]:
    """A subclass of the same name."""
    step = torch.no_grad()(_bare(kind.step))
    bare = {name: _bare(getattr(kind, name)) for name in ("add_param_group", "zero_grad", "state_dict",
                                                          "load_state_dict")}
    return type(kind.__name__, (kind,), {"__doc__": kind.__doc__, "__module__": __name__, "step": step, **bare})


Adam = without_compiler(torch.optim.Adam)
AdamW = without_compiler(torch.optim.AdamW)
SGD = without_compiler(torch.optim.SGD)
