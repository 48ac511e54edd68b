"""Learning-rate schedules: formulas, errors, and `Network.fit`."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastnn import Network
from fastnn.model.schedules import ADAPTIVE_END, SCHEDULES, Schedule
from fastnn.model.settings import SMALLEST_NORMAL

without_deadline = settings(deadline=None)  # other programs may slow the machine down
ROUNDING = 1e-12  # a few float64 operations


def rates(schedule, *, epochs, updates, rows=1000, learning_rate=0.1):
    """Return the rates of all epochs of a fit."""
    if isinstance(schedule, str):
        schedule = Schedule(schedule)
    parts = [
        schedule.rates(
            learning_rate, epoch=epoch, epochs=epochs, updates=updates, samples_seen=epoch * rows
        )
        for epoch in range(epochs)
    ]
    assert all(part.shape == (updates,) and part.dtype == np.float64 for part in parts)
    return np.concatenate(parts)


# ---- formulas -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["constant", "adaptive"])
def test_constant(name):
    assert (rates(name, epochs=3, updates=5) == 0.1).all()


@pytest.mark.parametrize("power_t", [0.0, 0.5, 1.0])
def test_invscaling_equals_that_of_scikit_learn(power_t):
    """`SGDOptimizer.iteration_ends` sets learning_rate_init / (t + 1)^power_t after each epoch."""
    got = rates(Schedule("invscaling", power_t=power_t), epochs=3, updates=2, rows=99)
    expected = [0.1, 0.1, *2 * [0.1 / 100**power_t], *2 * [0.1 / 199**power_t]]
    np.testing.assert_allclose(got, expected, rtol=ROUNDING)


def test_cosine():
    got = rates("cosine", epochs=4, updates=3)
    expected = [0.05 * (1 + math.cos(math.pi * t / 12)) for t in range(12)]
    np.testing.assert_allclose(got, expected, rtol=ROUNDING)
    assert got[0] == 0.1 and got[6] == pytest.approx(0.05)


def test_one_cycle_has_the_constants_of_pytorch():
    """`OneCycleLR`: pct_start 0.3, div_factor 25, final_div_factor 1e4, anneal_strategy cos.

    The peak is at 3/10 of all updates, one update later than in PyTorch.
    """
    total = 100
    got = rates("one_cycle", epochs=10, updates=10)
    low, high, end = 0.1 / 25, 0.1, 0.1 / 25 / 1e4

    def annealed(start, stop, share):  # _annealing_cos of PyTorch
        return stop + (start - stop) / 2 * (1 + math.cos(math.pi * share))

    expected = [annealed(low, high, t / 30) for t in range(30)]
    expected += [annealed(high, end, (t - 30) / (total - 1 - 30)) for t in range(30, total)]
    np.testing.assert_allclose(got, expected, rtol=1e-9)  # cancellation at the end
    assert got.argmax() == 30 and got[0] == pytest.approx(low) and got[-1] == pytest.approx(end)


@pytest.mark.parametrize("updates", [1, 2, 3, 4])
def test_one_cycle_with_few_updates(updates):
    got = rates("one_cycle", epochs=1, updates=updates)
    assert np.isfinite(got).all() and (got > 0).all() and got.max() <= 0.1
    assert got[0] == pytest.approx(0.1 / 25)


@pytest.mark.parametrize("name", SCHEDULES)
def test_warmup_scales_the_first_rates(name):
    plain = rates(name, epochs=4, updates=6)
    warm = rates(Schedule(name, warmup_epochs=1.5), epochs=4, updates=6)
    share = np.minimum(1, np.arange(1, 25) / 9)
    np.testing.assert_allclose(warm, plain * share, rtol=ROUNDING)
    assert (warm[8:] == plain[8:]).all()


@given(
    name=st.sampled_from(SCHEDULES),
    epochs=st.integers(1, 20),
    updates=st.integers(1, 30),
    warmup=st.just(0.0) | st.floats(SMALLEST_NORMAL, 25),
    power_t=st.just(0.0) | st.floats(SMALLEST_NORMAL, 2),
)
@without_deadline
def test_rates_are_positive_and_at_most_the_learning_rate(name, epochs, updates, warmup, power_t):
    schedule = Schedule(name, warmup_epochs=warmup, power_t=power_t)
    got = rates(schedule, epochs=epochs, updates=updates)
    assert (got > 0).all() and (got <= 0.1 * (1 + ROUNDING)).all()


@given(
    name=st.sampled_from(("constant", "cosine", "one_cycle")),
    parts=st.integers(1, 12),
    updates=st.integers(1, 10),
)
@without_deadline
def test_rates_depend_on_updates_and_not_on_epochs(name, parts, updates):
    """A different number of epochs with the same number of updates has the same rates."""
    got = rates(name, epochs=parts, updates=updates)
    np.testing.assert_allclose(got, rates(name, epochs=1, updates=parts * updates), rtol=1e-9)


# ---- errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "step"}, "schedule must be one of constant, invscaling, adaptive, cosine, one_"),
        ({"name": None}, "schedule must be one of .*, got None"),
        ({"warmup_epochs": -1}, "warmup_epochs must be a number of at least 0, got -1"),
        ({"warmup_epochs": math.nan}, "warmup_epochs must be a number"),
        ({"warmup_epochs": math.inf}, "warmup_epochs must be a number"),
        ({"warmup_epochs": "1"}, "warmup_epochs must be a number"),
        ({"power_t": -0.5}, "power_t must be a number"),
    ],
)
def test_rejects_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        Schedule(**settings)


def test_unknown_schedule_does_not_change_the_network(engine):
    network = Network([2, 2])
    with pytest.raises(ValueError, match="^schedule must be one of"):
        network.fit([[0, 1]], [1], schedule="linear", engine=engine)
    assert network.epochs_trained == 0


# ---- `Network.fit` --------------------------------------------------------------------------


@pytest.fixture
def data(rng):
    labels = rng.integers(0, 3, 90)
    return rng.normal(size=(90, 4)) + np.eye(3, 4)[labels], labels


@pytest.mark.parametrize("name", ["cosine", "one_cycle", "invscaling"])
def test_history_contains_the_last_rate_of_each_epoch(engine, data, name):
    schedule = Schedule(name, warmup_epochs=2)
    history = Network([4, 3]).fit(
        *data, epochs=5, batch_size=20, learning_rate=0.2, schedule=schedule, engine=engine
    )
    expected = rates(schedule, epochs=5, updates=5, rows=90, learning_rate=0.2)
    assert history["learning_rate"] == pytest.approx(expected[4::5].tolist(), rel=ROUNDING)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_fit_uses_the_rates_of_the_schedule(engine, data, optimizer):
    """A full-batch fit equals fits of one epoch with the rates of the schedule."""
    one, several = Network([4, 3]), Network([4, 3])
    settings = {"batch_size": "full", "optimizer": optimizer, "engine": engine}
    one.fit(*data, epochs=6, learning_rate=0.3, schedule="cosine", **settings)
    for rate in rates("cosine", epochs=6, updates=1, learning_rate=0.3):
        several.fit(*data, epochs=1, learning_rate=float(rate), **settings)
    for (w, b), (other_w, other_b) in zip(one.parameters, several.parameters, strict=True):
        assert (w == other_w).all() and (b == other_b).all()


def test_schedule_restarts_with_each_fit(engine, data):
    network = Network([4, 3])
    first, second = (
        network.fit(*data, epochs=3, schedule="cosine", engine=engine)["learning_rate"]
        for _ in range(2)
    )
    assert first == second


def test_invscaling_continues_in_the_next_fit(engine, data):
    network = Network([4, 3])
    settings = {"schedule": "invscaling", "batch_size": 30, "engine": engine}
    parts = [network.fit(*data, epochs=n, **settings)["learning_rate"] for n in (1, 2)]
    assert parts[0] + parts[1] == Network([4, 3]).fit(*data, epochs=3, **settings)["learning_rate"]


def test_adaptive_divides_the_rate_if_training_does_not_improve(engine, data):
    """After ten epochs without improvement it divides by 5; below 1e-6, training ends."""
    network = Network([4, 3])
    network.fit(*data, epochs=300, batch_size="full", learning_rate=1.0, engine=engine)
    history = network.fit(
        *data, epochs=500, batch_size="full", learning_rate=1e-3, schedule="adaptive", engine=engine
    )
    # Near the minimum, only the first epoch counts as an improvement.
    got = history["learning_rate"]
    expected = 12 * [1e-3]
    while expected[-1] > ADAPTIVE_END:
        expected += 11 * [expected[-1] / 5]
    assert got == pytest.approx(expected, rel=ROUNDING)
    assert expected[-1] < ADAPTIVE_END < expected[-12]


def test_adaptive_keeps_the_rate_while_training_improves(engine, data):
    history = Network([4, 3]).fit(
        *data, epochs=30, batch_size="full", learning_rate=0.05, schedule="adaptive", engine=engine
    )
    assert np.diff(history["loss"]).max() < -1e-4
    assert set(history["learning_rate"]) == {0.05}
