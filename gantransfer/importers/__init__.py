# SPDX-License-Identifier: Apache-2.0
"""Foreign checkpoints as our snapshots. `IMPORTERS` is the table of what can be read; nothing in a file is executed.

Each importer recognises its files by content, rebuilds the constructor arguments from what the file says, and accounts
for every tensor: copied, renamed, initialised or dropped. What cannot be accounted for is an error, not a guess.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dnnlib.util import UserError, fetch, is_url, sha256
from gantransfer import snapshot
from gantransfer.data.labels import some
from gantransfer.exporters import weights
from gantransfer.formats import torch_file
from gantransfer.formats.inert_pickle import Refused
from gantransfer.importers import alae, biggan, mean_w, mindgan, rosinality, strangers, stylegan1, stylegan2_ada
from gantransfer.importers.common import Result, Source, to_snapshot
from gantransfer.importers.stylegan2_ada import read_pickle
from gantransfer.snapshot import Snapshot

__all__ = ["IMPORTERS", "RESUME_NAMES", "Importer", "detect", "identity", "is_images", "load_any", "open_source",
           "read_pickle"]

_SOURCE_NETS = ("https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/transfer-learning-source-nets/"
                "{}.pkl")
RESUME_NAMES: dict[str, str] = {
    "ffhq256": _SOURCE_NETS.format("ffhq-res256-mirror-paper256-noaug"),
    "ffhq512": _SOURCE_NETS.format("ffhq-res512-mirror-stylegan2-noaug"),
    "ffhq1024": _SOURCE_NETS.format("ffhq-res1024-mirror-stylegan2-noaug"),
    "celebahq256": _SOURCE_NETS.format("celebahq-res256-mirror-paper256-kimg100000-ada-target0.5"),
    "lsundog256": _SOURCE_NETS.format("lsundog-res256-paper256-kimg100000-noaug"),
}
"""Names that stand for published transfer sources (`--resume=ffhq256`)."""


@dataclass(frozen=True)
class Importer:
    """One kind of foreign checkpoint."""

    name: str  # what --format takes
    title: str
    recognise: Callable[[Source], bool]  # by content; raises Refused for a damaged or hostile file
    convert: Callable[[Source], Result]


IMPORTERS: tuple[Importer, ...] = (
    Importer("stylegan2-ada", "StyleGAN2-ADA, its UTLO and transitional-cGAN, and StyleGAN2 of the StyleGAN3 code",
             stylegan2_ada.recognise, stylegan2_ada.convert),
    Importer("rosinality-stylegan2", "rosinality's StyleGAN2 (.pt)", rosinality.recognise, rosinality.convert),
    Importer("hypermod", "Hyper-Modulation (.model)", stylegan1.recognise_hyper, stylegan1.convert),
    Importer("rosinality-stylegan1", "rosinality's StyleGAN v1 (.model)", stylegan1.recognise_base, stylegan1.convert),
    Importer("alae", "ALAE (.pth)", alae.recognise, alae.convert),
    Importer("mindgan", "MindGAN (Mind2Mind)", mindgan.recognise, mindgan.convert),
    Importer("biggan", "BigGAN-PyTorch and cGANTransfer folders and files (.pth)", biggan.recognise, biggan.convert),
)


def load_any(path_or_url: str | os.PathLike, format: str = "auto", copy: str = "") -> Snapshot:
    """A snapshot from a file, folder or URL in our own formats or in one of `IMPORTERS`.

    Also takes the names of `RESUME_NAMES` where no file of that name exists. `format`: name of an importer, or 'auto'.
    `copy`: which of several sets of weights in a BigGAN folder ('best0', 'copy1'). Nothing in the file is executed.
    Raises UserError, one line that names the file, for anything else.
    """
    text, source, address = _open(path_or_url, copy)
    if format not in ("auto", "gantransfer", *(i.name for i in IMPORTERS)):
        raise UserError(f"--format={format} is not a known format; there are auto, gantransfer, "
                        + ", ".join(i.name for i in IMPORTERS))
    try:
        snap = _own(source) if format in ("auto", "gantransfer") else None
        if snap is None:
            importer = detect(source, format)
            snap = to_snapshot(importer.convert(source), text, importer.name)
        return _with_means(snap, text)
    except Refused as e:
        reason = str(e)
        stranger = None if strangers.READABLE in reason else _stranger(source)
        if stranger:
            reason = f"it is of a {stranger} ({reason}); {strangers.READABLE}"
        if source.kind != "folder" and not source.start:
            reason = "it is empty"
        elif source.path.suffix.lower() == ".onnx":
            reason = "ONNX files are not read back; gantransfer inspect shows what is in one"
        if source.start.lstrip()[:1] == b"<":
            reason = "it is a web page (a login page, or a link that moved?)"
        if is_url(address):
            source.path.unlink(missing_ok=True)  # the cached download: the next try fetches it again
        raise UserError(f"{text} is not a usable network snapshot: {reason}") from None


def _with_means(snap: Snapshot, text: str) -> Snapshot:
    """`snap` with finite mean latents, and a word on those that had to be measured."""
    anew = []
    for name, record in snap.nets.items():
        for key in mean_w.measure(record):
            anew.append(f"{name}.{key}")
            account = (snap.extra.get("networks") or {}).get(name, {}).get("account")
            if isinstance(account, dict):
                for action in ("copied", "renamed", "initialised"):
                    account[action] = [row for row in account.get(action, ()) if key not in (row, *row[:2])]
                account["initialised"].append([key, f"not finite in the file: {mean_w.HOW}"])
    if anew:
        warnings.warn(f"{text}: its mean latent is not a number ({some(anew)}) and was measured anew "
                      f"({mean_w.HOW}); truncation uses it, images without truncation do not", stacklevel=3)
    return snap


def _stranger(source: Source) -> str | None:
    """What a refused file is of, if it is a known relative of what we read."""
    try:
        if source.kind == "pickle":
            return strangers.by_pickle(source.path.read_bytes())
        if source.kind == "torch":
            return next(filter(None, map(strangers.by_pickle, torch_file.pickles(source.path))), None)
    except (Refused, OSError):
        pass
    return None


def _open(path_or_url: str | os.PathLike, copy: str = "") -> tuple[str, Source, str]:
    text = os.fspath(path_or_url)
    address = RESUME_NAMES[text] if text in RESUME_NAMES and not os.path.exists(text) else text
    path = fetch(address)
    if path.is_dir():
        return text, Source(text, path, variant=copy), address
    if copy:
        raise UserError(f"--copy={copy} chooses among the files of a folder, but {text} is a file")
    with open(path, "rb") as f:
        return text, Source(text, path, f.read(512)), address


def open_source(path_or_url: str | os.PathLike) -> Source:
    """A source that has not been read yet. Raises UserError when there is no such file."""
    return _open(path_or_url)[1]


def _own(source: Source) -> Snapshot | None:
    """The snapshot in a file of ours; None for files of others."""
    if source.kind == "torch":
        if isinstance(source.content, dict) and source.content.get("format") == snapshot.FORMAT:
            return snapshot.from_content(source.content, source.name)
        if weights.has_description(source.path):
            return weights.load_state(source.path, source.content)
    if source.kind == "safetensors":
        return weights.load_safetensors(source.path)
    return None


def is_images(path: str | os.PathLike) -> bool:
    """Whether `path` is a zip or folder of images, not a checkpoint that is a folder (of BigGAN, of cGANTransfer)."""
    path = Path(path)
    return path.suffix.lower() == ".zip" if not path.is_dir() else not biggan.is_checkpoint(path)


def identity(path: str | os.PathLike) -> str:
    """What a checkpoint is known by: the SHA-256 of a file, of all files of a folder; the name of anything else."""
    path = os.fspath(path)
    if not os.path.isdir(path):
        return sha256(path) if os.path.isfile(path) else path
    files = sorted(p for p in Path(path).iterdir() if p.is_file())
    return hashlib.sha256("\n".join(f"{p.name} {sha256(p)}" for p in files).encode()).hexdigest()


def detect(source: Source, format: str = "auto") -> Importer:
    """The importer for a source. Raises Refused when there is none, or when `format` names another kind."""
    if source.kind == "":
        raise Refused("it is neither a pickle of protocol 2 to 5 nor a file of torch.save nor safetensors")
    for importer in IMPORTERS:
        if (format == "auto" or importer.name == format) and importer.recognise(source):
            return importer
    if source.kind == "folder":
        raise Refused("it is a folder; name a network-snapshot-*.pkl in it")
    if format != "auto":
        raise Refused(f"it is not of the format {format}")
    names = {key for state in source.states.values() for key in state}
    if stranger := strangers.by_tensors(names):
        raise Refused(f"it is the state of a {stranger}; {strangers.READABLE}")
    raise Refused("its networks are of no known kind; there are "
                  + "; ".join(i.title for i in IMPORTERS))
