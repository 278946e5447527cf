# SPDX-License-Identifier: Apache-2.0
"""Read pickled networks as data, without running anything that is inside.

The published StyleGAN2-ADA snapshots are ordinary pickles that carry the source text of their classes; the usual way to
load one executes that text, and a pickle can call any function on its own. Here every opcode is checked before the
first one runs, the few names that such a file legitimately refers to are replaced by inert stand-ins of ours, and
anything else is refused by name. `gantransfer/torch_file.py` reads the files of `torch.save` with the same stand-ins.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch


class Refused(Exception):
    """The pickle is damaged, or refers to something that no network snapshot needs. The message is one line."""


class Network:
    """One pickled module: class name and attributes. The source text that came with it is dropped unread."""

    __slots__ = ("class_name", "state")

    def __init__(self, class_name: str, state: dict[str, Any]):
        self.class_name, self.state = class_name, state

    def __setstate__(self, state: Any) -> None:
        raise Refused("it changes a network after building it")

    def arguments(self, names: Sequence[str] = ()) -> dict[str, Any]:
        """Constructor arguments by name, as plain data; `names`: the parameters in their order, for positional ones.

        Raises Refused for more positional arguments than names, one given twice, and values that are not plain.
        """
        args, kwargs = self.state.get("_init_args") or (), self.state.get("_init_kwargs", {})
        if not (isinstance(kwargs, dict) and isinstance(args, tuple | list)):
            raise Refused(f"{self.class_name} has no usable constructor arguments")
        if len(args) > len(names):
            raise Refused(f"{self.class_name} was built with {len(args)} positional arguments, which have no names")
        named = dict(zip(names, args))
        twice = [k for k in named if k in kwargs]
        if twice:
            raise Refused(f"{self.class_name} was given its argument {twice[0]} twice")
        return plain({**named, **kwargs})

    @property
    def init_kwargs(self) -> dict[str, Any]:
        """Constructor arguments of a network that was given all of them by name."""
        return self.arguments()

    def tensors(self) -> dict[str, torch.Tensor]:
        """State dict under dotted names: parameters, persistent buffers, then children, as torch orders them."""
        out: dict[str, torch.Tensor] = {}
        self._collect("", out, [0])
        return out

    def _collect(self, prefix: str, out: dict[str, torch.Tensor], modules: list[int]) -> None:
        modules[0] += 1
        if prefix.count(".") > 32 or modules[0] > 20_000:
            raise Refused("its modules are nested without end")
        hidden = self.state.get("_non_persistent_buffers_set")
        hidden = hidden if isinstance(hidden, set | list) else ()
        for kind in ("_parameters", "_buffers"):
            for name, value in _dict(self.state.get(kind, {})).items():
                if value is None or kind == "_buffers" and name in hidden:
                    continue
                if not isinstance(value, torch.Tensor):
                    raise Refused(f"{prefix}{name} is not a tensor")
                out[f"{prefix}{name}"] = value
        for name, child in _dict(self.state.get("_modules", {})).items():
            if child is None:
                continue
            if not isinstance(child, Network):
                raise Refused(f"{prefix}{name} is not a module of a known kind")
            child._collect(f"{prefix}{name}.", out, modules)

    def walk(self) -> list[Network]:
        """This module and all below it."""
        found = [self]
        for module in found:
            found += [m for m in _dict(module.state.get("_modules", {})).values() if isinstance(m, Network)]
            if len(found) > 20_000:
                raise Refused("its modules are nested without end")
        return found


class Opaque:
    """An object of a class that some checkpoints carry along and that nobody needs: its name, and its attributes."""

    __slots__ = ("state",)
    name = ""

    def __new__(cls, *args: Any) -> Opaque:
        made = super().__new__(cls)
        made.state = args
        return made

    def __init__(self, *args: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state


# Objects that checkpoints hold beside their weights: activations in a BigGAN's settings, ALAE's running means, the
# command line of a training script, dates and numbers of a run. They become `Opaque`; nothing of theirs is imported.
_OPAQUE = {
    (module, name): type(name, (Opaque,), {"__slots__": (), "name": f"{module}.{name}"})
    for module, name in (
        ("torch.nn.modules.activation", "ReLU"),
        ("torch.nn.modules.activation", "LeakyReLU"),
        ("tracker", "RunningMean"),
        ("tracker", "RunningMeanTorch"),
        ("argparse", "Namespace"),
        ("types", "SimpleNamespace"),
        *(("datetime", n) for n in ("date", "datetime", "time", "timedelta", "timezone")),
        *((m, n) for m in ("builtins", "__builtin__") for n in ("complex", "range", "xrange", "slice")),
        ("decimal", "Decimal"),
        ("fractions", "Fraction"),
        ("uuid", "UUID"),
    )
}

# Names whose text says everything: pickles refer to them as globals.
_WORDS = {("torch", n): f"torch.{n}" for n in (
    "float16", "float32", "float64", "bfloat16", "uint8", "int8", "int16", "int32", "int64", "bool", "complex64",
    "complex128", "float8_e4m3fn", "float8_e5m2")}
_PATHS = tuple((module, name) for module in ("pathlib", "pathlib._local") for name in (
    "Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath"))


def load(data: bytes) -> Any:
    """The object pickled in `data` (protocols 2 to 5), networks as `Network`, tensors on the CPU.

    Raises Refused; nothing named in the file is imported or called.
    """
    # Aliased tensors are copied, so that a small file could ask for endless copies: allow a few times its size.
    return read(data, 0, stand_ins(4 * len(data) + 2**20))[0]


def stand_ins(budget: int) -> dict[tuple[str, str], Any]:
    """What the names in a file mean; its tensors may have `budget` bytes in all."""
    tensors = _Tensors(budget)
    names: dict[tuple[str, str], Any] = {
        ("torch_utils.persistence", "_reconstruct_persistent_obj"): _Call(_network),
        ("torch._utils", "_rebuild_parameter"): _Call(_parameter),
        ("torch._utils", "_rebuild_tensor"): _Call(tensors.make),
        ("torch._utils", "_rebuild_tensor_v2"): _Call(tensors.make),
        ("torch.storage", "_load_from_bytes"): _Call(_storage),
        ("torch", "Size"): _Call(lambda sizes=(): list(sizes)),
        ("collections", "OrderedDict"): _Call(lambda items=(): _OrderedDict(items)),
        ("collections", "defaultdict"): _Call(lambda factory=None, items=(): dict(items)),
        ("numpy", "dtype"): _Call(lambda code, *flags: _Dtype(code)),
        ("numpy", "ndarray"): _Marker("numpy.ndarray"),
        ("dnnlib.util", "EasyDict"): _Dict,
        ("_codecs", "encode"): _Call(_encode),
        ("torch", "device"): _Call(_device),
        ("torch.serialization", "_get_layout"): _Call(lambda name="": str(name)[:40]),
        ("collections", "Counter"): _Call(lambda items=(): dict(items)),
        **dict.fromkeys(_PATHS, _Call(_path)),
        **_WORDS,
        **_OPAQUE,
    }
    for builtins in ("builtins", "__builtin__"):
        names[builtins, "set"] = names[builtins, "frozenset"] = _Call(lambda items=(): set(items))
        names[builtins, "dict"] = _Call(lambda items=(): dict(items))
        names[builtins, "list"] = _Call(lambda items=(): list(items))
    for core in ("numpy.core", "numpy._core"):
        names[f"{core}.multiarray", "scalar"] = _Call(_scalar)
        names[f"{core}.multiarray", "_reconstruct"] = _Call(_array)
    return names


def end_of(data: bytes, start: int) -> int:
    """Position after the pickle at `start`. Raises Refused."""
    try:
        return _check_opcodes(data, start, True)
    except _DAMAGE as e:
        raise Refused(f"it is damaged ({one_line(e)})") from None


def names_in(data: bytes, start: int = 0) -> list[tuple[str, bool]]:
    """('module.name', known) of every global that the pickle at `start` refers to, in order, without reading it.

    Names put together while unpickling appear as '?'. Stops at damage.
    """
    known = {f"{m}.{n}" for m, n in [*stand_ins(0), *STORAGE_TYPES]}
    found: dict[str, None] = {}
    strings: list[str] = []  # the last two string pushes, as STACK_GLOBAL takes them
    memo: dict[int, str] = {}
    top: str | None = None
    try:
        for count, (op, arg, _) in enumerate(pickletools.genops(data[start:] if start else data)):
            if count > MAX_OPCODES:
                break
            if op.name in ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE"):
                strings, top = [*strings[-1:], arg], arg
            elif op.name == "MEMOIZE":
                memo[len(memo)] = top or "?"
            elif op.name in ("BINPUT", "LONG_BINPUT", "PUT"):
                memo[int(arg)] = top or "?"
            elif op.name in ("BINGET", "LONG_BINGET", "GET"):
                top = memo.get(int(arg), "?")
                strings = [*strings[-1:], top]
            else:
                if op.name in ("GLOBAL", "INST"):
                    found[arg.replace(" ", ".", 1)] = None
                elif op.name == "STACK_GLOBAL":
                    found[".".join(["?"] * (2 - len(strings)) + strings)] = None
                elif op.name in ("EXT1", "EXT2", "EXT4"):
                    found["?"] = None
                top = None
    except _DAMAGE:
        pass
    return [(name, name in known) for name in found]


def plain(value: Any) -> Any:
    """Deep copy of dicts, lists, tuples, numbers, strings and None; anything else, or too much of it, is Refused."""
    return _plain(value, [100_000])


def _plain(value: Any, left: list[int], depth: int = 0, words: bool = False) -> Any:
    left[0] -= 1
    if left[0] < 0 or depth > 32:
        raise Refused("its arguments are nested without end")
    if isinstance(value, dict):
        return {str(k): _plain(v, left, depth + 1, words) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, left, depth + 1, words) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if words:
        return f"<{value.name if isinstance(value, Opaque) else type(value).__name__}>"
    raise Refused(f"its arguments contain a {type(value).__name__}")


def settings(value: Any) -> Any:
    """As `plain`, for what is kept as a note only: objects that are not plain become a few words."""
    return _plain(value, [100_000], words=True)


# What may run: the opcodes of protocols 2 to 5 that build plain data, call a stand-in, or fill its result.
_OPCODES = frozenset(
    "PROTO FRAME STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT "
    "SHORT_BINBYTES BINBYTES BINBYTES8 SHORT_BINUNICODE BINUNICODE BINUNICODE8 EMPTY_LIST LIST APPEND APPENDS "
    "EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT DICT SETITEM SETITEMS EMPTY_SET ADDITEMS FROZENSET "
    "BINGET LONG_BINGET BINPUT LONG_BINPUT MEMOIZE GLOBAL STACK_GLOBAL REDUCE NEWOBJ BUILD".split()
)
_DAMAGE = (pickle.UnpicklingError, AttributeError, EOFError, ImportError, IndexError, KeyError, MemoryError,
           OverflowError, RecursionError, RuntimeError, TypeError, ValueError, struct.error)


MAX_OPCODES = 1_000_000  # a published snapshot has some 50 000


def read(data: bytes, start: int, stand_ins: Mapping[tuple[str, str], Any],
          persistent: Callable[[Any], Any] | None = None) -> tuple[Any, int]:
    """(object, position after it) of the pickle at `start`; `persistent` resolves references out of it. Refused."""
    try:
        end = _check_opcodes(data, start, persistent is not None)
        # The slice keeps the unpickler from reading ahead into what follows.
        return _Unpickler(data[start:end], stand_ins, persistent).load(), end
    except _DAMAGE as e:
        raise Refused(f"it is damaged ({one_line(e)})") from None


def _check_opcodes(data: bytes, start: int, persistent: bool) -> int:
    """Position after the pickle at `start`; raises Refused if an opcode has no business there."""
    stream = io.BytesIO(data)
    stream.seek(start)
    for count, (op, arg, _) in enumerate(pickletools.genops(stream)):
        if count == 0 and (op.name != "PROTO" or not 2 <= arg <= 5):
            raise Refused("it is not a pickle of protocol 2 to 5")
        if count >= MAX_OPCODES:
            raise Refused(f"it has more than {MAX_OPCODES:,} instructions")
        if op.name not in _OPCODES and not (persistent and op.name == "BINPERSID"):
            raise Refused(f"it uses the opcode {op.name}")
        if op.name in ("BINPUT", "LONG_BINPUT") and arg > count:
            raise Refused("it reserves memory for objects that it does not have")  # the memo grows to the index
    return stream.tell()


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, stand_ins: Mapping[tuple[str, str], Any], persistent: Callable | None):
        super().__init__(io.BytesIO(data))
        self._stand_ins, self._persistent = stand_ins, persistent

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._stand_ins[module, name]
        except KeyError:
            if module.startswith("dnnlib.tflib"):
                raise Refused("it is a TensorFlow network (--resume needs a PyTorch snapshot): convert it with the "
                              "tools of its authors first") from None
            raise Refused(f"it refers to {module}.{name}, which no snapshot of a network needs; "
                          "it may be of another kind, or malicious") from None

    def persistent_load(self, pid: Any) -> Any:
        if self._persistent is None:
            raise Refused("it refers to objects outside the file")
        return self._persistent(pid)


class _Call:
    """A function that the pickle may call but not change."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable):
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        raise Refused("it changes a function")


