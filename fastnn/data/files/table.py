"""Read samples in CSV strictly: lines of numbers separated by commas, with or without a header."""

import csv
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice

import numpy as np

from fastnn.data.files.samples import (
    BLOCK_BYTES,
    BLOCK_ROWS,
    BinaryStream,
    as_samples,
    prefix_errors,
)
from fastnn.errors import DataError

_LINE_BYTES, _NUMBER_BYTES = 1 << 20, 32  # limit of a line: the first, plus the second per number
_SHOWN = 40  # characters of a field in a message
_MAX_EMPTY_LINES = 1000  # at the end of a file
_BOM = "\ufeff"
_LOOK_AHEAD = 16  # number of lines to examine after a first line that counts up
_MANY_COLUMNS = 8  # a first line that counts up over at least 8 columns is a header


def read_table(
    file: BinaryStream,
    inputs: int,
    names: Sequence[str] | None = None,
    say: Callable[[str], None] = lambda line: None,
    max_bytes: float = math.inf,
) -> Iterator[np.ndarray]:
    """Yield the samples of a CSV file, one a line, in blocks; it may be larger than memory.

    Numbers may be quoted and have blanks around them. The first line is a header if none of its
    fields is a number, or if it equals `names`.

    A first line that counts 0, 1, 2, ... or 1, 2, 3, ... is ambiguous: pandas writes such a header
    if columns have no names. The next 16 lines decide. The first line is a header if it has at
    least eight columns, or if there is a column in which all these lines have a decimal point or an
    exponent. It is a sample otherwise; and also if no line follows, if one of these lines equals
    it, or if it has a single column.

    Parameters
    ----------
    file : binary file
        UTF-8 text. It does not need to be seekable.
    inputs : int
        Number of fields that a line must have.
    names : sequence of str, optional
        Names that a header must have.
    say : callable
        Called with a message that says how an ambiguous first line is read, or that there is no
        header to compare with `names`.
    max_bytes : float, optional
        Limit on the size of the text, for compressed files.

    Yields
    ------
    ndarray (rows, inputs)
        float32, C-contiguous.

    Raises
    ------
    DataError
        If the file has no rows; if a line is empty, has a wrong number of fields, or a field that
        is not a finite number in float32; if the header differs from `names`; if the text is too
        long.
    """
    lines = _lines(file, _LINE_BYTES + _NUMBER_BYTES * inputs, max_bytes)
    first = next(lines, None)
    if first is None:
        raise DataError("is empty")
    with prefix_errors("line 1"):
        fields = _fields(first, inputs)
        if has_header := fields == names or not any(map(_is_number, fields)):
            _check_names(fields, names or fields)
    if not has_header:
        ahead = list(islice(lines, _LOOK_AHEAD)) if _counts_up(fields) else []
        has_header, message = _guess_header(fields, first, ahead)
        if names is not None:
            message = message or "has no header"
            message += "; the columns are taken in the order of the model's names"
        if message:
            say(message)
        lines = chain([] if has_header else [first], ahead, lines)
    number = 1 + has_header  # of the next line
    for block in _blocks(lines):
        yield as_samples(_parse(block, inputs, number), number, "line")
        number += len(block)
    if has_header and number == 2:
        raise DataError("has a header, but no rows")


