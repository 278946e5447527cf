# SPDX-License-Identifier: Apache-2.0
"""The compiled blur with epilogue against its definition in float64, and against the two operators it stands for."""

import itertools

import pytest
import torch

from tests.torch_utils.ops.conftest import (
    EMULATED,
    LAYOUTS,
    TOLERANCE,
    compiles,
    derivatives_fit,
    emulated,
    kept_for_the_backward,
    opcheck,
    rel,
)
from torch_utils.ops.blur_epilogue import blur_epilogue
from torch_utils.ops.epilogue import epilogue
from torch_utils.ops.upfirdn2d import setup_filter, upfirdn2d

pytestmark = pytest.mark.usefixtures("native")
F4 = setup_filter([1, 3, 3, 1])
RANK_TWO = torch.tensor([[1.0, 2, 0, -1], [0, 3, 1, 1], [2, -1, 1, 0], [0.5, 0, 0, 1]]) / 8
FILTERS = {"outer": F4, "taps": setup_filter([1, 3, 3, 1], separable=True), "rank two": RANK_TWO,
           "wide": RANK_TWO[:2, :3] * 2, "one": torch.ones(1), "12": setup_filter([1, 2, 3, 4, 6, 8, 7, 5, 3, 2, 1, 0])}
SHAPES = [(1, 1, 1, 1), (3, 16, 5, 5), (2, 17, 5, 8), (2, 8, 17, 17), (2, 40, 10, 13), (1, 3, 35, 33), (2, 70, 6, 9),
          (2, 32, 33, 33)]
KINDS = {"all": (True, "per sample", True), "shared noise": (True, "shared", True), "bias": (False, "none", True),
         "d": (True, "none", False), "nothing": (False, "none", False), "noise": (False, "per sample", False)}
LRELU = dict(act="lrelu", gain=0.7)


def blurred(x, f, conv):
    return upfirdn2d(x, f, padding=conv["padding"], flip_filter=conv.get("flip_filter", False),
                     gain=conv.get("fir_gain", 1), impl="ref")


def case(shape, dtype, conv, f=F4, kind="all", bias_std=0.3, clamp=None, seed=0):
    """x, d, noise, strength, b, and a gradient dy that is zero within rounding of the kinks of activation and clamp."""
    with_d, noise, with_b = KINDS[kind]
    rng = torch.Generator().manual_seed(seed)
    n, c = shape[:2]
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    x = torch.randn(shape, generator=rng).to(dtype)
    u = blurred(x.double(), f, conv)
    h, w = u.shape[2:]
    d = torch.rand(n, c, generator=rng).to(wide) + 0.5 if with_d else None
    z = {"none": None, "per sample": torch.randn(n, 1, h, w, generator=rng).to(wide),
         "shared": torch.randn(h, w, generator=rng).to(wide)}[noise]
    s = None if z is None else torch.tensor(0.3, dtype=wide)
    b = (torch.randn(c, generator=rng) * bias_std).to(wide) if with_b else None
    y = epilogue(u, *(None if t is None else t.double() for t in (d, z, s, b)), **LRELU, impl="ref")
    dy = torch.randn(y.shape, generator=rng) * (y.abs() > 0.02)
    if clamp is not None:
        dy = dy * ((y.abs() - clamp).abs() > 0.03)
    return [x, d, z, s, b], dy.to(dtype)


def run(tensors, f, dy, double, **kw):
    """[y, gradients] of all but the noise; double: the definition in float64."""
    leaves = [None if t is None else (t.double() if double else t).detach().requires_grad_(i != 2)
              for i, t in enumerate(tensors)]
    x, d, z, s, b = leaves
    y = blur_epilogue(x, f, d=d, noise=z, strength=s, b=b, impl="ref" if double else "auto", **kw)
    return [y, *torch.autograd.grad(y, [t for i, t in enumerate(leaves) if t is not None and i != 2], dy.to(y.dtype))]


