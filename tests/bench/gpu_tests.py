# SPDX-License-Identifier: Apache-2.0
"""What is checked on a GPU: operators, orders, convolutions, networks, and how they behave on a device. Needs torch.

Each check takes the device and yields (name, error, limit); error > limit, NaN, or an exception is a failure. The
truth is float64 on the CPU, by the reference composition. `run(device, quick=True)` runs them on the CPU too, where
what needs CUDA is skipped with the reason.
"""

from __future__ import annotations

import copy
import time
import traceback
from collections.abc import Callable, Iterator

import torch

from torch_utils.ops import convolution
from torch_utils.ops.bias_act import activation_funcs, bias_act
from torch_utils.ops.blur_epilogue import blur_epilogue
from torch_utils.ops.cond_batch_norm import cond_batch_norm
from torch_utils.ops.epilogue import epilogue
from torch_utils.ops.modulated_conv2d import modulated_conv2d
from torch_utils.ops.upfirdn2d import downsample2d, filter2d, setup_filter, upfirdn2d, upsample2d
from torch_utils.ops.weight_sq import weight_sq

Result = tuple[str, float, float]
# Relative L2 error: rounding of the storage for 16 bits, arithmetic (and another order of sums) for the others.
LIMITS = {torch.float64: 1e-6, torch.float32: 2e-5, torch.float16: 6e-3, torch.bfloat16: 4e-2}
SHAPES = [(3, 16, 4, 4), (1, 1, 1, 1), (2, 17, 5, 7), (2, 40, 9, 13), (2, 64, 33, 35), (2, 128, 16, 32), (1, 3, 65, 67)]
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}


class Skip(Exception):
    """The check cannot run here; the text says why."""


def rel(a: torch.Tensor, b: torch.Tensor, floor: float = 1e-6) -> float:
    """Relative L2 difference; shapes must agree. A sum of many terms cancels: `floor` is what it is judged against."""
    if a.shape != b.shape:
        return float("inf")
    a, b = a.detach().double().cpu(), b.detach().double().cpu()
    return ((a - b).norm() / b.norm().clamp_min(floor)).item()


def unaligned(t: torch.Tensor) -> torch.Tensor:
    """The same values and strides, one element behind an aligned address: vector kernels may not serve it."""
    base = t.new_empty(t.numel() + 1)
    view = base[1:].as_strided(t.shape, t.stride(), 1)
    return view.copy_(t)


def _cases(shape, dtype, quick):
    """(name, function of tensors and impl, leaves beside x)."""
    n, c, h, w = shape
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    vector = lambda *s: torch.randn(*s, dtype=wide)  # noqa: E731
    for act in activation_funcs if h < 10 and not quick else ("lrelu", "swish"):
        for clamp in (None, 0.7):
            yield f"bias_act {act} clamp {clamp}", (
                lambda x, b, i, act=act, clamp=clamp: bias_act(x, b.to(x.dtype), act=act, clamp=clamp, impl=i)
            ), [vector(c).to(dtype).to(wide)]
    f4, f12 = setup_filter([1, 3, 3, 1]), setup_filter([1.0] * 5 + [3, 4] + [1.0] * 5)
    odd = setup_filter(torch.arange(1.0, 16).reshape(3, 5), normalize=True)  # not of rank one
    named = {"up2": upsample2d, "down2": downsample2d, "blur": filter2d}
    for taps, f in (("4", f4), ("12", f12), ("3x5", odd)):
        for name, fn in named.items():
            if name != "down2" or min(h, w) > 1:
                yield f"upfirdn2d {name} {taps}", (
                    lambda x, i, fn=fn, f=f: fn(x, f.to(x.device), impl=i)), []
    if min(h, w) > 3:
        yield "upfirdn2d 3/2, cropped", (lambda x, i: upfirdn2d(
            x, odd.to(x.device), up=(3, 2), down=(2, 1), padding=(3, -1, 2, 4), flip_filter=True, gain=1.5, impl=i)), []
    d, z, s, b = torch.rand(n, c, dtype=wide) + 0.5, vector(n, 1, h, w), torch.tensor(0.3, dtype=wide), vector(c)
    for clamp in (None, 0.8):
        yield f"epilogue clamp {clamp}", (
            lambda x, d, s, b, i, z=z, clamp=clamp: epilogue(x, d, z.to(x.device, d.dtype), s, b, act="lrelu",
                                                             clamp=clamp, impl=i)), [d, s, b]
    yield "epilogue bias only", (lambda x, b, i: epilogue(x, 0.7, b=b, act="relu", impl=i)), [b]
    for taps, f, padding in (("4", f4, (2, 1, 1, 2)), ("4", f4, (1, 2, 2, 1)), ("12", f12, (6, 5, 5, 6)),
                             ("3x5", odd, (2, 2, 1, 1))):
        for clamp in (None, 0.8):
            yield f"blur_epilogue {taps} {padding} clamp {clamp}", (
                lambda x, d, s, b, i, f=f, padding=padding, z=z, clamp=clamp: blur_epilogue(
                    x, f.to(x.device), padding, d, z.to(x.device, d.dtype), s, b, act="lrelu", clamp=clamp,
                    flip_filter=clamp is None, impl=i)), [d, s, b]
    if min(h, w) > 1:  # as behind a transposed convolution
        yield "blur_epilogue shared noise", (lambda x, d, s, i, z=z: blur_epilogue(
            x, f4.to(x.device), 1, d, z[0, 0, 1:, 1:].to(x.device, d.dtype), s, act="relu", impl=i)), [d, s]
    yield "blur_epilogue bias only", (lambda x, b, i: blur_epilogue(
        x, f4.to(x.device), (2, 3, 3, 2), 0.7, b=b, act="lrelu", impl=i)), [b]
    if n * h * w > 1:
        for up, act in ((1, "relu"), (2, "linear")):
            yield f"cond_bn up {up}", (lambda x, g, b, i, up=up, act=act: cond_batch_norm(
                x, g, b, act=act, up=up, impl=i)), [d + 0.1, vector(n, c)]
    mean, var = vector(c) * 0.1, torch.rand(c, dtype=wide) + 0.5
    yield "cond_bn eval", (lambda x, g, i: cond_batch_norm(
        x, g, None, mean.to(x.device, g.dtype), var.to(x.device, g.dtype), training=False, impl=i)), [d + 0.1]


