"""Sample weights and class weights, in both engines."""

import numpy as np
import pytest

from fastnn import DataError, Network
from fastnn.data.conversion import as_weights
from fastnn.data.rows import Data
from fastnn.epoch import CHUNK_ROWS, Epoch
from fastnn.model.losses import LOSSES

every_loss = pytest.mark.parametrize("loss", LOSSES)

# Sums of some hundred float32 terms in different orders differ by about 1e-6 of their terms.
ROUNDING = 1e-5


def problem(rng, rows, loss):
    """Return features, and targets of three classes or outputs."""
    x = rng.normal(size=(rows, 6)).astype(np.float32)
    if loss == "cross_entropy":
        return x, rng.integers(0, 3, rows)
    shape = rows, 3
    if loss == "logistic":
        return x, rng.integers(0, 2, shape)
    return x, rng.poisson(2, shape) if loss == "poisson" else rng.normal(size=shape)


def assert_close(one, other):
    for pair, other_pair in zip(one.parameters, other.parameters, strict=True):
        for a, b in zip(pair, other_pair, strict=True):
            assert np.abs(a - b).max() <= ROUNDING


def networks(loss="cross_entropy", count=2):
    return [Network([6, 11, 3], loss=loss, seed=4) for _ in range(count)]


# ---- sample weights -------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [50, CHUNK_ROWS + 100])
@every_loss
def test_weight_equals_repetition_of_a_row(engine, rng, loss, rows):
    """Losses, steps and evaluation are the same; a weight of 0 removes the row."""
    x, y = problem(rng, rows, loss)
    weights = rng.integers(0, 4, rows)
    repeats = np.repeat(np.arange(rows), weights)
    weighted, repeated = networks(loss)
    settings = {"epochs": 4, "batch_size": "full", "learning_rate": 0.05, "engine": engine}
    history = weighted.fit(x, y, sample_weight=weights, l2=0.01, **settings)
    expected = repeated.fit(x[repeats], y[repeats], l2=0.01, **settings)
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=ROUNDING)
    assert_close(weighted, repeated)
    loss_now, score = weighted.evaluate(x, y, weights)
    expected_loss, expected_score = repeated.evaluate(x[repeats], y[repeats])
    assert loss_now == pytest.approx(expected_loss, rel=ROUNDING)
    if weighted.loss.score == "r2":
        assert score == pytest.approx(expected_score, abs=ROUNDING)


@every_loss
def test_rows_of_weight_0_have_no_effect(engine, rng, loss):
    x, y = problem(rng, 60, loss)
    weights = rng.uniform(0.5, 1.5, 60)
    weights[::3] = 0
    other_x, other_y = x.copy(), y.copy()
    other_x[::3], other_y[::3] = problem(rng, 20, loss)
    one, other = networks(loss)
    settings = {"epochs": 3, "batch_size": 16, "sample_weight": weights, "engine": engine}
    assert one.fit(x, y, **settings)["loss"] == other.fit(other_x, other_y, **settings)["loss"]
    for (w, b), (other_w, other_b) in zip(one.parameters, other.parameters, strict=True):
        assert (w == other_w).all() and (b == other_b).all()


@pytest.mark.parametrize("batch_size", [20, "full"])
def test_equal_weights_have_no_effect(engine, rng, batch_size):
    """The loss of a batch is divided by the sum of its weights."""
    x, y = problem(rng, 90, "cross_entropy")
    plain, *others = networks(count=4)
    settings = {"epochs": 3, "batch_size": batch_size, "engine": engine}
    expected = plain.fit(x, y, **settings)["loss"]
    for network, size in zip(others, (1, 1e-20, 3e4), strict=True):
        history = network.fit(x, y, sample_weight=np.full(90, size), **settings)
        np.testing.assert_allclose(history["loss"], expected, rtol=ROUNDING)
        assert_close(network, plain)


