"""The fit loop: epochs, shuffles, schedules, validation, early stopping. It knows no arithmetic."""

import math
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple, NoReturn

import numpy as np

from fastnn.data.readahead import ReadAhead
from fastnn.data.rows import Data
from fastnn.engine import Engine
from fastnn.epoch import Epoch
from fastnn.errors import DivergenceError
from fastnn.model.layers import Parameters
from fastnn.model.losses import Loss
from fastnn.model.optimizers import Optimizer
from fastnn.model.randomness import permutation
from fastnn.system.interrupts import DeferInterrupts
from fastnn.training.callbacks import Callback
from fastnn.training.checkpoint import Checkpoint, checkpoint_in
from fastnn.training.early_stopping import Standing
from fastnn.training.lbfgs import Limits, minimize
from fastnn.training.plan import Plan
from fastnn.training.state import Counts, History, Score, Watch

# A call of the engine is meant to take this long: short enough for a prompt answer to Ctrl-C,
# long enough that its overhead (a few microseconds) vanishes.
CALL_SECONDS = 0.02
_FIRST_BUDGET_ROWS = 512
_WEIGHTS = "the weights are"  # what is not finite


class Outcome(NamedTuple):
    """What came of a fit.

    Attributes
    ----------
    history : dict of str to list of float
    standing : Standing
    rate_divisor : float
        As in `Plan`, for a fit that goes on.
    stopped : str
        Why it ended before its last epoch: "converged" (a stopping rule was met), "stalled" (see
        `fastnn.training.lbfgs.minimize`) or "callback"; "" if it did not.
    """

    history: History
    standing: Standing
    rate_divisor: float
    stopped: str


def fit(
    engine: Engine,
    data: Data,
    plan: Plan,
    counts: Counts,
    *,
    loss: Loss,
    validation: Data | None = None,
    callbacks: Sequence[Callback] = (),
    score: Score | None = None,
) -> Outcome:
    """Train as a plan says. However it ends, it ends with the best weights if they are to be kept.

    Parameters
    ----------
    counts : Counts
        The network's; right at every moment at which an interrupt may come.
    validation : Data, optional
        Evaluated after every epoch.
    score : callable, optional
        Called after every epoch; what it returns goes into the history as ``val_score``.

    Raises
    ------
    DivergenceError
        If the loss or a weight stops being finite; the engine has the last finite weights then.
    """
    keeper = checkpoint_in(callbacks)
    watch = Watch(
        engine, plan, counts, len(data.x), loss=loss, validation=validation, callbacks=callbacks,
        score=score,
    )  # fmt: skip
    begun = False
    try:
        for callback in callbacks:
            callback.on_fit_begin(plan.epochs, len(data.x))
        if keeper is not None:
            _take_up(keeper, watch, callbacks)
        begun = True
        if plan.optimizer.rule == "lbfgs":
            _search(engine, data, plan, watch, callbacks)
        else:
            _descend(engine, data, plan, watch, callbacks)
        if keeper is not None:
            keeper.write(watch.snapshot())
    except BaseException as error:
        if keeper is not None and begun and _is_interrupt(error):
            keeper.write_last(watch.snapshot())
        for callback in callbacks:
            with suppress(Exception):  # the first error is the one to be told
                callback.on_fit_break()
        raise
    finally:
        with DeferInterrupts():
            watch.restore_best()
    for callback in callbacks:
        callback.on_fit_end(watch.history)
    return Outcome(watch.history, watch.standing, watch.rate_divisor, watch.stopped)


def _take_up(keeper: Checkpoint, watch: Watch, callbacks: Sequence[Callback]) -> None:
    """Have a fit go on where it was, and tell callbacks; or write a checkpoint of its beginning."""
    if keeper.snapshot is None:
        keeper.write(watch.snapshot())
        return
    watch.go_on(keeper.snapshot)
    for callback in callbacks:
        callback.on_resume(watch.epoch + 1, watch.progress.position, watch.history)


