"""Warn about targets and features whose scale keeps a network from learning; change no data.

Training works best with numbers of mean 0 and standard deviation 1. Every warning is
scikit-learn's ConvergenceWarning, on one line, and a fit issues at most one.
"""

import math
import sys
import warnings
from typing import Any, NamedTuple

import numpy as np

from fastnn.data.features import Features, to_dense
from fastnn.data.rows import Data
from fastnn.data.sparse import SparseRows
from fastnn.model.losses import Loss
from fastnn.system.forks import setup_lock
from fastnn.training.fit import Fit

OFFSET_LIMIT = 2.0**16  # |mean| / standard deviation: float32's 24 bits leave 8 for the deviations
_LARGE_FEATURE, _LARGE_TARGET = 10.0, 1000.0  # root mean square of a column that may be too large
_SMALL = 0.05  # largest distance from a column's mean that may be too small
# A loss above this share of a constant prediction's loss is no better than it. The first limit is
# for an estimate of the constant's loss, the second for its loss on the same rows.
_MAYBE_NO_BETTER, _NO_BETTER = 0.95, 0.99
_CHECKED_UPDATE = 250  # update at which fits of one epoch, such as partial fits, are checked
_CONSTANT_ROWS, _SAMPLE_ROWS, _SAMPLE_VALUES = 8192, 1024, 2**22

_TARGET_ADVICE = (
    "scale the targets to mean 0 and standard deviation 1 "
    "(scikit-learn's TransformedTargetRegressor with a StandardScaler)"
)
_FEATURE_ADVICE = (
    "scale the features to mean 0 and standard deviation 1 (scikit-learn's StandardScaler; for "
    "pixels from 0 to 255, multiply by 1/255)"
)


class _Columns(NamedTuple):
    """Statistics of columns, each (columns,) float64.

    `std` is the standard deviation. `deviation` is the largest distance from the column's mean.
    """

    mean: np.ndarray
    std: np.ndarray
    deviation: np.ndarray

    @property
    def size(self) -> np.ndarray:
        """Root mean squares."""
        return np.hypot(self.mean, self.std)

    def text(self, column: int) -> str:
        return f"mean {self.mean[column]:.4g} and standard deviation {self.std[column]:.3g}"


def warn_of_offset(y: Any, data: Data, loss: Loss) -> bool:
    """Warn if targets are so far from 0 that float32 loses their differences.

    The statistics are weighted by the rows' weights. Targets that are all equal cause no warning.

    Parameters
    ----------
    y : array-like (rows,) or (rows, outputs)
        The targets of `data` before conversion to float32, which may make them all equal.

    Returns
    -------
    bool
        Whether there was a warning.
    """
    if not _is_centred(loss):
        return False
    values = np.asarray(y).reshape(len(data.targets), -1)
    low, high = (each.astype(np.float64) for each in (values.min(axis=0), values.max(axis=0)))
    least_std = (high - low) / math.sqrt(2 * len(values))  # lower bound for rows of equal weight
    if data.weights is None and (np.maximum(high, -low) <= OFFSET_LIMIT * least_std).all():
        return False
    columns = _columns_of(values.astype(np.float64), data.weights)
    offset, std = np.abs(columns.mean), columns.std
    is_far = (columns.deviation > 0) & (offset > OFFSET_LIMIT * std)
    if not is_far.any():
        return False
    worst = int(np.argmax(np.where(is_far, offset / np.where(is_far, std, 1), 0)))
    _warn(
        f"{_targets_text(columns, worst)}: float32 has too few digits for differences between "
        f"numbers so far from 0; {_TARGET_ADVICE}"
    )
    return True


