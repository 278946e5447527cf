# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share: timing of variants side by side, facts about the machine, bars, the one JSON form."""

import argparse
import contextlib
import datetime
import importlib
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import torch

from dnnlib.util import UserError
from torch_utils import build

ROOT = Path(__file__).resolve().parents[2]
KEYS = {  # of the JSON file, of a row, a ratio and a bar; tested
    "report": ("schema", "commit", "dirty", "date", "command", "host", "gpu", "versions", "build", "rows", "ratios",
               "bars"),
    "row": ("bench", "op", "variant", "direction", "shape", "dtype", "layout", "ms", "bytes", "gbs", "frac_copy",
            "max_err", "saved_bytes"),
    "ratio": ("op", "shape", "dtype", "layout", "direction", "vs", "ratio"),
    "bar": ("id", "value", "bar", "status", "reason"),
}


def prepare(device: str, threads: int) -> None:
    """Arithmetic as train.py sets it up."""
    torch.set_num_threads(threads)
    if device == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


class Timer:
    """Times variants in turn (A B C A B C ...). On a CPU with one thread its processor time counts, so that a shared
    machine matters less. On CUDA, events around each call, with the second-level cache flushed before; the device is
    kept busy meanwhile, so that the host's own time does not show."""

    rounds = {"cpu": 10, "cuda": 20}  # at least

    def __init__(self, device: str, threads: int = 1):
        self.cuda = device == "cuda"
        self.clock = time.thread_time if threads == 1 else time.perf_counter
        self.flush = torch.empty(64 << 20, dtype=torch.int32, device=device) if self.cuda else None

    def once(self, f: Callable) -> float:
        """Milliseconds of one call."""
        if not self.cuda:
            start = self.clock()
            f()
            return (self.clock() - start) * 1e3
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        self.flush.zero_()
        torch.cuda._sleep(1_000_000)
        a.record()
        f()
        b.record()
        b.synchronize()
        return a.elapsed_time(b)

    def __call__(self, variants: dict[str, Callable], seconds: float) -> dict[str, dict]:
        """{variant: {"median", "q1", "q3", "n"}} in ms; for `seconds`, at least `rounds` times; two warm up."""
        for f in variants.values():
            f()
            f()
        least, times = self.rounds["cuda" if self.cuda else "cpu"], {k: [] for k in variants}
        start, rounds = time.perf_counter(), 0
        while rounds < least or (time.perf_counter() - start < seconds and rounds < 200):
            for k, f in variants.items():
                times[k].append(self.once(f))
            rounds += 1
        return {k: quartiles(t) for k, t in times.items()}


def quartiles(times: list[float]) -> dict:
    q1, q2, q3 = statistics.quantiles(times, n=4) if len(times) > 1 else times * 3
    return {"median": q2, "q1": q1, "q3": q3, "n": len(times)}


