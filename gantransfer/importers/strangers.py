# SPDX-License-Identifier: Apache-2.0
"""Relatives of the networks we read that are not read themselves, told apart by name so that a refusal says what a file
is. Recognised by the names in it alone; nothing is run."""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Collection

READABLE = ("of this family StyleGAN2 can be read (of stylegan2-ada-pytorch or of the StyleGAN3 code), UTLO and "
            "transitional-cGAN")
_SG3, _XL, _T = "StyleGAN3 generator", "StyleGAN-XL or Projected GAN network", "StyleGAN-T network"
# Modules of their code that a pickle refers to, by the beginning of the name.
_MODULES = {
    "pg_modules.": _XL, "feature_networks.": _XL, "training.networks_fastgan.": _XL, "timm.": _XL,
    "training.networks_stylegan3_resetting.": _XL, "training.networks_stylegan3.": _SG3,
    "networks.generator.": _T, "networks.clip.": _T, "networks.discriminator.": _T, "networks.shared.": _T,
    "open_clip.": _T, "training.triplane.": "EG3D network", "training.volumetric_rendering.": "EG3D network",
}
# Short texts in the pickle: names of classes and of tensors.
_WORDS = {
    "SuperresGenerator": _XL, "embed_proj": _XL, "ProjectedDiscriminator": _XL, "TriPlaneGenerator": "EG3D network",
    "EDMPrecond": "EDM diffusion model", "Precond": "EDM2 diffusion model", "magnitude_ema": _SG3,
}
_MOST = 200_000  # instructions looked at
_DAMAGE = (ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, RuntimeError, TypeError,
           ValueError, struct.error)  # of a pickle's instructions


def by_tensors(names: Collection[str]) -> str | None:
    """What a state dict with these names belongs to, in words; None if it is of no kind known here."""
    if any(n.startswith(("mapping.embed_proj.", "synthesis.superres.")) for n in names):
        return _XL
    if any(n.startswith(("mapping.clip.", "synthesis.b4.input.")) or n == "mapping.x_avg" for n in names):
        return _T
    return _SG3 if any(n.startswith("synthesis.input.") for n in names) else None


def by_pickle(data: bytes) -> str | None:
    """What a refused pickle belongs to, in words. Reads its instructions and never runs one; stops at damage."""
    found: list[str] = []
    try:
        for count, (op, arg, _) in enumerate(pickletools.genops(data)):
            if count > _MOST:
                break
            if isinstance(arg, str) and len(arg) < 100:
                text = arg.replace(" ", ".", 1) if op.name == "GLOBAL" else arg
                found += [kind for start, kind in _MODULES.items() if f"{text}.".startswith(start)]
                found += [_WORDS[text]] if text in _WORDS else []
    except _DAMAGE:
        pass
    return next((kind for kind in (_T, _XL) if kind in found), next(iter(found), None))
