# SPDX-License-Identifier: Apache-2.0
"""Steps of a walk as a film."""

from __future__ import annotations

import importlib.util
import os

import numpy as np
from PIL import Image

from dnnlib.util import UserError, atomic_path


def video_ending() -> str:
    """'.mp4' where it can be written here, else '.webp'."""
    return ".webp" if importlib.util.find_spec("imageio_ffmpeg") is None else ".mp4"


def write_video(path: str | os.PathLike, frames: np.ndarray, fps: int, zoom: int) -> None:
    """uint8 [rows, steps, C, H, W] as an .mp4 or, without loss, as a .webp that repeats: frame k shows step k of all
    rows side by side."""
    rows, steps, channels, h, w = frames.shape
    movie = np.repeat(np.repeat(frames, zoom, 3), zoom, 4).transpose(1, 3, 0, 4, 2).reshape(
        steps, h * zoom, rows * w * zoom, channels)
    if channels == 1:
        movie = movie.repeat(3, 3)
    if os.fspath(path).endswith(".webp"):
        first, *rest = (Image.fromarray(f) for f in movie)
        with atomic_path(path) as tmp:
            first.save(tmp, format="WEBP", save_all=True, append_images=rest, duration=round(1000 / fps), loop=0,
                       lossless=True, method=0)
        return
    try:
        import imageio_ffmpeg
    except ImportError:
        raise UserError("an .mp4 needs the package imageio-ffmpeg: pip install imageio-ffmpeg; or write a "
                        ".png") from None
    # Encoders want even sizes.
    movie = np.pad(movie, ((0, 0), (0, movie.shape[1] % 2), (0, movie.shape[2] % 2), (0, 0)))
    with atomic_path(path) as tmp:
        writer = imageio_ffmpeg.write_frames(str(tmp), (movie.shape[2], movie.shape[1]), fps=fps, macro_block_size=1,
                                             output_params=["-f", "mp4"])
        writer.send(None)
        for frame in movie:
            writer.send(np.ascontiguousarray(frame))
        writer.close()
