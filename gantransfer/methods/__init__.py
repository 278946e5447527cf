# SPDX-License-Identifier: Apache-2.0
"""The methods, by name and by the command that trains them. Adding one is a file beside this and a line here."""

import importlib
from collections import UserDict

from gantransfer.method import Method


class Table(UserDict[str, type[Method]]):
    """Methods by name. The file of one is imported when it is asked for: importing all takes a fifth of a second."""

    def __getitem__(self, name: str) -> type[Method]:
        kind = self.data[name]
        if isinstance(kind, str):
            module, kind = kind.split(".")
            self.data[name] = kind = getattr(importlib.import_module(f"{__name__}.{module}"), kind)
        return kind


TRAIN = Table({  # `train --method=NAME`: they make images
    "stylegan2": "stylegan2.StyleGAN2",
    "utlo": "utlo.UTLO",
    "transitional": "transitional.Transitional",
    "biggan": "biggan.BigGAN",
    "cgantransfer": "cgantransfer.CGANTransfer",
    "minegan": "minegan.MineGAN",
    "styletransfer": "styletransfer.StyleTransfer",
    "hypermod": "hypermod.Hypermod",
    "alae": "alae.ALAE",
    "encoder": "encoder.Encoder",
    "mind2mind": "mind2mind.Mind2Mind",
    "mind_tune": "mind_tune.MindTune",
    "ccgan": "ccgan.CcGAN",
})
DISTILL = Table({  # the stages of `distill`: they judge images
    "cgan_kd": "cgan_kd.CGANKD",
    "density_ratio": "density_ratio.DensityRatioTraining",
})
METHODS = Table(TRAIN.data | DISTILL.data)
