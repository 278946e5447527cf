# SPDX-License-Identifier: Apache-2.0
"""What only a GPU can answer, in one command of at most five minutes:

    python tests/bench/gpu_check.py --out DIR [--original PATH] [--minutes 5]

Stages, what decides first: facts; build; correctness (tests/bench/gpu_tests.py: operators against float64, orders, more
than 2^31 elements, streams, graphs, synchronisations); a training run that is stopped and resumed; operators timed, one
large and one small size each; the steps of one network timed; a few checks under compute-sanitizer where it is
installed; registers of every kernel in the time that is left over. Each stage runs in its own process under a time cap,
its failure does not stop the next, and its part is in DIR/gpu_check.json at once. Needs torch, numpy and nvcc; ninja if
at hand. Exit code 0 only if correctness passed. All sizes and types: bench_ops and bench_step.

--device=cpu runs the same stages on a CPU, small (--quick), to see that they work; what needs CUDA is skipped.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.bench import common  # noqa: E402

# Seconds; building takes up to 75 on 16 cores. The last stage gets what the others left.
CAPS = {"facts": 15, "build": 75, "correctness": 65, "train": 35, "ops": 40, "step": 35, "sanitizer": 30, "kernels": 0}
START = time.monotonic()
OVERHEAD = 12  # seconds of a stage that go into starting Python, torch and the device
SANITIZED = ("second_order", "determinism")  # few and small: the sanitizer is a hundred times slower


# ---- stages; each gets the arguments and returns what goes into the JSON -------------------------------------------


def facts(args):
    """Device, versions and the bandwidth of a plain copy, which the figures are judged against."""
    os.environ["GANTRANSFER_KERNELS"] = "ref"  # nothing is compiled for this
    out = common.facts(args.device, 1)
    if args.device == "cuda":
        free, total = torch.cuda.mem_get_info()
        out["memory_free_gb"] = round(free / 2**30, 1)
        out["copy_gbs"] = {f"{mb} MB": round(common.copy_bandwidth(mb), 1) for mb in (256, 2048)}
        out["multiprocessors"] = torch.cuda.get_device_properties(0).multi_processor_count
    return out


def build_kernels(args):
    """The library for the device present. Where the bindings do not compile against this torch, the kernels alone are
    compiled and run by tests/cuda/harness.cu."""
    from torch_utils import build

    theirs = compile_original(args)
    try:
        path, info = build.build(cuda=args.device == "cuda")
        out = {"library": str(path), "seconds": info["seconds"], "flags": info["nvcc_flags"] + info["cxx_flags"]}
    except build.BuildError as e:
        out = {"error": str(e)[-3000:]}
        if args.device == "cuda" and build.nvcc():
            out["harness"] = harness(build.nvcc())
    if theirs:
        left = (args.seconds or CAPS["build"]) - (time.monotonic() - START)
        with contextlib.suppress(subprocess.TimeoutExpired):
            theirs.wait(max(left, 1))
        theirs.kill()
        out["original_exit_code"] = theirs.wait()
    return out


def compile_original(args):
    """A process in which the original compiles its own operators, which it does on their first call; or None."""
    code = ("import sys, torch; from tests.bench import common; o = common.load_original(sys.argv[1]); "
            "x = torch.ones(1, 1, 8, 8, device=sys.argv[2]); o.bias_act.bias_act(x); "
            "o.upfirdn2d.upsample2d(x, o.upfirdn2d.setup_filter([1, 3, 3, 1], device=sys.argv[2]))")
    words = [sys.executable, "-c", code, str(Path(args.original).resolve()), args.device] if args.original else None
    return words and subprocess.Popen(words, cwd=ROOT)


def kernels(args):
    """What ptxas says of every kernel, for this device; `advice` tells that of slow ones."""
    from tests.cuda import ptxas
    from torch_utils import build

    if args.device != "cuda" or build.nvcc() is None:
        return {"skipped": "needs a CUDA device and nvcc"}
    major, minor = torch.cuda.get_device_capability()
    try:
        rows = ptxas.report_all([f"{major}{minor}"])
    except ptxas.CompileError as e:
        return {"error": str(e)[-1500:]}
    return {"kernels": [[r["kernel"], r["registers"], r["spilled"], r["shared"]] for r in rows],
            "spilling": [r["kernel"] for r in rows if r["spilled"]]}


def harness(nvcc):
    """Compile and run the kernels without torch, against the same functors on the host."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "harness"
        sources = [str(ROOT / "tests" / "cuda" / "harness.cu"), *map(str, sorted((ROOT / "csrc").glob("*.cu")))]
        major, minor = torch.cuda.get_device_capability()
        done = subprocess.run([nvcc, "-std=c++17", "-O3", f"-arch=sm_{major}{minor}", f"-I{ROOT / 'csrc'}", *sources,
                               "-o", str(program)], capture_output=True, text=True, check=False)
        if done.returncode:
            return {"passed": False, "error": done.stderr[-2000:]}
        done = subprocess.run([str(program)], capture_output=True, text=True, check=False, timeout=60)
        return {"passed": done.returncode == 0, "output": done.stdout[-3000:]}


