# SPDX-License-Identifier: Apache-2.0
"""Everything that needs a GPU, in one command of at most eight minutes: `python tests/bench/gpu_check.py --out DIR`.

Stages: facts, build, correctness of every operator against float64, timing of the operators, timing of the step. Each
runs in its own process under a time cap, its failure does not stop the next, and its part is in DIR/gpu_check.json at
once. Needs torch with CUDA and nvcc, nothing else from this repository's requirements; without a GPU the stages are
skipped with the reason. Exit code 0 only if correctness passed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

CAPS = {"facts": 20, "build": 90, "correctness": 120, "ops": 120, "step": 110}


def facts():
    """Device, versions and the bandwidth of a plain copy, which the figures are judged against."""
    p = torch.cuda.get_device_properties(0)
    out = {"device": p.name, "sm": f"{p.major}{p.minor}", "memory_gb": p.total_memory >> 30,
           "l2_mb": getattr(p, "L2_cache_size", 0) >> 20, "torch": torch.__version__, "cuda": torch.version.cuda,
           "cudnn": torch.backends.cudnn.version(), "python": platform.python_version(), "copy_gbs": {}}
    for mb in (256, 2048):
        a = torch.empty(mb << 18, dtype=torch.float32, device="cuda").normal_()
        b = torch.empty_like(a)
        times = []
        for _ in range(12):
            s, e = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            s.record()
            b.copy_(a)
            e.record()
            e.synchronize()
            times.append(s.elapsed_time(e))
        out["copy_gbs"][f"{mb} MB"] = round(2 * a.numel() * 4 / sorted(times)[6] / 1e6, 1)
    return out


def build_kernels():
    """Compile for the device present."""
    from torch_utils import build

    path, info = build.build(cuda=True)
    return {"library": str(path), "seconds": info["seconds"], "nvcc_flags": info["nvcc_flags"]}


def rel(a, b, floor=1e-6):
    a, b = a.detach().double().cpu(), b.detach().double().cpu()
    return ((a - b).norm() / b.norm().clamp_min(floor)).item()


def correctness(where="cuda"):
    """Every operator, forward and gradients, on the GPU against float64 on the CPU; orders, streams, graphs, syncs."""
    from torch_utils import build
    from torch_utils.ops.bias_act import activation_funcs, bias_act
    from torch_utils.ops.cond_batch_norm import cond_batch_norm
    from torch_utils.ops.epilogue import epilogue
    from torch_utils.ops.upfirdn2d import downsample2d, filter2d, setup_filter, upsample2d

    build.configure("native")
    limits = {torch.float64: 1e-6, torch.float32: 2e-5, torch.float16: 6e-3, torch.bfloat16: 4e-2}
    shapes = [(3, 16, 4, 4), (2, 17, 5, 7), (2, 40, 9, 13), (2, 64, 33, 35), (4, 128, 32, 32), (1, 3, 65, 67)]
    checks, wrong = 0, []

    def check(name, f, leaves, dtype, layout):
        nonlocal checks
        device = [t.to(where).requires_grad_() for t in leaves]
        device[0] = device[0].detach().to(dtype).contiguous(memory_format=layout).requires_grad_()
        wide = [t.detach().double().cpu().requires_grad_() for t in device]
        y, truth = f(*device, "auto"), f(*wide, "ref")
        dy = torch.randn(truth.shape, dtype=torch.float64)
        grads = torch.autograd.grad(y, device, dy.to(where, dtype))
        expected = torch.autograd.grad(truth, wide, dy.to(dtype).double())
        errors = [rel(y, truth), *(rel(a, b, 0.2 * dy.norm().item()) for a, b in zip(grads, expected))]
        checks += 1
        if not max(errors) <= limits[dtype]:
            wrong.append({"what": name, "shape": list(leaves[0].shape), "dtype": str(dtype), "layout": str(layout),
                          "errors": errors})

    f4, f12 = setup_filter([1, 3, 3, 1]), setup_filter([1.0] * 5 + [3, 4] + [1.0] * 5)
    torch.manual_seed(0)
    for shape in shapes:
        n, c, h, w = shape
        for layout in (torch.contiguous_format, torch.channels_last):
            for dtype in limits:
                wide = torch.float64 if dtype == torch.float64 else torch.float32
                x = torch.randn(shape).to(dtype)
                for act in activation_funcs if shape[2] < 10 else ("lrelu",):
                    check(act, lambda x, b, i, act=act: bias_act(x, b.to(x.dtype), act=act, impl=i),
                          [x, torch.randn(c).to(dtype).to(wide)], dtype, layout)
                for f in (f4, f12):
                    for name, fn in (("up", upsample2d), ("down", downsample2d), ("blur", filter2d)):
                        check(name, lambda x, i, fn=fn, f=f: fn(x, f.to(x.device), impl=i), [x], dtype, layout)
                vectors = [torch.rand(n, c, dtype=wide) + 0.5, torch.randn(n, 1, h, w, dtype=wide),
                           torch.tensor(0.3, dtype=wide), torch.randn(c, dtype=wide)]
                check("epilogue", lambda x, d, z, s, b, i: epilogue(x, d, z.detach(), s, b, act="lrelu", impl=i)
                      + 0 * z.sum().to(x.dtype), [x, *vectors], dtype, layout)
                for up in (1, 2):
                    check("cond_bn", lambda x, g, b, i, up=up: cond_batch_norm(x, g, b, act="linear", up=up, impl=i),
                          [x, vectors[0], torch.randn(n, c, dtype=wide)], dtype, layout)
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64, device=where, requires_grad=True)
    filters = f4.to(where)
    second = {"bias_act": lambda x: bias_act(x, act="tanh"), "upfirdn2d": lambda x: upsample2d(x, filters),
              "epilogue": lambda x: epilogue(x, 0.5, act="lrelu"), "cond_bn": lambda x: cond_batch_norm(x)}
    for name, f in second.items():
        checks += 1
        try:
            torch.autograd.gradcheck(f, (x,))
            torch.autograd.gradgradcheck(f, (x,))
        except RuntimeError as e:
            wrong.append({"what": f"{name} gradgradcheck", "error": str(e)[:300]})

    if where != "cuda":
        return {"checks": checks, "wrong": wrong[:50], "passed": not wrong}

    def step(x, d, b):
        return filter2d(epilogue(x, d, b=b, act="lrelu", clamp=256.0), filters)

    x = torch.randn(4, 64, 32, 32, device="cuda", dtype=torch.float16).contiguous(memory_format=torch.channels_last)
    d, b = torch.rand(4, 64, device="cuda") + 0.5, torch.randn(64, device="cuda")
    truth = step(x, d, b)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        other = step(x, d, b)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(x, d, b)
    graph.replay()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        silent = step(x, d, b)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for name, y in (("stream", other), ("graph", captured), ("repeat", silent)):
        checks += 1
        if not torch.equal(y, truth):
            wrong.append({"what": f"{name}: not bit-equal", "errors": [rel(y, truth)]})
    return {"checks": checks, "wrong": wrong[:50], "passed": not wrong}


def run_module(module, out, seconds, *options):
    """A benchmark in its own process; its JSON."""
    env = {**os.environ, "GANTRANSFER_KERNELS": "native"}
    done = subprocess.run([sys.executable, "-m", module, "--out", str(out), *options], cwd=ROOT, env=env, text=True,
                          capture_output=True, timeout=seconds, check=False)
    if done.returncode or not out.is_file():
        raise RuntimeError((done.stderr or done.stdout)[-1500:])
    data = json.loads(out.read_text(encoding="utf-8"))
    out.unlink()
    return data


def step_timing():
    """Phases of a StyleGAN2 step at 32 pixels: compiled kernels against the same networks on the reference."""
    from gantransfer.networks.stylegan2 import Discriminator, Generator
    from torch_utils import build

    result = {}
    for mode in ("ref", "native"):
        build.configure(mode)
        torch.manual_seed(0)
        g = Generator(z_dim=512, c_dim=0, w_dim=512, img_resolution=32, img_channels=3).cuda().train()
        d = Discriminator(c_dim=0, img_resolution=32, img_channels=3).cuda().train()
        z, c = torch.randn(32, 512, device="cuda"), torch.zeros(32, 0, device="cuda")

        def gmain(g=g, d=d, z=z, c=c):
            torch.nn.functional.softplus(-d(g(z, c), c)).mean().backward()

        def r1(d=d, c=c):
            x = torch.randn(32, 3, 32, 32, device="cuda", requires_grad=True)
            (grad,) = torch.autograd.grad(d(x, c).sum(), x, create_graph=True)
            grad.square().sum().backward()

        for name, f in (("Gmain", gmain), ("Dreg", r1)):
            times = []
            for _ in range(15):
                s, e = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                s.record()
                f()
                e.record()
                e.synchronize()
                times.append(s.elapsed_time(e))
            result[f"{name} {mode} ms"] = round(sorted(times[5:])[5], 3)
    for name in ("Gmain", "Dreg"):
        result[f"{name} ratio"] = round(result[f"{name} ref ms"] / result[f"{name} native ms"], 2)
    return result


def write(path, data):
    tmp = path.with_suffix(".tmp")
    tmp.write_text(json.dumps(data, indent=1), encoding="utf-8")
    os.replace(tmp, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True, help="folder of gpu_check.json")
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--stage", choices=CAPS, help="run this one here, without a cap")
    args = parser.parse_args()
    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    if args.stage:
        stages = {"facts": facts, "build": build_kernels, "correctness": correctness, "step": step_timing,
                  "ops": lambda: run_module("tests.bench.bench_ops", folder / "ops.json", CAPS["ops"], "--seconds",
                                            "0.2", "--minutes", str(CAPS["ops"] * 0.8 / 60))}
        return write(folder / f"{args.stage}.part", stages[args.stage]())
    report, start = {"schema": 1, "stages": {}}, time.monotonic()
    for name, cap in CAPS.items():
        began = time.monotonic()
        left = args.minutes * 60 - (began - start)
        part = folder / f"{name}.part"
        if not torch.cuda.is_available():
            stage = {"status": "skipped", "reason": f"torch {torch.__version__} sees no CUDA device"}
        elif left < 5:
            stage = {"status": "skipped", "reason": f"{args.minutes} minutes are over"}
        else:
            command = [sys.executable, __file__, "--out", str(folder), "--stage", name]
            try:
                done = subprocess.run(command, timeout=min(cap, left), text=True, capture_output=True, check=False)
                if part.is_file():
                    stage = {"status": "done", "result": json.loads(part.read_text(encoding="utf-8"))}
                else:
                    stage = {"status": "failed", "reason": (done.stderr or done.stdout)[-1500:]}
            except subprocess.TimeoutExpired:
                stage = {"status": "failed", "reason": f"stopped after {min(cap, left):.0f} s"}
            part.unlink(missing_ok=True)
            stage["seconds"] = round(time.monotonic() - began, 1)
        report["stages"][name] = stage
        write(folder / "gpu_check.json", report)
        print(f"{name:12s} {stage['status']:8s} {stage.get('seconds', '')} {stage.get('reason', '')}", flush=True)
        if name != "ops" and "result" in stage:
            print(json.dumps(stage["result"], indent=1)[:2000], flush=True)
    ops = report["stages"]["ops"].get("result", {})
    for r in ops.get("ratios", []):
        print(f"{r['op']:12s}{r['kind']:6s} {'x'.join(map(str, r['shape'])):16s} {r['dtype']} {r['layout']} "
              f"{r['direction']:8s} {r['ratio']:.2f}")
    passed = report["stages"]["correctness"].get("result", {}).get("passed", False)
    print("correctness:", "passed" if passed else "NOT PASSED")
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
