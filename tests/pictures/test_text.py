# SPDX-License-Identifier: Apache-2.0
"""Words in pictures: which font draws what, what is said where none does, and lengths."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from gantransfer.data.glyphs import lacking
from gantransfer.pictures import text


@pytest.fixture(autouse=True)
def forget():
    for f in (text._said, text._table, text._fonts, text._runs):
        f.cache_clear()
    yield
    for f in (text._said, text._table, text._fonts, text._runs):
        f.cache_clear()


def drawn(words, size=40):
    picture = Image.new("L", (text.width(words, size) + 4, text.line(size)), 255)
    text.draw(ImageDraw.Draw(picture), 0, 0, words, size)
    return np.asarray(picture) < 128


def test_the_bundled_font_has_latin_greek_and_cyrillic_and_is_what_its_record_says():
    signs = ("AZaz09(.%…–", "ÄßçđęığłŃőřşťůýžŁĦẞ", "ấảặễữỹ", "ΑΩαωάέήίϊΰώἄ", "АЯаяЁёЄєІіЇїҐґЎўЉљЊњЋћЏџӘәҢңҮүҺһ")
    assert not any(lacking(text.FONT, "".join(signs)))
    assert lacking(text.FONT, "日א")[0]
    folder = Path(text.FONT).parent
    record = json.loads((folder / "NotoSans.json").read_text(encoding="utf-8"))
    data = Path(text.FONT).read_bytes()
    assert record["sha256"] == hashlib.sha256(data).hexdigest() and len(data) < 300_000
    assert "SIL OPEN FONT LICENSE Version 1.1" in (folder / "NotoSans.OFL.txt").read_text(encoding="utf-8")


def test_other_scripts_are_drawn_by_a_font_of_the_machine(tmp_path, monkeypatch, capsys):
    candidates = [p for p in Path("/usr/share/fonts").rglob("DejaVuSans.ttf")]
    if not candidates:
        pytest.skip("no DejaVu Sans below /usr/share/fonts (Debian's package fonts-dejavu-core)")
    (tmp_path / "a-broken.ttf").write_bytes(b"no font")
    shutil.copy(candidates[0], tmp_path / "z.ttf")
    monkeypatch.setattr(text, "FOLDERS", (str(tmp_path),))
    armenian = "\u0540\u0561\u0575"  # in DejaVu, and not in what is bundled
    assert text.check([armenian, "Ёлка"]) == [armenian, "Ёлка"] and not capsys.readouterr().err
    other = str(tmp_path / "z.ttf")
    # The space before the number is not the word's: behind one from right to left it would be drawn before the word.
    assert text._runs(f"{armenian} {armenian} (7)") == ((f"{armenian} {armenian}", other), (" (7)", text.FONT))
    known = drawn(armenian)
    monkeypatch.setattr(text, "FOLDERS", ())
    text._table.cache_clear(), text._fonts.cache_clear(), text._runs.cache_clear()
    assert known.shape != drawn(armenian).shape or (known != drawn(armenian)).any()


def test_what_no_font_has_is_said_once_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(text, "FOLDERS", ())
    text.check(["cat", "犬 (3)", "猫", "λ"])
    text.check(["犬 40 %"])
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "the signs of 犬 (3) and 1 more (cjk)" in said and "fonts-noto-cjk" in said
    text.check(["שלום"])
    assert "hebrew" in capsys.readouterr().err
    assert drawn("犬").any()  # a box stands for it


def test_a_name_cannot_carry_commands():
    assert text.check(["a\nb\x1b[2J", "\u202ec"]) == ["a\\nb\\x1b[2J", "\\u202ec"]


def test_lengths():
    assert text.shorten("short", 13, 100) == "short"
    name = "Phalacrocorax carbo sinensis (114)"
    short = text.shorten(name, 13, 120)
    assert text.width(short, 13) <= 120 < text.width(name, 13)
    assert short.startswith("Phala") and short.endswith("s (114)") and "…" in short  # what was counted stays
    lines = text.wrap("one two three Donaudampfschifffahrtsgesellschaft", 13, 60)
    assert all(text.width(t, 13) <= 60 for t in lines) and lines[0].startswith("one") and len(lines) >= 3
    assert text.wrap("", 13, 60) == []


def test_right_and_left_are_the_same_words():
    pictures = []
    for right in (False, True):
        picture = Image.new("L", (200, 30), 255)
        text.draw(ImageDraw.Draw(picture), 180 if right else 20, 4, "Ωmega", 16, right)
        pictures.append(np.flatnonzero((np.asarray(picture) < 200).any(0)))
    left, right = pictures
    assert abs(left[0] - 20) <= 2 and abs(right[-1] - 180) <= 2
    assert abs(np.ptp(left) - np.ptp(right)) <= 1
