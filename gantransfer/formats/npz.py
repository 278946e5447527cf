# SPDX-License-Identifier: Apache-2.0
"""The arrays of an `.npz` file, read so that a damaged or hostile one costs neither code nor memory.

`numpy.load` believes the shape in a header before it has seen the data, and raises whatever its parts raise. Here sizes
are compared with the file first, arrays are numbers and text only, and all damage is `Refused`.
"""

from __future__ import annotations

import io
import os
import warnings
import zipfile
from pathlib import Path

import numpy as np

from dnnlib.util import first_line
from gantransfer.formats.pickle_machine import Refused, elements

_RATIO, _FREE = 100, 2**26  # what a file may unpack to: this many times its bytes, or this many bytes
_KINDS = "biufcUS"


def read(source: str | os.PathLike | bytes) -> dict[str, np.ndarray]:
    """Name -> array of an `.npz` (a path, or its bytes). Raises Refused, one line, for anything else."""
    try:
        size = len(source) if isinstance(source, bytes) else os.path.getsize(source)
        with zipfile.ZipFile(io.BytesIO(source) if isinstance(source, bytes) else Path(source)) as z:
            infos = z.infolist()
            if sum(i.file_size for i in infos) > max(_RATIO * size, _FREE):
                raise Refused("its arrays are far larger than the file")
            if len({i.filename for i in infos}) != len(infos):
                raise Refused("it holds an array twice")
            return {i.filename.removesuffix(".npy"): _array(z.read(i)) for i in infos}
    except Refused:
        raise
    except Exception as e:  # zipfile, zlib and numpy raise many kinds here; all mean damage
        raise Refused(f"it is damaged ({first_line(e)})") from None


def _array(data: bytes) -> np.ndarray:
    """The array in the bytes of an `.npy` file."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise Refused("it holds an array of an unknown version")
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # numpy warns of headers that it has to guess at
        shape, fortran, dtype = header(stream)
    if dtype.kind not in _KINDS or dtype.names or dtype.subdtype or not dtype.itemsize:
        raise Refused(f"it holds an array of {str(dtype)[:20]}, not of numbers")
    rest = len(data) - stream.tell()
    if elements(shape, dtype.itemsize, rest) * dtype.itemsize != rest:
        raise Refused("it holds an array of another size than it says")
    if dtype.kind == "U":  # Python ends in a SystemError where a number is no character
        points = np.frombuffer(data, np.dtype(np.uint32).newbyteorder(dtype.byteorder), offset=stream.tell())
        if (points > 0x10FFFF).any():
            raise Refused("it holds text with numbers that are no characters")
    return np.frombuffer(data, dtype, offset=stream.tell()).reshape(shape, order="F" if fortran else "C").copy()
