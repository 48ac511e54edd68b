"""What training runs say beside each other: when each reached what, and sentences about it.

Every sentence is computed from the runs and holds whichever of them is ahead.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from fastnn.commands.console import counted, loss_text

if TYPE_CHECKING:
    from fastnn.training.state import History

ACCURACY_MARKS = (0.90, 0.95, 0.97)


class Reached(NamedTuple):
    """When a run reached a test accuracy: the work and the training seconds up to there."""

    epochs: int
    updates: int
    seconds: float


@dataclass(frozen=True)
class Plan:
    """A training run to come.

    Attributes
    ----------
    method : str
        What the report calls the way to train, whatever its learning rate.
    batch_size : int or None
        Rows that an update learns from, at most; None for all.
    learning_rate : float or None
        None for L-BFGS, which searches for it.
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
        """What a report calls the run, where its method alone would not do."""
        if self.learning_rate is None:
            return self.method
        return f"{self.method} at rate {self.learning_rate:g}"


@dataclass(frozen=True)
class Run:
    """A training run that is over.

    Attributes
    ----------
    name : str
        What the report calls it; different from all other runs.
    plan : Plan
    rows : int
        Training rows.
    history : dict of str to list of float
        As `fastnn.Network.fit` returns it with validation data, for the epochs completed.
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
        """Rows that an update learns from."""
        return min(self.plan.batch_size or self.rows, self.rows)

    @property
    def rate(self) -> str:
        """The learning rate, as the report shows it."""
        rate = self.plan.learning_rate
        return "searched" if rate is None else f"{rate:g}"

    @property
    def epochs(self) -> int:
        """Epochs completed."""
        return len(self.history.get("loss", []))

    @property
    def updates_per_epoch(self) -> int:
        """Batches, the last one with what is left."""
        return -(-self.rows // self.batch_size)

    @cached_property
    def seconds(self) -> list[float]:
        """Training seconds up to the end of each epoch."""
        return list(accumulate(self.history.get("seconds", [])))

    @property
    def seconds_per_epoch(self) -> float:
        """Median over the epochs, which one disturbed epoch does not move; NaN without one."""
        return median(self.history["seconds"]) if self.epochs else math.nan

    def reached(self, accuracy: float) -> Reached | None:
        """Say when the test accuracy was first at least this, if it ever was."""
        for epoch, reached in enumerate(self.history.get("val_accuracy", []), start=1):
            if reached >= accuracy:
                return Reached(epoch, epoch * self.updates_per_epoch, self.seconds[epoch - 1])
        return None


def best_of(runs: Sequence[Run]) -> Run | None:
    """Return the run with the lowest final training loss; a diverged one is never the best."""
    whole = [run for run in runs if run.diverged_in is None]
    return min(whole, key=lambda run: run.history["loss"][-1], default=None)


def learning_rate_choice(tried: Sequence[Run], *, first_too: bool) -> str:
    """Say which of the runs, equal but for the learning rate, is the best, and how that shows."""
    outcomes = [
        f"it diverged in epoch {run.diverged_in:,} at {run.rate}"
        if run.diverged_in
        else f"{loss_text(run.history['loss'][-1])} at {run.rate}"
        for run in tried
    ]
    best = best_of(tried)
    if best is None:
        verdict = "none of them is fit for use, and the first one is shown"
    elif not first_too:
        verdict = f"the best is {best.rate}"
    elif best is tried[0]:
        verdict = f"the best is {best.rate} itself, which is therefore shown once"
    else:
        verdict = f"the best is {best.rate}, shown beside {tried[0].rate}"
    return (
        f"{capitalized(tried[0].plan.method)} was tried at the learning rates "
        f"{_listed([run.rate for run in tried])}, for as many epochs each. "
        f"Final training loss: {_listed(outcomes)}; {verdict}."
    )


def conclusions(runs: Sequence[Run]) -> list[str]:
    """Return what the figures of the runs say, in sentences."""
    diverged = [
        f"{capitalized(run.name)} diverged in epoch {run.diverged_in:,}."
        for run in runs
        if run.diverged_in
    ]
    runs = [run for run in runs if run.epochs]
    if not runs:
        return [*diverged, "No run completed an epoch: there is nothing to compare."]
    races = [(mark, race) for mark in ACCURACY_MARKS if (race := _race(runs, mark))]
    sentences = [_convergence(runs, races), *diverged]
    sentences += [_race_sentence(runs, mark, race) for mark, race in races[:1] + races[1:][-1:]]
    contests = [(mark, race) for mark, race in races if len(race) > 1]
    if contests:
        mark, race = contests[-1]
        alike = [pair for pair in race if pair[0].batch_size == race[0][0].batch_size]
        rivals = {pair[0].name: pair for pair in (alike[-1], race[-1]) if pair is not race[0]}
        sentences += [
            _explanation(mark, race[0], rival)
            for rival in rivals.values()
            if not _is_one(rival[1].seconds / race[0][1].seconds)
        ]
    if len(runs) > 1:
        sentences.append(_cost_of_an_epoch(runs))
        leader = races[-1][1][0][0] if races else max(runs, key=_final_accuracy)
        sentences += [_end(leader, run) for run in runs if run is not leader]
    return sentences


_Finish = tuple[Run, Reached]
_Race = list[_Finish]  # who reached a mark, the fastest first


def _race(runs: Sequence[Run], mark: float) -> _Race:
    finished = [(run, at) for run in runs if (at := run.reached(mark))]
    return sorted(finished, key=lambda pair: pair[1].seconds)


def _convergence(runs: Sequence[Run], races: list[tuple[float, _Race]]) -> str:
    if not races:
        near = max(runs, key=_best_accuracy)
        return (
            f"**No run reached {ACCURACY_MARKS[0]:.0%} test accuracy.** "
            f"{capitalized(near.name)} came nearest: {_best_accuracy(near):.2%} at its best, "
            f"in {counted(near.epochs, 'epoch')}."
        )
    mark, race = races[-1]
    name = capitalized(race[0][0].name)
    if len(runs) > 1 and len(race) == 1:
        return f"**{name} converged first**: it alone reached {mark:.0%} test accuracy."
    return (
        f"**{name} converged first**: it was the fastest to {mark:.0%} test accuracy, "
        "the highest mark that a run reached."
    )


def _race_sentence(runs: Sequence[Run], mark: float, race: _Race) -> str:
    """Say when each run reached a mark, and who needed the fewest epochs and updates."""
    first = race[0][1]
    parts = []
    for run, at in race:
        ratio = at.seconds / first.seconds
        longer = "" if _is_one(ratio) else f", {_factor(ratio)} times as long"
        parts.append(
            f"{run.name} took {counted(at.epochs, 'epoch')}, {counted(at.updates, 'update')} "
            f"and {number_text(at.seconds)} s{longer}"
        )
    for run in runs:
        if run.reached(mark) is None:
            parts.append(
                f"{run.name} did not get there in {counted(run.epochs, 'epoch')} "
                f"({_best_accuracy(run):.2%} at its best)"
            )
    text = f"To {mark:.0%} test accuracy: {'; '.join(parts)}."
    for what in ("epochs", "updates"):
        run, at = min(race, key=lambda pair: getattr(pair[1], what))
        if getattr(at, what) < getattr(first, what):
            text += f" {capitalized(run.name)} needed the fewest {what}."
    return text


def _explanation(mark: float, winner: _Finish, loser: _Finish) -> str:
    """Split the lead of one run over another into epochs needed and what an epoch costs."""
    (first, won), (last, lost) = winner, loser
    time, epochs = lost.seconds / won.seconds, lost.epochs / won.epochs
    cost = time / epochs
    text = f"What decided: to {mark:.0%}, {last.name} took {_factor(time)} times as long as "
    text += first.name
    if not _is_one(epochs):
        text += f", which is {_factor(epochs)} times the epochs"
    if not _is_one(cost):
        text += f", each {'epoch ' if _is_one(epochs) else ''}at {_factor(cost)} times the cost"
    text += "."
    if first.batch_size != last.batch_size:
        text += (
            f" {capitalized(first.name)} moved the weights after every "
            f"{counted(first.batch_size, 'row')}, {last.name} after every {last.batch_size:,}"
        )
        if first.batch_size < last.batch_size and won.updates > lost.updates:
            text += ": many updates from a few rows each beat few updates from many rows each"
        if first.batch_size > last.batch_size and won.updates < lost.updates:
            text += ": few updates from many rows each beat many updates from a few rows each"
        text += "."
    return text


def _cost_of_an_epoch(runs: Sequence[Run]) -> str:
    costs = [
        f"{number_text(run.seconds_per_epoch)} s with {run.name} "
        f"({counted(run.updates_per_epoch, 'update')})"
        for run in runs
    ]
    cheap = min(runs, key=lambda run: run.seconds_per_epoch)
    dear = max(runs, key=lambda run: run.seconds_per_epoch)
    ratio = dear.seconds_per_epoch / cheap.seconds_per_epoch
    verdict = (
        "about the same for all"
        if _is_one(ratio)
        else f"{dear.name} costs {_factor(ratio)} times {cheap.name}"
    )
    return f"An epoch takes {_listed(costs)}: {verdict}."


def _end(leader: Run, run: Run) -> str:
    """Say when the leader had what another run ends with."""
    accuracy = _final_accuracy(run)
    text = (
        f"{capitalized(run.name)} ends with {accuracy:.2%} test accuracy after "
        f"{counted(run.epochs, 'epoch')} and {number_text(run.seconds[-1])} s; {leader.name} "
    )
    at = leader.reached(accuracy)
    if at is None:
        return f"{text}never gets that far ({_best_accuracy(leader):.2%} at its best)."
    return (
        f"{text}has as much after {counted(at.epochs, 'epoch')} and {number_text(at.seconds)} s, "
        f"and ends with {_final_accuracy(leader):.2%}."
    )


def _final_accuracy(run: Run) -> float:
    return run.history["val_accuracy"][-1]


def _best_accuracy(run: Run) -> float:
    return max(run.history["val_accuracy"])


def number_text(number: float) -> str:
    """Return a number with three digits that count.

    Examples
    --------
    >>> number_text(0.09412), number_text(1234.5)
    ('0.0941', '1,234')
    """
    return f"{number:.3g}" if number < 100 else f"{number:,.0f}"


def _factor(ratio: float) -> str:
    return f"{ratio:.2g}" if ratio < 1 else f"{ratio:.1f}" if ratio < 10 else f"{ratio:,.0f}"


def _is_one(ratio: float) -> bool:
    """Tell whether a ratio is shown as 1, which says nothing."""
    return float(_factor(ratio).replace(",", "")) == 1


def _listed(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def capitalized(text: str) -> str:
    """Return a text with its first letter large and the others as they are."""
    return text[:1].upper() + text[1:]
