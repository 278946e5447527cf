# SPDX-License-Identifier: Apache-2.0
"""Train, measure and adapt class-conditional GANs: several methods, one base, one loop, one snapshot format.

    import gantransfer
    snap = gantransfer.load("file.pkl")            # ours or foreign, path or URL; nothing executed
    G = snap.build("G_ema")
    images = snap.sampler("cpu")(seeds=[0, 1], c=None)

Names are imported when they are first used: `import gantransfer` itself loads neither torch nor numpy.
"""

from importlib import import_module

__version__ = "0.1.0"
__all__ = ["Model", "__version__", "load"]

_NAMES = {"load": "gantransfer.model", "Model": "gantransfer.model"}


def __getattr__(name: str) -> object:
    if name not in _NAMES:
        raise AttributeError(f"module 'gantransfer' has no attribute {name!r}")
    return getattr(import_module(_NAMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_NAMES})
