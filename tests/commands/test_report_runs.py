"""`fastnn.commands.report_runs`: when runs reached what, and what is said about it."""

from runs import FAST, RATES, SLOW, run

from fastnn.commands.report_runs import (
    Reached,
    Run,
    best_of,
    conclusions,
    learning_rate_choice,
    number_text,
)


def test_a_mark_is_reached_in_the_first_epoch_at_or_above_it() -> None:
    one = run("one", [0.5, 0.9, 0.8, 0.95], batch_size=300, seconds=0.5)
    assert one.reached(0.9) == Reached(epochs=2, updates=8, seconds=1.0)
    assert one.reached(0.95) == Reached(epochs=4, updates=16, seconds=2.0)
    assert one.reached(0.951) is None


def test_a_short_last_batch_is_an_update() -> None:
    assert [run("r", [0.5], batch_size=n).updates_per_epoch for n in (1_000, 999, 500)] == [1, 2, 2]


def test_the_best_has_the_lowest_final_loss_and_did_not_diverge() -> None:
    low = run("low", [0.5, 0.5], loss=[3.0, 1.0])
    lowest_before = run("lowest before", [0.5, 0.5], loss=[0.1, 2.0])
    diverged = run("diverged", [0.5], loss=[0.01], diverged_in=2)
    assert best_of([lowest_before, low, diverged]) is low
    assert best_of([diverged]) is None


def text_of(*runs: Run) -> str:
    return "\n".join(conclusions(runs))


def test_who_is_ahead_is_said_in_either_order() -> None:
    for runs in ((SLOW, FAST), (FAST, SLOW)):
        text = text_of(*runs)
        assert "**Fast converged first**: it alone reached 95% test accuracy." in text
        assert (
            "To 90% test accuracy: fast took 1 epoch, 10 updates and 2 s; "
            "slow took 4 epochs, 4 updates and 4 s, 2.0 times as long."
        ) in text
        assert "Slow needed the fewest updates." in text
        assert "slow did not get there in 4 epochs (91.00% at its best)" in text


def test_the_lead_is_split_into_epochs_and_their_cost() -> None:
    text = text_of(SLOW, FAST)
    assert (
        "to 90%, slow took 2.0 times as long as fast, which is 4.0 times the epochs, "
        "each at 0.5 times the cost."
    ) in text
    assert (
        "Fast moved the weights after every 100 rows, slow after every 1,000: many updates" in text
    )
    assert "few updates from many rows each beat" not in text


def test_the_lead_over_the_slowest_of_the_same_batch_size_is_split_too() -> None:
    near = run("near", [0.5, 0.92], batch_size=100, seconds=1.5)
    text = text_of(SLOW, near, FAST)
    assert "to 90%, slow took 2.0 times as long as fast, which is 4.0 times the epochs" in text
    assert "to 90%, near took 1.5 times as long as fast, which is 2.0 times the epochs" in text
    assert text.count("What decided") == 2


def test_what_comes_to_the_same_is_not_told() -> None:
    text = text_of(run("a", [0.91]), run("b", [0.91], seconds=1.01), run("c", [0.91], seconds=3.0))
    assert "b took 1 epoch, 1 update and 1.01 s; c took 1 epoch, 1 update and 3 s, 3.0 tim" in text
    assert "c took 3.0 times as long as a, each epoch at 3.0 times the cost." in text
    text = text_of(run("a", [0.91]), run("b", [0.5, 0.91], seconds=1.01))
    assert "b took 2.0 times as long as a, which is 2.0 times the epochs." in text
    text = text_of(run("a", [0.91, 0.91]), run("b", [0.5, 0.91], seconds=0.501))
    assert "What decided" not in text and "as long" not in text
    text = text_of(run("a", [0.5, 0.91]), run("b", [0.5, 0.91], seconds=1.01))
    assert "What decided" not in text and "1.0 times" not in text


