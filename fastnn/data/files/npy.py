"""Arrays in NumPy's .npy format: the header, which is not believed, and rows in blocks."""

import io
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastnn.data.files.samples import blocks_of_array, blocks_of_stream, check_shape
from fastnn.errors import DataError

HEADER_LIMIT = 1 << 16  # bytes; more than any header of a plain array


class Header(NamedTuple):
    """What a .npy header says of the array, and the offset at which its data start."""

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype
    start: int

    def check_size(self, size: int, name: str) -> None:
        """Raise a DataError unless header and data are of so many bytes together."""
        promised = self.start + math.prod(self.shape) * self.dtype.itemsize
        if size != promised:
            raise DataError(f"{name}: its header promises {promised:,} bytes, it has {size:,}")


def parse_header(data: bytes, name: str) -> Header:
    """Parse the first `HEADER_LIMIT` bytes of a .npy file.

    Raises
    ------
    DataError
        If that is no header, or the array is empty or does not hold real numbers; `name` stands
        first in the message.
    """
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        readers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        shape, fortran_order, dtype = readers[version](file)
    except Exception as error:  # whatever tokenize, literal_eval and numpy.dtype raise
        raise DataError(f"{name}: is not a plain array in NumPy's .npy format") from error
    if dtype.hasobject:
        raise DataError(f"{name}: holds Python objects, which are never unpickled; save numbers")
    if dtype.kind not in "biuf":
        raise DataError(f"{name}: holds {dtype}, where integers or floating point are needed")
    if min(shape, default=1) < 1:
        raise DataError(f"{name}: is empty: its shape is {shape}")
    return Header(shape, fortran_order, dtype, file.tell())


def read_npy(path: str | os.PathLike[str], inputs: int) -> Iterator[np.ndarray]:
    """Yield the samples of a .npy file, (n, inputs) or images of as many pixels, in blocks.

    It may be larger than the memory, and is never unpickled. An array that lies column by column
    is mapped into memory; others are read block by block, for the pages of a map would count as
    the process's own until the system wants them back.

    Yields
    ------
    np.ndarray
        (rows, inputs), uint8 or float32, C-contiguous.

    Raises
    ------
    DataError
        If the file cannot be read, is not what its header says to the last byte, holds something
        else than real numbers or samples of another size, or a row is not finite in float32.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            header = parse_header(file.read(HEADER_LIMIT), str(path))
            header.check_size(os.fstat(file.fileno()).st_size, str(path))
            check_shape(header.shape, str(path), inputs)
            if not header.fortran_order:
                file.seek(header.start)
                yield from blocks_of_stream(file.read, header.shape, header.dtype, str(path))
                return
            array = np.memmap(file, header.dtype, "r", header.start, header.shape, "F")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    yield from blocks_of_array(np.asarray(array), str(path))
