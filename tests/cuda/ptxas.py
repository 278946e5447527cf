# SPDX-License-Identifier: Apache-2.0
"""Registers, spills, shared memory and instructions of every CUDA kernel, without a GPU:

    python -m tests.cuda.ptxas [75 90 ...]      print them
    python -m tests.cuda.ptxas --limits         write anew what no kernel may exceed (instructions.json)

Instructions are the size of a kernel's machine code by 16 bytes, exact but for the NOPs that fill up to 128 bytes: both
sides of every branch once, whatever the loops do. `tests.cuda.sass` counts what the loops issue.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dnnlib.util import atomic_write
from torch_utils import build

LIMITS = Path(__file__).with_name("instructions.json")
SLACK = 1.02  # of a limit: what a change may add without a word


class CompileError(RuntimeError):
    """nvcc refused a source; the text is the command and what it said."""


def report(source: Path, archs: Sequence[str]) -> list[dict]:
    """[{'source', 'kernel', 'arch', 'registers', 'spilled' (bytes), 'shared' (bytes), 'instructions' (None without
    readelf)}] of a source, as ptxas -v tells, and as the machine code is large that the same run leaves. The host's
    half is checked, but not compiled: tests.cuda.emulated does that."""
    with tempfile.TemporaryDirectory() as folder:
        command = [build.nvcc(), "-std=c++17", "-O3", "-Xptxas", "-v", "-Werror", "all-warnings",
                   *[f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs],
                   "--keep", "--keep-dir", folder, "-cuda", str(source), "-o", f"{folder}/{source.stem}.ii"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CompileError(f"{' '.join(command)}\n{done.stderr[-4000:]}")
        names = "*_{}.cubin" if len(archs) > 1 else "*.cubin"  # nvcc names the architecture where there are several
        sizes = {arch: instructions(next(Path(folder).glob(names.format(arch)))) for arch in archs}
    return rows(source, done.stderr, sizes)


def rows(source: Path, said: str, sizes: dict[str, dict[str, int] | None]) -> list[dict]:
    """`report` of what ptxas said, and the instructions of each architecture."""
    found = []
    for block in said.split("Compiling entry function '")[1:]:
        shared = re.search(r"(\d+) bytes smem", block)
        name, arch = block.split("'")[0], re.match(r"[^']+' for 'sm_(\w+)'", block)[1]
        found.append({"source": source.name, "kernel": name, "arch": arch,
                      "registers": int(re.search(r"Used (\d+) registers", block)[1]),
                      "spilled": sum(map(int, re.findall(r"(\d+) bytes spill", block))),
                      "shared": int(shared[1]) if shared else 0,
                      "instructions": sizes[arch] and sizes[arch][name]})
    names = "\n".join(r["kernel"] for r in found)
    try:
        plain = subprocess.run(["c++filt"], input=names, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):  # names stay as the compiler writes them
        plain = names.splitlines()
    for r, name in zip(found, plain):
        r["kernel"] = re.sub(r"^void (gt::)?", "", name).split("(")[0]
    return found


def instructions(cubin: Path) -> dict[str, int] | None:
    """Of every kernel of a binary, by its mangled name (16 bytes each from sm_70 on); None without binutils."""
    try:
        text = subprocess.run(["readelf", "-SW", str(cubin)], capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        return None
    return {m[1]: int(m[2], 16) // 16 for m in re.finditer(r"\] \.text\.(\S+) +PROGBITS +\w+ \w+ (\w+)", text)}


def report_all(archs: Sequence[str], jobs: int | None = None) -> list[dict]:
    """`report` of every source for every architecture, several at a time; the hungriest kernels first."""
    work = [(s, [a]) for a in archs for s in sorted(build.source_dir().glob("*.cu"), key=lambda p: -p.stat().st_size)]
    with ThreadPoolExecutor(jobs or os.cpu_count()) as pool:
        found = list(pool.map(lambda item: report(*item), work))
    rows = [r for part in found for r in part]
    return sorted(rows, key=lambda r: (int(r["arch"]), -r["spilled"], -r["registers"]))


def compiler_version() -> str:
    """Of nvcc, as '13.0.88': another one, be it an update of the same release, makes other code of the same source."""
    return re.search(r"\bV(\d+\.\d+\.\d+)", build._version(build.nvcc()))[1]


def totals(rows: list[dict]) -> dict[str, dict[str, dict[str, list[int]]]]:
    """{source: {architecture: {kernel without template arguments: [instructions of its largest form, of all]}}}"""
    found: dict = {}
    for r in sorted(rows, key=lambda r: (r["source"], int(r["arch"]), r["kernel"])):
        of_arch = found.setdefault(r["source"], {}).setdefault(r["arch"], {})
        largest, of_all = of_arch.get(r["kernel"].split("<")[0], [0, 0])
        of_arch[r["kernel"].split("<")[0]] = [max(largest, r["instructions"]), of_all + r["instructions"]]
    return found


def exceeded(now: dict[str, list[int]], limits: dict[str, list[int]]) -> list[str]:
    """What `totals` of a source for one architecture says against its limits, one line per kernel; [] is good."""
    wrong = [f"{k} has no limit" for k in now.keys() - limits.keys()]
    wrong += [f"{k} is gone" for k in limits.keys() - now.keys()]
    for k in now.keys() & limits.keys():
        wrong += [f"{k}: {n} instructions {what} instead of {most}"
                  for what, n, most in zip(("in its largest form", "in all forms"), now[k], limits[k])
                  if n > SLACK * most]
    return sorted(wrong)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archs", nargs="*", default=["75", "90"], metavar="ARCH", help="75 90")
    parser.add_argument("--limits", action="store_true", help=f"write {LIMITS.name} for these architectures")
    args = parser.parse_args()
    if build.nvcc() is None:
        sys.exit("no nvcc on this machine")
    missing = set(args.archs) - set(build.offered_architectures(build.nvcc()))
    if missing:
        sys.exit(f"{build.nvcc()} does not offer sm_{', sm_'.join(sorted(missing))}")
    if args.limits and not (shutil.which("readelf") and shutil.which("c++filt")):
        sys.exit("--limits needs readelf and c++filt (`apt install binutils`)")
    rows = report_all(args.archs)
    for r in rows:
        print(f"sm_{r['arch']} {r['registers']:3d} registers {r['spilled']:4d} B spilled {r['shared']:6d} B shared  "
              f"{r['instructions'] or '?':>6} instructions  {r['kernel']}")
    for arch in args.archs:
        mine = [r for r in rows if r["arch"] == arch]
        print(f"sm_{arch}: {len(mine)} kernels, {sum(r['spilled'] > 0 for r in mine)} spill, at most "
              f"{max(r['registers'] for r in mine)} registers, {max(r['shared'] for r in mine)} B shared, "
              f"{sum(r['instructions'] or 0 for r in mine) or '?'} instructions")
    if args.limits:
        from tests.cuda import nvrtc

        if nvrtc.library() is None:
            sys.exit("--limits needs NVRTC 12 (`pip install nvidia-cuda-nvrtc-cu12`)")
        volta = [r for s in sorted(build.source_dir().glob("*.cu")) for r in nvrtc.report(s, "70")]
        found = {"nvcc": compiler_version(), "nvrtc": nvrtc.version(), "limits": totals(volta + rows)}
        with atomic_write(LIMITS) as f:
            f.write(re.sub(r"\[\s+(\d+),\s+(\d+)\s+\]", r"[\1, \2]", json.dumps(found, indent=1)) + "\n")


if __name__ == "__main__":
    main()
