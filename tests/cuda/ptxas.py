# SPDX-License-Identifier: Apache-2.0
"""Registers, spills and shared memory of every CUDA kernel, without a GPU: `python -m tests.cuda.ptxas [75 90 ...]`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from torch_utils import build


class CompileError(RuntimeError):
    """nvcc refused a source; the text is the command and what it said."""


def report(source: Path, archs: Sequence[str], folder: Path) -> list[dict]:
    """[{'kernel', 'arch', 'registers', 'spilled' (bytes), 'shared' (bytes)}] of a source, as ptxas -v tells. The
    host's half is checked, but not compiled: tests.cuda.emulated does that."""
    command = [build.nvcc(), "-std=c++17", "-O3", "-Xptxas", "-v", "-Werror", "all-warnings",
               *[f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs],
               "-cuda", str(source), "-o", str(folder / f"{source.stem}_{'_'.join(archs)}.ii")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CompileError(f"{' '.join(command)}\n{done.stderr[-4000:]}")
    rows = []
    for block in done.stderr.split("Compiling entry function '")[1:]:
        shared = re.search(r"(\d+) bytes smem", block)
        rows.append({"kernel": block.split("'")[0], "arch": re.match(r"[^']+' for 'sm_(\w+)'", block)[1],
                     "registers": int(re.search(r"Used (\d+) registers", block)[1]),
                     "spilled": sum(map(int, re.findall(r"(\d+) bytes spill", block))),
                     "shared": int(shared[1]) if shared else 0})
    names = "\n".join(r["kernel"] for r in rows)
    try:
        plain = subprocess.run(["c++filt"], input=names, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):  # names stay as the compiler writes them
        plain = names.splitlines()
    for r, name in zip(rows, plain):
        r["kernel"] = re.sub(r"^void (gt::)?", "", name).split("(")[0]
    return rows


def report_all(archs: list[str], jobs: int | None = None) -> list[dict]:
    """`report` of every source for every architecture, several at a time; the hungriest kernels first."""
    work = [(s, [a]) for a in archs for s in sorted(build.source_dir().glob("*.cu"), key=lambda p: -p.stat().st_size)]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs or os.cpu_count()) as pool:
        found = list(pool.map(lambda item: report(*item, Path(folder)), work))
    rows = [r for part in found for r in part]
    return sorted(rows, key=lambda r: (int(r["arch"]), -r["spilled"], -r["registers"]))


def main() -> None:
    if build.nvcc() is None:
        sys.exit("no nvcc on this machine")
    archs = sys.argv[1:] or ["75", "90"]
    missing = set(archs) - set(build.offered_architectures(build.nvcc()))
    if missing:
        sys.exit(f"{build.nvcc()} does not offer sm_{', sm_'.join(sorted(missing))}")
    rows = report_all(archs)
    for r in rows:
        print(f"sm_{r['arch']} {r['registers']:3d} registers {r['spilled']:4d} B spilled {r['shared']:6d} B shared  "
              f"{r['kernel']}")
    for arch in archs:
        mine = [r for r in rows if r["arch"] == arch]
        print(f"sm_{arch}: {len(mine)} kernels, {sum(r['spilled'] > 0 for r in mine)} spill, at most "
              f"{max(r['registers'] for r in mine)} registers, {max(r['shared'] for r in mine)} B shared")


if __name__ == "__main__":
    main()
