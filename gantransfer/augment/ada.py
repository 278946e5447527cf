# SPDX-License-Identifier: Apache-2.0
"""Adaptive discriminator augmentation: the pipe of random transforms, and the controller of its strength.

Karras et al., "Training Generative Adversarial Networks with Limited Data" (2020), section 3 and appendix B. Every
transform is drawn per sample and applied with probability `multiplier * p`; geometry is composed into one warp, colour
into one matrix. All of it is differentiable twice with respect to the images (R1 through the augmentation).
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from torch_utils import random as rnd
from torch_utils.ops.grid_sample import grid_sample
from torch_utils.ops.upfirdn2d import downsample2d, setup_filter, upsample2d

# Orthogonal symlet wavelets (Daubechies): low-pass decomposition taps.
SYM2 = (-0.12940952255092145, 0.22414386804185735, 0.836516303737469, 0.48296291314469025)
SYM6 = (
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633,
    0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252,
    -0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148,
)  # fmt: skip

_BLIT = dict(xflip=1, rotate90=1, xint=1)
_GEOM = dict(scale=1, rotate=1, aniso=1, xfrac=1)
_COLOR = dict(brightness=1, contrast=1, lumaflip=1, hue=1, saturation=1)

AUGPIPES: dict[str, dict[str, float]] = {
    "blit": _BLIT,
    "geom": _GEOM,
    "color": _COLOR,
    "filter": dict(imgfilter=1),
    "noise": dict(noise=1),
    "cutout": dict(cutout=1),
    "bg": _BLIT | _GEOM,
    "bgc": _BLIT | _GEOM | _COLOR,
    "bgcf": _BLIT | _GEOM | _COLOR | dict(imgfilter=1),
    "bgcfn": _BLIT | _GEOM | _COLOR | dict(imgfilter=1, noise=1),
    "bgcfnc": _BLIT | _GEOM | _COLOR | dict(imgfilter=1, noise=1, cutout=1),
    "mnist": _GEOM | _COLOR,  # no mirroring and no quarter turns: digits are not symmetric
}
"""Named recipes (`--augpipe`): probability multipliers of `AugmentPipe`."""

_UNIFORMS, _NORMALS = 29, 12  # draws per sample with everything switched on

ROOMS = 8
"""Recorded code (torch_utils/graphs.py) pads by multiples of 1/8 of the image: by how many is its tape's `room`."""

Margins = tuple[int, int, int, int]  # left, right, top, bottom

_GREY = torch.tensor([1.0, 1.0, 1.0, 0.0]) / math.sqrt(3)
_GREY = torch.outer(_GREY, _GREY)  # projection on the grey axis of RGB
_BAND_POWER = torch.tensor([10.0, 1.0, 1.0, 1.0]) / 13  # of natural images, whose spectra fall as 1/f


class _Draws:
    """All random numbers of one call but the noise pattern, one row per sample, in the host's memory."""

    def __init__(self, n: int, rng: rnd.Rng, p: torch.Tensor, percentile: float | None):
        self.p, self.fixed = p, percentile is not None
        if self.fixed:
            q = torch.as_tensor(percentile, dtype=torch.float32, device="cpu")
            # erfinv without the factor sqrt 2 of a true percentile: the published debugging convention.
            uniforms, normals = q.expand(n, _UNIFORMS), torch.erfinv(2 * q - 1).expand(n, _NORMALS)
        else:
            uniforms, normals = rnd.rand([n, _UNIFORMS], rng, "cpu"), rnd.randn([n, _NORMALS], rng, "cpu")
        self._uniforms, self._normals = iter(uniforms.unbind(1)), iter(normals.unbind(1))

    def uniform(self) -> torch.Tensor:
        return next(self._uniforms)

    def normal(self) -> torch.Tensor:
        return next(self._normals)

    def gate(self, probability: torch.Tensor, identity: float, *values: torch.Tensor) -> list[torch.Tensor]:
        """`values`, all with one draw of `probability` (tensor []), else `identity`; always `values` if fixed."""
        if self.fixed:
            return list(values)
        on = self.uniform() < probability
        return [torch.where(on, v, identity) for v in values]


