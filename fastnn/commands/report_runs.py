"""Training runs of the convergence reports: plans, results, and the fastest method."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from fastnn.training.state import History

ACCURACY_MARKS = (0.90, 0.95, 0.97)


class Reached(NamedTuple):
    """When a run reached a test accuracy: after how many epochs and seconds of training."""

    epochs: int
    seconds: float


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
    def name(self) -> str:
        """The method and its learning rate, if it has one."""
        if self.learning_rate is None:
            return self.method
        return f"{self.method} at rate {self.learning_rate:g}"


@dataclass(frozen=True)
class Run:
    """A finished training run.

    Attributes
    ----------
    name : str
        The unique name of the run in the report.
    plan : Plan
    rows : int
        Number of training rows.
    history : dict of str to list of float
        As `fastnn.Network.fit` returns it with validation data, for the completed epochs.
    diverged_in : int or None
        The epoch, counted from 1, in which the run diverged.
    """

    name: str
    plan: Plan
    rows: int
    history: "History"
    diverged_in: int | None = None

    @property
    def batch_size(self) -> int:
        """Rows per update."""
        return min(self.plan.batch_size or self.rows, self.rows)

    @property
    def rate(self) -> str:
        """The learning rate as the report shows it."""
        rate = self.plan.learning_rate
        return "line search" if rate is None else f"{rate:g}"

    @property
    def epochs(self) -> int:
        """Number of completed epochs."""
        return len(self.history.get("loss", []))

    @property
    def updates_per_epoch(self) -> int:
        """Number of batches; the last one may be smaller."""
        return -(-self.rows // self.batch_size)

    @cached_property
    def seconds(self) -> list[float]:
        """Training seconds up to the end of each epoch."""
        return list(accumulate(self.history.get("seconds", [])))

    @property
    def seconds_per_epoch(self) -> float:
        """Median over the epochs, robust to single slow ones; NaN without a completed epoch."""
        return median(self.history["seconds"]) if self.epochs else math.nan

    def reached(self, accuracy: float) -> Reached | None:
        """Return when the test accuracy was first at least this, or None."""
        for epoch, reached in enumerate(self.history.get("val_accuracy", []), start=1):
            if reached >= accuracy:
                return Reached(epoch, self.seconds[epoch - 1])
        return None


def best(runs: Sequence[Run]) -> Run:
    """Return the run with the lowest final training loss, or the first one if all diverged."""
    finished = [run for run in runs if run.diverged_in is None]
    return min(finished, key=lambda run: run.history["loss"][-1], default=runs[0])


def first_to_converge(methods: Sequence[Sequence[Run]]) -> str:
    """Return a sentence on the fastest method, or an empty text if the runs do not show one.

    The sentence is about the highest accuracy that a method reaches in each of its runs, which
    differ in the seed. The fastest method must be faster in its slowest run than all others in
    their fastest; otherwise the difference may be noise.
    """
    for mark in reversed(ACCURACY_MARKS):
        seconds = {
            runs[0].name: [at.seconds if (at := run.reached(mark)) else math.inf for run in runs]
            for runs in methods
        }
        first = min(seconds, key=lambda name: max(seconds[name]))
        times = seconds.pop(first)
        if max(times) == math.inf:
            continue
        second = min(seconds, key=lambda name: min(seconds[name]), default=first)
        next_time = min(seconds.get(second, times))
        if next_time <= max(times):
            return ""
        rest = "no other method reached it"
        if next_time < math.inf:
            rest = f"{second} was next, after at least {number_text(next_time)} s"
        return (
            f"With each of {len(times)} seeds, {first} was the first to reach {mark:.0%} test "
            f"accuracy, after {number_text(min(times))} to {number_text(max(times))} s; {rest}."
        )
    return ""


def number_text(number: float) -> str:
    """Return a number with three significant digits.

    Examples
    --------
    >>> number_text(0.09412), number_text(1234.5)
    ('0.0941', '1,234')
    """
    return f"{number:.3g}" if number < 100 else f"{number:,.0f}"
