"""Gradients of all activations and losses, compared with the formulas and between engines."""

from functools import partial
from itertools import combinations, product

import numba
import numpy as np
import pytest
from formulas import flat_arrays, gradient, mean_loss, slope
from tolerances import U

from fastnn.data.rows import Data
from fastnn.engine import ENGINES, get_engine
from fastnn.epoch import Epoch, Progress
from fastnn.model.initializers import initial_parameters
from fastnn.model.layers import ACTIVATIONS, dense_layers
from fastnn.model.losses import LOSSES

LONG = pytest.mark.skipif(numba.config.DISABLE_JIT, reason="takes too long uncompiled")

SCALE = 0.5  # input_scale
# An element of a gradient is a sum of products with factors that have errors of some √K roundings.
# Because terms cancel, the error is relative to the largest element of the array. Measured for the
# reference engine: 2 to 8 U for most arrays, up to 20 U with much cancellation.
GRADIENT_BOUND = 64 * U
SMALL = 0.1  # size of the terms of a gradient, which may cancel completely
LOSS_BOUND = 16 * U  # mean of losses with errors of some roundings; measured: 1 U


def pairs_of(row):
    return set(combinations(enumerate(row), 2))


def pairwise(**factors):
    """Parametrize by few rows that contain all pairs of levels of two factors."""
    candidates = {row: pairs_of(row) for row in product(*factors.values())}
    missing, rows = set().union(*candidates.values()), []
    while missing:
        rows.append(max(candidates, key=lambda row: len(candidates[row] & missing)))
        missing -= candidates[rows[-1]]
    return pytest.mark.parametrize(tuple(factors), rows)


NETWORKS = {"activation": list(ACTIVATIONS), "loss": list(LOSSES), "weighted": [False, True]}
every_pair = pairwise(**NETWORKS)
every_pair_and_engine = pairwise(**NETWORKS, l2=[0.0, 0.03], engine=ENGINES)


@pytest.mark.parametrize("table", [every_pair, every_pair_and_engine])
def test_tables_contain_all_pairs(table):
    names, rows = table.args
    assert len(rows) <= 40
    levels = [set(column) for column in zip(*rows, strict=True)]
    assert levels[:3] == [set(each) for each in NETWORKS.values()]
    expected = set().union(*(pairs_of(row) for row in product(*levels)))
    assert set().union(*map(pairs_of, rows)) == expected


def problem(rng, sizes, loss, rows, weighted):
    """Return rows with targets for the loss, without weights or with weights, a third of them 0."""
    x = rng.standard_normal((rows, sizes[0]), dtype=np.float32)
    shape = rows, sizes[-1]
    targets = {
        "cross_entropy": lambda: rng.integers(0, sizes[-1], rows, np.int32),
        "logistic": lambda: np.where(rng.random(shape) < 0.2, 0.25, rng.integers(0, 2, shape)),
        "poisson": lambda: rng.poisson(1.5, shape),
    }.get(loss, lambda: 2 * rng.standard_normal(shape))()
    weights = None
    if weighted:
        weights = np.where(rng.random(rows) < 1 / 3, 0, rng.uniform(0.1, 3, rows))
        weights = weights.astype(np.float32)
    return Data(x, targets if loss == "cross_entropy" else targets.astype(np.float32), weights)


def engine_for(name, sizes, activation, loss):
    """Return an engine with initial weights and small random biases."""
    layers = dense_layers(sizes, activation)
    engine = get_engine(name, layers, LOSSES[loss], input_scale=SCALE)
    rng = np.random.default_rng(7)
    parameters = initial_parameters(layers, seed=1)
    engine.set_parameters([(w, 0.2 * rng.standard_normal(b.shape)) for w, b in parameters])
    return engine


# ---- against the formulas --------------------------------------------------------------------


@every_pair_and_engine
def test_gradients_equal_derivatives_of_formulas(engine, rng, activation, loss, weighted, l2):
    sizes = [4, 6, 5, 3]
    data = problem(rng, sizes, loss, 40, weighted)
    running = engine_for(engine, sizes, activation, loss)
    arrays = flat_arrays(running.get_parameters())
    loss_now = partial(mean_loss, arrays, 2 * [activation], loss, data, input_scale=SCALE, l2=l2)
    got_loss, gradients = running.loss_and_grad(data, l2=l2)
    exact_loss = loss_now().real
    assert abs(got_loss - exact_loss) <= LOSS_BOUND * max(1, exact_loss)
    for array, got in zip(arrays, flat_arrays(gradients), strict=True):
        exact = gradient(array, loss_now)
        assert np.abs(got - exact).max() <= GRADIENT_BOUND * np.abs(exact).max()