def _nothing(*args: Any) -> None:
    return None


IGNORE = _Call(_nothing)
"""Stands for a function whose result is not wanted."""


class _Dict(dict):
    """Stands for a dict with attributes."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise Refused("it changes a dictionary's attributes")


class _OrderedDict(_Dict):
    """Stands for an ordered dict; a state dict carries the versions of its modules as an attribute."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        if not (isinstance(state, dict) and set(state) <= {"_metadata"}):
            raise Refused("it changes a dictionary's attributes")


class _Dtype:
    """A numpy scalar type of at most 8 bytes."""

    __slots__ = ("dtype",)

    def __init__(self, code: Any):
        if not (isinstance(code, str) and code[:1] in "fiub" and code[1:] in ("1", "2", "4", "8")):
            raise Refused(f"it holds a numpy value of type {str(code)[:20]!r}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ("<", ">", "|", "="):
            raise Refused("it holds a numpy value of unknown byte order")
        self.dtype = self.dtype.newbyteorder(order)


def _scalar(dtype: Any, data: Any) -> Any:
    if not (isinstance(dtype, _Dtype) and isinstance(data, bytes) and len(data) == dtype.dtype.itemsize):
        raise Refused("it holds a damaged numpy value")
    return np.frombuffer(data, dtype.dtype)[0].item()


class _Marker:
    """A name that the pickle may mention, as the argument of a call."""

    __slots__ = ("_name",)

    def __init__(self, name: str):
        self._name = name

    def __setstate__(self, state: Any) -> None:
        raise Refused(f"it changes {self._name}")


class _Array:
    """A numpy array of numbers, filled by the pickle."""

    __slots__ = ("value",)

    def __init__(self):
        self.value: list | None = None

    def __setstate__(self, state: Any) -> None:
        if not (isinstance(state, tuple) and len(state) == 5):
            raise Refused("it holds a damaged numpy array")
        _, shape, dtype, fortran, data = state
        if not (isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape) and isinstance(dtype, _Dtype)
                and isinstance(data, bytes)
                and len(data) == int(np.prod(shape, dtype=object)) * dtype.dtype.itemsize):
            raise Refused("it holds a damaged numpy array")
        self.value = np.frombuffer(data, dtype.dtype).reshape(shape, order="F" if fortran else "C").tolist()


