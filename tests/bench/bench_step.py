# SPDX-License-Identifier: Apache-2.0
"""A training step, phase by phase: ours against the customary formulation, on the same weights, in one process.

    python -m tests.bench.bench_step --cfg=tiny16,small32,mid32,mid64 --dtypes=fp32,bf16 --out=step.json

Phases are timed apart, in turn (A B C A B C ...): Gmain, Dmain, Dreg (R1), Greg (path length), Adam and EMA. lazy =
Gmain + Dmain + Dreg/16 + Greg/4 + Adam + EMA, of which ratios and bars leave the last two out; s/kimg follows from
all. Losses and gradients of the first round are compared. `baseline` is tests/bench/baseline.py (for biggan32:
batch norm, affine, relu and enlargement as operators of torch); `native conv` is ours with torch's own second order of
convolutions; `graphs` is ours as train.py --graphs runs it, second order included. Needs torch only.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import subprocess
import sys
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dnnlib.util import UserError  # noqa: E402
from gantransfer.networks import biggan, stylegan2  # noqa: E402
from tests.bench import baseline, common  # noqa: E402
from tests.bench.common import bar, mean  # noqa: E402
from torch_utils import build, graphs  # noqa: E402
from torch_utils import random as rnd  # noqa: E402
from torch_utils.ops import convolution  # noqa: E402

NETS = {  # name: resolution, channel_base, channel_max, z and w, batch
    "tiny16": (16, 512, 32, 64, 16),
    "small32": (32, 16384, 64, 512, 4),
    "mid32": (32, 16384, 256, 512, 16),
    "mid64": (64, 16384, 256, 512, 8),
    "32": (32, 16384, 512, 512, 32),  # --cfg=auto of train.py
    "64": (64, 16384, 512, 512, 32),
    "256": (256, 16384, 512, 512, 16),
}
CFGS = (*NETS, "biggan32")
DTYPES = {"fp32": None, "bf16": "bfloat16", "fp16": "float16"}
EVERY = {"Gmain": 1, "Dmain": 1, "Dreg": 16, "Greg": 4}


class Step:
    """The networks of a configuration in one arithmetic, and its phases."""

    def __init__(self, cfg: str, dtype: str, device: str, batch: int | None = None, original=None):
        res, base, width, dim, n = NETS[cfg]
        self.batch = batch or n
        torch.manual_seed(0)
        half = dict(num_fp16_res=4, conv_clamp=256) if DTYPES[dtype] else {}
        kw = dict(channel_base=base, channel_max=width, **half)
        nets = original or stylegan2
        self.G = nets.Generator(z_dim=dim, c_dim=0, w_dim=dim, img_resolution=res, img_channels=3,
                                mapping_kwargs=dict(num_layers=2), synthesis_kwargs=kw).to(device).train()
        self.D = nets.Discriminator(c_dim=0, img_resolution=res, img_channels=3, **kw).to(device).train()
        if DTYPES[dtype] and original is None:
            for net in (self.G, self.D):
                stylegan2.compute_in(net, DTYPES[dtype], channels_last=device == "cuda")
        self.device, self.ours = device, original is None
        self.z = torch.randn(self.batch, dim).to(device)
        self.real = (torch.rand(self.batch, 3, res, res) * 2 - 1).to(device)
        self.pl_noise = (torch.randn(max(self.batch // 2, 1), 3, res, res) / res).to(device)
        self._optimisers(0.99)

    phases = ("Gmain", "Dmain", "Dreg", "Greg")
    tape: rnd.Taped | None = None  # where noise comes from while a phase is recorded

    def _optimisers(self, beta2: float) -> None:
        self.params = {"G": list(self.G.parameters()), "D": list(self.D.parameters())}
        self.opts = [torch.optim.Adam(p, lr=1e-6, betas=(0.0, beta2), fused=True) for p in self.params.values()]
        self.average = copy.deepcopy(self.G).eval()

    def run(self, name: str) -> torch.Tensor:
        """A phase, gradients included; returns its loss, on the device."""
        for key in ("G", "D"):
            for p in self.params[key]:
                p.requires_grad_(name[0] == key)
                p.grad = None
        return getattr(self, name)()

    def adam(self) -> None:
        for opt in self.opts:
            opt.step()

    def with_gradients(self) -> None:
        """What Adam is timed with."""
        for p in (p for ps in self.params.values() for p in ps):
            p.grad = torch.zeros_like(p)

    def ema(self) -> None:
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), self.params["G"], 0.001)

    def generate(self, ws_of=None):
        return self.G(self.z, None, **self.noise())

    def noise(self) -> dict:
        if not self.ours:
            return {}
        return {"rng": self.tape or (torch.Generator().manual_seed(1) if self.device == "cpu" else None)}

    def Gmain(self):
        loss = F.softplus(-self.D(self.generate(), None)).mean()
        loss.backward()
        return loss.detach()

    def Dmain(self):
        with torch.no_grad():
            fake = self.generate()
        a = F.softplus(self.D(fake, None)).mean()
        a.backward()
        b = F.softplus(-self.D(self.real, None)).mean()
        b.backward()
        return (a + b).detach()

    def Dreg(self):
        x = self.real.clone().requires_grad_(True)
        (g,) = torch.autograd.grad(self.D(x, None).sum(), x, create_graph=True)
        loss = g.square().sum((1, 2, 3)).mean() * 5
        loss.backward()
        return loss.detach()

    def Greg(self):
        ws = self.G.mapping(self.z[: len(self.pl_noise)], None)
        image = self.G.synthesis(ws, **self.noise())
        (g,) = torch.autograd.grad((image * self.pl_noise).sum(), ws, create_graph=True)
        loss = (g.square().sum(2).mean(1).sqrt() - 0.1).square().mean() * 2
        loss.backward()
        return loss.detach()


class BigGANStep(Step):
    """BigGAN at 32 pixels, ten classes, hinge losses."""

    phases = ("Gmain", "Dmain")

    def __init__(self, cfg: str, dtype: str, device: str, batch: int | None = None, original=None):
        if DTYPES[dtype] or original is not None:
            raise UserError("biggan32 is measured in fp32, without --original")
        torch.manual_seed(0)
        self.device, self.batch, self.ours = device, batch or 16, True
        self.G = biggan.Generator(G_ch=32, dim_z=128, resolution=32, G_attn="0", n_classes=10, G_shared=True,
                                  shared_dim=128, hier=True).to(device).train()
        self.D = biggan.Discriminator(D_ch=32, resolution=32, D_attn="0", n_classes=10).to(device).train()
        self.z = torch.randn(self.batch, 128).to(device)
        self.c = F.one_hot(torch.arange(self.batch) % 10, 10).float().to(device)
        self.real = (torch.rand(self.batch, 3, 32, 32) * 2 - 1).to(device)
        self._optimisers(0.999)

    def Gmain(self):
        loss = -self.D(self.G(self.z, self.c), self.c).mean()
        loss.backward()
        return loss.detach()

    def Dmain(self):
        with torch.no_grad():
            fake = self.G(self.z, self.c)
        logits = self.D(torch.cat([fake, self.real]), torch.cat([self.c, self.c]))
        loss = F.relu(1 + logits[: self.batch]).mean() + F.relu(1 - logits[self.batch :]).mean()
        loss.backward()
        return loss.detach()


def library_norm(self, x, gain, bias, act="relu", up=1):
    """biggan.Norm.normalise in training, as operators of torch."""
    y = F.batch_norm(x, None, None, training=True, eps=self.eps)
    if gain is not None:
        y = y * gain[:, :, None, None] + bias[:, :, None, None]
    y = torch.relu(y) if act == "relu" else y
    return F.interpolate(y, scale_factor=up) if up > 1 else y


@contextlib.contextmanager
def _patched(owner, name, value):
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def formulation(name: str, cfg: str = ""):
    if name == "native conv":
        return _patched(convolution, "_native", lambda x: True)
    if name != "baseline":
        return contextlib.nullcontext()
    return _patched(biggan.Norm, "normalise", library_norm) if cfg == "biggan32" else baseline.formulation()


def make(cfg: str, dtype: str, device: str, batch: int | None = None, original=None) -> Step:
    return (BigGANStep if cfg == "biggan32" else Step)(cfg, dtype, device, batch, original)


def difference(a: list, b: list) -> float:
    """Largest relative L2 difference between two lists of tensors; small ones are judged against 1 % of them all."""
    pairs = [(p, q) for p, q in zip(a, b) if p is not None and q is not None]
    floor = 0.01 * sum(q.square().sum().item() for _, q in pairs) ** 0.5
    return max(((p - q).norm() / q.norm().clamp(min=floor)).item() for p, q in pairs)


def recorded(step: Step, phase: str, backend=None):
    """The phase as training records it: a call draws its noise and replays it; returns [loss]."""
    tape, generator = rnd.Tape(), torch.Generator(step.z.device)

    def run() -> list[torch.Tensor]:
        step.tape = rnd.Taped(tape, 0)
        loss, step.tape = step.run(phase), None
        tape.end()
        return [loss]

    recording = graphs.Recording(phase, run, backend or graphs.CudaGraphs(step.z.device))

    def call() -> list[torch.Tensor]:
        tape.rewind(generator.manual_seed(1))
        return recording()

    for _ in range(graphs.WARM_UP + 1):
        call()
    return call


def waits(f) -> int:
    """How often a call makes the host wait for the device."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            f()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("called a synchronizing" in str(w.message) for w in caught)


