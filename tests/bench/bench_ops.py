# SPDX-License-Identifier: Apache-2.0
"""Operators timed side by side with the compositions they replace: `python -m tests.bench.bench_ops --out ops.json`.

Variants of a row are called in turn inside one process after a warm-up and a check of the result; figures are medians
(how: tests/bench/common.py). Columns: ours, the reference composition (of upfirdn2d the faster of two: one 2-D or two
1-D depthwise convolutions; `definition` is this repository's own), torch.compile of it (--compile), the path
through F.batch_norm, torch's own convolution, the original's formulation of the modulated convolution and the grouped
one, and the original itself from a checkout (--original). Needs torch only.
"""

import argparse
import math
import sys
import time
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench import common  # noqa: E402
from tests.bench.common import bar, mean  # noqa: E402
from torch_utils import build  # noqa: E402
from torch_utils.ops import convolution  # noqa: E402
from torch_utils.ops.bias_act import bias_act  # noqa: E402
from torch_utils.ops.blur_epilogue import blur_epilogue  # noqa: E402
from torch_utils.ops.cond_batch_norm import cond_batch_norm  # noqa: E402
from torch_utils.ops.epilogue import epilogue  # noqa: E402
from torch_utils.ops.modulated_conv2d import modulated_conv2d, modulated_conv_act  # noqa: E402
from torch_utils.ops.upfirdn2d import downsample2d, filter2d, setup_filter, upfirdn2d, upsample2d  # noqa: E402
from torch_utils.ops.weight_sq import weight_sq  # noqa: E402

SYM6 = [0.0154, 0.0035, -0.1180, -0.0483, 0.4911, 0.7876, 0.3379, -0.0726, -0.0211, 0.0447, 0.0018, -0.0078]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
SHAPES = {  # suite; --shapes=small takes the first of each, --shapes=full adds FULL
    "cpu": {"upfirdn2d": [(16, 256, 16, 16), (8, 128, 32, 32), (4, 64, 64, 64), (4, 32, 128, 128), (2, 16, 256, 256),
                          (16, 3, 32, 32), (16, 512, 4, 4)],
            "upfirdn12": [(16, 3, 64, 64)],
            "pointwise": [(16, 512, 4, 4), (16, 256, 16, 16), (8, 64, 64, 64), (4, 32, 128, 128)],
            "conv": [(16, 512, 4, 4), (4, 512, 8, 8), (16, 256, 16, 16), (8, 128, 32, 32), (4, 64, 128, 128)]},
    "cuda": {"upfirdn2d": [(32, 512, 16, 16), (32, 512, 32, 32), (16, 256, 64, 64), (8, 128, 256, 256)],
             "upfirdn12": [(32, 3, 256, 256)],
             "pointwise": [(32, 512, 16, 16), (32, 512, 32, 32), (16, 256, 64, 64), (8, 128, 256, 256),
                           (64, 192, 64, 64), (8, 256, 8, 8)],
             "conv": [(32, 512, 16, 16), (32, 512, 32, 32), (8, 128, 256, 256)]},
}
FULL = {
    "cpu": {"pointwise": [(16, 3, 32, 32), (5, 17, 33, 35)],
            "conv": [(16, 512, 8, 8), (4, 512, 16, 16), (32, 128, 16, 16), (4, 256, 32, 32), (32, 64, 32, 32),
                     (4, 128, 64, 64), (16, 64, 64, 64), (8, 32, 128, 128)]},
    "cuda": {"pointwise": [(64, 1536, 8, 8), (5, 17, 33, 35)], "conv": [(16, 256, 64, 64)]},
}
ENDS = {"upfirdn2d": [(8, 128, 256, 256)], "upfirdn12": [(32, 3, 256, 256)],
        "pointwise": [(8, 128, 256, 256), (8, 256, 8, 8)], "conv": [(32, 512, 16, 16)]}  # bound by memory, by launches
TINY = {"upfirdn2d": [(2, 8, 8, 8)], "upfirdn12": [(2, 3, 16, 16)], "pointwise": [(2, 8, 8, 8)],
        "conv": [(2, 8, 8, 8)]}  # to see that everything runs
