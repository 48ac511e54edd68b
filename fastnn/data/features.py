"""The forms of features that engines take: an array, sparse rows, or a selection of rows."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fastnn.data.memory_maps import check_not_truncated
from fastnn.data.sparse import SparseRows, sums_of_longest
from fastnn.errors import DataError


@dataclass(frozen=True, eq=False)
class SelectedRows:
    """A selection of rows of features; rows are copied only when they are indexed.

    Attributes
    ----------
    source : ndarray (n, I) or SparseRows
        The features.
    rows : ndarray (m,) int64
        Indices of the selected rows, in order.
    """

    source: np.ndarray | SparseRows
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and of features."""
        return len(self.rows), self.source.shape[1]

    @property
    def dtype(self) -> np.dtype:
        """Data type of the source."""
        return self.source.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of a copy; for sparse rows, estimated from the mean of the source."""
        return self.source.nbytes // len(self.source) * len(self.rows)

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray | SparseRows:
        """Return a copy of some of the rows."""
        return self.source[self.rows[rows]]

    def max_entries(self, rows: int) -> int:
        """Return the largest number of entries in any `rows` rows, for a sparse source.

        A row may be selected several times, so this may exceed the number for the source.
        """
        return int(self._sums_of_longest[min(rows, len(self)) - 1])

    @cached_property
    def last_row(self) -> int:
        """The largest index; -1 if there is none."""
        return int(self.rows.max(initial=-1))

    @cached_property
    def _sums_of_longest(self) -> np.ndarray:
        assert isinstance(self.source, SparseRows)
        return sums_of_longest(self.source.counts[self.rows])


Features = np.ndarray | SparseRows | SelectedRows


def select_rows(x: Features, rows: np.ndarray) -> SelectedRows:
    """Return a selection of rows without copying them."""
    source, rows = (x.source, x.rows[rows]) if isinstance(x, SelectedRows) else (x, rows)
    return SelectedRows(source, np.ascontiguousarray(rows, np.int64))


def check_not_resized(x: Features, width: int, name: str = "x") -> None:
    """Raise a DataError if features were resized, or their file truncated, after their conversion.

    Kernels would read past the end of such an array, because they take its address.

    Parameters
    ----------
    x : ndarray, SparseRows or SelectedRows
        The features.
    width : int
        Number of features.
    name : str, default "x"
        Name in the message.
    """
    source = x.source if isinstance(x, SelectedRows) else x
    if isinstance(source, SparseRows):
        parts = [source.columns, source.values]
        is_same = len(source.columns) == len(source.values) == source.starts[-1]
    else:
        parts, is_same = [source], source.shape[1:] == (width,)
    if not is_same or (isinstance(x, SelectedRows) and x.last_row >= len(source)):
        raise DataError(f"{name} was resized while it was in use")
    for part in parts:
        check_not_truncated(part, name)


def to_dense(x: Features) -> np.ndarray:
    """Return features as an array; copy a selection or sparse rows, of one chunk at most."""
    x = x[:] if isinstance(x, SelectedRows) else x
    return x.toarray() if isinstance(x, SparseRows) else x
