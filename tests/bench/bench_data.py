# SPDX-License-Identifier: Apache-2.0
"""Images per second that training can read: `python -m tests.bench.bench_data [--sizes=...] [--data=SET.zip]`.

For stored and deflated PNG files, decoded by pyspng and by Pillow: reading and decoding alone (one thread, then
several, as the training loop does for sets that do not fit in memory), from memory, collation into a batch, pinning and
upload (GPU), normalisation. Then the share of a training step of --step-ms that is spent waiting for images: measured
with the loop's own loader, which reads ahead while the step computes (here: sleeps).

`--sources`: what `dataset_tool` reads, source by source, against the images that a step takes: how much of a conversion
is reading, and whether a source could feed a training by itself.
"""

import argparse
import contextlib
import io
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from gantransfer import training_loop  # noqa: E402
from gantransfer.data import decode, sources  # noqa: E402
from gantransfer.data.dataset import BatchSource, ImageDataset  # noqa: E402
from tests.bench import common  # noqa: E402

LEVELS = {"stored": 0, "deflated": 6}


def make_zip(path: Path, size: int, count: int, level: int) -> None:
    """Smooth noise as PNG files, compressed at `level`, stored in a zip."""
    from PIL import Image

    rng = np.random.RandomState(0)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as z:
        for i in range(count):
            smooth = np.cumsum(rng.randint(0, 5, (size, size, 3)), axis=1).astype(np.uint8)
            out = io.BytesIO()
            Image.fromarray(smooth).save(out, "png", compress_level=level)
            z.writestr(f"{i // 1000:05d}/img{i:08d}.png", out.getvalue())


def seconds_of(f, calls: int) -> dict:
    """Quartiles of the milliseconds of a call."""
    f(0)
    times = []
    for i in range(calls):
        start = time.perf_counter()
        f(i)
        times.append((time.perf_counter() - start) * 1e3)
    return common.quartiles(times)


def reading(dataset: ImageDataset, source: BatchSource, n: int):
    return lambda i: dataset.images_uint8(source.indices(i * n, n))


def threaded(read, workers: int):
    def call(i):
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(read, range(workers)))
    return call


def collate(images: np.ndarray, i: int) -> torch.Tensor:
    return torch.from_numpy(np.stack(list(images)))


def normalise(x: torch.Tensor, i: int) -> torch.Tensor:
    return training_loop.normalised(x)


def pin(x: torch.Tensor, i: int) -> torch.Tensor:
    return x.pin_memory()


def upload(x: torch.Tensor, device: torch.device, i: int) -> None:
    x.to(device, non_blocking=True)
    torch.cuda.synchronize()


def waiting(dataset: ImageDataset, batch: int, step_ms: float, workers: int, device: torch.device, steps: int) -> float:
    """Share of the time of `steps` steps that the loop's loader makes it wait."""
    loader = training_loop._Loader(dataset, BatchSource(dataset, 0), device, workers)
    waited, start = 0.0, time.perf_counter()
    for k in range(steps):
        loader.expect([((k + ahead) * batch, batch, 1) for ahead in range(1, 4)])
        began = time.perf_counter()
        loader(k * batch, batch)
        waited += time.perf_counter() - began if k else 0.0  # the first batch has had nobody to read it
        start = start if k else time.perf_counter()
        time.sleep(step_ms / 1e3)
    total = time.perf_counter() - start
    loader.close()
    return waited / total