def assert_slopes(rng, engines, activations, loss, data, l2):
    """Compare gradients with derivatives of the formulas along a random direction."""
    arrays = flat_arrays(engines[0].get_parameters())
    loss_now = partial(mean_loss, arrays, activations, loss, data, input_scale=SCALE, l2=l2)
    gradients = [flat_arrays(each.loss_and_grad(data, l2=l2)[1]) for each in engines]
    for array, *found in zip(arrays, *gradients, strict=True):
        direction = rng.choice([-1.0, 1.0], array.shape)
        expected = slope(array, ..., direction, loss_now)
        for got in found:
            # The sum of n errors with random signs grows with √n.
            bound = GRADIENT_BOUND * max(SMALL, np.abs(got).max()) * np.sqrt(got.size)
            assert abs((got * direction).sum() - expected) <= bound


def test_gradients_with_a_different_activation_in_each_layer(rng):
    sizes = [5, 9, 17, 8, 7, 16, 6, 4]
    assert len(sizes) == len(ACTIVATIONS) + 2
    for activations in (ACTIVATIONS, ACTIVATIONS[::-1]):
        data = problem(rng, sizes, "squared_error", 600, weighted=True)
        engines = [engine_for(name, sizes, activations, "squared_error") for name in ENGINES]
        assert_slopes(rng, engines, activations, "squared_error", data, 0.01)


# ---- two engines ----------------------------------------------------------------------------


def assert_close(got, expected, bound):
    for pair, expected_pair in zip(got, expected, strict=True):
        for a, b in zip(pair, expected_pair, strict=True):
            assert np.abs(a - b).max() <= bound * np.abs(b).max()


@LONG
@every_pair
def test_engines_agree(rng, activation, loss, weighted):
    """With two chunks of rows: gradients, predictions, and two epochs.

    The batches of the first epoch have one chunk. The second epoch has one batch of two chunks
    and a short one.
    """
    sizes = [7, 19, 33, 5]
    data = problem(rng, sizes, loss, 700, weighted)
    engines = [engine_for(name, sizes, activation, loss) for name in ENGINES]
    assert_slopes(rng, engines, 2 * [activation], loss, data, 0.01)
    assert_same_gradients(*engines, data)
    assert_same_predictions(*engines, data)
    assert_same_steps(*engines, data, rng)


def assert_same_gradients(fast, plain, data):
    for l2 in (0.0, 0.02):
        got, gradients = fast.loss_and_grad(data, l2=l2)
        expected, expected_gradients = plain.loss_and_grad(data, l2=l2)
        assert got == pytest.approx(expected, rel=2 * LOSS_BOUND)
        assert_close(gradients, expected_gradients, 2 * GRADIENT_BOUND)


def assert_same_predictions(fast, plain, data):
    got, expected = fast.evaluate(data), plain.evaluate(data)
    assert got[0] == pytest.approx(expected[0], rel=2 * LOSS_BOUND)
    assert got[1] == expected[1]
    predicted = plain.predict(data.x)
    assert np.abs(fast.predict(data.x) - predicted).max() <= 64 * U * np.abs(predicted).max()


def assert_same_steps(fast, plain, data, rng):
    for number, batch_size in enumerate((64, 600)):
        epoch = Epoch(data, rng.permutation(700), batch_size, 0.01, l2=0.01, number=number)
        got, expected = (each.run_chunk(epoch, Progress(), 700) for each in (fast, plain))
        assert got.loss_sum == pytest.approx(expected.loss_sum, rel=1e-5)  # as in `tolerances`
        # Rounding may decide a tie.
        assert abs(got.correct - expected.correct) <= 1
    assert_close(fast.get_parameters(), plain.get_parameters(), 64 * epoch.updates * 11 * U)


@pytest.mark.parametrize("sizes", [[3, 1], [2, 16, 16], [1, 1, 1]], ids=str)
def test_gradients_of_small_networks(engine, rng, sizes):
    """Without a hidden layer, with full panels, and with a single unit per layer."""
    for loss in LOSSES:
        assert_gradients(rng, engine, sizes, loss)


def assert_gradients(rng, engine, sizes, loss):
    data = problem(rng, sizes, loss, 30, weighted=True)
    running = engine_for(engine, sizes, "tanh", loss)
    arrays = flat_arrays(running.get_parameters())
    activations = (len(sizes) - 2) * ["tanh"]
    exact = mean_loss(arrays, activations, loss, data, input_scale=SCALE).real
    got, _ = running.loss_and_grad(data)
    assert abs(got - exact) <= LOSS_BOUND * max(1, exact)
    if not (loss == "cross_entropy" and sizes[-1] == 1):  # the gradient of a single class is 0
        assert_slopes(rng, [running], activations, loss, data, 0.0)
