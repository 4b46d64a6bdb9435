"""How pyACL reads its arguments: CPython format letters, positional only, one TypeError for every mismatch.

    k K    real int (or bool); anything else, numpy integers included, is rejected; wraps modulo 2**64
    I      int or `__index__`; wraps modulo 2**32        H   the same, modulo 2**16
    i      int or `__index__`; must fit in 32 bits       h   in 16 bits            b   0..255
    f d    anything with `__float__` or `__index__`, but no int beyond a double; f takes a too large double for infinity
    s      str without NUL and without lone surrogates
    O      anything
    |      what follows may be left out

A function without letters ignores surplus positional arguments, as METH_VARARGS functions do that never look at them.
Rules and sources: contracts/pyacl.md 1.0.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable
from typing import Any

Converter = Callable[[Any], Any]


class _MismatchError(Exception):
    """A value does not fit its letter."""


def _long_masked(bits: int) -> Converter:
    mask = (1 << bits) - 1

    def convert(value: Any) -> int:
        if not isinstance(value, int):
            raise _MismatchError
        return int(value) & mask

    return convert


def _index(value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise _MismatchError from None


def _index_masked(bits: int) -> Converter:
    mask = (1 << bits) - 1
    return lambda value: _index(value) & mask


def _index_ranged(low: int, high: int) -> Converter:
    def convert(value: Any) -> int:
        number = _index(value)
        if not low <= number <= high:
            raise _MismatchError
        return number

    return convert


def _real(single: bool) -> Converter:
    def convert(value: Any) -> float:
        if isinstance(value, (str, bytes, bytearray)):
            raise _MismatchError
        try:
            number = float(value)
            return float(struct.unpack("f", struct.pack("f", number))[0]) if single else number
        except (OverflowError, TypeError, ValueError):
            raise _MismatchError from None

    return convert


def _string(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise _MismatchError
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _MismatchError from None
    return str(value)


_CONVERTERS: dict[str, Converter] = {
    "k": _long_masked(64),
    "K": _long_masked(64),
    "I": _index_masked(32),
    "H": _index_masked(16),
    "B": _index_masked(8),
    "i": _index_ranged(-(2**31), 2**31 - 1),
    "h": _index_ranged(-(2**15), 2**15 - 1),
    "b": _index_ranged(0, 255),
    "f": _real(single=True),
    "d": _real(single=False),
    "s": _string,
    "O": lambda value: value,
}


def parse_error(name: str) -> TypeError:
    """The TypeError of a failed parse: functions of acl.mdl end theirs with an exclamation mark."""
    return TypeError(f"{name} args parse failed{'!' if name.startswith('acl.mdl.') else ''}")


def parser(name: str, letters: str) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    """A function that turns the caller's positional arguments into C values, or raises `parse_error(name)`.

    Args:
        name: dotted, as the real module says it, for example "acl.rt.malloc".
        letters: one per argument; "" ignores all arguments.
    """
    required, _, optional = letters.partition("|")
    converters = tuple(_CONVERTERS[letter] for letter in required + optional)
    least, most = len(required), len(converters)
    if not letters:
        return lambda _: ()

    def parse(args: tuple[Any, ...]) -> tuple[Any, ...]:
        if not least <= len(args) <= most:
            raise parse_error(name)
        try:
            return tuple([convert(value) for convert, value in zip(converters, args, strict=False)])
        except _MismatchError:
            pass
        raise parse_error(name)

    return parse


def parse_one(name: str, letter: str, value: Any) -> Any:
    """One value by one letter, for arguments whose letter depends on another argument (`set_config_opt`)."""
    try:
        return _CONVERTERS[letter](value)
    except _MismatchError:
        raise parse_error(name) from None