def _array(kind: Any, shape: Any, code: Any) -> _Array:
    if not isinstance(kind, _Marker):
        raise Refused("it holds a damaged numpy array")
    return _Array()


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not (isinstance(text, str) and encoding in ("latin1", "latin-1")):
        raise Refused(f"it encodes text as {str(encoding)[:20]!r}")
    return text.encode("latin1")


def _path(*parts: Any) -> str:
    """A path as text; it names nothing on this machine."""
    if not all(isinstance(p, str) for p in parts):
        raise Refused("it holds a damaged path")
    if parts and parts[0][-1:] in ("/", "\\"):
        return parts[0] + "/".join(parts[1:])
    return "/".join(parts)


def _device(kind: Any = "cpu", index: Any = None) -> str:
    if not (isinstance(kind, str) and (index is None or type(index) is int)):
        raise Refused("it holds a damaged device")
    return kind if index is None else f"{kind}:{index}"


def _network(meta: Any) -> Network:
    if not (isinstance(meta, dict) and meta.get("type") == "class" and isinstance(meta.get("class_name"), str)
            and isinstance(meta.get("state"), dict)):
        raise Refused("it holds a network without class name or attributes")
    return Network(meta["class_name"], meta["state"])


def _parameter(data: Any, requires_grad: Any = None, hooks: Any = None) -> torch.Tensor:
    if not isinstance(data, torch.Tensor):
        raise Refused("it holds a parameter without tensor")
    return data


