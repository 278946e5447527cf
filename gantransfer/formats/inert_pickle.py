# SPDX-License-Identifier: Apache-2.0
"""Read pickled networks as data, without running anything that is inside.

The published StyleGAN2-ADA snapshots are ordinary pickles that carry the source text of their classes; the usual way to
load one executes that text, and a pickle can call any function on its own. Here `pickle_machine` reads it, which can
only build data and only so much of it: the few names that such a file legitimately refers to are replaced by inert
stand-ins of ours, and anything else is refused by name. `formats/torch_file.py` reads the files of `torch.save`
with the same stand-ins.
"""

from __future__ import annotations

import io
import pickletools
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from dnnlib.util import first_line
from gantransfer.formats import pickle_machine, pickled_arrays
from gantransfer.formats.pickle_machine import OPCODES, Budget, Refused
from gantransfer.formats.pickled_arrays import Call as _Call

__all__ = ["Budget", "Network", "Opaque", "Refused", "load", "names_in", "plain", "read", "stand_ins"]


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
        if prefix.count(".") > 32 or modules[0] > 20_000 or len(out) > 200_000:
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
    budget = Budget.of_file(len(data))
    return read(data, 0, stand_ins(budget), budget=budget)[0]


def stand_ins(budget: Budget) -> dict[tuple[str, str], Any]:
    """What the names in a file mean; what they make is charged to `budget`."""
    tensors = _Tensors(budget)

    def listed(items: Any = ()) -> list:
        return pickle_machine.entries(items, budget)

    def table(items: Any = ()) -> dict:
        return pickle_machine.table(items, budget)

    names: dict[tuple[str, str], Any] = {
        ("torch_utils.persistence", "_reconstruct_persistent_obj"): _Call(_network),
        ("torch._utils", "_rebuild_parameter"): _Call(_parameter),
        ("torch._utils", "_rebuild_tensor"): _Call(tensors.make),
        ("torch._utils", "_rebuild_tensor_v2"): _Call(tensors.make),
        ("torch.storage", "_load_from_bytes"): _Call(lambda data: _storage(data, budget)),
        ("torch", "Size"): _Call(listed),
        ("collections", "OrderedDict"): _Call(lambda items=(): pickle_machine.table(items, budget, _OrderedDict)),
        ("collections", "defaultdict"): _Call(lambda factory=None, items=(): table(items)),
        ("dnnlib.util", "EasyDict"): _Dict,
        ("torch", "device"): _Call(_device),
        ("torch.serialization", "_get_layout"): _Call(lambda name="": name[:40] if isinstance(name, str) else ""),
        ("collections", "Counter"): _Call(table),
        **dict.fromkeys(_PATHS, _Call(lambda *parts: _path(parts, budget))),
        **_WORDS,
        **pickled_arrays.stand_ins(budget),
        **_OPAQUE,
    }
    for builtins in ("builtins", "__builtin__"):
        names[builtins, "set"] = _Call(lambda items=(): pickle_machine.members(items, budget))
        names[builtins, "frozenset"] = _Call(lambda items=(): frozenset(pickle_machine.members(items, budget)))
        names[builtins, "dict"] = _Call(table)
        names[builtins, "list"] = _Call(listed)
    return names


def end_of(data: bytes, start: int) -> int:
    """Position after the pickle at `start`. Raises Refused, also where an opcode has no business there."""
    stream, allowed = io.BytesIO(data), OPCODES | {"BINPERSID"}
    stream.seek(start)
    try:
        for count, (op, arg, _) in enumerate(pickletools.genops(stream)):
            if count == 0 and (op.name != "PROTO" or not 2 <= arg <= 5):
                raise Refused("it is not a pickle of protocol 2 to 5")
            if count >= MAX_OPCODES:
                raise Refused(f"it has more than {MAX_OPCODES:,} instructions")
            if op.name not in allowed:
                raise Refused(f"it uses the opcode {op.name}")
        return stream.tell()
    except _DAMAGE as e:
        raise Refused(f"it is damaged ({first_line(e)})") from None


def names_in(data: bytes) -> list[tuple[str, bool]]:
    """('module.name', known) of every global that a pickle refers to, in order, without reading it.

    Names put together while unpickling appear as '?'. Stops at damage.
    """
    known = {f"{m}.{n}" for m, n in [*stand_ins(Budget(0)), *STORAGE_TYPES]}
    found: dict[str, None] = {}
    strings: list[str] = []  # the last two string pushes, as STACK_GLOBAL takes them
    memo: dict[int, str] = {}
    top: str | None = None
    try:
        for count, (op, arg, _) in enumerate(pickletools.genops(data)):
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
    return _plain(value, [100_000, 2**24])


