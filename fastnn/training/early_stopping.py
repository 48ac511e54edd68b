"""When to stop: a pure state machine over one figure an epoch."""

import math
from dataclasses import dataclass
from numbers import Real
from typing import NamedTuple


@dataclass(frozen=True)
class EarlyStopping:
    """Stop once a figure has not improved for a while, and keep the best weights.

    Parameters
    ----------
    monitor : str, default "val_loss"
        A figure of the history. One whose name ends in "loss" is to fall, any other to rise.
    patience : int or inf, default 10
        So many epochs without improvement are put up with; the next one is the last (elsewhere
        it is often the last of these).
    min_delta : float, default 1e-4
        An epoch that is not better than the best one by at least this has not improved; with 0,
        every epoch has that is not worse.
    restore_best : bool, default True
        End with the weights of the best epoch, not with those of the last.
    """

    monitor: str = "val_loss"
    patience: float = 10
    min_delta: float = 1e-4
    restore_best: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.monitor, str):
            raise ValueError(f"monitor must be the name of a figure, got {self.monitor!r}")
        for name in ("patience", "min_delta"):
            value = getattr(self, name)
            real = isinstance(value, Real) and not isinstance(value, bool)
            if not real or not value >= 0:
                raise ValueError(f"{name} must be a number of at least 0, got {value!r}")


class Standing(NamedTuple):
    """What there is to remember from epoch to epoch.

    Attributes
    ----------
    best : float
        The best figure so far; NaN before the first.
    best_epoch : int
        Its epoch, counted from 1.
    waited : int
        Epochs since the last that improved.
    """

    best: float = math.nan
    best_epoch: int = 0
    waited: int = 0


def judge(rule: EarlyStopping, standing: Standing, epoch: int, value: float) -> Standing:
    """Return how things stand after an epoch. A NaN is no improvement.

    What is better than the best, but by less than `min_delta`, is the new best and still counts
    as waiting: many small steps do not keep a fit alive.

    Examples
    --------
    >>> rule, standing = EarlyStopping("val_loss", patience=1), Standing()
    >>> for epoch, loss in enumerate([0.5, 0.4, 0.45, 0.41], start=1):
    ...     standing = judge(rule, standing, epoch, loss)
    >>> standing, is_over(rule, standing)
    (Standing(best=0.4, best_epoch=2, waited=2), True)
    """
    if math.isnan(value):
        return standing._replace(waited=standing.waited + 1)
    gain = math.inf
    if standing.best_epoch:
        falls = rule.monitor.endswith("loss")
        gain = standing.best - value if falls else value - standing.best
    waited = 0 if gain >= rule.min_delta else standing.waited + 1
    if gain > 0:
        return Standing(value, epoch, waited)
    return standing._replace(waited=waited)


def is_over(rule: EarlyStopping, standing: Standing) -> bool:
    """Return whether patience is at its end."""
    return standing.waited > rule.patience
