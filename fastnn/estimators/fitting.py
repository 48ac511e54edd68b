"""Fitting of estimators: fitted attributes, scorers, and scikit-learn's own callbacks."""

import copy
import math
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from scipy.sparse import csr_array
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import check_scoring

from fastnn.data.features import Features, SelectedRows
from fastnn.data.rows import Data
from fastnn.data.sparse import SparseRows
from fastnn.errors import CheckpointError
from fastnn.estimators.parameters import reported_outputs
from fastnn.network import Network
from fastnn.system.forks import FitLock, setup_lock
from fastnn.system.memory import check_copy
from fastnn.training.early_stopping import EarlyStopping
from fastnn.training.fit import Callback, State
from fastnn.training.state import History, Prepared

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:  # scikit-learn before 1.9

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Empty mix-in."""

    def with_callbacks(method: Callable[..., Any]) -> Callable[..., Any]:
        """Return the method unchanged."""
        return method


def weight_attributes(network: Network, dtype: np.dtype) -> dict[str, Any]:
    """Return copies of a network's weights, as attributes of an estimator.

    The arrays are read-only, because writing to the copies would not change the network. `_copies`
    lists them, so that assignments to `coefs_` and `intercepts_` can be detected.
    """
    arrays = [array.astype(dtype, copy=False) for pair in network.parameters for array in pair]
    for array in arrays:
        array.flags.writeable = False
    coefs, intercepts = arrays[::2], arrays[1::2]
    return {"coefs_": coefs, "intercepts_": intercepts, "_copies": (*coefs, *intercepts)}


_fits: WeakKeyDictionary[Any, FitLock] = WeakKeyDictionary()  # by their estimators
_IN_USE = "the estimator is already being fitted: wait for that fit to end, or use a clone"


def one_at_a_time(fit: Callable[..., Any]) -> Callable[..., Any]:
    """Make a method raise a RuntimeError if it is already running for the same estimator."""

    @wraps(fit)
    def guarded(self: Any, *arguments: Any, **options: Any) -> Any:
        with setup_lock:
            training = _fits.setdefault(self, FitLock(_IN_USE))
        with training:
            return fit(self, *arguments, **options)

    return guarded


_HISTORY = "history_."


class Recorder(Callback):
    """Callback that updates an estimator's fitted attributes after each epoch.

    Parameters
    ----------
    estimator : BaseMLP
    score : str
        Name of the metric that is the estimator's validation score, or "".
    """

    defers_interrupts = True

    def __init__(self, estimator: Any, score: str) -> None:
        self._estimator, self._score = estimator, score
        self._outputs = reported_outputs(estimator)
        self._squares = self._sum_of_squares() if self._outputs > 1 else 0.0
        self._is_restored = self.has_begun = self.keeps_best = False

    def state(self) -> State:
        """Return the metrics of all fits so far."""
        fitted = self._estimator
        history = {_HISTORY + name: curve for name, curve in fitted.history_.items()}
        scores = fitted.validation_scores_ or []
        numbers = [fitted.t_, self._squares]
        return {"numbers": numbers, "losses": fitted.loss_curve_, "scores": scores, **history}

    def set_state(self, state: State) -> None:
        """Set the estimator's metrics to those of a checkpoint."""
        fitted, losses, scores = self._estimator, state["losses"], state["scores"]
        samples, self._squares = state["numbers"]
        fitted.t_, fitted.loss_curve_ = int(samples), losses
        fitted.loss_ = losses[-1] if losses else math.nan
        if fitted.best_loss_ is not None:
            fitted.best_loss_ = min((x for x in losses if x == x), default=math.inf)
        if fitted.validation_scores_ is not None:
            fitted.validation_scores_ = scores
            fitted.best_validation_score_ = max((x for x in scores if x == x), default=-math.inf)
        curves = {name: curve for name, curve in state.items() if name.startswith(_HISTORY)}
        fitted.history_ = {name.removeprefix(_HISTORY): curve for name, curve in curves.items()}
        self._is_restored = True

    def on_resume(self, epoch: int, rows: int, history: History) -> None:
        """Set the number of iterations to that of the checkpoint."""
        if not self._is_restored:
            raise CheckpointError("cannot resume: the checkpoint was not written by an estimator")
        self._estimator.n_iter_ = len(history.get("loss", []))

    def on_epoch_begin(self, epoch: int) -> None:
        """Record that training has begun."""
        self.has_begun = True

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        """Append the metrics of an epoch; print them if `verbose`."""
        fitted = self._estimator
        loss = self._as_reported(metrics["loss"]) if self._outputs > 1 else metrics["loss"]
        self._append(loss, metrics)
        if fitted.verbose:
            print(f"Iteration {fitted.n_iter_}, loss = {loss:.8f}")
            if self._score:
                print(f"Validation score: {fitted.validation_scores_[-1]:f}")

    def on_fit_break(self) -> None:
        """Count an epoch that diverged if the best weights are kept; its loss is NaN."""
        rule, fitted = self.fit.plan.early_stopping, self._estimator
        if self.fit.has_diverged and rule is not None and fitted.n_iter_:
            self.keeps_best = rule.restore_best
            if self.keeps_best:
                self._append(math.nan, {})

    def _append(self, loss: float, metrics: dict[str, float]) -> None:
        fitted = self._estimator
        fitted.n_iter_ += 1
        if fitted.solver != "lbfgs":  # scikit-learn counts no samples for L-BFGS
            fitted.t_ += self.fit.rows
        fitted.loss_ = loss
        fitted.loss_curve_.append(loss)
        if fitted.best_loss_ is not None and loss < fitted.best_loss_:
            fitted.best_loss_ = loss
        if self._score:
            score = metrics.get(self._score, math.nan)
            fitted.validation_scores_.append(score)
            if score > fitted.best_validation_score_:
                fitted.best_validation_score_ = score
        for name, value in metrics.items():
            fitted.history_.setdefault(name, []).append(value)

    def _as_reported(self, loss: float) -> float:
        """Return the loss that scikit-learn reports: divided by the outputs, except the penalty.

        The penalty changes with every update. Its mean over an epoch is estimated as the mean of
        its values before and after the epoch. With L-BFGS it is the value after the iteration.
        """
        before, squares = self._squares, self._sum_of_squares()
        self._squares, fitted, fit = squares, self._estimator, self.fit
        if fitted.solver != "lbfgs":
            squares = -(-fit.rows // fit.batch_size) * (before + squares) / 2
        penalty = fitted.alpha / 2 * squares / fit.data.total_weight
        return (loss - penalty) / self._outputs + penalty

    def _sum_of_squares(self) -> float:
        weights = self._estimator._engine().get_parameters()
        return float(sum(np.square(w, dtype=np.float64).sum() for w, _ in weights))


class Run(NamedTuple):
    """Checked arguments of an estimator's fit: data and settings, scorer and callbacks."""

    prepared: Prepared
    score: Callable[[], float] | None
    recorder: Recorder
    callbacks: list[Callback]


def score_of(estimator: Any, data: Data) -> Callable[[], float]:
    """Return a function that evaluates the estimator's scorer on validation data."""
    scorer = check_scoring(estimator, estimator.scoring)
    y = estimator._decoded(data.targets)
    weights = {} if data.weights is None else {"sample_weight": data.weights}
    # This copy of the estimator has no feature names, because the validation data have none.
    unnamed = object.__new__(type(estimator))
    vars(unnamed).update(vars(estimator))
    vars(unnamed).pop("feature_names_in_", None)
    x = as_sklearn(data.x)
    return lambda: scorer(unnamed, x, y, **weights)


def as_sklearn(x: Features) -> Any:
    """Return features as an array, dense or sparse, that scikit-learn accepts."""
    if isinstance(x, SelectedRows):
        check_copy("scoring", math.prod(x.shape), x.dtype.itemsize)
        x = x[:]
    if isinstance(x, SparseRows):
        return csr_array((x.values, x.columns, x.starts), shape=x.shape)
    return x


def report_end(estimator: Any, stopped: str, rule: EarlyStopping | None) -> None:
    """Warn if a fit reached `max_iter`; if it stopped earlier and `verbose`, print why.

    Without a stopping rule, `max_iter` is the intended end: there is no warning.
    """
    advice = ""
    if not stopped and estimator.solver == "lbfgs":
        advice = (
            f"lbfgs failed to converge after {estimator.n_iter_} iteration(s). Increase the number "
            "of iterations (max_iter) or of loss function calls (max_fun), or scale the data."
        )
    elif not stopped and rule is not None:
        advice = (
            f"Stochastic Optimizer: Maximum iterations ({estimator.max_iter}) reached and the "
            "optimization hasn't converged yet."
        )
    elif estimator.verbose and stopped == "converged" and rule and estimator.solver != "lbfgs":
        metric = "Validation score" if estimator.early_stopping else "Training loss"
        least, epochs = f"tol={estimator.tol:f}", estimator.n_iter_no_change
        if isinstance(estimator.early_stopping, EarlyStopping):
            metric, least, epochs = rule.monitor, f"min_delta={rule.min_delta:g}", rule.patience
        print(
            f"{metric} did not improve more than {least} for {epochs} consecutive epochs. Stopping."
        )
    if advice:
        warnings.warn(advice, ConvergenceWarning, stacklevel=2)


class Tasks(Callback):
    """Callback that reports a fit to scikit-learn's callbacks: a task with a subtask per epoch."""

    def __init__(self, estimator: Any, X: Any, y: Any, sample_weight: Any) -> None:
        self._estimator = estimator
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        self._data = {"estimator": estimator, "X": X, "y": y, "metadata": metadata}
        self._fit = estimator._init_callback_context(max_subtasks=estimator.max_iter)
        self._fit.call_on_fit_task_begin(**self._data)

    def on_epoch_begin(self, epoch: int) -> None:
        """Begin the task of an epoch."""
        self._epoch: Any = self._fit.subcontext(task_name="epoch")
        self._epoch.call_on_fit_task_begin(**self._data, reconstruction_attributes=self._snapshot)

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> bool:
        """End the task; return whether a callback of scikit-learn asks to stop."""
        end = self._epoch.call_on_fit_task_end
        return end(**self._data, reconstruction_attributes=self._snapshot)

    def end(self) -> None:
        """End the task of the fit."""
        self._fit.call_on_fit_task_end(**self._data, reconstruction_attributes=dict)

    def _snapshot(self) -> dict[str, Any]:
        """Return the attributes that a copy of the estimator needs for its predictions."""
        fitted = self._estimator
        network = copy.copy(fitted._network)  # with the current weights
        return {"_network": network, **weight_attributes(network, fitted._dtype)}
