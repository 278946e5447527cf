# SPDX-License-Identifier: Apache-2.0
"""The methods, by the name `--method` takes. Adding one is a file beside this and a line here."""

from gantransfer.method import Method
from gantransfer.methods.biggan import BigGAN
from gantransfer.methods.ccgan import CcGAN
from gantransfer.methods.cgantransfer import CGANTransfer
from gantransfer.methods.stylegan2 import StyleGAN2
from gantransfer.methods.transitional import Transitional
from gantransfer.methods.utlo import UTLO

METHODS: dict[str, type[Method]] = {
    "stylegan2": StyleGAN2,
    "utlo": UTLO,
    "transitional": Transitional,
    "biggan": BigGAN,
    "cgantransfer": CGANTransfer,
    "ccgan": CcGAN,
}
