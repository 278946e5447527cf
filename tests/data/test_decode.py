# SPDX-License-Identifier: Apache-2.0
"""Image files become the right pixels for every reader: orientations, depths, transparency, ranges, sizes, damage."""

import io
import struct
import threading
import zlib

import numpy as np
import pytest
from PIL import Image

from dnnlib.util import UserError
from gantransfer.data import decode as pixels
from gantransfer.data.dataset import ImageDataset
from gantransfer.data.decode import TooLarge, decode, read_picture, to_uint8
from tests.data.picture_sets import picture


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def raw_png(samples, depth, colour, before=b"", after=b"", palette=None, width=None):
    """A PNG file written byte by byte; `samples` [H, W, C] whole numbers of `depth` bits."""
    h, w, c = samples.shape
    rows = []
    for row in samples.reshape(h, w * c):
        if depth == 16:
            body = row.astype(">u2").tobytes()
        else:
            bits = ((row[:, None] >> np.arange(depth - 1, -1, -1)) & 1).astype(np.uint8).reshape(-1)
            body = np.packbits(bits).tobytes()
        rows.append(b"\0" + body)
    head = struct.pack(">IIBBBBB", w, h, depth, colour, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + (chunk(b"PLTE", palette) if palette else b"") + before
            + chunk(b"IDAT", zlib.compress(b"".join(rows))) + after + chunk(b"IEND", b""))


def saved(array, fmt, **kw):
    f = io.BytesIO()
    (array if isinstance(array, Image.Image) else Image.fromarray(array)).save(f, fmt, **kw)
    return f.getvalue()


def expected(samples, full):
    return np.floor(samples * (255 / full) + 0.5).astype(np.uint8)


# Where the pixel at the file's (row 0, column 0) lies in the upright image, and whether rows become columns.
CORNER = {1: ("top", "left", False), 2: ("top", "right", False), 3: ("bottom", "right", False),
          4: ("bottom", "left", False), 5: ("top", "left", True), 6: ("top", "right", True),
          7: ("bottom", "right", True), 8: ("bottom", "left", True)}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("fmt, kw", [("png", {}), ("webp", {"lossless": True}), ("jpeg", {"quality": 100}),
                                     ("tiff", {}), ("tiff", {"compression": "tiff_lzw"})])
def test_every_orientation_of_every_format_is_applied(orientation, fmt, kw):
    stored = np.zeros([16, 16, 3], np.uint8)
    stored[:8, :8] = 255  # first corner white
    stored[:8, 8:] = 128  # the rest of the first rows grey
    exif = Image.Exif()
    exif[0x0112] = orientation
    got = decode(saved(stored, fmt, exif=exif, **kw), "x")[:, :, 0].astype(int)
    y, x, swapped = CORNER[orientation]
    rows = {"top": slice(0, 8), "bottom": slice(8, 16)}
    columns = {"left": slice(0, 8), "right": slice(8, 16)}
    assert abs(got[rows[y], columns[x]].mean() - 255) < 3
    other_y, other_x = ("bottom" if y == "top" else "top"), ("right" if x == "left" else "left")
    beside = got[rows[other_y], columns[x]] if swapped else got[rows[y], columns[other_x]]
    assert abs(beside.mean() - 128) < 3 and abs(got[rows[other_y], columns[other_x]].mean()) < 3


def test_orientation_of_deep_and_transparent_images_and_other_spellings():
    wide = np.arange(12).reshape(2, 6, 1).astype(np.uint16) * 5000
    turned = np.rot90(expected(wide, 65535), -1)
    exif = Image.Exif()
    exif[0x0112] = 6
    blob = exif.tobytes()[6:] if exif.tobytes().startswith(b"Exif") else exif.tobytes()
    for colour, samples in ((0, wide), (2, np.repeat(wide, 3, 2)), (4, np.dstack([wide, wide * 0 + 65535]))):
        for where in ("before", "after"):
            p = read_picture(raw_png(samples, 16, colour, **{where: chunk(b"eXIf", blob)}), "x")
            got = to_uint8(p, "x", alpha="drop")
            assert got.shape[:2] == (6, 2) and np.array_equal(got[:, :, :1], turned) and "turned" in p.notes
    for text in (b"tiff:Orientation=\"6\"", b"<tiff:Orientation>6</tiff:Orientation>"):
        xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>" + text + b"</x:xmpmeta>"
        data = raw_png(np.repeat(wide // 300, 3, 2), 8, 2,
                       chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp))
        assert decode(data, "x").shape == (6, 2, 3)
    for compression in (None, "tiff_lzw"):
        image = Image.fromarray(wide[:, :, 0])
        p = read_picture(saved(image, "tiff", exif=exif, compression=compression), "x")
        assert np.array_equal(to_uint8(p, "x"), turned)