def correctness(args):
    from tests.bench import gpu_tests
    from torch_utils import build

    build.configure("native")
    return gpu_tests.run(args.device, args.quick, seconds=args.seconds or CAPS["correctness"])


def sanitizer(args):
    """Some checks again under compute-sanitizer, without torch's cache of memory, which would hide wrong accesses."""
    tool = shutil.which("compute-sanitizer")
    if args.device != "cuda" or tool is None:
        return {"skipped": "needs a CUDA device" if args.device != "cuda" else "compute-sanitizer is not installed"}
    env = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "GANTRANSFER_KERNELS": "native"}
    code = ("import sys; from tests.bench import gpu_tests; "
            f"r = gpu_tests.run('cuda', True, {list(SANITIZED)!r}, {CAPS['sanitizer'] - 20}); print(r); "
            "sys.exit(0 if not r['wrong'] else 3)")
    done = subprocess.run([tool, "--tool", "memcheck", "--error-exitcode", "9", "--launch-timeout", "0",
                           sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    text = done.stdout + done.stderr
    if "Device not supported" in text or "Unable to find" in text:
        return {"skipped": "compute-sanitizer does not work here", "output": text[-500:]}
    return {"passed": done.returncode == 0, "exit_code": done.returncode, "output": text[-2500:]}


def ops(args):
    from tests.bench import bench_ops

    words = [f"--device={args.device}", "--seconds=0.1", f"--minutes={(args.seconds or CAPS['ops']) / 60:.2f}"]
    words += ["--shapes=tiny", "--seconds=0.01"] if args.quick else ["--shapes=ends", f"--dtypes={_half()},fp32"]
    return bench_ops.run(bench_ops.parser().parse_args([*words, *_original(args)]))


def step(args):
    from tests.bench import bench_step

    common.Timer.rounds = {**common.Timer.rounds, "cuda": 8}  # of a tenth of a second: more fit in no 35 s
    words = [f"--device={args.device}", "--seconds=0"]
    words += (["--cfg=tiny16", "--batch=4", "--dtypes=fp32,bf16"] if args.quick else
              ["--cfg=256", f"--dtypes={_half()}", "--graphs"])
    return bench_step.run(bench_step.parser().parse_args([*words, *_original(args)]))


def _half():
    """What --precision=auto trains in on this device."""
    return "bf16" if torch.cuda.get_device_capability() >= (8, 0) else "fp16"


def _original(args):
    return [f"--original={args.original}"] if args.original else []


class Discs:
    """4096 labelled pictures [3, 32, 32], made here: a disc on a dark ground, its colour is its class. (`Reals`)"""

    in_memory, label_dim = True, 4
    colours = np.array([[230, 60, 60], [60, 200, 80], [70, 90, 230], [230, 210, 60]])

    def __init__(self, count: int = 4096, size: int = 32):
        from gantransfer.data.dataset import DataSpec
        from gantransfer.data.labels import LabelSpec

        rng = np.random.RandomState(0)
        self.class_ids = rng.randint(4, size=count)
        y, x = np.mgrid[:size, :size]
        centre, radius = rng.uniform(0.3, 0.7, (2, count, 1, 1)) * size, rng.uniform(0.12, 0.3, (count, 1, 1)) * size
        inside = np.clip(radius - np.hypot(x - centre[0], y - centre[1]) + 0.5, 0, 1)[:, None]
        images = inside * self.colours[self.class_ids][:, :, None, None] + (1 - inside) * 20
        self.images = np.clip(images + rng.normal(0, 4, images.shape), 0, 255).astype(np.uint8)
        self.spec = DataSpec(name="discs", resolution=size, channels=3, num_images=count, label=LabelSpec(
            "class", 4, tuple(np.bincount(self.class_ids, minlength=4).tolist())))

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices):
        return torch.from_numpy(self.images[np.asarray(indices)])

    def labels(self, indices):
        return np.eye(4, dtype=np.float32)[self.class_ids[np.asarray(indices)]]


def train(args):
    """The training loop itself on pictures made here: every phase, adaptive augmentation, the mixed precision that
    --precision=auto chooses; a signal stops it, and other networks take over its state and continue for four steps.
    Passed: losses and weights are finite, and it continued with the weights at which it had stopped. How far generated
    pictures moved towards the real ones is told, not judged: that takes longer."""
    from gantransfer import training_loop
    from gantransfer.method import RunConfig
    from gantransfer.methods import METHODS
    from torch_utils import build

    build.configure("native")
    data, kind = Discs(256 if args.quick else 4096, 16 if args.quick else 32), METHODS["stylegan2"]
    opts = kind.Options(**(dict(cfg="tiny", precision="bf16", pl_weight=2.0) if args.quick else
                           dict(cfg="auto", cbase=8192, cmax=256, aug="ada", gamma=0.1, ema_kimg=2.0)))
    n = 8 if args.quick else 64
    run = RunConfig(batch=n, batch_gpu=n, kimg=1e6, tick=2.0, metrics="none",
                    device="cuda:0" if args.device == "cuda" else "cpu")
    kind.resolve(opts, run, data.spec)

    def made(seed):
        torch.manual_seed(seed)
        return kind(opts, data.spec, run)

    def weights(method):
        return torch.cat([p.detach().double().flatten() for net in method.nets.values() for p in net.parameters()])

    def distance(method):
        """Between generated and real pictures of the same classes: means of 4 x 4 cells, [n, 48]; squared distance of
        their means, plus that of their standard deviations."""
        index = np.arange(128)
        c = torch.from_numpy(data.labels(index))
        fake = method.sampler()(list(range(128)), c).cpu().float()
        cells = [torch.nn.functional.adaptive_avg_pool2d(x / 127.5 - 1, 4).flatten(1)
                 for x in (fake, data.read(index).float())]
        return sum(((f(cells[0]) - f(cells[1])) ** 2).mean().item() for f in (lambda t: t.mean(0), lambda t: t.std(0)))

    method = made(0)
    before, start = distance(method), time.monotonic()
    # What is left of the stage is for making the networks again, the state and the last steps.
    seconds = 2 if args.quick else max((args.seconds or CAPS["train"]) - (start - START) - 6, 2)
    with tempfile.TemporaryDirectory() as folder:
        out = training_loop.Outputs(Path(folder), images=False, network_ticks=None)
        clock = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGTERM))  # the loop's own way to stop cleanly
        clock.start()
        nimg = training_loop.run(method, data, run, out)
        clock.cancel()
        took = time.monotonic() - start
        resumed, more = made(1), dataclasses.replace(run, kimg=(nimg + 4 * n) / 1000)
        state = training_loop.find_states(folder)[0]
        continued = training_loop.run(resumed, data, more, out, state_path=state) - nimg
        lines = [json.loads(s) for s in (Path(folder) / "stats.jsonl").read_text(encoding="utf-8").splitlines()]
    after, end = distance(method), weights(resumed)
    moved = ((end - weights(method)).norm() / end.norm()).item()  # other networks: 1.4
    losses = {k: [s[k]["mean"] for s in lines if k in s] for k in ("Loss/G/loss", "Loss/D/loss")}
    bad = sum(s[k]["mean"] for s in lines for k in s if k.startswith("Grad/nonfinite"))
    finite = bool(torch.isfinite(end).all()) and all(v and np.isfinite(v).all() for v in losses.values())
    return {"kimg": nimg / 1000, "seconds": round(took, 1), "images_per_second": round(nimg / took, 1),
            "runtime": kind.runtime(opts, run), "distance": [before, after],
            "losses": {k: [round(x, 4) for x in v[-3:]] for k, v in losses.items()},
            "nonfinite_gradients": bad, "finite": finite, "resumed": {"images": continued, "moved": moved},
            "peak_gb": round(torch.cuda.max_memory_allocated() / 2**30, 2) if args.device == "cuda" else None,
            "passed": bool(finite and np.isfinite(after) and continued == 4 * n and moved < 0.1)}


