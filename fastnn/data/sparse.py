"""Rows of features that are mostly zero, in the form that engines take: compressed sparse rows."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fastnn.errors import DataError

COLUMNS_CHANGED = "x was changed while it was in use: its columns no longer increase in each row"


@dataclass(frozen=True, eq=False)
class SparseRows:
    """Features (n, I) of which only those that are given are not zero (CSR).

    It answers as an array of float32 does where the two are treated alike.

    Attributes
    ----------
    starts : ndarray (n + 1,), int64
        Where each row's entries begin, and where the last row's end.
    columns : ndarray (entries,), int32
        Increasing in each row, from 0 to I - 1.
    values : ndarray (entries,), float32
    width : int
        I, the number of features.
    """

    starts: np.ndarray
    columns: np.ndarray
    values: np.ndarray
    width: int

    ndim = 2
    dtype = np.dtype(np.float32)

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and features."""
        return len(self), self.width

    @property
    def nbytes(self) -> int:
        """Bytes that the entries take."""
        return self.columns.nbytes + self.values.nbytes

    @cached_property
    def counts(self) -> np.ndarray:
        """Entries of each row, (n,) int64."""
        return np.diff(self.starts)

    def __getitem__(self, rows: np.ndarray | slice) -> "SparseRows":
        """Return a copy of some rows."""
        counts = self.counts[rows]
        starts = np.concatenate([[0], np.cumsum(counts)])
        # Each entry's place: its row's start, and how many of that row are before it.
        places = np.repeat(self.starts[:-1][rows] - starts[:-1], counts) + np.arange(starts[-1])
        return SparseRows(starts, self.columns[places], self.values[places], self.width)

    def toarray(self) -> np.ndarray:
        """Return the rows as a dense array (n, I) float32; meant for a chunk of rows.

        Raises
        ------
        DataError
            If the columns of a row do not increase, from 0 to below I.
        """
        places = np.repeat(np.arange(len(self)) * self.width, self.counts) + self.columns
        array = np.zeros(self.shape, np.float32)
        in_range = self.columns.min(initial=0) >= 0 and self.columns.max(initial=0) < self.width
        if not in_range or not (np.diff(places) > 0).all():
            raise DataError(COLUMNS_CHANGED)
        array.ravel()[places] = self.values
        return array

    def max_entries(self, rows: int) -> int:
        """Return how many entries so many rows, whichever they are, have at most."""
        return int(self._longest_rows[min(rows, len(self)) - 1])

    @cached_property
    def _longest_rows(self) -> np.ndarray:
        """The entries of the longest row, of the two longest, and so on."""
        return entries_of_longest(self.counts)


def entries_of_longest(counts: np.ndarray) -> np.ndarray:
    """Return, of rows with so many entries each, those of the longest, of the two longest, ..."""
    return np.sort(counts)[::-1].cumsum()
