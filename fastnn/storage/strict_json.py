"""JSON from a stranger: parsed and looked into so that nothing surprising gets any further.

Whatever is wrong raises a ModelFileError that names it. A bool is no whole number here, and a
whole number no other number.
"""

import json
import math
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from reprlib import repr as short_repr  # cut to a few words: what a stranger wrote may be long
from typing import Any

from fastnn.errors import ModelFileError
from fastnn.model.settings import COUNT_LIMIT
from fastnn.system.files import FilePath

_WORDS = {bool: "a bool", int: "a whole number", float: "a number with a point", str: "a text"}
_WORDS |= {list: "a list", dict: "an object"}


@contextmanager
def prefix_errors(what: FilePath) -> Iterator[None]:
    """Put a name, a file's or that of a part of it, before the message of a ModelFileError.

    What is nested too deeply for whoever walks through it becomes one.
    """
    try:
        yield
    except ModelFileError as error:
        raise ModelFileError(f"{os.fspath(what)}: {error}") from error
    except RecursionError as error:
        raise ModelFileError(f"{os.fspath(what)}: is nested too deeply") from error


def parse_object(text: bytes | str, what: str) -> dict[str, Any]:
    """Return a JSON object, in which every number is finite and no name is there twice."""
    try:
        value = json.loads(
            text if isinstance(text, str) else text.decode(),
            object_pairs_hook=_object,
            parse_constant=_finite,
            parse_float=_finite,
        )
    except ValueError as error:  # not UTF-8, not JSON, or thousands of digits
        raise ModelFileError(f"{what} is not the JSON that it should be: {error}") from error
    if type(value) is not dict:
        raise ModelFileError(f"{what} is not a JSON object")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is there twice")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{short_repr(text)} is not a finite number")
    return number


def dump_object(value: dict[str, Any]) -> str:
    """Return an object as JSON in ASCII; parsing and dumping it again gives the same text."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def check_keys(found: dict[str, Any], expected: Collection[str], what: str) -> None:
    """Refuse an object that has not exactly these names."""
    for name in expected:
        if name not in found:
            raise ModelFileError(f"{what} has no {name}")
    for name in found:
        if name not in expected:
            raise ModelFileError(f"{what} has {short_repr(name)}, which does not belong there")


def get_typed(found: dict[str, Any], name: str, kind: type) -> Any:
    """Return an object's value of this name, which is of this type."""
    if name not in found:
        raise ModelFileError(f"{name} is missing")
    if type(found[name]) is not kind:
        raise ModelFileError(f"{name} is {short_repr(found[name])}, where {_WORDS[kind]} is needed")
    return found[name]


def get_list(found: dict[str, Any], name: str, kind: type) -> list[Any]:
    """Return an object's list of this name, all of whose items are of this type."""
    for value in get_typed(found, name, list):
        if type(value) is not kind:
            raise ModelFileError(f"{name} has {short_repr(value)}, where {_WORDS[kind]} is needed")
    return found[name]


def get_count(found: dict[str, Any], name: str, limit: int = COUNT_LIMIT) -> int:
    """Return an object's whole number of this name, which is at least 0 and below a limit."""
    number = get_typed(found, name, int)
    if not 0 <= number < limit:
        raise ModelFileError(f"{name} is {short_repr(number)}, where 0 to {limit - 1} is needed")
    return number