def launches(f) -> int:
    """Kernels that a call puts on the device."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as p:
        f()
        torch.cuda.synchronize()
    return sum(e.count for e in p.key_averages() if e.key.startswith(("cudaLaunchKernel", "cuLaunchKernel")))


def measure(cfg: str, args, gpu: dict | None, original=None) -> tuple[list[dict], dict]:
    """(rows, figures {variant: {phase: ms, ...}}) of one configuration."""
    device, dtypes = args.device, args.dtypes.split(",")
    if cfg == "biggan32":
        dtypes = ["fp32"]
    steps = {d: make(cfg, d, device, args.batch) for d in dict.fromkeys(dtypes)}
    plan = []  # (variant, dtype, phases)
    names = {"both": ("baseline", "ours"), "ours": ("ours",), "baseline": ("baseline",)}[args.formulation]
    for dtype in steps:
        for name in names:
            # 16 bits on a CPU are judged against that formulation in float32, which is what it runs in there.
            if name == "baseline" and device == "cpu" and dtype != dtypes[0]:
                continue
            plan.append((name, dtype, steps[dtype].phases))
        if "ours" in names and (device == "cuda" or dtype != "fp32") and "Dreg" in steps[dtype].phases:
            plan.append(("native conv", dtype, ("Dreg", "Greg")))
    theirs = None
    if original is not None and cfg != "biggan32":
        theirs = Step(cfg, dtypes[0], device, args.batch, original.networks)
        plan.append(("original", dtypes[0], theirs.phases))

    def caller(name, dtype, phase):
        step = theirs if name == "original" else steps[dtype]

        def call():
            with formulation(name, cfg):
                return step.run(phase)
        return call

    timer, rows, table, error = common.Timer(device, args.threads), [], {}, {}
    for phase in steps[dtypes[0]].phases:
        calls, results = {}, {}
        for name, dtype, phases in plan:
            if phase not in phases:
                continue
            calls[name, dtype] = caller(name, dtype, phase)
            step = theirs if name == "original" else steps[dtype]
            buffers = [(b, b.clone()) for net in (step.G, step.D) for b in net.buffers()]
            loss = calls[name, dtype]()
            with torch.no_grad():
                for b, before in buffers:  # running means and power iterations: all start from the same
                    b.copy_(before)
            results[name, dtype] = [loss.clone(), *(None if p.grad is None else p.grad.clone()
                                                    for p in step.params[phase[0]])]
        for (name, dtype), found in results.items():
            if name == "ours" and ("baseline", dtype) in results and dtype == "fp32":
                # Activations on a kink differ in slope: 1e-3 is rounding, or 1e-2 for a noise strength, one number
                # summed from many of both signs.
                error[phase] = difference(found, results["baseline", dtype])
        if args.graphs and "ours" in names:
            for dtype, step in steps.items():
                calls["graphs", dtype] = recorded(step, phase)
        for (name, dtype), ms in timer(calls, args.seconds).items():
            table.setdefault((name, dtype), {})[phase] = ms
        if device == "cuda":
            for (name, dtype), call in calls.items():
                if name in ("ours", "baseline"):
                    torch.cuda.reset_peak_memory_stats()
                    call()
                    peaks = table[name, dtype].setdefault("peak", [])
                    peaks.append(torch.cuda.max_memory_allocated() - timer.flush.nbytes)
                    table[name, dtype].setdefault("launches", {})[phase] = launches(call)
                    table[name, dtype].setdefault("waits", {})[phase] = waits(call)
    for dtype, step in steps.items():
        if ("ours", dtype) in table:
            step.with_gradients()
            for phase, ms in timer({"Adam": step.adam, "EMA": step.ema}, args.seconds / 2).items():
                table["ours", dtype][phase] = ms
    figures = {}
    for (name, dtype), found in table.items():
        shape = [steps[dtype].batch, *steps[dtype].real.shape[1:]]
        ms = {p: v["median"] for p, v in found.items() if p not in ("launches", "waits", "peak")}
        figure = {"ms": ms, "error": max(error.values(), default=None) if name == "ours" else None,
                  "launches": found.get("launches"), "waits": found.get("waits")}
        if "peak" in found:
            figure["peak_mib"] = max(found["peak"]) / 2**20
        whole = [p for p in steps[dtype].phases if p in ms]
        if len(whole) == len(steps[dtype].phases):
            ms["lazy"] = sum(ms[p] / EVERY[p] for p in whole)
            if "Adam" in ms:
                figure["s/kimg"] = (ms["lazy"] + ms["Adam"] + ms["EMA"]) / steps[dtype].batch
        for phase, value in ms.items():
            spread = found.get(phase) or {  # a sum has no spread
                "median": value, "q1": None, "q3": None, "n": None}
            rows.append(common.row(gpu, bench="step", op=f"{cfg} {phase}", variant=name, direction="step", shape=shape,
                                   dtype=dtype, layout="nhwc" if dtype != "fp32" else "nchw", ms=spread,
                                   max_err=error.get(phase) if name == "ours" and dtype == "fp32" else None))
        figures[name, dtype] = figure
    if args.memory and device == "cpu":
        for (name, dtype), figure in figures.items():
            if name in ("baseline", "ours"):
                figure["peak_mib"] = peak_memory(cfg, name, dtype, args)
    return rows, figures


def peak_memory(cfg: str, name: str, dtype: str, args) -> float:
    """MiB at the peak of two rounds of all phases in a process of its own, less what loading torch takes."""
    code = ("import torch\nfrom tests.bench import bench_step as b\n"
            f"torch.set_num_threads({args.threads})\nstep = b.make({cfg!r}, {dtype!r}, {args.device!r}, {args.batch})\n"
            "start = b.high_water()\n"
            f"with b.formulation({name!r}, {cfg!r}):\n    for _ in range(2):\n"
            "        for p in step.phases: step.run(p)\n"
            "print(b.high_water() - start)")
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True,
                         cwd=common.ROOT).stdout
    return round(int(out.split()[-1]) / 1024, 1)


def high_water() -> int:
    """Peak resident KiB of this process. (ru_maxrss would do, had Linux not let it inherit the parent's peak.)"""
    with contextlib.suppress(OSError), open("/proc/self/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmHWM"))
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1)


