"""Split data into a training part and a validation part."""

import math
from numbers import Real

import numpy as np

from fastnn.data.conversion import has_classes
from fastnn.data.features import select_rows
from fastnn.data.rows import Data
from fastnn.errors import DataError
from fastnn.model.losses import Loss
from fastnn.model.randomness import WHOLE_BYTES
from fastnn.system.forks import setup_lock


def split(data: Data, fraction: float, loss: Loss, seed: int) -> tuple[Data, Data]:
    """Split data into a training part and a validation part, without copying features.

    The validation part has a fraction of the rows, rounded up. The split is stratified by class,
    unless a class has a single row or a part has fewer rows than there are classes.

    All rows of sample weight 0 go to the training part, and the fraction refers to the other rows.
    R² needs two rows: if the fraction of the rows with weight is a single row, but the fraction of
    all rows is more than one, the validation part has two rows. At least one row with weight
    remains in the training part.

    Parameters
    ----------
    data : Data
        The rows.
    fraction : float
        Fraction of the rows to validate on, between 0 and 1.
    loss : Loss
        The loss, which decides whether rows belong to classes.
    seed : int
        Seed of the split.

    Raises
    ------
    ValueError
        If the fraction is not between 0 and 1.
    DataError
        If no rows remain to train on.
    """
    with setup_lock:  # a fork during the import would leave it half done in the child
        from sklearn.model_selection import train_test_split

    if not isinstance(fraction, Real) or not 0 < fraction < 1:
        raise ValueError(f"validation_fraction must be between 0 and 1, got {fraction!r}")
    counted = np.arange(len(data.x)) if data.weights is None else np.flatnonzero(data.weights)
    rows, n_validation = len(counted), math.ceil(fraction * len(counted))
    if rows < len(data.x):
        n_validation = max(n_validation, min(2, math.ceil(fraction * len(data.x)), rows - 1))
    if n_validation >= rows:
        condition = "" if rows == len(data.x) else " that have weight"
        raise DataError(
            f"a validation_fraction of {fraction!r} leaves 0 of {rows:,} rows{condition} to train "
            "on"
        )
    stratify = data.targets[counted] if has_classes(loss, data.targets) else None
    if stratify is not None:
        counts = np.unique(stratify, return_counts=True)[1]
        if counts.min() < 2 or len(counts) > min(n_validation, rows - n_validation):
            stratify = None
    parts = train_test_split(
        counted, test_size=n_validation, random_state=seed % 2**32, stratify=stratify
    )
    if rows < len(data.x):
        parts[0] = np.concatenate([parts[0], np.flatnonzero(data.weights == 0)])
    if data.x.nbytes > WHOLE_BYTES:
        parts = [np.sort(part) for part in parts]  # so that blocks of rows are read together
    return _select(data, parts[0]), _select(data, parts[1])


def _select(data: Data, rows: np.ndarray) -> Data:
    """Return some rows without copying their features, which may be in a file."""
    weights = None if data.weights is None else data.weights[rows]
    return Data(select_rows(data.x, rows), data.targets[rows], weights)