STAGES = {"facts": facts, "build": build_kernels, "correctness": correctness, "train": train, "ops": ops, "step": step,
          "sanitizer": sanitizer, "kernels": kernels}

# ---- the driver ----------------------------------------------------------------------------------------------------


def run_stage(name, args, seconds):
    """{'status': 'done' | 'failed' | 'skipped', 'seconds', 'result' or 'reason', 'log'}: a stage as its own process."""
    folder, began = Path(args.out), time.monotonic()
    part, log = folder / f"{name}.part", folder / "gpu_check.log"
    words = ["--out", str(folder), "--stage", name, "--device", args.device, "--seconds",
             str(max(seconds - OVERHEAD, 5)), *["--quick"] * args.quick, *_original(args)]
    part.unlink(missing_ok=True)
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if name not in ("facts", "build"):
        env["GANTRANSFER_KERNELS"] = "native"
    with open(log, "a", encoding="utf-8") as f:
        f.write(f"==== {name}\n")
        f.flush()
        start = f.tell()
        process = subprocess.Popen([sys.executable, str(Path(__file__).resolve()), *words], stdout=f, cwd=ROOT, env=env,
                                   stderr=subprocess.STDOUT, start_new_session=True)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its compilers too
            process.wait()
    tail = log.read_text(encoding="utf-8", errors="replace")[start:][-1500:]
    took = round(time.monotonic() - began, 1)
    try:
        result = json.loads(part.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        reason = f"stopped after {seconds:.0f} s" if process.returncode == -signal.SIGKILL else \
            f"exit code {process.returncode}"
        return {"status": "failed", "seconds": took, "reason": reason, "log": tail}
    finally:
        part.unlink(missing_ok=True)
    if set(result) & {"skipped"} and isinstance(result["skipped"], str):
        return {"status": "skipped", "seconds": took, "reason": result["skipped"]}
    failed = result.get("passed") is False or "error" in result
    return {"status": "failed" if failed else "done", "seconds": took, "result": result}


def summary(report):
    """The last lines: at most 60."""
    stages = report["stages"]
    result = {k: v.get("result", {}) for k, v in stages.items()}
    lines = [f"{name:12s} {s['status']:8s} {s.get('seconds', 0):6.1f} s  {s.get('reason') or ''}"
             for name, s in stages.items()]
    c = result.get("correctness", {})
    if c:
        lines.append(f"correctness: {c['checks']} checks, {c['failures']} wrong; skipped: {c['skipped'] or 'none'}")
        lines += [f"  WRONG {w['check']}: {w['what']} {str(w['error'])[-160:]!r} limit {w.get('limit')}"
                  for w in c["wrong"][:8]]
    k = result.get("kernels", {})
    if k.get("kernels"):
        most = max(registers for _, registers, *_ in k["kernels"])
        lines.append(f"kernels: {len(k['kernels'])}, at most {most} registers, spilling: "
                     f"{', '.join(k['spilling']) or 'none'}")
    t = result.get("train", {})
    if t:
        lines.append(f"training: {t['kimg']} kimg, {t['images_per_second']} images/s, {t['runtime']}, distance "
                     f"{t['distance'][0]:.3f} -> {t['distance'][1]:.3f}, peak {t['peak_gb']} GB, resumed for "
                     f"{t['resumed']['images']} images")
    for r in result.get("step", {}).get("ratios", []):
        if r["op"].endswith((" lazy", " Dreg")) and len(lines) < 30:
            lines.append(f"step {r['op']} {r['dtype']} ({r['layout']}) against {r['vs']}: {r['ratio']:.2f}")
    bars = [b for name in ("ops", "step") for b in result.get(name, {}).get("bars", [])]
    for b in sorted(bars, key=lambda b: ("fail", "pass", "skipped").index(b["status"])):
        value = "" if b["value"] is None else f"{b['value']:.2f}"
        lines.append(f"{b['status']:8s}{b['id']:52s} {value:>8s}  bar {b['bar']:g}  {b['reason'] or ''}")
    return lines[:59]


# Of a multiprocessor: threads, blocks, KB of shared memory.
LIMITS = {70: (2048, 32, 96), 75: (1024, 16, 64), 80: (2048, 32, 164), 86: (1536, 16, 100), 89: (1536, 24, 100),
          90: (2048, 32, 228), 100: (2048, 32, 228), 120: (1536, 24, 100)}


def occupancy(sm, registers, shared, threads):
    """Resident threads per multiprocessor that registers, shared memory (bytes) and blocks of `threads` allow, and the
    share of what it can hold."""
    most, blocks, kilobytes = LIMITS[max(k for k in LIMITS if k <= max(sm, 70))]
    warps = threads // 32
    by_registers = 65536 // (-(-max(registers, 1) * 32 // 256) * 256) // warps
    by_shared = kilobytes * 1024 // (shared + 1024) if shared else blocks
    resident = min(blocks, by_registers, by_shared, most // threads) * threads
    return resident, resident / most


def kernel_pattern(row):
    """Of the names (ptxas') of the kernels that do the work of a large row of the operators' bench."""
    t = {"fp32": "float", "fp16": "gt::f16", "bf16": "gt::bf16"}[row["dtype"]]
    nhwc, forward = row["layout"] == "nhwc", row["direction"] == "fwd"
    march = "march_pixels" if nhwc else "march_planes"
    last = "true" if nhwc else "false"
    if row["op"].startswith("upfirdn2d"):
        scale = {"up2": "2, 1", "down2": "1, 2"}.get(row["op"].split()[1], "1, 1")
        return rf"{march}<{t}, {scale}, .*KeepValues"
    return {"blur_epilogue": rf"{march}<{t}, .*FinishValues",
            "epilogue": rf"epilogue_forward<{t}, \d+, {last}" if forward else
                        rf"epilogue_{'pixels' if nhwc else 'planes'}<{t}",
            "bias_act": rf"bias_act_flat<{t}, 3, 0, .*{last}>" if forward else
                        rf"bias_act_{'rows' if nhwc else 'planes'}<{t}, 3, 1",
            "cond_bn": rf"cond_bn_(flat<{t}, \d+, false, {last}|{'pixels' if nhwc else 'planes'}<{t}, \d+, false)"
                       if forward else rf"cond_bn_(flat<{t}, \d+, true, {last}|"
                                       rf"{'pixels' if nhwc else 'planes'}<{t}, \d+, true)"}.get(row["op"], "$^")


def advice(result):
    """For the two slowest rows of every failed bar: what the next edit needs to know without a profiler."""
    from tests.bench import bench_ops

    report, found = result.get("ops", {}), []
    failed = {b["id"] for b in report.get("bars", []) if b["status"] == "fail"}
    if not failed or not report.get("gpu"):
        return []
    found_by_ptxas, sm = result.get("kernels", {}).get("kernels", []), int(report["gpu"]["sm"])
    for name, (_, rows) in bench_ops.gpu_shares(report["rows"], report["gpu"]).items():
        for r in rows[:2] if name in failed else ():
            size = "x".join(map(str, r["shape"]))
            found.append(f"slow: {r['op']} {r['direction']} {size} {r['dtype']} {r['layout']}: {r['share']:.2f} "
                         f"of a copy, {r['bytes'] / 1e6:.0f} MB in {r['us']:.0f} us")
            pattern = re.compile(kernel_pattern(r))
            for kernel, registers, spilled, shared in [k for k in found_by_ptxas if pattern.match(k[0])][:3]:
                threads, share = occupancy(sm, registers, shared, 128 if kernel.startswith("march") else 256)
                found.append(f"    {kernel}: {registers} registers, {spilled} B spilled, {shared} B shared, {threads} "
                             f"threads per multiprocessor ({share:.0%})")
    return found


def parser():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", required=True, help="folder of gpu_check.json and gpu_check.log")
    p.add_argument("--minutes", type=float, default=5, help="for everything")
    p.add_argument("--original", metavar="PATH", help="checkout of StyleGAN2-ADA (PyTorch) to time beside ours")
    p.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    p.add_argument("--quick", action="store_true", help="small sizes: only to see that everything runs")
    p.add_argument("--stage", choices=STAGES, help="run this one here, without a cap")
    p.add_argument("--seconds", type=float, help="of the stage")
    return p


def main():
    args = parser().parse_args()
    args.quick |= args.device == "cpu"
    folder = Path(args.out).resolve()
    args.out = str(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if args.stage:
        common.write_json(folder / f"{args.stage}.part", STAGES[args.stage](args))
        return
    (folder / "gpu_check.log").unlink(missing_ok=True)
    report = {"schema": 1, "command": " ".join(sys.argv), "python": platform.python_version(),
              "torch": torch.__version__, "stages": {}}
    start = time.monotonic()
    absent = args.device == "cuda" and not torch.cuda.is_available()
    for name, cap in CAPS.items():
        left = args.minutes * 60 - (time.monotonic() - start) - 5
        if absent:
            stage = {"status": "skipped", "reason": f"torch {torch.__version__} sees no CUDA device"}
        elif left < 5:
            stage = {"status": "skipped", "reason": f"{args.minutes:g} minutes are over"}
        else:
            stage = run_stage(name, args, min(cap or left, left))
        report["stages"][name] = stage
        common.write_json(folder / "gpu_check.json", report)
        print(f"{name:12s} {stage['status']:8s} {stage.get('seconds', 0):6.1f} s  {stage.get('reason') or ''}",
              flush=True)
        if stage["status"] == "failed" and stage.get("log"):
            print(stage["log"][-800:], flush=True)
    passed = report["stages"]["correctness"].get("result", {}).get("passed", False)
    report["passed"] = passed
    report["advice"] = advice({k: v.get("result", {}) for k, v in report["stages"].items()})
    report["summary"] = summary(report)
    common.write_json(folder / "gpu_check.json", report)
    print("\n" + "\n".join([*report["advice"], *report["summary"]]))
    print("correctness:", "passed" if passed else "NOT PASSED")
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