def test_large_batches_can_win() -> None:
    large = run("large", [0.91, 0.98], seconds=0.1)
    small = run("small", [0.91, 0.98], batch_size=10, seconds=5.0)
    text = text_of(large, small)
    assert (
        "**Large converged first**: it was the fastest to 97% test accuracy, the highest mark"
    ) in text
    assert "each epoch at 50 times the cost" in text
    assert "1,000 rows, small after every 10: few updates from many rows each beat many" in text
    assert "small costs 50 times large" in text
    assert "many updates from a few rows each beat" not in text


def test_equal_batches_are_not_said_to_decide() -> None:
    text = text_of(run("a", [0.91]), run("b", [0.5, 0.91]))
    assert "to 90%, b took 2.0 times as long as a" in text
    assert "moved the weights" not in text
    assert ": about the same for all." in text


def test_more_epochs_in_less_time() -> None:
    text = text_of(run("a", [0.5, 0.91], seconds=0.1), run("b", [0.91], seconds=2.0))
    assert "a took 2 epochs, 2 updates and 0.2 s; b took 1 epoch, 1 update and 2 s" in text
    assert "B needed the fewest epochs. B needed the fewest updates." in text


def test_nothing_reached() -> None:
    text = text_of(run("a", [0.2, 0.5]), run("b", [0.6, 0.3]))
    assert "**No run reached 90% test accuracy.** B came nearest: 60.00% at its best" in text
    assert "converged first" not in text and "What decided" not in text


def test_what_a_run_ends_with_is_found_in_the_leader() -> None:
    assert (
        "Slow ends with 91.00% test accuracy after 4 epochs and 4 s; fast has as much after "
        "1 epoch and 2 s, and ends with 96.00%."
    ) in text_of(SLOW, FAST)


def test_a_leader_may_end_behind() -> None:
    early, late = run("early", [0.98, 0.971]), run("late", [0.5, 0.5, 0.99])
    assert "late ends with 99.00%" in text_of(early, late).lower()
    assert "early never gets that far (98.00% at its best)" in text_of(early, late)


def test_diverged_runs_are_named() -> None:
    text = text_of(run("a", [0.91]), run("b", [0.5], diverged_in=2), run("c", [], diverged_in=1))
    assert "A converged first" in text
    assert "B diverged in epoch 2." in text and "C diverged in epoch 1." in text
    assert "b did not get there in 1 epoch (50.00% at its best)" in text


def test_nothing_can_be_concluded_from_nothing() -> None:
    sentences = conclusions([run("a", [], diverged_in=1)])
    assert sentences == [
        "A diverged in epoch 1.",
        "No run completed an epoch: there is nothing to compare.",
    ]


def test_one_run_is_compared_with_nothing() -> None:
    assert text_of(SLOW).startswith("**Slow converged first**: it was the fastest to 90%")
    assert len(conclusions([SLOW])) == 2


def test_the_choice_of_the_learning_rate_is_explained() -> None:
    text = learning_rate_choice(RATES[:3], first_too=True)
    assert text.startswith("Batch GD was tried at the learning rates 0.1, 0.3 and 1,")
    assert "0.3000 at 0.1, 0.2000 at 0.3 and it diverged in epoch 1 at 1" in text
    assert text.endswith("the best is 0.3, shown beside 0.1.")
    assert learning_rate_choice(RATES[:3], first_too=False).endswith("; the best is 0.3.")
    assert "the best is 0.1 itself, which is therefore shown once" in learning_rate_choice(
        [RATES[0], RATES[2]], first_too=True
    )
    for first_too in (True, False):
        assert "none of them" in learning_rate_choice([RATES[2]], first_too=first_too)


def test_three_digits_count() -> None:
    numbers = (0.0012345, 0.5, 12.345, 99.96, 123.4, 1234.5)
    assert [*map(number_text, numbers)] == ["0.00123", "0.5", "12.3", "100", "123", "1,234"]
