"""The public `Network`: training, predictions, parameters, and rejected arguments."""

import copy
import math
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from parameters import assert_same_parameters

from fastnn import Callback, DataError, Network

EPS32 = 2.0**-23


@pytest.fixture
def data(rng):
    x = rng.integers(0, 256, (60, 4), np.uint8)
    return x, rng.integers(0, 3, 60)


@pytest.fixture
def network(engine):
    network = Network([4, 8, 3], input_scale=1 / 255, seed=3)
    network.use_engine(engine)
    return network


# ---- training -------------------------------------------------------------------------------


def test_new_network_has_initial_weights_of_its_seed():
    network = Network([784, 128, 64, 10], seed=4)
    assert network.n_parameters == 109_386
    assert network.epochs_trained == 0
    assert [(w.shape, b.shape) for w, b in network.parameters] == [
        ((784, 128), (128,)),
        ((128, 64), (64,)),
        ((64, 10), (10,)),
    ]
    assert_same_parameters(
        network.parameters, Network((784, 128, 64, 10), seed=np.int64(4)).parameters
    )


def test_learns_xor(engine):
    x, labels = [[0, 0], [0, 1], [1, 0], [1, 1]], [0, 1, 1, 0]
    network = Network([2, 16, 2], seed=0)
    history = network.fit(
        x, labels, epochs=200, batch_size="full", learning_rate=0.5, engine=engine
    )
    assert network.predict(x).tolist() == labels
    assert history["accuracy"][-1] == 1
    assert history["loss"][-1] < history["loss"][0]


def test_learns_clusters_with_default_settings(rng):
    # Ten clusters, whose centres are 40 standard deviations apart on average.
    centres = rng.normal(scale=4, size=(10, 50))
    y_train, y_test = rng.integers(0, 10, 1000), rng.integers(0, 10, 200)
    x_train, x_test = (centres[y] + rng.normal(size=(len(y), 50)) for y in (y_train, y_test))
    network = Network([50, 32, 10], input_scale=0.25)
    history = network.fit(x_train, y_train, validation_data=(x_test, y_test))
    assert history["val_accuracy"][-1] == 1 and len(history["loss"]) == 20
    assert network.predict(x_test).tolist() == y_test.tolist()


@pytest.mark.parametrize("sizes", [[1, 1], [1, 1, 1, 2], [3, 17, 33, 5], [2, 1, 4]], ids=str)
def test_trains_networks_of_unusual_shapes(engine, rng, sizes):
    x, labels = rng.normal(size=(21, sizes[0])), rng.integers(0, sizes[-1], 21)
    network = Network(sizes)
    history = network.fit(x, labels, epochs=2, batch_size=4, engine=engine)
    assert all(math.isfinite(loss) for loss in history["loss"])
    assert network.predict_proba(x).shape == (21, sizes[-1])


# ---- predictions ----------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 60, 1300])
def test_predicts_probabilities_and_the_most_probable_class(network, rng, rows):
    x = rng.integers(0, 256, (rows, 4), np.uint8)
    probs, classes = network.predict_proba(x), network.predict(x)
    assert probs.shape == (rows, 3) and probs.dtype == np.float32
    assert classes.shape == (rows,) and classes.dtype == np.int64
    assert np.all(probs >= 0)
    # Three quotients and the two additions of their divisor: at most eps / 2 of error each.
    assert np.abs(probs.sum(axis=1, dtype=np.float64) - 1).max() <= 3 * EPS32
    np.testing.assert_array_equal(classes, probs.argmax(axis=1))


def test_evaluate_agrees_with_predictions(network, data):
    x, labels = data
    loss, accuracy = network.evaluate(x, labels)
    assert type(loss) is float and type(accuracy) is float
    assert accuracy == np.mean(network.predict(x) == labels)
    # The loss is -log p with p above 0.001. Its error is a few roundings of numbers of the size of
    # log p or of the logits, which are below 8.
    p = network.predict_proba(x)[np.arange(60), labels].astype(np.float64)
    assert p.min() > 0.001
    assert abs(loss + np.log(p).mean()) <= 32 * EPS32


def test_predicts_the_first_of_equally_probable_classes(engine):
    network = Network([1, 3])
    network.parameters = [(np.zeros((1, 3)), np.zeros(3))]
    network.use_engine(engine)
    assert network.predict([[1.0]]).tolist() == [0]
    assert network.evaluate([[1.0], [1.0]], [0, 1])[1] == 0.5


def test_predicts_from_logits_whose_difference_overflows(engine):
    network = Network([1, 2])
    network.parameters = [([[3e38, -3e38]], [0, 0])]
    network.use_engine(engine)
    assert network.predict_proba([[1.0], [-1.0]]).tolist() == [[1, 0], [0, 1]]
    assert network.evaluate([[1.0], [-1.0]], [0, 1]) == (0, 1)


