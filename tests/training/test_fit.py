"""The fit loop over both engines: what history holds, resuming, divergence, interruptions."""

import math
import time

import numpy as np
import pytest

from fastnn import Callback, DivergenceError, Network
from fastnn.model import randomness
from fastnn.model.randomness import permutation

U64 = 2.0**-53  # unit roundoff of float64, in which losses are summed


@pytest.fixture
def data(rng):
    """Seventy rows of three overlapping classes."""
    labels = rng.integers(0, 3, 70)
    x = rng.normal(size=(70, 4)) + np.eye(3, 4)[labels]
    return x.astype(np.float32), labels


@pytest.fixture
def network():
    return Network([4, 8, 3], seed=5)


def assert_same_bits(one, other):
    for (w, b), (other_w, other_b) in zip(one, other, strict=True):
        np.testing.assert_array_equal(w, other_w)
        np.testing.assert_array_equal(b, other_b)


def assert_finite(parameters):
    assert all(np.isfinite(array).all() for pair in parameters for array in pair)


def fit_batch(network, x, labels, batch, engine):
    """Make one update from these rows, as they come: laid so that the shuffle restores them."""
    laid = np.empty_like(batch)
    laid[permutation(network.seed, network.epochs_trained, len(batch))] = batch
    return network.fit(x[laid], labels[laid], epochs=1, batch_size="full", engine=engine)


class Watcher(Callback):
    """Writes down what it sees, and does what it is told at a place."""

    def __init__(self, act=lambda epoch, rows: None):
        self.seen = []
        self._act = act

    def on_chunk_end(self, epoch, rows):
        self.seen.append((epoch, rows))
        self._act(epoch, rows)

    def on_epoch_end(self, epoch, metrics):
        self.seen.append((epoch, dict(metrics)))
        self._act(epoch, None)


# ---- history --------------------------------------------------------------------------------


@pytest.mark.parametrize("validated", [False, True])
def test_history_has_an_item_an_epoch(engine, network, data, validated):
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


def test_a_full_batch_epochs_loss_is_measured_before_its_update(engine, network, data):
    network.use_engine(engine)
    for _ in range(3):
        before = network.evaluate(*data)
        history = network.fit(*data, epochs=1, batch_size="full", engine=engine)
        # The same losses, added in another order: 70 additions in float64.
        assert history["loss"][0] == pytest.approx(before[0], rel=70 * U64, abs=0)
        assert history["accuracy"][0] == before[1]
    assert network.evaluate(*data)[0] < before[0]


def test_validation_is_a_full_pass_after_the_epoch(engine, network, data):
    x, labels = data
    held_out = x[50:], labels[50:]
    for _ in range(2):
        history = network.fit(
            x[:50], labels[:50], epochs=1, batch_size=8, engine=engine, validation_data=held_out
        )
        assert (history["val_loss"][0], history["val_accuracy"][0]) == network.evaluate(*held_out)


def test_validation_changes_nothing(engine, network, data):
    other = Network([4, 8, 3], seed=5)
    network.fit(*data, epochs=2, batch_size=16, engine=engine, validation_data=data)
    other.fit(*data, epochs=2, batch_size=16, engine=engine)
    assert_same_bits(network.parameters, other.parameters)


@pytest.mark.parametrize("batch_size", [1, 16, 32, 69])
def test_an_epoch_is_its_batches_one_after_the_other(engine, network, data, batch_size):
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
    assert_same_bits(network.parameters, other.parameters)


def test_rows_of_more_than_a_gibibyte_are_visited_by_blocks(engine, network, data, monkeypatch):
    # Of 16 bytes each, here 4 to a block and 16 to a window; wherever they lie.
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
    assert_same_bits(network.parameters, other.parameters)


@pytest.mark.parametrize("batch_size", [70, 71, 10**30, np.int64(100)])
def test_a_batch_size_above_the_rows_is_the_full_batch(engine, network, data, batch_size):
    other = Network([4, 8, 3], seed=5)
    history = network.fit(*data, epochs=3, batch_size=batch_size, engine=engine)
    assert history["loss"] == other.fit(*data, epochs=3, batch_size="full", engine=engine)["loss"]
    assert_same_bits(network.parameters, other.parameters)


# ---- seeds and resuming ---------------------------------------------------------------------


