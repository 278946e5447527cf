# SPDX-License-Identifier: Apache-2.0
"""Names of files and classes: one spelling for every side of a comparison, and what an operating system leaves behind.

Imports only the standard library.
"""

from __future__ import annotations

import importlib.util
import re
import unicodedata
import zipfile
from collections.abc import Collection, Iterable
from decimal import Decimal
from typing import Any

from dnnlib.util import UserError, printable

# What macOS, Windows and storage boxes put beside the user's files; hidden files are recognised by their dot.
_LITTER = frozenset(("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "@eadir", "$recycle.bin",
                     "system volume information", "lost+found"))
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")


def valid_text(text: str) -> str:
    """`text` in Unicode's composed form (NFC) and without lone surrogates, so that it can be written anywhere.

    Bytes of a file name that are no UTF-8 reach Python as lone surrogates; they are read in an older encoding.
    """
    if text.isascii():
        return text
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        try:
            text = _older(text.encode("utf-8", "surrogateescape"))
        except UnicodeEncodeError:
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return unicodedata.normalize("NFC", text)


def short(value: Any) -> str:
    """A value as a message shows it: printable, and not longer than 40 characters without a word."""
    text = printable(str(value))
    return text if len(text) <= 40 else f"{text[:30]}... ({len(text)} characters)"


def _older(data: bytes) -> str:
    """A file name whose bytes are no UTF-8: Latin-1 or Shift-JIS if that gives printable text, else cp437, which reads
    any bytes. A guess, but always the same one."""
    for codec in ("utf-8", "cp932") if _two_byte(data) else ("utf-8", "latin-1", "cp932"):
        try:
            text = data.decode(codec)
        except UnicodeDecodeError:
            continue
        if codec == "utf-8" or text.isprintable():
            return text
    return data.decode("cp437")


def _two_byte(data: bytes) -> bool:
    """Whether a backslash follows a high byte: in Shift-JIS it is often the second half of a character."""
    return re.search(rb"[\x80-\xff]\\", data) is not None


def clean_name(raw: str) -> str:
    """The spelling under which a file of a set is known: '/' between folders, no '.' or empty parts, valid text."""
    name = raw if raw.isascii() else valid_text(raw)
    if "\\" in name:
        name = name.replace("\\", "/")
    if "//" in name or name.startswith("./") or "/./" in name:
        kept = "/".join(p for p in name.split("/") if p not in ("", "."))
        name = ("/" if name.startswith("/") else "") + kept + ("/" if kept and name.endswith("/") else "")
    return name


def zip_name(info: zipfile.ZipInfo) -> str:
    """`clean_name` of a member of a zip. Names that do not say that they are UTF-8 often are; the format's own
    encoding is cp437, and a backslash that halves a character speaks for Shift-JIS."""
    raw = info.filename
    if not raw.isascii() and not info.flag_bits & 0x800:
        try:
            data = raw.encode("cp437")
        except UnicodeEncodeError:
            return clean_name(raw)  # from the extra field that holds the name as Unicode
        for codec in ("utf-8", "cp932") if _two_byte(data) else ("utf-8",):
            try:
                return clean_name(data.decode(codec))
            except UnicodeDecodeError:
                pass
    return clean_name(raw)


def is_litter(name: str) -> bool:
    """True for cleaned names that are hidden (`.ipynb_checkpoints/`, `._x.png`) or left by an archiver or a system."""
    return name.startswith(".") or "/." in name or not _LITTER.isdisjoint(name.casefold().split("/"))


def sorted_classes(names: Collection[str], where: str) -> list[str]:
    """Class names in the order of their ids: numbers by value, before all others by text.

    Raises UserError naming two names that are the same number ('2' and '02'): which class is number 2 would be a guess.
    """
    numbers: dict[Decimal, str] = {}
    for name in sorted(names):
        if _NUMBER.fullmatch(name):
            other = numbers.setdefault(Decimal(name), name)
            if other != name:
                raise UserError(f"the class folders {other} and {name} of {where} are the same number; rename one, or "
                                "move their images into one folder")
    rank = {name: i for i, (_, name) in enumerate(sorted(numbers.items()))}
    return sorted(names, key=lambda n: (0, rank[n], "") if n in rank else (1, 0, n))


def extension(name: str) -> str:
    """The extension in lower case, for counting: '.heic', or 'without extension'."""
    stem, dot, ending = name.rpartition("/")[2].rpartition(".")
    return f".{ending.lower()}" if dot and stem and ending else "without extension"


def counted(extensions: Iterable[tuple[str, int]]) -> str:
    """'4 .svg (convert them first), 1 .txt': files by extension."""
    parts = sorted(extensions, key=lambda kv: (-kv[1], kv[0]))
    heif = importlib.util.find_spec("pillow_heif") is not None
    shown = [f"{n} {ending}{READ if heif and ending in HEIF else REMEDIES.get(ending, '')}" for ending, n in parts[:8]]
    return ", ".join(shown) + (f" and {sum(n for _, n in parts[8:])} more" if len(parts) > 8 else "")


# Pictures and films that Pillow does not read, and what may lie beside images without being one.
CONVERTIBLE = frozenset("""
    .jxl .jxr .raw .cr2 .cr3 .crw .nef .nrw .arw .dng .orf .raf .rw2 .pef .srw .psd .psb .xcf .svg .pdf
    .eps .ai .exr .hdr .dcm .nii .mp4 .mov .avi .mkv .webm .svs .ndpi .czi .fits .mng .wmf .emf .icns .cur .xbm .xpm
    """.split())
HEIF = (".heic", ".heif", ".hif")
READ = " (dataset_tool.py --source=... converts them)"
REMEDIES = dict.fromkeys(CONVERTIBLE, " (convert them first)") | dict.fromkeys(
    HEIF, " (pip install pillow-heif, or convert them first)")
BESIDE = frozenset("""
    .json .jsonl .txt .csv .tsv .xml .md .rst .html .htm .yaml .yml .toml .ini .cfg .log .py .ipynb .sh .m .mat .npy
    .npz .pkl .doc .docx .xls .xlsx .lst .url .css .js .license""".split())
