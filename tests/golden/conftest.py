# SPDX-License-Identifier: Apache-2.0
"""Where the golden numbers are, and how they are compared.

The whole sets live outside the repository: `$GANTRANSFER_GOLDEN` or `../shared/golden` beside it. Where they are
absent, the smallest files of each method are read from `small` here; tests of the others are skipped with the reason.
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from dnnlib.util import env_path
from torch_utils import build

# What computes with networks does so twice: with the operators that this test run was told to use, and with PyTorch's.
TWICE = ("augment", "networks", "training", "transfer_transfer", "ccgan", "style1", "alae", "mindgan")
SMALL = Path(__file__).parent / "small"


def golden_root() -> Path:
    default = Path(__file__).resolve().parents[2].parent / "shared" / "golden"
    given = env_path("GANTRANSFER_GOLDEN")
    return Path(given) if given else default if default.is_dir() else SMALL


def golden_files(area: str, pattern: str) -> list:
    """Paths of `area` matching `pattern` as pytest parameters; one skipped parameter when there is none."""
    for root in (golden_root(), SMALL):
        files = sorted((root / area).glob(pattern))
        if files:
            return [pytest.param(f, id=f.name) for f in files]
    reason = f"no golden files {area}/{pattern} under {golden_root()} (set GANTRANSFER_GOLDEN)"
    return [pytest.param(None, id=f"no-{area}-{pattern}", marks=pytest.mark.skip(reason=reason))]


def golden_file(area: str, name: str) -> Path:
    """One file, wherever it is; skips the test where it is nowhere."""
    found = golden_files(area, name)[0].values[0]
    if found is None:
        pytest.skip(f"no golden file {area}/{name} under {golden_root()} (set GANTRANSFER_GOLDEN)")
    return found


def load_npz(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """(config, arrays) of a golden .npz."""
    with np.load(path, allow_pickle=False) as z:
        arrays = {k: z[k] for k in z.files}
    config = json.loads(str(arrays.pop("config"))) if "config" in arrays else {}
    return config, arrays


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "impl" not in metafunc.fixturenames and metafunc.module.__name__.endswith(TWICE):
        metafunc.parametrize("operators", ["told", "ref"], indirect=True)


@pytest.fixture(autouse=True)
def operators(request: pytest.FixtureRequest, chosen_kernels: None) -> Iterator[None]:
    with build.using("ref") if getattr(request, "param", "told") == "ref" else contextlib.nullcontext():
        yield


@pytest.fixture
def loaded(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    return load_npz(path)


@pytest.fixture
def config(loaded) -> dict:
    """Of the file that a test's parameter `path` names."""
    return loaded[0]


@pytest.fixture
def a(loaded) -> dict[str, np.ndarray]:
    """Its arrays."""
    return loaded[1]


def tensor(a) -> torch.Tensor:
    return torch.from_numpy(np.array(a))


def under(arrays: dict, prefix: str) -> dict:
    """What is named `prefix`..., by the rest of its name."""
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def tensors(arrays: dict[str, np.ndarray], prefix: str = "") -> dict[str, torch.Tensor]:
    """The numbers among them, as tensors of their own memory."""
    return {k: tensor(v) for k, v in under(arrays, prefix).items() if v.dtype.kind != "U"}


def cases(path: Path, prefix: str = "case{:02d}/") -> Iterator[tuple[str, dict, dict[str, torch.Tensor]]]:
    """(name for messages, configuration, tensors) of every case of a file."""
    config, arrays = load_npz(path)
    assert config["cases"]
    for i, case in enumerate(config["cases"]):
        yield f"{path.name}[{i}]", case, tensors(arrays, prefix.format(i))


def assert_close(actual, expected, rel: float = 1e-4, floor: float = 1e-7, what: str = "") -> None:
    """max|a-b| <= rel * max|b| (+ floor): the tolerance the golden README suggests. Of arrays or tensors."""
    a, b = (np.asarray(x.detach() if hasattr(x, "detach") else x, np.float64) for x in (actual, expected))
    assert a.shape == b.shape, f"{what}: shape {a.shape} instead of {b.shape}"
    if b.size == 0:
        return
    assert np.isfinite(a).all(), f"{what}: not finite"
    error, scale = np.abs(a - b).max(), np.abs(b).max()
    assert error <= rel * scale + floor, f"{what}: error {error:.3g}, largest value {scale:.3g}"
