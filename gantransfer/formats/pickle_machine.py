# SPDX-License-Identifier: Apache-2.0
"""A pickle machine that can only build data.

It knows the opcodes of plain data and of calls; what a name in a file means is the caller's table of stand-ins, and
nothing is ever imported. A pickle is also refused by size: every instruction is counted, whatever is made beyond them
(copies, arrays, encoded strings, storages) is charged to one budget before it is made, keys of tables are strings and
numbers, and the finished object may be neither cyclic nor deep, nor large once its shared parts are counted at every
place where they stand. Whoever walks the result, or writes it as JSON, therefore ends.
"""

from __future__ import annotations

import codecs
import io
import pickletools
import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from dnnlib.util import first_line, printable


class Refused(Exception):
    """The file is damaged, or asks for something that no data needs. The message is one line of printable text."""

    def __init__(self, message: str):
        super().__init__(printable(message))  # it may quote the file


class Budget:
    """What reading one file may make in all: `left` bytes beside what its instructions make, `steps` instructions."""

    __slots__ = ("left", "steps")

    def __init__(self, left: int, steps: int = 1_000_000):  # a published snapshot has some 50 000 instructions
        self.left, self.steps = left, steps

    @classmethod
    def of_file(cls, size: int) -> Budget:
        """For a file of `size` bytes. Aliased parts are copied: allow a few times the size."""
        return cls(4 * size + 2**20)

    def take(self, count: int) -> None:
        """Charge `count` bytes that are about to be made. Raises Refused."""
        self.left -= count
        if self.left < 0:
            raise Refused("it asks for more memory than a file of its size needs")


_ENTRY = 64  # bytes charged for an entry of a copied container
_DEPTH = 200  # of the finished object; a network's modules reach about 50
_NODES, _TEXT = 4_000_000, 2**26  # of the finished object, shared parts counted at every place


def key(value: Any) -> Any:
    """`value` if it may be a key of a table or a member of a set: a string or a number. Raises Refused."""
    kind = type(value)
    if kind is int and not -(2**63) <= value < 2**64:
        raise Refused("it has a key that is no string or number of 64 bits")  # larger ones can be made to collide
    if value is None or kind in (str, bytes, int, float, bool):
        return value
    raise Refused(f"it has a key that is no string or number but a {kind.__name__}")


def table(items: Any, budget: Budget, kind: type[dict] = dict) -> dict:
    """`dict(items)` of a dict or of a list of pairs, keys checked, entries charged. Raises Refused."""
    if isinstance(items, dict):
        budget.take(_ENTRY * len(items))
        return kind(items)
    if not isinstance(items, list | tuple):
        raise Refused("it makes a table out of something else")
    budget.take(_ENTRY * len(items))
    made = kind()
    for pair in items:
        if not (isinstance(pair, list | tuple) and len(pair) == 2):
            raise Refused("it makes a table out of something else")
        made[key(pair[0])] = pair[1]
    return made


def members(items: Any, budget: Budget) -> set:
    """`set(items)`, members checked, charged. Raises Refused."""
    return {key(v) for v in entries(items, budget)}


def entries(items: Any, budget: Budget) -> list:
    """`list(items)` of a list, tuple, set or dict, charged. Raises Refused."""
    if not isinstance(items, list | tuple | set | frozenset | dict):
        raise Refused("it makes a list out of something else")
    budget.take(_ENTRY * len(items))
    return list(items)


def elements(shape: Iterable[Any], itemsize: int, size: int) -> int:
    """Number of elements of an array of `shape` whose data has `size` bytes. Raises Refused unless the shape is one.

    An array without elements has no data that bounds its other dimensions, so that these are bounded here.
    """
    shape = tuple(shape)
    if len(shape) > 64 or not all(type(n) is int and 0 <= n < 2**31 for n in shape) or itemsize < 1:
        raise Refused("it holds an array of an impossible shape")
    count, others = 1, 1
    for n in shape:
        count *= n
        others *= n or 1
    if count == 0 and others > 2**20 or count * itemsize > size:
        raise Refused("it holds an array that reaches beyond its data")
    return count


def short(value: Any) -> str:
    """A few characters of a string or number for a message; of anything else only its kind, however large it is."""
    if isinstance(value, str | bytes):
        return repr(value[:20])
    return str(value) if value is None or type(value) in (bool, int, float) else f"a {type(value).__name__}"


