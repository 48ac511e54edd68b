"""Gzip files from untrusted sources: limits on the unpacked size."""

import gzip

from fastnn.errors import DataError

MAGIC = b"\x1f\x8b"
_TABLE_RATIO = 500  # the largest ratio accepted for a table; one-hot columns reach 200
_TABLE_BYTES = 1 << 24  # bytes that a table may unpack to in any case


class GzippedLines:
    """Lines of a gzipped text whose unpacked size is limited.

    Parameters
    ----------
    file : GzipFile
        The file to read.
    size : int
        Its compressed size in bytes, from which the limit follows.
    """

    def __init__(self, file: gzip.GzipFile, size: int) -> None:
        self._file, self._left = file, size * _TABLE_RATIO + _TABLE_BYTES

    def readline(self, limit: int) -> bytes:
        """Return the next line, or its first `limit` bytes.

        Raises
        ------
        DataError
            If more has been unpacked than the limit on the size allows.
        """
        line = self._file.readline(limit)
        self._left -= len(line)
        if self._left < 0:
            raise DataError(
                f"unpacks to more than {_TABLE_RATIO} times its size; if that is intended, unpack "
                "it with gunzip"
            )
        return line
