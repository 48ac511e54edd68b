"""The training loop with both engines: history, seeds, further fits, interrupts, divergence."""

import math
import time

import numpy as np
import pytest
from parameters import assert_finite, assert_same_parameters

from fastnn import Callback, DivergenceError, Network
from fastnn.model import randomness
from fastnn.model.randomness import permutation

U64 = 2.0**-53  # unit roundoff of float64, in which losses are summed


@pytest.fixture
def data(rng):
    """Return 70 rows of three overlapping classes."""
    labels = rng.integers(0, 3, 70)
    x = rng.normal(size=(70, 4)) + np.eye(3, 4)[labels]
    return x.astype(np.float32), labels


@pytest.fixture
def network():
    return Network([4, 8, 3], seed=5)


def fit_batch(network, x, labels, batch, engine):
    """Make one update with the rows `batch` in this order, in spite of the shuffle."""
    rows = np.empty_like(batch)
    rows[permutation(network.seed, network.epochs_trained, len(batch))] = batch
    return network.fit(x[rows], labels[rows], epochs=1, batch_size="full", engine=engine)


class Record(Callback):
    """Record the calls; then call a function, with None instead of rows at the end of an epoch."""

    def __init__(self, function=lambda epoch, rows: None):
        self.calls = []
        self._function = function

    def on_chunk_end(self, epoch, rows):
        self.calls.append((epoch, rows))
        self._function(epoch, rows)

    def on_epoch_end(self, epoch, metrics):
        self.calls.append((epoch, dict(metrics)))
        self._function(epoch, None)


# ---- history --------------------------------------------------------------------------------


@pytest.mark.parametrize("validated", [False, True])
def test_history_has_one_figure_per_epoch(engine, network, data, validated):
    validation = {"validation_data": data} if validated else {}
    history = network.fit(*data, epochs=3, batch_size=16, engine=engine, **validation)
    names = {"loss", "accuracy", "learning_rate", "seconds"}
    names |= {"val_loss", "val_accuracy"} if validated else set()
    assert history.keys() == names
    for name, values in history.items():
        assert len(values) == 3
        assert all(type(value) is float and math.isfinite(value) for value in values), name
    assert all(0 <= value <= 1 for value in history["accuracy"])
    assert all(seconds > 0 for seconds in history["seconds"])
    assert network.epochs_trained == 3


def test_loss_of_a_full_batch_is_computed_before_its_update(engine, network, data):
    network.use_engine(engine)
    for _ in range(3):
        before = network.evaluate(*data)
        history = network.fit(*data, epochs=1, batch_size="full", engine=engine)
        # The same losses are added in another order: 70 additions in float64.
        assert history["loss"][0] == pytest.approx(before[0], rel=70 * U64, abs=0)
        assert history["accuracy"][0] == before[1]
    assert network.evaluate(*data)[0] < before[0]


def test_validation_figures_are_computed_after_the_epoch(engine, network, data):
    x, labels = data
    held_out = x[50:], labels[50:]
    for _ in range(2):
        history = network.fit(
            x[:50], labels[:50], epochs=1, batch_size=8, engine=engine, validation_data=held_out
        )
        assert (history["val_loss"][0], history["val_accuracy"][0]) == network.evaluate(*held_out)


def test_validation_does_not_change_training(engine, network, data):
    other = Network([4, 8, 3], seed=5)
    network.fit(*data, epochs=2, batch_size=16, engine=engine, validation_data=data)
    other.fit(*data, epochs=2, batch_size=16, engine=engine)
    assert_same_parameters(network.parameters, other.parameters)


@pytest.mark.parametrize("batch_size", [1, 16, 32, 69])
def test_epoch_equals_its_batches_one_by_one(engine, network, data, batch_size):
    # Another network gets the batches one by one. The weights must agree to the last bit, and
    # loss and accuracy must be the means over the rows: a short last batch counts for less.
    x, labels = data
    history = network.fit(x, labels, epochs=2, batch_size=batch_size, engine=engine)
    other = Network([4, 8, 3], seed=5)
    for epoch in range(2):
        order = permutation(5, epoch, 70)
        loss = accuracy = 0.0
        for start in range(0, 70, batch_size):
            batch = order[start : start + batch_size]
            part = fit_batch(other, x, labels, batch, engine)
            loss += part["loss"][0] * len(batch)
            accuracy += part["accuracy"][0] * len(batch)
        # 70 additions here and there, and two roundings for each of at most 70 means.
        assert history["loss"][epoch] == pytest.approx(loss / 70, rel=280 * U64, abs=0)
        assert history["accuracy"][epoch] == pytest.approx(accuracy / 70, rel=280 * U64, abs=0)
    assert_same_parameters(network.parameters, other.parameters)