class AugmentPipe(nn.Module):
    """The augmentation pipe. Multipliers (all off by default) choose the transforms, `p` their overall probability.

    Args:
        xflip, rotate90, xint: mirror, quarter turns, integer translation.
        scale, rotate, aniso, xfrac: isotropic scale, rotation, anisotropic scale, fractional translation.
        brightness, contrast, lumaflip, hue, saturation: colour (the last two act on RGB only).
        imgfilter, noise, cutout: four-band filter, additive Gaussian noise, a black rectangle.
        xint_max, scale_std, rotate_max, aniso_std, xfrac_std: ranges of the geometry, relative to the image size;
            rotate_max 1 is half a turn either way; scales are log2-normal.
        brightness_std, contrast_std, hue_max, saturation_std: ranges of the colours.
        imgfilter_bands: strength of each of the four octave bands; imgfilter_std: log2 standard deviation of its gain.
        noise_std: standard deviation of the noise's standard deviation; cutout_size: side of the rectangle.

    Buffers (state-dict keys of the published pipe): p [], Hz_geom [12], Hz_fbank [4, 43].
    """

    def __init__(
        self, *,
        xflip: float = 0, rotate90: float = 0, xint: float = 0, xint_max: float = 0.125,
        scale: float = 0, rotate: float = 0, aniso: float = 0, xfrac: float = 0,
        scale_std: float = 0.2, rotate_max: float = 1, aniso_std: float = 0.2, xfrac_std: float = 0.125,
        brightness: float = 0, contrast: float = 0, lumaflip: float = 0, hue: float = 0, saturation: float = 0,
        brightness_std: float = 0.2, contrast_std: float = 0.5, hue_max: float = 1, saturation_std: float = 1,
        imgfilter: float = 0, imgfilter_bands: tuple[float, ...] = (1, 1, 1, 1), imgfilter_std: float = 1,
        noise: float = 0, cutout: float = 0, noise_std: float = 0.1, cutout_size: float = 0.5,
    ):  # fmt: skip
        options = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__()
        if len(imgfilter_bands) != 4:
            raise ValueError(f"imgfilter_bands needs 4 values, got {len(imgfilter_bands)}")
        for name, value in options.items():
            setattr(self, name, [float(v) for v in value] if name == "imgfilter_bands" else float(value))
        self.init_kwargs = {k: getattr(self, k) for k in options}
        self.register_buffer("p", torch.ones([]))
        self.register_buffer("Hz_geom", setup_filter(SYM6))
        self.register_buffer("Hz_fbank", torch.from_numpy(_filter_bank()).float())

    @property
    def min_size(self) -> int:
        """Smallest image side that the chosen transforms can handle."""
        return self.Hz_fbank.shape[1] // 2 + 1 if self.imgfilter else 1

    def forward(self, images: torch.Tensor, *, rng: rnd.Rng = None, choices: rnd.Rng = None,
                p: torch.Tensor | None = None, debug_percentile: float | None = None) -> torch.Tensor:
        """Augment images [N, C, H, W], floats in [-1, 1]; same shape and dtype.

        `choices` is the source of the transforms' parameters, which the host must know; a generator on the CPU (None:
        `rng`) gives them without waiting for the device. `rng` is the source of the noise pattern. `p` is the value of
        the buffer p, where it is known in the host's memory. `debug_percentile` in [0, 1] switches every chosen
        transform on for every sample with parameters at that percentile (the noise pattern itself stays random).
        Raises ValueError for images that are too small, or whose channel count is not 1 or 3 with colour transforms.
        """
        if images.ndim != 4:
            raise ValueError(f"expected images [N, C, H, W], got shape {tuple(images.shape)}")
        if min(images.shape[2:]) < self.min_size:
            raise ValueError(f"imgfilter needs images of at least {self.min_size} pixels, got "
                             f"{tuple(images.shape[2:])}; choose an augmentation recipe without it, such as bgc")
        x = images if images.dtype == torch.float64 else images.float()
        t, margins = self._draw(x, rng if choices is None else choices, p, debug_percentile)
        if "warp" in t and margins is not None:
            x = self._warp(x, t["warp"], margins)
        if "colour" in t:
            x = _colour(x, rnd.to_device(t["colour"], x.device))
        if "gains" in t:
            x = self._filter(x, rnd.to_device(t["gains"], x.device))
        if "sigma" in t:
            sigma = rnd.to_device(t["sigma"], x.device)[:, None, None, None]
            x = x + rnd.randn(x.shape, rng, x.device).to(x.dtype) * sigma.to(x.dtype)
        if "hole" in t:
            x = _cut_out(x, rnd.to_device(t["hole"], x.device))
        return x.to(images.dtype)

    # ---- parameters, on the host ---------------------------------------------------------------------------------

    def _draw(self, x: torch.Tensor, rng: rnd.Rng, p: torch.Tensor | None,
              percentile: float | None) -> tuple[dict[str, torch.Tensor], Margins | None]:
        """The transforms that are switched on, and how far the warped images reach; None: nothing moves."""
        n, channels, height, width = x.shape
        device = x.device

        def draw(source: rnd.Rng) -> tuple[dict[str, torch.Tensor], Margins | None]:
            host = (self.p if p is None else p).cpu()
            return self._transforms(n, channels, height, width, _Draws(n, source, host, percentile))

        if not isinstance(rng, rnd.Taped):
            return draw(rng)

        def make(source: rnd.Rng, out: dict[str, torch.Tensor] | None) -> dict[str, torch.Tensor]:
            t, margins = draw(source)
            rng.tape.need(_room(margins, height, width))
            if out is None:
                return {k: rnd.to_device(v, device).clone() for k, v in t.items()}
            for k, v in t.items():
                out[k].copy_(rnd.to_device(v, device))
            return out

        t = rng.take((n, channels, height, width), make)
        return t, _margins(rng.tape.room, height, width)

    def _transforms(self, n: int, channels: int, height: int, width: int,
                    draws: _Draws) -> tuple[dict[str, torch.Tensor], Margins | None]:
        t, margins = {}, None
        if any([self.xflip, self.rotate90, self.xint, self.scale, self.rotate, self.aniso, self.xfrac]):
            t["warp"] = self._inverse_warp(n, height, width, draws)
            margins = self._reach(t["warp"], height, width)
        if any([self.brightness, self.contrast, self.lumaflip, self.hue, self.saturation]):
            t["colour"] = self._colour_matrix(n, channels, draws)
        if self.imgfilter:
            t["gains"] = self._gains(n, draws)
        if self.noise:
            sigma = draws.normal().abs() * self.noise_std
            if draws.fixed:
                sigma = torch.erfinv(draws.uniform()) * self.noise_std
            (t["sigma"],) = draws.gate(self.noise * draws.p, 0, sigma)  # [N]
        if self.cutout:
            cx, cy = draws.uniform(), draws.uniform()
            (size,) = draws.gate(self.cutout * draws.p, 0, torch.full_like(cx, self.cutout_size))
            t["hole"] = torch.stack([cx, cy, size])  # [3, N]
        return t, margins

    def _reach(self, m: torch.Tensor, height: int, width: int) -> Margins | None:
        """As far as the warped corners and the filter's support reach, the same for the whole batch."""
        if (m == torch.eye(3)).all():
            return None  # at p = 0 the filters would rebuild the image up to rounding
        pad = len(self.Hz_geom) // 4
        cx, cy = (width - 1) / 2, (height - 1) / 2
        sx, sy = torch.tensor([[-1.0, 1.0, 1.0, -1.0], [-1.0, -1.0, 1.0, 1.0]])
        corners = m[:, :2, :1] * (sx * cx) + m[:, :2, 1:2] * (sy * cy) + m[:, :2, 2:]  # [N, 2, 4]
        (left, top), (right, bottom) = (-corners).amax(dim=(0, 2)).tolist(), corners.amax(dim=(0, 2)).tolist()
        # Reflection cannot go further than to the opposite edge.
        return tuple(math.ceil(min(max(r + 2 * pad - c, 0), 2 * c))
                     for r, c in ((left, cx), (right, cx), (top, cy), (bottom, cy)))

    def _inverse_warp(self, n: int, height: int, width: int, draws: _Draws) -> torch.Tensor:
        """[N, 3, 3]: output pixel to input pixel, origin at the image centre, x right, y down."""
        p = like = draws.p
        m = torch.eye(3, dtype=like.dtype).expand(n, 3, 3)
        if self.xflip:
            (flip,) = draws.gate(self.xflip * p, 0, torch.floor(draws.uniform() * 2))
            m = m @ _scale(n, like, 1 - 2 * flip, 1)
        if self.rotate90:
            (turns,) = draws.gate(self.rotate90 * p, 0, torch.floor(draws.uniform() * 4))
            m = m @ _rotate(n, like, turns * (math.pi / 2))
        if self.xint:
            x, y = draws.gate(self.xint * p, 0, *((draws.uniform() * 2 - 1) * self.xint_max for _ in range(2)))
            m = m @ _translate(n, like, -torch.round(x * width), -torch.round(y * height))
        if self.scale:
            (s,) = draws.gate(self.scale * p, 1, torch.exp2(draws.normal() * self.scale_std))
            m = m @ _scale(n, like, 1 / s, 1 / s)
        # One rotation before and one after the anisotropic scale: at least one happens with probability rotate * p.
        p_rotate = 1 - torch.sqrt((1 - self.rotate * p).clamp(0, 1))
        if self.rotate:
            (angle,) = draws.gate(p_rotate, 0, (draws.uniform() * 2 - 1) * (math.pi * self.rotate_max))
            m = m @ _rotate(n, like, angle)
        if self.aniso:
            (s,) = draws.gate(self.aniso * p, 1, torch.exp2(draws.normal() * self.aniso_std))
            m = m @ _scale(n, like, 1 / s, s)
        if self.rotate and not draws.fixed:
            (angle,) = draws.gate(p_rotate, 0, (draws.uniform() * 2 - 1) * (math.pi * self.rotate_max))
            m = m @ _rotate(n, like, angle)
        if self.xfrac:
            x, y = draws.gate(self.xfrac * p, 0, *(draws.normal() * self.xfrac_std for _ in range(2)))
            m = m @ _translate(n, like, -x * width, -y * height)
        return m

    def _colour_matrix(self, n: int, channels: int, draws: _Draws) -> torch.Tensor:
        """[N, 4, 4] on (R, G, B, 1)."""
        if channels not in (1, 3):
            raise ValueError(f"colour augmentation needs 1 or 3 channels, got {channels}; choose bg or blit")
        p = draws.p
        eye = torch.eye(4, dtype=p.dtype)
        c = eye.expand(n, 4, 4)
        if self.brightness:
            (b,) = draws.gate(self.brightness * p, 0, draws.normal() * self.brightness_std)
            c = eye + F.pad(b[:, None, None].expand(n, 3, 1), [3, 0, 0, 1])
        if self.contrast:
            (s,) = draws.gate(self.contrast * p, 1, torch.exp2(draws.normal() * self.contrast_std))
            c = torch.stack([s, s, s, torch.ones_like(s)], dim=1)[:, :, None] * c
        if self.lumaflip:
            (flip,) = draws.gate(self.lumaflip * p, 0, torch.floor(draws.uniform() * 2))
            c = (eye - 2 * _GREY * flip[:, None, None]) @ c
        if self.hue and channels == 3:
            (angle,) = draws.gate(self.hue * p, 0, (draws.uniform() * 2 - 1) * (math.pi * self.hue_max))
            c = _rotate_about_grey(angle) @ c
        if self.saturation and channels == 3:
            (s,) = draws.gate(self.saturation * p, 1, torch.exp2(draws.normal() * self.saturation_std))
            c = (_GREY + (eye - _GREY) * s[:, None, None]) @ c
        return c

    def _gains(self, n: int, draws: _Draws) -> torch.Tensor:
        """[N, 4]: of the filter's bands."""
        gains = torch.ones([n, 4])
        for i, strength in enumerate(self.imgfilter_bands):
            value = torch.exp2(draws.normal() * self.imgfilter_std)
            if not strength:
                continue
            (t,) = draws.gate(self.imgfilter * strength * draws.p, 1, value)
            t = torch.where(torch.arange(4) == i, t[:, None], 1.0)
            gains = gains * t / (_BAND_POWER * t.square()).sum(dim=1, keepdim=True).sqrt()  # keep the power
        return gains

    # ---- images, on their device ---------------------------------------------------------------------------------

    def _warp(self, x: torch.Tensor, m: torch.Tensor, margins: Margins) -> torch.Tensor:
        n, channels, height, width = x.shape
        mx0, mx1, my0, my1 = margins
        pad = len(self.Hz_geom) // 4
        x = F.pad(x, [mx0, mx1, my0, my1], mode="reflect")
        m = _translate(n, m, (mx0 - mx1) / 2, (my0 - my1) / 2) @ m
        x = upsample2d(x, self.Hz_geom, up=2)
        m = _scale(n, m, 2, 2) @ m @ _scale(n, m, 0.5, 0.5)
        m = _translate(n, m, -0.5, -0.5) @ m @ _translate(n, m, 0.5, 0.5)

        # Resample on a grid with room for the filter, in the normalised coordinates of grid_sample.
        h, w = (height + 2 * pad) * 2, (width + 2 * pad) * 2
        m = _scale(n, m, 2 / x.shape[3], 2 / x.shape[2]) @ m @ _scale(n, m, w / 2, h / 2)
        m = rnd.to_device(m[:, :2].contiguous(), x.device)
        x = grid_sample(x, F.affine_grid(m.to(x.dtype), [n, channels, h, w], align_corners=False))
        return downsample2d(x, self.Hz_geom, down=2, padding=-2 * pad, flip_filter=True)

    def _filter(self, x: torch.Tensor, gains: torch.Tensor) -> torch.Tensor:
        n, channels, height, width = x.shape
        taps = (gains @ self.Hz_fbank).to(x.dtype).repeat_interleave(channels, dim=0)  # [N * C, 43]
        x = x.reshape(1, n * channels, height, width)
        x = F.pad(x, [taps.shape[1] // 2] * 4, mode="reflect")
        x = F.conv2d(x, taps[:, None, None, :], groups=n * channels)
        x = F.conv2d(x, taps[:, None, :, None], groups=n * channels)
        return x.reshape(n, channels, height, width)


def _colour(x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    c = c.to(x.dtype)
    if x.shape[1] == 3:
        return (c[:, :3, :3] @ x.flatten(2) + c[:, :3, 3:]).reshape(x.shape)
    c = c[:, :3].mean(dim=1)
    return x * c[:, :3].sum(dim=1)[:, None, None, None] + c[:, 3, None, None, None]


def _cut_out(x: torch.Tensor, hole: torch.Tensor) -> torch.Tensor:
    """Rows and columns with pixel centres strictly inside the rectangle are black."""
    (cx, cy, size), (height, width) = hole, x.shape[2:]
    col = (torch.arange(width, device=x.device) + 0.5) / width
    row = (torch.arange(height, device=x.device) + 0.5) / height
    col = (col - cx[:, None]).abs() < size[:, None] / 2
    row = (row - cy[:, None]).abs() < size[:, None] / 2
    return x * ~(row[:, None, :, None] & col[:, None, None, :])


def _room(margins: Margins | None, height: int, width: int) -> int:
    """How many 1/8 of the image the margins need: 1 to 8, or 0 where nothing moves."""
    if margins is None:
        return 0
    return max(1, *(-(-ROOMS * m // size) for m, size in zip(margins, (width, width, height, height))))


def _margins(room: int, height: int, width: int) -> Margins | None:
    """Margins of that many 1/8 on all sides, as far as reflection goes."""
    if room == 0:
        return None
    x, y = (min(-(-room * size // ROOMS), size - 1) for size in (width, height))
    return x, x, y, y


def _matrix(n: int, like: torch.Tensor, *rows: tuple) -> torch.Tensor:
    """[N, r, c] from rows of numbers and tensors [N]."""
    cells = [v for row in rows for v in row]
    numbers = {v: like.new_full([n], v) for v in {v for v in cells if not isinstance(v, torch.Tensor)}}
    return torch.stack([v if isinstance(v, torch.Tensor) else numbers[v] for v in cells], dim=1).reshape(
        n, len(rows), len(rows[0]))


def _translate(n: int, like: torch.Tensor, x, y) -> torch.Tensor:
    return _matrix(n, like, (1, 0, x), (0, 1, y), (0, 0, 1))


def _scale(n: int, like: torch.Tensor, x, y) -> torch.Tensor:
    return _matrix(n, like, (x, 0, 0), (0, y, 0), (0, 0, 1))


def _rotate(n: int, like: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    c, s = angle.cos(), angle.sin()
    return _matrix(n, like, (c, -s, 0), (s, c, 0), (0, 0, 1))


def _rotate_about_grey(angle: torch.Tensor) -> torch.Tensor:
    """[N, 4, 4]: rotation about (1, 1, 1) (Rodrigues' formula)."""
    c, s = angle.cos(), angle.sin() / math.sqrt(3)
    k = (1 - c) / 3
    return _matrix(len(angle), angle, (k + c, k - s, k + s, 0), (k + s, k + c, k - s, 0), (k - s, k + s, k + c, 0),
                   (0, 0, 0, 1))


def _filter_bank() -> np.ndarray:
    """float64 [4, 43]: octave band-pass filters built from the sym2 wavelet; row 0 is the low-pass rest."""
    low = np.asarray(SYM2)
    high = low * (-1.0) ** np.arange(len(low))
    low2, high2 = np.convolve(low, low[::-1]) / 2, np.convolve(high, high[::-1]) / 2
    bank = np.eye(4, 1)
    for i in range(1, 4):
        stuffed = np.zeros([4, 2 * bank.shape[1] - 1])
        stuffed[:, ::2] = bank
        bank = np.stack([np.convolve(row, low2) for row in stuffed])
        start = (bank.shape[1] - len(high2)) // 2
        bank[i, start : start + len(high2)] += high2
    return bank


class AdaController:
    """Steers `p` so that the mean sign of D's logits on reals stays at `target` (section 3.1 of the paper).

    Every `interval` training steps, `p` moves by the images of those steps / (kimg * 1000) up or down; it never falls
    below 0. `p_max` (None: no cap, as published) bounds it above; transforms saturate at probability 1 by themselves.
    """

    def __init__(self, target: float, interval: int = 4, kimg: float = 500, p: float = 0, p_max: float | None = None):
        if interval < 1 or kimg <= 0 or p < 0:
            raise ValueError(f"ADA needs interval >= 1, kimg > 0 and p >= 0, got {interval}, {kimg}, {p}")
        self.target, self.interval, self.kimg, self.p, self.p_max = target, interval, kimg, float(p), p_max

    def update(self, mean_sign: float, batch: int) -> float:
        """The new p, given the mean of sign(D(real)) since the last update and the global batch size of a step."""
        mean_sign = float(mean_sign)
        if not math.isfinite(mean_sign):
            raise ValueError(f"ADA's statistic is {mean_sign}: the discriminator's outputs are not finite")
        direction = (mean_sign > self.target) - (mean_sign < self.target)
        self.p = max(0.0, self.p + direction * batch * self.interval / (self.kimg * 1000))
        if self.p_max is not None:
            self.p = min(self.p, self.p_max)
        return self.p
