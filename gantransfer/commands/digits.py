# SPDX-License-Identifier: Apache-2.0
"""The data that `train` takes when it is given none: real handwritten digits, some classes of which are rare."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path

from dnnlib.util import UserError, cache_dir

FNAME = "lt_25.json"


def long_tailed() -> tuple[Path, str, Path]:
    """(training set, the label file in it, held-out set) in the user's cache, made there the first time.

    16x16 pixels, ten classes with 114 to 4 training images, by the same commands as `gantransfer demo`. UserError
    without scikit-learn, which brings the digits.
    """
    folder = cache_dir("data", "digits16-lt25")
    data, heldout = folder / "digits16.zip", folder / "digits16-ref.zip"
    if not folder.is_dir():
        if find_spec("sklearn") is None:
            raise UserError("--data is missing, and the digits to train on without it come with scikit-learn: "
                            "pip install scikit-learn, or name a data set with --data")
        from gantransfer.commands import dataset_tool, lt_dataset

        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=".digits-", dir=folder.parent))
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                for split, path in (("pool", data), ("reference", heldout)):
                    dataset_tool.main(["--source=sklearn:digits", f"--split={split}", f"--dest={made / path.name}"],
                                      standalone_mode=False)
                lt_dataset.main([f"--fn={made / data.name}", "--imf=25", "--n-max=114", "--order=label"],
                                standalone_mode=False)
            with contextlib.suppress(OSError):  # another process was faster: its folder is as good
                os.rename(made, folder)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    return data, FNAME, heldout
