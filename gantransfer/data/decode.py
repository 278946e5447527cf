# SPDX-License-Identifier: Apache-2.0
"""The one place where image files become pixels: for training, metrics, `check` and conversion alike.

`decode` gives what training takes (8-bit greyscale or RGB, upright) and refuses the rest. `read_picture` reads every
kind that can be converted, with all its bits, and `to_uint8` converts. Imports no torch, so that the data-set scripts
start at once, and Pillow only when an image is decoded.
"""

from __future__ import annotations

import contextlib
import io
import re
import struct
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dnnlib.util import UserError

if TYPE_CHECKING:
    from PIL import Image

try:
    import pyspng
except ImportError:
    pyspng = None

# What Pillow may open. It knows many more formats, some of them programs (EPS) or hardly maintained.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "TGA", "JPEG2000", "AVIF", "ICO", "PCX", "SGI", "DDS",
           "QOI", "HEIF")
MAX_PIXELS = 178_956_970  # of one image, unless --max-pixels says more: Pillow's own limit
SMALL_PIXELS = 2**24  # an image of so many pixels may come from any number of bytes
PIXEL_RATIO = 1100  # larger ones must have a byte for so many pixels: fewer are a blank picture, or an attack
DEFLATE_RATIO = 1100  # deflate makes at most 1032 bytes out of one; a header that says more lies

ORIENTATION = 0x0112  # the EXIF tag
_TURN = {2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
         5: lambda a: np.swapaxes(a, 0, 1), 6: lambda a: np.rot90(a, -1),
         7: lambda a: np.swapaxes(a[::-1, ::-1], 0, 1), 8: lambda a: np.rot90(a, 1)}

_limit = threading.RLock()


class TooLarge(UserError):
    """More pixels than the limit; the file may be good."""


@dataclass
class Picture:
    """An image file's pixels before conversion, upright."""

    pixels: np.ndarray  # [H, W, 1 or 3] uint8, or whole numbers or floats of another range
    mode: str  # Pillow's word for what the file holds, 'RGB;16' where Pillow would drop bits
    alpha: np.ndarray | None = None  # [H, W] float64, 0 transparent to 1 opaque; uint8 where `pixels` are
    white: int | None = 255  # the value that is white unless the user gives a range; None: unknown
    inverted: bool = False  # 0 is white
    notes: frozenset[str] = frozenset()  # keys of NOTES

    @property
    def plain(self) -> bool:
        """Whether training takes it as it is."""
        return self.mode in ("L", "RGB")


NOTES = {  # what is said once per set
    "turned": "turned upright as the EXIF orientation says",
    "exif": "with damaged EXIF data, which is ignored",
    "frames": "with several frames or pages: the first one is taken",
    "profile": "with a colour profile other than sRGB: it is not applied, pixel values stay as they are",
}


class Seen:
    """What was met while images of one set were read; thread-safe. `lines()` says it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.notes: Counter = Counter()
        self.deep = self.eight = self.clipped = self.top = 0

    def add(self, picture: Picture, value_range: tuple[float, float] | None = None) -> None:
        with self._lock:
            self.notes.update(picture.notes)
            if picture.pixels.dtype == np.uint8 or not picture.pixels.size:
                self.eight += 1
                return
            low, high = picture.pixels.min(), picture.pixels.max()
            if value_range is not None:
                self.clipped += bool(low < value_range[0] or high > value_range[1])
            elif picture.white == 65535:
                self.deep += 1
                self.top = max(self.top, int(high))

    def lines(self, value_range: tuple[float, float] | None = None) -> Iterator[str]:
        for key, text in NOTES.items():
            if self.notes[key]:
                yield f"{_images(self.notes[key])} {text}"
        if self.deep and self.top < 1 << 15:
            bits = max(self.top.bit_length(), 8)
            yield (f"warning: {_images(self.deep)} of 16 bits with no value above {self.top}, as {bits}-bit data in "
                   f"16-bit files: dark, since 65535 is white; add --range=0,{2**bits - 1} if {2**bits - 1} is meant "
                   "to be")
        if self.clipped:
            low, high = value_range
            yield f"{_images(self.clipped)} with values outside --range={low:g},{high:g}, which became black or white"
        if value_range is not None and self.eight:
            yield f"{_images(self.eight)} of 8 bits, to which --range does not apply"


def _images(n: int) -> str:
    return f"{n} image{'s' * (n != 1)}"


# ---- headers ---------------------------------------------------------------------------------------------------------


def png_header(data: bytes) -> tuple[int, int, int] | None:
    """(height, width, channels) from the first 33 bytes of an 8-bit greyscale or RGB PNG; None for anything else."""
    channels = {b"\x08\x00": 1, b"\x08\x02": 3}.get(data[24:26])
    if channels is None or data[:8] != b"\x89PNG\r\n\x1a\n" or data[12:16] != b"IHDR":
        return None
    width, height = struct.unpack(">II", data[16:24])
    return height, width, channels


def _png_bits(data: bytes) -> int:
    """Bits per pixel that a PNG's header states."""
    depth, colour = data[24:26].ljust(2, b"\0")
    return depth * {2: 3, 4: 2, 6: 4}.get(colour, 1)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int]]:
    """(kind, position of the content) of a PNG's chunks, as far as they can be followed."""
    at = 8
    while at + 8 <= len(data):
        size, kind = struct.unpack(">I4s", data[at: at + 8])
        yield kind, at + 8
        at += size + 12


