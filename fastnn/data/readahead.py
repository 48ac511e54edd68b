"""Read ahead: request rows of a memory-mapped file before an epoch uses them.

Without it, the first access to every page would wait for the disk. With it, the disk reads a
window of rows while the engine computes with the previous one. Requests are advice that the system
may ignore; only the time depends on them.
"""

import ctypes
import mmap
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from fastnn.data.features import SelectedRows
from fastnn.data.memory_maps import is_mapped
from fastnn.data.rows import Data
from fastnn.model.randomness import block_rows, window_rows
from fastnn.system.forks import setup_lock

if TYPE_CHECKING:
    from concurrent.futures import Executor

# Linux reads only the part of a request that the disk accepts at once, and drops the rest.
REQUEST_BYTES = 2**18
# Requests for cached pages take 4 to 10 % of an epoch. If the first blocks caused no read from the
# disk, no more are requested until the process reads something.
FIRST_BLOCKS = 8


class ReadAhead:
    """Request the rows of an epoch window by window, each block of rows at most once.

    A thread sends the requests, because the system takes 0.2 s to free a gigabyte of memory.
    Nothing is requested if the rows are in memory or the system accepts no advice, and only a few
    blocks if the rows are cached.

    Parameters
    ----------
    data : Data
        The rows.
    order : ndarray (n,) int64
        Indices of the rows in the order of use.
    """

    def __init__(self, data: Data, order: np.ndarray) -> None:
        rows, row_bytes = len(data.x), data.x.nbytes // len(data.x)
        self._block, self._window = block_rows(row_bytes), window_rows(rows, row_bytes)
        self._order = order
        x: Any = data.x
        self._selected: np.ndarray | None = None
        if isinstance(x, SelectedRows):
            x, self._selected = x.source, x.rows
        self._maps = [array for array in (x, data.targets) if is_mapped(array)]
        self._requested = np.zeros(-(-len(x) // self._block), bool)
        self._end = 0  # of the windows that were submitted
        self._pool: Executor | None = None
        if self._maps and hasattr(mmap, "MADV_WILLNEED"):
            with setup_lock:
                from concurrent.futures import ThreadPoolExecutor

            self._pool, self._reads = ThreadPoolExecutor(1), _count_reads()

    def __enter__(self) -> "ReadAhead":
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def advance(self, position: int) -> None:
        """Request all rows up to a position in the order, and the window after it."""
        if self._pool is None:
            return
        while self._end < min(position + self._window, len(self._order)):
            window = self._order[self._end : self._end + self._window]
            self._end += self._window
            try:
                self._pool.submit(self._request, window)
            except RuntimeError:  # no thread can be started: the interpreter ends, or a limit
                self._pool = None
                return

    def _request(self, window: np.ndarray) -> None:
        """Request the blocks of a window of rows, except those that were requested before."""
        if self._selected is not None:
            window = self._selected[window]
        new = np.zeros(len(self._requested), bool)
        new[window // self._block] = True
        for number in np.flatnonzero(new & ~self._requested).tolist():
            first_blocks = np.count_nonzero(self._requested) < FIRST_BLOCKS
            if not first_blocks and _count_reads() == self._reads:
                return  # the blocks so far were cached
            self._requested[number] = True
            for array in self._maps:
                _request_rows(array[number * self._block : (number + 1) * self._block])


def _request_rows(rows: np.ndarray) -> None:
    madvise = _madvise()
    start = rows.__array_interface__["data"][0]
    stop = start + rows.nbytes
    for address in range(start - start % mmap.PAGESIZE, stop, REQUEST_BYTES):
        madvise(address, min(REQUEST_BYTES, stop - address))


def _count_reads() -> int:
    """Return a number that grows whenever this process reads from a disk."""
    import resource  # not on Windows, which accepts no advice

    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_inblock + usage.ru_majflt


@cache
def _madvise() -> Callable[[int, int], object]:
    """Return the system's madvise(address, length), or a function that does nothing.

    `mmap.mmap.madvise` is not used, because it blocks all other Python threads.
    """
    try:
        madvise = ctypes.CDLL(None).madvise
    except (AttributeError, OSError):  # this Python cannot load libraries
        return lambda start, length: None
    madvise.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    return lambda start, length: madvise(start, length, mmap.MADV_WILLNEED)
