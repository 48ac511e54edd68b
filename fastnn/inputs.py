"""The door: a user's arrays become the few forms that the engines take, or one clear error.

Behind it features are C-contiguous uint8 or float32 and finite, and labels are int32 and in
range, so that the kernels compile once and need no checks.
"""

from typing import Any

import numpy as np

from fastnn.errors import DataError

_BLOCK_ROWS = 4096  # rows checked at a time, so that checking allocates next to nothing


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


def _as_array(values: Any, name: str) -> np.ndarray:
    try:
        return np.asarray(values)
    except ValueError as error:  # rows of different lengths
        raise DataError(f"{name} is not an array: {error}") from None
