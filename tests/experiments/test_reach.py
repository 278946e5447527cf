# SPDX-License-Identifier: Apache-2.0
"""When a curve comes near its floor, and that figures of other judges are not taken for those of these."""

import json

import numpy as np
import pytest

from gantransfer.experiments import reach
from tests.conftest import write_image_zip


def test_the_bound_lies_a_share_of_the_way_above_the_floor():
    result = dict(floor=[dict(class_fd=10.0), dict(class_fd=20.0)], start=[[110.0, 210.0], [20.0, 40.0]])
    assert reach.threshold(result, 0, 0) == pytest.approx(15) and reach.threshold(result, 1, 0) == pytest.approx(20)
    assert reach.threshold(result, 1, 1) == pytest.approx(21)


def test_measured_figures_belong_to_their_judges(tmp_path):
    for name in ("target", "target-ref"):
        write_image_zip(tmp_path / f"{name}.zip", np.zeros((4, 16, 16), np.uint8), [0, 0, 1, 1])
    (tmp_path / "judge0.pt").write_bytes(b"one")
    ruler = reach.Ruler(tmp_path, 1, tmp_path / "target-ref.zip")
    ruler.known["floor"] = [dict(class_fd=1.0)]
    (tmp_path / "measured.json").write_text(json.dumps(ruler.known))
    assert reach.Ruler(tmp_path, 1, tmp_path / "target-ref.zip")("floor", None) == [dict(class_fd=1.0)]
    (tmp_path / "judge0.pt").write_bytes(b"two")
    assert "floor" not in reach.Ruler(tmp_path, 1, tmp_path / "target-ref.zip").known