def ratios_of(cfg: str, figures: dict, batch_shape: list) -> list[dict]:
    out = []
    for (name, dtype), figure in figures.items():
        if name not in ("ours", "graphs"):
            continue
        for vs in ("baseline", "native conv", "original"):
            other = figures.get((vs, dtype))
            if other is None and vs == "baseline":
                other = figures.get((vs, "fp32"))
            for phase in (figure["ms"] if other else ()):
                if phase in other["ms"]:
                    out.append({"op": f"{cfg} {phase}", "shape": batch_shape, "dtype": dtype,
                                "layout": "graphs" if name == "graphs" else "step", "direction": "step",
                                "vs": vs.split()[0], "ratio": other["ms"][phase] / figure["ms"][phase]})
    return out


def bars_of(ratios: list[dict], figures: dict, device: str) -> list[dict]:
    def lazy(dtypes, cfgs=CFGS, graphs=False, vs="baseline", phase="lazy"):
        return [r["ratio"] for r in ratios if r["op"].split()[1] == phase and r["vs"] == vs and r["dtype"] in dtypes
                and r["op"].split()[0] in cfgs and (r["layout"] == "graphs") == graphs]

    if device == "cpu":
        nets = [c for c in NETS if c != "tiny16"]
        full, half = lazy(("fp32",), nets), lazy(("bf16",), nets)
        amx = None if "amx_bf16" in build.cpu_flags() else "needs AMX"
        return [bar("step fp32 against the customary formulation, each", min(full, default=None), 1.2),
                bar("step fp32 against the customary formulation, mean", mean(full), 1.3),
                bar("step bf16 against it in fp32, 64 channels", min(lazy(("bf16",), ("small32",)), default=None), 2.0,
                    amx),
                bar("step bf16 against it in fp32, each", min(half, default=None), 3.5, amx),
                bar("step bf16 against it in fp32, mean", mean(half), 3.5, amx)]
    half = ("bf16", "fp16")
    r1 = [r for phase in ("Dreg",) for r in lazy((*half, "fp32"), vs="native", phase=phase)]
    waits = [n for fig in figures.values() for n in (fig.get("waits") or {}).values()]
    name = torch.cuda.get_device_properties(0).name
    kimg = next((fig["s/kimg"] for (cfg, variant, dtype), fig in figures.items()
                 if cfg == "256" and variant == "ours" and dtype in half and "s/kimg" in fig), None)
    peak = next((fig["peak_mib"] / 1024 for (cfg, variant, dtype), fig in figures.items()
                 if cfg == "256" and variant == "ours" and dtype in half and "peak_mib" in fig), None)
    limit = 6.0 if "H200" in name else 10.5 if "A100" in name else 18.0
    known = None if any(n in name for n in ("H200", "A100", "V100")) else f"no published figure for {name}"
    return [bar("step against the customary formulation, 256 px", min(lazy(half, ("256",)), default=None), 1.4),
            bar("step against the customary formulation, 32 px", min(lazy(half, ("32",)), default=None), 1.4),
            bar("the same with graphs, 32 px", min(lazy(half, ("32",), graphs=True), default=None), 2.0),
            bar("R1 with our second order against torch's, best", max(r1, default=None), 1.2),
            bar("R1 with our second order against torch's, worst", min(r1, default=None), 0.95),
            bar("s/kimg at 256 px", kimg, limit, known, most=True),
            bar("GB at the peak, 256 px", peak, 4.5, most=True),
            bar("times the host waits in a phase", max(waits, default=None), 0, most=True)]


