"""Where a fit stands, and what watches it: counts, validation, history, early stopping."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fastnn.data.rows import Data
from fastnn.engine import Engine
from fastnn.epoch import Progress
from fastnn.model.layers import Parameters
from fastnn.model.losses import Loss
from fastnn.model.schedules import ADAPTIVE_END, ADAPTIVE_FACTOR
from fastnn.model.settings import COUNT_LIMIT
from fastnn.system.interrupts import DeferInterrupts
from fastnn.training.callbacks import Bookkeeper, Callback
from fastnn.training.early_stopping import EarlyStopping, Standing, is_over, judge
from fastnn.training.plan import Plan

# Without early stopping, an adaptive rate follows the training loss, as scikit-learn has it.
_ADAPTIVE = EarlyStopping("loss", patience=10, min_delta=1e-4, restore_best=False)

History = dict[str, list[float]]
Score = Callable[[], float]


@dataclass
class Counts:
    """What a network has been through: whole epochs, the rows that they took, and updates.

    Updates are those that the optimizer's state has seen.
    """

    epochs: int = 0
    samples: int = 0
    updates: int = 0

    def check_room(self, epochs: int, rows: int) -> None:
        """Raise a ValueError if a fit would reach a count that files cannot store."""
        if max(self.epochs + epochs, self.samples + epochs * rows) >= COUNT_LIMIT:
            raise ValueError(
                f"{epochs:,} epochs of {rows:,} rows are too many for a network that was trained "
                f"for {self.epochs:,} epochs and {self.samples:,} rows: counts must be below 2**53"
            )


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Where a fit stands at the end of a batch, or between two epochs: all that it goes on from.

    Attributes
    ----------
    parameters : list of (w, b)
    state : list of such lists
        The optimizer's, slot by slot.
    best : list of (w, b), optional
        The weights of the best epoch, where they are kept.
    history : dict of str to list of float
        Of this fit's epochs that are over.
    first_epoch, updates_before, samples_before : int
        As in the fit's `Plan`.
    epoch : int
        The one that is running, or comes next, counted from 0.
    progress : Progress
        In this epoch.
    seconds : float
        That this epoch has taken.
    standing, rate_divisor, stopped
        As in `fastnn.training.Outcome`.
    kept : dict of str to list of float
        Of the callbacks that are `fastnn.training.callbacks.Bookkeeper`.
    """

    parameters: Parameters
    state: list[Parameters]
    best: Parameters | None
    history: History
    first_epoch: int
    updates_before: int
    samples_before: int
    epoch: int
    progress: Progress
    seconds: float
    standing: Standing
    rate_divisor: float
    stopped: str
    kept: dict[str, list[float]]

    @property
    def epochs(self) -> int:
        """Epochs of this fit that are over."""
        return self.epoch - self.first_epoch


class Watch:
    """Where a fit stands, and what happens between epochs: validation, history, callbacks.

    What it knows is true at the end of every batch; an interrupt finds all of it or nothing.

    Parameters
    ----------
    counts : Counts
        The network's, which are kept up to date.
    rows : int
        That an epoch takes.
    """

    def __init__(
        self,
        engine: Engine,
        plan: Plan,
        counts: Counts,
        rows: int,
        *,
        loss: Loss,
        validation: Data | None = None,
        callbacks: Sequence[Callback] = (),
        score: Score | None = None,
    ) -> None:
        self._engine, self._plan, self._counts, self._rows = engine, plan, counts, rows
        self._loss, self._validation, self._score = loss, validation, score
        self._callbacks = [each for each in callbacks if not isinstance(each, Bookkeeper)]
        self._bookkeepers = [each for each in callbacks if isinstance(each, Bookkeeper)]
        self._best: Parameters | None = None
        self.history: History = {}
        self.standing, self.rate_divisor, self.stopped = plan.standing, plan.rate_divisor, ""
        self.epoch, self.progress, self.seconds = plan.first_epoch, Progress(), 0.0
        self._rule = plan.early_stopping
        self._adaptive = plan.schedule.name == "adaptive" and plan.optimizer.rule != "lbfgs"
        if self._rule is None and self._adaptive:
            self._rule = _ADAPTIVE
        if self._rule is not None and self._rule.restore_best and self.standing.best_epoch:
            self._best = engine.get_parameters()  # of the fit that this one goes on from

    def go_on(self, snapshot: Snapshot) -> None:
        """Take up a fit, whose plan this one's is."""
        with DeferInterrupts():
            self._engine.set_parameters(snapshot.parameters)
            self._engine.set_state(snapshot.state)
            self._best = snapshot.best
            self.history = {name: list(curve) for name, curve in snapshot.history.items()}
            self.standing, self.rate_divisor = snapshot.standing, snapshot.rate_divisor
            self.stopped, self.epoch = snapshot.stopped, snapshot.epoch
            self.progress, self.seconds = snapshot.progress, snapshot.seconds
            self._count()
            for each in self._bookkeepers:
                each.kept = {name: snapshot.kept.get(name, []) for name in each.kept}

    def snapshot(self) -> Snapshot:
        """Return where the fit stands; of a batch that is not over, where it began."""
        engine, plan = self._engine, self._plan
        kept = {name: curve for each in self._bookkeepers for name, curve in each.kept.items()}
        return Snapshot(
            engine.get_parameters(), engine.get_state(plan.optimizer.slots), self._best,
            self.history, plan.first_epoch, plan.updates_before, plan.samples_before, self.epoch,
            self.progress, self.seconds, self.standing, self.rate_divisor, self.stopped, kept,
        )  # fmt: skip

    def advance(self, progress: Progress, seconds: float) -> None:
        """Take how far the running epoch is, and the seconds it took, if a batch is over."""
        if progress.position % self._plan.batch_size == 0 or progress.position == self._rows:
            self.progress, self.seconds = progress, seconds
            self._count()

    def _count(self) -> None:
        plan, counts, epochs = self._plan, self._counts, self.epoch - self._plan.first_epoch
        updates = epochs * -(-self._rows // plan.batch_size)
        updates += -(-self.progress.position // plan.batch_size)
        counts.epochs = self.epoch
        counts.samples = plan.samples_before + epochs * self._rows
        counts.updates = plan.updates_before + updates

    def forget_state(self) -> None:
        """Clear the optimizer's state, which led to divergence."""
        self._engine.set_state([])
        self._counts.updates = 0

    def end_epoch(self, metrics: dict[str, float]) -> bool:
        """Take the figures of the running epoch, which is over; return whether to go on."""
        if not self.classifies:
            metrics.pop("accuracy", None)
        metrics |= self._validated()
        number = self.epoch + 1
        with DeferInterrupts():
            for name, value in metrics.items():
                self.history.setdefault(name, []).append(value)
            if self._rule is not None:
                self._judge(number, metrics)
            self.epoch, self.progress, self.seconds = number, Progress(), 0.0
            self._count()
            wishes = [each.on_epoch_end(number, metrics) for each in self._bookkeepers]
        wishes += [each.on_epoch_end(number, metrics) for each in self._callbacks]
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
