"""`fastnn.commands.report_runs`: results of runs, and the choice of the fastest method."""

import pytest
from runs import RATES, run

from fastnn.commands.report_runs import Reached, best, first_to_converge, number_text


def test_accuracy_is_reached_in_the_first_epoch_at_or_above_it() -> None:
    one = run("one", [0.5, 0.9, 0.8, 0.95], batch_size=300, seconds=0.5)
    assert one.reached(0.9) == Reached(epochs=2, seconds=1.0)
    assert one.reached(0.95) == Reached(epochs=4, seconds=2.0)
    assert one.reached(0.951) is None


def test_short_last_batch_counts_as_update() -> None:
    assert [run("r", [0.5], batch_size=n).updates_per_epoch for n in (1_000, 999, 500)] == [1, 2, 2]


def test_best_run_has_the_lowest_final_loss_and_did_not_diverge() -> None:
    low = run("low", [0.5, 0.5], loss=[3.0, 1.0])
    lowest_before = run("lowest before", [0.5, 0.5], loss=[0.1, 2.0])
    diverged = run("diverged", [0.5], loss=[0.01], diverged_in=2)
    assert best([lowest_before, low, diverged]) is low
    assert best([diverged, RATES[2]]) is diverged


def runs_with(name: str, *seconds: float, accuracy: float = 0.91) -> list:
    """Return runs of a method that reach an accuracy in one epoch of these seconds."""
    return [run(name, [accuracy], seconds=each) for each in seconds]


def test_fastest_method_is_named_if_all_its_runs_are_faster() -> None:
    fast, slow = runs_with("fast", 1.0, 1.5, 1.2), runs_with("slow", 2.5, 1.6, 1.7)
    for methods in ([fast, slow], [slow, fast]):
        assert first_to_converge(methods) == (
            "With each of 3 seeds, fast was the first to reach 90% test accuracy, after 1 to 1.5 "
            "s; slow was next, after at least 1.6 s."
        )


@pytest.mark.parametrize("seconds", [1.5, 1.4, 0.5])
def test_overlapping_runs_name_no_fastest_method(seconds: float) -> None:
    fast = runs_with("fast", 1.0, 1.5, 1.2)
    assert first_to_converge([fast, runs_with("slow", 2.5, seconds, 2.6)]) == ""


def test_highest_accuracy_that_all_runs_of_a_method_reach_decides() -> None:
    late = runs_with("late", 3.0, 3.5, accuracy=0.96)
    early = runs_with("early", 1.0, 1.0)
    text = first_to_converge([early, late])
    assert "late was the first to reach 95% test accuracy, after 3 to 3.5 s" in text
    assert text.endswith("; no other method reached it.")
    lucky = [*runs_with("early", 1.0, accuracy=0.96), *runs_with("early", 1.0)]
    assert first_to_converge([lucky, late]) == ""
    assert "to reach 90%" in first_to_converge([lucky, runs_with("late", 3.0, 3.0)])


def test_nothing_is_said_without_a_reached_accuracy_or_a_second_method() -> None:
    assert first_to_converge([runs_with("a", 1.0, accuracy=0.5), [RATES[2]]]) == ""
    assert first_to_converge([runs_with("a", 1.0)]) == ""


def test_numbers_have_three_significant_digits() -> None:
    numbers = (0.0012345, 0.5, 12.345, 99.96, 123.4, 1234.5)
    assert [*map(number_text, numbers)] == ["0.00123", "0.5", "12.3", "100", "123", "1,234"]
