"""The text of the convergence reports: their plans, tables and pages."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from fastnn.commands.console import loss_text
from fastnn.commands.report_runs import (
    ACCURACY_MARKS,
    Plan,
    Run,
    best,
    first_to_converge,
    number_text,
)
from fastnn.model.optimizers import OPTIMIZERS

MINI_BATCH = 128


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
        return [self.page, self.comparison, *map(picture_of, methods)]

    def shown(self, runs: Sequence[Run]) -> Sequence[Run]:
        """Return the runs to show; if that is one for each method, under the method's name."""
        if self.first_too:
            pairs = ((tried[0], best(tried)) for tried in by_method(runs))
            return list({run.name: run for pair in pairs for run in pair}.values())
        return [replace(best(tried), name=tried[0].plan.method) for tried in by_method(runs)]

    def quick(self) -> "Contest":
        """Return the same contest with a few epochs per run."""
        plans = (replace(p, epochs=2 if p.batch_size else 6) for p in self.plans)
        return replace(self, plans=tuple(plans))


def picture_of(method: str) -> str:
    """Return the file name of the plot of a method's best run.

    Examples
    --------
    >>> picture_of("mini-batch GD")
    'mini_batch_gd.png'
    """
    return re.sub(r"\W", "_", method.lower()) + ".png"


def by_method(runs: Sequence[Run]) -> list[list[Run]]:
    """Return the runs grouped by method, in their order."""
    return [list(tried) for _, tried in groupby(runs, key=lambda run: run.plan.method)]


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
        "An update subtracts the learning rate times the gradient of the batch's mean loss.",
        "The training figures of batch GD are those of the weights before the epoch's only update.",
    ),
)

_METHODS = {  # name in the report, and learning rates to try
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
        f"The momentum is {_MOMENTUM.momentum:g}. Adam and AdamW have β₁ {_ADAM.beta1:g}, β₂ "
        f"{_ADAM.beta2:g} and ε {_ADAM.eps:g}; AdamW has a weight decay of "
        f"{_ADAMW.weight_decay:g}. Learning rates are constant.",
        "An epoch of L-BFGS is one iteration, which computes the gradient over all rows at least "
        "once, more often if its line search needs it. Its training figures are those of the "
        "weights after the epoch.",
    ),
)


def comparison_table(runs: Sequence[Run]) -> str:
    """Return the figures of the runs as a Markdown table with a column for each run."""
    columns = [_figures(run) for run in runs]
    rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
    return _table([["", *(run.name for run in runs)], ["---", *("---:" for _ in runs)], *rows])


def learning_rate_table(runs: Sequence[Run]) -> str:
    """Return the final training losses of the runs as a Markdown table, a row for each method."""
    rows = [["method", "final training loss at each learning rate"], ["---", "---"]]
    for tried in (tried for tried in by_method(runs) if len(tried) > 1):
        losses = [f"{_final(run, 'loss', loss_text)} at {run.rate}" for run in tried]
        losses[tried.index(best(tried))] = f"**{losses[tried.index(best(tried))]}**"
        rows.append([tried[0].plan.method, ", ".join(losses)])
    return _table(rows)


def _table(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _figures(run: Run) -> dict[str, str]:
    """Return the figures of a run by the names of the table's rows."""
    diverged = f", diverged in epoch {run.diverged_in:,}" if run.diverged_in else ""
    figures = {
        "batch size (rows)": f"{run.batch_size:,}",
        "learning rate": run.rate,
        "epochs": f"{run.epochs:,}{diverged}",
        "updates per epoch": f"{run.updates_per_epoch:,}",
    }
    for unit in ("epochs", "seconds"):
        for mark in ACCURACY_MARKS:
            at = run.reached(mark)
            text = number_text(getattr(at, unit)) if at else "not reached"
            figures[f"{unit} to {mark:.0%} test accuracy"] = text
    return figures | {
        "final training loss": _final(run, "loss", loss_text),
        "final test loss": _final(run, "val_loss", loss_text),
        "final training accuracy": _final(run, "accuracy", "{:.2%}".format),
        "final test accuracy": _final(run, "val_accuracy", "{:.2%}".format),
        "training seconds": number_text(run.seconds[-1]) if run.epochs else "none",
        "seconds per epoch (median)": number_text(run.seconds_per_epoch) if run.epochs else "none",
    }


def _final(run: Run, name: str, text: Callable[[float], str]) -> str:
    """Return the last value of a figure as text, or why there is none."""
    return text(run.history[name][-1]) if run.epochs else "none"


def report_text(
    contest: Contest,
    runs: Sequence[Run],
    setup: Mapping[str, str],
    *,
    repeated: Sequence[Sequence[Run]] = (),
    quick: bool = False,
) -> str:
    """Return the report as Markdown.

    Parameters
    ----------
    contest : Contest
    runs : sequence of Run
        One for each of the contest's plans.
    setup : dict of str to str
        Settings that the runs have in common, by their names in the report.
    repeated : sequence of sequence of Run
        For each method its best run, and the same with other seeds.
    quick : bool, default False
        Whether the runs are too short for conclusions.
    """
    shown = contest.shown(runs)
    parts = [
        f"# {contest.title}{' (quick run)' if quick else ''}",
        _QUICK_NOTE if quick else "",
        "\n".join(f"- {name}: {text}" for name, text in setup.items()),
        first_to_converge(repeated) if repeated else "",
        f"![Test accuracy and training loss of all methods]({contest.comparison})",
        "All axes are logarithmic; the accuracy axis is logarithmic in the error.",
        "## Results",
        comparison_table(shown),
        "## Learning rates",
        learning_rate_table(runs),
    ]
    for run in map(best, by_method(runs)):
        picture = f"![Loss and accuracy of {run.name}]({picture_of(run.plan.method)})"
        parts += [f"## {run.name[0].upper()}{run.name[1:]}", picture]
    parts += ["## How it was measured", _measurement(contest)]
    return "\n\n".join(part for part in parts if part) + "\n"


_QUICK_NOTE = (
    "> **A quick run of a few epochs, to test that the report works.** Its figures say nothing "
    "about convergence; run without `--quick` for a real comparison."
)


def _measurement(contest: Contest) -> str:
    notes = (
        "All runs start from the same weights and see the rows in the same order.",
        "Figures are of one run with one seed, so small differences can be noise. The page names "
        "a fastest method only if its slowest run with several seeds is faster than all others.",
        "Seconds are training time: shuffling and all updates, without compilation and "
        "evaluation. The runs follow one another in one process.",
        "Test figures are measured after each epoch. An accuracy counts as reached after the "
        "first epoch whose test accuracy is at least that, even if a later one is lower. Learning "
        "rates are compared by training loss only.",
        "Training figures are means over the batches of an epoch, measured before each update.",
        *contest.notes,
    )
    return "\n".join(f"- {note}" for note in notes)
