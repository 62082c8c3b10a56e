"""A pickle machine that builds data and nothing else: no import, no call, no attribute is ever looked up.

Python's unpickler imports what a file names and calls it. This one knows a short list of names, each of which stands for
a piece of inert data: containers, tensors (shape and place of their numbers, see :class:`Tensor`), and objects of listed
classes, which become :class:`Record`, a class name and a dictionary. Any other name, and every operation that could do
more than build these, is refused. Protocols 0 to 5 (PEP 3154, PEP 574; Lib/pickletools.py of CPython lists the
operations).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

#: More operations, or values waiting on the stack, than this are refused (a large model needs some ten thousand).
MAX_OPERATIONS = 2_000_000
MAX_STACK = 200_000
#: Deepest nesting of containers and objects.
MAX_DEPTH = 64
#: Items and characters that calls may copy, together.
MAX_COPIED = 4_000_000
#: Longest integer, in bytes, and longest text.
MAX_INTEGER_BYTES = 16
MAX_TEXT = 1 << 20


class Refused(Exception):
    """The reason why a pickle is not read."""


@dataclass(frozen=True)
class Name:
    """A name out of the list, never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Record:
    """An object of a listed class: its class name and attributes."""

    kind: str
    state: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Storage:
    """Numbers in a member of the archive: torch storage class, key of the member, how many."""

    kind: str
    key: str
    size: int


