"""Convert a user's arrays to the forms that engines take, or raise an error.

Afterwards features are C-contiguous uint8 or float32 and finite, and labels are int32 and in
range. Kernels are therefore compiled once. They check only the columns of sparse rows, which the
user may change during a fit, and features to predict, which are not checked here.
"""

import sys
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np

from fastnn.data.features import Features, SelectedRows
from fastnn.data.memory_maps import check_not_truncated
from fastnn.data.rows import Data
from fastnn.data.sparse import SparseRows
from fastnn.errors import DataError
from fastnn.model.layers import Dense, Parameters
from fastnn.model.losses import Loss
from fastnn.model.settings import SMALLEST_NORMAL
from fastnn.system.memory import check_copy

_BLOCK_ROWS = 4096  # rows to check at a time, so that checking allocates little


def as_data(
    x: Any,
    y: Any,
    inputs: int,
    outputs: int,
    loss: Loss,
    sample_weight: Any = None,
    name: str = "",
) -> Data:
    """Return the data of a fit or an evaluation in the form that engines take.

    Parameters
    ----------
    x, y, sample_weight : array-like
        As in `as_features`, `as_labels` or `as_values`, and `as_weights`.
    inputs, outputs : int
        Numbers of features, and of outputs of the network.
    loss : Loss
        The loss, which decides between labels and values.
    name : str, optional
        Text before the names of the arrays in messages, such as "validation ".

    Raises
    ------
    DataError
        If an array cannot be used.
    """
    features = as_features(x, inputs, f"{name}x")
    if loss.takes_labels:
        targets = as_labels(y, len(features), outputs, f"{name}y")
    else:
        targets = as_values(y, len(features), outputs, loss, f"{name}y")
    return Data(features, targets, as_weights(sample_weight, len(features), f"{name}sample_weight"))


def with_class_weights(data: Data, class_weight: Any, loss: Loss, outputs: int) -> Data:
    """Return data with each sample weight multiplied by the weight of the row's class.

    Parameters
    ----------
    data : Data
        Rows that belong to classes.
    class_weight : dict of class number to weight, or "balanced"
        "balanced" is rows / (classes · rows of the class), over the classes that occur. Classes
        that are missing in a dict have weight 1.
    loss : Loss
        The loss of the network.
    outputs : int
        Its number of outputs.

    Raises
    ------
    ValueError
        If `class_weight` is invalid, or the rows do not belong to classes.
    DataError
        If all weights are then 0.
    """
    if not has_classes(loss, data.targets):
        raise ValueError("class_weight needs the loss cross_entropy, or logistic with one output")
    labels = data.targets.ravel().astype(np.int64)
    n_classes = outputs if loss.takes_labels else 2
    weights = _weights_of_classes(class_weight, labels, n_classes)[labels]
    if data.weights is not None:
        weights = weights * data.weights
    name = "class_weight" if data.weights is None else "class_weight times sample_weight"
    return data._replace(weights=as_weights(weights, len(labels), name))


def check_class_weight(label: Any, weight: Any) -> None:
    """Raise a ValueError that names the label if its weight is invalid."""
    if not isinstance(weight, Real) or not 0 <= float(weight) < np.inf:
        raise ValueError(
            f"class_weight of {label!r} must be a finite number of at least 0, got {weight!r}"
        )


def has_classes(loss: Loss, targets: np.ndarray) -> bool:
    """Return whether each row belongs to one class: a label, or a single target of 0 or 1."""
    if loss.takes_labels:
        return True
    one_label = loss.link == "logistic" and targets.shape[1] == 1
    return one_label and bool(((targets == 0) | (targets == 1)).all())


def as_features(x: Any, n_features: int, name: str = "x", *, finite: bool = True) -> Features:
    """Return features in a form that engines take.

    Parameters
    ----------
    x : array-like, or SciPy sparse matrix or array, (rows, n_features)
        Real numbers. uint8 stays uint8; other dtypes become float32.
    n_features : int
        Number of features.
    name : str, default "x"
        Name of the array in messages.
    finite : bool, default True
        Whether to check that all numbers are finite. Engines check it when they predict.

    Returns
    -------
    ndarray (rows, n_features) or SparseRows
        uint8 or float32, C-contiguous. An array of this form is not copied.

    Raises
    ------
    DataError
        If the shape is wrong, there are no rows, the numbers are not real, or one is not finite in
        float32; or if a sparse array is damaged.
    """
    if type(x) is not np.ndarray and _is_sparse(x):
        _check_form(x, n_features, name)
        return _as_sparse_rows(x, name, finite)
    return as_dense(x, n_features, name, finite=finite)


