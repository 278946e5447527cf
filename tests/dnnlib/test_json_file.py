# SPDX-License-Identifier: Apache-2.0
"""Damaged JSON is one line."""

import pytest

from dnnlib import json_file
from dnnlib.util import UserError


@pytest.mark.parametrize("text, said", [(b"{", "not valid JSON"), (b"[" * 99_999, "nested too deeply"),
                                        (b"\xff", "not valid JSON"), (b"[]", "holds a list"), (b"9" * 9999, "digits")])
def test_json_is_one_line(tmp_path, text, said):
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(UserError, match=said) as e:
        json_file.read(tmp_path / "a.json", remedy="make it again")
    assert "a.json" in str(e.value) and str(e.value).endswith("make it again")


def test_json_lines_leave_out_what_is_torn(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"a": 1}\n{"b"\n[3]\n\xff\n' + b"[" * 99_999 + b'\n{"c": 2}\n{"d": 4')
    assert json_file.lines(tmp_path / "a.jsonl") == [{"a": 1}, {"c": 2}] and json_file.lines(tmp_path / "none") == []