def output(*command: str) -> str:
    """Standard output of a command; empty where it does not exist."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30, cwd=ROOT).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def copy_bandwidth(mb: int = 256) -> float:
    """GB/s of a plain copy on the GPU, read and write counted."""
    a = torch.empty(mb << 18, dtype=torch.float32, device="cuda").normal_()
    b = torch.empty_like(a)
    ms = Timer("cuda")({"copy": lambda: b.copy_(a)}, 0.1)["copy"]["median"]
    return 2 * a.numel() * 4 / ms / 1e6


def facts(device: str, threads: int) -> dict:
    """Everything of a report but its rows, ratios and bars."""
    info = Path("/proc/cpuinfo").read_text() if os.path.exists("/proc/cpuinfo") else ""
    cpu = re.search(r"^model name\s*:\s*(.*)$", info, re.M)
    flags = sorted(f for f in build.cpu_flags() if f.startswith(("avx512", "amx", "avx2", "fma", "f16c", "bf16")))
    onednn = re.search(r"(?:MKL-DNN|oneDNN)\D*([\d.]+)", torch.__config__.show())
    tools = {"gcc": None, "nvcc": None}
    with contextlib.suppress(build.BuildError):
        tools["gcc"] = (build._version(build.compiler()).splitlines() or [None])[0]
    if build.nvcc():
        tools["nvcc"] = ".".join(map(str, build.nvcc_version(build.nvcc())))
    gpu = None
    if device == "cuda":
        p = torch.cuda.get_device_properties(0)
        named = output("nvidia-smi", "--query-gpu=driver_version,clocks.sm,clocks.mem", "--format=csv,noheader", "-i",
                       "0").split(", ")
        gpu = {"name": p.name, "sm": f"{p.major}{p.minor}", "driver": named[0] or None,
               "l2_mb": getattr(p, "L2_cache_size", 0) >> 20, "mem_gb": p.total_memory >> 30,
               "copy_gbs": round(copy_bandwidth(), 1), "clocks": named[1:]}
    info = build.describe()["build"]
    return {"schema": 1, "commit": output("git", "rev-parse", "HEAD") or None,
            "dirty": bool(output("git", "status", "--porcelain")),
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            # Folders of this machine say nothing about the result.
            "command": " ".join(re.sub(r"(^|=)/\S*/", r"\1", a) for a in [Path(sys.argv[0]).name, *sys.argv[1:]]),
            "host": {"cpu": cpu[1] if cpu else platform.processor(), "flags": flags, "threads": threads,
                     "ram_gb": round(_ram_gb(), 1), "load": os.getloadavg()[0]},
            "gpu": gpu,
            "versions": {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda,
                         "cudnn": torch.backends.cudnn.version(), "onednn": onednn[1] if onednn else None, **tools},
            "build": {"flags": [f for f in (*info.get("cxx_flags", []), *info.get("nvcc_flags", []))
                                if not f.startswith(("-I", "-L"))],
                      "arch": [f for f in info.get("nvcc_flags", []) if "arch" in f], "seconds": info.get("seconds"),
                      "sha": info.get("key")}}


def _ram_gb() -> float:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (OSError, ValueError):
        return math.nan


def row(gpu: dict | None, **values) -> dict:
    """A row with every key; bandwidth follows from `bytes` and `ms`."""
    r = {k: values.pop(k, None) for k in KEYS["row"]}
    if values:
        raise KeyError(f"a row has no {sorted(values)}")
    if r["bytes"] and r["ms"]:
        r["gbs"] = r["bytes"] / r["ms"]["median"] / 1e6
        r["frac_copy"] = r["gbs"] / gpu["copy_gbs"] if gpu else None
    return r


def bar(name: str, value: float | None, limit: float, reason: str | None = None, most: bool = False) -> dict:
    """pass / fail, or skipped with its reason. `most`: the value may be at most `limit`, not at least."""
    if reason is None and value is None:
        reason = "no such rows in this run"
    good = value is not None and (value <= limit if most else value >= limit)
    return {"id": name, "value": value, "bar": limit,
            "status": "skipped" if reason else "pass" if good else "fail", "reason": reason}


def mean(values: list[float]) -> float | None:
    """Geometric."""
    return math.exp(statistics.fmean(map(math.log, values))) if values else None


def main(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], dict]) -> None:
    """What every bench does with its arguments: the report's bars are printed, and --out gets all of it."""
    parser.add_argument("--out", help="write all figures to this JSON file")
    args = parser.parse_args()
    try:
        report = run(args)
    except UserError as e:
        sys.exit(f"Error: {e}")
    for b in report["bars"]:
        value = "" if b["value"] is None else f"{b['value']:.2f}"
        print(f"{b['status']:8s}{b['id']:52s} {value:>8s}  bar {b['bar']:g}  {b['reason'] or ''}")
    if args.out:
        write_json(args.out, report)


def write_json(path: str | os.PathLike, data: dict) -> None:
    tmp = Path(path).with_suffix(".tmp")
    tmp.write_text(json.dumps(data, indent=1), encoding="utf-8")
    os.replace(tmp, path)


@contextlib.contextmanager
def _foreign(path: Path) -> Iterator[None]:
    """Its own dnnlib, torch_utils and training, instead of ours, while it is imported."""
    names = ("dnnlib", "torch_utils", "training")

    def take() -> dict:
        found = {k: v for k, v in sys.modules.items() if k.split(".")[0] in names}
        for k in found:
            del sys.modules[k]
        return found

    ours = take()
    sys.path.insert(0, str(path))
    try:
        yield
    finally:
        sys.path.remove(str(path))
        take()
        sys.modules.update(ours)


def load_original(path: str | None) -> SimpleNamespace | None:
    """bias_act, upfirdn2d (modules) and networks of a checkout of StyleGAN2-ADA (PyTorch) at `path`; None without one.

    Its code runs in this process: point it to a checkout that you trust. Raises UserError where the layout differs or
    it does not import.
    """
    if path is None:
        return None
    root = Path(path).expanduser().resolve()
    wanted = {"bias_act": "torch_utils.ops.bias_act", "upfirdn2d": "torch_utils.ops.upfirdn2d",
              "networks": "training.networks"}
    for module in wanted.values():
        file = root / (module.replace(".", "/") + ".py")
        if not file.is_file():
            raise UserError(f"--original={path}: {file} is missing; name a checkout of StyleGAN2-ADA for PyTorch")
    with _foreign(root):
        try:
            return SimpleNamespace(**{k: importlib.import_module(m) for k, m in wanted.items()})
        except Exception as e:  # foreign code: whatever it raises, the benchmark can go on without it
            raise UserError(f"--original={path} does not import ({type(e).__name__}: {e}); omit it, or install "
                            "what it needs") from e
