"""The IDX format, strictly read: ``0 0 dtype ndim``, the dimensions as big-endian uint32, the data.

A file is what its header says to the last byte, or it is refused. The header is not believed
either: memory grows with the bytes that the file really yields, never with what it promises.
"""

import gzip
import hashlib
import math
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO

import numpy as np

from fastnn.data.files.gzipped import DEFLATE_RATIO, MAGIC, damage_named
from fastnn.data.files.samples import blocks_of_stream, check_shape
from fastnn.errors import DataError

_Stream = IO[bytes] | gzip.GzipFile

_DTYPES = {8: "uint8", 9: "int8", 11: "int16", 12: "int32", 13: "float32", 14: "float64"}
_UINT8 = 8
_MAX_NDIM = 64  # NumPy's own limit
_PIECE = 1 << 18


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an IDX file of bytes, raw or compressed with gzip (told apart by content, not name).

    Parameters
    ----------
    path : str or path-like
        The file.

    Returns
    -------
    np.ndarray
        uint8, C-contiguous and writable, of the shape that the header gives.

    Raises
    ------
    DataError
        If the file cannot be read, is not IDX, holds another type than uint8, is shorter or
        longer than its header says, or is damaged gzip.
    """
    return read_idx_and_sha256(path)[0]


def read_idx_and_sha256(path: str | os.PathLike[str]) -> tuple[np.ndarray, str]:
    """Read as `read_idx` does; also return the SHA-256 (hex) of the uncompressed bytes."""
    path = Path(path)
    with _opened(path) as (stream, header, shape):
        return _read(stream, path, header, shape)


def read_idx_rows(path: str | os.PathLike[str], inputs: int) -> Iterator[np.ndarray]:
    """Yield the samples of a file that `read_idx` takes, in blocks; it may exceed the memory.

    That compressed data are damaged, shorter or longer than the header says shows at their end.

    Parameters
    ----------
    path : str or path-like
        The file: (n, inputs), or images of as many pixels.
    inputs : int
        The features that are needed.

    Yields
    ------
    np.ndarray
        (rows, inputs) uint8, C-contiguous.

    Raises
    ------
    DataError
        As `read_idx` does, or if the samples are of another size.
    """
    path = Path(path)
    with _opened(path) as (stream, _, shape):
        check_shape(shape, str(path), inputs)
        yield from blocks_of_stream(stream.read, shape, np.dtype(np.uint8), str(path))


@contextmanager
def _opened(path: Path) -> Iterator[tuple[_Stream, bytes, tuple[int, ...]]]:
    """Open a file and read its header; yield what follows, the header, and the shape it gives.

    The size of the file must allow for that: exactly, or where it is compressed, at most.
    """
    try:
        with damage_named(path), path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            compressed = file.read(2) == MAGIC
            file.seek(0)
            with gzip.GzipFile(fileobj=file) if compressed else nullcontext(file) as stream:
                header, shape = _read_header(stream, path)
                promised = len(header) + math.prod(shape)
                if compressed and promised > size * DEFLATE_RATIO:
                    raise _wrong_length(path, promised, "at most ", size * DEFLATE_RATIO)
                if not compressed and promised != size:
                    raise _wrong_length(path, promised, "", size)
                yield stream, header, shape
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def _read(
    stream: _Stream, path: Path, header: bytes, shape: tuple[int, ...]
) -> tuple[np.ndarray, str]:
    """Read the data and their hash, the header's bytes included."""
    promised = len(header) + math.prod(shape)
    digest = hashlib.sha256(header)
    data = bytearray(header)
    # One byte beyond the promise is enough to notice a longer file, or a bomb.
    while piece := stream.read(min(_PIECE, promised + 1 - len(data))):
        digest.update(piece)
        data += piece
    if len(data) < promised:
        raise _wrong_length(path, promised, "", len(data))
    if len(data) > promised:
        raise _wrong_length(path, promised, "at least ", len(data))
    values = np.frombuffer(data, np.uint8, offset=len(header))  # a view: no second copy
    return values.reshape(shape), digest.hexdigest()


def _read_header(stream: _Stream, path: Path) -> tuple[bytes, tuple[int, ...]]:
    """Read the header; return its bytes and the shape that it gives."""
    magic = stream.read(4)
    if len(magic) < 4:
        raise DataError(f"{path}: truncated: an IDX header has 8 bytes or more, it {len(magic)}")
    if magic[:2] != b"\0\0":
        raise DataError(f"{path}: not an IDX file: it starts with {magic.hex(' ')}, not 00 00")
    code, ndim = magic[2:]
    if code != _UINT8:
        found = _DTYPES.get(code, "an unknown type")
        raise DataError(f"{path}: holds {found} (type code {code}), where uint8 (8) is needed")
    if not 1 <= ndim <= _MAX_NDIM:
        raise DataError(f"{path}: has {ndim} dimensions, where 1 to {_MAX_NDIM} are possible")
    sizes = stream.read(4 * ndim)
    if len(sizes) < 4 * ndim:
        raise DataError(f"{path}: truncated: it ends within the sizes of its {ndim} dimensions")
    shape = struct.unpack(f">{ndim}I", sizes)
    if 0 in shape:
        raise DataError(f"{path}: is empty: its shape is {shape}")
    return magic + sizes, shape


def _wrong_length(path: Path, promised: int, hedge: str, found: int) -> DataError:
    kind = "truncated" if found < promised else "too long"
    return DataError(
        f"{path}: {kind}: the header promises {promised:,} bytes, the file holds {hedge}{found:,}"
    )