def measure(path: Path, name: str, args, rows: list) -> None:
    """Rows of one set, with every decoder at hand."""
    device = torch.device(args.device)
    decoders = ["Pillow"] if decode.pyspng is None else ["pyspng", "Pillow"]
    for decoder in decoders:
        module, decode.pyspng = decode.pyspng, decode.pyspng if decoder == "pyspng" else None
        try:
            files = ImageDataset(path, cache_mb=0)
            source, n = BatchSource(files, 0), args.batch
            calls = max(5, min(40, len(files) // n))
            held = ImageDataset(path)
            held.images_uint8(range(len(held)))
            images = files.images_uint8(source.indices(0, n))

            x = torch.from_numpy(images)
            jobs = {"decode": reading(files, source, n), f"decode, {args.workers} threads": threaded(
                        reading(files, source, n), args.workers), "memory": reading(held, source, n),
                    "collate": partial(collate, images), "normalise": partial(normalise, x.to(device))}
            if device.type == "cuda":
                jobs.update(pin=partial(pin, x), upload=partial(upload, x.pin_memory(), device))
            shape = [n, *images.shape[1:]]
            text = []
            for job, f in jobs.items():
                ms = seconds_of(f, calls)
                count = n * (args.workers if "threads" in job else 1)
                rows.append(common.row(None, bench="data", op=f"{name} {job}", variant=decoder, direction="read",
                                       shape=shape, dtype="uint8", layout="nchw", ms=ms, bytes=images.nbytes))
                text.append(f"{job} {count / ms['median'] * 1e3:.0f}/s")
            for what, data in (("files", files), ("memory", held)):
                share = waiting(data, n, args.step_ms, args.workers, device, 20)
                rows.append(common.row(None, bench="data", op=f"{name} waiting ({what}), share", variant=decoder,
                                       direction="read", shape=shape, dtype="uint8", layout="nchw",
                                       ms={"median": share, "q1": None, "q3": None, "n": 20}))
                text.append(f"waits {share:.1%} of a {args.step_ms:g} ms step ({what})")
            print(f"{name:14s} {decoder:7s} " + "  ".join(text), flush=True)
        finally:
            decode.pyspng = module


def forms(folder: Path, size: int, count: int) -> Iterator[tuple[str, Path]]:
    """(kind, path) of one set in every form that is at hand, images PNG."""
    make_zip(folder / "set.zip", size, count, 6)
    yield "zip", folder / "set.zip"
    with zipfile.ZipFile(folder / "set.zip") as z:
        files = {n: z.read(n) for n in z.namelist()}
        z.extractall(folder / "folder")
    yield "folder", folder / "folder"
    with tarfile.open(folder / "set.tar", "w") as tar:
        for name, data in files.items():
            for member, content in ((name, data), (name.replace(".png", ".cls"), b"0")):
                info = tarfile.TarInfo(member)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    yield "WebDataset", folder / "set.tar"
    with contextlib.suppress(ImportError):
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"image": list(files.values())}), folder / "set.parquet")
        yield "Parquet", folder / "set.parquet"
    with contextlib.suppress(ImportError):
        import lmdb

        with lmdb.open(str(folder / "set_lmdb"), map_size=2**32) as db, db.begin(write=True) as txn:
            for name, data in files.items():
                txn.put(name.encode(), data)
        yield "LMDB", folder / "set_lmdb"
    with contextlib.suppress(ImportError):
        from gantransfer.data import h5

        path = folder / "set.h5"
        h5.write(path, h5.FORMATS[1], ((decode.decode(d, n), 0) for n, d in files.items()), fakes=True)
        yield "HDF5", path


def measure_sources(size: int, args, rows: list) -> None:
    """Images per second of each source, opened and decoded in one thread, and what a step takes."""
    needs = args.batch / args.step_ms * 1e3
    options = sources.SourceOptions(report=lambda text: None)
    with tempfile.TemporaryDirectory() as folder:
        count = args.count or max(args.batch * 8, min(4096, 2**24 // size**2))
        for kind, path in forms(Path(folder), size, count):
            began, read = time.perf_counter(), 0
            source = sources.open_source(str(path), options)
            start = time.perf_counter()
            for item in source.items():
                item.load()
                read += 1
            ms = (time.perf_counter() - start) * 1e3
            rows.append(common.row(None, bench="data", op=f"source {kind}", variant="dataset_tool", direction="read",
                                   shape=[read, 3, size, size], dtype="uint8", layout="nchw",
                                   ms={"median": ms, "q1": None, "q3": None, "n": 1}))
            speed = read / ms * 1e3
            print(f"{size}px {kind:10s} {speed:7.0f}/s, {speed / needs:5.1f} x what a step of {args.batch} images in "
                  f"{args.step_ms:g} ms takes; opened in {start - began:.2f} s", flush=True)


def run(args) -> dict:
    torch.set_num_threads(args.threads)
    report = common.facts(args.device, args.threads)
    rows: list[dict] = []
    if args.sources:
        for size in map(int, args.sizes.split(",")):
            measure_sources(size, args, rows)
        return {**report, "rows": rows, "ratios": [], "bars": []}
    if args.data:
        measure(Path(args.data), Path(args.data).stem, args, rows)
    for size in () if args.data else map(int, args.sizes.split(",")):
        count = args.count or max(args.batch * 8, min(4096, 2**24 // size**2))
        with tempfile.TemporaryDirectory() as folder:
            for kind, level in LEVELS.items():
                path = Path(folder) / f"{kind}.zip"
                make_zip(path, size, count, level)
                measure(path, f"{size}px {kind}", args, rows)
    report.update(rows=rows, ratios=[], bars=[])
    best: dict[str, dict[str, float]] = {}
    for r in rows:
        if r["op"].endswith(" decode"):
            best.setdefault(r["op"], {})[r["variant"]] = r["ms"]["median"]
    for op, ms in best.items():
        if len(ms) == 2:
            shape = next(r["shape"] for r in rows if r["op"] == op)
            report["ratios"].append({"op": op, "shape": shape, "dtype": "uint8", "layout": "nchw", "direction": "read",
                                     "vs": "Pillow", "ratio": ms["Pillow"] / ms["pyspng"]})
    return report


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", metavar="PATH", help="a set of one's own; default: smooth noise of --sizes")
    p.add_argument("--sizes", default="32,64,256")
    p.add_argument("--sources", action="store_true", help="what dataset_tool reads, instead of what training does")
    p.add_argument("--count", type=int, help="images per set made")
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--workers", type=int, default=3, help="image-reading threads")
    p.add_argument("--threads", type=int, default=1, help="of everything else")
    p.add_argument("--step-ms", type=float, default=50, help="length of a training step")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    return p


if __name__ == "__main__":
    common.main(parser(), run)
