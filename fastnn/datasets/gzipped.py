"""Gzip from strangers: damage is named, and what unpacks to far more than it should is refused."""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastnn.errors import DataError

MAGIC = b"\x1f\x8b"
DEFLATE_RATIO = 1032  # deflate's best: 258 bytes for two bits
_TABLE_RATIO = 500  # of a table: one-hot columns reach 200
_TABLE_BYTES = 1 << 24  # that any table may unpack to


@contextmanager
def damage_named(path: str | Path) -> Iterator[None]:
    """Raise a DataError that names the file where its gzip is damaged."""
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged gzip: {error}") from error


class GzippedLines:
    """The lines of a text in gzip, as many as its size allows for.

    Parameters
    ----------
    file : GzipFile
    name : str
        Stands first in the message.
    size : int
        Bytes of the file, packed.
    """

    def __init__(self, file: gzip.GzipFile, name: str, size: int) -> None:
        self._file, self._name, self._left = file, name, size * _TABLE_RATIO + _TABLE_BYTES

    def readline(self, limit: int) -> bytes:
        """Return the next line, or its first `limit` bytes; raise a DataError if it is too much."""
        line = self._file.readline(limit)
        self._left -= len(line)
        if self._left < 0:
            raise DataError(
                f"{self._name}: unpacks to more than {_TABLE_RATIO} times its size; if it is to be "
                "read all the same, unpack it with gunzip"
            )
        return line
