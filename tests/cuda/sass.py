# SPDX-License-Identifier: Apache-2.0
"""Instructions of the CUDA kernels' loops, without a GPU: `python -m tests.cuda.sass [--arch 90] [SOURCE.cu ...]`.

Compiles each source for one architecture, disassembles it and finds the loops of every kernel (natural loops of the
control flow). A loop is one line: instructions of its body without the loops inside, by class; elements that one
iteration stores (bytes of its stores by the size of the kernel's first template argument); and their quotient, the
thread-instructions per element. With `--all` every loop, otherwise the loop of each kernel that moves the most bytes
from and to global memory, which is where a kernel of this project spends its time.

What it does not model: both sides of a branch inside a loop count (so the figure is an upper bound), except blocks that
call the 64-bit division, which run only from 2^31 elements on; instructions outside loops are printed, not spread over
the elements; nothing is said about latency, occupancy, or how memory answers.

A multiprocessor issues 128 thread-instructions per clock: an H200 (132 of them, 1.7 GHz, 4.3 TB/s) can spend 6.7
thread-instructions per byte moved before issue is the bound, a 2080 Ti 8, a V100 8.

Needs nvcc, and nvdisasm from the CUDA toolkit or from the package triton; GANTRANSFER_NVDISASM names another.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from torch_utils import build

CLASSES = ("ldg", "stg", "shared", "fp32", "convert", "integer", "branch", "other")
FP32 = {"FADD", "FMUL", "FFMA", "FMNMX", "FSETP", "FSEL", "FSET", "FCHK", "MUFU", "DADD", "DMUL", "DFMA", "DSETP"}
CONVERT = {"F2F", "F2FP", "HADD2", "HMUL2", "HFMA2", "I2F", "F2I", "PRMT"}
INTEGER = {"IADD", "IADD3", "IMAD", "IMUL", "ISETP", "LEA", "LOP3", "SHF", "SEL", "ISCADD", "IABS", "IMNMX", "VIADD",
           "VIMNMX", "PLOP3", "P2R", "R2P", "MOV", "XMAD", "BFE", "VIADDMNMX", "SGXT", "LOP", "SHL", "SHR", "CS2R"}
BRANCH = {"BRA", "BRX", "EXIT", "RET", "CALL", "BSSY", "BSYNC", "BREAK", "WARPSYNC", "BAR", "NOP", "KILL", "YIELD",
          "BMOV"}
SIZES = {"float": 4, "double": 8, "gt::f16": 2, "gt::bf16": 2}


@dataclass
class Block:
    start: int
    code: list[tuple[str, str]] = field(default_factory=list)  # opcode with its suffixes, operands
    to: list[int] = field(default_factory=list)


@dataclass
class Loop:
    kernel: str
    depth: int  # 1 = not inside another
    counts: Counter
    bytes_loaded: int
    bytes_global: int  # stored
    bytes_shared: int  # stored
    size: int  # bytes of an element

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    @property
    def stored(self) -> float:
        """Elements that an iteration stores to global memory, else to shared."""
        return (self.bytes_global or self.bytes_shared) / self.size


def nvdisasm() -> str | None:
    """The disassembler: $GANTRANSFER_NVDISASM, beside nvcc, on the PATH, or in the package triton."""
    spec = importlib.util.find_spec("triton")
    places = [os.environ.get("GANTRANSFER_NVDISASM"), build.nvcc() and str(Path(build.nvcc()).parent / "nvdisasm"),
              shutil.which("nvdisasm"), "/usr/local/cuda/bin/nvdisasm",
              spec and spec.origin and str(Path(spec.origin).parent / "backends" / "nvidia" / "bin" / "nvdisasm")]
    return next((p for p in places if p and Path(p).is_file()), None)


def classify(opcode: str) -> str:
    """One of CLASSES."""
    name = opcode.split(".")[0]
    if name in ("LDG", "LD"):
        return "ldg"
    if name in ("STG", "ST"):
        return "stg"
    if name in ("LDS", "STS", "SHFL"):
        return "shared"
    if name in FP32:
        return "fp32"
    if name in CONVERT:
        return "convert"
    if name in BRANCH:
        return "branch"
    return "integer" if name in INTEGER else "other"


def width(opcode: str) -> int:
    """Bytes that a thread moves with a load or store."""
    for suffix, size in ((".128", 16), (".64", 8), (".U16", 2), (".S16", 2), (".U8", 1), (".S8", 1), (".16", 2)):
        if suffix in opcode:
            return size
    return 4


def blocks_of(lines: list[str]) -> dict[int, Block]:
    """Basic blocks of one kernel's disassembly, by address, without the routines behind it that it calls."""
    labels, code, calls = {}, [], False
    pending: list[str] = []
    for line in lines:
        if m := re.match(r"^(\.L_x?_?\d+|\$?[\w$.]+):", line):
            pending.append(m[1])
            if m[1].startswith("$"):
                calls = True  # internal routines come last
            continue
        if (m := re.match(r"^\s+/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;", line)) and not calls:
            text = m[2].strip().strip("{}").strip()
            guard = re.match(r"^@!?U?P[T\d]+\s+", text)
            words = text[guard.end() if guard else 0:].split(None, 1)
            address = int(m[1], 16)
            labels.update(dict.fromkeys(pending, address))
            pending = []
            code.append((address, bool(guard), words[0], words[1] if len(words) > 1 else ""))
    target = lambda rest: labels.get(m[1]) if (m := re.search(r"`\((\S+?)\)", rest)) else None  # noqa: E731
    starts = set(labels.values()) | {code[0][0]}
    for i, (_, _, op, _) in enumerate(code):
        if op.split(".")[0] in ("BRA", "EXIT", "RET", "BRX") and i + 1 < len(code):
            starts.add(code[i + 1][0])
    blocks: dict[int, Block] = {}
    for i, (address, guarded, op, rest) in enumerate(code):
        if address in starts:
            current = blocks[address] = Block(address)
        current.code.append((op, rest))
        name = op.split(".")[0]
        if name == "BRA" and (to := target(rest)) is not None:
            current.to.append(to)
        # `BRA P0, label` and BRA.DIV may fall through, as what has a guard does
        leaves = name in ("BRA", "EXIT", "RET", "BRX") and not guarded and ".DIV" not in op
        leaves = leaves and not re.match(r"^!?U?P\d", rest)
        if i + 1 < len(code) and code[i + 1][0] in starts and not leaves:
            current.to.append(code[i + 1][0])
    return blocks