# What may run: the opcodes of protocols 2 to 5 that build plain data, call a stand-in, or fill its result.
OPCODES = frozenset(
    "PROTO FRAME STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT "
    "SHORT_BINBYTES BINBYTES BINBYTES8 BYTEARRAY8 SHORT_BINUNICODE BINUNICODE BINUNICODE8 EMPTY_LIST LIST APPEND "
    "APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT DICT SETITEM SETITEMS EMPTY_SET ADDITEMS FROZENSET "
    "BINGET LONG_BINGET BINPUT LONG_BINPUT MEMOIZE GLOBAL STACK_GLOBAL REDUCE NEWOBJ BUILD".split()
)
# What Python 2 and protocols 0 and 1 wrote beside them; its strings are bytes, read as Latin-1.
OLD_OPCODES = frozenset("INT LONG FLOAT STRING UNICODE BINSTRING SHORT_BINSTRING PUT GET".split())
# Those that push what stands behind them in the file, and those that push a new object.
_PUSHED = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT SHORT_BINBYTES BINBYTES BINBYTES8 SHORT_BINUNICODE "
    "BINUNICODE BINUNICODE8 UNICODE BINSTRING SHORT_BINSTRING".split()
)
_MADE: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
    "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_DICT": dict, "EMPTY_SET": set,
}


# What the standard library knows of each opcode: its name, and how what stands behind it is read.
_CODES = {o.code.encode("latin1"): o for o in pickletools.opcodes}

# Damage shows as one of these in the code below; each means that the file is not what it says.
_DAMAGE = (AttributeError, IndexError, KeyError, MemoryError, OverflowError, RecursionError, RuntimeError, TypeError,
           ValueError, struct.error)


def run(data: bytes, start: int, stand_ins: Mapping[tuple[str, str], Any], budget: Budget,
        persistent: Callable[[Any], Any] | None = None, old: bool = False,
        unknown: Callable[[str, str], Any] | None = None) -> tuple[Any, int]:
    """(object, position after it) of the pickle at `start`. Raises Refused.

    `stand_ins` says what names in the file mean; `unknown` is asked for others, and raises Refused. `persistent`
    resolves references out of the pickle. `old` also takes protocols 0 and 1 and the strings of Python 2.
    """
    try:
        made, end = _Machine(data, start, stand_ins, budget, persistent, old, unknown).run()
        _bounded(made, _TEXT + len(data))
    except _DAMAGE as e:
        raise Refused(f"it is damaged ({first_line(e)})") from None
    return made, end