def operators(device: str, quick: bool = False) -> Iterator[Result]:
    """Value and all gradients of every operator x dtype x layout x size, and unaligned views."""
    torch.manual_seed(0)
    for shape in SHAPES[:3] if quick else SHAPES:
        for dtype, limit in LIMITS.items():
            for layout, memory in LAYOUTS.items():
                for shift in (False, True) if shape[1] in (16, 17, 128) else (False,):
                    for name, f, more in _cases(shape, dtype, quick or shift):
                        x = torch.randn(shape).to(dtype).contiguous(memory_format=memory)
                        yield f"{name} {list(shape)} {dtype} {layout}" + " unaligned" * shift, \
                            _compare(f, x, more, device, dtype, memory, shift), limit


def _compare(f, x, more, device, dtype, memory, shift) -> float:
    place = unaligned if shift else (lambda t: t)
    here = [place(x.to(device)).requires_grad_(), *(t.to(device).requires_grad_() for t in more)]
    wide = [t.detach().double().cpu().requires_grad_() for t in (x, *more)]
    y, truth = f(*here, "auto"), f(*wide, "ref")
    if y.dtype != dtype:
        return float("inf")
    dy = torch.randn(truth.shape, dtype=torch.float64).to(dtype)
    for kink in (0.0, 0.7, 0.8):  # rounding moves values across a kink: no gradient where the result is near one
        dy[(truth.abs() - kink).abs() < (0.02 if dtype.itemsize == 2 else 1e-5)] = 0
    grads = torch.autograd.grad(y, here, place(dy.to(device).contiguous(memory_format=memory)), allow_unused=True)
    expected = torch.autograd.grad(truth, wide, dy.double(), allow_unused=True)
    scale = 0.2 * dy.double().norm().item() + 1e-12
    errors = [rel(y, truth, 1e-3 * truth.numel() ** 0.5)]
    errors += [rel(a, b, scale) for a, b in zip(grads, expected) if b is not None]
    return max(errors)