def natural_loops(blocks: dict[int, Block]) -> list[tuple[int, set[int]]]:
    """(header, blocks of the body) of every loop; loops with one header are one."""
    entry, nodes = min(blocks), list(blocks)
    before: dict[int, set[int]] = {n: set() for n in nodes}
    for n in nodes:
        for t in blocks[n].to:
            if t in before:
                before[t].add(n)
    reached, stack = {entry}, [entry]
    while stack:
        for t in blocks[stack.pop()].to:
            if t in before and t not in reached:
                reached.add(t)
                stack.append(t)
    dominators = {n: set(reached) for n in reached}
    dominators[entry] = {entry}
    changed = True
    while changed:
        changed = False
        for n in sorted(reached - {entry}):
            new = set.intersection(*(dominators[p] for p in before[n] if p in reached)) | {n}
            if new != dominators[n]:
                dominators[n], changed = new, True
    loops: dict[int, set[int]] = {}
    for n in reached:
        for header in blocks[n].to:
            if header in dominators[n]:
                body, stack = {header, n}, [n]
                while stack:
                    last = stack.pop()
                    for p in before[last] & reached - body if last != header else ():
                        body.add(p)
                        stack.append(p)
                loops[header] = loops.get(header, set()) | body
    return sorted(loops.items())


