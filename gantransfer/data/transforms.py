# SPDX-License-Identifier: Apache-2.0
"""What happens to the shape of an image on its way into a data set: crop, pad, resize; and its PNG."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from dnnlib.util import UserError

FILTERS = {"lanczos": Image.Resampling.LANCZOS, "box": Image.Resampling.BOX}


def _resize(image: np.ndarray, width: int, height: int, resample: Image.Resampling) -> np.ndarray:
    if image.shape[:2] == (height, width):
        return image
    pil = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    return np.asarray(pil.resize((width, height), resample)).reshape(height, width, -1)


def transform_image(image: np.ndarray, transform: str | None, width: int | None, height: int | None,
                    resize_filter: str = "lanczos") -> np.ndarray | None:
    """uint8 [H, W, C] to [height, width, C]; None when the image must be left out.

    None              each side resized to `width` / `height`, kept where that is None
    center-crop       the largest centred part of the shape of width x height, resized
    center-crop-wide  the centred round(width h / w) rows, resized to width x height, on a black width x width square;
                      left out when narrower than `width` or when those rows are fewer than `height`
    pad               resized to fit inside width x height, on a black canvas of that size
    """
    resample = FILTERS[resize_filter]
    h, w, c = image.shape
    if transform is None:
        return _resize(image, width or w, height or h, resample)
    if width is None or height is None:
        raise UserError(f"--transform={transform} needs --resolution=WxH (or --width and --height)")
    if transform == "center-crop":
        scale = min(h / height, w / width)
        rows, columns = max(round(height * scale), 1), max(round(width * scale), 1)
        y, x = (h - rows) // 2, (w - columns) // 2
        return _resize(image[y: y + rows, x: x + columns], width, height, resample)
    if transform == "center-crop-wide":
        if height > width:
            raise UserError(f"--transform=center-crop-wide needs a width above the height, not {width}x{height}")
        rows = round(width * h / w)  # as published: counted at the final scale, cropped at the original one
        if w < width or rows < height:
            return None
        y = (h - rows) // 2
        inner = _resize(image[y: y + rows], width, height, resample)
        canvas = np.zeros([width, width, c], np.uint8)
        y = (width - height) // 2
        canvas[y: y + height] = inner
        return canvas
    if transform == "pad":
        scale = min(width / w, height / h)
        iw, ih = max(round(w * scale), 1), max(round(h * scale), 1)
        canvas = np.zeros([height, width, c], np.uint8)
        y, x = (height - ih) // 2, (width - iw) // 2
        canvas[y: y + ih, x: x + iw] = _resize(image, iw, ih, resample)
        return canvas
    raise ValueError(f"unknown transform {transform}")


def enlarges(transform: str | None, h: int, w: int, width: int, height: int) -> bool:
    """Whether `transform_image` makes an image of h x w pixels larger (width, height 0: as it is)."""
    if transform == "center-crop":
        return h < height or w < width
    if transform == "pad":
        return w < width and h < height
    return transform is None and (w < width or h < height)


def png(image: np.ndarray, compress_level: int = -1) -> bytes:
    """A PNG of uint8 [C, H, W] with 1 or 3 channels. `compress_level`: of zlib, 0 for none to 9; -1 is its default."""
    buffer = io.BytesIO()
    picture = Image.fromarray(image[0] if len(image) == 1 else np.moveaxis(image, 0, 2))
    picture.save(buffer, format="png", compress_level=compress_level)
    return buffer.getvalue()