def plain_header(start: bytes) -> tuple[int, int, int] | None:
    """`png_header` from the first bytes of a file, if they show that the image is not transparent; None if in doubt."""
    header = png_header(start)
    kinds = [kind for kind, _ in _png_chunks(start)] if header else []
    return header if b"IDAT" in kinds and b"tRNS" not in kinds else None


def _png_is_plain(data: bytes) -> bool:
    """False when a PNG holds what changes how its pixels are to be read: orientation, transparency, frames."""
    for kind, at in _png_chunks(data):
        if kind in (b"eXIf", b"tRNS", b"acTL"):
            return False
        # Where older programs put EXIF data, and where XMP is.
        if kind in (b"tEXt", b"zTXt", b"iTXt"):
            if data[at: at + 16].lower().startswith((b"raw profile type", b"xml:com.adobe")):
                return False
    return True


# ---- reading ---------------------------------------------------------------------------------------------------------


def decode(data: bytes, name: str, notes: set[str] | None = None) -> np.ndarray:
    """uint8 [H, W, C] with C = 1 or 3, upright, from the bytes of an 8-bit greyscale or RGB image file.

    Raises UserError naming the file when it is damaged or of another mode: conversion is `dataset_tool.py`'s work,
    where it is explicit. What is worth a word (keys of NOTES) is added to `notes`.
    """
    header = png_header(data)
    # The two kinds that pyspng decodes to exactly what Pillow gives.
    if pyspng is not None and header is not None and _png_is_plain(data):
        _check_size(data, name, header[1], header[0])
        try:
            image = pyspng.load(data)
        except Exception as e:
            raise UserError(f"cannot decode {name} ({_reason(e, data)}); replace or remove it") from None
        return image[:, :, np.newaxis] if image.ndim == 2 else image
    picture = read_picture(data, name)
    if not picture.plain:
        raise UserError(f"{name} has mode {picture.mode}, not 8-bit greyscale or RGB; convert the set with "
                        "`gantransfer dataset_tool --source=... --dest=...`")
    if notes is not None:
        notes |= picture.notes
    return picture.pixels


def read_picture(data: bytes, name: str, max_pixels: int | None = None) -> Picture:
    """The first frame of an image file of any mode with all its bits, upright.

    Raises UserError naming the file when it is damaged or of a kind that cannot be read rightly, and TooLarge when it
    has more than `max_pixels` pixels (None: MAX_PIXELS, and fewer for few bytes).
    """
    try:
        return _read(data, name, max_pixels)
    except UserError:
        raise
    except Exception as e:  # the one boundary: Pillow's plugins raise anything on damaged files
        raise UserError(f"cannot decode {name} ({_reason(e, data)}); replace or remove it") from None


