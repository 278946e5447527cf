# SPDX-License-Identifier: Apache-2.0
"""The flag --kernels of every command that runs networks: `@click.option("--kernels", **kernels.FLAG)`.

The command itself gets no argument: the choice is made before it starts, and processes that it starts inherit it.
"""

from __future__ import annotations

import os
from typing import Any


def choose(context: Any, parameter: Any, value: str | None) -> None:
    """click's callback. Left out, the flag leaves the choice to the variable GANTRANSFER_KERNELS."""
    if value is not None:
        from torch_utils import build

        build.configure(value)
        os.environ["GANTRANSFER_KERNELS"] = value


FLAG: dict[str, Any] = dict(
    default=None, show_default="auto", metavar="auto|native|ref", expose_value=False, callback=choose,
    help="Compiled operators: auto (compile once, else say so and use PyTorch's), native (or fail), ref (PyTorch's)")
