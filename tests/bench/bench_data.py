# SPDX-License-Identifier: Apache-2.0
"""Images per second that training can read: `python tests/bench/bench_data.py [--step-rate=R]`.

Measures BatchSource + ImageDataset from a zip of stored PNGs, as written by dataset_tool.py: first pass over the set
(files read and decoded, the file cache of the system warm), then from memory; and decoding in several threads, as the
training loop does for sets that do not fit. `--step-rate` prints how many times faster than a training step of that
many images per second this is.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dataset_tool import png_bytes  # noqa: E402
from gantransfer import container  # noqa: E402
from gantransfer.dataset import BatchSource, ImageDataset  # noqa: E402


def make_zip(path: Path, size: int, count: int) -> None:
    rng = np.random.RandomState(0)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as z:
        for i in range(count):
            smooth = np.cumsum(rng.randint(0, 5, (size, size, 3)), axis=1).astype(np.uint8)
            z.writestr(f"{i // 1000:05d}/img{i:08d}.png", png_bytes(smooth))


def rate(dataset: ImageDataset, batch: int, images: int, threads: int = 0, seed: int = 0) -> float:
    """Images per second of reading `images` of the stream."""
    source = BatchSource(dataset, seed)
    positions = range(0, images, batch)
    start = time.perf_counter()
    if threads:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda p: dataset.images_uint8(source.indices(p, batch)).shape, positions))
    else:
        for p in positions:
            dataset.images_uint8(source.indices(p, batch))
    return len(positions) * batch / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="16,32,64,256")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=3)
    parser.add_argument("--step-rate", type=float, help="images per second of a training step, to compare with")
    args = parser.parse_args()
    decoders = ["Pillow"] if container.pyspng is None else ["pyspng", "Pillow"]
    print(f"{'size':>5} {'decoder':>7} {'decode/s':>9} {f'{args.threads} threads/s':>12} {'memory/s':>10}"
          + ("  times the step (decode, memory)" if args.step_rate else ""))
    for size in map(int, args.sizes.split(",")):
        count = max(args.batch * 8, min(4096, 2**24 // size**2))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "set.zip"
            make_zip(path, size, count)
            for decoder in decoders:
                module, container.pyspng = container.pyspng, container.pyspng if decoder == "pyspng" else None
                try:
                    cold = rate(ImageDataset(path, cache_mb=0), args.batch, count)
                    threaded = rate(ImageDataset(path, cache_mb=0), args.batch, count, args.threads)
                    cached = ImageDataset(path)
                    cached.images_uint8(range(count))
                    memory = rate(cached, args.batch, 4 * count)
                finally:
                    container.pyspng = module
                more = f"  {cold / args.step_rate:.0f}, {memory / args.step_rate:.0f}" if args.step_rate else ""
                print(f"{size:5d} {decoder:>7} {cold:9.0f} {threaded:12.0f} {memory:10.0f}{more}")


if __name__ == "__main__":
    main()
