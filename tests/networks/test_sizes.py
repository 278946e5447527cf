# SPDX-License-Identifier: Apache-2.0
"""The rule of image sizes against a search, and what is nearest to a size that breaks it."""

import pytest

from gantransfer.networks.sizes import ImageSize


def test_the_rule_against_a_search():
    """H = a 2^n, W = b 2^n, n >= 1, a and b from 3 to 7, as users are told it."""
    allowed = {(a << n, b << n) for n in range(1, 8) for a in range(3, 8) for b in range(3, 8)}
    for h in range(1, 120):
        for w in range(1, 120):
            if max(h, w) >= 8:
                assert (ImageSize(h, w).doublings is not None) == ((h, w) in allowed), (h, w)


@pytest.mark.parametrize("size, levels, first", [
    (64, [4, 8, 16, 32, 64], (4, 4)), (28, [7, 14, 28], (7, 7)), (96, [6, 12, 24, 48, 96], (6, 6)),
    ([48, 32], [6, 12, 24, 48], (6, 4)), ((32, 48), [6, 12, 24, 48], (4, 6)),
    ((256, 384), [6, 12, 24, 48, 96, 192, 384], (4, 6)), (1024, [4 << k for k in range(9)], (4, 4))])
def test_levels(size, levels, first):
    found = ImageSize.of(size)
    assert found.levels == levels and found.at(levels[0]) == first and found.at(levels[-1]) == found
    assert all(found.at(k) == (found.at(k // 2).height * 2, found.at(k // 2).width * 2) for k in levels[1:])


def test_how_it_is_written():
    assert str(ImageSize.of([48, 32])) == "32x48"
    assert ImageSize.of(64).plain == 64 and ImageSize.of([48, 32]).plain == (48, 32) and ImageSize.of((9, 9)).plain == 9


@pytest.mark.parametrize("size, nearest", [
    (200, ["192x192", "224x224"]), (22, ["24x24", "20x20"]), (1000, ["1024x1024", "896x896"]), (1, ["4x4", "5x5"]),
    ((32, 64), ["56x32", "48x32"]), ((180, 250), ["256x192", "224x192"])])
def test_the_nearest_sizes(size, nearest):
    """Two of them; of a square two squares."""
    assert list(map(str, ImageSize.of(size).nearest())) == nearest
    with pytest.raises(ValueError, match="same power of two"):
        _ = ImageSize.of(size).levels
