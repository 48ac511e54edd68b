"""The fit loop: epochs, shuffles, validation, history. It knows no arithmetic."""

import math
import time
from collections.abc import Sequence

import numpy as np

from fastnn.batches import Epoch, Progress
from fastnn.callbacks import Callback
from fastnn.engine import Engine
from fastnn.errors import DivergenceError
from fastnn.layers import Parameters
from fastnn.optimizers import Optimizer
from fastnn.randomness import permutation

# A call of the engine is meant to take this long: short enough for a prompt answer to Ctrl-C,
# long enough that its overhead (a few microseconds) vanishes.
CALL_SECONDS = 0.02
_FIRST_BUDGET_ROWS = 512

History = dict[str, list[float]]
ValidationData = tuple[np.ndarray, np.ndarray]


def fit(
    engine: Engine,
    x: np.ndarray,
    labels: np.ndarray,
    *,
    first_epoch: int,
    epochs: int,
    batch_size: int,
    optimizer: Optimizer,
    l2: float,
    updates_before: int,
    seed: int,
    validation_data: ValidationData | None,
    callbacks: Sequence[Callback],
) -> History:
    """Train for a number of epochs; return what `fastnn.Network.fit` documents.

    Epochs are counted from 0 here: `first_epoch` picks the first shuffle, so that a fit in two
    parts equals a fit in one.
    """
    history: History = {}
    finite = engine.get_parameters()
    for number in range(first_epoch, first_epoch + epochs):
        start = time.perf_counter()
        order = permutation(seed, number, len(x))
        epoch = Epoch(
            x, labels, order, batch_size, optimizer.learning_rate, optimizer, l2, updates_before
        )
        updates_before += epoch.updates
        shuffling = time.perf_counter() - start
        try:
            metrics = _run_epoch(engine, epoch, number + 1, callbacks)
            if not _all_finite(parameters := engine.get_parameters()):
                _raise_divergence(epoch, number + 1, len(x) - 1, "the weights are")
            finite = parameters
        except DivergenceError:
            if not _all_finite(engine.get_parameters()):
                engine.set_parameters(finite)
            if not all(map(_all_finite, engine.get_state(optimizer.slots))):
                engine.set_state([])
            raise
        metrics["seconds"] += shuffling
        if validation_data is not None:
            metrics["val_loss"], metrics["val_accuracy"] = engine.evaluate(*validation_data)
        for name, value in metrics.items():
            history.setdefault(name, []).append(value)
        for callback in callbacks:
            callback.on_epoch_end(number + 1, metrics)
    return history


def _run_epoch(
    engine: Engine, epoch: Epoch, number: int, callbacks: Sequence[Callback]
) -> dict[str, float]:
    """Run one epoch in calls of about CALL_SECONDS; return its loss, accuracy and seconds.

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
            _raise_divergence(epoch, number, progress.position)
        rate = (progress.position - before) / max(seconds, 1e-9)
        budget = max(1, min(rows, int(rate * CALL_SECONDS), 4 * budget))
        for callback in callbacks:
            callback.on_chunk_end(number, progress.position)
    loss, accuracy = progress.loss_sum / rows, progress.correct / rows
    return {"loss": loss, "accuracy": accuracy, "seconds": total}


def _all_finite(parameters: Parameters) -> bool:
    return all(np.isfinite(array).all() for pair in parameters for array in pair)


def _raise_divergence(epoch: Epoch, number: int, position: int, what: str = "the loss is") -> None:
    step = position // epoch.batch_size + 1
    raise DivergenceError(
        f"{what} not finite in epoch {number}, step {step}, at learning rate "
        f"{epoch.learning_rate:g}: training stopped with the last finite weights; try a smaller "
        f"learning rate ({epoch.learning_rate / 10:g}), or check the scale of the features",
        epoch=number,
        step=step,
    )