def test_two_fits_equal_one(engine, network, data):
    whole = network.fit(*data, epochs=10, batch_size=16, engine=engine)
    other = Network([4, 8, 3], seed=5)
    parts = [other.fit(*data, epochs=epochs, batch_size=16, engine=engine) for epochs in (4, 6)]
    assert_same_bits(network.parameters, other.parameters)
    assert network.epochs_trained == other.epochs_trained == 10
    for name in ("loss", "accuracy"):
        assert whole[name] == parts[0][name] + parts[1][name]


def test_a_seed_decides_everything(engine, data):
    def trained(seed):
        network = Network([4, 8, 3], seed=seed)
        network.fit(*data, epochs=2, batch_size=16, engine=engine)
        return network.parameters

    assert_same_bits(trained(5), trained(5))
    for (w, _), (other, _) in zip(trained(5), trained(6), strict=True):
        assert not np.any(w == other)


def test_a_seed_decides_the_order_of_the_rows_too(engine, data):
    def trained(seed):
        network = Network([4, 8, 3], seed=seed)
        network.parameters = Network([4, 8, 3], seed=0).parameters
        network.fit(*data, epochs=1, batch_size=1, engine=engine)
        return network.parameters[0][0]

    assert np.any(trained(5) != trained(6))


# ---- callbacks ------------------------------------------------------------------------------


def test_callbacks_see_rows_grow_to_the_last_and_then_the_epochs_figures(engine, rng):
    x = rng.normal(size=(1500, 4)).astype(np.float32)
    labels = rng.integers(0, 3, 1500)
    watcher, network = Watcher(), Network([4, 8, 3])
    network.fit(x, labels, epochs=1, engine=engine)
    history = network.fit(
        x, labels, epochs=2, engine=engine, validation_data=(x, labels), callbacks=[watcher]
    )
    ends = [i for i, (_, what) in enumerate(watcher.seen) if isinstance(what, dict)]
    assert len(ends) == 2 and ends[1] == len(watcher.seen) - 1
    for number, (start, end) in enumerate([(0, ends[0]), (ends[0] + 1, ends[1])]):
        rows = [0] + [what for _, what in watcher.seen[start:end]]
        assert rows[-1] == 1500 and np.all(np.diff(rows) > 0)
        assert {epoch for epoch, _ in watcher.seen[start : end + 1]} == {number + 2}
        metrics = watcher.seen[end][1]
        assert metrics == {name: values[number] for name, values in history.items()}


def test_all_callbacks_are_called_in_order(engine, network, data):
    seen = []
    first, second = (Watcher(lambda *_, name=name: seen.append(name)) for name in "ab")
    network.fit(*data, epochs=1, batch_size="full", engine=engine, callbacks=(first, second))
    assert seen == list("abab")  # the end of the only chunk, the end of the epoch


def test_a_full_batch_over_many_rows_lets_callbacks_look_in(engine, network, rng):
    # Ctrl-C is seen in the middle of a batch, too.
    x, labels = rng.normal(size=(2000, 4)).astype(np.float32), rng.integers(0, 3, 2000)
    watcher = Watcher()
    network.fit(x, labels, epochs=1, batch_size="full", engine=engine, callbacks=[watcher])
    assert watcher.seen[0][1] < 2000


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize(("epoch", "at_its_end"), [(1, False), (2, False), (2, True)])
def test_an_interrupted_fit_keeps_what_it_has_learned(engine, rng, error, epoch, at_its_end):
    x, labels = rng.normal(size=(1000, 4)).astype(np.float32), rng.integers(0, 3, 1000)

    def interrupt(number, rows):
        if number == epoch and (rows is None) == at_its_end:
            raise error("stop")

    network, watcher = Network([4, 8, 3], seed=5), Watcher(interrupt)
    with pytest.raises(error, match="^stop$"):
        network.fit(x, labels, epochs=3, batch_size=64, engine=engine, callbacks=[watcher])
    trained = epoch if at_its_end else epoch - 1
    assert network.epochs_trained == trained

    # Whole epochs, and the batches of the next one up to where it was interrupted.
    other = Network([4, 8, 3], seed=5)
    if trained:
        other.fit(x, labels, epochs=trained, batch_size=64, engine=engine)
    if not at_its_end:
        order = permutation(5, trained, 1000)[: watcher.seen[-1][1]]
        for start in range(0, len(order), 64):
            fit_batch(other, x, labels, order[start : start + 64], engine)
    assert_same_bits(network.parameters, other.parameters)

    # The object is as good as new: what it predicts and learns is what those weights say.
    other._position = other._position._replace(epochs=trained)
    np.testing.assert_array_equal(network.predict_proba(x), other.predict_proba(x))
    again = [net.fit(x, labels, epochs=1, batch_size=64, engine=engine) for net in (network, other)]
    assert again[0]["loss"] == again[1]["loss"]
    assert_same_bits(network.parameters, other.parameters)


