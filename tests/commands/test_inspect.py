# SPDX-License-Identifier: Apache-2.0
"""`gantransfer inspect` of the .metric files of published runs; checkpoints: tests/commands/test_convert.py."""

import pytest
from click.testing import CliRunner

from dnnlib.util import UserError
from gantransfer.commands import inspect
from tests.formats.test_metric_file import folder  # noqa: F401


def test_names_are_put_right(folder):  # noqa: F811
    out = CliRunner().invoke(inspect.main, [str(folder)])
    assert out.exit_code == 0 and "recall 0.2" in out.output and "precision 0.6" in out.output
    assert out.output.splitlines()[0].strip().startswith("1000")
    one = CliRunner().invoke(inspect.main, [str(folder / "1000.metric"), "--json"])
    assert '"fid": 10.0' in one.output


def test_json_is_for_metric_files(tmp_path):
    (tmp_path / "x.pkl").write_bytes(b"no checkpoint")
    with pytest.raises(UserError, match="--json is for .metric files"):
        inspect.main([str(tmp_path / "x.pkl"), "--json"], standalone_mode=False)
