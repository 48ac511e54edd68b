"""Losses: names, values, derivatives and predictions."""

import numpy as np
import pytest

from fastnn import Network
from fastnn.data.rows import Data
from fastnn.engine import get_engine
from fastnn.model.layers import dense_layers
from fastnn.model.losses import LOSSES, get_loss

EPS32 = 2.0**-23


def engine_of_one_weight(name, loss, outputs=1):
    """Return an engine whose weights are the identity, so that z is x."""
    running = get_engine(name, dense_layers([outputs, outputs]), LOSSES[loss], input_scale=1.0)
    running.set_parameters([(np.eye(outputs), np.zeros(outputs))])
    return running


def column(values):
    return np.array(values, np.float32)[:, None]


# ---- names ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_found_by_name(name):
    assert get_loss(name).name == name
    assert get_loss(name).takes_labels == (name == "cross_entropy")
    assert Network([2, 3], loss=name).loss is get_loss(name)


@pytest.mark.parametrize("name", ["mse", "", "Huber", None, 3, ["huber"]])
def test_rejects_unknown_names(name):
    names = "cross_entropy, logistic, squared_error, poisson, absolute_error, huber"
    with pytest.raises(ValueError) as caught:
        Network([2, 3], loss=name)
    assert str(caught.value) == f"loss must be one of {names}, got {name!r}"


# ---- values worked by hand ------------------------------------------------------------------

LOG_2 = np.log(2)


@pytest.mark.parametrize(
    ("loss", "z", "y", "expected", "slope"),
    [
        ("squared_error", 3, 1, 2, 2),
        ("squared_error", -1, 1, 2, -2),
        ("absolute_error", 3, 1, 2, 1),
        ("absolute_error", -1, 1, 2, -1),
        ("absolute_error", 1, 1, 0, 0),
        ("huber", 1.5, 1, 0.125, 0.5),
        ("huber", 3, 1, 1.5, 1),
        ("huber", -3, 1, 3.5, -1),
        ("huber", 2, 1, 0.5, 1),  # both formulas agree
        ("logistic", 0, 1, LOG_2, -0.5),
        ("logistic", 0, 0.25, LOG_2, 0.25),
        ("poisson", 0, 1, 0, 0),  # p = 1 = y
        ("poisson", 0, 0, 1, 1),
        ("poisson", LOG_2, 4, 2 - 4 * LOG_2 + 4 * np.log(4) - 4, -2),
    ],
)
def test_losses_and_derivatives_worked_by_hand(engine, loss, z, y, expected, slope):
    running = engine_of_one_weight(engine, loss)
    got, ((_, db),) = running.loss_and_grad(Data(column([z]), column([y])))
    # Roundings of terms of at most 6.
    assert got == pytest.approx(expected, rel=4 * EPS32, abs=12 * EPS32)
    assert float(db[0]) == pytest.approx(slope, rel=4 * EPS32, abs=4 * EPS32)


@pytest.mark.parametrize("loss", [name for name in LOSSES if name != "cross_entropy"])
def test_loss_is_summed_over_outputs_and_averaged_over_rows(engine, rng, loss):
    running = engine_of_one_weight(engine, loss, outputs=3)
    x = rng.normal(size=(20, 3)).astype(np.float32)
    y = rng.integers(0, 2, (20, 3)).astype(np.float32)
    single = engine_of_one_weight(engine, loss)
    alone = [single.evaluate(Data(column(x[:, j]), column(y[:, j])))[0] for j in range(3)]
    assert running.evaluate(Data(x, y))[0] == pytest.approx(sum(alone), rel=8 * EPS32)


# ---- large and small numbers ----------------------------------------------------------------


