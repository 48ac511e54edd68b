"""Read IDX files: ``0 0 dtype ndim``, the dimensions as big-endian uint32, then the data.

The size of a file must be exactly the size that its header gives. The header is not trusted:
memory grows with the bytes that are in the file.
"""

import gzip
import hashlib
import math
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np

from fastnn.data.files.samples import BinaryStream, blocks_of_stream, check_shape, file_errors
from fastnn.errors import DataError

GZIP_MAGIC = b"\x1f\x8b"
_UINT8 = 8  # the code of the only dtype that is read
_MAX_NDIM = 64  # NumPy's own limit
_PIECE = 1 << 18  # bytes to read at a time


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an IDX file of bytes, raw or gzipped.

    Parameters
    ----------
    path : str or path-like
        The file. Whether it is gzipped is detected from its content.

    Returns
    -------
    ndarray
        uint8, C-contiguous and writable, of the shape that the header gives.

    Raises
    ------
    DataError
        If the file cannot be read, is not IDX, has a dtype other than uint8, is shorter or longer
        than its header says, or is damaged gzip.
    """
    return read_idx_and_sha256(path)[0]


def read_idx_and_sha256(path: str | os.PathLike[str]) -> tuple[np.ndarray, str]:
    """Read like `read_idx`; also return the SHA-256 of the uncompressed bytes, in hex."""
    with _open_idx(path) as (stream, header, shape):
        promised = len(header) + math.prod(shape)
        data = bytearray(header)
        # One byte more than promised is enough to detect a longer file.
        while piece := stream.read(min(_PIECE, promised + 1 - len(data))):
            data += piece
        if len(data) != promised:
            raise _wrong_size(promised, "at least " if len(data) > promised else "", len(data))
    values = np.frombuffer(data, np.uint8, offset=len(header))  # shares the memory of `data`
    return values.reshape(shape), hashlib.sha256(data).hexdigest()


def read_idx_rows(path: str | os.PathLike[str], inputs: int) -> Iterator[np.ndarray]:
    """Yield the samples of an IDX file in blocks; the file may be larger than memory.

    Parameters
    ----------
    path : str or path-like
        File of an array (n, inputs), or of images of `inputs` pixels.
    inputs : int
        Number of features that the model takes.

    Yields
    ------
    ndarray (rows, inputs)
        uint8, C-contiguous.

    Raises
    ------
    DataError
        As in `read_idx`, or if the samples have a different size. Damage at the end of a gzipped
        file is detected only after the blocks before it.
    """
    with _open_idx(path) as (stream, _, shape):
        check_shape(shape, inputs)
        yield from blocks_of_stream(stream.read, shape, np.dtype(np.uint8))


@contextmanager
def _open_idx(
    path: str | os.PathLike[str],
) -> Iterator[tuple[BinaryStream, bytes, tuple[int, ...]]]:
    """Open a file; yield the stream of its data, the bytes of its header, and the shape.

    A raw file must have the size that the header promises.
    """
    with file_errors(path), open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        is_gzip = file.read(2) == GZIP_MAGIC
        file.seek(0)
        with gzip.GzipFile(fileobj=file) if is_gzip else nullcontext(file) as stream:
            header, shape = _read_header(stream)
            promised = len(header) + math.prod(shape)
            if not is_gzip and promised != size:
                raise _wrong_size(promised, "", size)
            yield stream, header, shape


def _read_header(stream: BinaryStream) -> tuple[bytes, tuple[int, ...]]:
    """Read the header; return its bytes and the shape that it gives."""
    magic = stream.read(4)
    if len(magic) < 4:
        raise DataError(f"is truncated: it has {len(magic)} bytes, an IDX header has at least 8")
    if magic[:2] != b"\0\0":
        raise DataError(f"is not an IDX file: it starts with {magic.hex(' ')}, not 00 00")
    code, ndim = magic[2:]
    if code != _UINT8:
        raise DataError(f"has a dtype other than uint8: its type code is {code}, expected 8")
    if not 1 <= ndim <= _MAX_NDIM:
        raise DataError(f"has {ndim} dimensions, expected 1 to {_MAX_NDIM}")
    sizes = stream.read(4 * ndim)
    if len(sizes) < 4 * ndim:
        raise DataError(f"is truncated: it ends within the sizes of its {ndim} dimensions")
    shape = struct.unpack(f">{ndim}I", sizes)
    if 0 in shape:
        raise DataError(f"is empty: its shape is {shape}")
    return magic + sizes, shape


def _wrong_size(promised: int, qualifier: str, found: int) -> DataError:
    kind = "truncated" if found < promised else "too long"
    return DataError(
        f"is {kind}: its header promises {promised:,} bytes, but it has {qualifier}{found:,}"
    )
