# SPDX-License-Identifier: Apache-2.0
"""Whether an installed wheel brings the CUDA kernels, without a GPU: `python tests/cuda/prebuilt.py`, with no checkout
on the path. Loading resolves every symbol; each operator that has kernels in csrc/*.cu must be registered for CUDA."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import torch

from torch_utils import build

CPU_ALONE = ("conv3x3", "styled_conv")  # operators without a .cu, and their gradients


def missing(operators: dict[str, set[str]]) -> list[str]:
    """Which of {operator: {'CPU', 'CUDA', ..}} should have a CUDA kernel and have none, and sources without any."""
    wanted = {name for name in operators if not name.startswith(CPU_ALONE)}
    return sorted([name for name in wanted if "CUDA" not in operators[name]]
                  + [f"{p.name}: no operator" for p in build.source_dir().glob("*.cu") if p.stem not in wanted])


def registered() -> dict[str, set[str]]:
    """Operators of this library and the devices that they have kernels for."""
    names = [n for n in torch._C._dispatch_get_all_op_names() if n.startswith("gantransfer::")]
    return {n.removeprefix("gantransfer::"): {
        key for key in ("CPU", "CUDA") if torch._C._dispatch_has_kernel_for_dispatch_key(n, key)} for n in names}


def main() -> None:
    build.configure("native")
    build.implementation("cpu")
    info = build.describe()["build"]
    if not info.get("prebuilt"):
        sys.exit(f"these kernels were compiled now, from {build.source_dir()}: no prebuilt ones were installed")
    found = registered()
    if wrong := missing(found):
        sys.exit(f"without a CUDA kernel: {', '.join(wrong)}")
    archs = re.findall(r",code=(\w+)", " ".join(info["nvcc_flags"]))
    print(f"{len(found)} operators, {sum('CUDA' in keys for keys in found.values())} of them for CUDA "
          f"({', '.join(archs)}), in {Path(build.__file__).parent}")


if __name__ == "__main__":
    main()
