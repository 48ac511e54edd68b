"""The settings of a fit, as one frozen record."""

from dataclasses import dataclass
from typing import Any

from fastnn.model.losses import Loss
from fastnn.model.optimizers import Optimizer, get_optimizer
from fastnn.model.schedules import Schedule
from fastnn.model.settings import check_integer, check_setting
from fastnn.training.early_stopping import EarlyStopping


@dataclass(frozen=True)
class Plan:
    """Settings of a fit.

    Attributes
    ----------
    epochs : int
    batch_size : int
        Rows per update; 0 for all rows.
    optimizer : Optimizer
    schedule : Schedule
        Spans the epochs of this fit.
    l2, l2_is_shared, clip_norm
        As in `fastnn.epoch.Epoch`.
    shuffle : bool
    seed : int
        Determines the order of the rows and the dropout masks.
    early_stopping : EarlyStopping, optional
    max_evaluations, tolerance
        Limits of L-BFGS, as in `fastnn.training.lbfgs.Limits`.
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
    max_evaluations: int = 15_000
    tolerance: float = 1e-5


def make_plan(
    *,
    epochs: Any,
    batch_size: Any,
    optimizer: str | Optimizer,
    learning_rate: float | None,
    momentum: float | None,
    weight_decay: float | None,
    schedule: str | Schedule,
    l2: Any,
    clip_norm: Any,
    shuffle: Any,
    early_stopping: Any,
    seed: int,
) -> Plan:
    """Return the plan for a user's settings, which `fastnn.Network.fit` explains.

    Raises
    ------
    ValueError
        If a setting is out of range.
    """
    chosen = get_optimizer(
        optimizer, learning_rate=learning_rate, momentum=momentum, weight_decay=weight_decay
    )
    rule = EarlyStopping() if early_stopping is True else early_stopping or None
    if rule is not None and not isinstance(rule, EarlyStopping):
        raise ValueError(f"early_stopping must be a bool or an EarlyStopping, got {rule!r}")
    check_setting("l2", l2)
    check_setting("clip_norm", clip_norm)
    return Plan(
        epochs=check_integer(epochs, "epochs", low=1),
        batch_size=_batch_rows(batch_size, chosen),
        optimizer=chosen,
        schedule=schedule if isinstance(schedule, Schedule) else Schedule(schedule),
        l2=float(l2),
        clip_norm=float(clip_norm),
        shuffle=bool(shuffle),
        seed=seed,
        early_stopping=rule,
    )


def check_monitor(
    rule: EarlyStopping | None, loss: Loss, *, validated: bool, scored: bool = False
) -> None:
    """Raise a ValueError if early stopping monitors a figure that this fit does not compute."""
    if rule is None:
        return
    figures = ["loss"] + (["accuracy"] if loss.score == "accuracy" else [])
    figures += ["val_loss", f"val_{loss.score}"] if validated else []
    figures += ["val_score"] if scored else []
    if rule.monitor not in figures:
        hint = "" if validated else "; for more, give validation data"
        raise ValueError(
            f"early stopping monitors one of {', '.join(figures)} here, got {rule.monitor!r}{hint}"
        )


def _batch_rows(given: Any, optimizer: Optimizer) -> int:
    """Return the rows of a batch, 0 for all."""
    if optimizer.rule == "lbfgs":
        if given not in (None, "full"):
            raise ValueError(f"lbfgs takes all rows at once, got batch_size {given!r}")
        return 0
    if given == "full":
        return 0
    return check_integer(128 if given is None else given, "batch_size", low=1)
