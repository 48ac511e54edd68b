"""The text of the convergence reports: what each compares, its table, and the page around it."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import NamedTuple

from fastnn.commands.console import loss_text
from fastnn.commands.report_runs import (
    ACCURACY_MARKS,
    Plan,
    Run,
    best_of,
    capitalized,
    conclusions,
    learning_rate_choice,
    number_text,
)
from fastnn.model.optimizers import OPTIMIZERS

MINI_BATCH = 128


@dataclass(frozen=True)
class Contest:
    """What a report compares.

    Attributes
    ----------
    title : str
    page, comparison : str
        The names of the report and of the picture that shows all methods.
    plans : tuple of Plan
        The runs; those of a method follow one another, and differ in the learning rate alone.
    first_too : bool
        Whether each method is shown at its first learning rate too, besides its best.
    notes : tuple of str
        What the page says on how it was measured, besides what holds for all contests.
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
        return [self.page, self.comparison, *map(picture_of, methods)]

    def shown(self, runs: Sequence[Run]) -> list[Run]:
        """Return the runs to show: of each method the best, called by its method, or two."""
        if not self.first_too:
            return [replace(best(tried), name=tried[0].plan.method) for tried in by_method(runs)]
        pairs = [(tried[0], best(tried)) for tried in by_method(runs)]
        return list({run.name: run for pair in pairs for run in pair}.values())

    def quick(self) -> "Contest":
        """Return the same contest, over in a few epochs."""
        plans = (replace(p, epochs=2 if p.batch_size else 6) for p in self.plans)
        return replace(self, plans=tuple(plans))


def picture_of(method: str) -> str:
    """Return the name of the picture of a method's best run.

    Examples
    --------
    >>> picture_of("mini-batch GD")
    'mini_batch_gd.png'
    """
    return re.sub(r"\W", "_", method.lower()) + ".png"


def by_method(runs: Sequence[Run]) -> list[list[Run]]:
    """Return runs in the order of a contest's plans, those of each method together."""
    return [list(tried) for _, tried in groupby(runs, key=lambda run: run.plan.method)]


def best(tried: Sequence[Run]) -> Run:
    """Return the best of runs; the first, if all have diverged."""
    return best_of(tried) or tried[0]


BATCH_SIZES = Contest(
    title="Batch GD and mini-batch GD compared",
    page="report.md",
    comparison="comparison.png",
    plans=(
        *(Plan("batch GD", None, rate, 250) for rate in (0.1, 0.3, 1.0)),
        Plan("mini-batch GD", MINI_BATCH, 0.1, 30),
    ),
    first_too=True,
    notes=(
        "An update subtracts the learning rate times the gradient of its batch's mean loss.",
        "The training figures of batch GD are of the weights that an epoch began with.",
    ),
)

_METHODS = {  # what they are called, and the learning rates to choose from
    "sgd": ("SGD", (0.1, 0.3, 1.0)),
    "momentum": ("momentum", (0.01, 0.03, 0.1, 0.3)),
    "nesterov": ("Nesterov", (0.01, 0.03, 0.1, 0.3)),
    "adam": ("Adam", (0.0003, 0.001, 0.003)),
    "adamw": ("AdamW", (0.0003, 0.001, 0.003)),
}
_ADAM, _ADAMW, _MOMENTUM = OPTIMIZERS["adam"], OPTIMIZERS["adamw"], OPTIMIZERS["momentum"]

OPTIMIZER_CONTEST = Contest(
    title="Optimizers compared",
    page="optimizers.md",
    comparison="optimizers.png",
    plans=(
        *(
            Plan(method, MINI_BATCH, rate, 30, name)
            for name, (method, rates) in _METHODS.items()
            for rate in rates
        ),
        Plan("L-BFGS", None, None, 250, "lbfgs"),
    ),
    first_too=False,
    notes=(
        f"Momentum is {_MOMENTUM.momentum:g}; Adam and AdamW have β₁ {_ADAM.beta1:g}, β₂ "
        f"{_ADAM.beta2:g} and ε {_ADAM.eps:g}, and AdamW a weight decay of "
        f"{_ADAMW.weight_decay:g}. Learning rates stay as they are.",
        "An epoch of L-BFGS is one of its iterations, of which each computes the gradient over "
        "all rows at least once, more often where its line search needs it; its training "
        "figures are of the weights that an epoch ends with.",
        "State is what an optimizer keeps from update to update beside each weight and bias. "
        "L-BFGS keeps its last ten steps and the changes of the gradient along them.",
    ),
)


class Work(NamedTuple):
    """What a sample costs, as `machine` counts it, and the machine's peak in GFLOP/s."""

    flops_per_sample: int
    peak: float


def comparison_table(runs: Sequence[Run], work: Work) -> str:
    """Return the figures of the runs as a Markdown table, a column a run."""
    columns = [_column(run, work) for run in runs]
    table = [["", *(run.name for run in runs)], ["---", *("---:" for _ in runs)]]
    for what in columns[0]:
        row = [column[what] for column in columns]
        if what != _STATE or set(row) != {_NO_STATE}:  # plain descent has none
            table.append([what, *row])
    return "\n".join(f"| {' | '.join(row)} |" for row in table)


_STATE, _NO_STATE = "state per parameter", "none"


