# SPDX-License-Identifier: Apache-2.0
"""UTLO networks (Khorram et al., "Taming the Tail in Class-Conditional GANs", CVPR 2024).

The generator's layers up to resolution `res_uc` never see the label; the image they alone determine is the skip image
after the ToRGB at `res_uc`, and the discriminator judges it unconditionally through a second entry and a second head.

What differs from networks/stylegan2.py:
* every ToRGB has its own w, so that the one at `res_uc` can be label-free (num_ws 8, 11, 14 ... for 16, 32, 64 px);
* the mapping runs twice with shared weights, once with the label embedding replaced by zeros;
* the discriminator has `fromrgb_uc` (image of `res_uc` -> features) and the heads `out_uc` and `out_c`.

`res_uc` is 0 (no label-free layers) or the longer side of any level, up to the image's own.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import nn

from gantransfer.networks import stylegan2
from gantransfer.networks.sizes import ImageSize
from torch_utils.ops import upfirdn2d

UC_TRUNCATION = ("w_avg_uc", "w_avg")


class Images(NamedTuple):
    """image [N, channels, H, W]; image_uc, as high or wide as `res_uc` says, independent of the label."""

    image: torch.Tensor
    image_uc: torch.Tensor


class MappingNetwork(stylegan2.MappingNetwork):
    """ws whose first `num_uc_ws` entries come from a pass without the label.

    Two running means: `w_avg` of the conditional pass, `w_avg_uc` of the label-free one. States without `w_avg_uc`
    (the authors', or a plain StyleGAN2's) load, with `w_avg` in its place.
    """

    def __init__(self, z_dim, c_dim, w_dim, num_ws, num_uc_ws=0, **kwargs):
        super().__init__(z_dim, c_dim, w_dim, num_ws, **kwargs)
        self.num_uc_ws = num_uc_ws if c_dim > 0 else 0  # without labels there is only one kind of pass
        if self.num_uc_ws and hasattr(self, "w_avg"):
            self.register_buffer("w_avg_uc", torch.zeros(w_dim))

    def forward(self, z, c, *, truncation_psi=1, truncation_cutoff=None, update_w_avg=None, w_out=None,
                w_uc_out=None, uc_truncation="w_avg_uc", label_noise=None):
        """As the base's. The cutoff counts over the whole stack, label-free ws first.

        w_out, w_uc_out: lists that receive the batch's w, whose means are for `update_w_avg(mean)` and
        `update_w_avg(mean, 'w_avg_uc')`; with either given, no buffer is touched. uc_truncation: centre of the
        label-free ws, 'w_avg_uc' (their own mean) or 'w_avg' (the authors' code).
        """
        if uc_truncation not in UC_TRUNCATION:
            raise ValueError(f"uc_truncation must be one of {UC_TRUNCATION}, not {uc_truncation!r}")
        if w_out is not None or w_uc_out is not None:
            update_w_avg = False
        if not self.num_uc_ws:
            return super().forward(z, c, truncation_psi=truncation_psi, truncation_cutoff=truncation_cutoff,
                                   update_w_avg=update_w_avg, w_out=w_out, label_noise=label_noise)
        x = self.inputs(z, c, label_noise)
        free = torch.cat([x[:, : self.z_dim], torch.zeros_like(x[:, self.z_dim :])], 1)
        n, both = x.shape[0], self.layers(torch.cat([free, x]))
        w_uc, w = both[:n], both[n:]  # chunk(2) would fix the batch in an exported graph
        self.track(w, "w_avg", update_w_avg, w_out)
        self.track(w_uc, "w_avg_uc", update_w_avg, w_uc_out)
        k = self.num_uc_ws
        ws = torch.cat([w_uc.unsqueeze(1).expand(-1, k, -1), w.unsqueeze(1).expand(-1, self.num_ws - k, -1)], 1)
        if stylegan2.untruncated(truncation_psi):
            return ws
        cut = self.num_ws if truncation_cutoff is None else truncation_cutoff
        center = getattr(self, uc_truncation, None)
        return torch.cat([stylegan2.truncate(ws[:, :k], center, truncation_psi, min(cut, k)),
                          stylegan2.truncate(ws[:, k:], getattr(self, "w_avg", None), truncation_psi,
                                             max(cut - k, 0))], 1)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        name = prefix + "w_avg_uc"
        if hasattr(self, "w_avg_uc") and name not in state_dict and prefix + "w_avg" in state_dict:
            state_dict[name] = state_dict[prefix + "w_avg"]
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class SynthesisNetwork(stylegan2.SynthesisNetwork):
    """ws -> image, and on request the label-free image on the way."""

    shared_torgb_ws = False

    def __init__(self, w_dim, img_resolution, img_channels, res_uc=8, architecture="skip", **kwargs):
        if architecture != "skip":
            raise ValueError(f"UTLO's generator needs the 'skip' architecture, not {architecture!r}")
        super().__init__(w_dim, img_resolution, img_channels, architecture=architecture, **kwargs)
        self.res_uc = check_res_uc(res_uc, img_resolution)
        self.num_uc_ws = sum(self.windows[res_uc]) if res_uc else 0

    def forward(self, ws, *, add_uc=False, noise_mode="random", rng=None, force_fp32=False, formulation=None):
        """add_uc: return Images(image, image_uc) instead of the image. Both carry gradients."""
        if add_uc and not self.res_uc:
            raise ValueError("add_uc needs a generator with res_uc > 0")
        image_uc = None
        for res, _x, image in self.run_blocks(ws, noise_mode=noise_mode, rng=rng, force_fp32=force_fp32,
                                              formulation=formulation):
            if res == self.res_uc:
                image_uc = image
        return Images(image, image_uc) if add_uc else image


class Generator(stylegan2.Generator):
    """z [N, z_dim], c [N, c_dim] -> image, or Images with `add_uc=True`."""

    def __init__(self, z_dim, c_dim, w_dim, img_resolution, img_channels, res_uc=8, mapping_kwargs=None,
                 synthesis_kwargs=None):
        nn.Module.__init__(self)
        self.init_kwargs = stylegan2.plain(
            z_dim=z_dim, c_dim=c_dim, w_dim=w_dim, img_resolution=img_resolution, img_channels=img_channels,
            res_uc=res_uc, mapping_kwargs=mapping_kwargs or {}, synthesis_kwargs=synthesis_kwargs or {})
        self.z_dim, self.c_dim, self.w_dim, self.res_uc = z_dim, c_dim, w_dim, res_uc
        self.img_resolution, self.img_channels = img_resolution, img_channels
        self.synthesis = SynthesisNetwork(w_dim, img_resolution, img_channels, res_uc=res_uc,
                                          **(synthesis_kwargs or {}))
        self.num_ws = self.synthesis.num_ws
        self.mapping = MappingNetwork(z_dim, c_dim, w_dim, self.num_ws, num_uc_ws=self.synthesis.num_uc_ws,
                                      **(mapping_kwargs or {}))

    def forward(self, z, c, *, truncation_psi=1, truncation_cutoff=None, update_w_avg=None, w_out=None,
                w_uc_out=None, uc_truncation="w_avg_uc", **synthesis_kwargs):
        ws = self.mapping(z, c, truncation_psi=truncation_psi, truncation_cutoff=truncation_cutoff,
                          update_w_avg=update_w_avg, w_out=w_out, w_uc_out=w_uc_out,
                          uc_truncation=uc_truncation)
        return self.synthesis(ws, **synthesis_kwargs)


class DiscriminatorEpilogue(stylegan2.DiscriminatorEpilogue):
    """Two heads: `out_uc` -> [N, 1] and, with labels, `out_c` -> projection on cmap."""

    def make_heads(self, features, cmap_dim):
        self.out_uc = stylegan2.FullyConnectedLayer(features, 1)
        if cmap_dim > 0:
            self.out_c = stylegan2.FullyConnectedLayer(features, cmap_dim)

    def forward(self, x, img, cmap):
        x = self.features(x, img)
        return self.out_uc(x) if cmap is None else stylegan2.project(self.out_c(x), cmap)


class FromRGB(nn.Module):
    """Entry for images of `res_uc`: float32, no clamp, untouched by Freeze-D."""

    def __init__(self, img_channels, out_channels, activation="lrelu"):
        super().__init__()
        self.fromrgb = stylegan2.Conv2dLayer(img_channels, out_channels, 1, activation=activation)

    def forward(self, img):
        return self.fromrgb(stylegan2.full_precision(img))


class Discriminator(stylegan2.Discriminator):
    """`D(img, c)` -> conditional logits [N, 1]; `D.forward_uc(img_uc)` -> unconditional logits [N, 1] of images
    of the level `res_uc`; `D.downsample_uc(img)` brings real images there. Both paths share the blocks from `res_uc`
    down and the head.

    faithful: with res_uc equal to the image's resolution the authors' network adds the first block's own fromRGB to
    `fromrgb_uc`; ours uses `fromrgb_uc` alone unless this is set.
    """

    epilogue_class = DiscriminatorEpilogue

    def __init__(self, c_dim, img_resolution, img_channels, res_uc=8, architecture="resnet", channel_base=32768,
                 channel_max=512, faithful=False, **kwargs):
        if architecture == "skip":
            raise ValueError("UTLO's discriminator has no 'skip' architecture; use 'resnet' or 'orig'")
        super().__init__(c_dim, img_resolution, img_channels, architecture=architecture, channel_base=channel_base,
                         channel_max=channel_max, **kwargs)
        self.init_kwargs.update(res_uc=res_uc, faithful=faithful)
        self.res_uc, self.faithful = check_res_uc(res_uc, img_resolution), faithful
        self.register_buffer("resample_filter", upfirdn2d.setup_filter([1, 3, 3, 1]))
        if res_uc:
            head = self._modules.pop("b4")  # the published order of parameters has fromrgb_uc in front of b4
            self.fromrgb_uc = FromRGB(img_channels, stylegan2.channels_at(res_uc, channel_base, channel_max))
            self.b4 = head

    def compute_as_published(self):
        """`faithful` from now on, in records of the network too: for the authors' tensors."""
        self.faithful = self.init_kwargs["faithful"] = True

    def forward_uc(self, img_uc, *, force_fp32=False):
        if not self.res_uc:
            raise ValueError("forward_uc needs a discriminator with res_uc > 0")
        size = ImageSize.of(self.img_resolution)
        if tuple(img_uc.shape[1:]) != (self.img_channels, *size.at(self.res_uc)):
            raise ValueError(f"forward_uc: images of {self.img_channels} x {size.at(self.res_uc)} expected, got "
                             f"{tuple(img_uc.shape)}")
        x = self.fromrgb_uc(img_uc)
        again = img_uc if self.faithful and self.res_uc == size.longer else None
        x, _ = self.run_blocks(x, again, force_fp32, start=self.res_uc)
        return self.b4(x, None, None)

    def downsample_uc(self, img):
        """Halve images [N, C, H, W] until their longer side has `res_uc` pixels."""
        if not self.res_uc:
            raise ValueError("downsample_uc needs a discriminator with res_uc > 0")
        while max(img.shape[2:]) > self.res_uc:
            img = upfirdn2d.downsample2d(img, self.resample_filter)
        return img

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        if not self.res_uc:  # the authors' network has an empty entry then
            for key in [k for k, v in state_dict.items() if k.startswith(prefix + "fromrgb_uc.") and
                        (v.numel() == 0 or k.endswith("resample_filter"))]:
                del state_dict[key]
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def check_res_uc(res_uc: int, img_resolution: int | tuple[int, int]) -> int:
    """res_uc itself, or ValueError with the valid choices."""
    size = ImageSize.of(img_resolution)
    if res_uc and res_uc not in size.levels:
        raise ValueError(f"res_uc must be 0 or one of {size.levels} for images of {size} pixels, not {res_uc}")
    return res_uc


class WarmStart(NamedTuple):
    """state: complete state dict for the network; fresh: names that keep the network's own initialisation; dropped:
    names of the source without a place."""

    state: dict[str, torch.Tensor]
    fresh: list[str]
    dropped: list[str]


def from_base_state(state: dict[str, torch.Tensor], net: nn.Module) -> WarmStart:
    """Map the state dict of a StyleGAN2-ADA generator or discriminator onto a UTLO one; nothing is loaded here.

    Equal labels: the same function (for one w broadcast to all layers), plus new heads. An unconditional source for a
    conditional network: the label's columns of the first mapping layer start at zero, so that every class starts as
    the source's images; the unconditional logit becomes `out_uc`. A conditional source for an unconditional one:
    the label is dropped. `fromrgb_uc` starts as the source's fromRGB where the widths agree.
    """
    source, own = dict(state), net.state_dict()
    top = [k for k in own if k.endswith(".fromrgb.weight") and not k.startswith("fromrgb_uc")]
    for part in ("weight", "bias"):
        if f"b4.out.{part}" in source:
            head = "out_c" if "mapping.embed.weight" in source else "out_uc"
            source[f"b4.{head}.{part}"] = source.pop(f"b4.out.{part}")
        if top and f"fromrgb_uc.fromrgb.{part}" in own:
            copied = source.get(top[0].rpartition(".")[0] + f".{part}")
            if copied is not None and copied.shape == own[f"fromrgb_uc.fromrgb.{part}"].shape:
                source.setdefault(f"fromrgb_uc.fromrgb.{part}", copied)
    if "mapping.w_avg_uc" in own and "mapping.w_avg" in source:
        source.setdefault("mapping.w_avg_uc", source["mapping.w_avg"])
    if "mapping.fc0.weight" in source and "mapping.fc0.weight" in own and getattr(net, "z_dim", 0):
        source["mapping.fc0.weight"] = _resize_columns(source["mapping.fc0.weight"], own["mapping.fc0.weight"].shape,
                                                       net.z_dim)
    taken = {k: v for k, v in source.items() if k in own and v.shape == own[k].shape}
    made_here = {"resample_filter"}
    return WarmStart({**{k: v.clone() for k, v in own.items()}, **taken},
                     [k for k in own if k not in taken and k.rpartition(".")[2] not in made_here],
                     [k for k in source if k not in taken])


def _resize_columns(weight, shape, z_dim):
    """First mapping layer with or without label columns; its run-time gain 1/sqrt(columns) is compensated."""
    if weight.shape == shape or weight.shape[0] != shape[0] or min(weight.shape[1], shape[1]) != z_dim:
        return weight
    out = weight.new_zeros(shape)
    out[:, :z_dim] = weight[:, :z_dim] * math.sqrt(shape[1] / weight.shape[1])
    return out
