# SPDX-License-Identifier: Apache-2.0
"""Small helpers that know neither torch nor GANs."""

__all__ = ["EasyDict", "UserError"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'dnnlib' has no attribute {name!r}")
    from dnnlib import util  # not at import: `dnnlib.signals` must be there at once

    return getattr(util, name)