@dataclass(frozen=True)
class Tensor:
    """A view of a storage: offset, shape and strides in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


_MARK = object()

# What may be called, as modules spell it in protocols 0 to 5, and what then happens instead of the call.
_ORDERED_DICT = Name("collections", "OrderedDict")
_SETS = {Name(m, n) for m in ("__builtin__", "builtins") for n in ("set", "frozenset")}
_OBJECTS = {Name(m, "object") for m in ("__builtin__", "builtins")}
_RECONSTRUCTORS = {Name("copy_reg", "_reconstructor"), Name("copyreg", "_reconstructor")}
_NEWOBJ = {Name("copy_reg", "__newobj__"), Name("copyreg", "__newobj__")}
_TENSOR = Name("torch._utils", "_rebuild_tensor_v2")
_PARAMETER = Name("torch._utils", "_rebuild_parameter")
_SIZE = Name("torch", "Size")
_DEVICE = Name("torch", "device")
_ENCODE = Name("_codecs", "encode")
CALLABLE = frozenset({_ORDERED_DICT, _TENSOR, _PARAMETER, _SIZE, _DEVICE, _ENCODE} | _SETS | _RECONSTRUCTORS | _NEWOBJ)


class InertUnpickler:
    """Reads one pickle.

    Parameters
    ----------
    data : the whole pickle
    classes : "module.name" of classes whose objects become records
    constants : "module.name" of names that are data themselves (functions that are named, storage types)
    explain : reason given for a name in neither list, from "module.name"
    """

    def __init__(
        self,
        data: bytes,
        classes: Collection[str],
        constants: Collection[str],
        explain: Callable[[str], str],
    ) -> None:
        self._data, self._at = data, 0
        self._classes, self._constants, self._explain = classes, constants, explain
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._copied = 0

    def load(self) -> Any:
        """The object; raises Refused for everything that is not plain data of the kinds above."""
        for _ in range(MAX_OPERATIONS):
            code = self._take(1)
            if code == b".":
                if self._at != len(self._data):
                    raise Refused("bytes after the end of the pickle")
                return self._finished()
            operation = _OPERATIONS.get(code)
            if operation is None:
                raise Refused(f"operation {code!r} at byte {self._at - 1}, which no checkpoint needs")
            operation(self)
            if len(self._stack) > MAX_STACK:
                raise Refused(f"more than {MAX_STACK} values on the stack")
        raise Refused(f"more than {MAX_OPERATIONS} operations")

    def _finished(self) -> Any:
        result = self._pop()
        if self._stack:
            raise Refused("values left over at the end of the pickle")
        _check_depth(result)
        return result

    # bytes

    def _take(self, count: int) -> bytes:
        end = self._at + count
        if count < 0 or end > len(self._data):
            raise Refused("it ends too early")
        piece = self._data[self._at : end]
        self._at = end
        return piece

    def _line(self) -> str:
        end = self._data.find(b"\n", self._at, self._at + MAX_TEXT)
        if end < 0:
            raise Refused("a line without end")
        piece = self._data[self._at : end]
        self._at = end + 1
        return _decode(piece)

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    # stack

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise Refused("an operation without its operands")
        return self._stack.pop()

    def _top(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise Refused("an operation without its operands")
        return self._stack[-1]

    def _pop_mark(self) -> list[Any]:
        for k in range(len(self._stack) - 1, -1, -1):
            if self._stack[k] is _MARK:
                items = self._stack[k + 1 :]
                del self._stack[k:]
                return items
        raise Refused("an operation without its mark")

    def _get(self, key: int) -> None:
        if key not in self._memo:
            raise Refused(f"memo {key} is read before it is written")
        self._push(self._memo[key])

    def _put(self, key: int) -> None:
        if key < 0 or len(self._memo) >= MAX_OPERATIONS:
            raise Refused("a memo that no checkpoint needs")
        self._memo[key] = self._top()

    # names and calls

    def _name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise Refused("a name that is not text")
        found = Name(module, name)
        if found not in CALLABLE | _OBJECTS and str(found) not in self._classes and str(found) not in self._constants:
            raise Refused(self._explain(str(found)))
        self._push(found)

    def _construct(self, cls: Any, arguments: Any) -> None:
        if cls == _ORDERED_DICT and arguments == ():
            self._push({})
        elif isinstance(cls, Name) and str(cls) in self._classes and arguments == ():
            self._push(Record(str(cls)))
        else:
            raise Refused(f"a construction of {_short(cls)} from {_short(arguments)}")

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(arguments, tuple) or not isinstance(function, Name) or function not in CALLABLE:
            raise Refused(f"a call of {_short(function)}")
        if function in _RECONSTRUCTORS:
            if len(arguments) != 3 or arguments[1] not in _OBJECTS or arguments[2] is not None:
                raise Refused("a reconstruction of something else than a plain object")
            self._construct(arguments[0], ())
        elif function in _NEWOBJ:
            if not arguments:
                raise Refused("a construction of nothing")
            self._construct(arguments[0], arguments[1:])
        else:
            if arguments and isinstance(arguments[0], (list, tuple, str)):
                self._copied += len(arguments[0])
                if self._copied > MAX_COPIED:
                    raise Refused("calls that fill memory")
            self._push(_build(function, arguments))

    def _build_state(self) -> None:
        state, target = self._pop(), self._top()
        if not isinstance(target, Record) or not isinstance(state, dict) or not all(isinstance(k, str) for k in state):
            raise Refused(f"a state for {_short(target)} that is not a dictionary of attributes")
        target.state.update(state)

    def _persistent(self) -> None:
        found = self._pop()
        if not (
            isinstance(found, tuple)
            and len(found) == 5
            and found[0] == "storage"
            and isinstance(found[1], Name)
            and str(found[1]) in self._constants
            and isinstance(found[2], str)
            and isinstance(found[3], str)
            and _is_count(found[4])
        ):
            raise Refused("a reference to something else than a storage of the archive")
        self._push(Storage(str(found[1]), found[2], found[4]))

    # containers

    def _append(self, items: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, list):
            raise Refused(f"items appended to {_short(target)}")
        target.extend(items)

    def _set_items(self, items: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, dict) or len(items) % 2:
            raise Refused(f"items set in {_short(target)}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_key(key)] = value

    def _add_items(self, items: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, set):
            raise Refused(f"items added to {_short(target)}")
        target.update(_key(item) for item in items)


def _build(function: Name, arguments: tuple) -> Any:
    """What a call of a listed function stands for."""
    if function == _ORDERED_DICT:
        if arguments == ():
            return {}
        if len(arguments) == 1 and isinstance(arguments[0], list):
            if all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in arguments[0]):
                return {_key(key): value for key, value in arguments[0]}
    elif function in _SETS:
        if arguments == ():
            return set()
        if len(arguments) == 1 and isinstance(arguments[0], (list, tuple)):
            return {_key(item) for item in arguments[0]}
    elif function == _SIZE:
        if len(arguments) == 1 and _are_counts(arguments[0]):
            return tuple(arguments[0])
    elif function == _DEVICE:
        if arguments and isinstance(arguments[0], str):
            return arguments[0]
    elif function == _ENCODE:  # how protocols 0 to 2 write bytes
        if len(arguments) == 2 and isinstance(arguments[0], str) and arguments[1] == "latin1":
            return arguments[0].encode("latin1", "replace")
    elif function == _TENSOR:
        if 6 <= len(arguments) <= 7:
            storage, offset, shape, strides, needs_grad, hooks = arguments[:6]
            if (
                isinstance(storage, Storage)
                and _is_count(offset)
                and _are_counts(shape)
                and _are_counts(strides)
                and len(shape) == len(strides)
                and isinstance(needs_grad, bool)
                and hooks == {}
                and not any(arguments[6:])
            ):
                return Tensor(storage, offset, tuple(shape), tuple(strides))
    elif function == _PARAMETER:
        if len(arguments) == 3 and isinstance(arguments[0], Tensor) and arguments[2] == {}:
            return arguments[0]
    raise Refused(f"a call of {function} with {_short(arguments)}")


def _key(value: Any) -> Any:
    """Keys and members of sets: text, numbers, and tuples of them (for which equality is cheap and harmless)."""
    plain = isinstance(value, (str, int, float, bool, bytes)) or value is None
    if not plain and not (isinstance(value, tuple) and all(isinstance(v, (str, int, float)) for v in value)):
        raise Refused(f"{_short(value)} as a key")
    return value


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def _are_counts(values: Any) -> bool:
    return isinstance(values, (tuple, list)) and len(values) <= 16 and all(_is_count(v) for v in values)


def _short(value: Any) -> str:
    """A value in a few words, whatever it contains (its own text could be endless)."""
    if isinstance(value, Name):
        return str(value)
    if isinstance(value, Record):
        return f"an object of {value.kind}"
    if isinstance(value, (str, bytes)):
        return f"{value[:40]!r}"
    if isinstance(value, (int, float)) or value is None:
        return repr(value)
    return f"a {type(value).__name__}"


def _decode(piece: bytes) -> str:
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused("text that is not UTF-8") from None


def _check_depth(root: Any) -> None:
    """Refuse what nests deeper than MAX_DEPTH, or contains itself: readers of the tree may then recurse."""
    depth: dict[int, int] = {}  # id → depth below, of finished containers
    open_ids: set[int] = set()
    work: list[tuple[Any, bool]] = [(root, False)]
    while work:
        value, done = work.pop()
        children = _children(value)
        if children is None:
            continue
        if done:
            open_ids.discard(id(value))
            deepest = max((depth.get(id(child), 0) for child in children), default=0) + 1
            if deepest > MAX_DEPTH:
                raise Refused(f"nesting deeper than {MAX_DEPTH}")
            depth[id(value)] = deepest
        elif id(value) in open_ids:
            raise Refused("an object that contains itself")
        elif id(value) not in depth:
            open_ids.add(id(value))
            work.append((value, True))
            work.extend((child, False) for child in children)


def _children(value: Any) -> list[Any] | None:
    if isinstance(value, Record):
        return list(value.state.values())
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, (list, tuple)):
        return list(value)
    return None


def _integer(piece: bytes) -> int:
    if len(piece) > MAX_INTEGER_BYTES:
        raise Refused("an integer longer than any checkpoint needs")
    return int.from_bytes(piece, "little", signed=True)


def _text_integer(text: str) -> int:
    digits = text.removesuffix("L")
    if len(digits) > 40 or not digits.lstrip("-").isascii() or not digits.lstrip("-").isdigit():
        raise Refused(f"{text[:40]!r} where a number is due")
    return int(digits)


def _int_line(p: InertUnpickler) -> None:
    text = p._line()
    p._push(text == "01" if text in ("00", "01") else _text_integer(text))


def _float_line(p: InertUnpickler) -> None:
    text = p._line()
    try:
        p._push(float(text[:60]))
    except ValueError:
        raise Refused(f"{text[:40]!r} where a number is due") from None


def _unicode_line(p: InertUnpickler) -> None:
    text = p._line()
    try:
        p._push(text.encode("latin1").decode("raw-unicode-escape"))
    except UnicodeError:
        raise Refused("text that cannot be decoded") from None


def _sized_text(form: str) -> Callable[[InertUnpickler], None]:
    def operation(p: InertUnpickler) -> None:
        size = p._number(form)
        if size > MAX_TEXT:
            raise Refused(f"a text of {size} bytes")
        p._push(_decode(p._take(size)))

    return operation


def _sized_bytes(form: str) -> Callable[[InertUnpickler], None]:
    def operation(p: InertUnpickler) -> None:
        size = p._number(form)
        if size > MAX_TEXT:
            raise Refused(f"{size} bytes outside the storages")
        p._push(p._take(size))

    return operation


def _protocol(p: InertUnpickler) -> None:
    found = p._number("<B")
    if found > 5:
        raise Refused(f"pickle protocol {found}")


def _global(p: InertUnpickler) -> None:
    module = p._line()
    p._name(module, p._line())


def _stack_global(p: InertUnpickler) -> None:
    name = p._pop()
    p._name(p._pop(), name)


def _new_object(p: InertUnpickler) -> None:
    arguments = p._pop()
    p._construct(p._pop(), arguments)


def _new_object_with_keywords(p: InertUnpickler) -> None:
    if p._pop() != {}:
        raise Refused("a construction with keywords")
    _new_object(p)


def _tuple_of(count: int) -> Callable[[InertUnpickler], None]:
    def operation(p: InertUnpickler) -> None:
        items = [p._pop() for _ in range(count)]
        p._push(tuple(reversed(items)))

    return operation


def _set_item(p: InertUnpickler) -> None:
    value = p._pop()
    p._set_items([p._pop(), value])


def _append_one(p: InertUnpickler) -> None:
    p._append([p._pop()])


def _dictionary(p: InertUnpickler) -> None:
    items = p._pop_mark()
    p._push({})
    p._set_items(items)


def _frozen_set(p: InertUnpickler) -> None:
    p._push({_key(item) for item in p._pop_mark()})


_OPERATIONS: dict[bytes, Callable[[InertUnpickler], Any]] = {
    b"\x80": _protocol,
    b"\x95": lambda p: p._number("<Q"),
    b"(": lambda p: p._push(_MARK),
    b"0": lambda p: p._pop(),
    b"1": lambda p: p._pop_mark(),
    b"2": lambda p: p._push(p._top()),
    b"N": lambda p: p._push(None),
    b"\x88": lambda p: p._push(True),
    b"\x89": lambda p: p._push(False),
    b"I": _int_line,
    b"L": lambda p: p._push(_text_integer(p._line())),
    b"J": lambda p: p._push(p._number("<i")),
    b"K": lambda p: p._push(p._number("<B")),
    b"M": lambda p: p._push(p._number("<H")),
    b"\x8a": lambda p: p._push(_integer(p._take(p._number("<B")))),
    b"F": _float_line,
    b"G": lambda p: p._push(p._number(">d")),
    b"V": _unicode_line,
    b"X": _sized_text("<I"),
    b"\x8c": _sized_text("<B"),
    b"\x8d": _sized_text("<Q"),
    b"B": _sized_bytes("<I"),
    b"C": _sized_bytes("<B"),
    b"\x8e": _sized_bytes("<Q"),
    b")": lambda p: p._push(()),
    b"t": lambda p: p._push(tuple(p._pop_mark())),
    b"\x85": _tuple_of(1),
    b"\x86": _tuple_of(2),
    b"\x87": _tuple_of(3),
    b"]": lambda p: p._push([]),
    b"l": lambda p: p._push(p._pop_mark()),
    b"a": _append_one,
    b"e": lambda p: p._append(p._pop_mark()),
    b"}": lambda p: p._push({}),
    b"d": _dictionary,
    b"s": _set_item,
    b"u": lambda p: p._set_items(p._pop_mark()),
    b"\x8f": lambda p: p._push(set()),
    b"\x90": lambda p: p._add_items(p._pop_mark()),
    b"\x91": _frozen_set,
    b"g": lambda p: p._get(_text_integer(p._line())),
    b"h": lambda p: p._get(p._number("<B")),
    b"j": lambda p: p._get(p._number("<I")),
    b"p": lambda p: p._put(_text_integer(p._line())),
    b"q": lambda p: p._put(p._number("<B")),
    b"r": lambda p: p._put(p._number("<I")),
    b"\x94": lambda p: p._put(len(p._memo)),
    b"c": _global,
    b"\x93": _stack_global,
    b"R": InertUnpickler._reduce,
    b"b": InertUnpickler._build_state,
    b"Q": InertUnpickler._persistent,
    b"\x81": _new_object,
    b"\x92": _new_object_with_keywords,
}
