# SPDX-License-Identifier: Apache-2.0
"""A frozen auto-encoder out of a snapshot: image -> latent -> image, whatever networks it is made of.

Three methods leave such snapshots: `encoder` (StyleGAN2 and its LatentEncoder), `alae`, and `mind2mind`, which carries
the auto-encoder it was trained in.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from dnnlib.util import UserError
from gantransfer import source_fit
from gantransfer.data.dataset import DataSpec
from gantransfer.networks import alae, mindgan, stylegan2
from gantransfer.snapshot import Snapshot


@dataclass
class AutoEncoder:
    """Frozen networks in eval mode on one device."""

    encoder: nn.Module  # image -> latents [N, slots, w_dim]
    synthesis: nn.Module  # ws [N, num_ws, w_dim] -> image
    spec: dict[str, Any]  # of the synthesis network, for mindgan.make_synthesis
    discriminator: nn.Module | None = None  # of a StyleGAN2 source: features, and later fine-tuning
    accepted: bool = True  # False for an encoder that missed its acceptance figures
    figures: dict[str, float] = field(default_factory=dict)  # its acceptance figures

    @property
    def slots(self) -> int:
        return self.encoder.slots

    @property
    def w_dim(self) -> int:
        return self.synthesis.w_dim

    @property
    def num_ws(self) -> int:
        return self.synthesis.num_ws

    def encode(self, img: torch.Tensor) -> torch.Tensor:
        """[N, slots, w_dim] of images in [-1, 1]."""
        return self.encoder(img)

    def decode(self, w: torch.Tensor) -> torch.Tensor:
        """Images of latents [N, slots, w_dim], with fixed noise."""
        return self.synthesis(w.expand(-1, self.num_ws, -1), noise_mode="const")

    def features(self, img: torch.Tensor) -> torch.Tensor:
        """[N, F]: what the source's discriminator sees in its last map, mean and deviation per channel; the latent
        itself where there is no discriminator. A perceptual space that every snapshot brings along."""
        if self.discriminator is None:
            return self.encoder(img).flatten(1)
        x = self.discriminator.run_blocks(None, img)[0].float().flatten(2)
        return torch.cat([x.mean(2), x.std(2)], 1)

    def hashes(self) -> dict[str, str]:
        """SHA-256 of the weights of both halves."""
        return dict(encoder=weights_hash(self.encoder), decoder=weights_hash(self.synthesis))

    def records(self) -> dict[str, nn.Module]:
        """Networks that a snapshot needs beside the generator so that it is an auto-encoder again."""
        nets = {"E": self.encoder}
        if self.discriminator is not None:
            nets["D"] = self.discriminator
        return nets


def weights_hash(net: nn.Module) -> str:
    """SHA-256 over names, shapes and values of the state."""
    digest = hashlib.sha256()
    for name, t in sorted(net.state_dict().items()):
        digest.update(f"{name} {list(t.shape)} {t.dtype}".encode())
        digest.update(t.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def load(snap: Snapshot, device: torch.device | str = "cpu", name: str = "the source") -> AutoEncoder:
    """The auto-encoder in a snapshot. UserError, with the remedy, when there is none or it is not finite."""
    encoder = next((n for n in ("E_ema", "E") if n in snap.nets), None)
    if encoder is None:
        raise UserError(f"{name} (method {snap.method}) has no encoder; train one with train.py --method=encoder "
                        f"--source=SNAPSHOT, or take an ALAE")
    generator = next((n for n in ("G_ema", "G") if n in snap.nets), None)
    if generator is None:
        raise UserError(f"{name} has an encoder but no generator; it cannot decode")
    for net in filter(None, (encoder, generator)):
        for key, t in snap.nets[net].state.items():
            if t.is_floating_point() and not bool(torch.isfinite(t).all()):
                raise UserError(f"{net}.{key} of {name} is not finite; use an earlier snapshot")
    G = snap.build(generator)
    synthesis, spec = decoder_of(G, name)
    E = snap.build(encoder, device)
    D = snap.build("D", device) if "D" in snap.nets and isinstance(synthesis, stylegan2.SynthesisNetwork) else None
    return AutoEncoder(E, synthesis.to(device), spec, D, bool(snap.extra.get("accepted", True)),
                       dict(snap.extra.get("acceptance", {})))


def decoder_of(G: nn.Module, name: str = "the source") -> tuple[nn.Module, dict[str, Any]]:
    """(synthesis network, its description for mindgan.make_synthesis). UserError for networks of other kinds."""
    if isinstance(G, mindgan.MindGenerator):
        return G.synthesis, G.init_kwargs["synthesis"]
    if isinstance(G, alae.Generator):
        synthesis = alae.Synthesis(**G.init_kwargs)
        synthesis.load_state_dict(G.state_dict())
        return synthesis.eval().requires_grad_(False), dict(kind="alae", **G.init_kwargs)
    inner = getattr(G, "synthesis", None)
    if type(inner) is stylegan2.SynthesisNetwork:
        k = G.init_kwargs
        return inner, dict(kind="stylegan2", w_dim=k["w_dim"], img_resolution=k["img_resolution"],
                           img_channels=k["img_channels"], **k["synthesis_kwargs"])
    raise UserError(f"{name} has a generator of the class {type(G).__name__}; Mind2Mind works in the latent space of a "
                    f"StyleGAN2 or an ALAE")


def check_images(ae: AutoEncoder, data: DataSpec, name: str = "the source") -> None:
    """UserError unless `data` has images of the auto-encoder's size."""
    source_fit.images(ae.encoder.img_resolution, ae.encoder.img_channels, data, name)