class _Tensors:
    """Makes tensors out of storages, each view once, `budget` bytes in all."""

    def __init__(self, budget: int):
        self._left, self._made = budget, {}

    def make(self, storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> torch.Tensor:
        if not (isinstance(size, tuple | list) and isinstance(stride, tuple | list) and len(size) == len(stride) <= 64
                and all(type(v) is int and 0 <= v < 2**63 for v in (offset, *size, *stride))
                and isinstance(storage, torch.Tensor) and storage.ndim == 1):
            raise Refused("it holds a damaged tensor")
        key = (id(storage), offset, tuple(size), tuple(stride))
        if key not in self._made:
            count = int(np.prod(size, dtype=object)) if size else 1
            last = offset + sum((n - 1) * s for n, s in zip(size, stride)) if count else offset
            self._left -= count * storage.element_size()
            if count and last >= len(storage) or self._left < 0:
                raise Refused("it holds a tensor that reaches beyond its data")
            view = torch.as_strided(storage, tuple(size), tuple(stride), offset)
            # A copy, so that a small part does not keep a large storage; the storage is kept so that ids stay unique.
            whole = view.is_contiguous() and count == len(storage)
            self._made[key] = view if whole else view.clone(memory_format=torch.contiguous_format), storage
        return self._made[key][0]


STORAGE_TYPES = {
    ("torch", f"{name}Storage"): dtype
    for name, dtype in dict(Float=torch.float32, Double=torch.float64, Half=torch.float16, BFloat16=torch.bfloat16,
                            Long=torch.int64, Int=torch.int32, Short=torch.int16, Char=torch.int8, Byte=torch.uint8,
                            Bool=torch.bool).items()
}
STORAGE_MAGIC = (0x1950A86A20F9469CFC6C, 1001)  # of torch's container before it became a zip file


def _storage(data: Any) -> torch.Tensor:
    """1-D tensor from the container nested in a snapshot: five pickles, then the element count and the elements."""
    if not isinstance(data, bytes):
        raise Refused("it holds a storage without data")
    found: list[tuple] = []

    def reference(pid: Any) -> Any:
        if not (isinstance(pid, tuple) and len(pid) in (5, 6) and pid[0] == "storage"):
            raise Refused("it holds a storage of unknown form")
        found.append(pid)
        return pid

    parts, position = [], 0
    for _ in range(5):
        value, position = read(data, position, STORAGE_TYPES, reference)
        parts.append(value)
    magic, protocol, system, _, keys = parts
    if (magic, protocol) != STORAGE_MAGIC or not isinstance(system, dict) or len(found) != 1:
        raise Refused("it holds a storage of unknown form")
    if not system.get("little_endian", True):
        raise Refused("it was written on a big-endian machine")
    _, dtype, key, _, _, *view = found[0]
    if keys != [key] or not isinstance(dtype, torch.dtype) or len(data) < position + 8:
        raise Refused("it holds a damaged storage")
    (count,) = struct.unpack_from("<q", data, position)
    raw = data[position + 8 :]
    if count < 0 or len(raw) != count * dtype.itemsize:
        raise Refused("it holds a storage of another length than it says")
    elements = torch.frombuffer(bytearray(raw), dtype=dtype) if count else torch.empty(0, dtype=dtype)
    if view and view[0] is not None:
        _, start, length = view[0]
        if not (type(start) is int and type(length) is int and 0 <= start <= start + length <= count):
            raise Refused("it holds a damaged storage")
        elements = elements[start : start + length]
    return elements


def _dict(value: Any) -> dict:
    if not isinstance(value, dict):
        raise Refused("a module's tables are not dictionaries")
    return value


def one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:120] if lines else type(error).__name__
