"""The forms in which engines take features: an array, sparse rows, or some rows of either."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fastnn.data.maps import check_file
from fastnn.data.sparse import SparseRows, entries_of_longest
from fastnn.errors import DataError


@dataclass(frozen=True, eq=False)
class SelectedRows:
    """Some rows of features, which stay where they are: nothing is copied but on demand.

    Attributes
    ----------
    source : ndarray (n, I) or SparseRows
    rows : ndarray (m,) int64
        The rows of the source, in this order.
    """

    source: np.ndarray | SparseRows
    rows: np.ndarray

    ndim = 2

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and features."""
        return len(self.rows), self.source.shape[1]

    @property
    def dtype(self) -> np.dtype:
        """Of the source."""
        return self.source.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the rows, were they copied: of sparse ones, of as many as there are."""
        return self.source.nbytes // len(self.source) * len(self.rows)

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray | SparseRows:
        """Return a copy of some of the rows."""
        return self.source[self.rows[rows]]

    def max_entries(self, rows: int) -> int:
        """Return how many entries so many rows of a sparse source have at most.

        The same row may be there several times, and so it may be more than of the source.
        """
        return int(self._longest_rows[min(rows, len(self)) - 1])

    @cached_property
    def last_row(self) -> int:
        """The largest selected row number of the source; -1 if there is none."""
        return int(self.rows.max(initial=-1))

    @cached_property
    def _longest_rows(self) -> np.ndarray:
        assert isinstance(self.source, SparseRows)
        return entries_of_longest(self.source.counts[self.rows])


Features = np.ndarray | SparseRows | SelectedRows


def select_rows(x: Features, rows: np.ndarray) -> SelectedRows:
    """Return some rows of features, uncopied."""
    source, rows = (x.source, x.rows[rows]) if isinstance(x, SelectedRows) else (x, rows)
    return SelectedRows(source, np.ascontiguousarray(rows, np.int64))


def check_not_resized(x: Features, width: int, name: str = "x") -> None:
    """Raise a DataError if features were resized, or their file cut short, since their check.

    Kernels read by address, and would read past the end of the array.

    Parameters
    ----------
    x : ndarray, SparseRows or SelectedRows
    width : int
        The number of features.
    """
    source = x.source if isinstance(x, SelectedRows) else x
    if isinstance(source, SparseRows):
        parts = [source.columns, source.values]
        whole = len(source.columns) == len(source.values) == source.starts[-1]
    else:
        parts, whole = [source], source.shape[1:] == (width,)
    if not whole or (isinstance(x, SelectedRows) and x.last_row >= len(source)):
        raise DataError(f"{name} was resized while it was in use")
    for part in parts:
        check_file(part, name)


def to_dense(x: Features) -> np.ndarray:
    """Return features as an array; of sparse or selected ones a copy, for a chunk of rows."""
    x = x[:] if isinstance(x, SelectedRows) else x
    return x.toarray() if isinstance(x, SparseRows) else x
