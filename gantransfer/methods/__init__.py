# SPDX-License-Identifier: Apache-2.0
"""The methods, by name and by the command that trains them. Adding one is a file beside this and a line here."""

from gantransfer.method import Method
from gantransfer.methods.alae import ALAE
from gantransfer.methods.biggan import BigGAN
from gantransfer.methods.ccgan import CcGAN
from gantransfer.methods.cgan_kd import CGANKD
from gantransfer.methods.cgantransfer import CGANTransfer
from gantransfer.methods.density_ratio import DensityRatioTraining
from gantransfer.methods.encoder import Encoder
from gantransfer.methods.hypermod import Hypermod
from gantransfer.methods.mind2mind import Mind2Mind
from gantransfer.methods.mind_tune import MindTune
from gantransfer.methods.minegan import MineGAN
from gantransfer.methods.stylegan2 import StyleGAN2
from gantransfer.methods.styletransfer import StyleTransfer
from gantransfer.methods.transitional import Transitional
from gantransfer.methods.utlo import UTLO

TRAIN: dict[str, type[Method]] = {  # `train --method=NAME`: they make images
    "stylegan2": StyleGAN2,
    "utlo": UTLO,
    "transitional": Transitional,
    "biggan": BigGAN,
    "cgantransfer": CGANTransfer,
    "minegan": MineGAN,
    "styletransfer": StyleTransfer,
    "hypermod": Hypermod,
    "alae": ALAE,
    "encoder": Encoder,
    "mind2mind": Mind2Mind,
    "mind_tune": MindTune,
    "ccgan": CcGAN,
}
DISTILL: dict[str, type[Method]] = {  # the stages of `distill`: they judge images
    "cgan_kd": CGANKD,
    "density_ratio": DensityRatioTraining,
}
METHODS = {**TRAIN, **DISTILL}