def _descend(
    engine: Engine, data: Data, plan: Plan, watch: Watch, callbacks: Sequence[Callback]
) -> None:
    """Run the epochs of an optimizer that takes its steps batch by batch."""
    finite, keeper = engine.get_parameters(), checkpoint_in(callbacks)
    while watch.epoch < plan.first_epoch + plan.epochs and not watch.stopped:
        for callback in callbacks:
            callback.on_epoch_begin(watch.epoch + 1)
        start = time.perf_counter()
        epoch = _plan_epoch(data, plan, watch.epoch, watch.rate_divisor)
        planning = time.perf_counter() - start
        try:
            metrics = _run_epoch(engine, epoch, watch, callbacks)
            if not _all_finite(parameters := engine.get_parameters()):
                _raise_divergence(watch.epoch + 1, epoch.updates, plan.optimizer, _WEIGHTS)
            finite = parameters
        except (DivergenceError, KeyboardInterrupt) as error:
            if _is_interrupt(error):
                raise
            with DeferInterrupts():
                if not _all_finite(engine.get_parameters()):
                    engine.set_parameters(finite)
                watch.forget_state()
            raise
        metrics["seconds"] += planning
        watch.end_epoch(metrics)
        if keeper is not None and keeper.is_due(watch.epoch - plan.first_epoch):
            keeper.write(watch.snapshot())


def _search(
    engine: Engine, data: Data, plan: Plan, watch: Watch, callbacks: Sequence[Callback]
) -> None:
    """Run L-BFGS, whose iterations are epochs here."""
    l2 = plan.l2 / data.total_weight if plan.l2_is_shared else plan.l2

    def end_iteration(loss: float, seconds: float) -> bool:
        metrics = {"loss": loss}
        if watch.classifies:
            metrics["accuracy"] = engine.evaluate(data)[1]
        metrics["seconds"] = seconds
        for callback in callbacks:  # that there would be another was not known before
            callback.on_epoch_begin(watch.epoch + 1)
            callback.on_chunk_end(watch.epoch + 1, len(data.x))
        return watch.end_epoch(metrics)

    limits = Limits(plan.epochs, plan.max_evaluations, plan.tolerance)
    end = minimize(engine, data, l2, limits, end_iteration, plan.first_epoch)
    watch.stopped = watch.stopped or end


def _plan_epoch(data: Data, plan: Plan, number: int, rate_divisor: float) -> Epoch:
    """Decide the order and the learning rates of an epoch, counted from 0."""
    rows, done = len(data.x), number - plan.first_epoch
    updates = -(-rows // plan.batch_size)
    if plan.shuffle:
        order = permutation(plan.seed, number, rows, data.x.nbytes // rows)
    else:
        order = np.arange(rows)
    rates = plan.schedule.rates(
        plan.optimizer.learning_rate / rate_divisor,
        epoch=done,
        epochs=plan.epochs,
        updates=updates,
        samples_seen=plan.samples_before + done * rows,
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
        updates_before=plan.updates_before + done * updates,
        seed=plan.seed,
        number=number,
    )


def _run_epoch(
    engine: Engine, epoch: Epoch, watch: Watch, callbacks: Sequence[Callback]
) -> dict[str, float]:
    """Run one epoch, or what is left of it, in calls of about CALL_SECONDS; return its figures.

    The seconds are those in the engine: callbacks do not count.
    """
    rows, number = len(epoch.order), watch.epoch + 1
    progress, total = watch.progress, watch.seconds
    budget = _FIRST_BUDGET_ROWS
    with ReadAhead(epoch.data, epoch.order) as ahead:
        while progress.position < rows:
            before = progress.position
            call_rows = _rows_of_call(before, budget, epoch.batch_size)
            ahead.advance(before + call_rows)
            with DeferInterrupts():
                start = time.perf_counter()
                progress = engine.run_chunk(epoch, progress, call_rows)
                seconds = time.perf_counter() - start
                total += seconds
                if not math.isfinite(progress.loss_sum):
                    step = progress.position // epoch.batch_size + 1
                    _raise_divergence(number, step, epoch.optimizer)
                watch.advance(progress, total)
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


def _rows_of_call(position: int, budget: int, batch_size: int) -> int:
    """Cut the rows of a call so that it ends with a batch, or in the batch in which it begins.

    So the weights, the optimizer's state and the sums of losses are known together at the end of
    every batch that ends a call: in the middle of a batch, weights are those of its beginning.
    """
    done = position % batch_size
    if done == 0 and budget >= batch_size:
        return budget - budget % batch_size
    return min(budget, batch_size - done)


def _is_interrupt(error: BaseException) -> bool:
    """Return whether an error is an interrupt, and not one at the moment of a divergence."""
    diverged = isinstance(error.__context__, DivergenceError)
    return isinstance(error, KeyboardInterrupt) and not diverged


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
