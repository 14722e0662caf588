"""The shape of the state document, and its hash: what ``Meta.SchemaHash`` pins (Brief §7).

The shape is derived from the types in state.py by a rule of our own rather than by a library's JSON Schema, whose
text may change between releases: the hash is part of the replicated state and must not.
"""

from __future__ import annotations

import types
import typing
from typing import Any

import msgspec

from swoosh.hashing import digest
from swoosh.merkle import MerkleMap
from swoosh.state import ProjectRegions

_SCALARS = {str: "text", int: "integer", bool: "boolean", Any: "any", types.NoneType: "null"}


def shape(kind: Any) -> Any:
    """Builtins that describe a type.

    Scalars by name, ``{list: …}``, ``{map: …}``, ``{collection: …}``, ``{any_of: […]}``, and a Struct as
    {served member name: shape}.
    """
    if kind in _SCALARS:
        return _SCALARS[kind]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        return {"list": shape(arguments[0])}
    if origin is dict:
        return {"map": shape(arguments[1])}
    if origin is MerkleMap:
        return {"collection": shape(arguments[0])}
    if origin in (types.UnionType, typing.Union):
        return {"any_of": [shape(argument) for argument in arguments]}
    hints = typing.get_type_hints(kind)
    return {info.encode_name: shape(hints[info.name]) for info in msgspec.structs.fields(kind)}


SCHEMA_HASH = digest("schema", shape(ProjectRegions))
