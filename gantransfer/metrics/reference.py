# SPDX-License-Identifier: Apache-2.0
"""Statistics of real images as a file: written once, shared, used where the images are not at hand.

Read are our own .npz, EDM's .npz (`mu`, `sigma`), and EDM2's pickle ({'num_images', 'fid': {'mu', 'sigma'}, ...}).
"""

from __future__ import annotations

import codecs
import hashlib
import io
import json
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dnnlib import util
from dnnlib.util import UserError
from gantransfer.metrics.fid import Moments
from gantransfer.networks.features import Detector

# EDM2's name of a detector -> ours
_EDM2 = {"fid": "inception", "fd_dinov2": "dinov2"}
# Published files may lack the number of images. The divisor of their covariance then cannot be changed, and with this
# count it does not change in any digit.
_UNKNOWN = 2**50


@dataclass(frozen=True)
class ReferenceStats:
    """Moments by detector name; `sha256` of the file; `detector_sha256` and `dataset` where the file records them."""

    path: Path
    sha256: str
    moments: dict[str, Moments]
    num: int | None
    detector_sha256: str | None = None
    dataset: dict[str, Any] | None = None

    def of(self, detector: Detector) -> Moments:
        """Moments by this detector. UserError when the file has none, or of another network of that name."""
        if detector.name not in self.moments:
            raise UserError(f"--ref={self.path} has statistics of {', '.join(self.moments)}, not of '{detector.name}'")
        m = self.moments[detector.name]
        if self.detector_sha256 and self.detector_sha256 != detector.sha256:
            raise UserError(f"--ref={self.path} was made with other weights of '{detector.name}' (SHA-256 "
                            f"{self.detector_sha256[:8]}..., here {detector.sha256[:8]}...): not comparable")
        if detector.dim is not None and m.dim != detector.dim:
            raise UserError(f"--ref={self.path} has {m.dim} features, '{detector.name}' has {detector.dim}")
        return m


class _Arrays(pickle.Unpickler):
    """Unpickles dicts, numbers and NumPy arrays; any other name in the file is refused."""

    # what NumPy itself names when it pickles an array and a number, under the module names of its major versions
    _ALLOWED = {(module, fn.__name__): fn for fn in (np.zeros(0).__reduce__()[0], np.float64(0).__reduce__()[0])
                for module in ("numpy.core.multiarray", "numpy._core.multiarray")} | {
        ("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype, ("_codecs", "encode"): codecs.encode}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}")
        return self._ALLOWED[module, name]


def read_reference(path: str | Path) -> ReferenceStats:
    """Read a file of statistics. UserError, naming the file, for anything else. Runs nothing that is in the file."""
    path = util.fetch(path)
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    try:
        if data[:2] == b"PK":
            with np.load(io.BytesIO(data), allow_pickle=False) as z:
                arrays = {k: z[k] for k in z.files}
            return _from_npz(path, digest, arrays)
        return _from_pickle(path, digest, _Arrays(io.BytesIO(data)).load())
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, EOFError, zipfile.BadZipFile,
            pickle.UnpicklingError) as e:
        raise UserError(f"--ref={path} is not a file of reference statistics ({e})") from None


def _from_npz(path: Path, digest: str, a: Mapping[str, np.ndarray]) -> ReferenceStats:
    if "header" in a:
        header = json.loads(str(a["header"]))
        m = Moments.from_mean_cov(int(a["num"]), a["mu"], a["sigma"], ddof=1)
        return ReferenceStats(path, digest, {header["detector"]["name"]: _checked(m)}, int(a["num"]),
                              header["detector"]["sha256"], header["dataset"])
    return ReferenceStats(path, digest, {"inception": _checked(_published(a, _UNKNOWN))}, None)


def _from_pickle(path: Path, digest: str, obj: Mapping[str, Any]) -> ReferenceStats:
    num = int(obj["num_images"]) if "num_images" in obj else None
    moments = {ours: _checked(_published(obj[theirs], num or _UNKNOWN)) for theirs, ours in _EDM2.items()
               if theirs in obj}
    if not moments:
        raise ValueError(f"it has none of {', '.join(_EDM2)}")
    return ReferenceStats(path, digest, moments, num)


def _published(a: Mapping[str, np.ndarray], num: int) -> Moments:
    return Moments.from_mean_cov(num, a["mu"], a["sigma"], ddof=1)


def _checked(m: Moments) -> Moments:
    if m.mean.ndim != 1 or m.scatter.shape != (m.dim, m.dim) or not bool(m.scatter.isfinite().all()):
        raise ValueError(f"mean {tuple(m.mean.shape)} and covariance {tuple(m.scatter.shape)} do not fit")
    return m


def write_reference(path: str | Path, moments: Moments, detector: Detector, dataset: Mapping[str, Any]) -> None:
    """Write our own format: `mu` [D], `sigma` [D, D] (divisor n-1, as EDM's files), `num`, and a JSON `header`."""
    header = json.dumps(dict(format="gantransfer-reference", detector=detector.identity(), dataset=dict(dataset)))
    with util.atomic_path(path) as tmp, open(tmp, "wb") as f:
        np.savez(f, mu=moments.mean.numpy(), sigma=moments.cov(1).numpy(), num=np.int64(moments.num),
                 header=np.array(header))