def _column(run: Run, work: Work) -> dict[str, str]:
    measured = _finals(run) | _speed(run, work)
    if not run.epochs:
        measured = dict.fromkeys(measured, "none")
    return _settings(run) | _marks(run) | measured


def _settings(run: Run) -> dict[str, str]:
    diverged = f", diverged in epoch {run.diverged_in:,}" if run.diverged_in else ""
    return {
        "batch size (rows)": f"{run.batch_size:,}",
        "learning rate": run.rate,
        _STATE: _state_text(run.plan.optimizer),
        "epochs run": f"{run.epochs:,}{diverged}",
        "updates per epoch": f"{run.updates_per_epoch:,}",
        "updates in all": f"{run.epochs * run.updates_per_epoch:,}",
    }


def _state_text(optimizer: str) -> str:
    if optimizer == "lbfgs":
        return "20 float64"  # SciPy's default
    slots = OPTIMIZERS[optimizer].slots
    return f"{slots} float32" if slots else _NO_STATE


def _marks(run: Run) -> dict[str, str]:
    epochs, seconds = {}, {}
    for mark in ACCURACY_MARKS:
        at = run.reached(mark)
        epochs[f"epochs to {mark:.0%} test accuracy"] = f"{at.epochs:,}" if at else "not reached"
        seconds[f"seconds to {mark:.0%} test accuracy"] = (
            number_text(at.seconds) if at else "not reached"
        )
    return epochs | seconds


def _finals(run: Run) -> dict[str, str]:
    def last(name: str) -> float:
        return run.history[name][-1] if run.epochs else math.nan

    return {
        "final training loss": loss_text(last("loss")),
        "final test loss": loss_text(last("val_loss")),
        "final training accuracy": f"{last('accuracy'):.2%}",
        "final test accuracy": f"{last('val_accuracy'):.2%}",
    }


def _speed(run: Run, work: Work) -> dict[str, str]:
    samples_per_second = run.rows / run.seconds_per_epoch
    share = samples_per_second * work.flops_per_sample / (work.peak * 1e9)
    return {
        "training seconds in all": number_text(sum(run.seconds[-1:])),
        "seconds per epoch (median)": number_text(run.seconds_per_epoch),
        "samples per second": f"{samples_per_second:,.0f}",
        "share of the matrix-product peak": f"{share:.0%}",
    }


def report_text(
    contest: Contest,
    runs: Sequence[Run],
    setup: Mapping[str, str],
    work: Work,
    *,
    quick: bool = False,
) -> str:
    """Return the report as Markdown.

    Parameters
    ----------
    contest : Contest
    runs : sequence of Run
        One for each of the contest's plans.
    setup : dict of str to str
        What the runs have in common, as the reader is to see it.
    work : Work
    quick : bool, default False
        Whether the runs are too short to conclude from.
    """
    methods, shown = by_method(runs), contest.shown(runs)
    choices = [
        learning_rate_choice(tried, first_too=contest.first_too)
        for tried in methods
        if len(tried) > 1
    ]
    parts = [
        f"# {contest.title}{' (quick run)' if quick else ''}",
        _QUICK_NOTE if quick else "",
        "\n".join(f"- {what}: {text}" for what, text in setup.items()),
        "## What came of it",
        "\n".join(f"- {sentence}" for sentence in conclusions(shown)),
        f"![All runs, against epochs and against seconds]({contest.comparison})",
        "All axes are logarithmic; accuracies are spaced by the logarithm of the error.",
        "## The figures",
        comparison_table(shown, work),
        "\n".join(f"- {choice}" for choice in choices) if len(choices) > 1 else choices[0],
        *(_section(best(tried)) for tried in methods),
        "## How it was measured",
        _method(contest, work, runs[0].rows),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


_QUICK_NOTE = (
    "> **A quick run of a few epochs, to show that the report works.** Its figures say nothing "
    "about convergence: leave out `--quick` for those."
)


def _section(run: Run) -> str:
    picture = f"![Loss and accuracy of {run.name}]({picture_of(run.plan.method)})"
    return f"## {capitalized(run.name)}\n\n{picture}"


def _method(contest: Contest, work: Work, rows: int) -> str:
    gflop = work.flops_per_sample * rows / 1e9
    return "\n".join(
        f"- {sentence}"
        for sentence in (
            "All runs start from the same weights and see the rows in the same order.",
            "Seconds are training alone: shuffling, every pass and update, but neither compilation "
            "nor evaluation. The runs follow one another in one process.",
            "Test figures are full passes after each epoch, and a mark counts as reached at the "
            "end of the first epoch whose test accuracy is at least that, even if a later one "
            "is lower. They choose no learning rate.",
            "Training figures are means over an epoch's batches, each measured before its update.",
            *contest.notes,
            f"An epoch counts as {gflop:.3g} GFLOP: a multiply-add of its matrix products is two "
            "operations, and zeros count like other numbers. An engine that skips zeros does less, "
            "and its share of the peak may exceed 100%.",
            f"The peak, {number_text(work.peak)} GFLOP/s, is the fastest float32 product of two "
            "matrices of 2,048 rows and columns by NumPy's BLAS on as many threads as the engine "
            "has, measured before and after the runs in a process of its own.",
        )
    )
