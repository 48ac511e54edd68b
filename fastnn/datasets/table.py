"""Samples in CSV, strictly read: numbers with commas between them, below a header or not."""

import csv
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import IO

import numpy as np

from fastnn.datasets.samples import BLOCK_BYTES, BLOCK_ROWS, as_samples
from fastnn.errors import DataError

_LINE_BYTES, _NUMBER_BYTES = 1 << 20, 32  # of a line: so many, and so many more for each number
_SHOWN = 40  # characters of a field
_BOM = "\ufeff"


def read_table(
    file: IO[bytes], name: str, inputs: int, names: Sequence[str] | None = None
) -> Iterator[np.ndarray]:
    """Yield the samples of a CSV file, one a line, in blocks; it may be larger than the memory.

    Numbers may be quoted and have blanks around them. The first line is a header if no field of
    it is a number.

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
    if has_header := _check_first(first, inputs, names, f"{name}: line 1"):
        number = 2
    else:
        lines = chain([first], lines)
    for block in _blocks(lines):
        values = _parsed(block, inputs)
        if values is None:
            bad = _first_bad(block, inputs)
            raise DataError(f"{name}: line {number + bad}{_complaint(block[bad], inputs)}")
        yield as_samples(values, name, number, "line")
        number += len(block)
    if has_header and number == 2:
        raise DataError(f"{name}: has a header and no rows")


def _lines(file: IO[bytes], name: str, limit: int) -> Iterator[str]:
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


def _check_first(line: str, inputs: int, names: Sequence[str] | None, where: str) -> bool:
    """Return whether the first line is a header; raise a DataError if it is a wrong one."""
    try:
        fields = next(csv.reader([line], strict=True))
    except csv.Error as error:
        raise DataError(f"{where}: is not CSV: {error}") from None
    is_header = fields == names or not any(map(_is_number, fields))
    if len(fields) != inputs:
        raise DataError(f"{where}: has {_counted(fields, inputs)}")
    if is_header and names is not None:
        for column, (field, expected) in enumerate(zip(fields, names, strict=True), 1):
            if field != expected:
                raise DataError(
                    f"{where}, column {column}: is named {_shown(field)}, where the model takes "
                    f"{_shown(expected)}"
                )
    return is_header


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
