"""The fit loop: epochs, shuffles, schedules, validation, early stopping. It knows no arithmetic."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

import numpy as np

from fastnn.batches import Data, Epoch, Progress
from fastnn.callbacks import Callback
from fastnn.early_stopping import EarlyStopping, Standing, is_over, judge
from fastnn.engine import Engine
from fastnn.errors import DivergenceError
from fastnn.layers import Parameters
from fastnn.lbfgs import Limits, minimize
from fastnn.losses import Loss
from fastnn.optimizers import Optimizer
from fastnn.randomness import permutation
from fastnn.schedules import ADAPTIVE_END, ADAPTIVE_FACTOR, Schedule

# A call of the engine is meant to take this long: short enough for a prompt answer to Ctrl-C,
# long enough that its overhead (a few microseconds) vanishes.
CALL_SECONDS = 0.02
_FIRST_BUDGET_ROWS = 512

# Without early stopping, an adaptive rate follows the training loss, as scikit-learn has it.
_ADAPTIVE = EarlyStopping("loss", patience=10, min_delta=1e-4, restore_best=False)

History = dict[str, list[float]]
Score = Callable[[], float]


@dataclass(frozen=True)
class Plan:
    """How to train.

    Attributes
    ----------
    epochs, batch_size : int
    optimizer : Optimizer
    schedule : Schedule
        Spans the epochs of this fit.
    l2, l2_is_shared, clip_norm
        As in `fastnn.batches.Epoch`.
    shuffle : bool
    seed : int
        Decides the order of the rows and the dropout masks.
    early_stopping : EarlyStopping, optional
    first_epoch : int
        Epochs are counted from 0 here: the one that picks the first shuffle, so that a fit in
        two parts equals a fit in one.
    updates_before : int
        Updates that the optimizer's state has seen.
    samples_before : int
        Rows that all epochs before this fit took.
    standing : Standing
        Where early stopping, or an adaptive rate, stood at the end of the fit before.
    rate_divisor : float
        What an adaptive rate was divided by then.
    max_evaluations, tolerance
        Of L-BFGS, as in `fastnn.lbfgs.Limits`.
    """

    epochs: int
    batch_size: int
    optimizer: Optimizer
    schedule: Schedule = Schedule()
    l2: float = 0.0
    l2_is_shared: bool = False
    clip_norm: float = 0.0
    shuffle: bool = True
    seed: int = 0
    early_stopping: EarlyStopping | None = None
    first_epoch: int = 0
    updates_before: int = 0
    samples_before: int = 0
    standing: Standing = Standing()
    rate_divisor: float = 1.0
    max_evaluations: int = 15_000
    tolerance: float = 1e-5


class Outcome(NamedTuple):
    """What came of a fit.

    Attributes
    ----------
    history : dict of str to list of float
    standing : Standing
    rate_divisor : float
        As in `Plan`, for a fit that goes on.
    stopped : str
        Why it ended before its last epoch: "converged", where a rule was met, "callback", or "".
    """

    history: History
    standing: Standing
    rate_divisor: float
    stopped: str


class Watch:
    """What happens between epochs: validation, history, callbacks, and whether to go on."""

    def __init__(
        self,
        engine: Engine,
        plan: Plan,
        loss: Loss,
        validation: Data | None,
        callbacks: Sequence[Callback],
        score: Score | None,
    ) -> None:
        self._engine, self._plan, self._loss = engine, plan, loss
        self._validation, self._callbacks, self._score = validation, callbacks, score
        self._best: Parameters | None = None
        self.history: History = {}
        self.standing, self.rate_divisor, self.stopped = plan.standing, plan.rate_divisor, ""
        self._rule = plan.early_stopping
        self._adaptive = plan.schedule.name == "adaptive" and plan.optimizer.rule != "lbfgs"
        if self._rule is None and self._adaptive:
            self._rule = _ADAPTIVE
        if self._rule is not None and self._rule.restore_best and self.standing.best_epoch:
            self._best = engine.get_parameters()  # of the fit that this one goes on from

    def end_epoch(self, number: int, metrics: dict[str, float]) -> bool:
        """Take the figures of an epoch, counted from 1; return whether to go on."""
        if not self.classifies:
            metrics.pop("accuracy", None)
        metrics |= self._validated()
        for name, value in metrics.items():
            self.history.setdefault(name, []).append(value)
        if self._rule is not None:
            self._judge(number, metrics)
        wishes = [callback.on_epoch_end(number, metrics) for callback in self._callbacks]
        if any(isinstance(wish, bool | np.bool_) and wish for wish in wishes) and not self.stopped:
            self.stopped = "callback"
        return not self.stopped

    @property
    def classifies(self) -> bool:
        """Whether rows are right or wrong."""
        return self._loss.score == "accuracy"

    def restore_best(self) -> None:
        """Give the engine the weights of the best epoch, if they are kept."""
        if self._best is not None:
            self._engine.set_parameters(self._best)

    def _validated(self) -> dict[str, float]:
        figures = {}
        if self._validation is not None:
            figures["val_loss"], accuracy = self._engine.evaluate(self._validation)
            if self.classifies:
                figures["val_accuracy"] = accuracy
            else:
                predicted = self._engine.predict(self._validation.x)
                figures["val_r2"] = r2(predicted, self._validation)
        if self._score is not None:
            figures["val_score"] = float(self._score())
        return figures

    def _judge(self, number: int, metrics: dict[str, float]) -> None:
        assert self._rule is not None
        before = self.standing.best_epoch
        self.standing = judge(self._rule, self.standing, number, metrics[self._rule.monitor])
        if self._rule.restore_best and self.standing.best_epoch != before:
            self._best = self._engine.get_parameters()
        if not is_over(self._rule, self.standing):
            return
        rate = self._plan.optimizer.learning_rate / self.rate_divisor
        if self._adaptive and rate > ADAPTIVE_END:
            self.rate_divisor *= ADAPTIVE_FACTOR
            self.standing = self.standing._replace(waited=0)
        else:
            self.stopped = "converged"


@dataclass
class Counts:
    """What a network has been through: whole epochs, the rows that they took, and updates.

    Updates are those that the optimizer's state has seen.
    """

    epochs: int = 0
    samples: int = 0
    updates: int = 0


class Counter(Callback):
    """Keeps counts up to date, so that they are right however a fit ends."""

    def __init__(self, counts: Counts, rows: int, batch_size: int) -> None:
        self._counts, self._rows, self._batch_size = counts, rows, batch_size
        self._before = counts.updates

    def on_chunk_end(self, epoch: int, rows: int) -> None:
        """Count the updates of an epoch so far."""
        whole = rows == self._rows  # the last batch may be short
        in_epoch = -(-rows // self._batch_size) if whole else rows // self._batch_size
        self._counts.updates = self._before + in_epoch

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        """Count the epoch."""
        self._counts.epochs += 1
        self._counts.samples += self._rows
        self._before = self._counts.updates


def fit(
    engine: Engine,
    data: Data,
    plan: Plan,
    *,
    loss: Loss,
    validation: Data | None = None,
    callbacks: Sequence[Callback] = (),
    score: Score | None = None,
) -> Outcome:
    """Train as a plan says. However it ends, it ends with the best weights if they are to be kept.

    Parameters
    ----------
    validation : Data, optional
        Evaluated after every epoch.
    score : callable, optional
        Called after every epoch; what it returns goes into the history as ``val_score``.

    Raises
    ------
    DivergenceError
        If the loss or a weight stops being finite; the engine has the last finite weights then.
    """
    watch = Watch(engine, plan, loss, validation, callbacks, score)
    run = _search if plan.optimizer.rule == "lbfgs" else _descend
    try:
        for callback in callbacks:
            callback.on_fit_begin(plan.epochs, len(data.x))
        run(engine, data, plan, watch, callbacks)
    except BaseException:
        for callback in callbacks:
            with suppress(Exception):  # the first error is the one to be told
                callback.on_fit_break()
        raise
    finally:
        watch.restore_best()
    for callback in callbacks:
        callback.on_fit_end(watch.history)
    return Outcome(watch.history, watch.standing, watch.rate_divisor, watch.stopped)


def _descend(
    engine: Engine, data: Data, plan: Plan, watch: Watch, callbacks: Sequence[Callback]
) -> None:
    """Run the epochs of an optimizer that takes its steps batch by batch."""
    finite = engine.get_parameters()
    updates_before = plan.updates_before
    for number in range(plan.first_epoch, plan.first_epoch + plan.epochs):
        for callback in callbacks:
            callback.on_epoch_begin(number + 1)
        start = time.perf_counter()
        epoch = _plan_epoch(data, plan, number, updates_before, watch.rate_divisor)
        updates_before += epoch.updates
        planning = time.perf_counter() - start
        try:
            metrics = _run_epoch(engine, epoch, number + 1, callbacks)
            if not _all_finite(parameters := engine.get_parameters()):
                _raise_divergence(number + 1, epoch.updates, plan.optimizer, "the weights are")
            finite = parameters
        except DivergenceError:
            if not _all_finite(engine.get_parameters()):
                engine.set_parameters(finite)
            engine.set_state([])  # which led there
            raise
        metrics["seconds"] += planning
        if not watch.end_epoch(number + 1, metrics):
            break


def _search(
    engine: Engine, data: Data, plan: Plan, watch: Watch, callbacks: Sequence[Callback]
) -> None:
    """Run L-BFGS, whose iterations are epochs here."""
    l2 = plan.l2 / data.total_weight if plan.l2_is_shared else plan.l2
    number = plan.first_epoch

    def end_iteration(loss: float, seconds: float) -> bool:
        nonlocal number
        number += 1
        metrics = {"loss": loss}
        if watch.classifies:
            metrics["accuracy"] = engine.evaluate(data)[1]
        metrics["seconds"] = seconds
        for callback in callbacks:  # that there would be another was not known before
            callback.on_epoch_begin(number)
            callback.on_chunk_end(number, len(data.x))
        return watch.end_epoch(number, metrics)

    limits = Limits(plan.epochs, plan.max_evaluations, plan.tolerance)
    found = minimize(engine, data, l2, limits, end_iteration, plan.first_epoch)
    if found and not watch.stopped:
        watch.stopped = "converged"


def _plan_epoch(
    data: Data, plan: Plan, number: int, updates_before: int, rate_divisor: float
) -> Epoch:
    """Decide the order and the learning rates of an epoch."""
    rows = len(data.x)
    order = permutation(plan.seed, number, rows) if plan.shuffle else np.arange(rows)
    rates = plan.schedule.rates(
        plan.optimizer.learning_rate / rate_divisor,
        epoch=number - plan.first_epoch,
        epochs=plan.epochs,
        updates=-(-rows // plan.batch_size),
        samples_seen=plan.samples_before + (number - plan.first_epoch) * rows,
    )
    return Epoch(
        data,
        order,
        plan.batch_size,
        rates,
        plan.optimizer,
        l2=plan.l2,
        l2_is_shared=plan.l2_is_shared,
        clip_norm=plan.clip_norm,
        updates_before=updates_before,
        seed=plan.seed,
        number=number,
    )


def _run_epoch(
    engine: Engine, epoch: Epoch, number: int, callbacks: Sequence[Callback]
) -> dict[str, float]:
    """Run one epoch in calls of about CALL_SECONDS; return its figures.

    The seconds are those in the engine: callbacks do not count.
    """
    rows = len(epoch.order)
    progress, total = Progress(), 0.0
    budget = _FIRST_BUDGET_ROWS
    while progress.position < rows:
        start = time.perf_counter()
        before = progress.position
        progress = engine.run_chunk(epoch, progress, budget)
        seconds = time.perf_counter() - start
        total += seconds
        if not math.isfinite(progress.loss_sum):
            step = progress.position // epoch.batch_size + 1
            _raise_divergence(number, step, epoch.optimizer)
        rate = (progress.position - before) / max(seconds, 1e-9)
        budget = max(1, min(rows, int(rate * CALL_SECONDS), 4 * budget))
        for callback in callbacks:
            callback.on_chunk_end(number, progress.position)
    return {
        "loss": progress.loss_sum / epoch.total_weight,
        "accuracy": progress.correct / epoch.total_weight,
        "learning_rate": float(epoch.learning_rates[-1]),
        "seconds": total,
    }


def r2(predicted: np.ndarray, data: Data) -> float:
    """Return 1 - Σ (y - p)² / Σ (y - ȳ)², the mean over the outputs; weighted as the rows are.

    An output whose targets are all the same counts 1 where it is right everywhere, else 0.
    """
    y, p = data.targets.astype(np.float64), predicted.astype(np.float64)
    residual = np.average((y - p) ** 2, axis=0, weights=data.weights)
    spread = np.average(
        (y - np.average(y, axis=0, weights=data.weights)) ** 2, axis=0, weights=data.weights
    )
    explained = 1 - residual / np.where(spread > 0, spread, 1)
    return float(np.where(spread > 0, explained, residual == 0).mean())


def _all_finite(parameters: Parameters) -> bool:
    """Return whether all weights and biases are finite."""
    return all(np.isfinite(array).all() for pair in parameters for array in pair)


def _raise_divergence(
    epoch: int, step: int, optimizer: Optimizer, what: str = "the loss is"
) -> NoReturn:
    """Raise a DivergenceError that says what to try; epoch and step are counted from 1."""
    rate = optimizer.learning_rate
    raise DivergenceError(
        f"{what} not finite in epoch {epoch}, step {step}, at learning rate {rate:g}: training "
        f"stopped with the last finite weights; try a smaller learning rate ({rate / 10:g}), or "
        "check the scale of the features",
        epoch=epoch,
        step=step,
    )
