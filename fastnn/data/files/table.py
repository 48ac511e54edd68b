"""Samples in CSV, strictly read: numbers with commas between them, below a header or not."""

import csv
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from typing import Protocol

import numpy as np

from fastnn.data.files.samples import BLOCK_BYTES, BLOCK_ROWS, as_samples
from fastnn.errors import DataError

_LINE_BYTES, _NUMBER_BYTES = 1 << 20, 32  # of a line: so many, and so many more for each number
_SHOWN = 40  # characters of a field
_MOST_EMPTY = 1000  # lines at the end that may be empty
_BOM = "\ufeff"
_AHEAD = 16  # lines to examine below a first line of numbers
_MANY_COLUMNS = 8  # a line that counts up over as many is hardly a sample


class Lines(Protocol):
    """A binary file from which a table is read."""

    def readline(self, limit: int, /) -> bytes:
        """Return the next line, or its first `limit` bytes."""


def read_table(
    file: Lines,
    name: str,
    inputs: int,
    names: Sequence[str] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[np.ndarray]:
    """Yield the samples of a CSV file, one a line, in blocks; it may be larger than the memory.

    Numbers may be quoted and have blanks around them. The first line is a header if no field of
    it is a number, or if it equals `names`.

    A first line that counts 0, 1, 2, ... or 1, 2, 3, ... may also be a header: pandas writes one
    where columns have no names. It is taken for a header if there are eight columns or more, or
    if all numbers of a column below it have a decimal point. Otherwise, or if no line follows, or
    if the same line occurs again, it is taken for a sample. `say` is called with the decision.

    Parameters
    ----------
    file : binary file
        UTF-8; a pipe will do.
    name : str
        Stands first in the messages.
    inputs : int
        The numbers that a line should have.
    names : sequence of str, optional
        What a header should say, if there is one.
    say : callable
        Called with a line on how a first line of numbers is read, or on missing names.

    Yields
    ------
    np.ndarray
        (rows, inputs) float32, C-contiguous.

    Raises
    ------
    DataError
        If the file has no rows; or a line is empty, has more or fewer fields, or one that is not
        a finite number in float32; or the header's names are others.
    """
    lines = _lines(file, name, _LINE_BYTES + _NUMBER_BYTES * inputs)
    first = next(lines, None)
    if first is None:
        raise DataError(f"{name}: is empty")
    number = 1  # of the line at hand
    fields = _checked_fields(first, inputs, f"{name}: line 1")
    if has_header := fields == names or not any(map(_is_number, fields)):
        _check_names(fields, names, f"{name}: line 1")
    else:
        ahead = list(islice(lines, _AHEAD)) if _counts_up(fields) else []
        taken = _numbered(fields, first, ahead)
        has_header = taken == "header"
        lines = chain([] if has_header else [first], ahead, lines)
        if text := _how_taken(taken, fields, names):
            say(f"{name}: {text}")
    number += has_header
    for block in _blocks(lines):
        values = _parsed(block, inputs)
        if values is None:
            bad = _first_bad(block, inputs)
            raise DataError(f"{name}: line {number + bad}{_complaint(block[bad], inputs)}")
        yield as_samples(values, name, number, "line")
        number += len(block)
    if has_header and number == 2:
        raise DataError(f"{name}: has a header and no rows")


def _lines(file: Lines, name: str, limit: int) -> Iterator[str]:
    """Yield the lines as text; empty ones may stand at the end alone."""
    number, empty = 0, 0
    while line := file.readline(limit + 1):
        number += 1
        where = f"{name}: line {number}"
        if len(line) > limit:
            raise DataError(f"{where}: is longer than {limit:,} bytes")
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError:
            text = "\0"
        if "\0" in text:
            other = "the file none of IDX, .npy, .npz and PNG"
            if name == "standard input":
                other = "standard input is taken as CSV"
            raise DataError(f"{where}: is not text in UTF-8, and {other}")
        if number == 1:
            text = text.removeprefix(_BOM)
        if not text.strip():
            empty = empty or number
            if number - empty >= _MOST_EMPTY:
                raise DataError(f"{where}: is empty, like the {_MOST_EMPTY:,} lines before it")
        elif empty:
            raise DataError(f"{name}: line {empty}: is empty")
        else:
            yield text


def _blocks(lines: Iterator[str]) -> Iterator[list[str]]:
    block: list[str] = []
    size = 0
    for line in lines:
        block.append(line)
        size += len(line)
        if len(block) == BLOCK_ROWS or size >= BLOCK_BYTES:
            yield block
            block, size = [], 0
    if block:
        yield block


def _checked_fields(line: str, inputs: int, where: str) -> list[str]:
    """Return the fields of the first line; raise a DataError if their number is wrong."""
    try:
        fields = next(csv.reader([line], strict=True))
    except csv.Error as error:
        raise DataError(f"{where}: is not CSV: {error}") from None
    if len(fields) != inputs:
        raise DataError(f"{where}: has {_counted(fields, inputs)}")
    return fields


def _check_names(fields: list[str], names: Sequence[str] | None, where: str) -> None:
    """Raise a DataError if a header differs from the model's names."""
    for column, (field, expected) in enumerate(zip(fields, names or fields, strict=True), 1):
        if field != expected:
            raise DataError(
                f"{where}, column {column}: is named {_shown(field)}, where the model takes "
                f"{_shown(expected)}"
            )


def _counts_up(fields: list[str]) -> bool:
    """Return whether a line is 0, 1, 2, ... or 1, 2, 3, ..., like headers without names."""
    return any(fields == [str(k) for k in range(low, low + len(fields))] for low in (0, 1))


def _numbered(fields: list[str], first: str, ahead: list[str]) -> str:
    """Return "header" or "sample" if a first line counts up, else ""; "" is a sure sample."""
    if not _counts_up(fields) or first.strip() in map(str.strip, ahead):
        return ""
    has_points = _has_column_with_points(ahead)
    if len(fields) == 1:  # 0 or 1, which many samples are
        return "sample" if has_points else ""
    return "header" if has_points or (ahead and len(fields) >= _MANY_COLUMNS) else "sample"


def _has_column_with_points(lines: list[str]) -> bool:
    """Return whether all numbers of some column have a decimal point or an exponent."""
    columns = zip(*(line.split(",") for line in lines), strict=False)
    return any(
        not any(field.strip(' \t\r\n"').lstrip("+-").isdigit() for field in column)
        for column in columns
    )


def _how_taken(taken: str, fields: list[str], names: Sequence[str] | None) -> str:
    """Return a note on how an uncertain first line is read, or on missing names, or ""."""
    text = ""
    if taken:
        start = ",".join(fields[:3]) + ",..." * (len(fields) > 3)
        other = "sample" if taken == "header" else "header"
        text = f"line 1 ({start}) is read as a {taken}, not as a {other}"
    if names is not None:
        text = f"{text or 'has no header'}; the columns are taken in the order of the model's names"
    return text


def _parsed(lines: list[str], inputs: int) -> np.ndarray | None:
    """Return the numbers (len(lines), inputs) float32; None if something is wrong with a line."""
    try:
        values = np.loadtxt(lines, np.float32, comments=None, delimiter=",", quotechar='"', ndmin=2)
    except ValueError:
        return None
    return values if values.shape == (len(lines), inputs) else None


def _first_bad(lines: list[str], inputs: int) -> int:
    """Return the index of the first line that cannot be parsed; there is one."""
    good, bad = 0, len(lines)  # all before the one can be parsed, not all before the other
    while bad - good > 1:
        middle = (good + bad) // 2
        if _parsed(lines[good:middle], inputs) is None:
            bad = middle
        else:
            good = middle
    return good


def _complaint(line: str, inputs: int) -> str:
    """Say what is wrong with a line, and where."""
    try:
        fields = next(csv.reader([line], strict=True))
    except csv.Error as error:
        return f": is not CSV: {error}"
    if len(fields) != inputs:
        return f": has {_counted(fields, inputs)}"
    for column, field in enumerate(fields, 1):
        if not _is_number(field):
            return f", column {column}: {_shown(field)} is not a number"
    return ": is not made of numbers with commas between them"


def _counted(fields: list[str], inputs: int) -> str:
    return f"{len(fields)} field{'s' * (len(fields) != 1)}, where the model takes {inputs}"


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return field.isascii() and "_" not in field  # which Python takes, and CSV does not


def _shown(field: str) -> str:
    return repr(field if len(field) <= _SHOWN else f"{field[:_SHOWN]}...")
