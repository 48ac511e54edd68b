"""What rows of samples may be, and how they are read a block at a time.

Files need not fit into memory: what is read from them comes in blocks of rows, (n, features),
uint8 or finite float32, C-contiguous.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np

from fastnn.errors import DataError

BLOCK_ROWS, BLOCK_BYTES = 4096, 1 << 22  # of a block, whichever is less; but a row at least


def check_shape(shape: tuple[int, ...], name: str, inputs: int | None = None) -> None:
    """Raise a DataError unless an array of this shape holds samples, of so many features.

    Parameters
    ----------
    shape : tuple of int
        Of rank 2, or more: then each sample will be flattened.
    name : str
        Stands first in the message.
    inputs : int, optional
        The features that are needed.
    """
    if len(shape) < 2:
        raise DataError(
            f"{name}: has the shape {shape}, where (n, {inputs or 'features'}) is needed"
        )
    if inputs is not None and (features := math.prod(shape[1:])) != inputs:
        raise DataError(f"{name}: has {features} features a row, where the model takes {inputs}")


def as_samples(array: np.ndarray, name: str, first: int = 0, unit: str = "row") -> np.ndarray:
    """Flatten to (n, features), uint8 or finite float32, C-contiguous; a copy only where needed.

    Parameters
    ----------
    array : np.ndarray
        Real numbers, of rank 2 or more; uint8 stays as it is.
    name : str
        Stands first in the message.
    first : int, default 0
        The number of its first row.
    unit : str, default "row"
        What is numbered.

    Raises
    ------
    DataError
        If a row is not finite in float32.
    """
    dtype = np.uint8 if array.dtype == np.uint8 else np.float32
    with np.errstate(over="ignore"):  # found below, with its row
        x = np.require(array.reshape(len(array), -1), dtype, ["C", "A"])
    if dtype is np.float32 and (bad := np.flatnonzero(~np.isfinite(x).all(axis=1))).size:
        raise DataError(
            f"{name}: {unit} {first + bad[0]} holds NaN, infinity or a number beyond float32"
        )
    return x


def blocks_of_array(array: np.ndarray, name: str) -> Iterator[np.ndarray]:
    """Yield an array, which may be a memory map, in blocks of samples as `as_samples` has them."""
    step = _block_rows(array.nbytes // len(array))
    for first in range(0, len(array), step):
        yield as_samples(array[first : first + step], name, first)


def blocks_of_stream(
    read: Callable[[int], bytes], shape: tuple[int, ...], dtype: np.dtype, name: str
) -> Iterator[np.ndarray]:
    """Yield what is left of a file in blocks of samples, as `as_samples` has them.

    Parameters
    ----------
    read : callable
        Returns as many bytes as it is asked for, or as there are.
    shape : tuple of int
        Of what is left: of rank 2, or more.
    dtype : np.dtype
    name : str
        Stands first in messages.

    Raises
    ------
    DataError
        If the file ends early or late, or a row is not finite in float32.
    """
    row_bytes = math.prod(shape[1:]) * dtype.itemsize
    step = _block_rows(row_bytes)
    for first in range(0, shape[0], step):
        rows = min(step, shape[0] - first)
        data = read(rows * row_bytes)
        if len(data) < rows * row_bytes:
            ends = first + len(data) // row_bytes
            raise DataError(f"{name}: truncated: it ends in row {ends} of {shape[0]:,}")
        yield as_samples(np.frombuffer(data, dtype).reshape(rows, -1), name, first)
    if read(1):
        raise DataError(f"{name}: too long: it goes on after the {shape[0]:,} rows of its header")


def _block_rows(row_bytes: int) -> int:
    return max(1, min(BLOCK_ROWS, BLOCK_BYTES // row_bytes))
