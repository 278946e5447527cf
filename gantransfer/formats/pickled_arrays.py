# SPDX-License-Identifier: Apache-2.0
"""Pickles of plain data and NumPy arrays, read without NumPy's own reconstruction.

NumPy builds an array from whatever type and flags a pickle states, so that bytes of a file can become pointers. Here
only arrays of numbers are made, out of bytes of the right length. Imports no torch: data-set scripts start at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gantransfer.formats import pickle_machine
from gantransfer.formats.pickle_machine import Budget, Refused, short


def load(data: bytes, old: bool = False) -> Any:
    """The dicts, lists, numbers, strings and numpy arrays pickled in `data`; `old` also takes what Python 2 wrote.

    Raises Refused for anything else.
    """
    budget = Budget.of_file(len(data))
    return _arrays(pickle_machine.run(data, 0, stand_ins(budget), budget, old=old)[0])


def _arrays(value: Any) -> Any:
    if isinstance(value, Array):
        if value.value is None:
            raise Refused("it holds a damaged numpy array")
        return value.value
    if isinstance(value, dict):
        return {k: _arrays(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_arrays(v) for v in value)
    return value


def stand_ins(budget: Budget) -> dict[tuple[str, str], Any]:
    """What NumPy's names mean, under the modules of its major versions; what they make is charged to `budget`."""
    names: dict[tuple[str, str], Any] = {
        ("numpy", "dtype"): Call(lambda code, *flags: _Dtype(code)),
        ("numpy", "ndarray"): Marker("numpy.ndarray"),
        ("_codecs", "encode"): Call(lambda text, encoding="latin1": _encode(text, encoding, budget)),
    }
    for builtins in ("builtins", "__builtin__"):
        names[builtins, "bytes"] = Call(lambda: b"")  # how protocol 2 writes no bytes at all
    for core in ("numpy.core", "numpy._core"):
        names[f"{core}.multiarray", "scalar"] = Call(_scalar)
        names[f"{core}.multiarray", "_reconstruct"] = Call(_array)
        names[f"{core}.numeric", "_frombuffer"] = Call(_from_buffer)
    return names


class Call:
    """A function that the pickle may call but not change."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable):
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        raise Refused("it changes a function")


class _Dtype:
    """A numpy scalar type of at most 8 bytes."""

    __slots__ = ("dtype",)

    def __init__(self, code: Any):
        if not (isinstance(code, str) and code[:1] in "fiub" and code[1:] in ("1", "2", "4", "8")):
            raise Refused(f"it holds a numpy value of type {short(code)}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if not isinstance(order, str) or order not in ("<", ">", "|", "="):
            raise Refused("it holds a numpy value of unknown byte order")
        self.dtype = self.dtype.newbyteorder(order)


def _scalar(dtype: Any, data: Any) -> Any:
    if isinstance(data, str):  # of Python 2
        data = data.encode("latin1")
    if not (isinstance(dtype, _Dtype) and isinstance(data, bytes) and len(data) == dtype.dtype.itemsize):
        raise Refused("it holds a damaged numpy value")
    return np.frombuffer(data, dtype.dtype)[0].item()


class Marker:
    """A name that the pickle may mention, as the argument of a call."""

    __slots__ = ("_name",)

    def __init__(self, name: str):
        self._name = name

    def __setstate__(self, state: Any) -> None:
        raise Refused(f"it changes {self._name}")


class Array:
    """A numpy array of numbers, filled by the pickle."""

    __slots__ = ("value",)

    def __init__(self):
        self.value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        if not (isinstance(state, tuple) and len(state) == 5 and isinstance(state[2], _Dtype)):
            raise Refused("it holds a damaged numpy array")
        _, shape, dtype, fortran, data = state
        self.value = pickle_machine.number_array(data, dtype.dtype, shape, bool(fortran))


def _array(kind: Any, shape: Any, code: Any) -> Array:
    if not isinstance(kind, Marker):
        raise Refused("it holds a damaged numpy array")
    return Array()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> Array:
    """An array as numpy pickles it since protocol 5."""
    if not isinstance(dtype, _Dtype):
        raise Refused("it holds a damaged numpy array")
    made = Array()
    made.value = pickle_machine.number_array(data, dtype.dtype, shape, order == "F")
    return made


def _encode(text: Any, encoding: Any, budget: Budget) -> bytes:
    if not (isinstance(text, str) and isinstance(encoding, str) and encoding in ("latin1", "latin-1")):
        raise Refused(f"it encodes text as {short(encoding)}")
    budget.take(len(text))
    return text.encode("latin1")
