# SPDX-License-Identifier: Apache-2.0
"""The table of every method's flags, read without torch."""

import json

from gantransfer.commands import method_flags


def test_help_imports_no_torch_and_is_quick(run_script):
    """In under a second of processor time, once the table of methods is in the cache; it follows the source files."""
    method_flags.kept_description()
    code = ("import sys, time; from gantransfer.commands import train\n"
            "try: train.main(['--help'])\n"
            "except SystemExit: print('SAYS', 'torch' in sys.modules, time.process_time() < 1)")
    assert "SAYS False True" in run_script("-c", code).stdout


def test_table_of_methods_is_made_anew_when_a_source_file_changes(monkeypatch, tmp_path):
    monkeypatch.setenv("GANTRANSFER_CACHE_DIR", str(tmp_path))
    fresh = method_flags.kept_description()
    (path,) = (tmp_path / "help").glob("*.json")
    kept = json.loads(path.read_text())
    kept["methods"]["utlo"]["about"] = "kept"
    path.write_text(json.dumps(kept))
    assert method_flags.kept_description()["utlo"]["about"] == "kept"  # the same files: the cache is read
    path.write_text(json.dumps(dict(kept, key="of other files")))
    again = json.loads(json.dumps([method_flags.kept_description(), fresh]))
    assert again[0] == again[1]
    path.write_text("half a fi")
    assert method_flags.kept_description()["utlo"]["about"] == fresh["utlo"]["about"]
