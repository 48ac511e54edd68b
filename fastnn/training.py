"""The fit loop: epochs, shuffles, schedules, validation, early stopping. It knows no arithmetic."""

import math
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple, NoReturn

import numpy as np

from fastnn.batches import Data, Epoch, Progress
from fastnn.callbacks import Callback
from fastnn.early_stopping import Standing
from fastnn.engine import Engine
from fastnn.errors import DivergenceError
from fastnn.layers import Parameters
from fastnn.lbfgs import Limits, minimize
from fastnn.losses import Loss
from fastnn.optimizers import Optimizer
from fastnn.plan import Plan
from fastnn.randomness import permutation
from fastnn.readahead import ReadAhead
from fastnn.watch import History, Score, Watch

# A call of the engine is meant to take this long: short enough for a prompt answer to Ctrl-C,
# long enough that its overhead (a few microseconds) vanishes.
CALL_SECONDS = 0.02
_FIRST_BUDGET_ROWS = 512


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
    if plan.shuffle:
        order = permutation(plan.seed, number, rows, data.x.nbytes // rows)
    else:
        order = np.arange(rows)
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
    with ReadAhead(epoch.data, epoch.order) as ahead:
        while progress.position < rows:
            start = time.perf_counter()
            before = progress.position
            ahead.advance(before + budget)
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
