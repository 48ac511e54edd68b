"""Gradients of every activation with every loss: against the formulas, and the two engines."""

from functools import partial

import numba
import numpy as np
import pytest
from formulas import flat_arrays, gradient, mean_loss, slope
from tolerances import U

from fastnn.batches import Data, Epoch, Progress
from fastnn.engine import get_engine
from fastnn.initializers import initial_parameters
from fastnn.layers import ACTIVATIONS, dense_layers
from fastnn.losses import LOSSES

LONG = pytest.mark.skipif(numba.config.DISABLE_JIT, reason="takes too long uncompiled")

every_activation = pytest.mark.parametrize("activation", ACTIVATIONS)
every_loss = pytest.mark.parametrize("loss", LOSSES)
with_and_without_weights = pytest.mark.parametrize("weighted", [False, True])

SCALE = 0.5  # of the input
# An element of a gradient is a sum of products whose factors are some √K roundings off. The terms
# cancel, and so the error is measured by the largest element of the array. Recorded, of the
# reference: 2 to 8 U for most, up to 20 U where an array's terms all but cancel.
GRADIENT_BOUND = 64 * U
SMALL = 0.1  # of one weight: its terms may cancel altogether, and are of this size then
LOSS_BOUND = 16 * U  # a mean of losses, each some roundings off; recorded: 1 U


def problem(rng, sizes, loss, rows, weighted):
    """Rows with targets that the loss can take, and weights, a third of them zero, or none."""
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
    """An engine with initial weights and small random biases."""
    layers = dense_layers(sizes, activation)
    engine = get_engine(name, layers, LOSSES[loss], input_scale=SCALE)
    rng = np.random.default_rng(7)
    parameters = initial_parameters(layers, seed=1)
    engine.set_parameters([(w, 0.2 * rng.standard_normal(b.shape)) for w, b in parameters])
    return engine


# ---- against the formulas --------------------------------------------------------------------


@pytest.mark.parametrize("l2", [0.0, 0.03])
@with_and_without_weights
@every_loss
@every_activation
def test_every_element_is_the_formulas_derivative(engine, rng, activation, loss, weighted, l2):
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


def assert_slopes(rng, running, activations, loss, data, l2):
    """Compare an engine's gradient with slopes along three random directions of every array."""
    arrays = flat_arrays(running.get_parameters())
    loss_now = partial(mean_loss, arrays, activations, loss, data, input_scale=SCALE, l2=l2)
    _, gradients = running.loss_and_grad(data, l2=l2)
    for array, got in zip(arrays, flat_arrays(gradients), strict=True):
        for _ in range(3):
            direction = rng.choice([-1.0, 1.0], array.shape)
            off = abs((got * direction).sum() - slope(array, ..., direction, loss_now))
            # Errors of the elements add up as random signs do: with the root of their number.
            assert off <= GRADIENT_BOUND * max(SMALL, np.abs(got).max()) * np.sqrt(got.size)


@with_and_without_weights
@every_loss
@every_activation
def test_slopes_over_two_chunks_agree(engine, rng, activation, loss, weighted):
    sizes = [7, 19, 33, 5]
    data = problem(rng, sizes, loss, 700, weighted)
    running = engine_for(engine, sizes, activation, loss)
    assert_slopes(rng, running, 2 * [activation], loss, data, 0.01)


def test_layers_may_each_have_another_activation(engine, rng):
    sizes = [5, 9, 17, 8, 7, 16, 6, 4]
    assert len(sizes) == len(ACTIVATIONS) + 2
    for activations in (ACTIVATIONS, ACTIVATIONS[::-1]):
        data = problem(rng, sizes, "squared_error", 600, weighted=True)
        running = engine_for(engine, sizes, activations, "squared_error")
        assert_slopes(rng, running, activations, "squared_error", data, 0.01)


# ---- two engines ----------------------------------------------------------------------------


def assert_close(got, expected, bound):
    for pair, expected_pair in zip(got, expected, strict=True):
        for a, b in zip(pair, expected_pair, strict=True):
            assert np.abs(a - b).max() <= bound * np.abs(b).max()


@LONG
@with_and_without_weights
@every_loss
@every_activation
def test_engines_agree(rng, activation, loss, weighted):
    sizes = [7, 19, 33, 5]
    data = problem(rng, sizes, loss, 700, weighted)
    fast, plain = (engine_for(name, sizes, activation, loss) for name in ("numba", "numpy"))
    for l2 in (0.0, 0.02):
        got, gradients = fast.loss_and_grad(data, l2=l2)
        expected, expected_gradients = plain.loss_and_grad(data, l2=l2)
        assert got == pytest.approx(expected, rel=2 * LOSS_BOUND)
        assert_close(gradients, expected_gradients, 2 * GRADIENT_BOUND)
    got, expected = fast.evaluate(data), plain.evaluate(data)
    assert got[0] == pytest.approx(expected[0], rel=2 * LOSS_BOUND)
    assert got[1] == expected[1]
    predicted = plain.predict(data.x)
    assert np.abs(fast.predict(data.x) - predicted).max() <= 64 * U * np.abs(predicted).max()


@LONG
@with_and_without_weights
@every_loss
@every_activation
def test_engines_take_the_same_steps(rng, activation, loss, weighted):
    """One epoch of batches of one chunk, and one of a batch of two with a short one behind."""
    sizes = [7, 19, 33, 5]
    data = problem(rng, sizes, loss, 700, weighted)
    fast, plain = (engine_for(name, sizes, activation, loss) for name in ("numba", "numpy"))
    for number, batch_size in enumerate((64, 600)):
        epoch = Epoch(data, rng.permutation(700), batch_size, 0.01, l2=0.01, number=number)
        got, expected = (each.run_chunk(epoch, Progress(), 700) for each in (fast, plain))
        assert got.loss_sum == pytest.approx(expected.loss_sum, rel=1e-5)  # as in `tolerances`
        # A prediction within rounding of a tie may differ.
        assert abs(got.correct - expected.correct) <= 1
    assert_close(fast.get_parameters(), plain.get_parameters(), 64 * epoch.updates * 11 * U)


@pytest.mark.parametrize("sizes", [[3, 1], [2, 16, 16], [1, 1, 1]], ids=str)
@every_loss
def test_shapes_at_the_edge(engine, rng, loss, sizes):
    """No hidden layer, whole panels, one of everything."""
    data = problem(rng, sizes, loss, 30, weighted=True)
    running = engine_for(engine, sizes, "tanh", loss)
    arrays = flat_arrays(running.get_parameters())
    activations = (len(sizes) - 2) * ["tanh"]
    exact = mean_loss(arrays, activations, loss, data, input_scale=SCALE).real
    got, _ = running.loss_and_grad(data)
    assert abs(got - exact) <= LOSS_BOUND * max(1, exact)
    if not (loss == "cross_entropy" and sizes[-1] == 1):  # one class: a gradient of zeros
        assert_slopes(rng, running, activations, loss, data, 0.0)