# op -> (each row, geometric mean), ratios to the reference; CPU with AVX-512, 60 % of it without.
BARS = {("upfirdn2d", "fp32"): (3.0, 8.0), ("upfirdn2d", "bf16"): (2.5, 6.0), ("upfirdn12", "fp32"): (20, 30),
        ("bias_act", None): (2.0, 3.2), ("epilogue", None): (2.0, 4.2), ("cond_bn", None): (1.5, 3.0),
        ("blur_epilogue", None): (2.0, 4.2), ("weight_sq", None): (1.0, 1.5),
        ("modconv", "fp32"): (1.1, 1.9), ("modconv", "bf16"): (3.5, 5.5), ("conv second", "bf16"): (0.7, 1.1)}
FUSED = {"cpu": (0.9, 1.2), "cuda": (1.5, 1.5)}  # blur_epilogue forward, ratio to its two kernels: each row, mean
PASSES = {"bias_act": (2, 3), "epilogue": (2, 3), "cond_bn": (3, 5)}  # over x, forward and backward
SAVING = {"epilogue": 0.36, "blur_epilogue": 0.36, "cond_bn": 0.40}  # saved bytes, at most, of the reference's
AGAINST = ("reference", "compile", "original", "cudnn", "native", "baseline", "two kernels")  # of ratios


def resampled(x, f, up=1, down=1, padding=(0, 0, 0, 0), gain=1.0, impl="2-D"):
    """upfirdn2d as it is customarily composed: zero insertion, padding, depthwise convolution (one of the 2-D filter,
    or two of the 1-D taps), decimation."""
    n, c, h, w = x.shape
    x = F.pad(x.reshape(n, c, h, 1, w, 1), (0, up - 1, 0, 0, 0, up - 1)).reshape(n, c, h * up, w * up)
    x = F.pad(x, padding)
    if impl == "2-D":
        f = torch.outer(f, f) if f.ndim == 1 else f
        x = F.conv2d(x, (f * gain).to(x.dtype).flip(0, 1)[None, None].repeat(c, 1, 1, 1), groups=c)
    else:
        f = f if f.ndim == 1 else f.sum(0)  # [1, 3, 3, 1] sums to 1 along either axis
        f = (f * gain**0.5).to(x.dtype).flip(0).repeat(c, 1, 1)
        x = F.conv2d(F.conv2d(x, f[:, :, None], groups=c), f[:, :, :, None], groups=c)
    return x[:, :, ::down, ::down]


