"""Validation data: given, or split off the training data."""

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from fastnn import Callback, DataError, EarlyStopping, Network
from fastnn.data.rows import Data
from fastnn.data.splitting import split
from fastnn.model.losses import LOSSES
from fastnn.training.evaluation import r2


class Rows(Callback):
    """Record the number of training rows."""

    def on_fit_begin(self, epochs, rows):
        self.rows = rows


def parts_of(data, fraction, loss="cross_entropy", seed=0):
    """Return copies of both parts of a split."""
    parts = split(data, fraction, LOSSES[loss], seed)
    return [part._replace(x=part.x[:]) for part in parts]


def numbered(rows, targets, weights=None):
    """Return data whose only feature is the number of the row."""
    return Data(np.arange(rows, dtype=np.float32)[:, None], targets, weights)


# ---- given data -----------------------------------------------------------------------------


@pytest.fixture
def data(rng):
    return rng.normal(size=(80, 4)).astype(np.float32), rng.integers(0, 3, 80)


def test_validation_rows_can_have_weights(engine, data, rng):
    x, y = data
    weights = rng.uniform(0, 2, 80) * (rng.random(80) < 0.5)
    network = Network([4, 8, 3])
    history = network.fit(x, y, epochs=2, validation_data=(x, y, weights), engine=engine)
    probs = network.predict_proba(x).astype(np.float64)
    expected = np.average(-np.log(probs[np.arange(80), y]), weights=weights)
    assert history["val_loss"][-1] == pytest.approx(expected, rel=1e-5)
    assert history["val_loss"][-1] == network.evaluate(x, y, weights)[0]


def test_weights_of_training_rows_do_not_affect_validation(engine, data, rng):
    x, y = data
    network = Network([4, 8, 3])
    history = network.fit(
        x, y, epochs=1, sample_weight=rng.random(80), class_weight="balanced",
        validation_data=(x, y), engine=engine,
    )  # fmt: skip
    assert (history["val_loss"][0], history["val_accuracy"][0]) == network.evaluate(x, y)


@pytest.mark.parametrize("loss", ["squared_error", "poisson", "absolute_error", "huber"])
def test_a_regression_reports_r2(engine, rng, loss):
    x = rng.normal(size=(50, 4)).astype(np.float32)
    y = rng.poisson(3, (50, 2))
    weights = rng.uniform(0, 2, 50)
    network = Network([4, 8, 2], loss=loss)
    history = network.fit(
        x, y, epochs=2, learning_rate=0.01, validation_data=(x, y, weights), engine=engine
    )
    assert history.keys() == {"loss", "learning_rate", "seconds", "val_loss", "val_r2"}
    p = network.predict(x).astype(np.float64)
    mean = np.average(y, axis=0, weights=weights)
    unexplained = weights @ (y - p) ** 2 / (weights @ (y - mean) ** 2)
    assert history["val_r2"][-1] == pytest.approx(1 - unexplained.mean(), abs=1e-5)
    assert network.evaluate(x, y, weights) == (history["val_loss"][-1], history["val_r2"][-1])


def test_r2_of_constant_targets():
    y = np.float32([[1, 2], [1, 3], [1, 4]])
    constant_right, constant_wrong = y.copy(), y + np.float32([0.5, 0])
    assert r2(constant_right, numbered(3, y)) == 1
    assert r2(constant_wrong, numbered(3, y)) == 0.5
    assert r2(np.full_like(y, 3), numbered(3, y)) == 0  # the mean, and a wrong constant


@pytest.mark.parametrize("given", [(), ([[1.0]],), ([[1.0]], [0], [1], None)])
def test_rejects_validation_data_of_another_length(engine, given):
    with pytest.raises(ValueError, match=r"^validation_data must be \(x, y\) or \(x, y, sample_we"):
        Network([1, 2]).fit([[1.0]], [0], validation_data=given, engine=engine)


# ---- a fraction of the rows -----------------------------------------------------------------


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_the_parts_are_disjoint_and_complete(rng, fraction):
    y = rng.integers(0, 3, 200).astype(np.int32)
    weights = rng.random(200).astype(np.float32)
    data = numbered(200, y, weights)
    training, validation = parts_of(data, fraction)
    assert len(validation.x) == 200 * fraction and len(training.x) == 200 - len(validation.x)
    rows = np.concatenate([training.x, validation.x])[:, 0].astype(int)
    assert sorted(rows) == list(range(200))
    for part in (training, validation):
        own = part.x[:, 0].astype(int)
        assert (part.targets == y[own]).all() and (part.weights == weights[own]).all()
        assert part.x.flags.c_contiguous and part.targets.dtype == np.int32


