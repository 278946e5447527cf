# SPDX-License-Identifier: Apache-2.0
"""Properties of the augmentations that golden numbers cannot show: probabilities, draws, derivatives, errors."""

import math

import pytest
import torch

from gantransfer.augment.ada import AUGPIPES, AdaController, AugmentPipe, _margins, _room
from gantransfer.augment.diffaug import DiffAugment
from torch_utils.random import SeedStack


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n=4, channels=3, size=16, seed=0, dtype=torch.float32):
    return torch.rand([n, channels, size, size], generator=generator(seed), dtype=dtype) * 2 - 1


def pipe_at(p, **kw):
    pipe = AugmentPipe(**kw)
    pipe.p.fill_(p)
    return pipe


AUGMENTATIONS = {
    **{name: lambda name=name: pipe_at(0.7, **AUGPIPES[name]) for name in AUGPIPES},
    **{name: lambda name=name: DiffAugment(name) for name in ("color,translation,cutout", "light")},
}


def size_for(name):
    return 24 if "f" in name.split(",")[0] and name in AUGPIPES else 8


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_draws(name, channels):
    """Same generator, same result; other generator, other result; samples differ; torch's own state is untouched."""
    augment, x = AUGMENTATIONS[name](), images(1, channels, size_for(name)).repeat(16, 1, 1, 1)
    state = torch.get_rng_state()
    a, b, c = (augment(x, rng=generator(s)) for s in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert torch.equal(torch.get_rng_state(), state)
    assert a.shape == x.shape and a.dtype == x.dtype and torch.isfinite(a).all()
    assert len({tuple(sample.flatten().tolist()) for sample in a}) > 3, "samples share their draws"
    # One generator per sample: a sample does not depend on its batch.
    whole = augment(x, rng=SeedStack(range(16)))
    for k in range(2):
        torch.testing.assert_close(augment(x[k : k + 1], rng=SeedStack([k])), whole[k : k + 1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_second_order(name):
    """R1 through the augmentation: the gradient of a squared input gradient is right."""
    augment = AUGMENTATIONS[name]()
    x = images(2, 3, size_for(name), dtype=torch.float64)
    weight = torch.randn(x.shape, generator=generator(5), dtype=torch.float64)

    def penalty(w):
        x_ = x.clone().requires_grad_(True)
        y = augment(x_, rng=generator(3))
        (g,) = torch.autograd.grad((y.square() * w).sum(), x_, create_graph=True)
        return g.square().sum()

    w = weight.clone().requires_grad_(True)
    (grad,) = torch.autograd.grad(penalty(w), w)
    direction = torch.randn(w.shape, generator=generator(6), dtype=torch.float64)
    eps = 1e-5
    numeric = (penalty(weight + eps * direction) - penalty(weight - eps * direction)) / (2 * eps)
    error = ((grad * direction).sum() - numeric).abs()
    assert error.item() <= 1e-6 * numeric.abs().item()
    assert torch.autograd.gradcheck(lambda v: augment(v, rng=generator(3)),
                                    images(1, 1, size_for(name), dtype=torch.float64).requires_grad_(True),
                                    fast_mode=True)


def test_zero_probability_is_the_identity():
    x = images(size=24)
    pipe = pipe_at(0, **AUGPIPES["bgcfnc"])
    torch.testing.assert_close(pipe(x, rng=generator()), x, rtol=0, atol=2e-6)


@pytest.mark.parametrize("p", [0.1, 0.4])
def test_flip_happens_with_half_the_probability(p):
    """A drawn flip is a coin toss, so p/2 of the images are mirrored; quarter turns: 3p/4."""
    n = 4000
    x = images(1, 1, 8).repeat(n, 1, 1, 1)
    for kw, share in (({"xflip": 1}, p / 2), ({"rotate90": 1}, 3 * p / 4), ({"xflip": 0.5}, p / 4)):
        y = pipe_at(p, **kw)(x, rng=generator(7))
        changed = float(((y - x).abs().amax(dim=(1, 2, 3)) > 0.05).float().mean())
        assert abs(changed - share) < 4 * math.sqrt(share * (1 - share) / n), (kw, changed, share)
    # The filter pair is not symmetric, so a mirrored image is not equal to the last digit.
    ramp = torch.linspace(-1, 1, 16).cos().expand(1, 1, 16, 16).contiguous() + torch.linspace(-0.1, 0.1, 16)
    mirrored = pipe_at(1, xflip=1)(ramp.repeat(16, 1, 1, 1), rng=generator(7))[..., 4:12, 4:12]
    there = [torch.allclose(m, ramp[0, ..., 4:12, 4:12], atol=0.02) for m in mirrored]
    back = [torch.allclose(m, ramp[0].flip(2)[..., 4:12, 4:12], atol=0.02) for m in mirrored]
    assert all(a != b for a, b in zip(there, back)) and 3 <= sum(back) <= 13


def test_probability_above_one_saturates():
    x = images(64, 1, 8)
    a, b = (pipe_at(p, brightness=1)(x, rng=generator()) for p in (1.0, 1.5))
    assert torch.equal(a, b)


def test_integer_translation_moves_whole_pixels():
    x = images(32, 1, 16)
    y = pipe_at(1, xint=1)(x, rng=generator(1))
    moved = 0
    for a, b in zip(x[:, 0, 4:12, 4:12], y):
        best = min(((b[0, 4 + dy : 12 + dy, 4 + dx : 12 + dx] - a).abs().max().item(), (dy, dx))
                   for dy in range(-2, 3) for dx in range(-2, 3))
        assert best[0] < 1e-4
        moved += best[1] != (0, 0)
    assert moved > 16


@pytest.mark.parametrize("height, width", [(24, 40), (40, 24), (28, 28)])
def test_images_of_any_shape_are_turned_about_their_centre(height, width, monkeypatch):
    """Rotation by 30 degrees and shifts by shares of the width and of the height, against the function itself."""
    def function(x, y):
        return torch.sin(0.15 * x + 0.4) * torch.cos(0.1 * y)

    c, s = math.cos(math.pi / 6), math.sin(math.pi / 6)
    to_input = torch.tensor([[c, -s, 0.05 * width], [s, c, -0.1 * height], [0, 0, 1]])
    monkeypatch.setattr(AugmentPipe, "_inverse_warp", lambda self, n, h, w, draws: to_input.expand(n, 3, 3))
    y, x = torch.meshgrid(torch.arange(height) - (height - 1) / 2, torch.arange(width) - (width - 1) / 2, indexing="ij")
    made = pipe_at(1, rotate=1)(function(x, y)[None, None], rng=generator())[0, 0]
    inside_x, inside_y = c * x - s * y + 0.05 * width, s * x + c * y - 0.1 * height
    inside = (inside_x.abs() < width / 2 - 2) & (inside_y.abs() < height / 2 - 2)
    assert made.shape == (height, width) and inside.sum() > 0.4 * inside.numel()
    torch.testing.assert_close(made[inside], function(inside_x, inside_y)[inside], rtol=0, atol=0.01)


def test_colour_keeps_the_axes_it_should():
    x = images(16, 3, 8)
    hue = pipe_at(1, hue=1)(x, rng=generator())
    torch.testing.assert_close(hue.mean(dim=1), x.mean(dim=1), rtol=0, atol=1e-5)  # rotation about grey
    torch.testing.assert_close(hue.square().sum(dim=1), x.square().sum(dim=1), rtol=0, atol=1e-5)
    torch.testing.assert_close(pipe_at(1, saturation=1)(x, rng=generator()).mean(dim=1), x.mean(dim=1),
                               rtol=0, atol=1e-5)
    grey = images(16, 1, 8)
    torch.testing.assert_close(pipe_at(1, hue=1, saturation=1)(grey, rng=generator()), grey, rtol=0, atol=1e-6)
    flipped = pipe_at(1, lumaflip=1)(grey, rng=generator())
    signs = (flipped / grey).mean(dim=(1, 2, 3)).round()
    assert set(signs.tolist()) == {1.0, -1.0}
    torch.testing.assert_close(flipped, grey * signs[:, None, None, None], rtol=0, atol=1e-5)


def test_filter_bank_passes_a_constant():
    assert torch.allclose(AugmentPipe().Hz_fbank.sum(dim=1), torch.tensor([1.0, 0, 0, 0]), atol=1e-6)


def test_cutout_covers_what_it_says():
    x = torch.ones([512, 1, 16, 16])
    y = pipe_at(0.5, cutout=1)(x, rng=generator())
    holes = (y == 0).sum(dim=(1, 2, 3))
    assert abs(float((holes > 0).float().mean()) - 0.5) < 0.1
    assert int(holes.max()) <= 81 and int(holes[holes > 0].min()) >= 9


def test_half_precision_images_come_back_as_they_were():
    x = images().half()
    y = pipe_at(1, **AUGPIPES["bgc"])(x, rng=generator())
    assert y.dtype == torch.float16
    torch.testing.assert_close(y.float(), pipe_at(1, **AUGPIPES["bgc"])(x.float(), rng=generator()),
                               rtol=2e-3, atol=2e-3)


def test_unusable_images_are_refused():
    with pytest.raises(ValueError, match="imgfilter needs images of at least 22 pixels"):
        AugmentPipe(imgfilter=1)(images(size=16))
    AugmentPipe(imgfilter=1)(images(1, size=22))
    with pytest.raises(ValueError, match="1 or 3 channels, got 4"):
        AugmentPipe(brightness=1)(images(channels=4))
    assert AugmentPipe(xflip=1)(images(channels=4)).shape == (4, 4, 16, 16)


def test_pipe_is_rebuilt_from_its_record():
    a = AugmentPipe(**AUGPIPES["bgcfnc"], imgfilter_bands=(1, 0, 1, 0), xint_max=0.2)
    b = AugmentPipe(**a.init_kwargs)
    b.load_state_dict(a.state_dict(), strict=True)
    assert sorted(a.state_dict()) == ["Hz_fbank", "Hz_geom", "p"]
    x = images(size=24)
    assert torch.equal(a(x, rng=generator()), b(x, rng=generator()))


@pytest.mark.parametrize("name", ["blit", "geom", "bgc"])
@pytest.mark.parametrize("seed", range(6))
def test_wider_margins_change_nothing(name, seed, monkeypatch):
    """Reflection beyond what is sampled does not show. The published margins are up to three pixels short of the
    filter's support, which leaves an error of a thousandth at the rim; narrower ones are wrong."""
    x, pipe = images(4, 1, 32, seed), pipe_at(0.7, **AUGPIPES[name])
    _, exact = pipe._draw(x, generator(seed), None, None)
    room = _room(exact, 32, 32)
    assert 1 <= room <= 8 and all(a <= b for a, b in zip(exact, _margins(room, 32, 32)))

    def padded(margins):
        monkeypatch.setattr(pipe, "_reach", lambda *args: margins)
        return pipe(x, rng=generator(seed))

    wide = padded(_margins(8, 32, 32))
    for margins, low, high in ((exact, 0, 2e-3), ([min(k + 3, 31) for k in exact], 0, 1e-4),
                               ([k // 2 for k in exact], 1e-2, 9)):
        assert low <= float((padded(margins) - wide).abs().max()) < high


def test_rooms_for_all_sizes():
    for size in (1, 7, 8, 24, 100):
        for k in range(size):
            room = _room((0, 0, k, 0), size, 2 * size)
            left, right, top, bottom = _margins(room, size, 2 * size)
            assert 1 <= room <= 8 and left == right <= 2 * size - 1 and k <= top == bottom <= size - 1
    assert _room(None, 16, 16) == 0 and _margins(0, 16, 16) is None


@pytest.mark.parametrize("name", AUGPIPES)
def test_nothing_is_read_back_from_the_device(name):
    """The device 'meta' has no values to read. Parameters, margins and probability are the host's."""
    pipe = AugmentPipe(**AUGPIPES[name]).to("meta")
    x = torch.empty([2, 3, 24, 24], device="meta", requires_grad=True)
    y = pipe(x, rng=generator(), choices=generator(), p=torch.tensor(0.7))
    assert y.shape == x.shape and y.device.type == "meta" and y.requires_grad
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        pipe(x, rng=generator(), choices=generator())  # the probability would be


def test_parameters_come_from_the_choices_and_noise_from_the_other():
    x, pipe = images(8), pipe_at(0.7, **AUGPIPES["bgc"], noise=1)
    a, b, c = (pipe(x, rng=generator(r), choices=generator(k)) for r, k in ((1, 2), (1, 3), (4, 2)))
    assert not torch.equal(a, b) and not torch.equal(a, c)
    pipe.noise = 0.0
    assert torch.equal(*(pipe(x, rng=generator(r), choices=generator(2)) for r in (1, 4)))
    torch.testing.assert_close(pipe(x, rng=generator(), p=torch.zeros([])), x, rtol=0, atol=2e-6)


def test_controller_follows_the_sign():
    ada = AdaController(target=0.6, interval=4, kimg=1, p=0)
    assert ada.update(0.2, batch=16) == 0  # never below 0
    assert ada.update(0.9, batch=16) == pytest.approx(0.064)
    assert ada.update(0.6, batch=16) == pytest.approx(0.064)  # on target: stays
    for _ in range(20):
        ada.update(1.0, batch=16)
    assert ada.p > 1  # no cap, as published
    capped = AdaController(target=0.6, interval=4, kimg=1, p=0.99, p_max=1)
    assert capped.update(1, batch=16) == 1
    with pytest.raises(ValueError, match="not finite"):
        ada.update(float("nan"), batch=16)