@pytest.mark.filterwarnings("ignore:the network has not learned")
@pytest.mark.parametrize("scale", [1.0, 1 / 255, 3.5])
def test_dtype_of_the_features_does_not_change_the_result(engine, data, scale):
    x, labels = data
    results = []
    for dtype in (np.uint8, np.float32, np.float64, np.int32):
        network = Network([4, 8, 3], input_scale=scale, seed=3)
        history = network.fit(x.astype(dtype), labels, epochs=2, batch_size=16, engine=engine)
        results.append((network, history["loss"], network.predict_proba(x.astype(dtype))))
    for network, loss, probs in results[1:]:
        assert_same_parameters(network.parameters, results[0][0].parameters)
        assert loss == results[0][1]
        np.testing.assert_array_equal(probs, results[0][2])


def test_input_scale_multiplies_the_features(engine):
    scaled, plain = Network([2, 3], input_scale=0.25), Network([2, 3])
    x = np.array([[4, -8], [2, 0.5]], np.float32)
    scaled.use_engine(engine)
    plain.use_engine(engine)
    np.testing.assert_array_equal(scaled.predict_proba(x), plain.predict_proba(x / 4))


# ---- parameters and engines -----------------------------------------------------------------


def test_parameters_are_copies(network, data):
    before = [(w.copy(), b.copy()) for w, b in network.parameters]
    for w, b in network.parameters:
        w[...], b[...] = 7, 7
    assert_same_parameters(network.parameters, before)
    given = [(w.copy(), b.copy()) for w, b in before]
    network.parameters = given
    for w, b in given:
        w[...], b[...] = 7, 7
    assert_same_parameters(network.parameters, before)


def test_predicts_with_the_parameters_that_were_set(network, data):
    x, _ = data
    probs = network.predict_proba(x)
    other = Network([4, 8, 3], seed=9).parameters
    own, network.parameters = network.parameters, other
    assert np.any(network.predict_proba(x) != probs)
    network.parameters = [(w.astype(np.float64).tolist(), b) for w, b in own]
    np.testing.assert_array_equal(network.predict_proba(x), probs)
    assert all(array.dtype == np.float32 for pair in network.parameters for array in pair)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([((4, 8), 8)], "expected 2 layers, got 1"),
        ([((4, 8), 8), ((8, 3), 3), ((3, 3), 3)], "expected 2 layers, got 3"),
        ([((8, 4), 8), ((8, 3), 3)], r"layer 0 has .*\(4, 8\).*\(8,\), got .*\(8, 4\) and \(8,\)"),
        ([((4, 8), 8), ((8, 3), 4)], r"layer 1 has .*\(8, 3\).*\(3,\), got .*\(8, 3\) and \(4,\)"),
        ([((4, 8), 8), ((8, 3), (1, 3))], r"layer 1 has .* got .*\(8, 3\) and \(1, 3\)"),
        ([((4, 8), 8), ((8, 3), ())], r"layer 1 has .* got .*\(8, 3\) and \(\)"),
    ],
)
def test_rejects_parameters_of_other_shapes(network, data, shapes, message):
    before, probs = network.parameters, network.predict_proba(data[0])
    with pytest.raises(ValueError, match=message):
        network.parameters = [(np.zeros(w), np.zeros(b)) for w, b in shapes]
    assert_same_parameters(network.parameters, before)
    np.testing.assert_array_equal(network.predict_proba(data[0]), probs)


def test_change_of_engine_keeps_the_weights(data):
    network = Network([4, 8, 3], input_scale=1 / 255, seed=3)
    for epochs, engine in enumerate(("numba", "numpy", "numba", "numpy"), start=1):
        before = network.parameters
        assert network.use_engine(engine).name == engine
        assert_same_parameters(network.parameters, before)
        network.fit(*data, epochs=1, batch_size=16, engine=engine)
        assert np.any(network.parameters[0][0] != before[0][0])
        assert network.epochs_trained == epochs


def test_engine_is_created_once(network, engine):
    first = network.use_engine(engine)
    assert network.use_engine(engine) is first
    network.fit(np.zeros((2, 4)), [0, 1], epochs=1, engine=engine)
    assert network.use_engine(engine) is first


@pytest.mark.filterwarnings("ignore:the network has not learned")
def test_number_of_threads_does_not_change_the_result(engine, data):
    network, other = (Network([4, 8, 3], seed=3) for _ in range(2))
    network.fit(*data, epochs=2, threads=1, engine=engine)
    other.fit(*data, epochs=2, engine=engine)
    assert_same_parameters(network.parameters, other.parameters)
    assert network.use_engine("numba", threads=1).threads == 1


# ---- rejected arguments ---------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0, -1, math.nan, math.inf])
def test_rejects_an_input_scale_that_is_not_positive(scale):
    with pytest.raises(ValueError, match=f"^input_scale must be a positive number, got {scale}"):
        Network([4, 3], input_scale=scale)


