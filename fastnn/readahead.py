"""Reading ahead: rows of a file that is mapped are asked for before an epoch comes to them.

Without it the first touch of every page would wait for the disk. With it the disk reads a window
of rows while the engine computes with the one before. It is advice, which the system may leave
alone, and nothing but time depends on it.
"""

import ctypes
import mmap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np

from fastnn.batches import Data
from fastnn.features import Features, SelectedRows
from fastnn.randomness import block_rows, window_rows

# Linux reads no more than this of one request, unless it is set up to read ahead further.
REQUEST_BYTES = 2**17


class ReadAhead:
    """Asks for the rows of an epoch, window by window and each block of rows once.

    It asks from a thread of its own, for the system takes 0.2 s a gigabyte to make room for what
    it is going to read. It does nothing for rows in memory, and where no advice is taken.

    Parameters
    ----------
    data : Data
    order : ndarray (n,) int64
        The rows in the order in which they are visited.
    """

    def __init__(self, data: Data, order: np.ndarray) -> None:
        x, rows = data.x, len(data.x)
        row_bytes = x.nbytes // rows
        self._block, self._window = block_rows(row_bytes), window_rows(rows, row_bytes)
        self._order, self._chosen = order, None
        if isinstance(x, SelectedRows):
            x, self._chosen = x.source, x.rows
        self._arrays = [array for array in (x, data.targets) if is_mapped(array)]
        self._asked = np.zeros(-(-len(x) // self._block), bool)
        self._end = 0  # of the windows that have been asked for
        self._pool = ThreadPoolExecutor(1)  # starts its thread with the first thing to do

    def __enter__(self) -> "ReadAhead":
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def advance(self, position: int) -> None:
        """Ask for all up to a position of the order, and for the window that comes then."""
        while self._arrays and self._end < min(position + self._window, len(self._order)):
            window = self._order[self._end : self._end + self._window]
            self._end += self._window
            self._pool.submit(self._ask, window)

    def _ask(self, window: np.ndarray) -> None:
        """Ask for the blocks of these rows that have not been asked for."""
        if self._asked.all():
            return
        if self._chosen is not None:
            window = self._chosen[window]
        new = np.zeros(len(self._asked), bool)
        new[window // self._block] = True
        new &= ~self._asked
        self._asked |= new
        for first, last in np.flatnonzero(np.diff(new, prepend=False, append=False)).reshape(-1, 2):
            for array in self._arrays:
                _ask_for(array[first * self._block : last * self._block])


def is_mapped(array: Features) -> bool:
    """Return whether rows lie in a map of a file, and the system takes advice on it."""
    owner: Any = array
    while isinstance(owner, np.ndarray | memoryview):
        owner = owner.base if isinstance(owner, np.ndarray) else owner.obj
    return isinstance(owner, mmap.mmap) and _madvise() is not None


def _ask_for(rows: np.ndarray) -> None:
    """Ask for rows of a map."""
    madvise = _madvise()
    start = rows.__array_interface__["data"][0]
    stop = start + rows.nbytes
    for at in range(start - start % mmap.PAGESIZE, stop, REQUEST_BYTES):
        madvise(at, min(REQUEST_BYTES, stop - at), mmap.MADV_WILLNEED)


@cache
def _madvise() -> Callable[[int, int, int], int] | None:
    """Return the system's madvise, if it has one: while Python's waits, so do all other threads."""
    if not hasattr(mmap, "MADV_WILLNEED"):
        return None
    try:
        madvise = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):  # of a Python that loads no libraries
        return None
    madvise.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    return madvise
