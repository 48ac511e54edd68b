"""The settings of a fit."""

from dataclasses import dataclass
from typing import Any, Literal

from fastnn.model.losses import Loss
from fastnn.model.optimizers import Optimizer
from fastnn.model.schedules import Schedule
from fastnn.model.settings import check_integer, check_setting
from fastnn.training.early_stopping import EarlyStopping


@dataclass(frozen=True)
class Plan:
    """Settings of a fit, which `fastnn.Network.fit` explains. They are checked and converted.

    Attributes
    ----------
    epochs : int
    batch_size : int or "full"
        Rows per update; None stands for 128 or, with L-BFGS, for all rows.
    optimizer : Optimizer
    schedule : Schedule
        A Schedule or its name. It covers the epochs of this fit.
    l2, clip_norm : float
    l2_is_shared : bool
        Whether the l2 penalty of a batch is divided by its number of rows (or the sum of their
        weights), as scikit-learn does.
    shuffle : bool
    seed : int
        Determines the order of the rows and the dropout masks.
    early_stopping : EarlyStopping, optional
        True stands for ``EarlyStopping()``.
    max_evaluations, tolerance
        Limits of L-BFGS, as in `fastnn.training.lbfgs.Limits`.

    Raises
    ------
    ValueError
        If a setting is out of range.
    """

    epochs: int
    batch_size: int | Literal["full"]
    optimizer: Optimizer
    schedule: Schedule = Schedule()
    l2: float = 0.0
    l2_is_shared: bool = False
    clip_norm: float = 0.0
    shuffle: bool = True
    seed: int = 0
    early_stopping: EarlyStopping | None = None
    max_evaluations: int = 15_000
    tolerance: float = 1e-5

    def __post_init__(self) -> None:
        check_setting("l2", self.l2)
        check_setting("clip_norm", self.clip_norm)
        rule, schedule = self.early_stopping, self.schedule
        rule = EarlyStopping() if rule is True else rule or None
        if rule is not None and not isinstance(rule, EarlyStopping):
            raise ValueError(f"early_stopping must be a bool or an EarlyStopping, got {rule!r}")
        checked = {
            "epochs": check_integer(self.epochs, "epochs", low=1),
            "batch_size": _batch_size(self.batch_size, self.optimizer),
            "schedule": schedule if isinstance(schedule, Schedule) else Schedule(schedule),
            "l2": float(self.l2),
            "clip_norm": float(self.clip_norm),
            "shuffle": bool(self.shuffle),
            "early_stopping": rule,
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)


def check_monitor(
    rule: EarlyStopping | None, loss: Loss, *, validated: bool, scored: bool = False
) -> None:
    """Raise a ValueError if early stopping monitors a metric that this fit does not compute."""
    metrics = ["loss"] + (["accuracy"] if loss.score == "accuracy" else [])
    metrics += ["val_loss", f"val_{loss.score}"] if validated else []
    metrics += ["val_score"] if scored else []
    if rule is not None and rule.monitor not in metrics:
        hint = "" if validated else "; pass validation_data or validation_fraction for more"
        raise ValueError(
            f"early_stopping monitors {rule.monitor!r}, but this fit computes only "
            f"{', '.join(metrics)}{hint}"
        )


def _batch_size(given: Any, optimizer: Optimizer) -> int | Literal["full"]:
    if given == "full" or (given is None and optimizer.rule == "lbfgs"):
        return "full"
    if optimizer.rule == "lbfgs":
        raise ValueError(f"lbfgs uses all rows: batch_size must be 'full' or None, got {given!r}")
    return check_integer(128 if given is None else given, "batch_size", low=1)