def compare(t, f, dy, layout=LAYOUTS[0], limit=None, **kw):
    t = [t[0].contiguous(memory_format=layout), *t[1:]]
    ours, truth = run(t, f, dy, False, **kw), run(t, f, dy, True, **kw)
    assert ours[0].is_contiguous(memory_format=layout) and ours[0].dtype == t[0].dtype
    # Sums may cancel: gradients are judged against the size of what is summed. The definition multiplies in the
    # filter's float32, so float64 agrees to float32's rounding of outer products.
    floor = 0.5 * dy.double().norm().item()
    for i, (a, b) in enumerate(zip(ours, truth)):
        limit = limit or max(TOLERANCE[t[0].dtype] * 4, 3e-7)
        assert rel(a, b, floor if i else 1e-3) <= limit, (i, tuple(t[0].shape), tuple(f.shape), layout, kw)


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_against_definition(kind, dtype):
    """What a layer does: the image of a transposed convolution, one pixel smaller after a 4-tap blur."""
    for shape in SHAPES:
        conv = dict(padding=(1, 1, 1, 1) if min(shape[2:]) > 1 else (2, 1, 1, 2), fir_gain=4)
        t, dy = case(shape, dtype, conv, kind=kind)
        for layout in LAYOUTS:
            compare(t, F4, dy, layout, **conv, **LRELU)
            if shape[1] == 17:
                compare(t, F4, dy, layout, **conv, act="relu", gain=0.7)
                compare(t, F4, dy, layout, **conv, act="linear", gain=0.7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_rows_of_whole_vectors(dtype):
    """Images whose size stays; a filter that is not of rank one by its last tap alone."""
    off = F4 + torch.tensor([0, 0, 0, 0.1]).outer(torch.tensor([0, 0, 0, 1]))
    for padding, kind, f in itertools.product([(1, 2, 1, 2), (2, 1, 2, 1)], ("all", "shared noise", "d"), (F4, off)):
        conv = dict(padding=padding, fir_gain=4)
        t, dy = case((2, 3, 5, 16), dtype, conv, f, kind)
        compare(t, f, dy, **conv, **LRELU)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", FILTERS)
def test_filters_paddings_and_flip(name, dtype):
    if EMULATED and dtype != torch.float32:
        pytest.skip("the type is chosen apart from the filter: test_against_definition shows all types")
    f = FILTERS[name]
    k = max(f.shape)
    paddings = [(k // 2, (k - 1) // 2, k // 2, (k - 1) // 2), (k, k + 2, k - 1, k), (-1, k, k, -2), (k, -3, -1, k)]
    for shape, padding, flip in itertools.product([(2, 17, 7, 9), (1, 16, 18, 15)], paddings, (False, True)):
        conv = dict(padding=padding, flip_filter=flip, fir_gain=-1.5)
        t, dy = case(shape, dtype, conv, f)
        for layout in LAYOUTS:
            compare(t, f, dy, layout, **conv, **LRELU)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_clamped_elements_and_a_large_bias(dtype):
    for bias_std, clamp in ((10.0, None), (0.3, 0.7), (3.0, 1.3)):
        conv = dict(padding=1, fir_gain=4)
        bound = None if clamp is None else float(torch.tensor(clamp, dtype=dtype))
        t, dy = case((4, 32, 17, 17), dtype, conv, bias_std=bias_std, clamp=clamp)
        for layout in LAYOUTS:
            # d's gradient comes from a y that the bias dominates: its rounding is divided by the signal's size.
            compare(t, F4, dy, layout, limit=5e-6 if dtype == torch.float32 else 4e-2, clamp=bound, **conv, **LRELU)


def test_views():
    x = torch.randn(4, 6, 17, 21)
    d = torch.rand(4, 12)[:, ::2] + 0.5
    views = [x[..., 1:-1], x.transpose(2, 3), x[:, :, ::2], x[1:].contiguous(memory_format=LAYOUTS[1])]
    for v in views:
        n, _, h, w = v.shape
        noise = torch.randn(2 * n, 1, w, h).transpose(2, 3)[::2, ..., 1:][..., : w - 1]
        kw = dict(padding=(1, 1, 2, 1), d=d[:n], noise=noise[:, :, :h, : w - 1], strength=torch.tensor(0.3),
                  act="lrelu")
        y = blur_epilogue(v, F4, **kw)
        truth = blur_epilogue(v.double(), F4, **{k: t.double() if isinstance(t, torch.Tensor) else t
                                                 for k, t in kw.items()}, impl="ref")
        assert rel(y, truth) <= 1e-6
    number = blur_epilogue(x, F4, 1, d=0.37, act="relu")
    assert rel(number, blur_epilogue(x.double(), F4, 1, d=0.37, act="relu", impl="ref")) <= 1e-6


def test_vectors_stay_float32():
    t, dy = case((2, 16, 9, 9), torch.bfloat16, dict(padding=1))
    grads = run(t, F4, dy, False, padding=1, **LRELU)[1:]
    assert [g.dtype for g in grads] == [torch.bfloat16] + [torch.float32] * 3
    assert [g.shape for g in grads] == [v.shape for i, v in enumerate(t) if i != 2]


@pytest.mark.parametrize("layout", LAYOUTS, ids=("nchw", "nhwc"))
def test_gradcheck(layout):
    conv = dict(padding=(1, 1, 1, 1), fir_gain=4)
    x, *rest = case(emulated((2, 2, 3, 3), (2, 3, 4, 5)), torch.float64, conv)[0]
    t = [v.detach().requires_grad_() for v in (x.contiguous(memory_format=layout), *rest)]
    for f, kw in ((F4, dict(act="lrelu")), (RANK_TWO, dict(act="lrelu", clamp=0.9)), (F4, dict(act="relu")),
                  (F4, dict(act="linear", gain=2.0, flip_filter=True))):
        fn = lambda x, d, z, s, b, f=f, kw=kw: blur_epilogue(x, f, d=d, noise=z, strength=s, b=b, **conv, **kw)  # noqa: E731
        derivatives_fit(fn, t)
    fn = lambda x: blur_epilogue(x, F4, 2, d=0.37, act="lrelu")  # noqa: E731
    derivatives_fit(fn, t[:1])


def test_only_the_output_is_saved():
    t, _ = case((2, 8, 17, 17), torch.float32, dict(padding=1))
    x, d, z, s, b = (v.detach().requires_grad_() for v in t)
    y, large = kept_for_the_backward(lambda: blur_epilogue(x, F4, 1, d, z, s, b, act="lrelu", clamp=256.0))
    assert large == {y.untyped_storage().data_ptr()}


@pytest.mark.parametrize("shape, padding", [((0, 3, 5, 5), 1), ((2, 0, 5, 5), 1), ((2, 3, 0, 4), 2)])
def test_empty(shape, padding):
    x, d = torch.zeros(shape, requires_grad=True), torch.ones(shape[:2], requires_grad=True)
    b = torch.full((shape[1],), 0.5, requires_grad=True)
    y, truth = (blur_epilogue(x, F4, padding, d=d, b=b, act="lrelu", impl=impl) for impl in ("auto", "ref"))
    assert y.shape == truth.shape and torch.equal(y, truth)
    grads = torch.autograd.grad(y, [x, d, b], torch.ones_like(y))
    expected = torch.autograd.grad(truth, [d, b], torch.ones_like(y))
    assert grads[0].shape == shape
    assert all(rel(a, e, floor=1) <= 1e-6 for a, e in zip(grads[1:], expected))


def test_as_accurate_as_the_two_operators():
    """Fused or not, the result is that of the two; in 16 bits it may only be nearer to the truth."""
    for dtype, layout in itertools.product((torch.float32, torch.bfloat16), LAYOUTS):
        conv = dict(padding=(1, 1, 1, 1), fir_gain=4)
        t, _ = case((2, 32, 33, 33), dtype, conv)
        x, d, z, s, b = t
        x = x.contiguous(memory_format=layout)
        y = blur_epilogue(x, F4, d=d, noise=z, strength=s, b=b, act="lrelu", **conv)
        two = epilogue(upfirdn2d(x, F4, padding=1, gain=4), d, z, s, b, act="lrelu")
        truth = epilogue(blurred(x.double(), F4, conv), *(v.double() for v in t[1:]), act="lrelu", impl="ref")
        assert rel(y, truth) <= max(rel(two, truth) * 1.05, 2e-7)


def test_a_clamp_at_the_bound_of_the_type():
    x = torch.full((1, 1, 6, 6), 3.0)
    y = blur_epilogue(x, F4, 1, act="lrelu", clamp=2.0)
    assert y.max() == 2.0 and y.shape == (1, 1, 5, 5)


def test_not_a_number_stays_where_it_is_seen():
    x = torch.zeros(1, 1, 13, 13)
    x[0, 0, 6, 6] = float("nan")
    assert blur_epilogue(x, F4, 1, act="lrelu").isnan().sum() == 16


def test_mistakes_are_explained():
    x = torch.zeros(2, 3, 9, 9)
    for kw, message in ((dict(act="tanh"), "act"), (dict(clamp=-1), "clamp"), (dict(impl="x"), "impl"),
                        (dict(noise=torch.zeros(8, 8)), "together"), (dict(d=torch.ones(1, 3)), "d "),
                        (dict(b=torch.ones(2)), "b "), (dict(f=torch.zeros(4, 4, 1)), "f must"),
                        (dict(noise=torch.zeros(9, 9), strength=torch.ones(())), "noise"),
                        (dict(padding=-4), "smaller"), (dict(x=x[0]), "expected")):
        with pytest.raises(ValueError, match=message):
            blur_epilogue(**{**dict(x=x, f=F4, padding=1), **kw})
    op, rest = torch.ops.gantransfer.blur_epilogue, (1.0, None, None, None, 0.2, 1.0, -1.0)
    for args, message in (((x[0], F4, (1,) * 4, False, 1.0, None, *rest), "expected"),
                          ((x, F4.double(), (1,) * 4, False, 1.0, None, *rest), "float32"),
                          ((x, F4, (-4,) * 4, False, 1.0, None, *rest), "smaller"),
                          ((x, F4, (1,) * 4, False, 1.0, torch.ones(5), *rest), "6 values"),
                          ((x.int(), F4, (1,) * 4, False, 1.0, None, *rest), "bfloat16 expected")):
        with pytest.raises(RuntimeError, match=message):
            op(*args)


def test_opcheck_and_compile():
    op = torch.ops.gantransfer.blur_epilogue.default
    t, _ = case((2, 3, 6, 6), torch.float32, dict(padding=1))
    leaves = [v.detach().requires_grad_(i != 2) for i, v in enumerate(t)]
    x, d, z, s, b = leaves
    opcheck(op, (x, F4, (1, 1, 1, 1), False, 4.0, d, 1.0, z, s, b, 0.2, 1.4, 256.0))
    last = x.detach().contiguous(memory_format=LAYOUTS[1]).requires_grad_()
    opcheck(op, (last, F4, (2, -1, 0, 3), True, 1.0, None, 0.5, None, None, b, 0.0, 1.4, -1.0))
    compiles(lambda x, *rest: blur_epilogue(x * 2, F4, 1, *rest, act="lrelu", clamp=1.5), *leaves)