def _plain(value: Any, left: list[int], depth: int = 0, words: bool = False) -> Any:
    left[0] -= 1
    if left[0] < 0 or depth > 32:
        raise Refused("its arguments are nested without end")
    if isinstance(value, dict):
        return {str(_plain(pickle_machine.key(k), left, depth + 1, words)): _plain(v, left, depth + 1, words)
                for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, left, depth + 1, words) for v in value]
    if isinstance(value, str):
        left[1] -= len(value)
        if left[1] < 0:
            raise Refused("its arguments hold too much text")
        return value
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise Refused("its arguments contain a number of more than 64 bits")
    if value is None or isinstance(value, bool | int | float):
        return value
    if words:
        return f"<{value.name if isinstance(value, Opaque) else type(value).__name__}>"
    raise Refused(f"its arguments contain a {type(value).__name__}")


def settings(value: Any) -> Any:
    """As `plain`, for what is kept as a note only: objects that are not plain become a few words."""
    return _plain(value, [100_000, 2**24], words=True)


_DAMAGE = (AttributeError, EOFError, IndexError, KeyError, MemoryError, OverflowError, RecursionError, RuntimeError,
           TypeError, ValueError, struct.error)  # what pickletools raises for damaged pickles
MAX_OPCODES = 1_000_000  # a published snapshot has some 50 000


def read(data: bytes, start: int, stand_ins: Mapping[tuple[str, str], Any],
         persistent: Callable[[Any], Any] | None = None, budget: Budget | None = None,
         old: bool = False) -> tuple[Any, int]:
    """(object, position after it) of the pickle at `start`; `persistent` resolves references out of it. Refused.

    `budget`: the one that the stand-ins charge; one of the data's size if they charge none.
    """
    budget = budget or Budget.of_file(len(data))
    return pickle_machine.run(data, start, stand_ins, budget, persistent, old, _unknown)


def _unknown(module: str, name: str) -> Any:
    if module.startswith("dnnlib.tflib"):
        raise Refused("it is a TensorFlow network (--resume needs a PyTorch snapshot): convert it with the "
                      "tools of its authors first")
    raise Refused(f"it refers to {module[:80]}.{name[:80]}, which no snapshot of a network needs; "
                  "it may be of another kind, or malicious")


IGNORE = _Call(lambda *args: None)
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
        if not (isinstance(state, dict) and (not state or list(state) == ["_metadata"])):
            raise Refused("it changes a dictionary's attributes")


def _path(parts: Sequence[Any], budget: Budget) -> str:
    """A path as text; it names nothing on this machine."""
    if not all(isinstance(p, str) for p in parts):
        raise Refused("it holds a damaged path")
    budget.take(sum(map(len, parts)) + len(parts))
    if parts and parts[0][-1:] in ("/", "\\"):
        return parts[0] + "/".join(parts[1:])
    return "/".join(parts)


def _device(kind: Any = "cpu", index: Any = None) -> str:
    if not (isinstance(kind, str) and len(kind) <= 40 and (index is None or type(index) is int)):
        raise Refused("it holds a damaged device")
    return kind if index is None else f"{kind}:{pickle_machine.key(index)}"


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
    """Makes tensors out of storages, each view once, charged to `budget`."""

    def __init__(self, budget: Budget):
        self._budget, self._made = budget, {}

    def make(self, storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> torch.Tensor:
        if not (isinstance(size, tuple | list) and isinstance(stride, tuple | list) and len(size) == len(stride) <= 64
                and all(type(v) is int and 0 <= v < 2**63 for v in (offset, *size, *stride))
                and isinstance(storage, torch.Tensor) and storage.ndim == 1):
            raise Refused("it holds a damaged tensor")
        key = (id(storage), offset, tuple(size), tuple(stride))
        if key not in self._made:
            count = pickle_machine.elements(size, 1, self._budget.left)  # strides may be 0: the data is no bound
            last = offset + sum((n - 1) * s for n, s in zip(size, stride)) if count else offset
            if count and last >= len(storage) or count * storage.element_size() > self._budget.left:
                raise Refused("it holds a tensor that reaches beyond its data")
            self._budget.take(count * storage.element_size())
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


def _storage(data: Any, budget: Budget) -> torch.Tensor:
    """1-D tensor from the container nested in a snapshot: five pickles, then the element count and the elements."""
    if not isinstance(data, bytes):
        raise Refused("it holds a storage without data")
    budget.take(len(data))
    found: list[tuple] = []

    def reference(pid: Any) -> Any:
        if not (isinstance(pid, tuple) and len(pid) in (5, 6) and pid[0] == "storage"):
            raise Refused("it holds a storage of unknown form")
        found.append(pid)
        return pid

    parts, position = [], 0
    for _ in range(5):
        value, position = read(data, position, STORAGE_TYPES, reference, budget)
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
