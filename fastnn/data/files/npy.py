"""Read arrays in NumPy's .npy format: the header, and the rows in blocks. Never unpickles."""

import io
import math
import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from fastnn.data.files.samples import blocks_of_array, blocks_of_stream, check_shape, file_errors
from fastnn.errors import DataError

HEADER_LIMIT = 1 << 16  # bytes; more than the header of any plain array


class Header(NamedTuple):
    """The header of a .npy file; `start` is the offset of the data in bytes."""

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype
    start: int

    def check_size(self, size: int) -> None:
        """Raise a DataError unless the header and the data have `size` bytes in all."""
        promised = self.start + math.prod(self.shape) * self.dtype.itemsize
        if size != promised:
            raise DataError(f"its header promises {promised:,} bytes, but it has {size:,}")


def parse_header(data: bytes) -> Header:
    """Parse a header.

    Parameters
    ----------
    data : bytes
        The first `HEADER_LIMIT` bytes of a .npy file.

    Raises
    ------
    DataError
        If the bytes are not a header, or the array is empty or has no real numbers.
    """
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        shape, fortran_order, dtype = read[version](file)
    except Exception as error:  # tokenize, literal_eval and numpy.dtype raise many types
        raise DataError("is not a plain array in NumPy's .npy format") from error
    if dtype.hasobject:
        raise DataError("has Python objects, which are never unpickled: save an array of numbers")
    if dtype.kind not in "biuf":
        raise DataError(f"has the dtype {dtype}, expected integers or floating-point numbers")
    if min(shape, default=1) < 1:
        raise DataError(f"is empty: its shape is {shape}")
    return Header(shape, fortran_order, dtype, file.tell())


def read_npy(path: str | os.PathLike[str], inputs: int) -> Iterator[np.ndarray]:
    """Yield the samples of a .npy file in blocks; the file may be larger than memory.

    Parameters
    ----------
    path : str or path-like
        File of an array (n, inputs), or of images of `inputs` pixels.
    inputs : int
        Number of features that the model takes.

    Yields
    ------
    ndarray (rows, inputs)
        uint8 or float32, C-contiguous.

    Raises
    ------
    DataError
        If the file cannot be read, its size differs from the size that its header gives, the
        samples have a different number of features, or a number is not real or not finite in
        float32.
    """
    with file_errors(path), open(path, "rb") as file:
        header = parse_header(file.read(HEADER_LIMIT))
        header.check_size(os.fstat(file.fileno()).st_size)
        check_shape(header.shape, inputs)
        if header.fortran_order:
            array = np.memmap(file, header.dtype, "r", header.start, header.shape, "F")
            yield from blocks_of_array(np.asarray(array))
        else:  # not mapped: mapped pages would count as memory of this process
            file.seek(header.start)
            yield from blocks_of_stream(file.read, header.shape, header.dtype)
