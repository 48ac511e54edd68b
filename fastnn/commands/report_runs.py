"""Training runs of the convergence reports: the plans of each report, and the results."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, groupby
from typing import TYPE_CHECKING

from fastnn.model.optimizers import OPTIMIZERS

if TYPE_CHECKING:
    from fastnn.training.state import History

MINI_BATCH = 128


@dataclass(frozen=True)
class Plan:
    """The settings of a training run.

    Attributes
    ----------
    method : str
        The name of the training method in the report, without the learning rate.
    batch_size : int or None
        Rows per update; None for all.
    learning_rate : float or None
        None for L-BFGS, which uses a line search.
    epochs : int
    optimizer : str, default "sgd"
        One of `fastnn.model.optimizers.OPTIMIZERS`.
    """

    method: str
    batch_size: int | None
    learning_rate: float | None
    epochs: int
    optimizer: str = "sgd"

    @property
    def rate(self) -> str:
        """The learning rate as the report shows it."""
        return "line search" if self.learning_rate is None else f"{self.learning_rate:g}"

    @property
    def name(self) -> str:
        """The method and its learning rate, if it has one."""
        return self.method if self.learning_rate is None else f"{self.method} at rate {self.rate}"


@dataclass(frozen=True, eq=False)
class Run:
    """A finished training run.

    Attributes
    ----------
    plan : Plan
    rows : int
        Number of training rows.
    history : dict of str to list of float
        As `fastnn.Network.fit` returns it with validation data; empty if the run diverged.
    diverged_in : int or None
        The epoch, counted from 1, in which the run diverged.
    """

    plan: Plan
    rows: int
    history: "History"
    diverged_in: int | None = None

    @property
    def batch_size(self) -> int:
        """Rows per update."""
        return min(self.plan.batch_size or self.rows, self.rows)

    @cached_property
    def seconds(self) -> list[float]:
        """Training seconds up to the end of each epoch."""
        return list(accumulate(self.history.get("seconds", [])))

    def epochs_to(self, accuracy: float) -> int | None:
        """Return the epoch, from 1, whose test accuracy was first at least this, or None."""
        reached = enumerate(self.history.get("val_accuracy", []), start=1)
        return next((epoch for epoch, each in reached if each >= accuracy), None)


def by_method(runs: Sequence[Run]) -> list[list[Run]]:
    """Return the runs grouped by method, in their order."""
    return [list(tried) for _, tried in groupby(runs, key=lambda run: run.plan.method)]


def best(runs: Sequence[Run]) -> Run:
    """Return the run with the lowest final training loss, or the first one if all diverged."""
    finished = [run for run in runs if run.history]
    return min(finished, key=lambda run: run.history["loss"][-1], default=runs[0])


@dataclass(frozen=True)
class Contest:
    """The training methods that a report compares.

    Attributes
    ----------
    title : str
    page, comparison : str
        File names of the report and of the plot of all methods.
    plans : tuple of Plan
        The runs; those of a method are adjacent and only differ in the learning rate.
    first_too : bool
        Whether the report shows each method at its first learning rate, too, not only at its best.
    notes : tuple of str
        Notes on the measurement that only apply to this report.
    """

    title: str
    page: str
    comparison: str
    plans: tuple[Plan, ...]
    first_too: bool
    notes: tuple[str, ...]

    @property
    def files(self) -> list[str]:
        """Names of all files of the report."""
        methods = dict.fromkeys(plan.method for plan in self.plans)
        return [self.page, self.comparison, *map(plot_file, methods)]

    def shown(self, runs: Sequence[Run]) -> list[Run]:
        """Return the runs to show in the table and in the plot of all methods."""
        methods = by_method(runs)
        chosen = [*map(best, methods), *(tried[0] for tried in methods if self.first_too)]
        return [run for run in runs if run in chosen]

    def quick(self) -> "Contest":
        """Return the same contest with a few epochs per run."""
        plans = (replace(plan, epochs=2 if plan.batch_size else 6) for plan in self.plans)
        return replace(self, plans=tuple(plans))


def plot_file(method: str) -> str:
    """Return the file name of the plot of a method's best run.

    Examples
    --------
    >>> plot_file("mini-batch GD")
    'mini_batch_gd.png'
    """
    return re.sub(r"\W", "_", method.lower()) + ".png"


def _plans(method: str, optimizer: str, *rates: float) -> list[Plan]:
    return [Plan(method, MINI_BATCH, rate, 30, optimizer) for rate in rates]


BATCH_SIZES = Contest(
    title="Batch GD and mini-batch GD compared",
    page="report.md",
    comparison="comparison.png",
    plans=(
        *(Plan("batch GD", None, rate, 250) for rate in (0.1, 0.3, 1.0)),
        *_plans("mini-batch GD", "sgd", 0.1),
    ),
    first_too=True,
    notes=(
        "An update subtracts the learning rate times the gradient of the batch's mean loss.",
        "The training metrics of batch GD are those of the weights before the epoch's only update.",
    ),
)

_ADAM, _ADAMW, _MOMENTUM = OPTIMIZERS["adam"], OPTIMIZERS["adamw"], OPTIMIZERS["momentum"]

OPTIMIZER_CONTEST = Contest(
    title="Optimizers compared",
    page="optimizers.md",
    comparison="optimizers.png",
    plans=(
        *_plans("SGD", "sgd", 0.1, 0.3, 1.0),
        *_plans("momentum", "momentum", 0.01, 0.03, 0.1, 0.3),
        *_plans("Nesterov", "nesterov", 0.01, 0.03, 0.1, 0.3),
        *_plans("Adam", "adam", 0.0003, 0.001, 0.003),
        *_plans("AdamW", "adamw", 0.0003, 0.001, 0.003),
        Plan("L-BFGS", None, None, 250, "lbfgs"),
    ),
    first_too=False,
    notes=(
        f"The momentum is {_MOMENTUM.momentum:g}. Adam and AdamW have β₁ {_ADAM.beta1:g}, β₂ "
        f"{_ADAM.beta2:g} and ε {_ADAM.eps:g}; AdamW has a weight decay of "
        f"{_ADAMW.weight_decay:g}. Learning rates are constant.",
        "An epoch of L-BFGS is one iteration, which computes the gradient over all rows at least "
        "once, more often if its line search needs it. Its training metrics are those of the "
        "weights after the epoch.",
    ),
)
