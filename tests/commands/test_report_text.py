"""`fastnn.commands.report_text`: the plans, the tables and the pages of the reports."""

import re

import pytest
from runs import FAST, RATES, SLOW, run, runs_of

from fastnn.commands.report_runs import Run
from fastnn.commands.report_text import (
    BATCH_SIZES,
    OPTIMIZER_CONTEST,
    Contest,
    comparison_table,
    learning_rate_table,
    report_text,
)
from fastnn.model.optimizers import OPTIMIZERS


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


def test_seconds_per_epoch_is_the_median() -> None:
    disturbed = run("disturbed", [0.5] * 3)
    disturbed.history["seconds"][0] = 100.0
    assert table_of(disturbed)["seconds per epoch (median)"] == ["1"]


def test_table_contains_diverged_runs() -> None:
    table = table_of(run("a", [0.95], diverged_in=2), run("b", [], diverged_in=1))
    assert table["epochs"] == ["1, diverged in epoch 2", "0, diverged in epoch 1"]
    assert table["epochs to 90% test accuracy"] == ["1", "not reached"]
    assert table["final test accuracy"] == ["95.00%", "none"]
    assert table["seconds per epoch (median)"] == ["1", "none"]
    assert "nan" not in comparison_table([run("b", [], diverged_in=1)])


def test_lbfgs_has_a_line_search_in_place_of_a_learning_rate() -> None:
    lbfgs = run("l", [0.5], optimizer="lbfgs", learning_rate=None)
    assert table_of(lbfgs)["learning rate"] == ["line search"]


def test_batch_gd_is_shown_at_its_first_and_its_best_learning_rate() -> None:
    first, second, diverged, mini_batch = RATES
    assert BATCH_SIZES.shown(RATES) == [first, second, mini_batch]
    assert BATCH_SIZES.shown([first, diverged, mini_batch]) == [first, mini_batch]


def test_best_run_of_each_optimizer_is_shown_under_its_method() -> None:
    runs = runs_of(OPTIMIZER_CONTEST, {"SGD at rate 0.3": 0.1, "Adam at rate 0.001": 0.2})
    shown = OPTIMIZER_CONTEST.shown(runs)
    names = ["SGD", "momentum", "Nesterov", "Adam", "AdamW", "L-BFGS"]
    assert [each.name for each in shown] == names
    rates = [each.plan.learning_rate for each in shown]
    assert (rates[0], rates[3], rates[5]) == (0.3, 0.001, None)


@pytest.mark.parametrize("contest", [BATCH_SIZES, OPTIMIZER_CONTEST], ids=lambda c: c.page)
def test_page_refers_to_its_plots_and_contains_the_setup(contest: Contest) -> None:
    runs = runs_of(contest, {})
    text = report_text(contest, runs, {"Data": "made up"})
    assert text.startswith(f"# {contest.title}\n")
    assert "- Data: made up" in text and text.endswith("\n") and "quick" not in text
    assert set(re.findall(r"\((\w+\.png)\)", text)) == set(contest.files) - {contest.page}
    assert all(f"- {note}" in text for note in contest.notes)
    assert "(quick run)" in report_text(contest, runs, {}, quick=True).splitlines()[0]


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


def test_reports_have_different_files() -> None:
    pictures = ["batch_gd.png", "mini_batch_gd.png"]
    assert BATCH_SIZES.files == ["report.md", "comparison.png", *pictures]
    assert not set(BATCH_SIZES.files) & set(OPTIMIZER_CONTEST.files)
    assert len(set(OPTIMIZER_CONTEST.files)) == 2 + 6


def test_plans_of_batch_and_mini_batch() -> None:
    planned = [(p.batch_size, p.learning_rate, p.epochs) for p in BATCH_SIZES.plans]
    assert planned == [(None, 0.1, 250), (None, 0.3, 250), (None, 1.0, 250), (128, 0.1, 30)]
    assert [p.epochs for p in BATCH_SIZES.quick().plans] == [6, 6, 6, 2]


def test_plans_of_the_optimizers_include_the_default_learning_rates() -> None:
    plans = OPTIMIZER_CONTEST.plans
    assert {p.optimizer for p in plans} == set(OPTIMIZERS)
    assert {(p.batch_size, p.epochs) for p in plans if p.optimizer != "lbfgs"} == {(128, 30)}
    for name, optimizer in OPTIMIZERS.items():
        rates = [p.learning_rate for p in plans if p.optimizer == name]
        assert rates == [None] if name == "lbfgs" else optimizer.learning_rate in rates
    assert len({p.name for p in plans}) == len(plans)
    assert {p.epochs for p in OPTIMIZER_CONTEST.quick().plans} == {2, 6}