def _reason(e: Exception, data: bytes) -> str:
    from PIL import Image

    if isinstance(e, Image.UnidentifiedImageError):
        if data[4:12] in (b"ftypavif", b"ftypavis") and "AVIF" not in Image.OPEN:
            return "AVIF, which this version of Pillow does not read: pip install -U pillow"
        return "unknown or damaged image format"
    text = (str(e).strip().splitlines() or [""])[0][:200]
    return text if text and isinstance(e, (OSError, SyntaxError, ValueError, RuntimeError)) else \
        f"{type(e).__name__}{': ' * bool(text)}{text}"


def _check_size(data: bytes, name: str, width: int, height: int, limit: int | None = None) -> None:
    pixels = width * height
    if data[:4] == b"\x89PNG" and pixels * _png_bits(data) > 8 * DEFLATE_RATIO * len(data):
        raise UserError(f"cannot decode {name} (its header says {width} x {height} pixels, more than {len(data)} bytes "
                        "can hold); replace or remove it")
    bound = min(MAX_PIXELS, max(SMALL_PIXELS, PIXEL_RATIO * len(data))) if limit is None else limit
    if pixels > bound:
        raise TooLarge(f"{name} has {width} x {height} pixels in {len(data):,} bytes, above the limit of {bound:,} "
                       "that keeps hostile files from filling the memory; if you trust it, convert it with "
                       f"`gantransfer dataset_tool --max-pixels={pixels} --source=... --dest=...`")


def _open(data: bytes) -> Image.Image:
    """Opened (its header is read), whatever its size."""
    from PIL import Image

    Image.init()
    formats = [f for f in FORMATS if f in Image.OPEN]  # older versions know fewer
    with _pillow_limit(None):  # ours, which a flag can raise, comes next
        return Image.open(io.BytesIO(data), formats=formats)


@contextlib.contextmanager
def _pillow_limit(pixels: int | None) -> Iterator[None]:
    """Pillow's limit on sizes, which is a global, set for a moment by one thread."""
    from PIL import Image

    with _limit:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _read(data: bytes, name: str, max_pixels: int | None) -> Picture:
    image = _open(data)
    _check_size(data, name, *image.size, max_pixels)
    pixels = image.width * image.height
    if pixels <= MAX_PIXELS // 2:
        return _read_opened(data, image, name)
    with _pillow_limit(pixels):  # Pillow counts again while it loads; and large images had better come one by one
        return _read_opened(data, image, name)


def _read_opened(data: bytes, image: Image.Image, name: str) -> Picture:
    notes = {"frames"} if image.format != "MPO" and getattr(image, "is_animated", False) else set()
    tags = getattr(image, "tag_v2", {})
    turned = tags.get(ORIENTATION, 1)  # of TIFF, which Pillow turns by itself
    deep = _deep(data, image, name)  # before loading: it looks at how Pillow would unpack the pixels
    depth = max(tags.get(258, (8,))) if tags else 8
    if deep is None:
        image.load()
    try:
        orientation = image.getexif().get(ORIENTATION, 1) if deep is None or not tags else 1
    except Exception:
        orientation = 1
        notes.add("exif")
    icc = image.info.get("icc_profile")
    if icc and b"s\0R\0G\0B" not in icc and b"sRGB" not in icc:
        notes.add("profile")
    if orientation in _TURN or turned in _TURN:
        notes.add("turned")
    if deep is not None:
        picture = deep
    else:
        small = data[24] if image.format == "PNG" else 8
        picture = picture_of(image, name, depth=small)
        if tags.get(262) == 0 and picture.pixels.dtype != np.uint8:  # which Pillow inverts up to 8 bits only
            if picture.white is None:
                raise UserError(f"{name} has pixels of mode {image.mode} in which 0 is white; save it with 8 or 16 "
                                "bits")
            picture.inverted = True
        if 8 < depth < 16 and picture.white == 65535:
            picture.white = 2**depth - 1
    turn = _TURN.get(orientation)
    if turn is not None:
        picture.pixels = np.ascontiguousarray(turn(picture.pixels))
        picture.alpha = None if picture.alpha is None else np.ascontiguousarray(turn(picture.alpha))
    picture.notes = frozenset(notes)
    return picture


