"""The door: a user's arrays become the few forms that the engines take, or one clear error.

Behind it features are C-contiguous uint8 or float32 and finite, and labels are int32 and in
range, so that the kernels compile once and need no checks.
"""

from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np

from fastnn.batches import Data
from fastnn.errors import DataError
from fastnn.losses import Loss

_BLOCK_ROWS = 4096  # rows checked at a time, so that checking allocates next to nothing


def as_data(
    x: Any,
    y: Any,
    inputs: int,
    outputs: int,
    loss: Loss,
    sample_weight: Any = None,
    class_weight: Any = None,
    name: str = "",
) -> Data:
    """Return rows to learn from or to be judged by, as engines take them.

    The functions below say what each part may be; `name` stands before theirs in an error.

    Raises
    ------
    DataError
        If an array cannot be used.
    ValueError
        If class weights are not what they should be, or the network has no classes.
    """
    features = as_features(x, inputs, f"{name}x")
    if loss.takes_labels:
        targets, n_classes = as_labels(y, len(features), outputs, f"{name}y"), outputs
    else:
        targets, n_classes = as_values(y, len(features), outputs, loss, f"{name}y"), 2
        if class_weight is not None and not has_classes(loss, targets):
            raise ValueError(
                "class_weight needs classes: cross_entropy, or one logistic output of 0 and 1"
            )
    weights = as_weights(sample_weight, class_weight, targets, n_classes, f"{name}sample_weight")
    return Data(features, targets, weights)


def has_classes(loss: Loss, targets: np.ndarray) -> bool:
    """Return whether every row is of one class: its label, or 0 or 1."""
    if loss.takes_labels:
        return True
    one_label = loss.link == "logistic" and targets.shape[1] == 1
    return one_label and bool(((targets == 0) | (targets == 1)).all())


def split(data: Data, fraction: float, loss: Loss, seed: int) -> tuple[Data, Data]:
    """Part data in two, the second with a share of the rows, of every class alike.

    Raises
    ------
    ValueError
        If the fraction is not between 0 and 1.
    DataError
        If there are too few rows, of a class or in all.
    """
    from sklearn.model_selection import train_test_split

    if not isinstance(fraction, Real) or not 0 < fraction < 1:
        raise ValueError(f"validation_fraction must be between 0 and 1, got {fraction!r}")
    stratify = data.targets if has_classes(loss, data.targets) else None
    rows = np.arange(len(data.x))
    try:
        parts = train_test_split(
            rows, test_size=fraction, random_state=seed % 2**32, stratify=stratify
        )
    except ValueError as error:
        raise DataError(f"a validation_fraction of {fraction!r} cannot be had: {error}") from None
    training, kept = data.taken(parts[0]), data.taken(parts[1])
    for part, name in ((training, "trained on"), (kept, "kept")):
        if part.total_weight == 0:
            raise DataError(f"a validation_fraction of {fraction!r}: all rows {name} weigh 0")
    return training, kept


def as_features(x: Any, n_features: int, name: str = "x", *, finite: bool = True) -> np.ndarray:
    """Return features as a C-contiguous (rows, n_features) array of uint8 or float32.

    uint8 stays as it is and is scaled on its way into the network; every other real dtype
    becomes float32. An array that is right already is returned without a copy. Whether all is
    finite is not checked where `finite` is false: engines do that as they predict.

    Raises
    ------
    DataError
        If the array is not 2-D with `n_features` columns, has no rows, does not hold real
        numbers, or holds a NaN or a value that is infinite in float32.
    """
    array = _as_array(x, name)
    if array.ndim != 2 or array.shape[1] != n_features:
        raise DataError(f"{name} must have shape (rows, {n_features}), got {array.shape}")
    if len(array) == 0:
        raise DataError(f"{name} has no rows")
    if array.dtype.kind not in "buif":
        raise DataError(f"{name} must hold real numbers, got dtype {array.dtype}")
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    features = array
    flags = array.flags
    if array.dtype != np.float32 or not (flags.c_contiguous and flags.aligned):
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is reported below
            features = np.require(array, np.float32, ["C_CONTIGUOUS", "ALIGNED"])
    if finite:
        check_finite(features, name)
    return features


def check_finite(features: np.ndarray, name: str) -> None:
    """Raise a DataError that names the first row of a 2-D array holding a NaN or an infinity."""
    if features.dtype.kind != "f":
        return
    for start in range(0, len(features), _BLOCK_ROWS):
        finite = np.isfinite(features[start : start + _BLOCK_ROWS])
        if not finite.all():
            row, column = np.argwhere(~finite)[0]
            value = features[start + row, column]
            raise DataError(
                f"{name} must be finite in float32, found {value} in row {start + row}, "
                f"column {column}"
            )


