"""`fastnn.commands.report_runs`: results of runs, and their plans."""

from runs import RATES, run, runs_of

from fastnn.commands.report_runs import BATCH_SIZES, OPTIMIZER_CONTEST, best
from fastnn.model.optimizers import OPTIMIZERS


def test_accuracy_is_reached_in_the_first_epoch_at_or_above_it() -> None:
    one = run("one", [0.5, 0.9, 0.8, 0.95], batch_size=300, seconds=0.5)
    assert [one.epochs_to(mark) for mark in (0.9, 0.95, 0.951)] == [2, 4, None]


def test_best_run_has_the_lowest_final_loss_and_did_not_diverge() -> None:
    low = run("low", [0.5, 0.5], loss=[3.0, 1.0])
    lowest_before = run("lowest before", [0.5, 0.5], loss=[0.1, 2.0])
    diverged = run("diverged", [], diverged_in=2)
    assert best([lowest_before, low, diverged]) is low
    assert best([diverged, RATES[2]]) is diverged


def test_batch_gd_is_shown_at_its_first_and_its_best_learning_rate() -> None:
    first, second, diverged, mini_batch = RATES
    assert BATCH_SIZES.shown(RATES) == [first, second, mini_batch]
    assert BATCH_SIZES.shown([first, diverged, mini_batch]) == [first, mini_batch]


def test_best_run_of_each_optimizer_is_shown() -> None:
    runs = runs_of(OPTIMIZER_CONTEST, {"SGD at rate 0.3": 0.1, "Adam at rate 0.001": 0.2})
    shown = OPTIMIZER_CONTEST.shown(runs)
    names = ["SGD", "momentum", "Nesterov", "Adam", "AdamW", "L-BFGS"]
    assert [each.plan.method for each in shown] == names
    rates = [each.plan.learning_rate for each in shown]
    assert (rates[0], rates[3], rates[5]) == (0.3, 0.001, None)


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
