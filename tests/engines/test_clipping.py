"""Gradient clipping (`clip_norm`) in both engines."""

import numba
import numpy as np
import pytest
from tolerances import U

from fastnn import DivergenceError, Network
from fastnn.data.rows import Data
from fastnn.engine import get_engine
from fastnn.epoch import Epoch, Progress
from fastnn.model.initializers import he_normal
from fastnn.model.layers import dense_layers
from fastnn.model.losses import LOSSES
from fastnn.model.optimizers import get_optimizer

LONG = pytest.mark.skipif(numba.config.DISABLE_JIT, reason="takes too long uncompiled")


def problem(rng, rows, sizes, weighted=False):
    x = rng.standard_normal((rows, sizes[0]), dtype=np.float32)
    weights = rng.uniform(0, 2, rows).astype(np.float32) if weighted else None
    return Data(x, rng.integers(0, sizes[-1], rows, np.int32), weights)


def engine_for(name, sizes, threads=None):
    layers = dense_layers(sizes)
    engine = get_engine(name, layers, input_scale=1.0, threads=threads)
    engine.set_parameters(he_normal(layers, seed=0))
    return engine


def flat(parameters):
    return np.concatenate([array.ravel() for pair in parameters for array in pair]).astype("f8")


# For x = (3, 4), zero parameters and y = -1, the loss (z - y)² / 2 has dz = 1. So dw = (3, 4) and
# db = 1, with the norm √(3² + 4² + 1²) = √26.
HAND_WORKED = Data(np.float32([[3, 4]]), np.float32([[-1]]))


@pytest.mark.parametrize(
    ("clip_norm", "factor"),
    [(0.0, 1.0), (26**0.5 / 2, 0.5), (26**0.5 / 8, 0.125), (26**0.5 + 0.01, 1.0), (1e30, 1.0)],
)
def test_step_worked_by_hand(engine, clip_norm, factor):
    running = get_engine(engine, dense_layers([2, 1]), LOSSES["squared_error"], input_scale=1.0)
    epoch = Epoch(HAND_WORKED, np.arange(1), 1, 0.5, clip_norm=clip_norm)
    assert running.run_chunk(epoch, Progress(), 1).loss_sum == 0.5  # the loss is not clipped
    ((w, b),) = running.get_parameters()
    expected = -0.5 * factor * np.array([3, 4, 1])
    np.testing.assert_allclose([*w.ravel(), *b], expected, rtol=4 * U)
    if factor == 1:
        assert [*w.ravel(), *b] == expected.tolist()  # exactly


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("l2", [0.0, 0.3])
@pytest.mark.parametrize("rows", [40, 1300])
def test_clips_the_gradient_of_all_layers(engine, rng, rows, l2, weighted):
    """It includes all chunks of the batch and the penalty."""
    sizes = [7, 19, 33, 5]
    data = problem(rng, rows, sizes, weighted)
    running = engine_for(engine, sizes)
    before = flat(running.get_parameters())
    gradient = flat(running.loss_and_grad(data, l2=l2)[1])
    norm = np.linalg.norm(gradient)
    for factor in (0.25, 1.5):
        running.set_parameters(he_normal(dense_layers(sizes), seed=0))
        epoch = Epoch(data, np.arange(rows), rows, 64.0, l2=l2, clip_norm=factor * norm)
        running.run_chunk(epoch, Progress(), rows)
        step = (before - flat(running.get_parameters())) / 64
        # Rounding errors of a step of up to 64 |dw| and of w, divided by 64.
        bound = 8 * U * (np.abs(gradient).max() + np.abs(before).max())
        assert np.abs(step - min(1, factor) * gradient).max() <= bound


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_optimizer_state_follows_the_clipped_gradient(engine, rng, optimizer):
    """Adam's first moment is 0.1 times the clipped gradient, momentum's velocity -η times."""
    sizes = [7, 19, 5]
    data = problem(rng, 60, sizes)
    running = engine_for(engine, sizes)
    gradient = flat(running.loss_and_grad(data)[1])
    clip_norm = np.linalg.norm(gradient) / 3
    chosen = get_optimizer(optimizer, learning_rate=0.1)
    running.run_chunk(
        Epoch(data, np.arange(60), 60, 0.1, chosen, clip_norm=clip_norm), Progress(), 60
    )
    state = flat(running.get_state(chosen.slots)[0])
    expected = {"momentum": -0.1, "adam": 0.1}[optimizer] * gradient / 3
    assert np.abs(state - expected).max() <= 8 * U * np.abs(expected).max()