def weights(device: str, quick: bool = False) -> Iterator[Result]:
    """weight_sq and its gradient."""
    torch.manual_seed(5)
    for shape in ((5, 7, 3, 3), (1, 1, 1, 1), (64, 48, 3, 3), (3, 5, 2, 4), (512, 512, 3, 3))[: 3 if quick else 5]:
        for dtype in (torch.float32, torch.float64):
            for layout, memory in LAYOUTS.items():
                for place in (lambda t: t, unaligned):
                    w, dq = torch.randn(shape).to(dtype), torch.randn(shape[:2]).to(dtype)
                    here = place(w.contiguous(memory_format=memory).to(device)).requires_grad_()
                    wide = w.double().requires_grad_()
                    q, truth = weight_sq(here), weight_sq(wide, impl="ref")
                    (dw,) = torch.autograd.grad(q, here, dq.to(device))
                    (expected,) = torch.autograd.grad(truth, wide, dq.double())
                    yield f"weight_sq {list(shape)} {dtype} {layout}", max(rel(q, truth), rel(dw, expected)), 1e-6


def second_order(device: str, quick: bool = False) -> Iterator[Result]:
    """gradcheck and gradgradcheck in float64."""
    torch.manual_seed(1)
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64, device=device, requires_grad=True)
    f, d = setup_filter([1, 3, 3, 1]).to(device), torch.rand(2, 3, dtype=torch.float64, device=device) + 0.5
    w = torch.randn(4, 3, 3, 3, dtype=torch.float64, device=device, requires_grad=True)
    s = torch.rand(2, 3, dtype=torch.float64, device=device, requires_grad=True)
    tests = {"bias_act tanh": (lambda x: bias_act(x, act="tanh"), (x,)),
             "bias_act lrelu": (lambda x: bias_act(x, act="lrelu", clamp=2), (x,)),
             "upfirdn2d": (lambda x: upsample2d(x, f), (x,)),
             "epilogue": (lambda x, d: epilogue(x, d, act="lrelu"), (x, d.requires_grad_())),
             "blur_epilogue": (lambda x, d: blur_epilogue(x, f, 1, d, act="lrelu", fir_gain=4), (x, d)),
             "weight_sq": (weight_sq, (w,)),
             "cond_bn": (lambda x, g: cond_batch_norm(x, g), (x, d)),
             "conv2d": (lambda x, w: convolution.conv2d(x, w, padding=1), (x, w)),
             "conv_transpose2d": (lambda x, w: convolution.conv_transpose2d(x, w.transpose(0, 1), stride=2), (x, w)),
             "modulated_conv2d": (lambda x, w, s: modulated_conv2d(x, w, s, padding=1), (x, w, s))}
    for name, (g, leaves) in tests.items():
        torch.autograd.gradcheck(g, leaves, fast_mode=quick)
        torch.autograd.gradgradcheck(g, leaves, fast_mode=quick)
        yield f"{name} first and second order", 0.0, 0.0  # a failure raises


def conv_second_order(device: str, quick: bool = False) -> Iterator[Result]:
    """The convolution wrapper's second order in 16 bits against float32, where torch's own has been wrong."""
    torch.manual_seed(2)
    types = [torch.bfloat16] if device == "cpu" else [torch.bfloat16, torch.float16]
    for n in (1, 8) if quick else (1, 4, 8, 15, 16, 32):
        for r in (8,) if quick else (4, 16, 32):
            for kind in ("same", "stride", "transposed"):
                for layout, memory in LAYOUTS.items():
                    for dtype in types:
                        x = torch.randn(n, 16, r, r)
                        w = torch.randn(16, 16, 3, 3) / 12
                        out = []
                        for t, where in ((torch.float32, "cpu"), (dtype, device)):
                            a = x.to(dtype).to(where, t).contiguous(memory_format=memory).requires_grad_()
                            b = w.to(dtype).to(where, t).requires_grad_()
                            y = (convolution.conv_transpose2d(a, b, stride=2) if kind == "transposed" else
                                 convolution.conv2d(a, b, stride=1 + (kind == "stride"), padding=1))
                            (g,) = torch.autograd.grad(y.float().square().sum(), a, create_graph=True)
                            out.append(torch.autograd.grad(g.float().square().sum(), b)[0])
                        yield f"conv {kind} {n}x{r} {layout} {dtype} second order", rel(out[1], out[0]), 2e-2