def test_rows_of_more_than_a_gibibyte_are_shuffled_in_blocks(engine, network, data, monkeypatch):
    # Rows have 16 bytes: here 4 rows per block and 16 per window.
    for name, size in (("WHOLE", 1000), ("BLOCK", 64), ("WINDOW", 256)):
        monkeypatch.setattr(randomness, f"{name}_BYTES", size)
    x, labels = data
    by_blocks = permutation(5, 0, 70, 16)
    assert by_blocks.tolist() != permutation(5, 0, 70).tolist()
    network.fit(x, labels, epochs=1, batch_size=16, engine=engine)
    other = Network([4, 8, 3], seed=5)
    other.fit(
        x[by_blocks], labels[by_blocks], epochs=1, batch_size=16, shuffle=False, engine=engine
    )
    assert_same_parameters(network.parameters, other.parameters)


@pytest.mark.parametrize("batch_size", [70, 71, 10**30, np.int64(100)])
def test_batch_size_above_the_number_of_rows_is_a_full_batch(engine, network, data, batch_size):
    other = Network([4, 8, 3], seed=5)
    history = network.fit(*data, epochs=3, batch_size=batch_size, engine=engine)
    assert history["loss"] == other.fit(*data, epochs=3, batch_size="full", engine=engine)["loss"]
    assert_same_parameters(network.parameters, other.parameters)


# ---- seeds and further fits -----------------------------------------------------------------


def test_two_fits_equal_one_longer_fit(engine, network, data):
    history = network.fit(*data, epochs=10, batch_size=16, engine=engine)
    other = Network([4, 8, 3], seed=5)
    parts = [other.fit(*data, epochs=epochs, batch_size=16, engine=engine) for epochs in (4, 6)]
    assert_same_parameters(network.parameters, other.parameters)
    assert network.epochs_trained == other.epochs_trained == 10
    for name in ("loss", "accuracy"):
        assert history[name] == parts[0][name] + parts[1][name]


def test_seed_determines_the_result(engine, data):
    def trained(seed):
        network = Network([4, 8, 3], seed=seed)
        network.fit(*data, epochs=2, batch_size=16, engine=engine)
        return network.parameters

    assert_same_parameters(trained(5), trained(5))
    for (w, _), (other, _) in zip(trained(5), trained(6), strict=True):
        assert not np.any(w == other)


def test_seed_determines_the_order_of_the_rows(engine, data):
    def trained(seed):
        network = Network([4, 8, 3], seed=seed)
        network.parameters = Network([4, 8, 3], seed=0).parameters
        network.fit(*data, epochs=1, batch_size=1, engine=engine)
        return network.parameters[0][0]

    assert np.any(trained(5) != trained(6))


# ---- callbacks ------------------------------------------------------------------------------


def test_callbacks_get_increasing_rows_and_then_the_figures_of_the_epoch(engine, rng):
    x = rng.normal(size=(1500, 4)).astype(np.float32)
    labels = rng.integers(0, 3, 1500)
    record, network = Record(), Network([4, 8, 3])
    network.fit(x, labels, epochs=1, engine=engine)
    history = network.fit(
        x, labels, epochs=2, engine=engine, validation_data=(x, labels), callbacks=[record]
    )
    ends = [i for i, (_, value) in enumerate(record.calls) if isinstance(value, dict)]
    assert len(ends) == 2 and ends[1] == len(record.calls) - 1
    for number, (start, end) in enumerate([(0, ends[0]), (ends[0] + 1, ends[1])]):
        rows = [0] + [value for _, value in record.calls[start:end]]
        assert rows[-1] == 1500 and np.all(np.diff(rows) > 0)
        assert {epoch for epoch, _ in record.calls[start : end + 1]} == {number + 2}
        metrics = record.calls[end][1]
        assert metrics == {name: values[number] for name, values in history.items()}


def test_callbacks_are_called_in_order(engine, network, data):
    names = []
    first, second = (Record(lambda *_, name=name: names.append(name)) for name in "ab")
    network.fit(*data, epochs=1, batch_size="full", engine=engine, callbacks=(first, second))
    assert names == list("abab")  # at the end of the only chunk and of the epoch


def test_callbacks_run_in_the_middle_of_a_large_batch(engine, network, rng):
    x, labels = rng.normal(size=(2000, 4)).astype(np.float32), rng.integers(0, 3, 2000)
    record = Record()
    network.fit(x, labels, epochs=1, batch_size="full", engine=engine, callbacks=[record])
    assert record.calls[0][1] < 2000


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize(("epoch", "at_its_end"), [(1, False), (2, False), (2, True)])
def test_interrupted_fit_keeps_the_completed_batches(engine, rng, error, epoch, at_its_end):
    x, labels = rng.normal(size=(1000, 4)).astype(np.float32), rng.integers(0, 3, 1000)

    def interrupt(number, rows):
        if number == epoch and (rows is None) == at_its_end:
            raise error("stop")

    network, record = Network([4, 8, 3], seed=5), Record(interrupt)
    with pytest.raises(error, match="^stop$"):
        network.fit(x, labels, epochs=3, batch_size=64, engine=engine, callbacks=[record])
    trained = epoch if at_its_end else epoch - 1
    assert network.epochs_trained == trained

    # The weights are those of the completed epochs and of the batches before the interrupt.
    other = Network([4, 8, 3], seed=5)
    if trained:
        other.fit(x, labels, epochs=trained, batch_size=64, engine=engine)
    if not at_its_end:
        order = permutation(5, trained, 1000)[: record.calls[-1][1]]
        for start in range(0, len(order), 64):
            fit_batch(other, x, labels, order[start : start + 64], engine)
    assert_same_parameters(network.parameters, other.parameters)

    # Predictions and further training are those of a network with these weights.
    other._position = other._position._replace(epochs=trained)
    np.testing.assert_array_equal(network.predict_proba(x), other.predict_proba(x))
    next_fits = [
        net.fit(x, labels, epochs=1, batch_size=64, engine=engine) for net in (network, other)
    ]
    assert next_fits[0]["loss"] == next_fits[1]["loss"]
    assert_same_parameters(network.parameters, other.parameters)