class _Machine:
    def __init__(self, data: bytes, start: int, stand_ins: Mapping[tuple[str, str], Any], budget: Budget,
                 persistent: Callable | None, old: bool, unknown: Callable[[str, str], Any] | None):
        self.data, self.stream, self.start = data, io.BytesIO(data), start
        self.stand_ins, self.budget, self.persistent, self.unknown = stand_ins, budget, persistent, unknown
        self.allowed = OPCODES | OLD_OPCODES if old else OPCODES
        self.old = old
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.first = budget.steps

    def run(self) -> tuple[Any, int]:
        head, stream, do = self.data[self.start : self.start + 2], self.stream, {}
        if not self.old and not (head[:1] == b"\x80" and head[1:] and 2 <= head[1] <= 5):
            raise Refused("it is not a pickle of protocol 2 to 5")
        stream.seek(self.start)
        while code := stream.read(1):
            self.budget.steps -= 1
            if self.budget.steps < 0:
                raise Refused("it has more than a million instructions")
            if code == b".":
                if self.marks or len(self.stack) != 1:
                    break
                return self.stack[0], stream.tell()
            if code not in do:
                do[code] = self.instruction(code)
            do[code]()
        raise Refused("it is damaged (it ends in the middle)")

    def instruction(self, code: bytes) -> Callable[[], None]:
        """What an opcode does. Raises Refused where it has no business here."""
        op = _CODES.get(code)
        if op is None:
            raise Refused(f"it is damaged (at byte {self.stream.tell() - 1})")
        if op.name not in self.allowed and not (op.name == "BINPERSID" and self.persistent is not None):
            raise Refused(f"it uses the opcode {op.name}")
        if op.name in _MADE:
            return lambda: self.stack.append(_MADE[op.name]())
        step = self.push if op.name in _PUSHED else getattr(self, f"_{op.name.lower()}")
        if op.arg is None or op.name == "STRING":
            return step
        if "decimalnl" in op.arg.name:
            return lambda: step(op.arg.reader(io.BytesIO(self.line(4096) + b"\n")))  # more digits take very long
        return lambda: step(op.arg.reader(self.stream))

    def line(self, most: int) -> bytes:
        line = self.stream.readline(most)
        if line[-1:] != b"\n":
            raise Refused("it is damaged (a line does not end)")
        return line[:-1]

    def since_mark(self) -> list[Any]:
        if not self.marks:
            raise Refused("it is damaged (no mark)")
        start = self.marks.pop()
        if start > len(self.stack):
            raise Refused("it is damaged (a mark above its objects)")
        got = self.stack[start:]
        del self.stack[start:]
        return got

    def pop(self) -> Any:
        if self.marks and len(self.stack) <= self.marks[-1]:
            raise Refused("it is damaged (a mark in the place of an object)")
        return self.stack.pop()

    def top(self, kind: type) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise Refused(f"it adds to a {type(self.stack[-1]).__name__}")
        return self.stack[-1]

    # ---- opcodes: constants -----------------------------------------------------------------------------------------

    def push(self, value: Any) -> None:
        if type(value) is int and not -(2**127) <= value < 2**127:  # torch's files begin with a number of 80 bits
            raise Refused("it holds a whole number of more than 16 bytes")
        self.stack.append(value)

    def _proto(self, number: int) -> None:
        if number > 5:
            raise Refused("it is not a pickle of protocol 2 to 5")

    def _frame(self, size: int) -> None:
        if size > len(self.data) - self.stream.tell():
            raise Refused("it is damaged (it ends in the middle)")

    def _bytearray8(self, value: bytearray) -> None:
        self.stack.append(bytes(value))

    def _string(self) -> None:
        text = self.line(len(self.data)).strip()
        if len(text) < 2 or text[:1] != text[-1:] or text[:1] not in (b"'", b'"'):
            raise Refused("it is damaged (a string without quotes)")
        self.stack.append(str(codecs.escape_decode(text[1:-1])[0], "latin1"))

    # ---- opcodes: stack and memo ------------------------------------------------------------------------------------

    def _mark(self) -> None:
        self.marks.append(len(self.stack))

    def _pop(self) -> None:
        if self.marks and len(self.stack) == self.marks[-1]:
            self.marks.pop()
        else:
            self.pop()

    def _pop_mark(self) -> None:
        self.since_mark()

    def _dup(self) -> None:
        self.stack.append(self.stack[-1])

    def remember(self, index: int) -> None:
        # Our memo is a table and reserves nothing, but Python's own reader would: no writer makes such a file.
        if not 0 <= index <= self.first - self.budget.steps:
            raise Refused("it reserves memory for objects that it does not have")
        self.memo[index] = self.stack[-1]

    _put = _binput = _long_binput = remember

    def _memoize(self) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    _binget = _long_binget = _get

    # ---- opcodes: containers ----------------------------------------------------------------------------------------

    def _list(self) -> None:
        self.stack.append(self.since_mark())

    def _tuple(self) -> None:
        self.stack.append(tuple(self.since_mark()))

    def last(self, count: int) -> None:
        self.stack.append(tuple(self.pop() for _ in range(count))[::-1])

    def _tuple1(self) -> None:
        self.last(1)

    def _tuple2(self) -> None:
        self.last(2)

    def _tuple3(self) -> None:
        self.last(3)

    def _fill(self, target: dict, items: list[Any]) -> None:
        if len(items) % 2:
            raise Refused("it is damaged (a key without a value)")
        for i in range(0, len(items), 2):
            target[key(items[i])] = items[i + 1]

    def _dict(self) -> None:
        made: dict = {}
        self._fill(made, self.since_mark())
        self.stack.append(made)

    def _setitem(self) -> None:
        value, name = self.pop(), self.pop()
        self.top(dict)[key(name)] = value

    def _setitems(self) -> None:
        items = self.since_mark()
        self._fill(self.top(dict), items)

    def _append(self) -> None:
        value = self.pop()
        self.top(list).append(value)

    def _appends(self) -> None:
        items = self.since_mark()
        self.top(list).extend(items)

    def _additems(self) -> None:
        items = self.since_mark()
        self.top(set).update(key(v) for v in items)

    def _frozenset(self) -> None:
        self.stack.append(frozenset(key(v) for v in self.since_mark()))

    # ---- opcodes: names and calls -----------------------------------------------------------------------------------

    def _find(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise Refused("it is damaged (a name that is no text)")
        found = self.stand_ins.get((module, name))
        if found is None and self.unknown is not None:
            found = self.unknown(module, name)
        if found is None:
            raise Refused(f"it refers to {module[:80]}.{name[:80]}")
        self.stack.append(found)

    def _global(self, name: str) -> None:
        self._find(*name.split(" ", 1))

    def _stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        self._find(module, name)

    def _arguments(self) -> tuple:
        args = self.pop()
        if not isinstance(args, tuple) or len(args) > 16:
            raise Refused("it calls a function with something that is no list of arguments")
        return args

    def _reduce(self) -> None:
        args, function = self._arguments(), self.pop()
        if not callable(function):
            raise Refused(f"it calls a {type(function).__name__}")
        self.stack.append(function(*args))

    def _newobj(self) -> None:
        args, kind = self._arguments(), self.pop()
        if not isinstance(kind, type):
            raise Refused(f"it makes an object of a {type(kind).__name__}")
        self.stack.append(kind.__new__(kind, *args))

    def _build(self) -> None:
        state, made = self.pop(), self.stack[-1]
        change = getattr(type(made), "__setstate__", None)
        if change is None or not type(made).__module__.startswith("gantransfer."):
            raise Refused(f"it changes a {type(made).__name__}")
        change(made, state)

    def _binpersid(self) -> None:
        self.stack.append(self.persistent(self.pop()))


def _bounded(made: Any, most_text: int) -> None:
    """Raises Refused if the object refers to itself, is too deep, or would be too large with nothing shared."""
    known: dict[int, tuple[int, int, int]] = {}  # id -> nodes, characters, depth
    inside: set[int] = set()
    todo: list[tuple[Any, bool]] = [(made, False)]
    while todo:
        value, finished = todo.pop()
        if finished:
            inside.discard(id(value))
            parts = [known[id(v)] if _is_container(v) else _leaf(v) for v in _parts(value)]
            nodes = 1 + sum(p[0] for p in parts)
            text = sum(p[1] for p in parts)
            depth = 1 + max((p[2] for p in parts), default=0)  # a shared part may have been met at a shallower place
            if nodes > _NODES or text > most_text or depth > _DEPTH:
                raise Refused("its objects are nested without end")
            known[id(value)] = nodes, text, depth
        elif id(value) in inside:
            raise Refused("it holds an object that refers to itself")
        elif id(value) not in known and _is_container(value):
            inside.add(id(value))
            if len(inside) > _DEPTH:
                raise Refused("its objects are nested without end")
            todo.append((value, True))
            todo += [(v, False) for v in _parts(value) if _is_container(v) and id(v) not in known]


def _is_container(value: Any) -> bool:
    return isinstance(value, dict | list | tuple | set | frozenset) or hasattr(type(value), "state")


def _leaf(value: Any) -> tuple[int, int, int]:
    return 1, len(value) if isinstance(value, str | bytes) else 0, 0


def _parts(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [v for item in value.items() for v in item]
    if isinstance(value, list | tuple | set | frozenset):
        return list(value)
    return [getattr(value, "state", None)]


def number_array(data: Any, dtype: np.dtype, shape: Any, fortran: bool = False) -> np.ndarray:
    """The array of numbers in `data` (bytes, or Python 2's string). A view where it can be. Raises Refused."""
    if isinstance(data, str):
        data = data.encode("latin1")
    if not (isinstance(data, bytes) and isinstance(shape, tuple)):
        raise Refused("it holds a damaged numpy array")
    if elements(shape, dtype.itemsize, len(data)) * dtype.itemsize != len(data):
        raise Refused("it holds a damaged numpy array")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