@pytest.mark.parametrize("loss", ["cross_entropy", "logistic"])
def test_the_split_is_stratified(rng, loss):
    y = np.repeat([0, 1], [180, 20])
    rng.shuffle(y)
    targets = y.astype(np.int32) if loss == "cross_entropy" else y[:, None].astype(np.float32)
    _, validation = parts_of(numbered(200, targets), 0.2, loss)
    assert np.bincount(validation.targets.ravel().astype(int)).tolist() == [36, 4]


@pytest.mark.parametrize(
    ("loss", "y"),
    [
        ("squared_error", np.arange(40)[:, None]),
        ("logistic", np.eye(40)[:, :2]),  # two labels: rows have no class
        ("logistic", np.linspace(0, 1, 40)[:, None]),  # not 0 or 1
    ],
)
def test_without_classes_the_split_is_random(loss, y):
    training, validation = parts_of(numbered(40, y.astype(np.float32)), 0.25, loss)
    assert (len(training.x), len(validation.x)) == (30, 10)
    assert validation.x[:, 0].tolist() != list(range(30, 40))  # not the last rows


def test_the_split_depends_on_the_seed(rng):
    data = numbered(100, rng.integers(0, 2, 100).astype(np.int32))
    drawn = [parts_of(data, 0.2, seed=seed)[1].x[:, 0].tolist() for seed in (3, 3, 4, 3 + 2**32)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[3]) == 20  # accepts a seed of more than 32 bits


def test_a_fit_equals_one_on_the_parts(engine, rng):
    x, y = rng.normal(size=(100, 4)).astype(np.float32), rng.integers(0, 3, 100)
    weights = rng.uniform(0.5, 2, 100).astype(np.float32)
    network, other, seen = Network([4, 8, 3], seed=6), Network([4, 8, 3], seed=6), Rows()
    history = network.fit(
        x, y, epochs=3, batch_size=16, sample_weight=weights, validation_fraction=0.2,
        engine=engine, callbacks=[seen],
    )  # fmt: skip
    assert seen.rows == 80
    training, validation = parts_of(Data(x, y.astype(np.int32), weights), 0.2, seed=6)
    assert not np.shares_memory(training.x, x)
    expected = other.fit(
        training.x, training.targets, epochs=3, batch_size=16, sample_weight=training.weights,
        validation_data=validation, engine=engine,
    )  # fmt: skip
    for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
        assert history[name] == expected[name]
    for (w, b), (other_w, other_b) in zip(network.parameters, other.parameters, strict=True):
        assert (w == other_w).all() and (b == other_b).all()


def test_a_further_fit_uses_the_same_split(engine, rng):
    x, y = rng.normal(size=(50, 4)), rng.integers(0, 3, 50)
    whole, parts = Network([4, 3]), Network([4, 3])
    settings = {"batch_size": 8, "validation_fraction": 0.2, "engine": engine}
    history = whole.fit(x, y, epochs=3, **settings)
    joined = [parts.fit(x, y, epochs=epochs, **settings)["val_loss"] for epochs in (1, 2)]
    assert history["val_loss"] == joined[0] + joined[1]


def test_rejects_both_data_and_a_fraction(engine, data):
    x, y = data
    both = {"validation_fraction": 0.5, "validation_data": (x[:9], y[:9])}
    with pytest.raises(ValueError, match="^validation_data and validation_fraction cannot"):
        Network([4, 3]).fit(x, y, epochs=1, engine=engine, **both)


def test_class_weights_do_not_affect_validation(engine, data):
    x, y = data
    network = Network([4, 3])
    settings = {"epochs": 1, "engine": engine, "learning_rate": 1e-30}
    history = network.fit(x, y, validation_fraction=0.5, class_weight={0: 9.0, 1: 0.1}, **settings)
    plain = Network([4, 3]).fit(x, y, validation_fraction=0.5, **settings)
    assert history["val_loss"] == pytest.approx(plain["val_loss"], rel=1e-6)
    assert history["loss"] != pytest.approx(plain["loss"], rel=1e-3)