# ---- divergence -----------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 7, 70, "full"])
def test_divergence_stops_before_the_update_and_names_the_step(engine, batch_size):
    # Logits of ±∞ in one row; all other rows are equal and finite.
    network = Network([1, 2], seed=2)
    network.parameters = [([[4, -4]], [0, 0])]
    x, labels = np.ones((1400, 1), np.float32), np.zeros(1400, int)
    x[77] = 3e38
    rows = 1400 if batch_size == "full" else batch_size
    step = int(np.flatnonzero(permutation(2, 0, 1400) == 77)[0]) // rows + 1
    settings = {"learning_rate": 0.25, "engine": engine}
    with pytest.raises(DivergenceError) as caught:
        network.fit(x, labels, batch_size=batch_size, **settings)
    assert (caught.value.epoch, caught.value.step) == (1, step)
    message = str(caught.value)
    assert f"epoch 1, step {step}," in message and "learning rate 0.25" in message
    assert "\n" not in message and "smaller learning rate (0.025)" in message
    assert network.epochs_trained == 0
    # The batches before that row are equal: the weights are those after step - 1 updates.
    other = Network([1, 2])
    other.parameters = [([[4, -4]], [0, 0])]
    if step > 1:
        ones = np.ones((rows, 1), np.float32)
        other.fit(ones, labels[:rows], epochs=step - 1, batch_size="full", **settings)
    assert_same_parameters(network.parameters, other.parameters)


def test_network_can_be_used_after_divergence_in_a_later_epoch(engine):
    # The first step changes the weights from 0 to ±5e19; with x = 1e20 the logits then overflow.
    network = Network([1, 2])
    network.parameters = [([[0, 0]], [0, 0])]
    record = Record()
    with pytest.raises(DivergenceError) as caught:
        network.fit([[1e20]], [0], epochs=5, learning_rate=1, engine=engine, callbacks=[record])
    assert (caught.value.epoch, caught.value.step) == (2, 1)
    assert [epoch for epoch, value in record.calls if isinstance(value, dict)] == [1]
    assert network.epochs_trained == 1
    assert_same_parameters(
        network.parameters, [(np.float32([[5e19, -5e19]]), np.float32([0.5, -0.5]))]
    )
    assert network.predict_proba([[0.1]]).tolist() == [[1, 0]]
    history = network.fit([[1e-20]], [0], epochs=1, learning_rate=1, engine=engine)
    assert math.isfinite(history["loss"][0])


@pytest.mark.parametrize(("size", "learning_rate"), [(1, 1e8), (1e4, 1e12), (1e15, 1e2)])
def test_diverging_network_keeps_finite_weights(engine, network, data, size, learning_rate):
    x, labels = data
    with pytest.raises(DivergenceError):
        network.fit(x * size, labels, epochs=50, learning_rate=learning_rate, engine=engine)
    assert_finite(network.parameters)


@pytest.mark.parametrize(("size", "learning_rate"), [(1e30, 1e10), (1, 1e39)])
def test_overflowed_weights_are_discarded(engine, size, learning_rate):
    # The first step changes the weights from 0 to ±∞; a rate above float32 is refused.
    network = Network([1, 2])
    network.parameters = [([[0, 0]], [0, 0])]
    with pytest.raises((DivergenceError, ValueError)):
        network.fit([[size]], [0], epochs=3, learning_rate=learning_rate, engine=engine)
    assert_finite(network.parameters)


@pytest.mark.filterwarnings("ignore")  # about the scale of the targets
def test_overflow_in_a_later_epoch_restores_the_weights_of_the_previous_one(engine):
    """With the absolute error all steps are equal: b is r, 2 r, and then above float32's range."""
    rate = 1.5e38
    network = Network([1, 1], loss="absolute_error")
    network.parameters = [([[0]], [0])]
    with pytest.raises(DivergenceError, match="^the weights are not finite after epoch 3,"):
        network.fit([[0.125]], [3.4e38], epochs=5, learning_rate=rate, engine=engine)
    assert network.epochs_trained == 2
    ((w, b),) = network.parameters
    assert [w.item(), b.item()] == [np.float32(rate) / 4, np.float32(rate) * 2]


def test_seconds_of_an_epoch_include_its_shuffle(network, data, monkeypatch):
    def slowly(*arguments):
        time.sleep(0.01)
        return permutation(*arguments)

    monkeypatch.setattr("fastnn.training.loop.permutation", slowly)
    assert min(network.fit(*data, epochs=2, engine="numpy")["seconds"]) >= 0.01
