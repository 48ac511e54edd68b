"""Reading ahead: rows of a file that is mapped are asked for before an epoch comes to them.

Without it the first touch of every page would wait for the disk. With it the disk reads a window
of rows while the engine computes with the one before. It is advice, which the system may leave
alone, and nothing but time depends on it.
"""

import ctypes
import mmap
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from fastnn.data.features import SelectedRows
from fastnn.data.maps import is_mapped
from fastnn.data.rows import Data
from fastnn.model.randomness import block_rows, window_rows
from fastnn.system.forks import setup_lock

if TYPE_CHECKING:
    from concurrent.futures import Executor

# Linux reads no more of a request than the disk takes at once, and leaves the rest.
REQUEST_BYTES = 2**18
# Asking for what the system has in its cache takes 4 to 10 % of an epoch. So if after the first
# blocks nothing was read, no more are asked for until something is.
FIRST_BLOCKS = 8


class ReadAhead:
    """Asks for the rows of an epoch, window by window and each block of rows once.

    It asks from a thread of its own, for the system takes 0.2 s to make room for a gigabyte. It
    does nothing for rows in memory, nor where the system takes no advice; and next to nothing as
    long as the system has the rows in its cache.

    Parameters
    ----------
    data : Data
    order : ndarray (n,) int64
        The rows in the order in which they are visited.
    """

    def __init__(self, data: Data, order: np.ndarray) -> None:
        rows, row_bytes = len(data.x), data.x.nbytes // len(data.x)
        self._block, self._window = block_rows(row_bytes), window_rows(rows, row_bytes)
        self._order = order
        x: Any = data.x
        self._chosen: np.ndarray | None = None
        if isinstance(x, SelectedRows):
            x, self._chosen = x.source, x.rows
        self._maps = [array for array in (x, data.targets) if is_mapped(array)]
        self._asked = np.zeros(-(-len(x) // self._block), bool)
        self._end = 0  # of the windows that have been looked at
        self._pool: Executor | None = None
        if self._maps and hasattr(mmap, "MADV_WILLNEED"):
            with setup_lock:
                from concurrent.futures import ThreadPoolExecutor

            self._pool, self._reads = ThreadPoolExecutor(1), _reads()

    def __enter__(self) -> "ReadAhead":
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def advance(self, position: int) -> None:
        """Ask for all up to a position of the order, and for the window that comes then."""
        if self._pool is None:
            return
        while self._end < min(position + self._window, len(self._order)):
            window = self._order[self._end : self._end + self._window]
            self._end += self._window
            try:
                self._pool.submit(self._ask, window)
            except RuntimeError:  # no thread can be started, or not any more: it is but advice
                self._pool = None
                return

    def _ask(self, window: np.ndarray) -> None:
        """Ask for the blocks of these rows that have not been asked for."""
        if self._chosen is not None:
            window = self._chosen[window]
        new = np.zeros(len(self._asked), bool)
        new[window // self._block] = True
        for number in np.flatnonzero(new & ~self._asked).tolist():
            if np.count_nonzero(self._asked) >= FIRST_BLOCKS and _reads() == self._reads:
                return  # all was there
            self._asked[number] = True
            for array in self._maps:
                _ask_for(array[number * self._block : (number + 1) * self._block])


def _ask_for(rows: np.ndarray) -> None:
    """Ask for rows of a map."""
    ask = _madvise()
    start = rows.__array_interface__["data"][0]
    stop = start + rows.nbytes
    for at in range(start - start % mmap.PAGESIZE, stop, REQUEST_BYTES):
        ask(at, min(REQUEST_BYTES, stop - at))


def _reads() -> int:
    """Return how much has been read from disks for this process, in no unit: it rises or not."""
    import resource  # not on Windows, which takes no advice

    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_inblock + usage.ru_majflt


@cache
def _madvise() -> Callable[[int, int], object]:
    """Return the system's function that asks for bytes at an address, or one that does nothing.

    Not that of `mmap.mmap`, which keeps all other Python threads waiting.
    """
    try:
        madvise = ctypes.CDLL(None).madvise
    except (AttributeError, OSError):  # of a Python that loads no libraries
        return lambda start, length: None
    madvise.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    return lambda start, length: madvise(start, length, mmap.MADV_WILLNEED)
