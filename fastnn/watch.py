"""What watches a fit: validation, history, early stopping, counts. It changes no weight itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fastnn.batches import Data
from fastnn.callbacks import Callback
from fastnn.early_stopping import EarlyStopping, is_over, judge
from fastnn.engine import Engine
from fastnn.layers import Parameters
from fastnn.losses import Loss
from fastnn.plan import Plan
from fastnn.schedules import ADAPTIVE_END, ADAPTIVE_FACTOR

# Without early stopping, an adaptive rate follows the training loss, as scikit-learn has it.
_ADAPTIVE = EarlyStopping("loss", patience=10, min_delta=1e-4, restore_best=False)

History = dict[str, list[float]]
Score = Callable[[], float]


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
