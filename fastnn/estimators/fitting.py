"""What watches an estimator's fit: its fitted attributes, its scorer, scikit-learn's callbacks."""

import copy
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
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
from fastnn.estimators.parameters import batch_rows_of, reported_outputs, stopping_rule_of
from fastnn.network import Network
from fastnn.system.forks import FitLock, setup_lock
from fastnn.system.memory import check_copy
from fastnn.training.callbacks import Bookkeeper, Callback, past_epochs
from fastnn.training.early_stopping import EarlyStopping
from fastnn.training.plan import Plan

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:  # scikit-learn before 1.9

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Nothing to support."""

    def with_callbacks(method: Callable[..., Any]) -> Callable[..., Any]:
        """Return the method as it is."""
        return method


def exposed(network: Network, dtype: np.dtype) -> dict[str, Any]:
    """Return a network's weights as an estimator's attributes, in arrays that are not writeable.

    A write would change nothing that predicts: it is to be an error, not a surprise.
    """
    arrays = [array.astype(dtype, copy=False) for pair in network.parameters for array in pair]
    for array in arrays:
        array.flags.writeable = False
    coefs, intercepts = arrays[::2], arrays[1::2]
    return {"coefs_": coefs, "intercepts_": intercepts, "_exposed": (*coefs, *intercepts)}


_fits: WeakKeyDictionary[Any, FitLock] = WeakKeyDictionary()  # by their estimators
_REFUSAL = "the estimator is being fitted: wait for the end of that, or use a clone of it"


def one_at_a_time(fit: Callable[..., Any]) -> Callable[..., Any]:
    """Have a method raise a RuntimeError while it runs already: in another thread, or around it."""

    @wraps(fit)
    def guarded(self: Any, *arguments: Any, **options: Any) -> Any:
        with setup_lock:
            training = _fits.setdefault(self, FitLock(_REFUSAL))
        with training:
            return fit(self, *arguments, **options)

    return guarded


class Recorder(Bookkeeper):
    """Keeps an estimator's fitted attributes up to date, epoch by epoch.

    Parameters
    ----------
    estimator : BaseMLP
    data : Data
        What it learns from.
    score : str
        The metric that is its validation score, or "".
    """

    def __init__(self, estimator: Any, data: Data, score: str) -> None:
        self._estimator, self._data, self._score = estimator, data, score
        self._outputs = reported_outputs(estimator)
        squares = self._sum_of_squares() if self._outputs > 1 else 0.0
        self.kept = {"reported losses": [], "last squares": [squares]}
        self.kept |= {"samples before": [estimator.t_]}  # this fit
        self.kept |= {f"{name} before": [len(curve)] for name, curve in self._curves()}
        self.begun = False

    def on_resume(self, epoch: int, rows: int, history: dict[str, list[float]]) -> None:
        """Take the figures of the epochs before, in the place of those that are there."""
        past, losses = list(past_epochs(epoch, history)), self.kept["reported losses"]
        if len(past) != len(losses) or not self.kept["samples before"]:
            raise CheckpointError("the checkpoint is not of an estimator's fit")
        self._forget()
        for (_, metrics), loss in zip(past, losses, strict=True):
            self._take(loss, metrics)

    def _curves(self) -> Iterator[tuple[str, list[float]]]:
        """Yield all figures of the fits so far, an item an epoch, with their names."""
        fitted = self._estimator
        yield "loss_curve_", fitted.loss_curve_
        yield "validation_scores_", fitted.validation_scores_ or []
        yield from fitted.history_.items()

    def _forget(self) -> None:
        """Leave no figures but those of the fits before."""
        fitted = self._estimator
        for name, curve in self._curves():
            (length,) = self.kept[f"{name} before"] or [0]
            del curve[int(length) :]
        fitted.t_ = int(self.kept["samples before"][0])
        losses, scores = ([v for v in curve if v == v] for _, curve in [*self._curves()][:2])
        if fitted.best_loss_ is not None:
            fitted.best_loss_ = min(losses, default=math.inf)
        if fitted.validation_scores_ is not None:
            fitted.best_validation_score_ = max(scores, default=-math.inf)

    def on_epoch_begin(self, epoch: int) -> None:
        """See that the fit is not refused any more."""
        self.begun = True

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        """Take the figures of an epoch."""
        fitted = self._estimator
        loss = self._as_reported(metrics["loss"]) if self._outputs > 1 else metrics["loss"]
        self.kept["reported losses"].append(loss)
        self._take(loss, metrics)
        if fitted.verbose:
            print(f"Iteration {fitted.n_iter_}, loss = {loss:.8f}")
            if self._score:
                print(f"Validation score: {fitted.validation_scores_[-1]:f}")

    def _take(self, loss: float, metrics: dict[str, float]) -> None:
        self._append(loss, metrics.get(self._score, math.nan))
        for name, value in metrics.items():
            self._estimator.history_.setdefault(name, []).append(value)

    def on_divergence(self) -> None:
        """Take an epoch that came to nothing."""
        self._append(math.nan, math.nan)

    def _append(self, loss: float, score: float) -> None:
        fitted = self._estimator
        fitted.n_iter_ += 1
        if fitted.solver != "lbfgs":  # for which scikit-learn counts none
            fitted.t_ += len(self._data.x)
        fitted.loss_ = loss
        fitted.loss_curve_.append(loss)
        if fitted.best_loss_ is not None and loss < fitted.best_loss_:
            fitted.best_loss_ = loss
        if self._score:
            fitted.validation_scores_.append(score)
            if score > fitted.best_validation_score_:
                fitted.best_validation_score_ = score

    def _as_reported(self, loss: float) -> float:
        """Divide a loss, but not the penalty in it, by the outputs.

        The penalty changes with every update: over an epoch it is taken to be the mean of what it
        is at both ends. An iteration of L-BFGS has that of its end.
        """
        (before,), squares = self.kept["last squares"], self._sum_of_squares()
        self.kept["last squares"] = [squares]
        fitted, rows = self._estimator, len(self._data.x)
        if fitted.solver != "lbfgs":
            updates = -(-rows // batch_rows_of(fitted, rows))
            squares = updates * (before + squares) / 2
        penalty = fitted.alpha / 2 * squares / self._data.total_weight
        return (loss - penalty) / self._outputs + penalty

    def _sum_of_squares(self) -> float:
        weights = self._estimator._engine().get_parameters()
        return float(sum(np.square(w, dtype=np.float64).sum() for w, _ in weights))


class Run(NamedTuple):
    """A fit whose arguments have all been checked."""

    training: Data
    validation: Data | None
    plan: Plan
    score: Callable[[], float] | None
    recorder: Recorder
    callbacks: list[Callback]
    warned: bool


def judged(
    estimator: Any, validation: Data | None
) -> tuple[EarlyStopping | None, str, Callable[[], float] | None]:
    """Return when to stop, the metric that is the validation score, and what measures it.

    The engine does where that is the accuracy or R².
    """
    rule, kind = stopping_rule_of(estimator), estimator._objective().score
    figures = ["loss", "accuracy"] if kind == "accuracy" else ["loss"]
    name, score = "", None
    if validation is not None:
        name = f"val_{kind}"
        figures += ["val_loss", name]
        if estimator.scoring is not None:
            name, score = "val_score", score_of(estimator, validation)
        if rule is not None and rule.monitor == "val_score":
            rule = replace(rule, monitor=name)
    if rule is not None and rule.monitor not in (*figures, name):
        raise ValueError(
            f"early_stopping monitors one of {', '.join(figures)} or val_score here, "
            f"got {rule.monitor!r}"
        )
    if name and estimator.validation_scores_ is None:
        estimator.validation_scores_, estimator.best_validation_score_ = [], -math.inf
    return rule, name, score


def score_of(estimator: Any, data: Data) -> Callable[[], float]:
    """Return what asks the estimator's scorer how the network stands on validation data."""
    scorer = check_scoring(estimator, estimator.scoring)
    y = estimator._decoded(data.targets)
    weights = {} if data.weights is None else {"sample_weight": data.weights}
    # The same network, without the names of features: data that are checked have none.
    unnamed = object.__new__(type(estimator))
    vars(unnamed).update(vars(estimator))
    vars(unnamed).pop("feature_names_in_", None)
    x = plain(data.x)
    return lambda: scorer(unnamed, x, y, **weights)


