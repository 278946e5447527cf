# SPDX-License-Identifier: Apache-2.0
"""Weights files: where they are looked for, how they are checked, how they are read. Nothing is downloaded silently."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from dnnlib import util
from dnnlib.util import UserError, first_line
from gantransfer.formats import safetensors, torch_file
from gantransfer.formats.inert_pickle import Refused


@dataclass(frozen=True)
class WeightsFile:
    """A published file: its names on users' disks, its address, and as much of its SHA-256 as is established."""

    names: tuple[str, ...]
    url: str
    sha256: str = ""  # a prefix; empty: not established


class MissingWeights(UserError):
    """No file for a detector. `wanted` names the files, `searched` the folders."""

    def __init__(self, name: str, wanted: Sequence[str], searched: Sequence[Path], url: str = "", fetch: str = ""):
        self.detector, self.wanted, self.searched, self.url, self.fetch = name, wanted, searched, url, fetch
        super().__init__(self.describe())

    def describe(self, metric: str = "") -> str:
        """One line: the metric, the file wanted, where it was looked for, what to do."""
        for_metric = f"metric '{metric}' needs the weights of " if metric else ""
        remedies = [f"--detector={self.detector}=FILE", "GANTRANSFER_DETECTORS=FOLDER in the environment"]
        if self.fetch:
            remedies.append(f"gantransfer calc_metrics --fetch-detector={self.fetch} (downloads {self.url})")
        return (f"{for_metric}detector '{self.detector}', which {'are' if for_metric else 'is'} not on this machine: "
                f"wanted {' or '.join(self.wanted)}; searched {', '.join(map(str, self.searched))}; remedies: "
                f"{'; '.join(remedies)}; or go on with --metrics=none or --metrics=smoke, which need no weights")


def package_data() -> Path:
    """The folder of the weights that ship with the package."""
    return Path(__file__).resolve().parent.parent / "assets"


def search_path() -> list[Path]:
    """Folders searched for weights, in order. The users' caches of other tools are only read."""
    home, env = Path.home(), util.env_path
    listed = os.environ.get("GANTRANSFER_DETECTORS") or ""
    folders = [Path(util.expand_user(p)) for p in listed.split(os.pathsep) if p]
    folders += [util.cache_dir("detectors"), util.cache_dir("downloads"), package_data()]
    folders.append(Path(env("DNNLIB_CACHE_DIR") or home / ".cache" / "dnnlib", "downloads"))
    torch_home = env("TORCH_HOME") or Path(env("XDG_CACHE_HOME") or home / ".cache", "torch")
    folders += [Path(torch_home, "hub", "checkpoints"), home / ".cache" / "clip", Path(tempfile.gettempdir())]
    return list(dict.fromkeys(folders))


def _download_name(url: str) -> str:
    return f"{hashlib.md5(url.encode()).hexdigest()}_{url.rsplit('/', 1)[-1]}"


@lru_cache(maxsize=64)
def _sha256(path: str, size: int, mtime: int) -> str:
    return util.sha256(path)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, remembered while size and modification time stay."""
    stat = Path(path).stat()
    return _sha256(str(path), stat.st_size, stat.st_mtime_ns)


def find(files: Sequence[WeightsFile]) -> Path | None:
    """The first of `files` on the search path, its hash checked."""
    for file in files:
        for folder in search_path():
            for candidate in (*file.names, _download_name(file.url)):
                path = folder / candidate
                if path.is_file() and _ours(path, folder):
                    return verified(path, file, files)
    return None


def _ours(path: Path, folder: Path) -> bool:
    """The system's temporary folder (clean-fid keeps weights there) is anybody's: only the user's own files count."""
    return folder != Path(tempfile.gettempdir()) or not hasattr(os, "getuid") or path.stat().st_uid == os.getuid()


