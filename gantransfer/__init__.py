# SPDX-License-Identifier: Apache-2.0
"""Train, measure and adapt class-conditional GANs: several methods, one base, one loop, one snapshot format.

    import gantransfer
    snap = gantransfer.load("file.pkl")            # ours or foreign, path or URL; nothing executed
    G = snap.build("G_ema")
    images = snap.sampler("cpu")(seeds=[0, 1], c=None)

Names are imported when they are first used: `import gantransfer` itself loads neither torch nor numpy.
"""

import sys
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path

__version__ = "0.2.0"
__all__ = ["Model", "__version__", "load"]

_NAMES = {"load": "gantransfer.model", "Model": "gantransfer.model"}


def _claim(name: str) -> None:
    """Make `import dnnlib` mean ours also where another project of that name comes first on the path.

    Every StyleGAN checkout has a `dnnlib` and a `torch_utils` of its own, and whoever stands in one would get those.
    """
    home = Path(__file__).resolve().parent.parent
    if name in sys.modules:
        found = getattr(sys.modules[name], "__file__", None)
        if found is None or Path(found).resolve().parent != home / name:
            raise ImportError(f"another project's {name} ({found}) is loaded already and gantransfer has one of its "
                              f"own: import gantransfer first, or in a process without {name}")
        return
    first = PathFinder.find_spec(name)
    if first is not None and first.origin and Path(first.origin).resolve().parent == home / name:
        return
    spec = PathFinder.find_spec(name, [str(home)])
    module = module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


_claim("dnnlib")
_claim("torch_utils")


def __getattr__(name: str) -> object:
    if name not in _NAMES:
        raise AttributeError(f"module 'gantransfer' has no attribute {name!r}")
    return getattr(import_module(_NAMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_NAMES})
