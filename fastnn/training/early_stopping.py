"""Early stopping: a stopping rule, its state, and functions without side effects."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from fastnn.model.settings import check_number


@dataclass(frozen=True)
class EarlyStopping:
    """Stopping rule: stop a fit when a metric no longer improves; restore the best weights.

    Parameters
    ----------
    monitor : str, default "val_loss"
        Metric of the history. It is minimized if its name ends in "loss", else maximized.
    patience : int or inf, default 10
        Consecutive epochs without improvement to tolerate. Training stops after ``patience + 1``
        of them, as in scikit-learn.
    min_delta : float, default 1e-4
        Smallest change that counts as an improvement. With 0, an equal value counts, too.
    restore_best : bool, default True
        Whether to end with the weights of the best epoch instead of the last ones.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import EarlyStopping, Network
    >>> x = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    >>> y = (x[:, 0] > 0).astype(int)
    >>> history = Network([4, 8, 2]).fit(
    ...     x, y, epochs=1000, learning_rate=0.5, validation_fraction=0.2,
    ...     early_stopping=EarlyStopping("val_accuracy", patience=5, min_delta=0.01),
    ... )
    >>> len(history["loss"]) < 1000
    True
    """

    monitor: str = "val_loss"
    patience: float = 10
    min_delta: float = 1e-4
    restore_best: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.monitor, str):
            raise ValueError(f"monitor must be the name of a metric, got {self.monitor!r}")
        for name in ("patience", "min_delta"):
            check_number(name, getattr(self, name))


class StoppingState(NamedTuple):
    """State of a stopping rule between epochs.

    Attributes
    ----------
    best : float
        Best value of the metric so far; NaN before the first epoch.
    best_epoch : int
        Epoch of the best value, counted from 1; 0 before the first.
    waited : int
        Consecutive epochs without improvement.
    """

    best: float = math.nan
    best_epoch: int = 0
    waited: int = 0


def judge(rule: EarlyStopping, stopping: StoppingState, epoch: int, value: float) -> StoppingState:
    """Return the state after an epoch in which the metric is `value`. NaN is no improvement.

    A value that is better than the best one by less than `min_delta` becomes the best one, but does
    not count as an improvement: many small steps do not prolong a fit.

    Examples
    --------
    >>> rule, stopping = EarlyStopping("val_loss", patience=1), StoppingState()
    >>> for epoch, loss in enumerate([0.5, 0.4, 0.45, 0.41], start=1):
    ...     stopping = judge(rule, stopping, epoch, loss)
    >>> stopping, is_over(rule, stopping)
    (StoppingState(best=0.4, best_epoch=2, waited=2), True)
    """
    if math.isnan(value):
        return stopping._replace(waited=stopping.waited + 1)
    gain = math.inf
    if stopping.best_epoch:
        falls = rule.monitor.endswith("loss")
        gain = stopping.best - value if falls else value - stopping.best
    waited = 0 if gain >= rule.min_delta else stopping.waited + 1
    if gain > 0:
        return StoppingState(value, epoch, waited)
    return stopping._replace(waited=waited)


def is_over(rule: EarlyStopping, stopping: StoppingState) -> bool:
    """Return whether training should stop."""
    return stopping.waited > rule.patience
