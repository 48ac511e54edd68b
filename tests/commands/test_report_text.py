"""`fastnn.commands.report_text`: what the reports compare, their tables and their pages."""

import re

import pytest
from runs import FAST, RATES, SLOW, WORK, run, runs_of

from fastnn.commands.report_runs import Run
from fastnn.commands.report_text import (
    BATCH_SIZES,
    OPTIMIZER_CONTEST,
    Contest,
    comparison_table,
    report_text,
)
from fastnn.model.optimizers import OPTIMIZERS


def table_of(*runs: Run) -> dict[str, list[str]]:
    """Return the rows of the table by what they show."""
    lines = comparison_table(runs, WORK).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert all(len(row) == 1 + len(runs) for row in rows)
    return {row[0]: row[1:] for row in rows}


def test_the_table_holds_the_figures() -> None:
    table = table_of(SLOW, FAST)
    assert table[""] == ["slow", "fast"]
    assert table["batch size (rows)"] == ["1,000", "100"]
    assert table["epochs run"] == ["4", "2"]
    assert table["updates per epoch"] == ["1", "10"]
    assert table["updates in all"] == ["4", "20"]
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
    assert table["samples per second"] == ["1,000", "500"]


def test_the_share_of_the_peak_is_work_over_time_over_peak() -> None:
    quick = run("quick", [0.5], seconds=0.001)  # 1,000 rows of 500 ns at the peak
    assert table_of(quick)["share of the matrix-product peak"] == ["50%"]


def test_seconds_per_epoch_is_the_median() -> None:
    disturbed = run("disturbed", [0.5] * 3)
    disturbed.history["seconds"][0] = 100.0
    assert table_of(disturbed)["seconds per epoch (median)"] == ["1"]


def test_the_table_shows_a_diverged_run() -> None:
    table = table_of(run("a", [0.95], diverged_in=2), run("b", [], diverged_in=1))
    assert table["epochs run"] == ["1, diverged in epoch 2", "0, diverged in epoch 1"]
    assert table["epochs to 90% test accuracy"] == ["1", "not reached"]
    assert table["final test accuracy"] == ["95.00%", "none"]
    assert table["seconds per epoch (median)"] == ["1", "none"]
    assert "nan" not in comparison_table([run("b", [], diverged_in=1)], WORK)


def test_the_table_says_what_an_optimizer_keeps() -> None:
    plain = run("plain", [0.5])
    assert "state per parameter" not in table_of(plain, plain)
    adam, search = run("a", [0.5], optimizer="adam"), run("l", [0.5], optimizer="lbfgs")
    table = table_of(plain, adam, search)
    assert table["state per parameter"] == ["none", "2 float32", "20 float64"]
    searched = run("l", [0.5], optimizer="lbfgs", learning_rate=None)
    assert table_of(searched)["learning rate"] == ["searched"]


def test_the_best_batch_run_is_shown_beside_the_first_or_is_it() -> None:
    first, second, diverged, mini_batch = RATES
    assert BATCH_SIZES.shown(RATES) == [first, second, mini_batch]
    assert BATCH_SIZES.shown([first, diverged, mini_batch]) == [first, mini_batch]
    assert BATCH_SIZES.shown([diverged, mini_batch]) == [diverged, mini_batch]


def test_of_each_optimizer_the_best_run_is_shown_by_its_method() -> None:
    runs = runs_of(OPTIMIZER_CONTEST, {"SGD at rate 0.3": 0.1, "Adam at rate 0.001": 0.2})
    shown = OPTIMIZER_CONTEST.shown(runs)
    names = ["SGD", "momentum", "Nesterov", "Adam", "AdamW", "L-BFGS"]
    assert [each.name for each in shown] == names
    rates = [each.plan.learning_rate for each in shown]
    assert (rates[0], rates[3], rates[5]) == (0.3, 0.001, None)


@pytest.mark.parametrize("contest", [BATCH_SIZES, OPTIMIZER_CONTEST], ids=lambda c: c.page)
def test_the_page_names_its_pictures_its_setup_and_its_haste(contest: Contest) -> None:
    runs = runs_of(contest, {})
    text = report_text(contest, runs, {"Data": "made up"}, WORK)
    assert text.startswith(f"# {contest.title}\n")
    assert "- Data: made up" in text and text.endswith("\n") and "quick" not in text
    assert set(re.findall(r"\((\w+\.png)\)", text)) == set(contest.files) - {contest.page}
    assert all(f"- {note}" in text for note in contest.notes)
    assert "(quick run)" in report_text(contest, runs, {}, WORK, quick=True).splitlines()[0]


def test_every_optimizers_learning_rate_is_explained() -> None:
    text = report_text(OPTIMIZER_CONTEST, runs_of(OPTIMIZER_CONTEST, {}), {}, WORK)
    for method in ("SGD", "Momentum", "Nesterov", "Adam", "AdamW"):
        assert f"- {method} was tried at the learning rates " in text
    assert "L-BFGS was tried" not in text


def test_the_reports_files_have_names_of_their_own() -> None:
    pictures = ["batch_gd.png", "mini_batch_gd.png"]
    assert BATCH_SIZES.files == ["report.md", "comparison.png", *pictures]
    assert not set(BATCH_SIZES.files) & set(OPTIMIZER_CONTEST.files)
    assert len(set(OPTIMIZER_CONTEST.files)) == 2 + 6


def test_the_plans_of_batch_and_mini_batch() -> None:
    planned = [(p.batch_size, p.learning_rate, p.epochs) for p in BATCH_SIZES.plans]
    assert planned == [(None, 0.1, 250), (None, 0.3, 250), (None, 1.0, 250), (128, 0.1, 30)]
    assert [p.epochs for p in BATCH_SIZES.quick().plans] == [6, 6, 6, 2]


def test_the_plans_of_the_optimizers() -> None:
    plans = OPTIMIZER_CONTEST.plans
    assert {p.optimizer for p in plans} == set(OPTIMIZERS)
    assert {(p.batch_size, p.epochs) for p in plans if p.optimizer != "lbfgs"} == {(128, 30)}
    for name, optimizer in OPTIMIZERS.items():  # its default is one of those to choose from
        rates = [p.learning_rate for p in plans if p.optimizer == name]
        assert rates == [None] if name == "lbfgs" else optimizer.learning_rate in rates
    assert len({p.name for p in plans}) == len(plans)
    assert {p.epochs for p in OPTIMIZER_CONTEST.quick().plans} == {2, 6}