def _deep(data: bytes, image: Image.Image, name: str) -> Picture | None:
    """Colour or alpha with 16 bits per channel, of which Pillow keeps the upper 8; None where it keeps all.

    The file is unpacked twice: as it is, and as if its bytes were in the other order, which gives the lower 8.
    """
    tile = image.tile[0] if getattr(image, "tile", None) else None
    if tile is None:
        return None
    if tile.codec_name == "SGI16" or image.format == "SGI" and "16" in str(tile.args):
        raise UserError(f"{name} is an SGI image of 16 bits, which is not read rightly; save it as PNG or TIFF")
    rawmode = tile.args if isinstance(tile.args, str) else next((a for a in tile.args or () if isinstance(a, str)), "")
    tags = getattr(image, "tag_v2", {})
    if tags.get(284) == 2 and max(tags.get(258, (8,))) > 8 and image.mode in ("RGB", "RGBA", "CMYK"):
        raise UserError(f"{name} holds 16-bit channels one after the other (planar), which is not read rightly; save "
                        "it interleaved")
    match = re.fullmatch(r"(LA|RGB|RGBA|RGBa|RGBX|CMYK);16([BLN])", rawmode)
    if match is None or image.format not in ("PNG", "TIFF"):
        return None
    kind, order = match[1], match[2]
    if order == "N":
        order = "L" if sys.byteorder == "little" else "B"
    if kind == "LA":  # its two bytes per sample are the bytes of an 8-bit RGBA image
        both = np.asarray(_unpacked(image, "RGBA")).astype(np.uint16)
        values = both[:, :, 0::2] << 8 | both[:, :, 1::2]
    else:
        raw = "RGBA" if kind == "RGBa" else kind
        swapped = _open(data)
        upper = np.asarray(_unpacked(image, f"{raw};16{order}")).astype(np.uint16)
        values = upper << 8 | np.asarray(_unpacked(swapped, f"{raw};16{'BL'[order == 'B']}"))
    if kind == "CMYK":
        from PIL import Image

        eight = np.ascontiguousarray(((values.astype(np.int64) * 255 + 32767) // 65535).astype(np.uint8))
        return Picture(np.asarray(Image.fromarray(eight, "CMYK").convert("RGB")), "CMYK;16")
    alpha = None
    if kind in ("LA", "RGBA", "RGBa"):
        alpha, values = values[:, :, -1] / 65535, values[:, :, :-1]
        if kind == "RGBa":  # colours are multiplied with alpha
            with np.errstate(divide="ignore", invalid="ignore"):
                values = np.nan_to_num(np.minimum(values / alpha[:, :, None], 65535), nan=0).round().astype(np.uint16)
    mode = f"{raw if kind != 'LA' else kind};16"
    key = image.info.get("transparency")
    if kind == "RGB" and isinstance(key, tuple):
        alpha, mode = (values != np.asarray(key)).any(2).astype(np.float64), mode + " with transparency"
    return Picture(np.ascontiguousarray(values[:, :, :3]), mode, alpha, 65535)


def _unpacked(image: Image.Image, rawmode: str) -> Image.Image:
    """The image loaded with another order of bytes in mind."""
    def swap(args: Any) -> Any:
        if isinstance(args, str):
            return rawmode
        first = next(i for i, a in enumerate(args) if isinstance(a, str))
        return (*args[:first], rawmode, *args[first + 1:])

    image.tile = [t._replace(args=swap(t.args)) for t in image.tile]
    image.load()
    return image


def picture_of(image: Image.Image, name: str, depth: int = 8) -> Picture:
    """A loaded Pillow image as a Picture. `depth`: bits per sample of the greyscale file that it came from."""
    mode, key = image.mode, image.info.get("transparency")
    if mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        white = 65535 if not values.size or 0 <= values.min() and values.max() <= 65535 else None
        alpha = None
        if isinstance(key, int):
            alpha, mode = (values != key).astype(np.float64), f"{mode} with transparency"
        return Picture(values[:, :, None], mode, alpha, white)
    if mode == "F":
        return Picture(np.asarray(image)[:, :, None], mode, None, None)
    if mode in ("L", "1") and isinstance(key, int):
        grey = np.asarray(image.convert("L"))
        if mode == "L" and depth < 8:  # the samples are spread to 8 bits, the key is not
            key = key * 255 // (2**depth - 1)
        elif mode == "1":
            key = 255 if key else 0
        return Picture(grey[:, :, None], f"{mode} with transparency", np.where(grey == key, 0, 255).astype(np.uint8))
    if mode in ("LA", "La"):
        both = np.asarray(image if mode == "LA" else image.convert("LA"))
        return Picture(both[:, :, :1], mode, both[:, :, 1])
    if mode in ("PA", "RGBA", "RGBa") or key is not None:
        if mode == "RGB" and isinstance(key, tuple):
            rgb = np.asarray(image)
            alpha = np.where((rgb == np.asarray(key)).all(2), 0, 255).astype(np.uint8)
        else:
            rgba = np.asarray(image.convert("RGBA"))
            rgb, alpha = rgba[:, :, :3], rgba[:, :, 3]
        mode += "" if mode in ("PA", "RGBA", "RGBa") else " with transparency"
        return Picture(rgb, mode, alpha)
    if mode in ("1", "L"):
        return Picture(np.asarray(image.convert("L"))[:, :, None], mode)
    return Picture(np.asarray(image if mode == "RGB" else image.convert("RGB")), mode)


# ---- conversion ------------------------------------------------------------------------------------------------------


def to_uint8(picture: Picture, name: str, channels: str = "keep", alpha: str | None = None,
             value_range: tuple[float, float] | None = None) -> np.ndarray:
    """uint8 [H, W, 1 or 3].

    Values of more than 8 bits become rounded (v - low) * 255 / (high - low), clipped, with (low, high) = `value_range`,
    or (0, 65535) for 16 bits (less where the file says so). `channels` 'keep' | '1' | '3'. Transparency needs `alpha`:
    'black' or 'white' to lay the image on, or 'drop'. Raises UserError naming the image for transparency without that
    and for values without a defined range.
    """
    from PIL import Image

    if picture.alpha is not None and alpha is None:
        raise UserError(f"{name} has transparency (mode {picture.mode}); choose --alpha=black, white or drop")
    ground = {"black": 0, "white": 255}.get(alpha or "")
    pixels = picture.pixels
    if pixels.dtype == np.uint8:
        if picture.alpha is not None and ground is not None:
            rgba = np.dstack([np.broadcast_to(pixels, (*pixels.shape[:2], 3)), picture.alpha])
            image = Image.fromarray(np.ascontiguousarray(rgba))
            laid = np.asarray(Image.alpha_composite(Image.new("RGBA", image.size, alpha), image))
            pixels = laid[:, :, : pixels.shape[2]]
    else:
        values = _scaled(picture, name, value_range)
        if picture.alpha is not None and ground is not None:
            a = picture.alpha[:, :, None]
            values = values * a + ground * (1 - a)
        pixels = np.floor(values + 0.5).astype(np.uint8)
    if channels != "keep" and pixels.shape[2] != int(channels):
        image = Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels))
        pixels = np.asarray(image.convert("L" if channels == "1" else "RGB"))
    pixels = np.ascontiguousarray(pixels)
    return pixels[:, :, np.newaxis] if pixels.ndim == 2 else pixels


def _scaled(picture: Picture, name: str, value_range: tuple[float, float] | None) -> np.ndarray:
    """float64 [H, W, C] in 0..255."""
    values = picture.pixels.astype(np.float64)
    if not np.isfinite(values).all():
        raise UserError(f"{name} has {int((~np.isfinite(values)).sum())} pixels that are not finite (NaN or infinite); "
                        "save it without them")
    if value_range is None and picture.white is None:
        low, high = (values.min(), values.max()) if values.size else (0, 0)
        kind = "floating-point" if picture.mode == "F" else "integer"
        raise UserError(f"{name} has {kind} pixels from {low:g} to {high:g}, without a defined range; add "
                        "--range=LOW,HIGH, the values that become black and white")
    low, high = value_range or (0, picture.white)
    values = np.clip((values - low) * (255 / (high - low)), 0, 255)
    return 255 - values if picture.inverted else values
