"""Split rows into a training part and a validation part."""

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
    """Split data in two; the second part has a fraction of the rows, rounded up.

    The split is stratified by class, unless a class has a single row or a part has fewer rows than
    there are classes. Rows of weight 0 all go into the first part, and the fraction is of the
    other rows. If that is one row, the second part has two, which R² needs, provided that two or
    more would be split off if all rows had weight.

    Raises
    ------
    ValueError
        If the fraction is not between 0 and 1.
    DataError
        If no rows are left to train on.
    """
    with setup_lock:  # fork() waits for the import: a child could not finish it
        from sklearn.model_selection import train_test_split

    if not isinstance(fraction, Real) or not 0 < fraction < 1:
        raise ValueError(f"validation_fraction must be between 0 and 1, got {fraction!r}")
    counted = np.arange(len(data.x)) if data.weights is None else np.flatnonzero(data.weights)
    rows, n_kept = len(counted), math.ceil(fraction * len(counted))
    if rows < len(data.x):
        n_kept = max(n_kept, min(2, math.ceil(fraction * len(data.x)), rows - 1))
    if n_kept >= rows:
        weighing = "" if rows == len(data.x) else " that have weight"
        raise DataError(
            f"a validation_fraction of {fraction!r} leaves 0 of {rows:,} rows{weighing} to train on"
        )
    stratify = data.targets[counted] if has_classes(loss, data.targets) else None
    if stratify is not None:
        counts = np.unique(stratify, return_counts=True)[1]
        if counts.min() < 2 or len(counts) > min(n_kept, rows - n_kept):
            stratify = None
    parts = train_test_split(
        counted, test_size=n_kept, random_state=seed % 2**32, stratify=stratify
    )
    if rows < len(data.x):
        parts[0] = np.concatenate([parts[0], np.flatnonzero(data.weights == 0)])
    if data.x.nbytes > WHOLE_BYTES:
        parts = [np.sort(part) for part in parts]  # so that blocks of rows lie together
    return _part_of(data, parts[0]), _part_of(data, parts[1])


def _part_of(data: Data, rows: np.ndarray) -> Data:
    """Return some rows; their features are not copied, and may stay in a file."""
    weights = None if data.weights is None else data.weights[rows]
    return Data(select_rows(data.x, rows), data.targets[rows], weights)