@pytest.mark.parametrize("given", [True, EarlyStopping(patience=0, min_delta=1e9)])
def test_early_stopping_accepts_a_bool(engine, data, given):
    history = Network([4, 3]).fit(
        *data, epochs=30, validation_fraction=0.5, early_stopping=given, engine=engine
    )
    assert len(history["loss"]) == (30 if given is True else 2)
    with pytest.raises(ValueError, match="^early_stopping must be a bool or an EarlyStopping, got"):
        Network([4, 3]).fit(*data, early_stopping="val_loss", engine=engine)


@pytest.mark.parametrize("fraction", [1, 1.5, -0.1, np.nan, "0.1", [0.5], True])
def test_rejects_invalid_fractions(engine, data, fraction):
    with pytest.raises(ValueError, match="^validation_fraction must be between 0 and 1, got "):
        Network([4, 3]).fit(*data, validation_fraction=fraction, engine=engine)


@pytest.mark.parametrize(
    ("labels", "fraction", "kept"),
    [([0, 0, 0, 1], 0.5, 2), ([0, 1], 0.5, 1), ([0, 0, 1, 1, 2, 2], 0.2, 2)]
    + [([0, 0, 1, 1, 2, 2], 0.8, 5), ([0, 0, 0, 1, 1, 1], 1e-9, 1)],
)
def test_classes_of_too_few_rows_are_not_stratified(engine, labels, fraction, kept):
    data = numbered(len(labels), np.int32(labels))
    parts = parts_of(data, fraction)
    assert [len(part.x) for part in parts] == [len(labels) - kept, kept]
    Network([1, 3]).fit(
        data.x, labels, epochs=1, batch_size=1, validation_fraction=fraction, engine=engine
    )


@pytest.mark.parametrize(("rows", "fraction"), [(1437, 0.9999), (1, 0.5), (2, 0.6)])
def test_rejects_a_fraction_that_leaves_no_training_rows(engine, rows, fraction):
    network = Network([2, 3])
    message = f"^a validation_fraction of {fraction} leaves 0 of {rows:,} rows to train on$"
    with pytest.raises(DataError, match=message):
        network.fit(
            np.zeros((rows, 2)), np.arange(rows) % 3, validation_fraction=fraction, engine=engine
        )
    assert network.epochs_trained == 0


def test_rejects_a_split_if_only_one_row_has_weight(engine):
    x, y = np.zeros((40, 2)), np.arange(40) % 2
    message = "0.25 leaves 0 of 1 rows that have weight to train on$"
    with pytest.raises(DataError, match=message):
        Network([2, 2]).fit(
            x, y, sample_weight=np.eye(40)[3], validation_fraction=0.25, engine=engine
        )


@pytest.mark.parametrize(
    ("counted", "fraction", "n_validation"), [(10, 0.1, 2), (40, 0.1, 4), (2, 0.5, 1)]
)
def test_validation_rows_have_weight(rng, counted, fraction, n_validation):
    """Bagging gives rows that were not drawn a weight of 0."""
    y = rng.integers(0, 3, 150).astype(np.int32)
    weights = np.zeros(150, np.float32)
    weights[rng.permutation(150)[:counted]] = 1
    for seed in range(5):
        training, validation = parts_of(numbered(150, y, weights), fraction, seed=seed)
        assert len(validation.x) == n_validation and (validation.weights > 0).all()
        assert training.total_weight == counted - n_validation
        rows = np.concatenate([training.x, validation.x])[:, 0].astype(int)
        assert sorted(rows) == list(range(150))
        assert (training.targets == y[training.x[:, 0].astype(int)]).all()


def test_positive_weights_do_not_change_the_split(rng):
    y = rng.integers(0, 3, 200).astype(np.int32)
    weights = rng.uniform(0.5, 1, 200).astype(np.float32)
    expected = train_test_split(np.arange(200), test_size=40, random_state=7, stratify=y)
    for given in (None, weights):
        for part, rows in zip(
            parts_of(numbered(200, y, given), 0.2, seed=7), expected, strict=True
        ):
            assert part.x[:, 0].tolist() == rows.tolist()
