# SPDX-License-Identifier: Apache-2.0
"""Operators timed side by side with the compositions they replace: `python -m tests.bench.bench_ops --out ops.json`.

Variants of a row are called in turn inside one process after a warm-up and a check of the result; figures are medians.
On the CPU with one thread the processor time of that thread is counted, so that a shared machine matters less; on CUDA,
events around each call, with the second-level cache flushed before it. Needs torch only.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from torch_utils import build  # noqa: E402
from torch_utils.ops import convolution  # noqa: E402
from torch_utils.ops.bias_act import bias_act  # noqa: E402
from torch_utils.ops.cond_batch_norm import cond_batch_norm  # noqa: E402
from torch_utils.ops.epilogue import epilogue  # noqa: E402
from torch_utils.ops.modulated_conv2d import scaled_conv2d  # noqa: E402
from torch_utils.ops.upfirdn2d import downsample2d, filter2d, setup_filter, upsample2d  # noqa: E402

SYM6 = [0.0154, 0.0035, -0.1180, -0.0483, 0.4911, 0.7876, 0.3379, -0.0726, -0.0211, 0.0447, 0.0018, -0.0078]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
SHAPES = {
    "cpu": {"upfirdn2d": [(16, 256, 16, 16), (8, 128, 32, 32), (4, 64, 64, 64), (4, 32, 128, 128), (2, 16, 256, 256),
                          (16, 3, 32, 32), (16, 512, 4, 4)],
            "upfirdn12": [(16, 3, 64, 64)],
            "pointwise": [(16, 512, 4, 4), (16, 256, 16, 16), (8, 64, 64, 64), (4, 32, 128, 128)],
            "conv": [(16, 512, 4, 4), (4, 512, 8, 8), (16, 256, 16, 16), (8, 128, 32, 32), (4, 64, 128, 128)]},
    "cuda": {"upfirdn2d": [(32, 512, 16, 16), (32, 512, 32, 32), (16, 256, 64, 64), (8, 128, 256, 256)],
             "upfirdn12": [(32, 3, 256, 256)],
             "pointwise": [(32, 512, 16, 16), (32, 512, 32, 32), (16, 256, 64, 64), (8, 128, 256, 256),
                           (64, 192, 64, 64)],
             "conv": [(32, 512, 16, 16), (32, 512, 32, 32), (8, 128, 256, 256)]},
}
# op -> (each row, geometric mean), ratios to the reference; CPU with AVX-512, 60 % of it without.
BARS = {("upfirdn2d", "fp32"): (3.0, 8.0), ("upfirdn2d", "bf16"): (2.5, 6.0), ("upfirdn12", "fp32"): (20, 30),
        ("bias_act", None): (2.0, 3.2), ("epilogue", None): (2.0, 4.2), ("cond_bn", None): (1.5, 3.0),
        ("modconv", "fp32"): (1.1, 1.9), ("modconv", "bf16"): (3.5, 5.5), ("conv second", "bf16"): (0.7, 1.1)}


class Timer:
    def __init__(self, device, threads):
        self.cuda = device == "cuda"
        self.clock = time.thread_time if threads == 1 else time.perf_counter
        self.flush = torch.empty(64 << 20, dtype=torch.int32, device=device) if self.cuda else None

    def once(self, f):
        if not self.cuda:
            start = self.clock()
            f()
            return (self.clock() - start) * 1e3
        self.flush.zero_()
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        a.record()
        f()
        b.record()
        b.synchronize()
        return a.elapsed_time(b)

    def __call__(self, variants, seconds):
        for f in variants.values():
            f()
            f()
        times = {k: [] for k in variants}
        start, rounds = time.perf_counter(), 0
        while rounds < 10 or (time.perf_counter() - start < seconds and rounds < 200):
            for k, f in variants.items():
                times[k].append(self.once(f))
            rounds += 1
        out = {}
        for k, t in times.items():
            q1, q2, q3 = statistics.quantiles(t, n=4)
            out[k] = {"median": q2, "q1": q1, "q3": q3, "n": rounds}
        return out


def original_modconv(x, weight, styles, d_only=False):
    """The formulation this project replaces: demodulation through a weight per sample, separate multiplications."""
    w = weight[None] * styles[:, None, :, None, None]
    d = (w.square().sum((2, 3, 4)) + 1e-8).rsqrt()
    y = torch.nn.functional.conv2d(x * styles.to(x.dtype)[:, :, None, None], weight.to(x.dtype), padding=1)
    return y * d.to(x.dtype)[:, :, None, None]


def our_modconv(x, weight, styles):
    y, d = scaled_conv2d(x, weight, styles, padding=1)
    return epilogue(y, d)


def native_second(x, w, dy):
    y = torch.nn.functional.conv2d(x, w, padding=1)
    (g,) = torch.autograd.grad(y, x, dy, create_graph=True)
    return torch.autograd.grad(g.float().square().sum(), w)


def our_second(x, w, dy):
    (g,) = torch.autograd.grad(convolution.conv2d(x, w, padding=1), x, dy, create_graph=True)
    return torch.autograd.grad(g.float().square().sum(), w)


def rows(device, ops, shapes, dtypes, layouts):
    """(op, shape, dtype, layout, {variant: function of leaves}, leaves)"""
    g = torch.Generator(device).manual_seed(0)

    def rand(*s, dtype=torch.float32, layout=torch.contiguous_format):
        t = torch.randn(*s, generator=g, device=device).to(dtype)
        return (t.contiguous(memory_format=layout) if len(s) == 4 else t).requires_grad_()

    f4, f12 = setup_filter([1, 3, 3, 1], device=device), setup_filter(SYM6, device=device)
    for dn in dtypes:
        for ln in layouts:
            d, m = DTYPES[dn], LAYOUTS[ln]
            for op, f in (("upfirdn2d", f4), ("upfirdn12", f12)):
                if op not in ops or (op == "upfirdn12" and (dn != "fp32" or ln != "nchw")):
                    continue
                for s in shapes[op]:
                    for name, fn in (("up2", upsample2d), ("down2", downsample2d), ("blur", filter2d)):
                        yield op, name, s, dn, ln, {"ours": lambda x, fn=fn, f=f: fn(x, f),
                                                    "reference": lambda x, fn=fn, f=f: fn(x, f, impl="ref")}, \
                            [rand(*s, dtype=d, layout=m)]
            for s in shapes["pointwise"]:
                n, c, h, w = s
                x = rand(*s, dtype=d, layout=m)
                if "bias_act" in ops:
                    yield "bias_act", "lrelu", s, dn, ln, {
                        k: lambda x, b, i=i: bias_act(x, b, act="lrelu", clamp=256, impl=i)
                        for k, i in (("ours", "auto"), ("reference", "ref"))}, [x, rand(c, dtype=d)]
                if "epilogue" in ops:
                    z, k = torch.randn(n, 1, h, w, device=device), torch.tensor(0.1, device=device).requires_grad_()
                    yield "epilogue", "lrelu", s, dn, ln, {
                        v: lambda x, q, b, k, z=z, i=i: epilogue(x, q, z, k, b, act="lrelu", clamp=256, impl=i)
                        for v, i in (("ours", "auto"), ("reference", "ref"))}, \
                        [x, (torch.rand(n, c, device=device) + 0.5).requires_grad_(), rand(c), k]
                if "cond_bn" in ops:
                    yield "cond_bn", "relu", s, dn, ln, {
                        v: lambda x, a, b, i=i: cond_batch_norm(x, a, b, act="relu", impl=i)
                        for v, i in (("ours", "auto"), ("reference", "ref"))}, [x, rand(n, c), rand(n, c)]
            for s in shapes["conv"]:
                n, c = s[:2]
                x = rand(*s, dtype=d, layout=m)
                if "modconv" in ops:
                    yield "modconv", "3x3", s, dn, ln, {"ours": our_modconv, "reference": original_modconv}, \
                        [x, rand(c, c, 3, 3), rand(n, c)]
                if "conv" in ops and dn != "fp32" and math.prod(s) <= 2 << 20:
                    w = (rand(c, c, 3, 3).detach() / (9 * c) ** 0.5).to(d).contiguous(memory_format=m).requires_grad_()
                    dy = rand(*s, dtype=d, layout=m)
                    yield "conv second", "3x3", s, dn, ln, {"ours": our_second, "reference": native_second}, [x, w, dy]


def error_of(a, b):
    a, b = a.detach().double(), b.detach().double()
    return ((a - b).norm() / b.norm().clamp_min(1e-30)).item()


def saved_bytes(f, leaves):
    """Bytes that the forward keeps for the backward, beside the leaves."""
    seen, own = {}, {t.untyped_storage().data_ptr() for t in leaves[1:]}

    def note(t):
        if t.untyped_storage().data_ptr() not in own:
            seen[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        f(*leaves)
    return sum(seen.values())


def measure(row, timer, seconds):
    op, name, shape, dtype, layout, variants, leaves = row
    if op == "upfirdn2d" and dtype != "fp32" and math.prod(shape) > 1 << 24 and not timer.cuda:
        return []
    base = {"bench": "ops", "op": op, "kind": name, "shape": list(shape), "dtype": dtype, "layout": layout}
    second = op == "conv second"
    with torch.set_grad_enabled(second):
        y = {k: f(*leaves) for k, f in variants.items()}
    first = {k: v[0] if second else v for k, v in y.items()}
    error = error_of(first["ours"], first["reference"])
    limit = 1e-3 if dtype == "fp32" else 3e-2
    if not second and not error <= limit:  # native second order in bfloat16 is the one that is known to be wrong
        return [{**base, "direction": "fwd", "variant": "ours", "max_err": error, "error": "wrong result: not timed"}]
    out = []
    cotangent = None if second else torch.randn_like(first["ours"])

    def backward(f):
        return lambda: torch.autograd.grad(f(*leaves), leaves, cotangent)

    def forward(f):
        def call():
            with torch.no_grad():
                f(*leaves)
        return call

    jobs = {"second": {k: lambda f=f: f(*leaves) for k, f in variants.items()}} if second else {
        "fwd": {k: forward(f) for k, f in variants.items()}, "fwd+bwd": {k: backward(f) for k, f in variants.items()}}
    for direction, calls in jobs.items():
        if direction == "fwd" and op == "upfirdn2d" and name == "blur":
            source = first["ours"].clone()
            target = source.clone()
            calls["copy"] = lambda a=target, b=source: a.copy_(b)
        if direction == "fwd+bwd" and op.startswith("upfirdn"):
            continue
        for variant, ms in timer(calls, seconds).items():
            row = {**base, "direction": direction, "variant": variant, "ms": ms, "max_err": error}
            if direction == "fwd+bwd" and op in ("epilogue", "cond_bn") and variant in variants:
                row["saved_bytes"] = saved_bytes(variants[variant], leaves)
            out.append(row)
    return out


def summarise(table, device):
    """(ratios, bars) from the rows."""
    key = lambda r: (r["op"], r["kind"], tuple(r["shape"]), r["dtype"], r["layout"], r["direction"])  # noqa: E731
    by = {}
    for r in table:
        if "ms" in r:
            by.setdefault(key(r), {})[r["variant"]] = r
    ratios, bars = [], []
    for k, v in by.items():
        ratios.append({"op": k[0], "kind": k[1], "shape": list(k[2]), "dtype": k[3], "layout": k[4], "direction": k[5],
                       "vs": "reference", "ratio": v["reference"]["ms"]["median"] / v["ours"]["ms"]["median"]})
    flags = build.cpu_flags()
    scale = 1.0 if "avx512f" in flags else 0.6
    for (op, dtype), (each, mean) in BARS.items():
        chosen = [r["ratio"] for r in ratios if r["op"] == op and dtype in (None, r["dtype"])]
        name = f"{op} {dtype or 'all'}"
        reason = ("no such rows in this run" if not chosen else "bars of CPUs" if device != "cpu" else
                  "needs AMX" if (op, dtype) == ("modconv", "bf16") and "amx_bf16" not in flags else None)
        for what, bar, value in (("each", each * scale, min(chosen, default=None)),
                                 ("mean", mean * scale, math.exp(statistics.fmean(map(math.log, chosen))) if chosen
                                  else None)):
            status = "skipped" if reason else "pass" if value >= bar else "fail"
            bars.append({"id": f"{name} {what}", "value": value, "bar": bar, "status": status, "reason": reason})
    for op, bar in (("epilogue", 0.36), ("cond_bn", 0.40)):
        saved = [v["ours"]["saved_bytes"] / v["reference"]["saved_bytes"] for k, v in by.items()
                 if k[0] == op and k[5] == "fwd+bwd" and k[3] == "fp32"]
        if saved:
            bars.append({"id": f"{op} saved bytes", "value": max(saved), "bar": bar,
                         "status": "pass" if max(saved) <= bar else "fail", "reason": None})
    copies = [v["ours"]["ms"]["median"] / v["copy"]["ms"]["median"] for k, v in by.items()
              if "copy" in v and k[3] == "fp32" and 32 <= k[2][2] <= 128 and math.prod(k[2]) * 4 < 16e6]
    if copies and device == "cpu":
        bars.append({"id": "blur vs copy", "value": max(copies), "bar": 1.6,
                     "status": "pass" if max(copies) <= 1.6 else "fail", "reason": None})
    return ratios, bars


def facts(device, threads):
    def output(*command):
        try:
            return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30,
                                  cwd=Path(__file__).parent).stdout.strip()
        except OSError:
            return ""

    flags = sorted(f for f in build.cpu_flags() if f.startswith(("avx512", "amx", "avx2", "fma", "f16c")))
    cpu = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), platform.processor()) if os.path.exists("/proc/cpuinfo") else ""
    gpu = None
    if device == "cuda":
        p = torch.cuda.get_device_properties(0)
        gpu = {"name": p.name, "sm": f"{p.major}{p.minor}", "mem_gb": p.total_memory >> 30,
               "l2_mb": getattr(p, "L2_cache_size", 0) >> 20}
    described = build.describe()
    info = described["build"]
    return {"schema": 1, "commit": output("git", "rev-parse", "HEAD"), "dirty": bool(output("git", "status", "-s")),
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "command": " ".join(sys.argv[1:]), "implementation": described["implementation"],
            "host": {"cpu": cpu, "flags": flags, "threads": threads, "load": os.getloadavg()[0],
                     "clock": "thread time" if device == "cpu" and threads == 1 else "wall or events"},
            "gpu": gpu, "versions": {"python": platform.python_version(), "torch": torch.__version__,
                                     "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()},
            "build": {k: info.get(k) for k in ("cxx_flags", "nvcc_flags", "seconds", "key", "devices")}}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", help="write all figures to this JSON file")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtypes", help="of fp32, bf16, fp16 (default: fp32,bf16; CUDA also fp16)")
    parser.add_argument("--layouts", default="nchw,nhwc")
    parser.add_argument("--ops", default="upfirdn2d,upfirdn12,bias_act,epilogue,cond_bn,modconv,conv")
    parser.add_argument("--shapes", default="suite", choices=("small", "suite"),
                        help="small: the first shape of each op")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.6, help="per row and direction, at least ten rounds")
    parser.add_argument("--minutes", type=float, default=30, help="stop after this long; what is missing is skipped")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    dtypes = (args.dtypes or ("fp32,bf16,fp16" if args.device == "cuda" else "fp32,bf16")).split(",")
    shapes = SHAPES[args.device]
    if args.shapes == "small":
        shapes = {k: v[:1] for k, v in shapes.items()}
    timer, table, start = Timer(args.device, args.threads), [], time.monotonic()
    report = facts(args.device, args.threads)
    for row in rows(args.device, args.ops.split(","), shapes, dtypes, args.layouts.split(",")):
        if time.monotonic() - start > args.minutes * 60:
            report["cut"] = f"stopped after {args.minutes} minutes"
            break
        new = measure(row, timer, args.seconds)
        table += new
        for direction in ("fwd", "fwd+bwd", "second"):
            ms = {r["variant"]: r["ms"]["median"] for r in new if r["direction"] == direction and "ms" in r}
            if ms:
                print(f"{row[0]:12s}{row[1]:6s} {'x'.join(map(str, row[2])):15s} {row[3]} {row[4]} {direction:8s}"
                      + "  ".join(f"{k} {v:8.3f} ms" for k, v in ms.items())
                      + f"  ratio {ms['reference'] / ms['ours']:.1f}", flush=True)
        for r in new:
            if "error" in r:
                print(f"{row[0]} {row[1]} {row[2]} {row[3]} {row[4]}: {r['error']} ({r['max_err']:.2g})", flush=True)
    report["rows"] = table
    report["ratios"], report["bars"] = summarise(table, args.device)
    for b in report["bars"]:
        value = "" if b["value"] is None else f"{b['value']:.2f}"
        print(f"{b['status']:8s}{b['id']:28s} {value:>8s}  bar {b['bar']:.2f}  {b['reason'] or ''}")
    if args.out:
        tmp = Path(args.out).with_suffix(".tmp")
        tmp.write_text(json.dumps(report, indent=1), encoding="utf-8")
        os.replace(tmp, args.out)


if __name__ == "__main__":
    main()