def _lines(file: BinaryStream, limit: int, max_bytes: float) -> Iterator[str]:
    """Yield the lines as text, without empty lines at the end.

    Raises
    ------
    DataError
        If a line is longer than `limit` bytes or is not UTF-8, if a line follows an empty one, or
        if the lines have more than `max_bytes` bytes in all.
    """
    number, first_empty = 0, 0
    while line := file.readline(limit + 1):
        number += 1
        max_bytes -= len(line)
        if max_bytes < 0:
            raise DataError(
                "unpacks to too much text for its size: if this is intended, unpack it with gunzip"
            )
        if len(line) > limit:
            raise DataError(f"line {number}: is longer than {limit:,} bytes")
        try:
            text = line.decode()
        except UnicodeDecodeError:
            text = "\0"
        if "\0" in text:
            raise DataError(
                f"line {number}: is not CSV in UTF-8; IDX, .npy, .npz and PNG are recognized in "
                "regular files only"
            )
        if number == 1:
            text = text.removeprefix(_BOM)
        if text.strip():
            if first_empty:
                raise DataError(f"line {first_empty}: is empty")
            yield text
        else:
            first_empty = first_empty or number
            if number - first_empty >= _MAX_EMPTY_LINES:
                raise DataError(f"line {number}: is empty, like the {_MAX_EMPTY_LINES:,} before it")


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


def _fields(line: str, inputs: int) -> list[str]:
    """Return the fields of a line; raise a DataError if their number is wrong."""
    try:
        fields = next(csv.reader([line], strict=True))
    except csv.Error as error:
        raise DataError(f"is not CSV: {error}") from None
    if len(fields) != inputs:
        counted = f"{len(fields)} field{'s' * (len(fields) != 1)}"
        raise DataError(f"has {counted}, but the model takes {inputs}")
    return fields


def _check_names(fields: list[str], names: Sequence[str]) -> None:
    """Raise a DataError if a header differs from the model's names."""
    for column, (field, name) in enumerate(zip(fields, names, strict=True), 1):
        if field != name:
            raise DataError(
                f"column {column}: is named {_shown(field)}, but the model takes {_shown(name)}"
            )


def _counts_up(fields: list[str]) -> bool:
    """Return whether a line is 0, 1, 2, ... or 1, 2, 3, ..., like a header without names."""
    return any(fields == [str(k) for k in range(low, low + len(fields))] for low in (0, 1))


def _guess_header(fields: list[str], first: str, ahead: list[str]) -> tuple[bool, str]:
    """Return whether a first line of numbers is a header, and a message if that is uncertain.

    Parameters
    ----------
    fields : list of str
        The fields of the first line.
    first : str
        The first line.
    ahead : list of str
        The next `_LOOK_AHEAD` lines, if the first line counts up.
    """
    is_single = len(fields) == 1  # a sample of 0 or 1 is too common for a message
    if not _counts_up(fields) or first.strip() in map(str.strip, ahead):
        return False, ""
    columns = zip(*(line.split(",") for line in ahead), strict=False)
    has_fractions = any(not any(map(_is_integer, column)) for column in columns)
    if is_single and not has_fractions:
        return False, ""
    is_header = not is_single and (has_fractions or bool(ahead) and len(fields) >= _MANY_COLUMNS)
    kind, other = ("header", "sample") if is_header else ("sample", "header")
    start = ",".join(fields[:3]) + ",..." * (len(fields) > 3)
    return is_header, f"line 1 ({start}) is read as a {kind}, not as a {other}"


def _is_integer(field: str) -> bool:
    """Return whether a field has neither a decimal point nor an exponent."""
    return field.strip(' \t\r\n"').lstrip("+-").isdigit()


def _parse(lines: list[str], inputs: int, first: int) -> np.ndarray:
    """Return the numbers of lines, (len(lines), inputs) float32; `first` is the first's number."""
    try:
        values = np.loadtxt(lines, np.float32, comments=None, delimiter=",", quotechar='"', ndmin=2)
        if values.shape == (len(lines), inputs):
            return values
    except ValueError:
        pass
    for number, line in enumerate(lines, first):
        with prefix_errors(f"line {number}"):
            for column, field in enumerate(_fields(line, inputs), 1):
                if not _is_number(field):
                    raise DataError(f"column {column}: {_shown(field)} is not a number")
    raise DataError(f"line {first} or a later line does not consist of numbers separated by commas")


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return field.isascii() and "_" not in field  # float() accepts both


def _shown(field: str) -> str:
    return repr(field if len(field) <= _SHOWN else f"{field[:_SHOWN]}...")