def as_labels(y: Any, rows: int, n_classes: int, name: str = "y") -> np.ndarray:
    """Return class labels as a contiguous (rows,) int32 array.

    Raises
    ------
    DataError
        If there is not one label for each row, or a label is not a whole number from 0 to
        ``n_classes - 1``.
    """
    array = _as_array(y, name)
    if array.ndim != 1:
        raise DataError(f"{name} must be one-dimensional, got shape {array.shape}")
    if len(array) != rows:
        raise DataError(f"{name} has {len(array):,} labels for {rows:,} rows")
    if array.dtype.kind not in "buif":
        raise DataError(f"{name} must hold class numbers, got dtype {array.dtype}")
    bad = ~((array >= 0) & (array < n_classes))  # so that NaN counts as bad
    if array.dtype.kind == "f":
        bad |= array != np.trunc(array)
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(
            f"{name} must hold whole numbers from 0 to {n_classes - 1}, "
            f"found {array[row]} in row {row}"
        )
    return np.require(array, np.int32, ["C_CONTIGUOUS", "ALIGNED"])


def as_values(y: Any, rows: int, outputs: int, loss: Loss, name: str = "y") -> np.ndarray:
    """Return what the outputs should be as a C-contiguous (rows, outputs) float32 array.

    One output takes an array (rows,) as well.

    Raises
    ------
    DataError
        If the shape is wrong, or a value is not finite or not one that the loss can take: from 0
        to 1 for "logistic", at least 0 for "poisson".
    """
    array = _as_array(y, name)
    if array.ndim == 1 and outputs == 1:
        array = array[:, None]
    if array.ndim != 2 or array.shape[1] != outputs:
        raise DataError(f"{name} must have shape (rows, {outputs}), got {array.shape}")
    if len(array) != rows:
        raise DataError(f"{name} has {len(array):,} rows for {rows:,} rows of features")
    if array.dtype.kind not in "buif":
        raise DataError(f"{name} must hold real numbers, got dtype {array.dtype}")
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.require(array, np.float32, ["C_CONTIGUOUS", "ALIGNED"])
    check_finite(values, name)
    low, high = {"logistic": (0, 1), "poisson": (0, np.inf)}.get(loss.name, (-np.inf, np.inf))
    if not low <= values.min() <= values.max() <= high:
        allowed = "from 0 to 1" if high == 1 else "of at least 0"
        bad = values[(values < low) | (values > high)][0]
        raise DataError(f"{name} must hold numbers {allowed} for this loss, found {bad:g}")
    return values


def as_weights(
    sample_weight: Any, class_weight: Any, targets: np.ndarray, n_classes: int, name: str
) -> np.ndarray | None:
    """Return how much each row counts, (rows,) float32; None where all count the same.

    Parameters
    ----------
    sample_weight : array (rows,) of numbers of at least 0, or None
    class_weight : dict of class number to weight, "balanced", or None
        "balanced" gives every class the same sum of weights; classes that a dict leaves out
        have weight 1.
    targets : ndarray (rows,) of class numbers, or (rows, 1) of 0 and 1
    n_classes : int
    name : str
        What the sample weights are called in an error.

    Raises
    ------
    DataError
        If the weights are not one number of at least 0 for each row, or all are 0.
    ValueError
        If the class weights are not what they should be.
    """
    weights = None
    if sample_weight is not None:
        array = _as_array(sample_weight, name)
        if array.shape != (len(targets),):
            raise DataError(f"{name} must have shape ({len(targets)},), got {array.shape}")
        if array.dtype.kind not in "buif" or not (array >= 0).all() or np.isinf(array).any():
            raise DataError(f"{name} must hold finite numbers of at least 0")
        weights = array.astype(np.float64)
    if class_weight is not None:
        labels = targets.ravel().astype(np.int64)
        of_classes = _weights_of_classes(class_weight, labels, n_classes)
        weights = of_classes[labels] * (1.0 if weights is None else weights)
    if weights is None:
        return None
    with np.errstate(over="ignore"):
        counted = weights.astype(np.float32)
    total = counted.sum(dtype=np.float64)
    if total == 0:
        raise DataError(f"{name} must not all be 0")
    if total > np.finfo(np.float32).max:
        raise DataError(f"{name} must have a sum that float32 can hold")
    return counted


def _weights_of_classes(class_weight: Any, labels: np.ndarray, n_classes: int) -> np.ndarray:
    counts = np.bincount(labels, minlength=n_classes)
    if isinstance(class_weight, str) and class_weight == "balanced":
        present = counts > 0
        return np.where(present, len(labels) / (present.sum() * np.maximum(counts, 1)), 0.0)
    if not isinstance(class_weight, Mapping):
        raise ValueError(f"class_weight must be a dict or 'balanced', got {class_weight!r}")
    weights = np.ones(n_classes)
    for label, weight in class_weight.items():
        if label not in range(n_classes):
            raise ValueError(f"class_weight has {label!r}, classes are 0 to {n_classes - 1}")
        if not isinstance(weight, Real) or not 0 <= float(weight) < np.inf:
            raise ValueError(f"class_weight of {label} must be at least 0, got {weight!r}")
        weights[int(label)] = weight  # a truth as an index would mean all of them
    return weights


def _as_array(values: Any, name: str) -> np.ndarray:
    try:
        return np.asarray(values)
    except ValueError as error:  # rows of different lengths
        raise DataError(f"{name} is not an array: {error}") from None
