"""THE encoder: one value, one byte string, on every node and in every version.

The form is RFC 8785 (JSON Canonicalization Scheme) on a domain without floats: objects with printable ASCII keys,
arrays, NFC text without lone surrogates, integers within ±(2^53−1), booleans, null. On that domain "keys sorted, no
white space, minimal escapes" *is* RFC 8785, which is what the sorted JSON encoder of msgspec writes; a test compares
the two encoders byte for byte.

It must never normalise. Input outside the domain is refused (``parse``), because a signature covers the bytes the
caller meant, and two readers that normalise differently would verify different things.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from swoosh import limits
from swoosh.errors import Malformed

_PRINTABLE_ASCII = frozenset(map(chr, range(0x20, 0x7F)))
_encoder = msgspec.json.Encoder(order="sorted")


def encode(value: Any) -> bytes:
    """Canonical bytes of builtins or frozen Structs that are already inside the domain (see ``check``)."""
    return _encoder.encode(value)


def encoder(hook: Callable[[Any], Any]) -> Callable[[Any], bytes]:
    """An ``encode`` that asks ``hook`` for the builtin form of values JSON does not know (collections, for one)."""
    return msgspec.json.Encoder(order="sorted", enc_hook=hook).encode


def parse(data: bytes, what: str = "body") -> Any:
    """Strict JSON into builtins.

    Raises:
        Malformed: not UTF-8, not JSON, duplicate keys, floats, NaN, integers beyond ±(2^53−1), text that is not NFC,
            lone surrogates, keys that are not printable ASCII, deeper than ``limits.DEPTH_MAX`` or more members than
            ``limits.MEMBERS_MAX``. The reason names the place.
    """
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_float=_no_float,
            parse_constant=_no_float,
            parse_int=_bounded,
        )
    except Malformed:
        raise
    except UnicodeDecodeError as error:
        raise Malformed(f"{what}: not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise Malformed(f"{what}: nested deeper than {limits.DEPTH_MAX}") from None
    except ValueError as error:
        raise Malformed(f"{what}: not JSON: {str(error)[:120]}") from None
    check(value, what)
    return value


def check(value: Any, what: str = "body") -> None:
    """Refuse a value outside the domain.

    Raises:
        Malformed: with the path of the first offending member.
    """
    members = 0
    stack: list[tuple[Any, str, int]] = [(value, what, 1)]
    while stack:
        node, path, depth = stack.pop()
        if isinstance(node, str):
            _check_text(node, path)
        elif isinstance(node, bool) or node is None:
            continue
        elif isinstance(node, int):
            _check_integer(node, path)
        elif isinstance(node, Mapping | list | tuple):
            if depth > limits.DEPTH_MAX:
                raise Malformed(f"{what}: nested deeper than {limits.DEPTH_MAX}")
            members += len(node)
            if members > limits.MEMBERS_MAX:
                raise Malformed(f"{what}: more than {limits.MEMBERS_MAX} members")
            stack.extend(_children(node, path, depth + 1))
        else:
            raise Malformed(f"{path}: {type(node).__name__} is not allowed; use text, integers, true, false or null")


def _children(node: Any, path: str, depth: int) -> list[tuple[Any, str, int]]:
    if isinstance(node, Mapping):
        for key in node:
            if not isinstance(key, str) or not key or not _PRINTABLE_ASCII.issuperset(key):
                raise Malformed(f"{path}: member names must be printable ASCII text")
        return [(child, f"{path}.{key}", depth) for key, child in node.items()]
    return [(child, f"{path}[{position}]", depth) for position, child in enumerate(node)]


def _check_text(text: str, path: str) -> None:
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise Malformed(f"{path}: lone surrogate") from None
    if not unicodedata.is_normalized("NFC", text):
        raise Malformed(f"{path}: text must be in Unicode normal form C")


def _check_integer(number: int, path: str) -> None:
    if not -limits.INTEGER_MAX <= number <= limits.INTEGER_MAX:
        raise Malformed(f"{path}: integer beyond ±(2^53−1)")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Malformed(f"duplicate member {twice[:64]!r}")
    return found


def _no_float(text: str) -> Any:
    raise Malformed(f"the number {text[:32]} is not an integer; hashed documents carry integers only")


def _bounded(text: str) -> int:
    if len(text) > limits.INTEGER_DIGITS_MAX:
        raise Malformed("integer beyond ±(2^53−1)")
    return int(text)
