"""Early stopping: its state machine, and fits that stop early."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastnn import Callback, DivergenceError, Network
from fastnn.training.early_stopping import EarlyStopping, StoppingState, is_over, judge

no_deadline = settings(deadline=None)  # the machine may be busy


def run(rule, figures):
    """Return the state after each epoch, up to the epoch that ends the fit."""
    stopping, states = StoppingState(), []
    for epoch, figure in enumerate(figures, start=1):
        stopping = judge(rule, stopping, epoch, figure)
        states.append(stopping)
        if is_over(rule, stopping):
            break
    return states


# ---- the state machine ----------------------------------------------------------------------


def test_stops_after_patience_plus_one_epochs_without_improvement():
    for patience in (0, 1, 3):
        rule = EarlyStopping("val_loss", patience=patience)
        assert len(run(rule, [3, 2, 1, *20 * [1.5]])) == 3 + patience + 1


def test_losses_should_decrease_and_other_figures_increase():
    for monitor in ("loss", "val_loss"):
        assert run(EarlyStopping(monitor), [3, 1, 2])[-1] == StoppingState(1, 2, 1)
    for monitor in ("accuracy", "val_accuracy", "val_r2", "val_score"):
        assert run(EarlyStopping(monitor), [3, 1, 4, 2])[-1] == StoppingState(4, 3, 1)


def test_gain_below_min_delta_is_the_best_but_no_improvement():
    states = run(EarlyStopping("loss", patience=10, min_delta=0.5), [3, 2.75, 2.5, 2.0, 2.25])
    assert states == [
        StoppingState(3, 1, 0),
        StoppingState(2.75, 2, 1),
        StoppingState(2.5, 3, 2),
        StoppingState(2.0, 4, 0),  # a gain of min_delta itself counts
        StoppingState(2.0, 4, 1),
    ]


def test_equal_figure_is_an_improvement_if_min_delta_is_0():
    states = run(EarlyStopping("loss", patience=1, min_delta=0), [1, 1, 1, 1.5, 1])
    assert states[:3] == 3 * [StoppingState(1, 1, 0)]  # the first of equal figures is the best
    assert states[3:] == [StoppingState(1, 1, 1), StoppingState(1, 1, 0)]


def test_nan_is_no_improvement():
    rule = EarlyStopping("loss", patience=2)
    assert run(rule, [math.nan, 2, math.nan, 1])[-1] == StoppingState(1, 4, 0)
    nothing = run(rule, 5 * [math.nan])
    assert len(nothing) == 3
    assert math.isnan(nothing[-1].best) and nothing[-1].best_epoch == 0


def test_infinite_loss_can_improve():
    states = run(EarlyStopping("loss", patience=3), [math.inf, math.inf, 2, 1])
    assert [stopping.waited for stopping in states] == [0, 1, 0, 0]
    assert states[-1] == StoppingState(1, 4, 0)


figures = st.lists(
    st.floats(-100, 100) | st.sampled_from([math.nan, math.inf, -math.inf]), min_size=1, max_size=40
)


@given(
    figures=figures,
    patience=st.integers(0, 6),
    min_delta=st.sampled_from([0, 1e-4, 1.0]),
    falls=st.booleans(),
)
@no_deadline
def test_finds_the_first_best_figure_and_stops_when_patience_is_exceeded(
    figures, patience, min_delta, falls
):
    rule = EarlyStopping("loss" if falls else "score", patience=patience, min_delta=min_delta)
    states = run(rule, figures)
    known = [x for x in figures[: len(states)] if not math.isnan(x)]
    if known:
        best = min(known) if falls else max(known)
        assert (states[-1].best, states[-1].best_epoch) == (best, figures.index(best) + 1)
    assert all(stopping.waited <= patience for stopping in states[:-1])
    assert len(states) == len(figures) or states[-1].waited == patience + 1


@given(figures=figures, patience=st.integers(0, 6))
@no_deadline
def test_score_is_judged_like_a_loss_of_the_opposite_sign(figures, patience):
    rising = run(EarlyStopping("score", patience=patience), figures)
    falling = run(EarlyStopping("loss", patience=patience), [-x for x in figures])
    assert [s[1:] for s in rising] == [s[1:] for s in falling]


@pytest.mark.parametrize("value", [-1, math.nan, "3", None, True, np.True_])
@pytest.mark.parametrize("name", ["patience", "min_delta"])
def test_rejects_settings_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be a number of at least 0, got {value!r}"):
        EarlyStopping(**{name: value})


@pytest.mark.parametrize("monitor", [None, 3, ["val_loss"], b"loss"])
def test_rejects_a_monitor_that_is_no_string(monitor):
    with pytest.raises(ValueError, match="^monitor must be the name of a metric, got "):
        EarlyStopping(monitor)


def test_patience_may_be_infinite():
    assert len(run(EarlyStopping("loss", patience=math.inf), 200 * [1.0])) == 200


# ---- `Network.fit` --------------------------------------------------------------------------


@pytest.fixture
def data(rng):
    """Return noise to overfit, and other rows, whose loss grows meanwhile."""
    x, labels = rng.normal(size=(60, 10)).astype(np.float32), rng.integers(0, 3, 60)
    return (x[:40], labels[:40]), (x[40:], labels[40:])


@pytest.mark.parametrize("monitor", ["val_loss", "val_accuracy"])
def test_fit_ends_with_the_best_weights(engine, data, monitor):
    train, held_out = data
    network = Network([10, 32, 3], seed=1)
    rule = EarlyStopping(monitor, patience=3, min_delta=0)
    history = network.fit(
        *train, epochs=200, batch_size=10, engine=engine,
        validation_data=held_out, early_stopping=rule,
    )  # fmt: skip
    figures = history[monitor]
    best = min(figures) if monitor == "val_loss" else max(figures)
    assert 4 <= len(figures) < 200
    assert best != figures[-1]
    assert network.evaluate(*held_out)[monitor == "val_accuracy"] == best
    assert network.epochs_trained == len(figures)
    # A fit that ends after the best epoch has the same weights.
    other = Network([10, 32, 3], seed=1)
    other.fit(*train, epochs=figures.index(best) + 1, batch_size=10, engine=engine)
    for (w, b), (other_w, other_b) in zip(network.parameters, other.parameters, strict=True):
        assert (w == other_w).all() and (b == other_b).all()


def test_fit_ends_with_the_last_weights_without_restore_best(engine, data):
    train, held_out = data
    network = Network([10, 32, 3], seed=1)
    rule = EarlyStopping(patience=3, restore_best=False)
    history = network.fit(
        *train, epochs=200, batch_size=10, engine=engine,
        validation_data=held_out, early_stopping=rule,
    )  # fmt: skip
    assert len(history["val_loss"]) < 200
    assert network.evaluate(*held_out)[0] == history["val_loss"][-1] > min(history["val_loss"])


def test_restores_the_best_weights_after_the_last_epoch(engine, data):
    train, held_out = data
    network = Network([10, 32, 3], seed=1)
    history = network.fit(
        *train, epochs=40, batch_size=10, engine=engine,
        validation_data=held_out, early_stopping=EarlyStopping(patience=1000),
    )  # fmt: skip
    assert len(history["val_loss"]) == 40
    assert network.evaluate(*held_out)[0] == min(history["val_loss"]) < history["val_loss"][-1]


class Interrupt(Callback):
    def on_epoch_begin(self, epoch):
        if epoch == 40:
            raise KeyboardInterrupt


def test_restores_the_best_weights_after_an_interrupt(engine, data):
    train, held_out = data
    network, other = Network([10, 32, 3], seed=1), Network([10, 32, 3], seed=1)
    rule = EarlyStopping(patience=1000)
    settings = {"batch_size": 10, "validation_data": held_out, "engine": engine}
    with pytest.raises(KeyboardInterrupt):
        network.fit(*train, epochs=60, early_stopping=rule, callbacks=[Interrupt()], **settings)
    history = other.fit(*train, epochs=39, **settings)
    assert network.epochs_trained == 39
    assert network.evaluate(*held_out)[0] == min(history["val_loss"]) < history["val_loss"][-1]


def test_restores_the_best_weights_after_divergence(engine):
    """With x = 1e20, the logits overflow after the second step."""
    network = Network([1, 2])
    network.parameters = [(np.zeros((1, 2)), np.zeros(2))]
    with pytest.raises(DivergenceError):
        network.fit(
            [[1e20]], [0], epochs=5, learning_rate=1, engine=engine,
            early_stopping=EarlyStopping("loss"),
        )  # fmt: skip
    assert network.epochs_trained == 1
    assert network.parameters[0][0].tolist() == [[np.float32(5e19), np.float32(-5e19)]]


def test_can_monitor_the_training_loss(engine, data):
    train, _ = data
    history = Network([10, 3]).fit(
        *train, epochs=500, batch_size="full", learning_rate=0.5, engine=engine,
        early_stopping=EarlyStopping("loss", patience=5, min_delta=1e-3),
    )  # fmt: skip
    gains = -np.diff(history["loss"])
    assert 6 < len(history["loss"]) < 500
    assert (gains[-6:] < 1e-3).all() and (gains[:-6] >= 1e-3).any()


@pytest.mark.parametrize(
    ("monitor", "validated", "loss", "metrics"),
    [
        ("val_loss", False, "cross_entropy", "loss, accuracy; pass validation_data or"),
        ("val_f1", True, "cross_entropy", "loss, accuracy, val_loss, val_accuracy$"),
        ("accuracy", True, "squared_error", "loss, val_loss, val_r2$"),
    ],
)
def test_rejects_a_monitor_that_the_history_does_not_have(
    engine, monitor, validated, loss, metrics
):
    network = Network([2, 2], loss=loss)
    x = np.zeros((2, 2))
    y = [0, 1] if loss == "cross_entropy" else x
    with pytest.raises(
        ValueError, match=f"^early_stopping monitors '{monitor}', .* only {metrics}"
    ):
        network.fit(
            x, y, epochs=1, engine=engine, early_stopping=EarlyStopping(monitor),
            validation_data=(x, y) if validated else None,
        )  # fmt: skip
    assert network.epochs_trained == 0