@pytest.mark.parametrize("batch_size", [1, 16, 100])
def test_loss_in_history_is_the_weighted_mean(engine, rng, batch_size):
    """With a tiny learning rate it equals the loss of `evaluate`, for any sum of weights."""
    x, y = problem(rng, 100, "cross_entropy")
    for weights in (rng.uniform(0, 2, 100), rng.uniform(0, 2, 100) / 1e4, np.eye(100)[7]):
        network = Network([6, 11, 3], seed=4)
        history = network.fit(
            x, y, epochs=1, batch_size=batch_size, learning_rate=1e-30, sample_weight=weights,
            engine=engine,
        )  # fmt: skip
        probs = network.predict_proba(x).astype(np.float64)
        expected = np.average(-np.log(probs[np.arange(100), y]), weights=weights)
        assert history["loss"][0] == pytest.approx(expected, rel=1e-5)
        assert network.evaluate(x, y, weights)[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("batch_size", [16, 100])
def test_loss_in_history_contains_the_penalty_once(engine, rng, batch_size):
    """Even with batches of weight 0, whose loss is the penalty alone."""
    x, y = problem(rng, 100, "cross_entropy")
    weights = np.eye(100)[7] * 1e-3
    network = Network([6, 3], seed=4)
    history = network.fit(
        x, y, epochs=1, batch_size=batch_size, learning_rate=1e-30, l2=0.5, sample_weight=weights,
        engine=engine,
    )  # fmt: skip
    penalty = 0.25 * (network.parameters[0][0].astype(np.float64) ** 2).sum()
    expected = network.evaluate(x, y, weights)[0] + penalty
    assert history["loss"][0] == pytest.approx(expected, rel=1e-5)


def test_batch_of_weight_0_changes_nothing(engine, rng):
    x, y = problem(rng, 40, "cross_entropy")
    weights = np.zeros(40)
    weights[0] = 1
    network, alone = networks()
    settings = {"shuffle": False, "engine": engine, "epochs": 1}
    network.fit(x, y, batch_size=10, sample_weight=weights, **settings)
    alone.fit(x[:10], y[:10], batch_size=10, sample_weight=weights[:10], **settings)
    for (w, b), (other_w, other_b) in zip(network.parameters, alone.parameters, strict=True):
        assert (w == other_w).all() and (b == other_b).all()


def test_norms_and_penalties_of_batches():
    weights = np.float32([1, 2, 0, 0, 0.5, 4, 3])
    data = Data(np.zeros((7, 1), np.float32), np.zeros(7, np.int32), weights)
    order = np.arange(7)
    epoch = Epoch(data, order, 2, 0.1, l2=6.0)
    assert epoch.denominators.tolist() == [3, 2.0**-126, 4.5, 3]
    assert epoch.total_weight == 10.5 and epoch.penalties.tolist() == [6, 6, 6, 6]
    shared = Epoch(data, order, 2, 0.1, l2=6.0, l2_is_shared=True)
    assert shared.penalties == pytest.approx([2, 0, 6 / 4.5, 2])
    plain = Epoch(data._replace(weights=None), order, 2, 0.1, l2=6.0, l2_is_shared=True)
    assert plain.denominators.tolist() == [2, 2, 2, 1] and plain.penalties.tolist() == [3, 3, 3, 6]
    assert plain.total_weight == 7


def test_accuracy_is_a_weighted_mean(engine, rng):
    x, y = problem(rng, 50, "cross_entropy")
    network = Network([6, 11, 3])
    network.use_engine(engine)
    weights = rng.uniform(0, 1, 50)
    expected = np.average(network.predict(x) == y, weights=weights)
    assert network.evaluate(x, y, weights)[1] == pytest.approx(expected, rel=1e-6)
    settings = {"epochs": 1, "batch_size": "full", "engine": engine, "learning_rate": 1e-6}
    history = network.fit(x, y, sample_weight=weights, **settings)
    assert history["accuracy"][0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("loss", ["squared_error", "poisson", "cross_entropy"])
def test_row_of_weight_0_may_have_an_infinite_loss(engine, rng, loss):
    x, y = problem(rng, 50, loss)
    extended = np.vstack([x, np.full((1, 6), 1e30)])
    histories = []
    for features, targets, weights in (
        (x, y, np.ones(50)),
        (extended, np.concatenate([y, y[:1]]), np.append(np.ones(50), 0)),
    ):
        network = Network([6, 3], loss=loss, seed=1)
        settings = {"epochs": 3, "batch_size": "full", "learning_rate": 1e-3, "shuffle": False}
        history = network.fit(features, targets, sample_weight=weights, engine=engine, **settings)
        histories.append(history["loss"])
    assert histories[0] == pytest.approx(histories[1], rel=1e-6)


# ---- class weights --------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [25, "full"])
@pytest.mark.parametrize("given", ["balanced", {0: 3, 2: 0.5}, {0: 0, 1: 0}])
def test_class_weights_equal_sample_weights(engine, rng, given, batch_size):
    x = rng.normal(size=(100, 6))
    y = rng.choice(3, 100, p=[0.6, 0.3, 0.1])
    if given == "balanced":
        of_classes = 100 / (3 * np.bincount(y))
    else:
        of_classes = np.array([given.get(label, 1) for label in range(3)])
    one, other = networks()
    settings = {"epochs": 3, "batch_size": batch_size, "engine": engine}
    history = one.fit(x, y, class_weight=given, **settings)
    expected = other.fit(x, y, sample_weight=of_classes[y], **settings)
    assert history["loss"] == expected["loss"]
    assert_close(one, other)


def test_balanced_classes_have_equal_weight(rng):
    from fastnn.data.conversion import as_data, with_class_weights

    y = rng.choice(4, 200, p=[0.7, 0.2, 0, 0.1])  # class 2 is missing
    loss = LOSSES["cross_entropy"]
    data = with_class_weights(as_data(np.zeros((200, 1)), y, 1, 4, loss), "balanced", loss, 4)
    sums = np.bincount(y, weights=data.weights, minlength=4)
    assert sums == pytest.approx([200 / 3, 200 / 3, 0, 200 / 3])
    assert data.total_weight == pytest.approx(200)


def test_class_weights_and_sample_weights_multiply(engine, rng):
    x, y = problem(rng, 50, "cross_entropy")
    weights = rng.uniform(0, 2, 50)
    one, other = networks()
    settings = {"epochs": 2, "batch_size": 10, "engine": engine}
    given = {0: 2, 1: 0.25}
    one.fit(x, y, sample_weight=weights, class_weight=given, **settings)
    of_classes = np.array([2, 0.25, 1])
    other.fit(x, y, sample_weight=weights * of_classes[y], **settings)
    assert_close(one, other)


@pytest.mark.parametrize("given", ["balanced", {0: 1, 1: 5}, {False: 1, True: 5}, {True: 5}])
def test_class_weights_of_one_logistic_output(engine, rng, given):
    x, y = rng.normal(size=(60, 6)), rng.random(60) < 0.2
    of_classes = np.array([1, 5]) if given != "balanced" else 60 / (2 * np.bincount(y))
    one, other = (Network([6, 5, 1], loss="logistic") for _ in range(2))
    settings = {"epochs": 2, "batch_size": 20, "engine": engine}
    history = one.fit(x, y, class_weight=given, **settings)
    expected = other.fit(x, y, sample_weight=of_classes[y.astype(int)], **settings)
    assert history["loss"] == expected["loss"]


# ---- errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.zeros(50), "^sample_weight must not all be 0$"),
        (np.full(50, 1e-60), "^sample_weight must not"),  # 0 in float32
        (np.ones(49), r"^sample_weight must have shape \(50,\), got \(49,\)$"),
        (np.ones((50, 1)), r"^sample_weight .* got \(50, 1\)$"),
        (np.full(50, -1.0), "^sample_weight must hold finite numbers of at least 0$"),
        (np.full(50, np.nan), "^sample_weight must hold finite"),
        (np.full(50, np.inf), "^sample_weight must hold finite"),
        (np.full(50, "1"), "^sample_weight must hold finite"),
        (np.full(50, 1e300), "^sample_weight must have a sum that float32 can hold$"),
        (np.full(50, 1e38), "^sample_weight .* a sum"),
        ([[1], [1, 2]], "^sample_weight is not an array"),
    ],
)
def test_rejects_invalid_sample_weights(engine, rng, weights, message):
    x, y = problem(rng, 50, "cross_entropy")
    network = Network([6, 3])
    with pytest.raises(DataError, match=message):
        network.fit(x, y, sample_weight=weights, engine=engine)
    with pytest.raises(DataError, match=message):
        network.evaluate(x, y, weights)
    with pytest.raises(DataError, match=message.replace("^", "^validation ")):
        network.fit(x, y, validation_data=(x, y, weights), engine=engine)
    assert network.epochs_trained == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("equal", "class_weight must be a dict or 'balanced', got 'equal'$"),
        ([1, 2, 3], r"class_weight must .* got \[1, 2, 3\]$"),
        ({3: 1}, "class_weight has the key 3, but the classes are 0 to 2$"),
        ({-1: 1}, "class_weight has the key -1,"),
        ({"0": 1}, "class_weight has the key '0',"),
        ({0.5: 1}, "class_weight has the key 0.5,"),
        ({1: -1}, "class_weight of 1 must be a finite number of at least 0, got -1$"),
        ({1: "2"}, "class_weight of 1 .* got '2'$"),
        ({1: None}, "class_weight of 1 .* got None$"),
        ({1: np.nan}, "class_weight of 1 .* got nan$"),
        ({1: np.inf}, "class_weight of 1 .* got inf$"),
    ],
)
def test_rejects_invalid_class_weights(engine, rng, given, message):
    x, y = problem(rng, 50, "cross_entropy")
    with pytest.raises(ValueError, match=f"^{message}"):
        Network([6, 3]).fit(x, y, class_weight=given, engine=engine)