def test_training_sees_what_conversion_sees(tmp_path):
    stored = np.zeros([16, 16, 3], np.uint8)
    stored[:8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "set").mkdir()
    for k, fmt in enumerate(("png", "jpeg", "webp", "tiff")):
        (tmp_path / f"set/{k}.{fmt}").write_bytes(saved(stored, fmt, exif=exif))
    data = ImageDataset(tmp_path / "set")
    for image in data.images_uint8(range(4)):
        assert image[:, :, :7].max() < 4 and image[:, :, 9:].min() > 251


def test_a_transparent_image_is_found_before_a_long_run(tmp_path):
    (tmp_path / "set").mkdir()
    samples = np.arange(48).reshape(4, 4, 3)
    for k, before in enumerate((b"", chunk(b"tRNS", struct.pack(">3H", 0, 1, 2)))):
        (tmp_path / f"set/{k}.png").write_bytes(raw_png(samples, 8, 2, before))
    with pytest.raises(UserError, match=r"1\.png.*RGB with transparency"):
        ImageDataset(tmp_path / "set").check_headers()


def test_damaged_exif_is_said_and_the_image_kept():
    data = raw_png(np.zeros([4, 4, 3], np.int64), 8, 2, chunk(b"eXIf", b"II*\0\x08\0\0\0\xff\xff" + b"\xff" * 7))
    assert read_picture(data, "x").pixels.shape == (4, 4, 3)


