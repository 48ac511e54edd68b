"""Parse JSON from untrusted files, and check types, keys and limits of its values.

Every error is a ModelFileError that names the value. Types are exact: a bool is not an integer,
and an integer is not a float.
"""

import json
import math
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from reprlib import repr as short_repr  # values from a file may be long
from typing import Any

from fastnn.errors import ModelFileError
from fastnn.model.settings import COUNT_LIMIT
from fastnn.system.files import FilePath

_TYPE_NAMES = {bool: "a bool", int: "an integer", float: "a float", str: "a string"}
_TYPE_NAMES |= {list: "a list", dict: "an object"}


@contextmanager
def prefix_errors(name: FilePath) -> Iterator[None]:
    """Put a name, of a file or of a part of it, before the message of a ModelFileError.

    A RecursionError becomes a ModelFileError about nesting.
    """
    try:
        yield
    except ModelFileError as error:
        raise ModelFileError(f"{os.fspath(name)}: {error}") from error
    except RecursionError as error:
        raise ModelFileError(f"{os.fspath(name)}: is nested too deeply") from error


def parse_object(text: bytes | str, name: str) -> dict[str, Any]:
    """Return a JSON object; reject numbers that are not finite, and duplicate keys."""
    try:
        value = json.loads(
            text if isinstance(text, str) else text.decode(),
            object_pairs_hook=_object,
            parse_constant=_finite,
            parse_float=_finite,
        )
    except ValueError as error:  # not UTF-8, not JSON, or an integer of thousands of digits
        raise ModelFileError(f"{name} is not valid JSON: {error}") from error
    if type(value) is not dict:
        raise ModelFileError(f"{name} is not a JSON object")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{short_repr(text)} is not a finite number")
    return number


def dump_object(value: dict[str, Any]) -> str:
    """Return an object as JSON in ASCII; parsing and dumping it again gives the same text."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def check_keys(found: dict[str, Any], expected: Collection[str], name: str) -> None:
    """Raise a ModelFileError unless an object has exactly the expected keys."""
    for key in expected:
        if key not in found:
            raise ModelFileError(f"{name} has no {key}")
    for key in found:
        if key not in expected:
            raise ModelFileError(f"{name} has {short_repr(key)}, which does not belong there")


def get_typed(found: dict[str, Any], key: str, kind: type) -> Any:
    """Return the value of a key; raise a ModelFileError unless it is of a type."""
    if key not in found:
        raise ModelFileError(f"{key} is missing")
    if type(found[key]) is not kind:
        raise ModelFileError(f"{key} is {short_repr(found[key])}, expected {_TYPE_NAMES[kind]}")
    return found[key]


def get_list(found: dict[str, Any], key: str, kind: type) -> list[Any]:
    """Return the list of a key; raise a ModelFileError unless all its items are of a type."""
    for value in get_typed(found, key, list):
        if type(value) is not kind:
            raise ModelFileError(f"{key} has {short_repr(value)}, expected {_TYPE_NAMES[kind]}")
    return found[key]


def get_count(found: dict[str, Any], key: str, limit: int = COUNT_LIMIT) -> int:
    """Return the integer of a key; raise a ModelFileError unless it is from 0 to ``limit - 1``."""
    number = get_typed(found, key, int)
    if not 0 <= number < limit:
        raise ModelFileError(f"{key} is {short_repr(number)}, expected 0 to {limit - 1}")
    return number
