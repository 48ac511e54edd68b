"""Samples read from files: checks on their shape and values, blocks of rows, and error messages.

A file may be larger than memory. Readers therefore yield blocks of rows: arrays (rows, features),
uint8 or finite float32, C-contiguous.
"""

import gzip
import math
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

import numpy as np

from fastnn.errors import DataError

BinaryStream = IO[bytes] | gzip.GzipFile

BLOCK_ROWS, BLOCK_BYTES = 4096, 1 << 22  # limits of a block; a block has at least one row


@contextmanager
def prefix_errors(name: object) -> Iterator[None]:
    """Put a name in front of the message of a DataError."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{name}: {error}") from error


@contextmanager
def file_errors(path: object) -> Iterator[None]:
    """Turn all errors of reading a file into a DataError whose message starts with its path."""
    with prefix_errors(path):
        try:
            yield
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataError(f"is damaged gzip: {error}") from error
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror or error}") from error


def check_shape(shape: tuple[int, ...], inputs: int | None = None) -> None:
    """Raise a DataError unless an array of this shape holds samples.

    Parameters
    ----------
    shape : tuple of int
        Shape of the array. It must have two dimensions or more; each sample is flattened.
    inputs : int, optional
        Number of features that a sample must have.
    """
    if len(shape) < 2:
        raise DataError(f"has the shape {shape}, expected (n, {inputs or 'features'})")
    if inputs is not None and (features := math.prod(shape[1:])) != inputs:
        raise DataError(f"has {features} features per row, but the model takes {inputs}")


def as_samples(array: np.ndarray, first: int = 0, noun: str = "row") -> np.ndarray:
    """Return samples as a C-contiguous (n, features) array of uint8 or float32.

    Parameters
    ----------
    array : ndarray (n, ...)
        Real numbers, two dimensions or more. uint8 stays uint8; other dtypes become float32.
    first : int, default 0
        Number of the first row, for the error message.
    noun : str, default "row"
        The error message's word for a row, such as "line".

    Returns
    -------
    ndarray (n, features)
        The same array if it has this form already.

    Raises
    ------
    DataError
        If a number is not finite in float32.
    """
    dtype = np.uint8 if array.dtype == np.uint8 else np.float32
    with np.errstate(over="ignore"):  # the check below reports the row
        x = np.require(array.reshape(len(array), -1), dtype, ["C", "A"])
    if dtype is np.float32 and (bad := np.flatnonzero(~np.isfinite(x).all(axis=1))).size:
        raise DataError(f"{noun} {first + bad[0]} has NaN, infinity or a number beyond float32")
    return x


def blocks_of_array(array: np.ndarray) -> Iterator[np.ndarray]:
    """Yield an array, which may be memory-mapped, in blocks of samples."""
    step = _block_rows(array.nbytes // len(array))
    for first in range(0, len(array), step):
        yield as_samples(array[first : first + step], first)


def blocks_of_stream(
    read: Callable[[int], bytes], shape: tuple[int, ...], dtype: np.dtype
) -> Iterator[np.ndarray]:
    """Yield the rest of a file in blocks of samples.

    Parameters
    ----------
    read : callable
        Returns the requested number of bytes, or fewer at the end of the file.
    shape : tuple of int
        Shape of the array that follows in C order, two dimensions or more.
    dtype : dtype
        Data type of the array.

    Raises
    ------
    DataError
        If the file is shorter or longer than the array, or a number is not finite in float32.
    """
    row_bytes = math.prod(shape[1:]) * dtype.itemsize
    step = _block_rows(row_bytes)
    for first in range(0, shape[0], step):
        rows = min(step, shape[0] - first)
        data = read(rows * row_bytes)
        if len(data) < rows * row_bytes:
            last = first + len(data) // row_bytes
            raise DataError(f"is truncated: it ends in row {last} of {shape[0]:,}")
        yield as_samples(np.frombuffer(data, dtype).reshape(rows, -1), first)
    if read(1):
        raise DataError(f"is too long: its header promises {shape[0]:,} rows, but more data follow")


def _block_rows(row_bytes: int) -> int:
    return max(1, min(BLOCK_ROWS, BLOCK_BYTES // row_bytes))
