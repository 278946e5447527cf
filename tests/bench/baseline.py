# SPDX-License-Identifier: Apache-2.0
"""The customary PyTorch formulation of the StyleGAN2 layers, for comparison: every step its own operator, resampling by
zero insertion, padding and a depthwise 4x4 convolution, demodulation through per-sample weights [N, O, I, k, k].

`with formulation():` makes the networks of gantransfer.networks.stylegan2 compute this way.
"""

import contextlib

import torch
import torch.nn.functional as F

from gantransfer.networks import stylegan2
from torch_utils import random
from torch_utils.ops import upfirdn2d as fir


def bias_act(x, b, act, gain, clamp):
    if b is not None:
        x = x + b.to(x.dtype).reshape([-1 if i == 1 else 1 for i in range(x.ndim)])
    if act == "lrelu":
        x = F.leaky_relu(x, 0.2)
    elif act != "linear":
        raise NotImplementedError(act)
    if gain != 1:
        x = x * gain
    return x if clamp is None else x.clamp(-clamp, clamp)


def upfirdn2d(x, f, up=1, down=1, padding=(0, 0, 0, 0), gain=1):
    n, c, h, w = x.shape
    x = x.reshape(n, c, h, 1, w, 1)
    x = F.pad(x, [0, up - 1, 0, 0, 0, up - 1])
    x = x.reshape(n, c, h * up, w * up)
    x = F.pad(x, [max(p, 0) for p in padding])
    x = x[:, :, max(-padding[2], 0) : x.shape[2] - max(-padding[3], 0),
          max(-padding[0], 0) : x.shape[3] - max(-padding[1], 0)]
    f = (f * gain).to(x.dtype).flip(0, 1)
    x = F.conv2d(x, f[None, None].repeat(c, 1, 1, 1), groups=c)
    return x[:, :, ::down, ::down]


def conv2d_resample(x, w, f, up, down, padding, flip_weight):
    w = w.to(x.dtype)
    if up == 1 and down == 1:
        return F.conv2d(x, w if flip_weight else w.flip(2, 3), padding=padding)
    k, taps = w.shape[2], f.shape[0]
    if down == 2:
        p0, p1 = padding + (taps - 1) // 2, padding + (taps - 2) // 2
        if k == 1:
            return F.conv2d(upfirdn2d(x, f, down=2, padding=(p0, p1, p0, p1)), w)
        return F.conv2d(upfirdn2d(x, f, padding=(p0, p1, p0, p1)), w, stride=2)
    p0, p1 = padding + (taps + 1) // 2, padding + (taps - 2) // 2
    if k == 1:
        return upfirdn2d(F.conv2d(x, w), f, up=2, padding=(p0, p1, p0, p1), gain=4)
    p0, p1 = p0 - (k - 1), p1 - (k - 2)
    q = max(min(-p0, -p1), 0)
    w = w.transpose(0, 1)
    x = F.conv_transpose2d(x, w.flip(2, 3) if flip_weight else w, stride=2, padding=q)
    return upfirdn2d(x, f, padding=(p0 + q, p1 + q, p0 + q, p1 + q), gain=4)


def modulated_conv2d(x, weight, styles, noise=None, demodulate=True, **kw):
    dcoefs = None
    if x.dtype == torch.float16 and demodulate:  # nothing may overflow
        weight = weight * (1 / (weight[0].numel() ** 0.5) / weight.abs().amax((1, 2, 3), keepdim=True))
        styles = styles / styles.abs().amax(1, keepdim=True)
    if demodulate:
        w = weight.unsqueeze(0) * styles.reshape(len(styles), 1, -1, 1, 1)  # [N, O, I, k, k]
        dcoefs = (w.square().sum((2, 3, 4)) + 1e-8).rsqrt()
    x = x * styles.to(x.dtype)[:, :, None, None]
    x = conv2d_resample(x, weight, **kw)
    if dcoefs is None:
        return x
    dcoefs = dcoefs.to(x.dtype)[:, :, None, None]
    return x * dcoefs if noise is None else torch.addcmul(noise.to(x.dtype), x, dcoefs)


def _fully_connected(self, x):
    w = self.weight * self.weight_gain
    b = self.bias if self.bias is None or self.bias_gain == 1 else self.bias * self.bias_gain
    if self.activation == "linear" and b is not None:
        return torch.addmm(b.unsqueeze(0), x, w.t())
    spec = stylegan2.activation_funcs[self.activation]
    return bias_act(x @ w.t(), b, self.activation, spec.def_gain, None)


def _conv2d(self, x, gain=1):
    y = conv2d_resample(x, self.weight * self.weight_gain, f=self.resample_filter, up=self.up, down=self.down,
                        padding=self.padding, flip_weight=self.up == 1)
    gain *= stylegan2.activation_funcs[self.activation].def_gain
    return bias_act(y, self.bias, self.activation, gain, self.conv_clamp)


def _synthesis_layer(self, x, w, noise_mode="random", rng=None, formulation=None, gain=1):
    noise = None
    if self.use_noise and noise_mode == "random":
        noise = random.randn([len(x), 1, *self.size], rng, x.device) * self.noise_strength
    if self.use_noise and noise_mode == "const":
        noise = self.noise_const * self.noise_strength
    y = modulated_conv2d(x, self.weight, self.affine(w), noise, f=self.resample_filter, up=self.up, down=1,
                         padding=self.padding, flip_weight=self.up == 1)
    return bias_act(y, self.bias, self.activation, gain * stylegan2.activation_funcs[self.activation].def_gain,
                    self.conv_clamp)


def _to_rgb(self, x, w, formulation=None):
    y = modulated_conv2d(x, self.weight, self.affine(w) * self.weight_gain, demodulate=False, f=None, up=1, down=1,
                         padding=0, flip_weight=True)
    return bias_act(y, self.bias, "linear", 1, self.conv_clamp)


def _upsample2d(x, f, up=2, padding=0, flip_filter=False, gain=1, impl="auto"):
    t = f.shape[0]
    return upfirdn2d(x, f, up=2, padding=((t + 1) // 2, (t - 2) // 2) * 2, gain=4)


@contextlib.contextmanager
def formulation():
    patches = [(stylegan2.FullyConnectedLayer, "forward", _fully_connected),
               (stylegan2.Conv2dLayer, "forward", _conv2d),
               (stylegan2.SynthesisLayer, "forward", _synthesis_layer), (stylegan2.ToRGBLayer, "forward", _to_rgb),
               (fir, "upsample2d", _upsample2d)]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in patches]
    try:
        for owner, name, new in patches:
            setattr(owner, name, new)
        yield
    finally:
        for owner, name, old in before:
            setattr(owner, name, old)