@pytest.mark.parametrize(
    ("loss", "outputs", "y"),
    [
        ("squared_error", 1, np.zeros(4)),
        ("logistic", 2, np.zeros((4, 2))),
        ("logistic", 1, np.array([0, 1, 0.5, 1])),
    ],
)
def test_rejects_class_weights_without_classes(engine, loss, outputs, y):
    network = Network([2, outputs], loss=loss)
    with pytest.raises(ValueError, match="^class_weight needs the loss cross_entropy, or log"):
        network.fit(np.zeros((4, 2)), y, class_weight={0: 1}, engine=engine)


def test_rejects_class_weights_that_are_all_0(engine):
    with pytest.raises(DataError, match="must not all be 0$"):
        Network([1, 2]).fit([[1.0], [2.0]], [0, 0], class_weight={0: 0}, engine=engine)


def test_denormal_weights_become_0():
    """Kernels flush them to 0, but sums would include them, and the engines would differ."""
    below = np.nextafter(np.float32(2.0**-126), np.float32(0))
    given = np.array([below, 1e-40, 1e-45, 2.0**-126, 1])
    assert as_weights(given, 5).tolist() == [0, 0, 0, 2.0**-126, 1]
    with pytest.raises(DataError, match="^sample_weight must not"):
        as_weights(given[:3], 3)
