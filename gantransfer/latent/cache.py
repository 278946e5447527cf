# SPDX-License-Identifier: Apache-2.0
"""The cache of encoded images, `<data>.mind.npz` beside the set: written block by block, checked against its makers.

Arrays: `w` [N, slots, w_dim] (encoder output as it is), `index` [N] (position in the sorted image list of the set),
`flip` [N] (1 = of the mirror image), `label` [N] or [N, dim] (-1 = none), `recon` [N, 2] (mean squared error in [-1, 1]
and squared feature distance of image and reconstruction, if measured), `mean`, `eigval`, `eigvec` (of all `w` of
unmirrored images), `config` (JSON: format, hashes, sizes, seconds).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dnnlib import json_file
from dnnlib.util import UserError, atomic_path, first_line, regular_file, sweep_temporaries
from gantransfer.data.dataset import ImageDataset
from gantransfer.formats import npz
from gantransfer.formats.pickle_machine import Refused
from gantransfer.latent.autoencoder import AutoEncoder
from torch_utils.pixels import from_uint8

FORMAT, BLOCK = 1, 512
_KEYS = ("w", "index", "flip", "label", "mean", "eigval", "eigvec", "config")


def default_path(data: str | Path) -> Path:
    """Where the cache of a zip or folder is kept."""
    p = Path(data)
    return p.with_name(f"{p.stem if p.suffix == '.zip' else p.name}.mind.npz")


def whole_set(path: str | Path, **kw: Any) -> ImageDataset:
    """Every image of a set, with its labels if all images have some."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # unused class ids matter when training, and are said there
        try:
            return ImageDataset(path, use_labels=True, **kw)
        except UserError:
            return ImageDataset(path, use_labels=False, **kw)


@dataclass
class Cache:
    """A cache in memory; arrays as in the module's docstring."""

    path: Path
    w: np.ndarray
    index: np.ndarray
    flip: np.ndarray
    label: np.ndarray
    recon: np.ndarray | None
    mean: np.ndarray
    eigval: np.ndarray
    eigvec: np.ndarray
    config: dict[str, Any]

    def check(self, ae: AutoEncoder, data: ImageDataset, override: bool = False) -> list[str]:
        """Raises UserError unless the cache is of this set and these networks; with `override` returns the
        differences instead. `data` is the whole set."""
        found = []
        before = self.config.get("label"), self.config.get("label_dim")
        now = data.spec.label.kind, data.label_dim
        if before != now:
            found.append(f"its labels are {before[1]} wide ({before[0]}), those of {data.spec.path} are {now[1]} "
                         f"({now[0]})")
        for key, theirs in (*ae.hashes().items(), ("data", data.fingerprint())):
            if self.config.get(key) != theirs:
                what = {"encoder": "another encoder", "decoder": "another decoder",
                        "data": f"other images or labels than {data.spec.path} holds"}[key]
                found.append(f"it was made with {what} (SHA-256 {str(self.config.get(key))[:8]}..., here "
                             f"{theirs[:8]}...)")
        if found and not override:
            raise UserError(f"{self.path} does not fit: {found[0]}; encode again (gantransfer encode "
                            f"--overwrite), name another one with --cache, or take it as it is with --cache_override")
        if self.w.shape[1:] != (ae.slots, ae.w_dim):
            raise UserError(f"{self.path} holds latents of {self.w.shape[1]} x {self.w.shape[2]}, the encoder makes "
                            f"{ae.slots} x {ae.w_dim}; encode again")
        return found


class Damaged(UserError):
    """A file of latents that cannot be read."""


def made_by_us(path: Path) -> bool:
    """Whether a cache has the name that this program gives: only such a file is replaced unasked when it is damaged."""
    return path.name.endswith(".mind.npz")