def plain(x: Features) -> Any:
    """Return features as scikit-learn knows them, an array or a sparse one."""
    if isinstance(x, SelectedRows):
        check_copy("scoring", math.prod(x.shape), x.dtype.itemsize)
        x = x[:]
    if isinstance(x, SparseRows):
        return csr_array((x.values, x.columns, x.starts), shape=x.shape)
    return x


def say_how_it_ended(estimator: Any, stopped: str, rule: EarlyStopping | None) -> None:
    """Warn of a fit that came to its limits, or, where that is wished, tell of a better end.

    Without a rule, the limit is where the fit was to end.
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
        what = "Validation score" if estimator.early_stopping else "Training loss"
        least, epochs = f"tol={estimator.tol:f}", estimator.n_iter_no_change
        if isinstance(estimator.early_stopping, EarlyStopping):
            what, least, epochs = rule.monitor, f"min_delta={rule.min_delta:g}", rule.patience
        print(
            f"{what} did not improve more than {least} for {epochs} consecutive epochs. Stopping."
        )
    if advice:
        warnings.warn(advice, ConvergenceWarning, stacklevel=2)


class Tasks(Callback):
    """Tells scikit-learn's own callbacks of a fit: it is a task, and every epoch is one in it."""

    def __init__(self, estimator: Any, X: Any, y: Any, sample_weight: Any) -> None:
        self._estimator = estimator
        self._epoch: Any = None
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        self._told = {"estimator": estimator, "X": X, "y": y, "metadata": metadata}
        self._fit = estimator._init_callback_context(max_subtasks=estimator.max_iter)
        self._fit.call_on_fit_task_begin(**self._told)

    def on_epoch_begin(self, epoch: int) -> None:
        """Begin an epoch's task."""
        self._epoch = self._fit.subcontext(task_name="epoch")
        self._epoch.call_on_fit_task_begin(**self._told, reconstruction_attributes=self._snapshot)

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> bool:
        """End it; return whether a callback wishes to stop."""
        if self._epoch is None:  # L-BFGS knows an iteration by its end alone
            self.on_epoch_begin(epoch)
        ended, self._epoch = self._epoch, None
        return ended.call_on_fit_task_end(**self._told, reconstruction_attributes=self._snapshot)

    def end(self) -> None:
        """End the fit's task; the estimator is fitted."""
        self._fit.call_on_fit_task_end(**self._told, reconstruction_attributes=dict)

    def _snapshot(self) -> dict[str, Any]:
        """Return what makes a copy of the estimator predict as it would now."""
        fitted = self._estimator
        network = copy.copy(fitted._network)  # with the weights that its engine has
        return {"_network": network, **exposed(network, fitted._dtype)}
