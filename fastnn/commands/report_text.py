"""The text of the convergence reports: their tables and pages."""

import math
from collections.abc import Mapping, Sequence
from statistics import median

from fastnn.commands.report_runs import Contest, Run, best, by_method, plot_file
from fastnn.commands.text import loss_text, number_text

ACCURACY_MARKS = (0.90, 0.95, 0.97)


def comparison_table(runs: Sequence[Run]) -> str:
    """Return the metrics of the runs as a Markdown table with a column for each run."""
    columns = [_metrics(run) for run in runs]
    names = dict.fromkeys(name for column in columns for name in column)
    rows = [[name, *(column.get(name, "none") for column in columns)] for name in names]
    return _table([["", *(run.plan.name for run in runs)], ["---", *("---:" for _ in runs)], *rows])


def learning_rate_table(runs: Sequence[Run]) -> str:
    """Return the final training losses of the runs as a Markdown table, a row for each method."""
    rows = [["method", "final training loss at each learning rate"], ["---", "---"]]
    for tried in (tried for tried in by_method(runs) if len(tried) > 1):
        losses = []
        for run in tried:
            loss = loss_text(run.history["loss"][-1]) if run.history else "none"
            text = f"{loss} at {run.plan.rate}"
            losses.append(f"**{text}**" if run is best(tried) else text)
        rows.append([tried[0].plan.method, ", ".join(losses)])
    return _table(rows)


def _table(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _metrics(run: Run) -> dict[str, str]:
    """Return the metrics of a run by the names of the table's rows."""
    metrics = {
        "batch size (rows)": f"{run.batch_size:,}",
        "learning rate": run.plan.rate,
        "epochs": f"diverged in epoch {run.diverged_in}",
        "updates per epoch": f"{-(-run.rows // run.batch_size):,}",
    }
    if not run.history:
        return metrics
    metrics["epochs"] = f"{len(run.seconds):,}"
    reached = {f"{mark:.0%} test accuracy": run.epochs_to(mark) for mark in ACCURACY_MARKS}
    for name, epochs in reached.items():
        metrics[f"epochs to {name}"] = f"{epochs:,}" if epochs else "not reached"
    for name, epochs in reached.items():
        seconds = number_text(run.seconds[epochs - 1]) if epochs else "not reached"
        metrics[f"seconds to {name}"] = seconds
    final = {name: curve[-1] for name, curve in run.history.items()}
    return metrics | {
        "final training loss": loss_text(final["loss"]),
        "final test loss": loss_text(final["val_loss"]),
        "final training accuracy": f"{final['accuracy']:.2%}",
        "final test accuracy": f"{final['val_accuracy']:.2%}",
        "training seconds": number_text(run.seconds[-1]),
        "seconds per epoch (median)": number_text(median(run.history["seconds"])),
    }


def first_to_converge(methods: Sequence[Sequence[Run]]) -> str:
    """Return a sentence on the fastest method, or an empty text if the runs do not show one.

    The sentence is about the highest accuracy that a method reaches in each of its runs, which
    differ in the seed. The fastest method must be faster in its slowest run than all others in
    their fastest; otherwise the difference may be noise.
    """
    for mark in reversed(ACCURACY_MARKS):
        seconds = {runs[0].plan.name: [_seconds_to(mark, run) for run in runs] for runs in methods}
        first = min(seconds, key=lambda name: max(seconds[name]))
        times = seconds.pop(first)
        if max(times) == math.inf:
            continue
        if max(times) >= min(map(min, seconds.values())):
            return ""
        return (
            f"With each of {len(times)} seeds, {first} was the first to reach {mark:.0%} test "
            f"accuracy, after {number_text(min(times))} to {number_text(max(times))} s."
        )
    return ""


def _seconds_to(accuracy: float, run: Run) -> float:
    epochs = run.epochs_to(accuracy)
    return run.seconds[epochs - 1] if epochs else math.inf


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
        f"# {contest.title}{' (quick run, too short for conclusions)' if quick else ''}",
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
        plot = f"![Loss and accuracy of {run.plan.name}]({plot_file(run.plan.method)})"
        parts += [f"## {run.plan.name[0].upper()}{run.plan.name[1:]}", plot]
    parts += ["## How it was measured", _measurement(contest)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _measurement(contest: Contest) -> str:
    notes = (
        "All runs start from the same weights and see the rows in the same order.",
        "Each result is from one run with one seed, so small differences can be noise. The page "
        "names a fastest method only if its slowest run with several seeds is faster than all "
        "others.",
        "Seconds are training time: shuffling and all updates, without compilation and "
        "evaluation. The runs follow one another in one process.",
        "Test metrics are computed after each epoch. An accuracy counts as reached after the "
        "first epoch whose test accuracy is at least that, even if a later one is lower. Learning "
        "rates are compared by training loss only.",
        "Training metrics are means over the batches of an epoch, computed before each update.",
        *contest.notes,
    )
    return "\n".join(f"- {note}" for note in notes)
