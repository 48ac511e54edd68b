"""Optimizers: equations, penalty and weight decay, in both engines and in `Network.fit`."""

from dataclasses import replace

import numba
import numpy as np
import pytest

from fastnn import Network
from fastnn.data.rows import Data
from fastnn.engine import get_engine
from fastnn.epoch import Epoch, Progress
from fastnn.model.initializers import he_normal
from fastnn.model.layers import dense_layers
from fastnn.model.optimizers import OPTIMIZERS, get_optimizer
from fastnn.model.randomness import permutation
from fastnn.model.schedules import Schedule
from fastnn.training.state import Position

LONG = pytest.mark.skipif(numba.config.DISABLE_JIT, reason="takes too long uncompiled")
NAMES = [name for name in OPTIMIZERS if name != "lbfgs"]  # SciPy updates the weights


def problem(rng, rows, sizes, zeros=0.0):
    x = rng.standard_normal((rows, sizes[0]), dtype=np.float32)
    labels = np.argmax(x @ rng.standard_normal((sizes[0], sizes[-1])), axis=1).astype(np.int32)
    if zeros:
        x[rng.random(x.shape) < zeros] = 0
    return x, labels


def engine_for(name, sizes, threads=None):
    layers = dense_layers(sizes)
    engine = get_engine(name, layers, input_scale=1.0, threads=threads)
    engine.set_parameters(he_normal(layers, seed=0))
    return engine


def train(engine, x, labels, optimizer, *, batch_size, epochs=1, l2=0.0):
    """Train from a zero state; return the mean loss of each epoch."""
    losses, done = [], 0
    engine.set_state([])
    for number in range(epochs):
        order = permutation(0, number, len(x))
        rate = optimizer.learning_rate
        epoch = Epoch(
            Data(x, labels), order, batch_size, rate, optimizer, l2=l2, updates_before=done
        )
        losses.append(engine.run_chunk(epoch, Progress(), len(x)).loss_sum / len(x))
        done += epoch.updates
    return losses


# ---- equations in float64 -------------------------------------------------------------------


def softmax_regression(w, b, x, labels):
    """Return mean loss and gradients of one layer with softmax and cross-entropy."""
    z = x @ w + b
    z -= z.max(axis=1, keepdims=True)
    p = np.exp(z)
    p /= p.sum(axis=1, keepdims=True)
    loss = -np.log(p[np.arange(len(x)), labels]).mean()
    p[np.arange(len(x)), labels] -= 1
    return loss, x.T @ p / len(x), p.mean(axis=0)


def published_update(name, values, gradients, state, t, chosen, decayed):
    """Apply the published equations; `decayed` tells which values have weight decay."""
    rate = chosen.learning_rate
    for i, (w, g) in enumerate(zip(values, gradients, strict=True)):
        if decayed[i]:
            w *= 1 - rate * chosen.weight_decay
        if name == "sgd":
            w -= rate * g
        elif name in ("momentum", "nesterov"):
            u = state[0][i] = chosen.momentum * state[0][i] - rate * g
            w += chosen.momentum * u - rate * g if name == "nesterov" else u
        else:
            b1, b2 = chosen.beta1, chosen.beta2
            m = state[0][i] = b1 * state[0][i] + (1 - b1) * g
            v = state[1][i] = b2 * state[1][i] + (1 - b2) * g**2
            corrected = rate * np.sqrt(1 - b2**t) / (1 - b1**t)
            w -= corrected * m / (np.sqrt(v) + chosen.eps)


