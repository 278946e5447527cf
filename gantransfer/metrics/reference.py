# SPDX-License-Identifier: Apache-2.0
"""Statistics of real images as a file: written once, shared, used where the images are not at hand.

Read are our own .npz, EDM's .npz (`mu`, `sigma`), and EDM2's pickle ({'num_images', 'fid': {'mu', 'sigma'}, ...}).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dnnlib import util
from dnnlib.util import UserError, first_line
from gantransfer.detectors.features import Detector
from gantransfer.formats import npz, pickled_arrays
from gantransfer.formats.pickle_machine import Refused
from gantransfer.metrics.fid import Moments

# EDM2's name of a detector -> ours
_EDM2 = {"fid": "inception", "fd_dinov2": "dinov2-edm2"}
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


def read_reference(path: str | Path) -> ReferenceStats:
    """Read a file of statistics. UserError, naming the file, for anything else. Runs nothing that is in the file."""
    path = util.fetch(path)
    try:
        data = path.read_bytes()
    except OSError as e:
        raise UserError(f"--ref={path} cannot be read ({e.strerror})") from None
    digest = hashlib.sha256(data).hexdigest()
    try:
        if data[:2] == b"PK":
            return _from_npz(path, digest, npz.read(data))
        return _from_pickle(path, digest, pickled_arrays.load(data))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RuntimeError, Refused) as e:
        raise UserError(f"--ref={path} is not a file of reference statistics ({first_line(e)})") from None


def _from_npz(path: Path, digest: str, a: Mapping[str, np.ndarray]) -> ReferenceStats:
    if "header" in a:
        header = json.loads(str(a["header"]))
        detector, num = header["detector"], _count(a["num"])
        if not (isinstance(detector["name"], str) and isinstance(detector["sha256"], str)
                and isinstance(header["dataset"], dict)):
            raise ValueError("its header is damaged")
        return ReferenceStats(path, digest, {detector["name"]: _moments(a, num)}, num, detector["sha256"],
                              header["dataset"])
    return ReferenceStats(path, digest, {"inception": _moments(a, _UNKNOWN)}, None)


def _from_pickle(path: Path, digest: str, obj: Mapping[str, Any]) -> ReferenceStats:
    if not isinstance(obj, dict):
        raise ValueError("it holds no dict")
    num = _count(obj["num_images"]) if "num_images" in obj else None
    moments = {ours: _moments(obj[theirs], num or _UNKNOWN) for theirs, ours in _EDM2.items() if theirs in obj}
    if not moments:
        raise ValueError(f"it has none of {', '.join(_EDM2)}")
    return ReferenceStats(path, digest, moments, num)


def _count(value: Any) -> int:
    """A number of images. ValueError for anything else."""
    number = np.asarray(value)
    if number.shape != () or number.dtype.kind not in "iu" or not 0 < int(number) <= _UNKNOWN:
        raise ValueError("its number of images is none")
    return int(number)


def _moments(a: Mapping[str, Any], num: int) -> Moments:
    """Moments out of `mu` [D] and `sigma` [D, D]. ValueError when they are anything else."""
    if not isinstance(a, dict):
        raise ValueError("it holds no mean and covariance")
    mu, sigma = np.array(a["mu"]), np.array(a["sigma"])  # copies: those of a pickle are read-only
    if not (mu.dtype.kind == sigma.dtype.kind == "f" and mu.ndim == 1 and len(mu)
            and sigma.shape == (len(mu), len(mu))):
        raise ValueError(f"mean {list(mu.shape)} and covariance {list(sigma.shape)} do not fit")
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise ValueError("its mean or covariance is not finite")
    return Moments.from_mean_cov(num, mu, sigma, ddof=1)


def write_reference(path: str | Path, moments: Moments, detector: Detector, dataset: Mapping[str, Any]) -> None:
    """Write our own format: `mu` [D], `sigma` [D, D] (divisor n-1, as EDM's files), `num`, and a JSON `header`."""
    header = json.dumps(dict(format="gantransfer-reference", detector=detector.identity(), dataset=dict(dataset)))
    with util.atomic_path(path) as tmp, open(tmp, "wb") as f:
        np.savez(f, mu=moments.mean.numpy(), sigma=moments.cov(1).numpy(), num=np.int64(moments.num),
                 header=np.array(header))