def networks(device: str, quick: bool = False) -> Iterator[Result]:
    """A generator and a discriminator, R1 included, in every arithmetic, against float64 on the CPU."""
    from gantransfer.networks.stylegan2 import Discriminator, Generator, compute_in

    torch.manual_seed(3)
    size = dict(channel_base=512, channel_max=32, num_fp16_res=4, conv_clamp=256)
    g = Generator(z_dim=32, c_dim=0, w_dim=32, img_resolution=32, img_channels=3, synthesis_kwargs=size)
    d = Discriminator(c_dim=0, img_resolution=32, img_channels=3, **size)
    z, real = torch.randn(4, 32), torch.randn(4, 3, 32, 32)

    def figures(g, d, z, real, **kw):
        real = real.clone().requires_grad_()
        image = g(z, None, noise_mode="const", update_w_avg=False, **kw)
        (r1,) = torch.autograd.grad(d(real, None, **kw).sum(), real, create_graph=True)
        loss = d(image, None, **kw).sum() + r1.square().sum()
        grads = torch.autograd.grad(loss, [*g.parameters(), *d.parameters()])
        return image, torch.cat([t.reshape(-1) for t in grads])

    truth = figures(copy.deepcopy(g).double(), copy.deepcopy(d).double(), z.double(), real.double(), force_fp32=True)
    arithmetic = [("float32", False, 1e-4, 1e-3), ("bfloat16", True, 6e-2, 0.2)]
    if device != "cpu":
        arithmetic += [("bfloat16", False, 6e-2, 0.2), ("float16", False, 1e-2, 5e-2), ("float16", True, 1e-2, 5e-2)]
    for dtype, nhwc, near, far in arithmetic:
        a, b = copy.deepcopy(g).to(device), copy.deepcopy(d).to(device)
        if dtype != "float32":
            compute_in(a, dtype, nhwc)
            compute_in(b, dtype, nhwc)
        image, grads = figures(a, b, z.to(device), real.to(device), force_fp32=dtype == "float32")
        yield f"generator {dtype} nhwc={nhwc}", rel(image, truth[0]), near
        yield f"R1 and adversarial gradients {dtype} nhwc={nhwc}", rel(grads, truth[1]), far