def loops_of(kernel: str, lines: list[str]) -> tuple[list[Loop], int]:
    """Every loop of a kernel, and the number of instructions outside loops."""
    blocks = blocks_of(lines)
    found = natural_loops(blocks)
    size = SIZES.get(re.search(r"<([\w:]+)", kernel)[1] if "<" in kernel else "float", 4)
    out = []
    for header, body in found:
        inner = set().union(*(b for h, b in found if h != header and b < body), set())
        counts, loaded, in_global, in_shared = Counter(), 0, 0, 0
        for n in body - inner:
            if any(op.startswith("CALL") for op, _ in blocks[n].code):
                continue
            for op, _ in blocks[n].code:
                kind = classify(op)
                counts[kind] += 1
                loaded += width(op) if kind == "ldg" else 0
                in_global += width(op) if kind == "stg" else 0
                in_shared += width(op) if op.startswith("STS") else 0
        out.append(Loop(kernel, sum(body <= b for _, b in found), counts, loaded, in_global,
                        in_shared, size))
    inside = set().union(*(b for _, b in found), set())
    return out, sum(len(b.code) for n, b in blocks.items() if n not in inside)


def kernels_of(listing: str) -> dict[str, list[str]]:
    """{mangled name: lines} of an nvdisasm listing."""
    parts = re.split(r"^\.text\.(\S+):$", listing, flags=re.M)
    return {name: re.split(r"^//-{5,}|^\t\.section", body, maxsplit=1, flags=re.M)[0].splitlines()
            for name, body in zip(parts[1::2], parts[2::2])}


def plain_names(names: list[str]) -> list[str]:
    """Demangled, without arguments."""
    try:
        done = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    except (OSError, subprocess.SubprocessError):
        return names
    return [re.sub(r"^void (gt::)?", "", n).split("(")[0] for n in done.stdout.splitlines()]


def analyse(source: Path, arch: str, folder: Path) -> list[tuple[str, list[Loop], int]]:
    """[(kernel, its loops, instructions outside loops)] of a source. RuntimeError when a tool fails."""
    cubin = folder / f"{source.stem}_{arch}.cubin"
    for command in ([build.nvcc(), "-std=c++17", "-O3", f"-arch=sm_{arch}", "-cubin", "-o", str(cubin), str(source)],
                    [nvdisasm(), "-c", str(cubin)]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    found = kernels_of(done.stdout)
    return sorted((name, *loops_of(name, lines)) for name, lines in zip(plain_names(list(found)), found.values()))


def hottest(loops: list[Loop]) -> Loop | None:
    """The loop that moves the most bytes from and to global memory; of equals, the one that computes most."""
    return max((x for x in loops if x.bytes_loaded + x.bytes_global),
               key=lambda x: (x.bytes_loaded + x.bytes_global, x.counts["fp32"]), default=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", type=Path)
    parser.add_argument("--arch", default="90")
    parser.add_argument("--all", action="store_true", help="every loop, not only the one that stores most")
    args = parser.parse_args()
    if build.nvcc() is None or nvdisasm() is None:
        sys.exit("nvcc and nvdisasm are needed (the CUDA toolkit; nvdisasm is also in the package triton)")
    sources = args.sources or sorted(build.source_dir().glob("*.cu"))
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        parts = list(pool.map(lambda s: analyse(s, args.arch, Path(folder)), sources))
    print(f"sm_{args.arch}: {'  '.join(f'{c:>7s}' for c in CLASSES)}    total  stored  per element  outside")
    for name, loops, outside in (row for part in parts for row in part):
        best = hottest(loops)
        for loop in loops if args.all else filter(None, [best]):
            counts = "  ".join(f"{loop.counts[c]:7d}" for c in CLASSES)
            each = f"{loop.total / loop.stored:11.1f}" if loop.stored else " " * 11
            print(f"depth {loop.depth} {counts}  {loop.total:7d}  {loop.stored:6g}  {each}  {outside:7d}  "
                  f"{'*' if loop is best else ' '} {name}")


if __name__ == "__main__":
    main()
