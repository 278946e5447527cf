# SPDX-License-Identifier: Apache-2.0
"""Letters in the fonts of a machine."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from dnnlib.util import UserError
from gantransfer.data import sources
from gantransfer.data.dataset import ImageDataset
from gantransfer.data.sources import fonts


def _a_font_folder() -> str | None:
    for folder in ("/usr/share/fonts", "/usr/local/share/fonts", "/Library/Fonts", os.path.expanduser("~/.fonts")):
        if os.path.isdir(folder) and sum(p.suffix.lower() in (".ttf", ".otf") for p in Path(folder).rglob("*")) >= 6:
            return folder
    return None


def test_glyphs(tmp_path, accepted):
    folder = _a_font_folder()
    if folder is None:
        pytest.skip("no fonts on this machine")
    options = sources.SourceOptions(letters="A-E", font_distance=0.0, report=lambda text: None)
    everything = list(sources.open_source(f"fonts:{folder}", options).items())
    families = {}
    for split in ("train", "reference"):
        source = sources.open_source(f"fonts:{folder}", dataclasses.replace(options, split=split))
        items = list(source.items())
        assert source.count == len(items) and source.class_names == tuple("ABCDE")
        families[split] = {fonts.font_family(" ".join(i.name[5:].split()[:-1])) for i in items}
        assert [i.label for i in items] == list(range(5)) * (len(items) // 5)
    assert families["train"] and families["reference"]
    arrays = [np.asarray(i.load()) for i in everything]
    assert len({a.tobytes() for a in arrays}) == len(arrays)  # no glyph twice
    assert all(a.shape == (32, 32) and 2 < a.mean() < 200 for a in arrays)
    border = np.mean([np.concatenate([a[0], a[-1], a[:, 0], a[:, -1]]).mean() for a in arrays])
    assert border < 1  # inside the frame
    # A letter resembles the same letter of other faces more than other letters.
    mean = [np.mean([a for a, i in zip(arrays, everything) if i.label == k], 0) for k in range(5)]
    nearest = [int(np.argmin([((a - m) ** 2).sum() for m in mean])) for a in arrays]
    assert np.mean(np.equal(nearest, [i.label for i in everything])) > 0.9
    out = accepted(f"--source=fonts:{folder}", f"--dest={tmp_path}/f.zip", "--letters=A-E", "--resolution=16x16")
    assert "families" in out
    assert ImageDataset(tmp_path / "f.zip", use_labels=True).spec.label.names == tuple("ABCDE")


def test_families_are_split_whole():
    families = ["a"] * 4 + ["b"] * 2 + ["c"] * 3 + ["d"] + ["e"] * 6
    for seed in range(20):
        held = fonts.held_out_families(families, seed)
        share = sum(f in held for f in families) / len(families)
        assert held < set(families) and 0 < share <= 0.5
    assert fonts.held_out_families(["a", "a"], 0) == set()
    assert fonts.held_out_families(["a"] * 9 + ["b"] * 8, 0) == {"b"}
    assert len({frozenset(fonts.held_out_families(families, s)) for s in range(20)}) > 1
    assert fonts.font_family("Lato Semi-Bold") == fonts.font_family("Lato Light") == "Lato"
    assert fonts.font_family("DejaVu Sans Condensed") == "DejaVu Sans"
    assert fonts.font_family("Black") == "Black"


@pytest.mark.parametrize("text, letters", [("A-C", "ABC"), ("A-B,x-z", "ABxyz"), ("QRS", "QRS")])
def test_letters(text, letters):
    assert fonts.parse_letters(text) == letters


@pytest.mark.parametrize("text", ["C-A", "AA", "A", "A B", ""])
def test_bad_letters(text):
    with pytest.raises(UserError, match="--letters"):
        fonts.parse_letters(text)