@pytest.mark.parametrize("l2", [0.0, 0.03])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("name", NAMES)
def test_ten_steps_agree_with_the_published_equations(engine, rng, name, weight_decay, l2):
    x, labels = problem(rng, 40, [5, 3])
    optimizer = get_optimizer(name, learning_rate=0.05, weight_decay=weight_decay)
    running = engine_for(engine, [5, 3])
    ((w, b),) = running.get_parameters()
    values = [w.astype(np.float64), b.astype(np.float64)]
    state = [[np.zeros((5, 3)), np.zeros(3)] for _ in range(2)]
    expected = []
    for t in range(1, 11):
        loss, dw, db = softmax_regression(*values, x.astype(np.float64), labels)
        expected.append(loss + l2 / 2 * (values[0] ** 2).sum())
        published_update(
            name, values, [dw + l2 * values[0], db], state, t, optimizer, (True, False)
        )
    losses = train(running, x, labels, optimizer, batch_size=40, epochs=10, l2=l2)
    np.testing.assert_allclose(losses, expected, rtol=2e-6)
    # Ten steps of a few roundings of numbers up to 3. The first steps of Adam divide two gradients
    # of nearly the same size, and so have their relative error.
    ((w, b),) = running.get_parameters()
    for got, exact in zip((w, b), values, strict=True):
        np.testing.assert_allclose(got, exact, rtol=2e-5, atol=2e-6)
    for slot, exact in zip(running.get_state(optimizer.slots), state, strict=False):
        for got, value in zip(slot[0], exact, strict=True):
            np.testing.assert_allclose(got, value, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("clip_norm", [0.0, 1.2])
@pytest.mark.parametrize("name", NAMES)
def test_rates_and_clipping_agree_with_the_equations(engine, rng, name, clip_norm, weight_decay):
    """Each update has its own rate and weight decay; the clipped gradient includes the penalty."""
    x, labels = problem(rng, 40, [5, 3])
    optimizer = get_optimizer(name, weight_decay=weight_decay)
    rates = Schedule("one_cycle", warmup_epochs=0.3).rates(
        0.05, epoch=0, epochs=1, updates=10, samples_seen=0
    )
    running = engine_for(engine, [5, 3])
    ((w, b),) = running.get_parameters()
    values = [w.astype(np.float64), b.astype(np.float64)]
    state = [[np.zeros((5, 3)), np.zeros(3)] for _ in range(2)]
    norms, order = [], rng.permutation(40)
    for t, rate in enumerate(rates, start=1):
        batch = order[4 * t - 4 : 4 * t]
        _, dw, db = softmax_regression(*values, x[batch].astype(np.float64), labels[batch])
        gradients = [dw + 0.03 * values[0], db]
        norms.append(np.sqrt(sum((g**2).sum() for g in gradients)))
        if clip_norm and norms[-1] > clip_norm:
            gradients = [g * clip_norm / norms[-1] for g in gradients]
        chosen = replace(optimizer, learning_rate=rate)
        published_update(name, values, gradients, state, t, chosen, (True, False))
    assert min(norms) < 1.2 < max(norms)  # some are clipped
    epoch = Epoch(Data(x, labels), order, 4, rates, optimizer, l2=0.03, clip_norm=clip_norm)
    running.set_state([])
    running.run_chunk(epoch, Progress(), 40)
    ((w, b),) = running.get_parameters()
    for got, exact in zip((w, b), values, strict=True):  # the same bounds
        np.testing.assert_allclose(got, exact, rtol=2e-5, atol=2e-6)
    for slot, exact in zip(running.get_state(optimizer.slots), state, strict=False):
        for got, value in zip(slot[0], exact, strict=True):
            np.testing.assert_allclose(got, value, rtol=2e-4, atol=2e-6)


def test_penalty_and_its_gradient(engine, rng):
    sizes, l2 = [17, 33, 6], 0.2
    x, labels = problem(rng, 700, sizes)
    running = engine_for(engine, sizes)
    plain_loss, plain = running.loss_and_grad(Data(x, labels))
    loss, gradients = running.loss_and_grad(Data(x, labels), l2=l2)
    parameters = running.get_parameters()
    squares = sum((w.astype(np.float64) ** 2).sum() for w, _ in parameters)
    assert loss == pytest.approx(plain_loss + l2 / 2 * squares, rel=1e-6)
    for (w, _), (dw, db), (plain_dw, plain_db) in zip(parameters, gradients, plain, strict=True):
        np.testing.assert_allclose(dw, plain_dw + np.float32(l2) * w, rtol=1e-5, atol=1e-7)
        assert (db == plain_db).all()


# ---- engines and threads --------------------------------------------------------------------


@LONG
@pytest.mark.parametrize("batch_size", [16, 100, 1100])  # one chunk and three
@pytest.mark.parametrize("name", NAMES)
def test_engines_agree(rng, name, batch_size):
    sizes = [40, 33, 17, 5]
    x, labels = problem(rng, 1100, sizes, zeros=0.7)
    optimizer = get_optimizer(name, weight_decay=0.01)
    fast, plain = engine_for("numba", sizes), engine_for("numpy", sizes)
    losses = [
        train(running, x, labels, optimizer, batch_size=batch_size, epochs=2, l2=0.001)
        for running in (fast, plain)
    ]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    for got, expected in zip(fast.get_parameters(), plain.get_parameters(), strict=True):
        for a, b in zip(got, expected, strict=True):
            # Adam divides by a number as small as the gradient: relative errors remain.
            assert np.abs(a - b).max() <= (2e-3 if "adam" in name else 1e-5)


@LONG
@pytest.mark.parametrize("batch_size", [32, 700])
@pytest.mark.parametrize("name", NAMES)
def test_threads_lists_and_old_buffers_do_not_change_bits(rng, name, batch_size):
    sizes = [70, 33, 17, 5]
    x, labels = problem(rng, 700, sizes, zeros=0.8)
    optimizer = get_optimizer(name, weight_decay=0.02)
    results = []
    for threads, skip in ((1, False), (2, False), (1, True), (2, True)):
        if threads > numba.config.NUMBA_NUM_THREADS:
            continue
        running = engine_for("numba", sizes, threads=threads)
        running.skip_zeros = skip
        for buffer in (running._buffers.gradients, running._buffers.squares):
            buffer.fill(np.nan)
        losses = train(running, x, labels, optimizer, batch_size=batch_size, epochs=2, l2=0.01)
        results.append((losses, running.get_parameters(), running.get_state(2)))
    for losses, parameters, state in results[1:]:
        assert losses == results[0][0]
        for got, expected in zip(
            [parameters, *state], [results[0][1], *results[0][2]], strict=True
        ):
            for pair, expected_pair in zip(got, expected, strict=True):
                assert all((a == b).all() for a, b in zip(pair, expected_pair, strict=True))


def test_padding_of_parameters_and_state_stays_zero(rng):
    sizes = [5, 18, 3]
    x, labels = problem(rng, 100, sizes)
    running = engine_for("numba", sizes)
    train(running, x, labels, OPTIMIZERS["adamw"], batch_size=10, l2=0.1)
    layout, buffers = running._layout, running._buffers
    for flat in (buffers.parameters, *running._slots()):
        copy = np.zeros_like(flat)
        layout.write(copy, layout.read(flat))
        assert (copy == flat).all()


# ---- `Network.fit` --------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_network_learns_with_default_settings(engine, rng, name):
    x, labels = problem(rng, 300, [6, 3])
    network = Network([6, 16, 3], seed=1)
    history = network.fit(x, labels, epochs=120, batch_size=32, optimizer=name, engine=engine)
    assert history["accuracy"][-1] > 0.9
    assert history["loss"][-1] < history["loss"][0] / 2


@pytest.mark.parametrize("name", NAMES)
def test_two_fits_equal_one_long_fit(engine, rng, name):
    x, labels = problem(rng, 90, [6, 3])
    parameters = []
    for parts in ([4], [1, 3]):
        network = Network([6, 8, 3])
        for epochs in parts:
            network.fit(x, labels, epochs=epochs, batch_size=20, optimizer=name, engine=engine)
        parameters.append(network.parameters)
    for (w, b), (other_w, other_b) in zip(*parameters, strict=True):
        assert (w == other_w).all() and (b == other_b).all()


def test_another_rule_starts_with_a_zero_state(engine, rng):
    x, labels = problem(rng, 90, [6, 3])
    network, other = Network([6, 8, 3]), Network([6, 8, 3])
    network.fit(x, labels, epochs=1, optimizer="adam", engine=engine)
    other.parameters, other._position = network.parameters, Position(epochs=1)
    for each in (network, other):
        each.fit(x, labels, epochs=1, optimizer="momentum", engine=engine)
    for (w, _), (other_w, _) in zip(network.parameters, other.parameters, strict=True):
        assert (w == other_w).all()


def test_divergence_resets_the_state(engine, rng):
    x, labels = problem(rng, 90, [6, 3])
    network = Network([6, 8, 3])
    with pytest.raises(ArithmeticError, match="not finite"):
        network.fit(x, labels, epochs=50, optimizer="momentum", learning_rate=1e30, engine=engine)
    (slot,) = network.use_engine(engine).get_state(1)
    for arrays in (*network.parameters, *slot):
        assert all(np.isfinite(array).all() for array in arrays)


@pytest.mark.parametrize("name", NAMES)
def test_tiny_rate_changes_parameters_little(engine, rng, name):
    """Kernels flush denormal numbers to 0, which the products of this rate are."""
    x, labels = problem(rng, 90, [6, 3])
    network = Network([6, 8, 3])
    before = network.parameters
    network.fit(
        x, labels, epochs=1, batch_size=9, optimizer=name, learning_rate=2e-38, engine=engine
    )
    for (w, b), (old_w, old_b) in zip(network.parameters, before, strict=True):
        np.testing.assert_allclose(w, old_w, rtol=1e-6)
        assert np.abs(b - old_b).max() < 1e-30


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"optimizer": "adagrad"}, "optimizer must be one of sgd, momentum, nesterov, adam, adamw"),
        ({"optimizer": None}, "optimizer must be one of"),
        ({"learning_rate": 0}, "learning_rate must be a positive number, got 0"),
        (
            {"optimizer": "nesterov", "momentum": 1},
            "momentum must be a number of at least 0 and less than 1, got 1",
        ),
        ({"optimizer": "momentum", "momentum": "0.9"}, "momentum must be"),
        ({"momentum": 0.9}, "optimizer 'sgd' has no setting 'momentum'; momentum, .* have it$"),
        (
            {"optimizer": "lbfgs", "learning_rate": 0.1},
            "optimizer 'lbfgs' has no setting 'learning_rate'; sgd, mo",
        ),
        ({"optimizer": "lbfgs", "batch_size": 10}, "lbfgs uses all rows: batch_size must be"),
        ({"optimizer": "lbfgs", "schedule": "cosine"}, "lbfgs supports neither"),
        ({"clip_norm": -1}, "clip_norm must be a number of at least 0, got -1"),
        ({"weight_decay": -0.1}, "weight_decay must be"),
        ({"l2": -1}, "l2 must be"),
        ({"l2": float("nan")}, "l2 must be"),
    ],
)
def test_rejects_settings_out_of_range(engine, rng, setting, message):
    x, labels = problem(rng, 20, [6, 3])
    network = Network([6, 3])
    with pytest.raises(ValueError, match=f"^{message}"):
        network.fit(x, labels, epochs=1, engine=engine, **setting)
    assert network.epochs_trained == 0


@pytest.mark.parametrize(("beta1", "beta2"), [(0.0, 0.9), (0.9, 0.0), (0.0, 0.0)])
def test_adam_with_beta_0(engine, rng, beta1, beta2):
    """With β = 0 a moment is that of the last gradient, without bias correction."""
    chosen = get_optimizer(replace(OPTIMIZERS["adam"], beta1=beta1, beta2=beta2, eps=1e-3))
    x, labels = problem(rng, 12, [3, 2])
    running = engine_for(engine, [3, 2])
    w, m, v = running.get_parameters()[0][0], 0.0, 0.0
    for t in (1, 2, 3):
        ((dw, _),) = running.loss_and_grad(Data(x, labels))[1]
        epoch = Epoch(Data(x, labels), np.arange(12), 12, 0.1, chosen, updates_before=t - 1)
        running.run_chunk(epoch, Progress(), 12)
        m, v = beta1 * m + (1 - beta1) * dw, beta2 * v + (1 - beta2) * dw**2
        rate = 0.1 * np.sqrt(1 - beta2**t) / (1 - beta1**t)
        w = w - rate * m / (np.sqrt(v) + 1e-3)
        np.testing.assert_allclose(running.get_parameters()[0][0], w, rtol=1e-5, atol=1e-6)
