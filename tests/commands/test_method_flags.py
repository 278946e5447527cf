# SPDX-License-Identifier: Apache-2.0
"""The table of every method's flags, read without torch."""

import json

from gantransfer.commands import method_flags


def test_help_imports_no_torch_and_is_quick(run_script, tmp_path, monkeypatch):
    """In under a second of processor time, also the first one of an installation, for which the table is shipped."""
    monkeypatch.setenv("GANTRANSFER_CACHE_DIR", str(tmp_path))
    code = ("import sys, time; from gantransfer.commands import train\n"
            "try: train.main(['--help'])\n"
            "except SystemExit: print('SAYS', 'torch' in sys.modules, time.process_time() < 1)")
    assert "SAYS False True" in run_script("-c", code).stdout


def test_the_shipped_table_is_that_of_these_files(monkeypatch, tmp_path):
    shipped = method_flags.SHIPPED.read_text(encoding="utf-8")
    assert shipped == method_flags.to_ship(), "run: python docs/flags_tables.py"


def test_table_of_methods_is_made_anew_when_a_source_file_changes(monkeypatch, tmp_path):
    monkeypatch.setenv("GANTRANSFER_CACHE_DIR", str(tmp_path))
    other = tmp_path / "methods.json"  # as it is when a file of methods/ has changed since
    other.write_text(json.dumps(dict(json.loads(method_flags.SHIPPED.read_text()), key="of other files")))
    monkeypatch.setattr(method_flags, "_with_key", lambda path, key, read=method_flags._with_key: read(
        other if path == method_flags.SHIPPED else path, key))
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
