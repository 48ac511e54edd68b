"""The data of a fit or an evaluation: features, targets and sample weights."""

from typing import NamedTuple

import numpy as np

from fastnn.data.features import Features, check_not_resized
from fastnn.data.memory_maps import check_not_truncated
from fastnn.errors import DataError


class Data(NamedTuple):
    """Rows to train or evaluate on, in the form that engines take.

    Attributes
    ----------
    x : ndarray (n, I), SparseRows or SelectedRows
        Features, uint8 or float32, C-contiguous.
    targets : ndarray (n,) int32 or (n, O) float32
        Class labels, or targets of the outputs (`fastnn.model.losses.Loss.takes_labels`).
    weights : ndarray (n,) float32, optional
        Sample weight of each row.
    """

    x: Features
    targets: np.ndarray
    weights: np.ndarray | None = None

    def take(self, rows: np.ndarray | slice) -> "Data":
        """Return some rows; an array of indices copies them."""
        weights = None if self.weights is None else self.weights[rows]
        return Data(self.x[rows], self.targets[rows], weights)

    def check_not_resized(self, width: int, rows: int | None = None) -> None:
        """Raise a DataError if an array was resized, or its file truncated, after its conversion.

        Parameters
        ----------
        width : int
            Number of features.
        rows : int, optional
            Number of rows.
        """
        x, targets = self.x, self.targets
        n = len(targets)
        if rows in (None, n) and type(x) is np.ndarray and x.shape == (n, width):
            if x.base is targets.base is None:
                return  # the usual case; this method is called every few batches
        check_not_resized(x, width)
        if len(targets) != len(x) or (rows is not None and rows != len(x)):
            raise DataError("x or y was resized while it was in use")
        check_not_truncated(targets, "y")

    @property
    def total_weight(self) -> float:
        """Sum of the sample weights, or the number of rows: the denominator of a mean loss."""
        return len(self.x) if self.weights is None else float(self.weights.sum(dtype=np.float64))