# ---- depths and transparency ------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_grey_of_every_depth_with_a_transparent_value(depth):
    full = 2**depth - 1
    samples = np.linspace(0, full, 16).round().astype(np.int64).reshape(4, 4, 1)
    key = int(samples[2, 1, 0])
    plain, keyed = raw_png(samples, depth, 0), raw_png(samples, depth, 0, chunk(b"tRNS", struct.pack(">H", key)))
    assert np.array_equal(to_uint8(read_picture(plain, "x"), "x"), expected(samples, full))
    picture = read_picture(keyed, "x")
    with pytest.raises(UserError, match="x has transparency.*--alpha"):
        to_uint8(picture, "x")
    with pytest.raises(UserError, match="with transparency"):
        decode(keyed, "x")
    for alpha, ground in (("black", 0), ("white", 255), ("drop", None)):
        want = expected(samples, full)
        if ground is not None:
            want[samples == key] = ground
        assert np.array_equal(to_uint8(picture, "x", alpha=alpha), want)


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("colour, channels", [(2, 3), (4, 2), (6, 4)])
def test_colour_and_alpha_of_every_depth(depth, colour, channels):
    full = 2**depth - 1
    rng = np.random.RandomState(depth + colour)
    samples = rng.randint(0, full + 1, (5, 7, channels))
    before = b""
    if colour == 2:
        before = chunk(b"tRNS", struct.pack(">3H", *samples[3, 2]))
        alpha = (samples != samples[3, 2]).any(2)[:, :, None].astype(float)
        values = samples
    else:
        samples[0, :3, -1] = (0, full, full // 2)
        alpha, values = samples[:, :, -1:] / full, samples[:, :, :-1]
    picture = read_picture(raw_png(samples, depth, colour, before), "x")
    with pytest.raises(UserError, match="x has transparency.*--alpha"):
        to_uint8(picture, "x")
    for name, ground in (("black", 0.0), ("white", 255.0), ("drop", None)):
        want = values * (255 / full)
        want = want if ground is None else want * alpha + ground * (1 - alpha)
        got = to_uint8(picture, "x", alpha=name).astype(float)
        assert got.shape == want.shape
        assert np.abs(got - want).max() <= (0.5 + 1e-9 if depth == 16 or ground is None or colour == 2 else 1)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_palettes_with_transparent_entries(depth):
    n = min(2**depth, 16)
    palette = np.random.RandomState(0).randint(0, 256, (n, 3)).astype(np.uint8)
    samples = (np.arange(16) % n).reshape(4, 4, 1)
    for entries in (bytes([0]), bytes([255, 0]), bytes([128, 255])[:n]):
        data = raw_png(samples, depth, 3, chunk(b"tRNS", entries), palette=palette.tobytes())
        a = np.array([*entries, *[255] * (n - len(entries))])[samples] / 255
        want, picture = palette[samples[:, :, 0]] * a + 255 * (1 - a), read_picture(data, "x")
        assert np.abs(to_uint8(picture, "x", alpha="white") - want).max() <= 1
        assert np.array_equal(to_uint8(picture, "x", alpha="drop"), palette[samples[:, :, 0]])
        with pytest.raises(UserError, match="x has transparency.*--alpha"):
            to_uint8(picture, "x")


def test_16_bit_colour_is_refused_by_training_and_scaled_by_conversion(tmp_path):
    samples = np.random.RandomState(1).randint(0, 65536, (8, 8, 3))
    data = raw_png(samples, 16, 2)
    with pytest.raises(UserError, match="mode RGB;16, not 8-bit.*dataset_tool"):
        decode(data, "x")
    assert np.array_equal(to_uint8(read_picture(data, "x"), "x"), expected(samples, 65535))


def tiff(samples, bits, photometric, order="<", fmt=1, extra=None, planar=1):
    """An uncompressed one-strip TIFF."""
    h, w, c = samples.shape
    if bits == 12:  # two samples in three bytes
        a, b = samples.reshape(-1, 2).T
        body = np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], 1).astype(np.uint8).tobytes()
    else:
        kind = {8: "u1", 16: "u2" if fmt == 1 else "i2", 32: {1: "u4", 2: "i4", 3: "f4"}[fmt]}[bits]
        body = samples.astype(order + kind).tobytes()
    tags = [(256, 4, [w]), (257, 4, [h]), (258, 3, [bits] * c), (259, 3, [1]), (262, 3, [photometric]), (273, 4, [8]),
            (277, 3, [c]), (278, 4, [h]), (279, 4, [len(body)]), (284, 3, [planar])]
    if extra is not None:
        tags.append((338, 3, [extra]))
    tags.append((339, 3, [fmt] * c))
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8 + len(body))
    start = 8 + len(body) + 2 + 12 * len(tags) + 4
    entries, rest = b"", b""
    for tag, kind, values in tags:
        packed = struct.pack(order + {3: "H", 4: "I"}[kind] * len(values), *values)
        if len(packed) > 4:
            at, rest = start + len(rest), rest + packed
            packed = struct.pack(order + "I", at)
        entries += struct.pack(order + "HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    return head + body + struct.pack(order + "H", len(tags)) + entries + b"\0\0\0\0" + rest


def test_a_tiff_of_12_bits_says_itself_what_is_white():
    grey = (np.arange(64) * 65).reshape(8, 8, 1)  # 0 to 4095
    picture = read_picture(tiff(grey, 12, 1), "x")
    assert picture.white == 4095 and np.array_equal(picture.pixels, grey)
    assert np.array_equal(to_uint8(picture, "x"), expected(grey, 4095))


@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_of_16_bits(order):
    rng = np.random.RandomState(0)
    grey, rgb = rng.randint(0, 65536, (4, 6, 1)), rng.randint(0, 65536, (4, 6, 3))
    assert np.array_equal(to_uint8(read_picture(tiff(grey, 16, 1, order), "x"), "x"), expected(grey, 65535))
    assert np.array_equal(to_uint8(read_picture(tiff(rgb, 16, 2, order), "x"), "x"), expected(rgb, 65535))
    rgba = np.dstack([rgb, rng.randint(1, 65536, (4, 6, 1))])
    a = rgba[:, :, 3:] / 65535
    laid = to_uint8(read_picture(tiff(rgba, 16, 2, order, extra=2), "x"), "x", alpha="black")
    assert np.abs(laid - rgb * a / 257).max() <= 0.5 + 1e-9
    premultiplied = np.dstack([(rgb * a).round(), rgba[:, :, 3:]]).astype(np.int64)
    laid = to_uint8(read_picture(tiff(premultiplied, 16, 2, order, extra=1), "x"), "x", alpha="black")
    assert np.abs(laid - rgb * a / 257).max() <= 0.51
    with pytest.raises(UserError, match="planar"):
        read_picture(tiff(rgb, 16, 2, order, planar=2), "x")


def test_tiff_in_which_0_is_white():
    grey = np.random.RandomState(0).randint(0, 65536, (4, 6, 1))
    assert np.array_equal(to_uint8(read_picture(tiff(grey, 16, 0), "x"), "x"), 255 - expected(grey, 65535))
    twelve = np.random.RandomState(0).randint(0, 4096, (4, 6, 1))
    got = to_uint8(read_picture(tiff(twelve, 16, 0), "x"), "x", value_range=(0, 4095))
    assert np.abs(got.astype(int) - (255 - expected(twelve, 4095).astype(int))).max() <= 1
    with pytest.raises(UserError, match="0 is white"):
        read_picture(tiff(np.random.RandomState(0).rand(4, 4, 1), 32, 0, fmt=3), "x")


def test_compressed_16_bit_tiff(tmp_path):
    grey = np.random.RandomState(0).randint(0, 65536, (4, 6)).astype(np.uint16)
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
        data = saved(grey, "tiff", compression=compression)
        assert np.array_equal(to_uint8(read_picture(data, "x"), "x")[:, :, 0], expected(grey, 65535))


def test_modes_of_other_formats():
    rng = np.random.RandomState(0)
    grey = rng.randint(0, 256, (8, 8)).astype(np.uint8)
    assert np.array_equal(to_uint8(read_picture(saved(Image.fromarray(grey > 99), "tiff"), "x"), "x")[:, :, 0],
                          np.where(grey > 99, 255, 0))
    cmyk = Image.fromarray(rng.randint(0, 256, (8, 8, 4)).astype(np.uint8), "CMYK")
    got = to_uint8(read_picture(saved(cmyk, "tiff"), "x"), "x")
    assert np.array_equal(got, np.asarray(cmyk.convert("RGB")))
    lab = Image.new("LAB", (4, 4), (136, 208, 195))  # L 53.3, a 80, b 67: sRGB red, but for the 8 bits of Lab
    assert np.abs(to_uint8(read_picture(saved(lab, "tiff"), "x"), "x").astype(int) - (255, 0, 0)).max() <= 11
    pgm = b"P5 2 2 4095\n" + np.array([0, 1000, 2000, 4095], ">u2").tobytes()  # says itself what is white
    assert np.abs(to_uint8(read_picture(pgm, "x"), "x").reshape(-1) - np.array([0, 1000, 2000, 4095]) / 4095 * 255
                  ).max() <= 0.51
    numbers = np.array([[0, 65535], [257, 1000]], np.int32)
    assert np.array_equal(to_uint8(read_picture(saved(numbers, "tiff"), "x"), "x")[:, :, 0], [[0, 255], [1, 4]])


# ---- ranges -----------------------------------------------------------------------------------------------------


def test_a_range_is_told_and_needed_for_floats():
    floats = np.linspace(-1, 1, 16).astype(np.float32).reshape(4, 4)
    picture = read_picture(saved(floats, "tiff"), "x")
    with pytest.raises(UserError, match="x has floating-point pixels from -1 to 1.*--range=LOW,HIGH"):
        to_uint8(picture, "x")
    assert np.array_equal(to_uint8(picture, "x", value_range=(-1, 1))[:, :, 0], expected((floats + 1) / 2, 1))
    assert to_uint8(picture, "x", value_range=(0, 0.5)).min() == 0
    floats[0, 0] = np.nan
    with pytest.raises(UserError, match="x has 1 pixels that are not finite"):
        to_uint8(read_picture(saved(floats, "tiff"), "x"), "x", value_range=(-1, 1))
    signed = np.array([[-1000, 0], [1000, 3000]], np.int32)
    with pytest.raises(UserError, match="integer pixels from -1000 to 3000.*--range"):
        to_uint8(read_picture(saved(signed, "tiff"), "x"), "x")
    assert np.array_equal(to_uint8(read_picture(saved(signed, "tiff"), "x"), "x", value_range=(-1000, 3000))[:, :, 0],
                          [[0, 64], [128, 255]])


def test_data_of_fewer_bits_in_16_bit_files_is_said_once(tmp_path, tool, accepted):
    (tmp_path / "in").mkdir()
    samples = [np.random.RandomState(k).randint(0, 4096, (8, 8, 3)) for k in range(3)]
    samples[1][0, 0] = 4095
    for k, s in enumerate(samples):
        (tmp_path / f"in/{k}.png").write_bytes(raw_png(s, 16, 2))
    out = accepted(f"--source={tmp_path}/in", f"--dest={tmp_path}/dark.zip")
    assert out.count("12-bit data in 16-bit files") == 1 and "--range=0,4095" in out
    assert "12-bit" not in accepted(f"--source={tmp_path}/in", f"--dest={tmp_path}/a.zip", "--range=0,4095")
    got = ImageDataset(tmp_path / "a.zip").images_uint8(range(3)).transpose(0, 2, 3, 1)
    assert np.array_equal(got, expected(np.stack(samples), 4095))
    code, out, _ = tool("check", f"{tmp_path}/in")
    assert code == 1 and "12-bit" in out and "mode RGB;16" in out
    (tmp_path / "in/3.png").write_bytes(raw_png(samples[0] % 256, 8, 2))
    out = accepted(f"--source={tmp_path}/in", f"--dest={tmp_path}/b.zip", "--range=0,2000")
    assert "3 images with values outside --range=0,2000" in out and "1 image of 8 bits" in out
    full = samples[0] * 16
    for k in range(3):
        (tmp_path / f"in/{k}.png").write_bytes(raw_png(full, 16, 2))
    (tmp_path / "in/3.png").unlink()
    assert "warning" not in accepted(f"--source={tmp_path}/in", f"--dest={tmp_path}/c.zip")


# ---- sizes, frames, damage ---------------------------------------------------------------------------------------


def test_large_images_convert_with_the_flag_that_the_message_names(tmp_path, monkeypatch):
    monkeypatch.setattr(pixels, "MAX_PIXELS", 1000)
    monkeypatch.setattr(pixels, "SMALL_PIXELS", 0)
    data = saved(np.random.RandomState(0).randint(0, 256, (64, 64, 3)).astype(np.uint8), "tiff")
    with pytest.raises(TooLarge, match=r"x has 64 x 64 pixels.*--max-pixels=4096"):
        decode(data, "x")
    with pytest.raises(TooLarge, match="--max-pixels=4096"):
        read_picture(data, "x", 1000)
    assert read_picture(data, "x", 4096).pixels.shape == (64, 64, 3)


def test_images_above_the_limit_of_pillow(tmp_path, tool, accepted, refused):
    """A blank slide of 190 megapixels: refused with the flag, converted with it."""
    Image.new("1", (19_000, 10_000), 1).save(tmp_path / "x.tif", compression="group4")
    (tmp_path / "in").mkdir()
    (tmp_path / "x.tif").rename(tmp_path / "in/x.tif")
    err = refused(f"--source={tmp_path}/in", f"--dest={tmp_path}/a.zip", "--transform=center-crop",
                  "--resolution=16x16")
    assert "--max-pixels=190000000" in err and "remove" not in err
    code, out, _ = tool("check", f"{tmp_path}/in")
    assert code == 1 and "--max-pixels" in out
    accepted(f"--source={tmp_path}/in", f"--dest={tmp_path}/a.zip", "--transform=center-crop",
             "--resolution=16x16", "--max-pixels=190000000", "--resize-filter=box")
    assert (ImageDataset(tmp_path / "a.zip").images_uint8([0]) == 255).all()


def test_a_blank_bilevel_png_is_no_lie():
    f = io.BytesIO()
    Image.new("1", (6000, 6000), 1).save(f, "png")
    with pytest.raises(TooLarge, match="--max-pixels=36000000"):  # 36 million pixels in 4 KB
        read_picture(f.getvalue(), "x")
    assert read_picture(f.getvalue(), "x", 36_000_000).pixels.min() == 255


def test_the_first_frame_is_taken_and_said_once(tmp_path, accepted):
    frames = [Image.fromarray(np.full([8, 8, 3], v, np.uint8)) for v in (10, 200)]
    (tmp_path / "in").mkdir()
    for k, (fmt, kw) in enumerate((("png", {}), ("webp", {"lossless": True}), ("tiff", {}), ("gif", {}))):
        frames[0].save(tmp_path / f"in/{k}.{fmt}", fmt, save_all=True, append_images=frames[1:], **kw)
    out = accepted(f"--source={tmp_path}/in", f"--dest={tmp_path}/a.zip")
    assert out.count("4 images with several frames or pages: the first one is taken") == 1
    assert (ImageDataset(tmp_path / "a.zip").images_uint8(range(4)) == 10).all()
    (tmp_path / "in/3.gif").unlink()
    with pytest.warns(UserWarning, match="several frames") as said:
        data = ImageDataset(tmp_path / "in")
        assert (data.images_uint8(range(3)) == 10).all()
    assert len([w for w in said if "frames" in str(w.message)]) == 1


def test_a_foreign_colour_profile_is_said(tmp_path, accepted):
    from PIL import ImageCms

    (tmp_path / "in").mkdir()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = Image.fromarray(np.full([8, 8, 3], 90, np.uint8))
    image.save(tmp_path / "in/0.png", icc_profile=srgb)
    image.save(tmp_path / "in/1.png", icc_profile=srgb.replace(b"s\0R\0G\0B", b"X\0Y\0Z\0W").replace(b"sRGB", b"XYZW"))
    out = accepted(f"--source={tmp_path}/in", f"--dest={tmp_path}/a.zip")
    assert "1 image with a colour profile other than sRGB" in out
    assert (ImageDataset(tmp_path / "a.zip").images_uint8(range(2)) == 90).all()


KINDS = ("png", "jpeg", "webp", "bmp", "gif", "tiff", "ppm", "tga", "jpeg2000", "ico", "pcx", "sgi", "dds", "qoi")


def test_only_the_named_formats_are_opened():
    image = Image.fromarray(np.zeros([8, 8, 3], np.uint8))
    for fmt in ("eps", "im", "spider", "msp", "pdf"):
        data = saved(image.convert("F" if fmt == "spider" else "1" if fmt == "msp" else "RGB"), fmt)
        with pytest.raises(UserError, match="unknown or damaged image format"):
            decode(data, "x")
    for fmt in KINDS:
        assert read_picture(saved(image, fmt), "x").pixels.shape[2] in (1, 3), fmt


@pytest.mark.parametrize("fmt", KINDS)
def test_whatever_a_plugin_raises_is_one_user_error(fmt):
    rng = np.random.RandomState(0)
    good = saved(rng.randint(0, 256, (16, 16, 3)).astype(np.uint8), fmt)
    for k in range(400):
        data = bytearray(good)
        for at in rng.randint(0, min(len(good), 200), rng.randint(1, 4)):
            data[at] = rng.randint(256)
        data = bytes(data[: rng.randint(1, len(data))]) if k % 4 == 0 else bytes(data)
        try:
            read_picture(data, "x")
            decode(data, "x")
        except UserError as e:
            assert "\n" not in str(e)


def test_dds_of_an_unknown_kind_is_one_line():
    data = b"DDS " + struct.pack("<31I", 124, 0x1007, 8, 8, 0, 0, 0, *[0] * 11, 32, 0x4, 0x31313131, *[0] * 10)[:124]
    with pytest.raises(UserError, match="cannot decode x"):
        decode(data, "x")


def test_decoding_in_threads_leaves_pillows_limit_alone():
    before = Image.MAX_IMAGE_PIXELS
    data = saved(np.zeros([8, 8, 3], np.uint8), "bmp")
    threads = [threading.Thread(target=lambda: [decode(data, "x") for _ in range(200)]) for _ in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert before == Image.MAX_IMAGE_PIXELS is not None


def test_modes_are_converted_explicitly(tmp_path):
    rgb = Image.fromarray(picture(0))
    grey = rgb.convert("L")
    deep = (np.arange(256, dtype=np.uint32).reshape(16, 16) * 257).astype(np.uint16)

    def array(image, **kw):
        return to_uint8(pixels.picture_of(image, "x.png"), "x.png", **kw)

    assert np.array_equal(array(rgb), np.asarray(rgb)) and np.array_equal(array(grey)[:, :, 0], np.asarray(grey))
    assert np.array_equal(array(rgb.convert("P", palette=Image.Palette.ADAPTIVE)),
                          np.asarray(rgb.convert("P", palette=Image.Palette.ADAPTIVE).convert("RGB")))
    assert np.array_equal(array(Image.fromarray(deep))[:, :, 0], np.arange(256).reshape(16, 16))
    assert np.array_equal(array(Image.fromarray(deep.astype(np.int32)))[:, :, 0], np.arange(256).reshape(16, 16))
    assert set(np.unique(array(grey.convert("1")))) <= {0, 255} and array(grey.convert("1")).shape == (16, 16, 1)
    assert np.array_equal(array(rgb.convert("CMYK")), np.asarray(rgb.convert("CMYK").convert("RGB")))
    assert array(rgb.convert("YCbCr")).shape == (16, 16, 3)
    assert np.array_equal(array(rgb, channels="1")[:, :, 0], np.asarray(grey))
    assert np.array_equal(array(grey, channels="3"), np.repeat(np.asarray(grey)[:, :, None], 3, 2))
    with pytest.raises(UserError, match="x.png has floating"):
        array(Image.fromarray(np.zeros([4, 4], np.float32)))
    with pytest.raises(UserError, match="x.png has integer pixels"):
        array(Image.fromarray(np.full([4, 4], 70000, np.int32)))
