"""Rows to learn from or to be judged by: features, targets and weights."""

from typing import NamedTuple

import numpy as np

from fastnn.data.features import Features, check_not_resized
from fastnn.data.maps import check_file
from fastnn.errors import DataError


class Data(NamedTuple):
    """Rows to learn from or to be judged by, as engines take them.

    Attributes
    ----------
    x : ndarray (n, I), uint8 or float32, C-contiguous; or SparseRows, or SelectedRows of either
    targets : ndarray (n,) int32 or (n, O) float32
        Class numbers, or what the outputs should be (`fastnn.model.losses.Loss.takes_labels`).
    weights : ndarray (n,) float32, optional
        How much each row counts.
    """

    x: Features
    targets: np.ndarray
    weights: np.ndarray | None = None

    def take(self, rows: np.ndarray | slice) -> "Data":
        """Return some rows."""
        weights = None if self.weights is None else self.weights[rows]
        return Data(self.x[rows], self.targets[rows], weights)

    def check_not_resized(self, width: int, rows: int | None = None) -> None:
        """Raise a DataError if an array was resized, or its file cut short, since it was checked.

        `width` is the number of features, `rows` the length of an epoch's order.
        """
        x, targets = self.x, self.targets
        n = len(targets)
        if rows in (None, n) and type(x) is np.ndarray and x.shape == (n, width):
            if x.base is targets.base is None:
                return  # as most data are: this is called for every few batches
        check_not_resized(x, width)
        if len(targets) != len(x) or (rows is not None and rows != len(x)):
            raise DataError("x or y was resized while it was in use")
        check_file(targets, "y")

    @property
    def total_weight(self) -> float:
        """What a sum of weighted losses is divided by, to be their mean."""
        return len(self.x) if self.weights is None else float(self.weights.sum(dtype=np.float64))