# ---- divergence -----------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 7, 70, "full"])
def test_divergence_stops_before_the_update_and_names_the_place(engine, batch_size):
    # One row, where logits of ±∞ meet, in data whose other rows are harmless.
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
    # Up to that row all batches are alike: these are the weights after step - 1 updates.
    other = Network([1, 2])
    other.parameters = [([[4, -4]], [0, 0])]
    if step > 1:
        ones = np.ones((rows, 1), np.float32)
        other.fit(ones, labels[:rows], epochs=step - 1, batch_size="full", **settings)
    assert_same_bits(network.parameters, other.parameters)


def test_divergence_in_a_later_epoch_leaves_a_usable_network(engine):
    # The first step takes the weights from 0 to ±5e19; times 1e20, the logits overflow then.
    network = Network([1, 2])
    network.parameters = [([[0, 0]], [0, 0])]
    watcher = Watcher()
    with pytest.raises(DivergenceError) as caught:
        network.fit([[1e20]], [0], epochs=5, learning_rate=1, engine=engine, callbacks=[watcher])
    assert (caught.value.epoch, caught.value.step) == (2, 1)
    assert [epoch for epoch, what in watcher.seen if isinstance(what, dict)] == [1]
    assert network.epochs_trained == 1
    assert_same_bits(network.parameters, [(np.float32([[5e19, -5e19]]), np.float32([0.5, -0.5]))])
    assert network.predict_proba([[0.1]]).tolist() == [[1, 0]]
    history = network.fit([[1e-20]], [0], epochs=1, learning_rate=1, engine=engine)
    assert math.isfinite(history["loss"][0])


@pytest.mark.parametrize(("size", "learning_rate"), [(1, 1e8), (1e4, 1e12), (1e15, 1e2)])
def test_a_diverging_network_keeps_finite_weights(engine, network, data, size, learning_rate):
    x, labels = data
    with pytest.raises(DivergenceError):
        network.fit(x * size, labels, epochs=50, learning_rate=learning_rate, engine=engine)
    assert_finite(network.parameters)


@pytest.mark.parametrize(("size", "learning_rate"), [(1e30, 1e10), (1, 1e39)])
def test_weights_that_overflow_are_not_kept(engine, size, learning_rate):
    # The step itself takes the weights from 0 to ±∞; a rate above float32 may be refused, too.
    network = Network([1, 2])
    network.parameters = [([[0, 0]], [0, 0])]
    with pytest.raises((DivergenceError, ValueError)):
        network.fit([[size]], [0], epochs=3, learning_rate=learning_rate, engine=engine)
    assert_finite(network.parameters)


@pytest.mark.filterwarnings("ignore")  # of the scale, which is beyond reason
def test_weights_that_overflow_in_a_later_epoch_are_those_of_the_epoch_before(engine):
    """Of the absolute error every step is the same: b is r, 2 r, and then beyond float32."""
    rate = 1.5e38
    network = Network([1, 1], loss="absolute_error")
    network.parameters = [([[0]], [0])]
    with pytest.raises(DivergenceError, match="^the weights are not finite in epoch 3, step 1,"):
        network.fit([[0.125]], [3.4e38], epochs=5, learning_rate=rate, engine=engine)
    assert network.epochs_trained == 2
    ((w, b),) = network.parameters
    assert [w.item(), b.item()] == [np.float32(rate) / 4, np.float32(rate) * 2]


def test_the_seconds_of_an_epoch_count_its_shuffle(network, data, monkeypatch):
    def slowly(*arguments):
        time.sleep(0.01)
        return permutation(*arguments)

    monkeypatch.setattr("fastnn.training.loop.permutation", slowly)
    assert min(network.fit(*data, epochs=2, engine="numpy")["seconds"]) >= 0.01