def composition(name, f, impl):
    """The same for upsample2d ('up2'), downsample2d ('down2') or filter2d ('blur')."""
    t = f.shape[0]
    pad = {"up2": ((t + 1) // 2, (t - 2) // 2), "down2": ((t - 1) // 2, (t - 2) // 2),
           "blur": (t // 2, (t - 1) // 2)}[name]
    return partial(resampled, f=f, up=2 if name == "up2" else 1, down=2 if name == "down2" else 1, padding=pad * 2,
                   gain=4.0 if name == "up2" else 1.0, impl=impl)


def per_sample_modconv(x, weight, styles):
    """The formulation this project replaces: demodulation through a weight per sample, separate multiplications."""
    w = weight[None] * styles[:, None, :, None, None]
    d = (w.square().sum((2, 3, 4)) + 1e-8).rsqrt()
    y = F.conv2d(x * styles.to(x.dtype)[:, :, None, None], weight.to(x.dtype), padding=1)
    return y * d.to(x.dtype)[:, :, None, None]


def in_fp32(x, weight, styles):
    """The same in float32, NCHW: what that formulation runs in where 16 bits bring it nothing."""
    return per_sample_modconv(x.float().contiguous(), weight, styles)


def grouped_modconv(x, weight, styles):
    return modulated_conv2d(x, weight, styles, padding=1, formulation="weights")


def our_modconv(x, weight, styles):
    return modulated_conv_act(x, weight, styles, padding=1)


def native_second(x, w, dy):
    y = F.conv2d(x, w, padding=1)
    (g,) = torch.autograd.grad(y, x, dy, create_graph=True)
    return torch.autograd.grad(g.float().square().sum(), w)


def our_second(x, w, dy):
    (g,) = torch.autograd.grad(convolution.conv2d(x, w, padding=1), x, dy, create_graph=True)
    return torch.autograd.grad(g.float().square().sum(), w)


def layer_end(x, d, b, strength, noise, impl):
    return epilogue(x, d, noise, strength, b, act="lrelu", clamp=256, impl=impl)


def layer_end_after_blur(x, d, b, strength, noise, f, impl):
    """What follows the transposed convolution of an upsampling layer; x is one pixel larger than its result."""
    return blur_epilogue(x, f, 1, d, noise, strength, b, act="lrelu", clamp=256, fir_gain=4, impl=impl)


def two_operators(x, d, b, strength, noise, f):
    """The same as upfirdn2d and epilogue, each compiled: what fusing them is measured against."""
    return epilogue(upfirdn2d(x, f, padding=1, gain=4), d, noise, strength, b, act="lrelu", clamp=256)


def composed_layer_end(x, d, b, strength, noise, f):
    """The same from torch's operators, the blur as it is customarily composed."""
    x = resampled(x, f, padding=(1, 1, 1, 1), gain=4.0)
    return layer_end(x, d, b, strength, noise, "ref")


def library_bn(x, gain, bias):
    """torch's own batch norm (cuDNN where it serves), then gain, bias and relu."""
    y = F.batch_norm(x, None, None, training=True, eps=1e-5)
    return torch.relu(torch.addcmul(bias.to(x.dtype)[:, :, None, None], y, gain.to(x.dtype)[:, :, None, None]))


def rows(device, ops, shapes, dtypes, layouts, original=None):
    """(op, shape, dtype, layout, {variant: function of leaves}, leaves)"""
    g = torch.Generator(device).manual_seed(0)

    def rand(*s, dtype=torch.float32, layout=torch.contiguous_format):
        t = torch.randn(*s, generator=g, device=device).to(dtype)
        return (t.contiguous(memory_format=layout) if len(s) == 4 else t).requires_grad_()

    def variants(call, theirs=None):
        """ours and the reference; `theirs`: the original's call."""
        found = {"ours": partial(call, impl="auto"), "reference": partial(call, impl="ref")}
        if original is not None and theirs is not None:
            found["original"] = theirs
        return found

    f4, f12 = setup_filter([1, 3, 3, 1], device=device), setup_filter(SYM6, device=device)
    for dn in dtypes:
        for ln in layouts:
            d, m = DTYPES[dn], LAYOUTS[ln]
            for op, f in (("upfirdn2d", f4), ("upfirdn12", f12)):
                if op not in ops or (op == "upfirdn12" and (dn != "fp32" or ln != "nchw")):
                    continue
                for s in shapes[op]:
                    if op == "upfirdn2d" and dn != "fp32" and math.prod(s) > 1 << 24 and device == "cpu":
                        continue
                    for name, fn in (("up2", upsample2d), ("down2", downsample2d), ("blur", filter2d)):
                        found = variants(partial(fn, f=f),
                                         original and partial(getattr(original.upfirdn2d, fn.__name__), f=f))
                        found["definition"] = found["reference"]
                        found["reference"] = composition(name, f, "2-D")
                        found["two 1-D"] = composition(name, f, "1-D")
                        yield f"{op} {name}", s, dn, ln, found, [rand(*s, dtype=d, layout=m)]
            for s in shapes["pointwise"]:
                n, c, h, w = s
                x = rand(*s, dtype=d, layout=m)
                if "bias_act" in ops:
                    yield "bias_act", s, dn, ln, variants(
                        partial(bias_act, act="lrelu", clamp=256),
                        original and partial(original.bias_act.bias_act, act="lrelu", clamp=256)
                    ), [x, rand(c, dtype=d)]
                if "epilogue" in ops:
                    z, k = torch.randn(n, 1, h, w, device=device), torch.tensor(0.1, device=device).requires_grad_()
                    yield "epilogue", s, dn, ln, variants(partial(layer_end, noise=z)), \
                        [x, (torch.rand(n, c, device=device) + 0.5).requires_grad_(), rand(c), k]
                if "blur_epilogue" in ops and h >= 8:
                    z, k = torch.randn(n, 1, h, w, device=device), torch.tensor(0.1, device=device).requires_grad_()
                    found = {"ours": partial(layer_end_after_blur, noise=z, f=f4, impl="auto"),
                             "reference": partial(composed_layer_end, noise=z, f=f4),
                             "two kernels": partial(two_operators, noise=z, f=f4)}
                    yield "blur_epilogue", s, dn, ln, found, [
                        rand(n, c, h + 1, w + 1, dtype=d, layout=m),
                        (torch.rand(n, c, device=device) + 0.5).requires_grad_(), rand(c), k]
                if "cond_bn" in ops:
                    found = variants(partial(cond_batch_norm, act="relu"))
                    yield "cond_bn", s, dn, ln, {**found, "cudnn": library_bn}, [x, rand(n, c), rand(n, c)]
            for c in sorted({s[1] for s in shapes["conv"]}) if "weight_sq" in ops and dn == "fp32" else ():
                yield "weight_sq", (c, c, 3, 3), dn, ln, variants(weight_sq), [rand(c, c, 3, 3, layout=m)]
            for s in shapes["conv"]:
                n, c = s[:2]
                x = rand(*s, dtype=d, layout=m)
                if "modconv" in ops:
                    found = {"ours": our_modconv, "baseline": per_sample_modconv, "grouped": grouped_modconv}
                    if dn != "fp32" and device == "cpu":
                        found["baseline"] = in_fp32
                    if n * c * c * 9 * 4 > 1 << 30:
                        del found["grouped"]  # its weights alone are gigabytes
                    if original is not None:
                        found["original"] = partial(original.networks.modulated_conv2d, padding=1, fused_modconv=False)
                    yield "modconv", s, dn, ln, found, [x, rand(c, c, 3, 3), rand(n, c)]
                if "conv" in ops and dn != "fp32" and math.prod(s) <= 2 << 20:
                    w = (rand(c, c, 3, 3).detach() / (9 * c) ** 0.5).to(d).contiguous(memory_format=m).requires_grad_()
                    yield "conv second", s, dn, ln, {"ours": our_second, "native": native_second}, \
                        [x, w, rand(*s, dtype=d, layout=m)]


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


def bytes_of(op, direction, x, y):
    """What must be moved at least; None where arithmetic decides."""
    size = x.numel() * x.element_size()
    written = y.numel() * y.element_size()
    if op.startswith("upfirdn"):
        return size + written
    if op == "blur_epilogue":  # backward: y, dy and the gradient between the two operators, twice, then dx
        return size + written + (4 * written + size) * (direction == "fwd+bwd")
    if op == "weight_sq":
        return size * (1 + 2 * (direction == "fwd+bwd"))
    if op in PASSES:
        forward, backward = PASSES[op]
        return size * (forward + backward * (direction == "fwd+bwd"))
    return None


def compiled(f):
    """torch.compile of a variant, for these sizes alone."""
    torch._dynamo.reset()
    return torch.compile(f, dynamic=False)


def measure(item, timer, seconds, gpu=None, compile_too=False):
    """Rows of one op and size. A variant that is wrong, or does not run, is not timed: its row says so in `max_err`, or
    it is left out with a line on stderr."""
    op, shape, dtype, layout, variants, leaves = item
    base = {"bench": "ops", "op": op, "shape": list(shape), "dtype": dtype, "layout": layout}
    second = op == "conv second"
    truth_name = next(k for k in ("reference", "baseline", "native") if k in variants)
    if compile_too and truth_name == "reference":
        variants = {**variants, "compile": compiled(variants["reference"])}
    first, wrong = {}, []
    for k, f in list(variants.items()):
        try:
            with torch.set_grad_enabled(second):
                y = f(*leaves)
            first[k] = y[0] if second else y
        except Exception as e:  # a column that cannot run must not end the others
            if k in ("ours", truth_name):
                raise
            print(f"{op} {shape} {dtype} {layout}: {k} does not run: {str(e).splitlines()[0][:120]}", file=sys.stderr)
            del variants[k]
    limit = 1e-3 if dtype == "fp32" else 3e-2
    errors = {k: error_of(y, first[truth_name].to(y.dtype)) for k, y in first.items()}
    for k in [k for k in variants if k != truth_name and not errors[k] <= limit]:
        # In bfloat16 torch's own second order is the one that is known to be wrong on some CPUs.
        if second and k == "ours":
            continue
        wrong.append(common.row(None, **base, direction="fwd", variant=k, max_err=errors[k]))
        del variants[k]
    if "ours" not in variants:
        return wrong
    cotangent = None if second else torch.randn_like(first["ours"])

    def backward(f):
        def call():
            y = f(*leaves)
            return torch.autograd.grad(y, leaves, cotangent.to(y.dtype))
        return call

    def forward(f):
        def call():
            with torch.no_grad():
                f(*leaves)
        return call

    jobs = {"second": {k: lambda f=f: f(*leaves) for k, f in variants.items()}} if second else {
        "fwd": {k: forward(f) for k, f in variants.items()}, "fwd+bwd": {k: backward(f) for k, f in variants.items()}}
    out = wrong
    for direction, calls in jobs.items():
        if direction == "fwd" and op == "upfirdn2d blur":
            source = first["ours"].clone()
            target = source.clone()
            calls["copy"] = lambda a=target, b=source: a.copy_(b)
        if direction == "fwd+bwd" and op.startswith("upfirdn"):
            continue
        for variant, ms in timer(calls, seconds).items():
            saved = None
            if direction == "fwd+bwd" and op in SAVING and variant in ("ours", "reference"):
                saved = saved_bytes(variants[variant], leaves)
            out.append(common.row(gpu, **base, direction=direction, variant=variant, ms=ms, saved_bytes=saved,
                                  max_err=errors.get(variant),
                                  bytes=bytes_of(op, direction, leaves[0], first["ours"])))
    if timer.cuda and not second and leaves[0].numel() * leaves[0].element_size() < 4 << 20:
        out.append(common.row(gpu, **base, direction="fwd", variant="ours in a graph", max_err=errors["ours"],
                              ms=device_time(forward(variants["ours"]))))
    return out


def device_time(f, calls=20):
    """ms of one call as part of a CUDA graph of `calls`: what the device needs, without the host's launches."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            f()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            f()
    times = []
    for _ in range(12):
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        a.record()
        graph.replay()
        b.record()
        b.synchronize()
        times.append(a.elapsed_time(b) / calls)
    return common.quartiles(times[2:])


def collect(table):
    """{(op, shape, dtype, layout, direction): {variant: row}} of timed rows."""
    by = {}
    for r in table:
        if r["ms"]:
            by.setdefault((r["op"], tuple(r["shape"]), r["dtype"], r["layout"], r["direction"]), {})[r["variant"]] = r
    return by


def ratios_of(table):
    out = []
    for (op, shape, dtype, layout, direction), v in collect(table).items():
        for variant in AGAINST:
            if variant in v and "ours" in v:
                theirs = v[variant]["ms"]["median"]
                if variant == "reference" and "two 1-D" in v:  # the faster of the two compositions
                    theirs = min(theirs, v["two 1-D"]["ms"]["median"])
                out.append({"op": op, "shape": list(shape), "dtype": dtype, "layout": layout, "direction": direction,
                            "vs": variant, "ratio": theirs / v["ours"]["ms"]["median"]})
    return out


def family(op):
    """'upfirdn2d' of 'upfirdn2d blur'."""
    return op.split()[0] if op.startswith("upfirdn") else op


def cpu_bars(table, ratios, flags):
    """Section "Bars" of docs/kernels.md, for CPUs."""
    scale, found = 1.0 if "avx512f" in flags else 0.6, []
    amx = None if "amx_bf16" in flags else "needs AMX"
    for (op, dtype), (each, geometric) in BARS.items():
        vs = {"modconv": "baseline", "conv second": "native"}.get(op, "reference")
        chosen = [r["ratio"] for r in ratios if family(r["op"]) == op and dtype in (None, r["dtype"]) and r["vs"] == vs
                  and (op != "modconv" or r["direction"] == "fwd+bwd")
                  and ((op, dtype) != ("modconv", "bf16") or r["layout"] == "nhwc")]
        reason = amx if (op, dtype) == ("modconv", "bf16") else None
        found.append(bar(f"{op} {dtype or 'all'} each", min(chosen, default=None), each * scale, reason))
        found.append(bar(f"{op} {dtype or 'all'} mean", mean(chosen), geometric * scale, reason))
    found += fused_bars(ratios, "cpu")
    by = collect(table)
    for op, limit in SAVING.items():
        saved = [v["ours"]["saved_bytes"] / v["reference"]["saved_bytes"] for k, v in by.items()
                 if k[0] == op and k[4] == "fwd+bwd" and k[2] == "fp32"]
        found.append(bar(f"{op} saved bytes", max(saved, default=None), limit, most=True))
    copies = [v["ours"]["ms"]["median"] / v["copy"]["ms"]["median"] for k, v in by.items()
              if "copy" in v and k[2] == "fp32" and 32 <= k[1][2] <= 128 and math.prod(k[1]) * 4 < 16e6]
    found.append(bar("upfirdn2d blur fp32 against a copy", max(copies, default=None), 1.6, most=True))
    return found


def fused_bars(ratios, device, select=lambda r: True):
    chosen = [r["ratio"] for r in ratios if r["op"] == "blur_epilogue" and r["vs"] == "two kernels"
              and r["direction"] == "fwd" and select(r)]
    each, geometric = FUSED[device]
    return [bar("blur_epilogue forward against two kernels each", min(chosen, default=None), each),
            bar("blur_epilogue forward against two kernels mean", mean(chosen), geometric)]


def large(gpu):
    """Whether what a row of (operator, shape, dtype, ..) works on is at least four times the second-level cache."""
    limit = 4 * max(gpu["l2_mb"], 1) << 20
    return lambda key: math.prod(key[1]) * (4 if key[2] == "fp32" else 2) * 2 >= limit


def gpu_shares(table, gpu):
    """{bar: (limit, [rows])}: every large row's 'share' of the copy bandwidth, the smallest first, with its 'op',
    'shape', 'dtype', 'layout', 'direction', 'bytes' and 'us'. The backward is the difference of both and forward."""
    by, big, old = collect(table), large(gpu), int(gpu["sm"]) < 80
    found = {}

    def add(name, limit, select, backward=False):
        rows = []
        for k, v in by.items():
            r, forward = v.get("ours"), by.get((*k[:4], "fwd"), {}).get("ours")
            if r is None or not r["bytes"] or not big(k) or not select(k):
                continue
            if k[4] != ("fwd+bwd" if backward else "fwd") or forward is None:
                continue
            size, ms, share = r["bytes"], r["ms"]["median"], r["frac_copy"]
            if backward:
                size, ms = size - forward["bytes"], max(ms - forward["ms"]["median"], 1e-9)
                share = size / ms / 1e6 / gpu["copy_gbs"]
            rows.append({"op": k[0], "shape": list(k[1]), "dtype": k[2], "layout": k[3], "share": share, "bytes": size,
                         "direction": "bwd" if backward else "fwd", "us": ms * 1e3})
        found[f"{name}, large, of a copy"] = limit, sorted(rows, key=lambda r: r["share"])

    for op, forward, backward in (("bias_act", 0.85 if old else 0.88, 0.80), ("epilogue", 0.85 if old else 0.88, 0.80),
                                  ("cond_bn", 0.80, 0.75)):
        add(f"{op} forward", forward, lambda k, op=op: k[0] == op)
        add(f"{op} backward", backward, lambda k, op=op: k[0] == op, backward=True)
    add("blur_epilogue forward", 0.70, lambda k: k[0] == "blur_epilogue")
    for layout, half, full in (("nhwc", 0.75, 0.80), ("nchw", 0.65, 0.75)):
        for wide, limit in ((False, half), (True, full)):
            add(f"upfirdn2d {layout} {'fp32' if wide else '16 bits'}", limit, lambda k, layout=layout, wide=wide:
                family(k[0]) == "upfirdn2d" and k[3] == layout and (k[2] == "fp32") == wide)
    return found


def gpu_bars(table, ratios, gpu):
    """The same for GPUs."""
    by, big = collect(table), large(gpu)
    found = [bar(name, rows[0]["share"] if rows else None, limit)
             for name, (limit, rows) in gpu_shares(table, gpu).items()]
    found += fused_bars(ratios, "cuda", lambda r: big((r["op"], r["shape"], r["dtype"])))
    small = [v["ours in a graph"]["ms"]["median"] * 1e3 for v in by.values() if "ours in a graph" in v]
    found.append(bar("operators under 4 MB, microseconds on the device", max(small, default=None), 8, most=True))
    for op, vs, limit in (("bias_act", "compile", 0.95), ("epilogue", "compile", 1.1), ("upfirdn2d", "compile", 3),
                          ("cond_bn", "compile", 1.2), ("cond_bn", "cudnn", 2.0), ("bias_act", "original", 1.0),
                          ("upfirdn2d", "original", 1.5), ("modconv", "original", 1.15)):
        chosen = [r["ratio"] for r in ratios if family(r["op"]) == op and r["vs"] == vs
                  and r["direction"] in (("fwd",) if op == "upfirdn2d" else ("fwd+bwd",))]
        why = {"compile": "run with --compile", "original": "run with --original=CHECKOUT"}.get(vs)
        found.append(bar(f"{op} against {vs}, each", min(chosen, default=None), limit, None if chosen else why))
    saved = [v["ours"]["saved_bytes"] / v["cudnn"]["saved_bytes"] for k, v in by.items()
             if k[0] == "cond_bn" and k[4] == "fwd+bwd" and v.get("cudnn", {}).get("saved_bytes")]
    found.append(bar("cond_bn saved bytes against torch's batch norm", max(saved, default=None), 0.40, most=True))
    return found


def run(args):
    """The report of these arguments."""
    common.prepare(args.device, args.threads)
    torch.manual_seed(0)
    original = common.load_original(args.original)
    dtypes = (args.dtypes or ("fp32,bf16,fp16" if args.device == "cuda" else "fp32,bf16")).split(",")
    shapes = SHAPES[args.device]
    if args.shapes == "small":
        shapes = {k: v[:1] for k, v in shapes.items()}
    elif args.shapes == "full":
        shapes = {k: v + FULL[args.device].get(k, []) for k, v in shapes.items()}
    elif args.shapes in ("ends", "tiny"):
        shapes = ENDS if args.shapes == "ends" else TINY
    timer, table, start = common.Timer(args.device, args.threads), [], time.monotonic()
    build.implementation(args.device)
    report = common.facts(args.device, args.threads)
    for item in rows(args.device, args.ops.split(","), shapes, dtypes, args.layouts.split(","), original):
        if time.monotonic() - start > args.minutes * 60:
            print(f"stopped after {args.minutes} minutes", file=sys.stderr)
            break
        new = measure(item, timer, args.seconds, report["gpu"], args.compile)
        table += new
        for direction in ("fwd", "fwd+bwd", "second"):
            ms = {r["variant"]: r["ms"]["median"] for r in new if r["direction"] == direction and r["ms"]}
            if ms:
                fraction = next((r["frac_copy"] for r in new if r["direction"] == direction and r["variant"] == "ours"),
                                None)
                print(f"{item[0]:16s} {'x'.join(map(str, item[1])):15s} {item[2]} {item[3]} {direction:8s}"
                      + "  ".join(f"{k} {v:8.3f} ms" + (f" ({v / ms['ours']:.1f}x)" if k != "ours" else "")
                                  for k, v in ms.items())
                      + (f"  {fraction:.2f} of a copy" if fraction else ""), flush=True)
        for r in new:
            if not r["ms"]:
                print(f"{item[0]} {item[1]} {item[2]} {item[3]}: {r['variant']} is wrong, not timed "
                      f"(error {r['max_err']:.2g})", flush=True)
    report["rows"], report["ratios"] = table, ratios_of(table)
    report["bars"] = (cpu_bars(table, report["ratios"], build.cpu_flags()) if args.device == "cpu" else
                      gpu_bars(table, report["ratios"], report["gpu"]))
    return report


def parser():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    p.add_argument("--dtypes", help="of fp32, bf16, fp16 (default: fp32,bf16; CUDA also fp16)")
    p.add_argument("--layouts", default="nchw,nhwc")
    p.add_argument("--ops", default="upfirdn2d,upfirdn12,bias_act,epilogue,blur_epilogue,cond_bn,weight_sq,modconv,"
                                    "conv")
    p.add_argument("--shapes", default="suite", choices=("tiny", "ends", "small", "suite", "full"),
                   help="small: the first shape of each op; ends: a large and a small one, for GPUs; tiny: only to see "
                        "that it runs")
    p.add_argument("--compile", action="store_true", help="also torch.compile of the reference (seconds per row)")
    p.add_argument("--original", metavar="PATH", help="checkout of StyleGAN2-ADA (PyTorch) to time beside ours")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--seconds", type=float, default=0.6, help="per row and direction, at least ten rounds")
    p.add_argument("--minutes", type=float, default=30, help="stop after this long; what is missing is skipped")
    return p


if __name__ == "__main__":
    common.main(parser(), run)