def as_dense(x: Any, n_features: int, name: str = "x", *, finite: bool = True) -> np.ndarray:
    """Return dense features as `as_features` does; raise an error for sparse ones."""
    array = _as_array(x, name)
    _check_form(array, n_features, name)
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    features = array
    flags = array.flags
    if array.dtype != np.float32 or not (flags.c_contiguous and flags.aligned):
        check_copy(name, array.size)
        with np.errstate(over="ignore", invalid="ignore"):  # an overflow is reported below
            features = np.require(array, np.float32, ["C_CONTIGUOUS", "ALIGNED"])
    if finite:
        check_finite(features, name)
    return features


def _check_form(array: Any, n_features: int, name: str) -> None:
    """Raise a DataError if an array, dense or sparse, has a wrong shape or dtype."""
    if array.ndim != 2 or array.shape[1] != n_features:
        raise DataError(f"{name} must have shape (rows, {n_features}), got {array.shape}")
    if array.shape[0] == 0:
        raise DataError(f"{name} has no rows")
    if array.dtype.kind not in "buif":
        raise DataError(f"{name} must hold real numbers, got dtype {array.dtype}")


def _is_sparse(x: Any) -> bool:
    """Return whether this is a sparse matrix or array of SciPy, without importing SciPy."""
    scipy_sparse = sys.modules.get("scipy.sparse")
    return scipy_sparse is not None and scipy_sparse.issparse(x)


def _as_sparse_rows(matrix: Any, name: str, finite: bool) -> SparseRows:
    """Return SciPy's sparse matrix or array as valid rows: kernels use its indices unchecked."""
    check_copy(name, matrix.nnz, 3 * matrix.dtype.itemsize)
    csr = matrix.tocsr()
    try:
        # A new object with the same arrays: the user's may be marked as canonical without being so.
        csr = sys.modules["scipy.sparse"].csr_array((csr.data, csr.indices, csr.indptr), csr.shape)
        csr.check_format(full_check=True)
        if (np.diff(csr.indptr) < 0).any():  # SciPy checks this only if indptr[-1] is positive
            raise ValueError("indptr must be non-decreasing")
    except ValueError as error:
        raise DataError(f"{name} is a damaged sparse array: {error}") from error
    if not csr.has_canonical_format:
        csr = csr.copy()
        csr.sum_duplicates()
    starts = np.array(csr.indptr, np.int64)  # a copy, because kernels use it as an index
    columns = np.require(csr.indices, np.int32, ["C_CONTIGUOUS", "ALIGNED"])
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.require(csr.data, np.float32, ["C_CONTIGUOUS", "ALIGNED"])
    features = SparseRows(starts, columns, values, csr.shape[1])
    if finite:
        check_finite(features, name)
    return features


def check_finite(features: Features, name: str) -> None:
    """Raise a DataError that names the first NaN or infinity among features."""
    if isinstance(features, SelectedRows):  # its source was checked
        return
    if isinstance(features, SparseRows):
        finite = np.isfinite(features.values)
        if not finite.all():
            place = int(np.argmin(finite))
            row = int(np.searchsorted(features.starts, place, "right")) - 1
            raise DataError(_not_finite(name, features.values[place], row, features.columns[place]))
        return
    if features.dtype.kind != "f":
        return
    for start in range(0, len(features), _BLOCK_ROWS):
        finite = np.isfinite(features[start : start + _BLOCK_ROWS])
        if not finite.all():
            row, column = np.argwhere(~finite)[0]
            value = features[start + row, column]
            raise DataError(_not_finite(name, value, start + row, column))


def _not_finite(name: str, value: float, row: int, column: int) -> str:
    return f"{name} must be finite in float32, found {value} in row {row}, column {column}"


def as_labels(y: Any, rows: int, n_classes: int, name: str = "y") -> np.ndarray:
    """Return a copy of class labels, (rows,) int32.

    Kernels use labels as indices, so the checked values must not change later.

    Raises
    ------
    DataError
        If there is not one label for each row, or one is not a whole number from 0 to
        ``n_classes - 1``.
    """
    array = np.array(_as_array(y, name))
    if array.ndim != 1:
        raise DataError(f"{name} must be one-dimensional, got shape {array.shape}")
    if len(array) != rows:
        raise DataError(f"{name} has {len(array):,} labels for {rows:,} rows")
    if array.dtype.kind not in "buif":
        raise DataError(f"{name} must hold class numbers, got dtype {array.dtype}")
    bad = ~((array >= 0) & (array < n_classes))  # true for NaN
    if array.dtype.kind == "f":
        bad |= array != np.trunc(array)
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(
            f"{name} must hold whole numbers from 0 to {n_classes - 1}, "
            f"found {array[row]} in row {row}"
        )
    return array.astype(np.int32, copy=False)


