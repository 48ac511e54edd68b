"""`fastnn.commands.report_text`: the tables and the pages of the reports."""

import re

import pytest
from runs import FAST, RATES, SLOW, run, runs_of

from fastnn.commands.report_runs import BATCH_SIZES, OPTIMIZER_CONTEST, Contest, Run
from fastnn.commands.report_text import (
    comparison_table,
    first_to_converge,
    learning_rate_table,
    report_text,
)


def table_of(*runs: Run) -> dict[str, list[str]]:
    """Return the rows of the table by their names."""
    lines = comparison_table(runs).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert all(len(row) == 1 + len(runs) for row in rows)
    return {row[0]: row[1:] for row in rows}


def test_table_contains_the_figures() -> None:
    table = table_of(SLOW, FAST)
    assert table[""] == ["slow", "fast"]
    assert table["batch size (rows)"] == ["1,000", "100"]
    assert table["epochs"] == ["4", "2"]
    assert table["updates per epoch"] == ["1", "10"]
    assert table["epochs to 90% test accuracy"] == ["4", "1"]
    assert table["epochs to 95% test accuracy"] == ["not reached", "2"]
    assert table["epochs to 97% test accuracy"] == ["not reached", "not reached"]
    assert table["seconds to 90% test accuracy"] == ["4", "2"]
    assert table["seconds to 95% test accuracy"] == ["not reached", "4"]
    assert table["final training loss"] == ["0.2500", "0.5000"]
    assert table["final test loss"] == ["0.7000", "0.7000"]
    assert table["final training accuracy"] == ["50.00%", "50.00%"]
    assert table["final test accuracy"] == ["91.00%", "96.00%"]
    assert table["seconds per epoch (median)"] == ["1", "2"]


def test_short_last_batch_counts_as_update() -> None:
    table = table_of(*(run("r", [0.5], batch_size=size) for size in (1_000, 999, 500)))
    assert table["updates per epoch"] == ["1", "2", "2"]


def test_seconds_per_epoch_is_the_median() -> None:
    disturbed = run("disturbed", [0.5] * 3)
    disturbed.history["seconds"][0] = 100.0
    assert table_of(disturbed)["seconds per epoch (median)"] == ["1"]


def test_table_contains_diverged_runs() -> None:
    table = table_of(run("b", [], diverged_in=2), run("a", [0.95]))
    assert table["epochs"] == ["diverged in epoch 2", "1"]
    assert table["epochs to 90% test accuracy"] == ["none", "1"]
    assert table["final test accuracy"] == ["none", "95.00%"]
    assert list(table)[2:5] == ["batch size (rows)", "learning rate", "epochs"]


def test_lbfgs_has_a_line_search_in_place_of_a_learning_rate() -> None:
    lbfgs = run("l", [0.5], optimizer="lbfgs", learning_rate=None)
    assert table_of(lbfgs)["learning rate"] == ["line search"]


@pytest.mark.parametrize("contest", [BATCH_SIZES, OPTIMIZER_CONTEST], ids=lambda c: c.page)
def test_page_refers_to_its_plots_and_contains_the_setup(contest: Contest) -> None:
    runs = runs_of(contest, {})
    text = report_text(contest, runs, {"Data": "made up"})
    assert text.startswith(f"# {contest.title}\n")
    assert "- Data: made up" in text and text.endswith("\n") and "quick" not in text
    assert set(re.findall(r"\((\w+\.png)\)", text)) == set(contest.files) - {contest.page}
    assert all(f"- {note}" in text for note in contest.notes)
    assert "(quick run, " in report_text(contest, runs, {}, quick=True).splitlines()[0]


def test_learning_rates_of_optimizers_are_a_table() -> None:
    outcomes = {"SGD at rate 0.3": 0.1, "SGD at rate 1": None, "Adam at rate 0.001": 0.2}
    runs = runs_of(OPTIMIZER_CONTEST, outcomes)
    table = learning_rate_table(runs)
    assert "| SGD | 0.5000 at 0.1, **0.1000 at 0.3**, none at 1 |" in table
    assert "| Adam | 0.5000 at 0.0003, **0.2000 at 0.001**, 0.5000 at 0.003 |" in table
    assert "L-BFGS" not in table  # it has no learning rate
    assert table in report_text(OPTIMIZER_CONTEST, runs, {})


def test_page_names_the_fastest_method_only_if_repeated_runs_show_it() -> None:
    runs = runs_of(BATCH_SIZES, {})
    assert "was the first" not in report_text(BATCH_SIZES, runs, {})
    text = report_text(BATCH_SIZES, runs, {}, repeated=[[FAST, FAST], [SLOW, SLOW]])
    assert "With each of 2 seeds, fast was the first to reach 95% test accuracy" in text


def runs_with(name: str, *seconds: float, accuracy: float = 0.91) -> list:
    """Return runs of a method that reach an accuracy in one epoch of these seconds."""
    return [run(name, [accuracy], seconds=each) for each in seconds]


def test_fastest_method_is_named_if_all_its_runs_are_faster() -> None:
    fast, slow = runs_with("fast", 1.0, 1.5, 1.2), runs_with("slow", 2.5, 1.6, 1.7)
    for methods in ([fast, slow], [slow, fast]):
        assert first_to_converge(methods) == (
            "With each of 3 seeds, fast was the first to reach 90% test accuracy, after 1 to 1.5 s."
        )


@pytest.mark.parametrize("seconds", [1.5, 1.4, 0.5])
def test_overlapping_runs_name_no_fastest_method(seconds: float) -> None:
    fast = runs_with("fast", 1.0, 1.5, 1.2)
    assert first_to_converge([fast, runs_with("slow", 2.5, seconds, 2.6)]) == ""


def test_highest_accuracy_that_all_runs_of_a_method_reach_decides() -> None:
    late = runs_with("late", 3.0, 3.5, accuracy=0.96)
    early = runs_with("early", 1.0, 1.0)
    text = first_to_converge([early, late])
    assert "late was the first to reach 95% test accuracy, after 3 to 3.5 s." in text
    lucky = [*runs_with("early", 1.0, accuracy=0.96), *runs_with("early", 1.0)]
    assert first_to_converge([lucky, late]) == ""
    assert "to reach 90%" in first_to_converge([lucky, runs_with("late", 3.0, 3.0)])


def test_no_method_is_named_without_a_reached_accuracy() -> None:
    assert first_to_converge([runs_with("a", 1.0, accuracy=0.5), [RATES[2]]]) == ""
