"""What a fit is asked to do, as one frozen record."""

from dataclasses import dataclass
from typing import Any

from fastnn.model.losses import Loss
from fastnn.model.optimizers import Optimizer, get_optimizer
from fastnn.model.schedules import Schedule
from fastnn.model.settings import check_integer, check_setting
from fastnn.training.early_stopping import EarlyStopping, Standing


@dataclass(frozen=True)
class Plan:
    """How to train.

    Attributes
    ----------
    epochs, batch_size : int
    optimizer : Optimizer
    schedule : Schedule
        Spans the epochs of this fit.
    l2, l2_is_shared, clip_norm
        As in `fastnn.epoch.Epoch`.
    shuffle : bool
    seed : int
        Decides the order of the rows and the dropout masks.
    early_stopping : EarlyStopping, optional
    first_epoch : int
        Epochs are counted from 0 here: the one that picks the first shuffle, so that a fit in
        two parts equals a fit in one.
    updates_before : int
        Updates that the optimizer's state has seen.
    samples_before : int
        Rows that all epochs before this fit took.
    standing : Standing
        Where early stopping, or an adaptive rate, stood at the end of the fit before.
    rate_divisor : float
        What an adaptive rate was divided by then.
    max_evaluations, tolerance
        Of L-BFGS, as in `fastnn.training.lbfgs.Limits`.
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
    first_epoch: int = 0
    updates_before: int = 0
    samples_before: int = 0
    standing: Standing = Standing()
    rate_divisor: float = 1.0
    max_evaluations: int = 15_000
    tolerance: float = 1e-5


def planned(
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
    """Return the plan of a user's settings, which `fastnn.Network.fit` explains.

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


def check_monitor(rule: EarlyStopping | None, loss: Loss, *, validated: bool) -> None:
    """Raise a ValueError if a fit with this loss has no figure that early stopping monitors."""
    if rule is None:
        return
    score = "accuracy" if loss.score == "accuracy" else "r2"
    figures = ["loss"] + (["accuracy"] if score == "accuracy" else [])
    figures += ["val_loss", f"val_{score}"] if validated else []
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
    return (
        0
        if given == "full"
        else check_integer(128 if given is None else given, "batch_size", low=1)
    )