def large(device: str, quick: bool = False) -> Iterator[Result]:
    """More than 2^31 elements: the last pixels equal those of a small piece on its own."""
    count = 2**20 if quick else 2**31 + 2**22
    need = count * 2 * 3.2
    free = torch.cuda.mem_get_info()[0] if device != "cpu" else available_memory()
    if free < need:
        raise Skip(f"{need / 2**30:.0f} GiB are needed, {free / 2**30:.0f} are free")
    side = 512 if quick else 8192
    f, half = setup_filter([1, 3, 3, 1]).to(device), torch.float16
    for layout in LAYOUTS:
        n = -(-count // side**2)
        shape = (n, 1, side, side) if layout == "nchw" else (2, n // 2 + 1, side, side)
        x = torch.empty(shape, dtype=half, device=device, memory_format=LAYOUTS[layout]).zero_()
        x[-1:].copy_(torch.linspace(-2, 2, x[-1:].numel(), device=device).to(half).reshape(x[-1:].shape))
        c = shape[1]
        b, d = torch.linspace(-1, 1, c, device=device), torch.full((shape[0], c), 0.5, device=device)
        tests = {"bias_act": lambda x, b=b: bias_act(x, b.to(half), act="lrelu", clamp=1.5),
                 "upfirdn2d": lambda x: filter2d(x, f),
                 "up2": lambda x: upsample2d(x[:, :, : side // 2, : side // 2], f),
                 "epilogue": lambda x, d=d, b=b: epilogue(x, d[: len(x)], b=b, act="lrelu"),
                 "blur_epilogue": lambda x, d=d, b=b: blur_epilogue(x, f, (2, 1, 2, 1), d[: len(x)], b=b, act="lrelu"),
                 "cond_bn": lambda x, d=d, b=b: cond_batch_norm(x, d[: len(x)], d[: len(x)], 0 * b, 1 + 0 * b,
                                                                training=False, act="relu")}
        for name, op in tests.items():
            if name == "up2" and layout == "nhwc":
                continue  # the crop of a channels-last tensor is copied first: no memory for two
            y = op(x)
            tail = op(x[-1:].clone(memory_format=LAYOUTS[layout]))
            yield f"{name}, {x.numel():.2g} elements, {layout}", (y[-1:] - tail).abs().max().item(), 0.0
            del y, tail
        del x


def available_memory() -> int:
    """Bytes that this machine can still give."""
    try:
        with open("/proc/meminfo") as f:
            return next(int(line.split()[1]) for line in f if line.startswith("MemAvailable")) * 1024
    except (OSError, StopIteration):
        return 0


def _chain(device: str) -> tuple[Callable, list[torch.Tensor], list[torch.Tensor]]:
    """A small network of all operators, its inputs, and its parameters."""
    torch.manual_seed(4)
    f = setup_filter([1, 3, 3, 1]).to(device)
    half = torch.float16 if device != "cpu" else torch.bfloat16
    x = torch.randn(4, 64, 32, 32, device=device).to(half).contiguous(memory_format=torch.channels_last)
    d, b = torch.rand(4, 64, device=device) + 0.5, torch.randn(64, device=device, requires_grad=True)
    w = (torch.randn(64, 64, 3, 3, device=device) / 24).requires_grad_()

    def step(x):
        y = modulated_conv2d(x, w, d, padding=1)
        y = blur_epilogue(y, f, (2, 1, 2, 1), d, b=b, act="lrelu", clamp=256.0)
        y = filter2d(epilogue(y, d, b=b, act="lrelu", clamp=256.0), f)
        y = cond_batch_norm(upsample2d(y, f), d, d, act="relu")
        loss = bias_act(downsample2d(y, f), b.to(y.dtype), act="swish").float().square().mean()
        return [loss, *torch.autograd.grad(loss, [w, b])]

    return step, [x], [w, b]


def _equal(name: str, a: list[torch.Tensor], b: list[torch.Tensor]) -> Result:
    same = all(torch.equal(p, q) for p, q in zip(a, b))
    return f"{name}: bit-equal", 0.0 if same else max(rel(p, q) for p, q in zip(a, b)) or 1.0, 0.0


def determinism(device: str, quick: bool = False) -> Iterator[Result]:
    """Twice the same numbers, forward and backward."""
    if device != "cpu":
        before = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    step, (x,), _ = _chain(device)
    first = step(x)
    for i in range(3):
        yield _equal(f"repetition {i}", step(x), first)
    if device != "cpu":
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before


def other_stream(device: str, quick: bool = False) -> Iterator[Result]:
    """On a stream of one's own: kernels run there, not on the default stream, which is kept busy meanwhile."""
    _needs_cuda(device)
    step, (x,), _ = _chain(device)
    truth = step(x)
    torch.cuda.synchronize()
    stream, late = torch.cuda.Stream(), torch.zeros_like(x)
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # the copy below comes late: a kernel on another stream would read zeros
        late.copy_(x)
        out = step(late)
    torch.cuda.current_stream().wait_stream(stream)
    yield _equal("own stream", out, truth)


def graph(device: str, quick: bool = False) -> Iterator[Result]:
    """Captured and replayed on other data: equal to eager."""
    _needs_cuda(device)
    step, (x,), _ = _chain(device)
    static = x.clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step(static)
    torch.cuda.current_stream().wait_stream(stream)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        out = step(static)
    for scale in (1.0, -0.5):
        static.copy_(x * scale)
        captured.replay()
        torch.cuda.synchronize()
        got = [t.clone() for t in out]
        expected = step(x * scale)
        # cuDNN may have chosen another algorithm outside the graph: operators of ours are exact, convolutions near.
        yield f"graph replay x {scale}", max(rel(a, b) for a, b in zip(got, expected)), 5e-3
        captured.replay()
        yield _equal(f"two replays x {scale}", [t.clone() for t in out], got)


ROUNDS = 4  # of the same steps with graphs, until margins of all their sizes are recorded
AUGMENTED = {"": {}, ", augmented": dict(aug="fixed", p=0.5)}  # options of `training` that the checks go through


def training(device: str, graphs=None, steps: int = 5, **options):
    """(method, what a further step calls) after some steps of conditional training, all phases; without augmentation
    unless `options` say so."""
    from gantransfer.data.dataset import DataSpec
    from gantransfer.data.labels import LabelSpec
    from gantransfer.method import RunConfig
    from gantransfer.methods import METHODS
    from gantransfer.sampler import LabelSource
    from gantransfer.training_loop import Stepper

    spec = DataSpec(name="noise", resolution=16, channels=3, num_images=64, label=LabelSpec("class", 4, (16,) * 4))
    kind, run = METHODS["utlo"], RunConfig(batch=8, batch_gpu=4, device=device)
    opts = kind.Options(**dict(cfg="tiny", precision="fp32", aug="noaug", diffaug="none", style_mix=0.9, pl_weight=2.0,
                               g_reg_interval=4, d_reg_interval=4, r1_aug=True) | options)
    kind.resolve(opts, run, spec)
    torch.manual_seed(0)
    method = kind(opts, spec, run)
    stepper, labels = Stepper(method, run, graphs), LabelSource(spec.label)
    x = torch.rand(16, 4, 3, 16, 16, generator=torch.Generator().manual_seed(0)).to(device) * 2 - 1
    c = torch.eye(4, device=device)

    def step(i: int) -> None:
        stepper.step(i, 8 * i, lambda rep, m: (x[(2 * i + m) % 16], c), labels.draw)
        method.end_step(8 * i, 8)

    for i in range(steps):
        step(i)
    return method, step


def _graphs(device: str):
    from torch_utils.graphs import CudaGraphs

    return CudaGraphs(torch.device(device))


def training_graphs(device: str, quick: bool = False) -> Iterator[Result]:
    """train.py --graphs: after five steps of two micro-batches, of which three run eagerly (three for each width of the
    augmentation's margins), what eager steps give."""
    _needs_cuda(device)
    for what, options in AUGMENTED.items():
        start, eager, recorded = (training(device, g, n, **options)[0]
                                  for g, n in ((None, 0), (None, 5), (_graphs(device), 5)))
        for name in ("G", "D", "G_ema"):
            a, b, c = (torch.cat([t.detach().float().reshape(-1) for t in m.nets[name].state_dict().values()])
                       for m in (start, eager, recorded))
            # Adam follows the sign of a small gradient: rounding moves single weights as far as anything can. Margins
            # of another width are more than rounding; margins that are too narrow give 0.1.
            yield (f"{name} with graphs{what}, relative to what training changed", rel(c - a, b - a),
                   3e-2 if options else 1e-2)


def no_sync(device: str, quick: bool = False) -> Iterator[Result]:
    """No operator waits for the device."""
    _needs_cuda(device)
    step, (x,), _ = _chain(device)
    step(x)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(x)  # raises where something synchronises
    finally:
        torch.cuda.set_sync_debug_mode("default")
    yield "forward and backward of all operators without a synchronisation", 0.0, 0.0


def no_sync_in_training(device: str, quick: bool = False) -> Iterator[Result]:
    """No training step waits for the device, with graphs and without. (The controller of --aug=ada reads a statistic
    every four steps, so augmentation has a fixed strength here.)"""
    _needs_cuda(device)
    for what, options in AUGMENTED.items():
        for name, graphs in (("eager", None), ("with graphs", _graphs(device))):
            _, step = training(device, graphs, **options)
            again = range(5, 9)  # all phases are due among them
            for i in (ROUNDS if graphs else 1) * [*again]:
                step(i)
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("error")
            try:
                for i in again:
                    step(i)
            finally:
                torch.cuda.set_sync_debug_mode("default")
            yield f"four steps {name}{what} without a synchronisation", 0.0, 0.0


def _needs_cuda(device: str) -> None:
    if device == "cpu":
        raise Skip("needs a CUDA device")


CHECKS: dict[str, Callable[..., Iterator[Result]]] = {
    f.__name__: f for f in (operators, weights, second_order, conv_second_order, networks, determinism, other_stream,
                            graph, training_graphs, no_sync, no_sync_in_training, large)}


def run(device: str, quick: bool = False, names: list[str] | None = None, seconds: float = 1e9) -> dict:
    """Run checks one after another, each to its first exception. {'checks', 'wrong', 'skipped', 'seconds', 'passed'}.

    Checks that `seconds` leaves no time for are listed as skipped, and then `passed` is False.
    """
    if device != "cpu":  # float32 means float32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    start, total, wrong, skipped, took, complete = time.monotonic(), 0, [], {}, {}, True
    for name in names or CHECKS:
        began = time.monotonic()
        try:
            for what, error, limit in CHECKS[name](device, quick):
                total += 1
                if not error <= limit:
                    wrong.append({"check": name, "what": what, "error": error, "limit": limit})
                if time.monotonic() - start > seconds:
                    skipped[name], complete = f"cut after {total} results: {seconds:.0f} s are over", False
                    break
        except Skip as e:
            skipped[name] = str(e)
        except Exception:  # every failure is reported, and the next check still runs
            wrong.append({"check": name, "what": "exception", "error": traceback.format_exc()[-1500:]})
        took[name] = round(time.monotonic() - began, 1)
        if device != "cpu":
            torch.cuda.empty_cache()
    return {"checks": total, "wrong": wrong[:100], "failures": len(wrong), "skipped": skipped, "seconds": took,
            "passed": not wrong and complete and total > 0}
