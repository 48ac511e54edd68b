"""Features that are mostly zero, in the form that engines take: compressed sparse rows (CSR)."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fastnn.errors import DataError

COLUMNS_CHANGED = "x was changed while it was in use: its columns no longer increase in each row"


@dataclass(frozen=True, eq=False)
class SparseRows:
    """Features (n, I) as compressed sparse rows, with the basic interface of a float32 array.

    Attributes
    ----------
    starts : ndarray (n + 1,), int64
        Index of each row's first entry, then the number of entries.
    columns : ndarray (entries,), int32
        Columns of the entries, from 0 to I - 1, increasing in each row.
    values : ndarray (entries,), float32
        Values of the entries.
    width : int
        I, the number of features.
    """

    starts: np.ndarray
    columns: np.ndarray
    values: np.ndarray
    width: int

    dtype = np.dtype(np.float32)

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and of features."""
        return len(self), self.width

    @property
    def nbytes(self) -> int:
        """Bytes of all entries."""
        return self.columns.nbytes + self.values.nbytes

    @cached_property
    def counts(self) -> np.ndarray:
        """Number of entries of each row, (n,) int64."""
        return np.diff(self.starts)

    def __getitem__(self, rows: np.ndarray | slice) -> "SparseRows":
        """Return a copy of some rows."""
        counts = self.counts[rows]
        starts = np.concatenate([[0], np.cumsum(counts)])
        # Index of each entry: its row's start, plus its position in the row.
        index = np.repeat(self.starts[:-1][rows] - starts[:-1], counts) + np.arange(starts[-1])
        return SparseRows(starts, self.columns[index], self.values[index], self.width)

    def toarray(self) -> np.ndarray:
        """Return the rows as a dense array (n, I) float32; meant for a chunk of rows.

        Raises
        ------
        DataError
            If the columns of a row do not increase, or are not from 0 to I - 1.
        """
        index = np.repeat(np.arange(len(self)) * self.width, self.counts) + self.columns
        array = np.zeros(self.shape, np.float32)
        in_range = self.columns.min(initial=0) >= 0 and self.columns.max(initial=0) < self.width
        if not in_range or not (np.diff(index) > 0).all():
            raise DataError(COLUMNS_CHANGED)
        array.ravel()[index] = self.values
        return array

    def max_entries(self, rows: int) -> int:
        """Return the largest number of entries in any `rows` rows."""
        return int(self._sums_of_longest[min(rows, len(self)) - 1])

    @cached_property
    def _sums_of_longest(self) -> np.ndarray:
        return sums_of_longest(self.counts)


def sums_of_longest(counts: np.ndarray) -> np.ndarray:
    """Return the number of entries of the longest row, of the two longest rows, and so on.

    Parameters
    ----------
    counts : ndarray (n,) int64
        Number of entries of each row.
    """
    return np.sort(counts)[::-1].cumsum()