@pytest.mark.parametrize("seed", [-1, 2**64, 0.5, "0", None])
def test_rejects_a_seed_that_is_not_a_64_bit_integer(seed):
    with pytest.raises(ValueError, match="^seed must be "):
        Network([4, 3], seed=seed)


@pytest.mark.parametrize(
    "setting",
    [
        *({"epochs": epochs} for epochs in (0, -1, 1.5, "1", None)),
        *({"batch_size": size} for size in (0, -1, 2.5, "half", "16", True)),
        *({"learning_rate": rate} for rate in (0, 0.0, -0.1, math.nan, math.inf, -math.inf)),
        *({"engine": name} for name in ("cuda", "", "Numba", None)),
        *({"engine": "numba", "threads": threads} for threads in (0, -1, 10**6, 1.5)),
    ],
    ids=str,
)
def test_rejects_settings_out_of_range_and_changes_nothing(network, engine, data, setting):
    network.fit(*data, epochs=1, engine=engine)
    before, probs = network.parameters, network.predict_proba(data[0])
    name = list(setting)[-1]
    with pytest.raises(ValueError, match=f"^{name} must be "):
        network.fit(*data, **{"engine": engine, **setting})
    assert network.epochs_trained == 1
    assert_same_parameters(network.parameters, before)
    np.testing.assert_array_equal(network.predict_proba(data[0]), probs)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"x": np.zeros((60, 5))}, "^x must have shape"),
        ({"x": np.full((60, 4), np.nan)}, "^x must be finite"),
        ({"y": np.zeros(59, int)}, "^y has 59 labels for 60 rows"),
        ({"y": np.full(60, 3)}, "^y must hold whole numbers from 0 to 2, found 3 in row 0"),
        ({"validation_data": (np.zeros((1, 5)), [0])}, "^validation x must have shape"),
        ({"validation_data": (np.zeros((1, 4)), [-1])}, "^validation y must hold whole numbers"),
    ],
)
def test_rejects_data_that_do_not_fit_and_changes_nothing(network, engine, data, bad, message):
    before = network.parameters
    with pytest.raises(DataError, match=message):
        network.fit(**{"x": data[0], "y": data[1], "engine": engine, **bad})
    assert network.epochs_trained == 0
    assert_same_parameters(network.parameters, before)
    if "validation_data" not in bad:
        with pytest.raises(DataError, match=message):
            network.evaluate(**{"x": data[0], "y": data[1], **bad})


def test_rejects_features_of_another_width(network):
    for method in (network.predict, network.predict_proba):
        with pytest.raises(DataError, match=r"^x must have shape \(rows, 4\), got \(1, 3\)$"):
            method([[1, 2, 3]])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_further_fit_of_a_copy_equals_that_of_the_network(network, data, engine, copied):
    settings = {"optimizer": "adam", "engine": engine, "epochs": 2, "batch_size": 16}
    network.fit(*data, **settings)
    other = copied(network)
    np.testing.assert_array_equal(other.predict_proba(data[0]), network.predict_proba(data[0]))
    assert other.fit(*data, **settings)["loss"] == network.fit(*data, **settings)["loss"]
    assert_same_parameters(other.parameters, network.parameters)


@pytest.mark.parametrize("row", [0, 7, 699])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_rejects_features_that_are_not_finite(network, engine, rng, value, row):
    network.use_engine(engine)
    x = rng.standard_normal((700, 4))
    network.predict(x)
    x[row, 2] = value
    with pytest.raises(DataError, match=f"^x must be finite in float32, found .* in row {row},"):
        network.predict(x)
    network.predict(x[:row] if row else x[1:])  # the next call succeeds


def test_simultaneous_predictions_of_several_threads_are_correct(engine, rng):
    x = rng.normal(size=(8, 700, 20)).astype(np.float32)
    net = Network([20, 64, 5])
    net.use_engine(engine)
    expected = [net.predict_proba(part) for part in x]
    with ThreadPoolExecutor(8) as threads:
        for _ in range(10):
            for got, each in zip(threads.map(net.predict_proba, x), expected, strict=True):
                np.testing.assert_array_equal(got, each)


def test_copy_made_during_a_fit_can_be_trained(engine, rng):
    x, y, copies = rng.normal(size=(50, 4)), rng.integers(0, 2, 50), []

    class Copy(Callback):
        def on_epoch_end(self, epoch, metrics):
            copies.append(copy.copy(net))
            copies[-1].fit(x, y, epochs=1, engine=engine)

    net = Network([4, 3, 2])
    net.fit(x, y, epochs=2, engine=engine, callbacks=[Copy()])
    assert [one.epochs_trained for one in (*copies, net)] == [2, 3, 2]
