"""Divergence: the fit stops at the batch whose loss is not finite, with the last finite weights."""

import numpy as np
import pytest
from parameters import assert_finite
from scipy.sparse import csr_array

from fastnn import Callback, DivergenceError, Network
from fastnn.commands import train
from fastnn.model.losses import LOSSES

ROWS, BATCH = 2000, 32
BAD = 1700  # row whose loss is not finite

every_loss = pytest.mark.parametrize("loss", LOSSES)
forms = pytest.mark.parametrize("form", [np.asarray, csr_array], ids=["dense", "sparse"])


def network_for(loss):
    outputs = 3 if loss == "cross_entropy" else 2
    return Network([4, 8, outputs], activation="leaky_relu", loss=loss, seed=1)


def data_for(loss, rng):
    x = rng.standard_normal((ROWS, 4), dtype=np.float32)
    if loss == "cross_entropy":
        return x, rng.integers(0, 3, ROWS)
    return x, rng.integers(0, 2, (ROWS, 2)).astype(np.float32)


@forms
@every_loss
def test_batch_with_an_infinite_loss_is_not_applied(engine, loss, form, rng):
    x, y = data_for(loss, rng)
    options = {"epochs": 1, "batch_size": BATCH, "learning_rate": 0.01, "shuffle": False}
    before = network_for(loss)
    good = BAD - BAD % BATCH
    before.fit(form(x[:good]), y[:good], engine=engine, **options)
    x[BAD] = [3e38, -3e38, 3e38, 3e38]
    network = network_for(loss)
    with pytest.raises(DivergenceError, match="^the loss is not finite") as caught:
        network.fit(form(x), y, engine=engine, **options)
    assert (caught.value.epoch, caught.value.step) == (1, good // BATCH + 1)
    assert network.weights_sha256() == before.weights_sha256()


@forms
@every_loss
def test_features_of_1e38_diverge_in_the_first_step(engine, loss, form, rng):
    x, y = data_for(loss, rng)
    network = network_for(loss)
    first = network.weights_sha256()
    with pytest.raises(DivergenceError) as caught:
        network.fit(form(np.copysign(np.float32(3e38), x)), y, engine=engine, shuffle=False)
    assert (caught.value.epoch, caught.value.step) == (1, 1)
    assert network.weights_sha256() == first


@forms
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov"])
@every_loss
def test_learning_rate_of_1e6_diverges(engine, loss, optimizer, form, rng):
    x, y = data_for(loss, rng)
    options = {"optimizer": optimizer, "learning_rate": 1e6, "batch_size": BATCH, "epochs": 9}
    network = Network([4, 8, 8, 8, 3 if y.ndim == 1 else 2], loss=loss, activation="leaky_relu")
    with pytest.raises(DivergenceError) as caught:
        network.fit(form(x), y, engine=engine, **options)
    assert 1 <= caught.value.step <= -(-ROWS // BATCH)
    assert_finite(network.parameters)


class CallAfter600Rows(Callback):
    """Call a function once, after 600 rows; `at` is the position of that call."""

    def __init__(self, function):
        self._function, self.at, self.last = function, 0, 0

    def on_chunk_end(self, epoch, rows):
        self.last = rows
        if not self.at and rows >= 600:
            self.at = rows
            self._function()


@pytest.mark.parametrize("what", ["features", "targets", "weights"])
def test_nan_from_a_callback_stops_the_next_batch(engine, what, rng):
    x, y = data_for("squared_error", rng)
    x, y = np.tile(x, (50, 1)), np.tile(y, (50, 1))
    network = network_for("squared_error")

    def write_nan():
        if what == "weights":
            w, b = network.parameters[0]
            w[:] = 3e38  # finite, but their products overflow
            network.parameters = [(w, b), *network.parameters[1:]]
        else:
            {"features": x, "targets": y}[what][:] = np.nan

    callback = CallAfter600Rows(write_nan)
    with pytest.raises(DivergenceError) as caught:
        network.fit(x, y, engine=engine, batch_size=BATCH, learning_rate=1e-3, epochs=3,
                    callbacks=[callback])  # fmt: skip
    assert caught.value.epoch == 1 and caught.value.step == callback.at // BATCH + 1
    assert callback.last == callback.at
    assert_finite(network.parameters)


def test_command_exits_with_3(engine, folder, capsys):
    x = np.full((60, 4), 3e38, np.float32)
    np.savez("../huge.npz", x_train=x, y_train=np.arange(60) % 3, x_test=x[:9],
             y_test=np.arange(9) % 3)  # fmt: skip
    argv = ["--engine", engine, "--dataset", "../huge.npz", "--save", "net"]
    assert train.main(argv) == 3
    error = capsys.readouterr().err
    assert error.startswith("fastnn.train: error: the loss is not finite in epoch 1, step 1")
    assert error.count("\n") == 1
    assert list(folder.iterdir()) == []


def test_divergence_clears_the_state_of_adam(engine, rng):
    """The count of updates, for the bias correction, is cleared too."""
    x, y = rng.normal(size=(40, 3)).astype(np.float32), rng.integers(0, 2, 40)
    settings = {"epochs": 1, "optimizer": "adam", "shuffle": False, "engine": engine}
    network, other = Network([3, 4, 2]), Network([3, 4, 2])
    network.fit(x, y, **settings | {"epochs": 3})
    with pytest.raises(DivergenceError):
        network.fit(x, y, **settings | {"epochs": 9, "learning_rate": 1e38})
    for each in (network, other):
        each.parameters = Network([3, 4, 2], seed=1).parameters
        each.fit(x, y, **settings)
    assert network.weights_sha256() == other.weights_sha256()


def test_divergence_of_another_fit_in_a_callback_keeps_the_state_of_adam(engine, rng):
    x, y = rng.normal(size=(40, 3)).astype(np.float32), rng.integers(0, 2, 40)

    class Diverge(Callback):
        def on_chunk_end(self, epoch, rows):
            if epoch == 4:
                Network([3, 4, 2]).fit(x, y, learning_rate=1e30, engine=engine)

    network, other = Network([3, 4, 2]), Network([3, 4, 2])
    settings = {"optimizer": "adam", "batch_size": "full", "engine": engine}
    with pytest.raises(DivergenceError):
        network.fit(x, y, callbacks=[Diverge()], **settings)
    other.fit(x, y, epochs=4, **settings)
    assert network._position.updates == other._position.updates == 4
    states = [each._current_state() for each in (network, other)]
    np.testing.assert_equal(*states)


@pytest.mark.filterwarnings("ignore")  # about the scale of the targets
def test_exception_after_an_overflow_leaves_the_last_finite_weights(engine):
    class FailInEpoch3(Callback):
        def on_chunk_end(self, epoch, rows):
            if epoch == 3:  # the biases have just become infinite
                raise OSError("disk full")

    network = Network([1, 1], loss="absolute_error")
    network.parameters = [([[0]], [0])]
    with pytest.raises(OSError, match="^disk full$"):
        network.fit([[0.125]], [3.4e38], learning_rate=1.5e38, engine=engine,
                    callbacks=[FailInEpoch3()])  # fmt: skip
    assert_finite(network.parameters)
