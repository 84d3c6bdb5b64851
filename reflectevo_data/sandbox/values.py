"""Values as plain JSON trees: what a checked program returned goes to the parent as data, never as code.

The encoder runs inside the hostile process, so a tree is a claim and nothing more; the decoder runs in the parent and
in the judge, builds builtin and standard-library values of exact types, and refuses everything else. Standard library
only: the sandbox's own process imports this file by its path.
"""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
from typing import Any


MAX_BYTES = 1 << 20  # one encoded value; MBPP's largest is a few hundred bytes
MAX_DEPTH = 50
MAX_INT_BITS = 1 << 16
MAX_DECIMAL_CHARS = 1000

Tree = Any  # None, bool, int, float, str, or a list whose first item is a tag


class TooLarge(Exception):
    """The value exceeds a limit of the wire."""


class Uncomparable(Exception):
    """Something was compared that has no plain value; the message names its type."""


class Opaque:
    """A returned object without a plain value: it has a type name and a truth value, and equals nothing."""

    __slots__ = ("truth", "type_name")
    __hash__ = object.__hash__

    def __init__(self, type_name: str, truth: bool) -> None:
        self.type_name = type_name
        self.truth = truth

    def __bool__(self) -> bool:
        return self.truth

    def __eq__(self, other: object) -> bool:
        raise Uncomparable(self.type_name)

    def __repr__(self) -> str:
        return f"<{self.type_name} object>"


class Drawn:
    """An iterator over values that were drawn from the program's own iterator."""

    __slots__ = ("_rest",)

    def __init__(self, items: list[Any]) -> None:
        self._rest = iter(items)

    def __iter__(self) -> Drawn:
        return self

    def __next__(self) -> Any:
        return next(self._rest)

    def __repr__(self) -> str:
        return "<iterator>"


_DICT_TAGS: dict[type, str] = {dict: "d", collections.Counter: "C", collections.OrderedDict: "O"}
_DICTS = {tag: kind for kind, tag in _DICT_TAGS.items()}
_ITEM_TAGS: dict[type, str] = {list: "l", tuple: "t", set: "s", frozenset: "z", collections.deque: "q"}
_ITEMS: dict[str, Any] = {tag: kind for kind, tag in _ITEM_TAGS.items()}
_ITEMS["g"] = Drawn  # generators and other iterators, drawn to their end by the encoder
# A subclass counts as its base, and so is read by its base's own iterator
_ITERATORS: dict[type, Any] = {kind: kind.__iter__ for kind in (list, tuple, set, frozenset, collections.deque)}
_VIEW_TAGS: dict[type, str] = {type({}.keys()): "k", type({}.values()): "w", type({}.items()): "m"}
_VIEWS = tuple(_VIEW_TAGS.values())
_DATE_TAGS: dict[type, str] = {datetime.date: "date", datetime.time: "time", datetime.datetime: "datetime"}
_DATES: dict[str, Any] = {tag: kind for kind, tag in _DATE_TAGS.items()}
_BASES = (int, float, complex, str, bytes, bytearray, tuple, list, set, frozenset, dict)


def encode(value: object) -> Tree:
    """The tree of a value. A subclass that keeps its base's `__eq__` counts as its base (namedtuple, defaultdict).

    Raises:
        TooLarge: Too many items, too deep, or a number or text beyond the limits.
    """
    left = MAX_BYTES // 2  # every node needs a character and a separator at least

    def items(values: Any, depth: int) -> list[Tree]:
        nonlocal left
        trees = []
        for item in values:
            left -= 1
            if left < 0:
                raise TooLarge("more items than fit into a result")
            trees.append(walk(item, depth))
        return trees

    def walk(value: Any, depth: int) -> Tree:
        if value is None or value is True or value is False:
            return value
        kind = type(value)
        if kind not in _PLAIN:
            kind = next((base for base in _BASES if issubclass(kind, base) and kind.__eq__ is base.__eq__), kind)
        if depth > MAX_DEPTH:
            raise TooLarge(f"nested deeper than {MAX_DEPTH}")
        if kind is int:
            if int.bit_length(value) > MAX_INT_BITS:
                raise TooLarge(f"an integer of {int.bit_length(value)} bits")
            # a decimal text of more than 4300 digits is refused by Python itself
            return int.__add__(value, 0) if int.bit_length(value) < 10_000 else ["i", hex(value)]
        if kind is float:
            return float.__mul__(value, 1.0)  # an exact float; adding 0.0 would lose the sign of -0.0
        if kind is str:
            if str.__len__(value) > MAX_BYTES:
                raise TooLarge(f"a text of {str.__len__(value)} characters")
            return str.__str__(value)
        if kind in (bytes, bytearray):
            if len(value) > MAX_BYTES // 2:
                raise TooLarge(f"{len(value)} bytes")
            return ["b" if kind is bytes else "B", bytes(value).hex()]
        if kind is complex:
            return ["c", value.real, value.imag]
        if kind in _ITEM_TAGS:
            return [_ITEM_TAGS[kind], *items(_ITERATORS[kind](value), depth + 1)]
        if kind in _DICT_TAGS:
            pairs = dict.items(value)
            return [_DICT_TAGS[kind], *items((part for pair in pairs for part in pair), depth + 1)]
        if kind in _VIEW_TAGS:
            return [_VIEW_TAGS[kind], *items(value, depth + 1)]
        if kind is range:
            return ["r", walk(value.start, depth), walk(value.stop, depth), walk(value.step, depth)]
        if kind is fractions.Fraction:
            return ["f", walk(value.numerator, depth), walk(value.denominator, depth)]
        if kind is decimal.Decimal:
            return ["D", str(value)[: MAX_DECIMAL_CHARS + 1]]
        if kind in _DATE_TAGS:
            return [_DATE_TAGS[kind], value.isoformat()]
        if kind is datetime.timedelta:
            return ["delta", value.days, value.seconds, value.microseconds]
        if kind is type(...):
            return ["e"]
        if hasattr(kind, "__next__"):
            return ["g", *items(value, depth + 1)]
        return ["o", str(kind.__name__)[:100], bool(value)]

    return walk(value, 0)