def parser():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--cfg", default="tiny16,small32,mid32,mid64", help=f"of {', '.join(CFGS)}")
    p.add_argument("--batch", type=int, help="instead of the configuration's")
    p.add_argument("--dtypes", default="fp32", help="of fp32, bf16, fp16")
    p.add_argument("--formulation", choices=["both", "ours", "baseline"], default="both")
    p.add_argument("--graphs", action="store_true", help="also as CUDA graphs (needs --device=cuda)")
    p.add_argument("--original", metavar="PATH", help="checkout of StyleGAN2-ADA (PyTorch) to time beside ours")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--seconds", type=float, default=4, help="per phase, at least ten rounds")
    p.add_argument("--memory", action="store_true", help="also the peak of memory (a GPU tells it anyway)")
    return p


def run(args) -> dict:
    if args.graphs and args.device != "cuda":
        raise UserError("--graphs captures CUDA graphs: it needs --device=cuda")
    unknown = [c for c in args.cfg.split(",") if c not in CFGS] + [d for d in args.dtypes.split(",") if d not in DTYPES]
    if unknown:
        raise UserError(f"{', '.join(unknown)}: --cfg knows {', '.join(CFGS)}, --dtypes {', '.join(DTYPES)}")
    common.prepare(args.device, args.threads)
    original = common.load_original(args.original)
    build.implementation(args.device)
    report = common.facts(args.device, args.threads)
    report.update(rows=[], ratios=[], bars=[])
    everything = {}
    for cfg in args.cfg.split(","):
        rows, figures = measure(cfg, args, report["gpu"], original)
        report["rows"] += rows
        report["ratios"] += ratios_of(cfg, figures, rows[0]["shape"])
        everything.update({(cfg, *k): v for k, v in figures.items()})
        print(f"\n{cfg} {'x'.join(map(str, rows[0]['shape']))}")
        for (name, dtype), f in figures.items():
            print(f"  {name:11s} {dtype:4s} " + "  ".join(f"{k} {v:8.1f}" for k, v in f["ms"].items()) + " ms"
                  + (f"  {f['s/kimg']:.2f} s/kimg" if "s/kimg" in f else "")
                  + (f"  difference {f['error']:.1e}" if f["error"] is not None else "")
                  + (f"  peak {f['peak_mib']:.0f} MiB" if "peak_mib" in f else "")
                  + (f"  launches {sum(f['launches'].values())}, waits {sum(f['waits'].values())}" if f["launches"]
                     else ""))
        for r in report["ratios"]:
            if r["op"] == f"{cfg} lazy":
                print(f"  {r['layout']} {r['dtype']} against {r['vs']}: {r['ratio']:.2f}", flush=True)
    report["bars"] = bars_of(report["ratios"], everything, args.device)
    return report


if __name__ == "__main__":
    common.main(parser(), run)