def verified(path: Path, file: WeightsFile | None, files: Sequence[WeightsFile]) -> Path:
    """`path` if its hash is that of one of `files`; `file` is the entry its name stands for, None for another name.

    A file whose hash is not established passes: its tensors are checked on loading. Else UserError.
    """
    digest = sha256_of(path)
    known = [f.sha256 for f in files if f.sha256]
    if not known or any(digest.startswith(k) for k in known):
        return path
    unknown = [f for f in files if not f.sha256]
    if file in unknown or (file is None and any(n.endswith(path.suffix) for f in unknown for n in f.names)):
        return path
    published = " or ".join(k[:8] for k in known)
    raise UserError(f"{path}: SHA-256 begins {digest[:8]}, the published weights' with {published}: the file is "
                    "damaged or another network; delete it, or use it under a name of its own (--detector=NAME=FILE "
                    "with a descriptor)")


def download(file: WeightsFile) -> Path:
    """Download one published file into the cache and check its hash."""
    path = util.fetch(file.url)
    digest = sha256_of(path)
    if not digest.startswith(file.sha256):
        path.unlink()
        raise UserError(f"{file.url}: the download's SHA-256 begins {digest[:8]}, expected {file.sha256}; try again")
    return path


def read_state(path: Path) -> dict[str, Tensor]:
    """State dict of a weights file: a torch file of plain tensors, safetensors, or the tensors of a TorchScript file.

    Nothing in the file runs, a TorchScript program neither. UserError, one line.
    """
    try:
        if safetensors.is_safetensors(path):
            obj: object = safetensors.read(path)[0]
        else:
            obj = torch_file.script_tensors(path) if torch_file.is_script(path) else torch_file.load(path)
    except (Refused, OSError) as e:
        raise UserError(f"{path}: cannot be read as weights ({first_line(e)}); the file may be an incomplete download: "
                        "delete it and fetch it again") from None
    if not isinstance(obj, Mapping) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in obj.items()):
        raise UserError(f"{path}: not a state dict of tensors")
    return dict(obj)


def load_script(path: Path, device: torch.device, published: WeightsFile | None = None) -> nn.Module:
    """Open a TorchScript file. That file is a program: what its author put into it runs, now and at every call.

    Only called where a descriptor's `kind` says `torchscript`, or for the file `published`, whose hash it must have.
    """
    if published is not None and sha256_of(path) != published.sha256:
        raise UserError(f"{path} is not the published {published.names[-1]} (SHA-256 {published.sha256[:8]}...); it is "
                        "a program, and runs under that name only if it is the published one: describe another with a "
                        "descriptor of kind torchscript, under a name of its own")
    try:
        return torch.jit.load(str(path), map_location=device).eval()
    except Exception as e:  # torch raises many kinds here, and the program any
        raise UserError(f"{path}: not a TorchScript file ({first_line(e)})") from None


def load_program(path: Path, device: torch.device) -> nn.Module:
    """Open a file of torch.export, a program as well. Only called where a descriptor's `kind` says `export`."""
    try:
        return torch.export.load(str(path)).module().to(device)
    except Exception as e:  # torch.export raises many kinds; all mean that the file is not one of its archives
        raise UserError(f"{path}: not a torch.export file ({first_line(e)})") from None


def load_strictly(net: nn.Module, state: Mapping[str, Tensor], path: Path) -> nn.Module:
    """`net` with the state, in eval mode, frozen. A failure is one line naming the first tensor that does not fit."""
    own = net.state_dict()
    # files written before torch 0.4 lack the batch counters, which evaluation does not use
    state = {**{k: v for k, v in own.items() if k.endswith("num_batches_tracked")}, **state}
    for k in own:
        if k not in state:
            raise UserError(f"{path}: tensor '{k}' is missing; this file holds another network")
        if state[k].shape != own[k].shape:
            raise UserError(f"{path}: tensor '{k}' has shape {tuple(state[k].shape)} instead of {tuple(own[k].shape)}; "
                            "this file holds another network")
    extra = [k for k in state if k not in own]
    if extra:
        raise UserError(f"{path}: unknown tensor '{extra[0]}'; this file holds another network")
    net.load_state_dict(state)
    return net.eval().requires_grad_(False)