def warn_of_scale(fit: Fit) -> None:
    """Warn if a fit failed, and the scale of features or targets explains it.

    A fit failed if its loss is no better than that of the best constant prediction, or if L-BFGS
    stalled. A fit of one epoch is checked only if it contains update 250 of the optimizer. So a
    sequence of `partial_fit` calls is checked once, and not before it can have learned.
    """
    data, loss, input_scale = fit.data, fit.network.loss, fit.network.input_scale
    losses, has_stalled = fit.history.get("loss", []), fit.position.stopped == "stalled"
    if not has_stalled:
        is_due = fit.start.updates < _CHECKED_UPDATE <= fit.position.updates
        if len(losses) <= 1 and not is_due:
            return
        if losses[-1] < _MAYBE_NO_BETTER * _constant_loss(*_some_targets(data), loss):
            return
    x_rows = max(32, min(_SAMPLE_ROWS, _SAMPLE_VALUES // data.x.shape[1]))
    sample = data.take(_some_rows(data, x_rows))
    reached = fit.engine.evaluate(sample)[0]
    constant = _constant_loss(sample.targets, sample.weights, loss)
    has_failed = constant > 0 and not reached < _NO_BETTER * constant
    reasons = _reasons(sample, loss, input_scale, has_stalled)
    if has_stalled and (has_failed or fit.start.epochs == 0):
        iterations = f"{len(losses)} iteration{'s' if len(losses) > 1 else ''}"
        _warn(
            f"lbfgs failed to converge: after {iterations} the loss no longer falls in float32, "
            f"although the gradient is not small; {reasons}"
        )
    elif has_failed and reasons and not has_stalled:
        _warn(
            f"the network has not learned: its loss, {reached:.4g}, is no better than that of a "
            f"constant prediction, {constant:.4g}; {reasons}"
        )


def _reasons(sample: Data, loss: Loss, input_scale: float, has_stalled: bool) -> str:
    """Return a text: the features and targets with an unsuitable scale, if any, and advice."""
    found, advice = [], []
    if _is_centred(loss):
        columns = _columns_of(sample.targets.astype(np.float64), sample.weights)
        worst = _unsuitable(columns, _LARGE_FEATURE if has_stalled else _LARGE_TARGET)
        if worst is not None:
            found.append(_targets_text(columns, worst))
            advice.append(_TARGET_ADVICE)
    columns = _feature_columns(sample.x, input_scale)
    worst = _unsuitable(columns, _LARGE_FEATURE)
    if worst is not None:
        scaled = "" if input_scale == 1 else " after input_scale"
        found.append(f"feature {worst} (counted from 0) has {columns.text(worst)}{scaled}")
        advice.append(_FEATURE_ADVICE)
    if has_stalled and not advice:
        advice = [_FEATURE_ADVICE, _TARGET_ADVICE] if _is_centred(loss) else [_FEATURE_ADVICE]
    return ": ".join(part for part in (" and ".join(found), " and ".join(advice)) if part)


def _unsuitable(columns: _Columns, large: float) -> int | None:
    """Return the column with the least suitable scale, or None if all are suitable."""
    if columns.size.max() > large:
        return int(columns.size.argmax())
    return int(columns.deviation.argmax()) if 0 < columns.deviation.max() < _SMALL else None


def _is_centred(loss: Loss) -> bool:
    """Return whether the loss depends only on the differences between targets and outputs."""
    return loss.link == "identity"


def _targets_text(columns: _Columns, output: int) -> str:
    of_output = "" if len(columns.mean) == 1 else f" of output {output} (counted from 0)"
    return f"the targets{of_output} have {columns.text(output)}"


# ---- statistics -----------------------------------------------------------------------------


def _columns_of(values: np.ndarray, weights: np.ndarray | None = None) -> _Columns:
    """Return the statistics of (rows, columns) float64, weighted by the rows' weights."""
    if weights is not None:
        values, weights = values[weights > 0], weights[weights > 0]
    # The rounded mean of equal numbers may differ from them.
    is_same = values.max(axis=0) == values.min(axis=0)
    mean = np.where(is_same, values[0], _mean(values, weights))
    distances = values - mean
    std = np.sqrt(_mean(np.square(distances), weights))
    return _Columns(mean, std, np.abs(distances).max(axis=0))


def _feature_columns(x: Features, input_scale: float) -> _Columns:
    """Return the statistics of scaled features; sparse ones are not made dense."""
    if not isinstance(x, SparseRows):
        return _columns_of(to_dense(x).astype(np.float64) * input_scale)
    rows, values = len(x), x.values.astype(np.float64) * input_scale
    entries = np.bincount(x.columns, minlength=x.width)
    mean = np.bincount(x.columns, values, x.width) / rows
    distances = values - mean[x.columns]
    squares = np.bincount(x.columns, np.square(distances), x.width)  # integers if there are none
    squares = squares + (rows - entries) * np.square(mean)
    deviation = np.where(entries < rows, np.abs(mean), 0)
    np.maximum.at(deviation, x.columns, np.abs(distances))
    return _Columns(mean, np.sqrt(squares / rows), deviation)


def _some_rows(data: Data, rows: int) -> np.ndarray:
    """Return the sorted numbers of at most `rows` rows of nonzero weight, always the same ones."""
    numbers = np.arange(len(data.x)) if data.weights is None else np.flatnonzero(data.weights)
    if len(numbers) <= rows:
        return numbers
    return numbers[np.sort(np.random.default_rng(0).integers(len(numbers), size=rows))]


def _some_targets(data: Data) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the targets and weights of all rows, or of a sample of 8,192."""
    if len(data.targets) <= _CONSTANT_ROWS:
        return data.targets, data.weights
    rows = _some_rows(data, _CONSTANT_ROWS)
    return data.targets[rows], None if data.weights is None else data.weights[rows]


def _constant_loss(targets: np.ndarray, weights: np.ndarray | None, loss: Loss) -> float:
    """Return the mean loss of the best constant prediction.

    If that is 0 because all targets of a regression are equal, return the loss of predicting 0.
    """
    if loss.takes_labels:
        counts = np.bincount(targets, weights)
        return -float(_x_log_x(counts / counts.sum()).sum())
    y = targets.astype(np.float64)
    mean = _mean(y, weights)
    if loss.link == "logistic":
        return -float((_x_log_x(mean) + _x_log_x(1 - mean)).sum())
    if loss.link == "exp":
        return float((_mean(_x_log_x(y), weights) - _x_log_x(mean)).sum())
    if (y == y[0]).all():  # the rounded mean may differ
        return float(_mean_losses(y, weights, loss).sum())
    best = _mean_losses(y - mean, weights, loss)
    if loss.name != "squared_error":
        best = np.minimum(best, _mean_losses(y - np.median(y, axis=0), weights, loss))
    return float(best.sum())


def _x_log_x(x: np.ndarray) -> np.ndarray:
    """Return x log x, which is 0 for x = 0."""
    return x * np.log(np.where(x > 0, x, 1))


def _mean_losses(residual: np.ndarray, weights: np.ndarray | None, loss: Loss) -> np.ndarray:
    """Return the mean loss of each output."""
    size = np.abs(residual)
    losses = size if loss.name == "absolute_error" else size * size / 2
    if loss.name == "huber":
        losses = np.where(size < 1, losses, size - 0.5)
    return _mean(losses, weights)


def _mean(values: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Return the mean of each column; `np.average` without weights takes 5 times as long."""
    return values.mean(axis=0) if weights is None else np.average(values, axis=0, weights=weights)


# ---- warnings -------------------------------------------------------------------------------


def _warn(text: str) -> None:
    """Warn at the line outside of fastnn and scikit-learn that called the fit."""
    with setup_lock:  # fork() waits for the import: a child could not finish it
        from sklearn.exceptions import ConvergenceWarning

    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__", "").startswith(("fastnn.", "sklearn.")):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, ConvergenceWarning, stacklevel=level)