def as_values(y: Any, rows: int, outputs: int, loss: Loss, name: str = "y") -> np.ndarray:
    """Return target values, (rows, outputs) float32, C-contiguous.

    For one output, an array (rows,) is accepted as well.

    Raises
    ------
    DataError
        If the shape is wrong, or a value is not finite or not in the range of the loss: 0 to 1
        for "logistic", at least 0 for "poisson".
    """
    array = _as_array(y, name)
    if array.ndim == 1 and outputs == 1:
        array = np.array(array)[:, None]  # a copy, because resizing could free the memory of a view
    values = as_dense(array, outputs, name).astype(np.float32, copy=False)
    if len(values) != rows:
        raise DataError(f"{name} has {len(values):,} rows for {rows:,} rows of features")
    low, high = {"logistic": (0, 1), "poisson": (0, np.inf)}.get(loss.name, (-np.inf, np.inf))
    if not low <= values.min() <= values.max() <= high:
        allowed = "from 0 to 1" if high == 1 else "of at least 0"
        bad = values[(values < low) | (values > high)][0]
        raise DataError(f"{name} must hold numbers {allowed} for this loss, found {bad:g}")
    return values


def as_weights(weights: Any, rows: int, name: str = "sample_weight") -> np.ndarray | None:
    """Return the sample weight of each row, (rows,) float32, or None if there are no weights.

    Raises
    ------
    DataError
        If there is not one finite number of at least 0 for each row, or all are 0, or their sum is
        too large for float32.
    """
    if weights is None:
        return None
    array = _as_array(weights, name)
    if array.shape != (rows,):
        raise DataError(f"{name} must have shape ({rows},), got {array.shape}")
    if array.dtype.kind not in "buif" or not (array >= 0).all() or np.isinf(array).any():
        raise DataError(f"{name} must hold finite numbers of at least 0")
    with np.errstate(over="ignore"):
        counted = array.astype(np.float32)
    counted[counted < SMALLEST_NORMAL] = 0  # kernels flush subnormal numbers to 0
    total = counted.sum(dtype=np.float64)
    if total == 0:
        raise DataError(f"{name} must not all be 0")
    if total > np.finfo(np.float32).max:
        raise DataError(f"{name} must have a sum that float32 can hold")
    return counted


def as_parameters(given: Any, layers: Sequence[Dense]) -> Parameters:
    """Return a float32 copy of a network's parameters, a list of (w, b) for each layer.

    Raises
    ------
    ValueError
        If a shape is wrong for its layer, or a number is not finite in float32.
    """
    if len(given) != len(layers):
        raise ValueError(f"expected {len(layers)} layers, got {len(given)}")
    with np.errstate(over="ignore"):  # an overflow is reported below
        parameters = [(np.array(w, np.float32), np.array(b, np.float32)) for w, b in given]
    for i, (layer, (w, b)) in enumerate(zip(layers, parameters, strict=True)):
        if w.shape != (layer.inputs, layer.outputs) or b.shape != (layer.outputs,):
            raise ValueError(
                f"layer {i} has weights {(layer.inputs, layer.outputs)} and biases "
                f"{(layer.outputs,)}, got arrays of shape {w.shape} and {b.shape}"
            )
        for name, array in (("weights", w), ("biases", b)):
            if not np.isfinite(array).all():
                raise ValueError(f"layer {i} has {name} that are not finite in float32")
    return parameters


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
            raise ValueError(
                f"class_weight has the key {label!r}, but the classes are 0 to {n_classes - 1}"
            )
        check_class_weight(label, weight)
        weights[int(label)] = weight  # a bool as an index would select all
    return weights


def check_unmasked(values: Any, name: str) -> None:
    """Raise a DataError if an array of `numpy.ma` has masked elements."""
    ma = sys.modules.get("numpy.ma")
    if ma is not None and isinstance(values, ma.MaskedArray) and ma.is_masked(values):
        raise DataError(
            f"{name} has masked elements ({np.sum(values.mask):,} of {values.size:,}): fill them, "
            "for example with filled(0), or remove their rows"
        )


def _as_array(values: Any, name: str) -> np.ndarray:
    """Return an array; raise an error for masked elements and for truncated files."""
    if type(values) is not np.ndarray:
        check_unmasked(values, name)
    try:
        array = np.asarray(values)
    except ValueError as error:  # rows of different lengths
        raise DataError(f"{name} is not an array: {error}") from None
    check_not_truncated(array, name)
    return array
