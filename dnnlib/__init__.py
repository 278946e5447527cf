# SPDX-License-Identifier: Apache-2.0
"""Small helpers that know neither torch nor GANs."""

from dnnlib.util import EasyDict, UserError

__all__ = ["EasyDict", "UserError"]
