"""Fits that leave float32: stopped at the batch where it shows, the last finite weights kept."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from fastnn import Callback, DivergenceError, Network
from fastnn.commands import train
from fastnn.model.losses import LOSSES

ROWS, BATCH, BAD = 2000, 32, 1700  # the row that spoils its batch

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


def bytes_of(network):
    return [array.tobytes() for pair in network.parameters for array in pair]


def assert_finite(network):
    assert all(np.isfinite(array).all() for pair in network.parameters for array in pair)


@forms
@every_loss
def test_a_row_beyond_float32_stops_its_batch(engine, loss, form, rng):
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
    assert bytes_of(network) == bytes_of(before)  # those that gave the loss, to the bit


@forms
@every_loss
def test_inputs_of_1e38(engine, loss, form, rng):
    x, y = data_for(loss, rng)
    network = network_for(loss)
    first = bytes_of(network)
    with pytest.raises(DivergenceError) as caught:
        network.fit(form(np.copysign(np.float32(3e38), x)), y, engine=engine, shuffle=False)
    assert (caught.value.epoch, caught.value.step) == (1, 1)
    assert bytes_of(network) == first


@forms
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov"])
@every_loss
def test_a_learning_rate_of_1e6(engine, loss, optimizer, form, rng):
    x, y = data_for(loss, rng)
    options = {"optimizer": optimizer, "learning_rate": 1e6, "batch_size": BATCH, "epochs": 9}
    network = Network([4, 8, 8, 8, 3 if y.ndim == 1 else 2], loss=loss, activation="leaky_relu")
    with pytest.raises(DivergenceError) as caught:
        network.fit(form(x), y, engine=engine, **options)
    assert 1 <= caught.value.step <= -(-ROWS // BATCH)
    assert_finite(network)


class Spoiler(Callback):
    """Changes something once, when so many rows are done."""

    def __init__(self, spoil):
        self._spoil, self.at, self.seen = spoil, 0, 0

    def on_chunk_end(self, epoch, rows):
        self.seen = rows
        if not self.at and rows >= 600:
            self.at = rows
            self._spoil()


@pytest.mark.parametrize("what", ["features", "targets", "weights"])
def test_a_callback_that_spoils_it_in_the_middle(engine, what, rng):
    x, y = data_for("squared_error", rng)
    x, y = np.tile(x, (50, 1)), np.tile(y, (50, 1))
    network = network_for("squared_error")

    def spoil():
        if what == "weights":
            w, b = network.parameters[0]
            w[:] = 3e38  # finite, but no longer what the network computes with it
            network.parameters = [(w, b), *network.parameters[1:]]
        else:
            {"features": x, "targets": y}[what][:] = np.nan

    spoiler = Spoiler(spoil)
    with pytest.raises(DivergenceError) as caught:
        network.fit(x, y, engine=engine, batch_size=BATCH, learning_rate=1e-3, epochs=3,
                    callbacks=[spoiler])  # fmt: skip
    # The very next batch shows it, but for one that was begun before.
    assert caught.value.epoch == 1 and caught.value.step == spoiler.at // BATCH + 1
    assert spoiler.seen == spoiler.at
    assert_finite(network)


def test_the_command_ends_with_3(engine, folder, capsys):
    x = np.full((60, 4), 3e38, np.float32)
    np.savez("../huge.npz", x_train=x, y_train=np.arange(60) % 3, x_test=x[:9],
             y_test=np.arange(9) % 3)  # fmt: skip
    argv = ["--engine", engine, "--dataset", "../huge.npz", "--save", "net"]
    assert train.main(argv) == 3
    error = capsys.readouterr().err
    assert error.startswith("fastnn.train: error: the loss is not finite in epoch 1, step 1")
    assert error.count("\n") == 1
    assert list(folder.iterdir()) == []


def test_after_a_divergence_adam_begins_anew(engine, rng):
    """Its state is cleared, and with it the count of updates by which its zero start is mended."""
    x, y = rng.normal(size=(40, 3)).astype(np.float32), rng.integers(0, 2, 40)
    settings = {"epochs": 1, "optimizer": "adam", "shuffle": False, "engine": engine}
    network, other = Network([3, 4, 2]), Network([3, 4, 2])
    network.fit(x, y, **settings | {"epochs": 3})
    with pytest.raises(DivergenceError):
        network.fit(x, y, **settings | {"epochs": 9, "learning_rate": 1e38})
    for each in (network, other):
        each.parameters = Network([3, 4, 2], seed=1).parameters
        each.fit(x, y, **settings)
    assert bytes_of(network) == bytes_of(other)
