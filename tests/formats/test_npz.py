# SPDX-License-Identifier: Apache-2.0
"""Files of arrays: what numpy wrote comes back, and lies are refused."""

import numpy as np
import pytest

from gantransfer.formats import npz
from gantransfer.formats.pickle_machine import Refused
from tests.chaos.corpus import arrays


def test_arrays_are_what_numpy_wrote(tmp_path):
    given = dict(a=np.arange(6.0).reshape(2, 3), b=np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3)),
                 c=np.array("text"), d=np.float32(3), e=np.zeros((0, 5)), f=np.array([True]))
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **given)
        for got in (npz.read(tmp_path / "a.npz"), npz.read((tmp_path / "a.npz").read_bytes())):
            assert set(got) == set(given)
            assert all(np.array_equal(got[k], v) and got[k].dtype == np.asarray(v).dtype for k, v in given.items())
            assert got["a"].flags.writeable


def test_arrays_that_lie():
    for what, data in arrays().items():
        try:
            npz.read(data)
        except Refused as e:
            assert str(e).isprintable(), what
        else:
            pytest.fail(f"{what}: it was read")


def test_text_of_an_npz_that_is_no_text_is_refused(tmp_path):
    import io
    import zipfile

    import numpy as np

    from gantransfer.formats import npz
    from gantransfer.formats.pickle_machine import Refused

    for order in "<>":
        out = io.BytesIO()
        np.lib.format.write_array(out, np.array("ab", f"{order}U2"), version=(1, 0))
        good = out.getvalue()
        for data, refused in ((good, False), (good[:-8] + b"\xff" * 8, True)):
            with zipfile.ZipFile(tmp_path / "x.npz", "w") as z:
                z.writestr("a.npy", data)
            if refused:
                with pytest.raises(Refused, match="no characters"):
                    npz.read(tmp_path / "x.npz")
            else:
                assert npz.read(tmp_path / "x.npz")["a"] == "ab"
