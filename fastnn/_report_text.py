"""The text of the convergence report: its table, and the page around it."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fastnn.console import loss_text
from fastnn.convergence import (
    ACCURACY_MARKS,
    Run,
    best_of,
    capitalized,
    conclusions,
    learning_rate_choice,
    number_text,
)

REPORT, BATCH_PICTURE, MINI_BATCH_PICTURE, COMPARISON_PICTURE = FILES = (
    "report.md",
    "batch_gd.png",
    "mini_batch_gd.png",
    "comparison.png",
)


class Work(NamedTuple):
    """What a sample costs, as `fastnn.machine` counts it, and the machine's peak in GFLOP/s."""

    flops_per_sample: int
    peak: float


def comparison_table(runs: Sequence[Run], work: Work) -> str:
    """Return the figures of the runs as a Markdown table, a column a run."""
    columns = [_column(run, work) for run in runs]
    table = [["", *(run.name for run in runs)], ["---", *("---:" for _ in runs)]]
    table += [[what, *(column[what] for column in columns)] for what in columns[0]]
    return "\n".join(f"| {' | '.join(row)} |" for row in table)


def _column(run: Run, work: Work) -> dict[str, str]:
    measured = _finals(run) | _speed(run, work)
    if not run.epochs:
        measured = dict.fromkeys(measured, "none")
    return _settings(run) | _marks(run) | measured


def _settings(run: Run) -> dict[str, str]:
    diverged = f", diverged in epoch {run.diverged_in:,}" if run.diverged_in else ""
    return {
        "batch size (rows)": f"{run.batch_size:,}",
        "learning rate": f"{run.learning_rate:g}",
        "epochs run": f"{run.epochs:,}{diverged}",
        "updates per epoch": f"{run.updates_per_epoch:,}",
        "updates in all": f"{run.epochs * run.updates_per_epoch:,}",
    }


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


def shown_of(batch_runs: Sequence[Run], mini_batch_run: Run) -> list[Run]:
    """Return the runs to show: the first batch run, the best one if it is another, mini-batch."""
    best = best_of(batch_runs) or batch_runs[0]
    return [*batch_runs[:1], *([] if best is batch_runs[0] else [best]), mini_batch_run]


def report_text(
    batch_runs: Sequence[Run],
    mini_batch_run: Run,
    setup: Mapping[str, str],
    work: Work,
    *,
    quick: bool = False,
) -> str:
    """Return the report as Markdown.

    Parameters
    ----------
    batch_runs : sequence of Run
        Batch GD at several learning rates; the first and the best are shown.
    mini_batch_run : Run
    setup : dict of str to str
        What the runs have in common, as the reader is to see it.
    work : Work
    quick : bool, default False
        Whether the runs are too short to conclude from.
    """
    *_, batch_run, _ = shown = shown_of(batch_runs, mini_batch_run)
    parts = [
        f"# Batch GD and mini-batch GD compared{' (quick run)' if quick else ''}",
        _QUICK_NOTE if quick else "",
        "\n".join(f"- {what}: {text}" for what, text in setup.items()),
        "## What came of it",
        "\n".join(f"- {sentence}" for sentence in conclusions(shown)),
        f"![All runs, against epochs and against seconds]({COMPARISON_PICTURE})",
        "All axes are logarithmic; accuracies are spaced by the logarithm of the error.",
        "## The figures",
        comparison_table(shown, work),
        learning_rate_choice(batch_runs),
        f"## {capitalized(batch_run.name)}",
        f"![Loss and accuracy of {batch_run.name}]({BATCH_PICTURE})",
        f"## {capitalized(mini_batch_run.name)}",
        f"![Loss and accuracy of {mini_batch_run.name}]({MINI_BATCH_PICTURE})",
        "## How it was measured",
        _method(work, mini_batch_run.rows),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


_QUICK_NOTE = (
    "> **A quick run of a few epochs, to show that the report works.** Its figures say nothing "
    "about convergence: leave out `--quick` for those."
)


def _method(work: Work, rows: int) -> str:
    gflop = work.flops_per_sample * rows / 1e9
    return "\n".join(
        f"- {sentence}"
        for sentence in (
            "All runs start from the same weights and see the rows in the same order; an update "
            "subtracts the learning rate times the gradient of its batch's mean loss.",
            "Seconds are training alone: shuffling, every pass and update, but neither compilation "
            "nor evaluation. The runs follow one another in one process.",
            "Test figures are full passes after each epoch, and a mark counts as reached at the "
            "end of the first epoch whose test accuracy is at least that, even if a later one "
            "is lower.",
            "Training figures are means over an epoch's batches, each measured before its update: "
            "those of batch GD are of the weights that the epoch began with.",
            f"An epoch counts as {gflop:.3g} GFLOP: a multiply-add of its matrix products is two "
            "operations, and zeros count like other numbers. An engine that skips zeros does less, "
            "and its share of the peak may exceed 100%.",
            f"The peak, {number_text(work.peak)} GFLOP/s, is the fastest float32 product of two "
            "matrices of 2,048 rows and columns by NumPy's BLAS on as many threads as the engine "
            "has, measured before and after the runs in a process of its own.",
        )
    )