def test_each_batch_is_clipped_by_its_own_norm(engine, rng):
    """The row of the second batch is a hundred times larger: only this batch is clipped."""
    data = Data(np.float32([[1, 2], [100, -300]]), np.float32([[1], [2]]))
    running = get_engine(engine, dense_layers([2, 1]), LOSSES["squared_error"], input_scale=1.0)
    running.run_chunk(Epoch(data, np.arange(2), 1, 0.125, clip_norm=10.0), Progress(), 2)
    # First: p = 0, dz = -1, dw = (-1, -2), db = -1, of norm √6; w = (1/8, 1/4), b = 1/8.
    # Then: p = 12.5 - 75 + 1/8 = -62.375, dz = -64.375, and dw has the direction of
    # (-100, 300, -1) and the norm 10.
    direction = np.array([-100, 300, -1]) / np.linalg.norm([100, 300, 1])
    ((w, b),) = running.get_parameters()
    expected = np.array([1 / 8, 1 / 4, 1 / 8]) - 0.125 * 10 * direction
    np.testing.assert_allclose([*w.ravel(), *b], expected, rtol=8 * U)


@LONG
@pytest.mark.parametrize("batch_size", [32, 700])
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov", "adam", "adamw"])
def test_engines_agree_on_any_number_of_threads(rng, optimizer, batch_size):
    sizes = [30, 33, 17, 5]
    data = problem(rng, 700, sizes, weighted=True)
    data.x[rng.random(data.x.shape) < 0.7] = 0
    chosen = get_optimizer(optimizer)
    epoch = Epoch(
        data, rng.permutation(700), batch_size, chosen.learning_rate, chosen,
        l2=0.01, clip_norm=0.2,
    )  # fmt: skip
    results = []
    for name, threads in (("numpy", None), ("numba", 1), ("numba", 2)):
        running = engine_for(name, sizes, min(threads or 1, numba.config.NUMBA_NUM_THREADS))
        loss = running.run_chunk(epoch, Progress(), 700).loss_sum
        results.append((loss, flat(running.get_parameters())))
    (loss, plain), (fast_loss, one), (other_loss, two) = results
    assert fast_loss == other_loss and (one == two).all()
    assert fast_loss == pytest.approx(loss, rel=1e-5)
    # As in `test_optimizers`: Adam divides by a number as small as the gradient.
    assert np.abs(one - plain).max() <= (2e-3 if "adam" in optimizer else 1e-5)


def test_network_fit_clips(engine, rng):
    """With a rate of 1 and one update per epoch, the norm of each step is at most `clip_norm`."""
    data = problem(rng, 80, [6, 3])
    network = Network([6, 12, 3])
    before = flat(network.parameters)
    for _ in range(3):
        network.fit(
            data.x, data.targets, epochs=1, batch_size="full", learning_rate=1.0,
            clip_norm=0.01, engine=engine,
        )  # fmt: skip
        after = flat(network.parameters)
        assert np.linalg.norm(after - before) == pytest.approx(0.01, rel=1e-4)
        before = after


@pytest.mark.parametrize("clip_norm", [-1, float("nan"), float("inf"), "1", True, None])
def test_rejects_norms_out_of_range(engine, clip_norm):
    network = Network([2, 2])
    with pytest.raises(ValueError, match="^clip_norm must be a number of at least 0, got "):
        network.fit([[0, 1]], [1], clip_norm=clip_norm, engine=engine)
    assert network.epochs_trained == 0


def test_gradient_norm_beyond_float32_is_divergence(engine):
    """Loss and gradient are finite, but the norm is not; a clip factor of 0 would hide that."""
    network = Network([2, 1], loss="squared_error")
    network.parameters = [(np.zeros((2, 1)), np.zeros(1))]
    settings = {"batch_size": "full", "learning_rate": 1e-3, "engine": engine}
    x, y = np.float32([[1e25, 0]]), [-1]
    with pytest.raises(DivergenceError, match="^the weights are not finite after epoch 1,"):
        network.fit(x, y, epochs=2, clip_norm=1.0, **settings)
    assert flat(network.parameters).tolist() == [0, 0, 0] and network.epochs_trained == 0
    running = engine_for(engine, [2, 3])
    for size, finite in ((1e18, True), (1e19, True), (1e25, False)):
        running.set_parameters([(np.zeros((2, 3)), np.zeros(3))])
        data = Data(np.float32([[size, 0]]), np.int32([1]))
        running.run_chunk(Epoch(data, np.arange(1), 1, 1.0, clip_norm=1.0), Progress(), 1)
        step = flat(running.get_parameters())
        assert np.isfinite(step).all() == finite
        if finite:
            assert np.linalg.norm(step) == pytest.approx(1, rel=8 * U)
