"""The training loop: runs the epochs, calls the callbacks, handles divergence and interrupts."""

import math
import time
from contextlib import ExitStack, suppress
from typing import NoReturn

import numpy as np

from fastnn.data.readahead import ReadAhead
from fastnn.epoch import Epoch
from fastnn.errors import DivergenceError
from fastnn.model.layers import Parameters
from fastnn.model.randomness import permutation
from fastnn.system.interrupts import DeferInterrupts
from fastnn.training.fit import Fit
from fastnn.training.lbfgs import minimize

# Target duration of one call of the engine: short enough for a prompt reaction to Ctrl-C, long
# enough that the overhead of a call, a few microseconds, is negligible.
CALL_SECONDS = 0.02
_FIRST_CALL_ROWS = 512


def train(fit: Fit) -> None:
    """Train a network with the settings in ``fit.plan``.

    If early stopping restores the best weights, the engine has them afterwards, however the fit
    ends.

    Raises
    ------
    DivergenceError
        If the loss or a weight stops being finite; the engine then has the last finite weights.
    """
    with fit.attach(), ExitStack() as contexts:
        for callback in fit.callbacks:
            contexts.enter_context(callback.context())
        try:
            fit.begin()
            (minimize if fit.plan.optimizer.rule == "lbfgs" else _descend)(fit)
            with DeferInterrupts():
                fit.restore_best()
            fit.call("on_fit_end", fit.history)
        except BaseException as error:
            fit.error = error
            for callback in fit.callbacks:
                with suppress(Exception):  # the first error is reported
                    callback.on_fit_break()
            raise
        finally:
            with DeferInterrupts():
                fit.restore_best()


def _descend(fit: Fit) -> None:
    """Run the epochs of an optimizer that updates the weights after each batch."""
    finite = fit.weights()
    while not fit.is_over:
        fit.call("on_epoch_begin", fit.epoch)
        start = time.perf_counter()
        epoch = _plan_epoch(fit)
        planning = time.perf_counter() - start
        try:
            metrics = _run_epoch(fit, epoch)
            if not _all_finite(parameters := fit.weights()):
                _raise_divergence(fit, epoch.updates, "the weights are not finite after epoch {}")
            finite = parameters
        except BaseException:
            with DeferInterrupts():
                if not _all_finite(fit.weights()):
                    fit.has_diverged = True
                    fit.engine.set_parameters(finite)
                if fit.has_diverged:
                    fit.engine.set_state([])  # it led to the divergence
                    fit.position = fit.position._replace(updates=0)
            raise
        metrics["seconds"] += planning
        fit.end_epoch(metrics)


def _plan_epoch(fit: Fit) -> Epoch:
    """Return the next epoch, with the order of its rows and its learning rates."""
    plan, rows, number = fit.plan, fit.rows, fit.position.epochs
    done = number - fit.start.epochs
    updates = -(-rows // fit.batch_size)
    if plan.shuffle:
        order = permutation(plan.seed, number, rows, fit.data.x.nbytes // rows)
    else:
        order = np.arange(rows)
    rates = plan.schedule.rates(
        plan.optimizer.learning_rate / fit.position.rate_divisor,
        epoch=done,
        epochs=plan.epochs,
        updates=updates,
        samples_seen=fit.start.samples + done * rows,
    )
    return Epoch(
        fit.data,
        order,
        fit.batch_size,
        rates,
        plan.optimizer,
        l2=plan.l2,
        l2_is_shared=plan.l2_is_shared,
        clip_norm=plan.clip_norm,
        updates_before=fit.start.updates + done * updates,
        seed=plan.seed,
        number=number,
    )


def _run_epoch(fit: Fit, epoch: Epoch) -> dict[str, float]:
    """Run the rest of an epoch in calls of about CALL_SECONDS; return its metrics.

    The metric "seconds" is the time in the engine, without callbacks.
    """
    rows, number = fit.rows, fit.epoch
    progress, total = fit.position.progress, fit.position.seconds
    target_rows = _FIRST_CALL_ROWS
    with ReadAhead(epoch.data, epoch.order) as ahead:
        while progress.position < rows:
            before = progress.position
            call_rows = _rows_of_call(before, target_rows, epoch.batch_size)
            ahead.advance(before + call_rows)
            with DeferInterrupts():
                start = time.perf_counter()
                progress = fit.engine.run_chunk(epoch, progress, call_rows)
                seconds = time.perf_counter() - start
                total += seconds
                if not math.isfinite(progress.loss_sum):
                    step = progress.position // epoch.batch_size + 1
                    _raise_divergence(fit, step, "the loss is not finite in epoch {}, step {}")
                fit.advance(progress, total)
            rate = (progress.position - before) / max(seconds, 1e-9)
            target_rows = max(1, min(rows, int(rate * CALL_SECONDS), 4 * target_rows))
            fit.call("on_chunk_end", number, progress.position)
    metrics = {"loss": progress.loss_sum / epoch.total_weight}
    if fit.classifies:
        metrics["accuracy"] = progress.correct / epoch.total_weight
    return metrics | {"learning_rate": float(epoch.learning_rates[-1]), "seconds": total}


def _rows_of_call(position: int, target_rows: int, batch_size: int) -> int:
    """Return the number of rows of the next call: several complete batches, or part of one batch.

    A call that ends in the middle of a batch does not update the weights for this batch, and
    `Fit.advance` does not record its progress. So the recorded position matches the weights after
    every call, and a snapshot can be taken.
    """
    done = position % batch_size
    if done == 0 and target_rows >= batch_size:
        return target_rows - target_rows % batch_size
    return min(target_rows, batch_size - done)


def _all_finite(parameters: Parameters) -> bool:
    """Return whether all weights and biases are finite."""
    return all(np.isfinite(array).all() for pair in parameters for array in pair)


def _raise_divergence(fit: Fit, step: int, message: str) -> NoReturn:
    """Raise a DivergenceError; `message` has placeholders for the epoch and the step, from 1."""
    rate = fit.plan.optimizer.learning_rate
    fit.has_diverged = True
    raise DivergenceError(
        f"{message.format(fit.epoch, step)}, at learning rate {rate:g}: training stopped with the "
        f"last finite weights; try a smaller learning rate ({rate / 10:g}), or check the scale of "
        "the features",
        epoch=fit.epoch,
        step=step,
    )