_PLAIN = {
    *_BASES,
    *_DICT_TAGS,
    *_ITEM_TAGS,
    *_VIEW_TAGS,
    *_DATE_TAGS,
    range,
    fractions.Fraction,
    decimal.Decimal,
    datetime.timedelta,
}


def decode(tree: Tree, depth: int = 0) -> Any:
    """The value of a tree.

    Building sets and dicts can take time quadratic in their size when hashes collide: compare `size` first, or
    decode where the CPU time is limited.

    Raises:
        ValueError: Not a tree that `encode` makes, or a number or nesting beyond the limits.
    """
    if tree is None or type(tree) in (bool, int, float, str):
        return tree
    if type(tree) is not list or not tree or depth > MAX_DEPTH:
        raise ValueError("malformed result")
    tag, *parts = tree
    try:
        if tag in _ITEMS:
            return _ITEMS[tag]([decode(part, depth + 1) for part in parts])
        if tag in _DICTS or tag in _VIEWS:
            values = [decode(part, depth + 1) for part in parts]
            if tag == "k":
                return dict.fromkeys(values).keys()
            if tag == "w":
                return dict(enumerate(values)).values()
            if tag == "m":
                return dict(values).items()
            return _DICTS[tag](dict(zip(values[::2], values[1::2], strict=True)))
        return _decode_scalar(tag, parts)
    except (TypeError, ValueError, ArithmeticError, AttributeError) as error:  # forged, or an unhashable key
        raise ValueError("malformed result") from error


def _decode_scalar(tag: Any, parts: list[Any]) -> Any:
    match tag, parts:
        case "i", [str(digits)] if len(digits) <= MAX_INT_BITS // 4 + 3:
            return int(digits, 16)
        case (("b" | "B"), [str(digits)]):
            return bytes.fromhex(digits) if tag == "b" else bytearray.fromhex(digits)
        case "c", [float(real), float(imaginary)]:
            return complex(real, imaginary)
        case "r", [start, stop, step]:
            return range(decode(start, MAX_DEPTH), decode(stop, MAX_DEPTH), decode(step, MAX_DEPTH))
        case "f", [numerator, denominator]:
            return fractions.Fraction(decode(numerator, MAX_DEPTH), decode(denominator, MAX_DEPTH))
        case "D", [str(text)] if len(text) <= MAX_DECIMAL_CHARS:
            value = decimal.Decimal(text)
            if not value.is_snan():  # comparing a signalling NaN raises
                return value
        case (("date" | "time" | "datetime"), [str(text)]) if len(text) < 60:
            return _DATES[tag].fromisoformat(text)
        case "delta", [int(days), int(seconds), int(microseconds)]:
            return datetime.timedelta(days, seconds, microseconds)
        case "e", []:
            return ...
        case "o", [str(name), bool(truth)]:
            return Opaque(name, truth)
    raise ValueError("malformed result")


def size(tree: Tree) -> int:
    """How many values a tree holds, itself included: equal values have equal sizes, whatever their types."""
    if type(tree) is not list or not tree:
        return 1
    if tree[0] in _ITEMS or tree[0] in _DICTS or tree[0] in _VIEWS:
        return 1 + sum(map(size, tree[1:]))
    return 1


def equals(tree: Tree, expected: Any, expected_size: int) -> bool:
    """Whether the value of a (forgeable) tree equals a trusted value, by Python's own `==`.

    The sizes are compared first: hash collisions can then cost no more than the trusted value's size squared.

    Raises:
        Uncomparable: The tree holds an opaque object where a value was expected.
        ValueError: The tree is malformed.
    """
    try:
        if size(tree) != expected_size:
            return False
        return bool(decode(tree) == expected)
    except RecursionError as error:
        raise ValueError("malformed result") from error


def show(tree: Tree, max_chars: int = 100) -> str:
    """A short text of a (forgeable) tree's value, for a reason."""
    tag = tree[0] if type(tree) is list and tree else None
    if type(tree) is str and len(tree) > max_chars:
        return f"a text of {len(tree)} characters"
    try:
        n_values = size(tree)
        if n_values > max_chars:
            return f"{_NAMES.get(tag, 'a value')} of {n_values - 1} values"
        text = repr(decode(tree))
    except (ValueError, RecursionError):  # malformed, or an integer too long to be written
        return f"{_NAMES.get(tag, 'a value')} that cannot be shown"
    return text if len(text) <= max_chars else f"{text[: max_chars - 1]}…"


_NAMES: dict[Any, str] = {
    "l": "a list",
    "t": "a tuple",
    "s": "a set",
    "d": "a dict",
    "g": "an iterator",
    "i": "an integer",
}
