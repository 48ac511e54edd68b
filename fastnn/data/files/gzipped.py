"""Read gzip files that may be damaged or malicious: report damage, and limit the unpacked size."""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastnn.errors import DataError

MAGIC = b"\x1f\x8b"
DEFLATE_RATIO = 1032  # the most that deflate reaches: 258 bytes from two bits
_TABLE_RATIO = 500  # most that is accepted of a table: one-hot columns reach 200
_TABLE_BYTES = 1 << 24  # that a table may have in addition


@contextmanager
def damage_named(path: str | Path) -> Iterator[None]:
    """Turn the errors of a damaged gzip file into a DataError that names the file."""
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged gzip: {error}") from error


class GzippedLines:
    """The lines of a gzipped text, up to a limit that follows from the size of the file.

    Parameters
    ----------
    file : GzipFile
    name : str
        Of the file, for the message.
    size : int
        Compressed size in bytes.
    """

    def __init__(self, file: gzip.GzipFile, name: str, size: int) -> None:
        self._file, self._name, self._left = file, name, size * _TABLE_RATIO + _TABLE_BYTES

    def readline(self, limit: int) -> bytes:
        """Return the next line, or its first `limit` bytes; raise a DataError past the limit."""
        line = self._file.readline(limit)
        self._left -= len(line)
        if self._left < 0:
            raise DataError(
                f"{self._name}: unpacks to more than {_TABLE_RATIO} times its size; if that is "
                "intended, unpack it with gunzip"
            )
        return line