def read(path: str | Path) -> Cache:
    """A cache from its file. UserError for a file that is none, is damaged, or holds numbers that are not finite."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"no latent cache {path}; make it with gantransfer encode")
    regular_file(path)
    try:
        found = npz.read(path)
        a = {k: found[k] for k in (*_KEYS, *(["recon"] if "recon" in found else []))}
        config = json_file.parse(str(a.pop("config")), "its description")
    except (Refused, KeyError, UserError) as e:
        raise Damaged(f"{path} is not a latent cache, or is damaged ({first_line(e)}); encode again "
                      f"with --overwrite") from None
    w, n = a["w"], a["w"].shape[0] if a["w"].ndim else 0
    if not (w.ndim == 3 and w.dtype.kind == "f" and w.size and config.get("format") == FORMAT
            and all(a[k].shape[:1] == (n,) for k in ("index", "flip", "label"))
            and all(a[k].ndim == 1 and a[k].dtype.kind in "iu" and a[k].min() >= 0 for k in ("index", "flip"))
            and a["flip"].max() <= 1 and a["label"].dtype.kind in "iuf"
            and ("recon" not in a or a["recon"].shape == (n, 2) and a["recon"].dtype.kind == "f")
            and a["mean"].shape == a["eigval"].shape and a["mean"].ndim == 1
            and a["eigvec"].shape == (len(a["mean"]), len(a["mean"]))
            and all(a[k].dtype.kind == "f" for k in ("mean", "eigval", "eigvec"))):
        raise UserError(f"{path} is a latent cache of another form (format {config.get('format')}); encode again with "
                        f"--overwrite")
    bad = ~np.isfinite(a["w"].astype(np.float32)).all((1, 2))
    if bad.any():
        raise UserError(f"{path}: the latent of image {int(a['index'][bad.argmax()])} is not finite "
                        f"({int(bad.sum())} such); encode again, with another encoder if it is that one's doing")
    return Cache(path=path, recon=a.pop("recon", None), config=config, **a)


@torch.no_grad()
def encode(data: ImageDataset, ae: AutoEncoder, path: str | Path, *, flips: bool = False, half: bool = False,
           measure: bool = True, batch: int = 16, shard: tuple[int, int] = (0, 1), device: torch.device | str = "cpu",
           progress: Callable[[int], None] = lambda n: None) -> Cache | None:
    """Encode a whole set into `path`; `progress(n)` is told of every n images done.

    Work is kept in blocks of 512 images in a folder beside `path`; a second call takes up where a first was killed and
    writes the same bytes. shard (i, n): only every n-th block, from the i-th on; the call that finds all blocks done
    writes the file and returns it, others return None. UserError for latents that are not finite.
    """
    path = Path(path)
    n = len(data)
    config = dict(format=FORMAT, **ae.hashes(), data=data.fingerprint(), data_name=data.spec.name, images=n,
                  resolution=data.resolution, channels=data.num_channels, noise_mode="const",
                  dtype="float16" if half else "float32", xflip=bool(flips), label=data.spec.label.kind,
                  label_dim=data.label_dim, label_names=list(data.spec.label.names), slots=ae.slots, w_dim=ae.w_dim,
                  num_ws=ae.num_ws, recon=measure, batch=batch)
    work = path.with_name(f".{path.name}.{hashlib.sha256(json.dumps(config).encode()).hexdigest()[:12]}")
    work.mkdir(parents=True, exist_ok=True)
    if shard[1] == 1:
        sweep_temporaries(work)
    total = n * (2 if flips else 1)
    blocks = [range(i, min(i + BLOCK, total)) for i in range(0, total, BLOCK)]
    for number, rows in enumerate(blocks):
        if number % shard[1] != shard[0] or _block(work / f"{number:06d}.npz", len(rows), ae) is not None:
            progress(len(rows) if number % shard[1] == shard[0] else 0)
            continue
        start, parts = time.time(), []
        for i in range(rows.start, rows.stop, batch):
            parts.append(_encode_batch(data, ae, np.arange(i, min(i + batch, rows.stop)), n, measure, device))
            progress(len(parts[-1][0]))
        w, recon = (np.concatenate([p[k] for p in parts]) for k in (0, 1))
        if not np.isfinite(w).all():
            row = int(rows.start + (~np.isfinite(w).all((1, 2))).argmax()) % n
            raise UserError(f"the latent of {data.get_details(row).name} in {data.spec.path} is not finite; the "
                            f"encoder is broken")
        with atomic_path(work / f"{number:06d}.npz") as tmp, open(tmp, "wb") as f:
            np.savez(f, w=w.astype(np.float16) if half else w, recon=recon, seconds=time.time() - start)
    files = [work / f"{k:06d}.npz" for k in range(len(blocks))]
    loaded = [_block(f, len(rows), ae) for f, rows in zip(files, blocks)]
    if any(part is None for part in loaded):
        return None
    w = np.concatenate([p["w"] for p in loaded])
    item = np.arange(total)
    label = data.class_ids if data.label_dim == 0 or data.class_ids is not None else data.labels(range(n))
    label = np.full(n, -1) if label is None else label
    base = w[:n].astype(np.float64).reshape(-1, ae.w_dim)
    eigval, eigvec = np.linalg.eigh(np.cov(base, rowvar=False, ddof=0).reshape(ae.w_dim, ae.w_dim))
    arrays = dict(w=w, index=item % n, flip=(item >= n).astype(np.uint8), label=label[item % n], mean=base.mean(0),
                  eigval=eigval[::-1].copy(), eigvec=eigvec[:, ::-1].copy())
    if measure:
        arrays["recon"] = np.concatenate([p["recon"] for p in loaded])
    # How long it took is no part of the content: two caches of the same set are equal byte for byte apart from it.
    config["seconds"] = round(float(sum(p["seconds"] for p in loaded)), 3)
    with atomic_path(path) as tmp, open(tmp, "wb") as f:
        np.savez(f, config=json.dumps(config), **arrays)
    shutil.rmtree(work, ignore_errors=True)
    return read(path)


def _block(path: Path, rows: int, ae: AutoEncoder) -> dict[str, np.ndarray] | None:
    """A block of an earlier call; None if there is none. A damaged one is said, removed, and made again."""
    if not path.exists():
        return None
    try:
        a = npz.read(path)
        if not (a["w"].shape == (rows, ae.slots, ae.w_dim) and a["recon"].shape == (rows, 2)
                and a["seconds"].shape == () and all(v.dtype.kind == "f" for v in a.values())):
            raise Refused("its arrays do not fit")
        return a
    except (Refused, KeyError) as e:
        print(f"Latents {path} are damaged ({first_line(e)}); encoding these images again", file=sys.stderr)
        path.unlink(missing_ok=True)
        return None


def _encode_batch(data: ImageDataset, ae: AutoEncoder, items: np.ndarray, n: int, measure: bool,
                  device: torch.device | str) -> tuple[np.ndarray, np.ndarray]:
    x = from_uint8(torch.from_numpy(data.images_uint8(items % n)).to(device))
    flip = torch.from_numpy(items >= n).to(device)[:, None, None, None]
    x = torch.where(flip, x.flip(3), x)
    w = ae.encode(x)
    recon = torch.zeros(len(x), 2)
    if measure:
        y = ae.decode(w).clamp(-1, 1)
        recon = torch.stack([(x - y).square().mean((1, 2, 3)),
                             (ae.features(x) - ae.features(y)).square().sum(1)], 1)
    return w.cpu().numpy(), recon.float().cpu().numpy()


class LatentSet:
    """Codes in the place of images: what `Method.prepare` returns. Items are a choice of the items of a data set.

    Labels and classes are the data set's; `read` gives codes (`method.Reals`).
    """

    in_memory = True

    def __init__(self, data: ImageDataset, items: np.ndarray, codes: torch.Tensor):
        if len(items) != len(codes):
            raise ValueError(f"{len(items)} items, {len(codes)} codes")
        self.data, self.items, self.codes = data, np.asarray(items, np.int64), codes
        self.spec = data.spec

    def __len__(self) -> int:
        return len(self.items)

    def read(self, indices: Any) -> torch.Tensor:
        """float32 [n, code_dim], where the codes are."""
        return self.codes[torch.as_tensor(np.asarray(indices, np.int64), device=self.codes.device)]

    def labels(self, indices: Any) -> np.ndarray:
        return self.data.labels(self.items[np.asarray(indices, np.int64)])

    @property
    def class_ids(self) -> np.ndarray | None:
        ids = self.data.class_ids
        return None if ids is None else ids[self.items]

    @property
    def label_dim(self) -> int:
        return self.data.label_dim


def rows_for(cache: Cache, data: ImageDataset, whole: ImageDataset) -> np.ndarray:
    """Cache row of every item of `data`, a selection of `whole`. UserError when mirrored images were not encoded."""
    place = {whole.get_details(i).name: i for i in range(len(whole))}
    n = data.spec.num_images
    index = np.array([place[data.get_details(i).name] for i in range(n)], np.int64)
    row = np.full([2, len(whole)], -1, np.int64)
    row[cache.flip, cache.index] = np.arange(len(cache.w))
    wanted = np.concatenate([row[0, index], row[1, index]]) if data.xflip else row[0, index]
    if (wanted < 0).any():
        raise UserError(f"{cache.path} has no latents of mirrored images, which --mirror=True needs; encode again with "
                        f"--xflip=1 --overwrite")
    return wanted
