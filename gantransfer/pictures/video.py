# SPDX-License-Identifier: Apache-2.0
"""Frames as a film: .mp4 by imageio-ffmpeg, an animated .webp by Pillow alone."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np

from dnnlib.util import UserError, atomic_path, check_writable

KINDS = {".mp4": 16384, ".webp": 16383}  # and the pixels that a side of their frames may have


def check(path: str | os.PathLike, flag: str = "--video") -> None:
    """UserError for a film that cannot be written here: said before the work."""
    kind = Path(path).suffix.lower()
    if kind not in KINDS:
        raise UserError(f"{flag}={path} should end in .mp4 or .webp")
    if kind == ".mp4":
        _ffmpeg()


def named(path: str) -> str:
    """The path of --video, with an ending where it has none: of the film that can be written here. UserError as
    `check`, and where no file can be written."""
    path = path if Path(path).suffix else f"{path}{video_ending()}"
    check(path)
    check_writable("--video", path, True)
    return path


def video_ending() -> str:
    """'.mp4' where it can be written here, else '.webp'."""
    return ".webp" if importlib.util.find_spec("imageio_ffmpeg") is None else ".mp4"


def write_video(path: str | os.PathLike, frames: np.ndarray, fps: int, zoom: int) -> None:
    """uint8 [rows, steps, C, H, W] as a film: frame k shows step k of all rows side by side."""
    rows, steps, channels, h, w = frames.shape
    movie = np.repeat(np.repeat(frames, zoom, 3), zoom, 4).transpose(1, 3, 0, 4, 2).reshape(
        steps, h * zoom, rows * w * zoom, channels)
    write_film(path, movie.repeat(3, 3) if channels == 1 else movie, fps)


def write_film(path: str | os.PathLike, movie: np.ndarray, fps: float, hold: float = 0) -> None:
    """uint8 [T, H, W, 3] as the kind of file that `path` ends in; the last frame stays for `hold` seconds more.
    UserError as `check`, and for frames that are too large."""
    check(path)
    kind, (height, width) = Path(path).suffix.lower(), movie.shape[1:3]
    if max(height, width) > KINDS[kind]:
        raise UserError(f"{path}: its frames are {width} x {height} pixels, and {kind} holds {KINDS[kind]} at most on "
                        "a side; give fewer seeds, or enlarge them less")
    if kind == ".webp":
        from PIL import Image

        first, *rest = map(Image.fromarray, movie)
        times = [round(1000 / fps)] * len(movie)
        times[-1] += round(1000 * hold)
        with atomic_path(path) as tmp:
            first.save(tmp, format="WEBP", save_all=True, append_images=rest, duration=times, loop=0, lossless=True,
                       method=0)
        return
    # Encoders want even sizes.
    movie = np.pad(movie, ((0, round(hold * fps)), (0, 0), (0, 0), (0, 0)), mode="edge")
    movie = np.pad(movie, ((0, 0), (0, movie.shape[1] % 2), (0, movie.shape[2] % 2), (0, 0)), mode="edge")
    with atomic_path(path) as tmp:
        writer = _ffmpeg().write_frames(str(tmp), (movie.shape[2], movie.shape[1]), fps=fps, macro_block_size=1,
                                        output_params=["-f", "mp4"])
        writer.send(None)
        for frame in movie:
            writer.send(np.ascontiguousarray(frame))
        writer.close()
        if not os.path.getsize(tmp):  # ffmpeg has failed, and only its own lines say so
            raise UserError(f"{path}: ffmpeg has written nothing, for the reason above; a .webp needs no ffmpeg")


def _ffmpeg():
    try:
        import imageio_ffmpeg
    except ImportError:
        raise UserError("an .mp4 needs the package imageio-ffmpeg: pip install imageio-ffmpeg; or write a "
                        ".webp, which needs nothing more") from None
    return imageio_ffmpeg