@pytest.mark.parametrize("y", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("z", [0.0, 1e-6, 20.0, 88.0, 89.0, 200.0, 1e6, 3e38])
def test_logistic_loss_is_accurate_for_all_z(engine, z, y):
    """log(1 + eᶻ) - y z, even if eᶻ overflows in float32."""
    running = engine_of_one_weight(engine, "logistic")
    for sign in (1, -1):
        loss, ((_, db),) = running.loss_and_grad(Data(column([sign * z]), column([y])))
        z64, p = sign * np.float64(np.float32(z)), 1 / (1 + np.exp(-np.float64(sign * min(z, 700))))
        assert loss == pytest.approx(max(z64, 0) - y * z64 + np.log1p(np.exp(-abs(z64))), rel=1e-6)
        assert float(db[0]) == pytest.approx(p - y, abs=2 * EPS32)
        probability = float(running.predict(column([sign * z]))[0, 0])
        assert 0 <= probability <= 1
        # The relative error of e⁻ᶻ is up to z · 2⁻²⁴, from its argument; below 1e-37 it may be 0.
        assert probability == pytest.approx(p, rel=1e-5, abs=1e-37)


@pytest.mark.parametrize("loss", ["squared_error", "absolute_error", "huber"])
def test_derivatives_of_large_residuals(engine, loss):
    running = engine_of_one_weight(engine, loss)
    loss_value, ((_, db),) = running.loss_and_grad(Data(column([1e18]), column([-1e18])))
    assert loss_value == pytest.approx(2e36 if loss == "squared_error" else 2e18, rel=1e-6)
    assert float(db[0]) == pytest.approx(2e18 if loss == "squared_error" else 1, rel=1e-6)


def test_poisson_mean_beyond_float32_is_divergence(engine):
    network = Network([1, 1], loss="poisson")
    network.parameters = [([[100.0]], [0.0])]
    network.use_engine(engine)
    assert np.isinf(network.evaluate([[1.0]], [1.0])[0])
    with pytest.raises(ArithmeticError, match="^the loss is not finite in epoch 1, step 1,"):
        network.fit([[1.0]], [1.0], epochs=1, engine=engine)


# ---- predictions ----------------------------------------------------------------------------


def test_predictions_apply_the_link(engine):
    z = column([-2, 0, 0.5, 3])
    expected = {
        "logistic": 1 / (1 + np.exp(-z.astype(np.float64))),
        "poisson": np.exp(z.astype(np.float64)),
        "squared_error": z,
        "absolute_error": z,
        "huber": z,
    }
    for loss, values in expected.items():
        got = engine_of_one_weight(engine, loss).predict(z)
        assert got.shape == (4, 1) and got.dtype == np.float32
        np.testing.assert_allclose(got, values, rtol=4 * EPS32)


@pytest.mark.parametrize("outputs", [1, 3])
def test_predictions_have_the_form_of_the_targets(engine, rng, outputs):
    x = rng.normal(size=(7, 2))
    shape = (7,) if outputs == 1 else (7, 3)
    for loss in LOSSES:
        network = Network([2, outputs], loss=loss)
        network.use_engine(engine)
        predicted = network.predict(x)
        assert predicted.shape == ((7,) if loss == "cross_entropy" else shape)
        assert predicted.dtype == (
            np.int64 if loss in ("cross_entropy", "logistic") else np.float32
        )
        if loss in ("cross_entropy", "logistic"):
            assert network.predict_proba(x).shape == (7, outputs)
        else:
            with pytest.raises(ValueError, match=f"^loss '{loss}' has no probabilities"):
                network.predict_proba(x)


def test_row_is_correct_if_all_its_outputs_are(engine):
    running = engine_of_one_weight(engine, "logistic", outputs=2)
    x = np.float32([[1, 1], [1, -1], [-1, 1], [-1, -1]])
    y = np.float32([[1, 1], [1, 1], [0, 1], [0, 1]])
    assert running.evaluate(Data(x, y))[1] == 0.5


def test_accuracy_of_a_regression_is_0(engine):
    running = engine_of_one_weight(engine, "squared_error")
    assert running.evaluate(Data(column([1, 2]), column([1, 2]))) == (0.0, 0.0)


@pytest.mark.parametrize("loss", LOSSES)
def test_network_learns_with_every_loss(engine, rng, loss):
    x = rng.uniform(-1, 1, (200, 3)).astype(np.float32)
    signal = 2 * x[:, 0] - x[:, 1] + 0.5
    y = {
        "cross_entropy": (signal > 0).astype(int),
        "logistic": signal > 0,
        "poisson": rng.poisson(np.exp(signal)),
    }.get(loss, signal)
    network = Network([3, 16, 2 if loss == "cross_entropy" else 1], loss=loss)
    before = network.use_engine(engine) and network.evaluate(x, y)
    history = network.fit(x, y, epochs=30, batch_size=20, learning_rate=0.02, engine=engine)
    after = network.evaluate(x, y)
    assert after[0] < before[0] / 1.2 and history["loss"][-1] < history["loss"][0]
    # About half of the variance of the Poisson targets is noise.
    assert after[1] > (0.4 if loss == "poisson" else 0.9)
