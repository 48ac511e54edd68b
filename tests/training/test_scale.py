"""Warnings about the scale of features and targets."""

import warnings

import numpy as np
import pytest
import scipy.sparse
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning

from fastnn import Callback, MLPClassifier, MLPRegressor, Network
from fastnn.data.features import select_rows
from fastnn.data.rows import Data
from fastnn.data.sparse import SparseRows
from fastnn.model.losses import LOSSES
from fastnn.training.scale import OFFSET_LIMIT, _constant_loss, _feature_columns, warn_of_offset

REGRESSIONS = ("squared_error", "absolute_error", "huber")


def warned(fit):
    """Return the messages of a fit's warnings, without those about the last epoch."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit()
    caught = [each for each in caught if "terations" not in str(each.message)]
    for each in caught:
        assert each.category is ConvergenceWarning and each.filename == __file__
        assert "\n" not in str(each.message)
    return [str(each.message) for each in caught]


@pytest.fixture
def x(rng):
    return rng.normal(size=(150, 6))


def classes_of(x):
    return (x[:, 0] > 0) + (x[:, 1] > 0) * 1


def classifier(**settings):
    return Network([6, 8, 3], **settings)


# ---- targets far from 0 -----------------------------------------------------------------------


@pytest.mark.parametrize("loss", REGRESSIONS)
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "lbfgs"])
def test_warns_of_an_offset_once_before_training(engine, x, loss, optimizer):
    order = []

    class RecordBegin(Callback):
        def on_fit_begin(self, epochs, rows):
            order.append("training")

    def fit():
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = lambda message, *_, **__: order.append(str(message))
            network = Network([6, 1], loss=loss)
            rate = {} if optimizer == "lbfgs" else {"learning_rate": 1e-6}
            network.fit(
                x, x[:, 0] + 1e5, optimizer=optimizer, epochs=2, engine=engine,
                callbacks=[RecordBegin()], **rate,
            )  # fmt: skip

    fit()
    (text, training) = order
    assert training == "training"
    assert text.startswith("the targets have mean 1e+05 and standard deviation 0.9")
    assert "TransformedTargetRegressor" in text


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
@pytest.mark.parametrize("offset", [1e5, 1.7e9])  # float32 has no differences at 1.7e9
def test_estimators_warn_of_an_offset_once(engine, x, solver, offset):
    def fit():
        MLPRegressor(
            solver=solver, learning_rate_init=1e-9, max_iter=3, engine=engine, random_state=0
        ).fit(x, x[:, 0] + offset)

    (text,) = warned(fit)
    assert text.startswith(f"the targets have mean {offset:.4g} and standard deviation ")


def test_names_the_output_with_the_largest_offset(x):
    y = np.stack([x[:, 0] + 1e5, x[:, 1] + 1e6, x[:, 2]], axis=1)
    (text,) = warned(lambda: Network([6, 3], loss="squared_error").fit(x, y, learning_rate=1e-9))
    assert text.startswith("the targets of output 1 (counted from 0) have mean 1e+06 and stan")


def warns_of_offset(y, weights=None, loss="squared_error"):
    y = np.asarray(y, np.float64)
    data = Data(np.zeros((len(y), 1), np.float32), y.astype(np.float32)[:, None], weights)
    returned = []
    texts = warned(lambda: returned.append(warn_of_offset(y, data, LOSSES[loss])))
    assert returned == [len(texts) == 1]
    return returned[0]


def test_offset_is_the_mean_divided_by_the_standard_deviation():
    y = np.tile([-1.0, 1.0], 50)  # standard deviation 1
    assert warns_of_offset(y + OFFSET_LIMIT * 1.001) and warns_of_offset(y - OFFSET_LIMIT * 1.001)
    assert not warns_of_offset(y + OFFSET_LIMIT * 0.999)
    for loss in ("poisson", "logistic", "cross_entropy"):
        assert not warns_of_offset(y + 1e9, loss=loss)


def test_equal_targets_have_no_offset():
    for value in (0.0, 0.1, -1e9, 1e30):
        assert not warns_of_offset(np.full(99, value))
        assert not warns_of_offset(np.full(99, value), np.linspace(0, 1, 99, dtype=np.float32))


def test_offset_depends_on_the_weights_of_rows():
    y = np.append(np.tile([-1.0, 1.0], 50) + 1e6, 0.0)
    assert not warns_of_offset(y)  # the last row makes the standard deviation large
    weights = np.append(np.ones(100), 0).astype(np.float32)
    assert warns_of_offset(y, weights)
    weights[-1] = 1e-9
    assert warns_of_offset(y, weights)
    weights[-1] = 0.1
    assert not warns_of_offset(y, weights)


def test_partial_fit_warns_of_an_offset_in_the_first_call(x):
    model = MLPRegressor(engine="numpy", random_state=0)
    texts = [warned(lambda: model.partial_fit(x, x[:, 0] + 1e6)) for _ in range(3)]
    assert [len(each) for each in texts] == [1, 0, 0]


# ---- stalled L-BFGS ---------------------------------------------------------------------------


def test_warns_if_lbfgs_stalls(engine, x):
    y, settings = x[:, 0] * 1e9, {"optimizer": "lbfgs", "epochs": 50, "engine": engine}
    for fit in (
        lambda: MLPRegressor(solver="lbfgs", engine=engine).fit(x, y),
        lambda: Network([6, 8, 1], loss="squared_error").fit(x, y, **settings),
    ):
        (text,) = warned(fit)
        assert text.startswith("lbfgs failed to converge: after 1 iteration the loss ")
        assert "the targets have mean" in text and "e+08: scale the targets to mean 0" in text


@pytest.mark.parametrize(
    "settings",
    [{"max_iter": 60}, {"alpha": 1.0}, {"alpha": 0, "tol": 1e-9}, {"hidden_layer_sizes": ()}],
)
def test_lbfgs_that_converges_or_reaches_a_limit_has_not_stalled(settings, iris, cancer, diabetes):
    problems = [(MLPClassifier, iris), (MLPClassifier, cancer), (MLPRegressor, diabetes)]
    for kind, (x, y) in problems:
        model = kind(**{"hidden_layer_sizes": 8, "solver": "lbfgs", "random_state": 0, **settings})
        assert not warned(lambda model=model, x=x, y=y: model.fit(x, y))


def test_lbfgs_that_starts_at_a_minimum_has_not_stalled(engine, diabetes):
    """Its first gradient is as small as its last one."""
    x, y = diabetes
    network = Network([10, 1], loss="squared_error")
    for _ in range(3):
        assert warned(lambda: network.fit(x, y, optimizer="lbfgs", epochs=300, engine=engine)) == []


# ---- unsuitable features and targets -----------------------------------------------------------


@pytest.mark.parametrize("form", ["float32", "float64", "int64", "uint8"])
def test_warns_of_unscaled_pixels(engine, rng, form):
    x = rng.integers(0, 256, (300, 64)).astype(form)
    y = (x[:, :32].sum(axis=1) > x[:, 32:].sum(axis=1)).astype(int)
    (text,) = warned(lambda: Network([64, 32, 2]).fit(x, y, epochs=5, engine=engine))
    assert text.startswith("the network has not learned: its loss, ")
    assert "scale the features to mean 0" in text and "multiply by 1/255" in text
    assert not warned(lambda: Network([64, 32, 2], input_scale=1 / 255).fit(x, y, engine=engine))


def test_warns_of_features_far_from_0(engine, x):
    y = classes_of(x)
    network = classifier()
    (text,) = warned(lambda: network.fit(x * 1000 + 5000, y, engine=engine))
    assert "constant prediction, " in text and "; feature " in text and " has mean 5" in text
    assert not warned(lambda: classifier().fit(x, y, engine=engine))


def test_warns_of_features_that_hardly_differ(x):
    y = classes_of(x)
    for features in (x * 1e-4, 1 + x * 1e-4):
        (text,) = warned(lambda features=features: classifier().fit(features, y, engine="numpy"))
        assert "scale the features" in text
    scaled = classifier(input_scale=1e-4)
    (text,) = warned(lambda: scaled.fit(x, y, engine="numpy"))
    assert "has mean " in text and " after input_scale: " in text


@pytest.mark.parametrize("form", [scipy.sparse.csr_array, np.asarray])
def test_warns_with_sparse_features_and_with_validation_rows(engine, x, form):
    features = form(np.where(x > 0, x, 0) * 1000 + 5000 * (x > 1))
    for settings in ({}, {"validation_fraction": 0.2}):
        network = classifier()
        (text,) = warned(
            lambda network=network, settings=settings: network.fit(
                features, classes_of(x), engine=engine, **settings
            )
        )
        assert "; feature " in text


def test_warns_of_very_large_and_very_small_targets(engine, x):
    for size in (1e11, 1e-5):
        model = MLPRegressor(max_iter=60, engine=engine, random_state=0)
        (text,) = warned(lambda model=model, size=size: model.fit(x, x[:, 0] * size))
        assert "; the targets have mean " in text and "scale the targets to mean 0" in text


def test_warns_of_constant_targets_that_are_not_learned(x):
    for value in (0.0, 0.1, 5.0):
        network = Network([6, 8, 1], loss="squared_error")
        y = np.full(150, value)
        assert not warned(lambda network=network, y=y: network.fit(x, y, engine="numpy"))
    model = MLPRegressor(max_iter=30, engine="numpy", random_state=0)
    (text,) = warned(lambda: model.fit(x, np.full(150, 1e11)))
    assert "the targets have mean 1e+11 and standard deviation 0: " in text


def test_judges_the_restored_weights_and_not_the_last_epoch(x):
    """The loss of the weights that early stopping restores differs from that of the last epoch."""
    network = Network([6, 8, 3])
    y = classes_of(x)

    class ZeroWeights(Callback):
        def on_epoch_end(self, epoch, metrics):
            if epoch == 9:
                network.parameters = [(w * 0, b * 0) for w, b in network.parameters]

    def fit():
        network.fit(
            x * 11, y, epochs=10, validation_data=(x * 11, y), early_stopping=True,
            learning_rate=0.01, batch_size=5, engine="numpy", callbacks=[ZeroWeights()],
        )  # fmt: skip

    assert not warned(fit)


# ---- no warning -------------------------------------------------------------------------------


@pytest.mark.parametrize("load", [load_breast_cancer, load_iris, load_wine, load_digits])
def test_does_not_warn_of_unscaled_data_that_are_learned(load):
    x, y = load(return_X_y=True)
    model = MLPClassifier(32, max_iter=200, random_state=0, n_iter_no_change=200)
    assert not warned(lambda: model.fit(x, y))
    assert model.score(x, y) > 0.6


def test_does_not_warn_of_noise_of_a_suitable_scale(rng, x):
    labels = rng.integers(0, 3, 150)
    rare = scipy.sparse.random_array((150, 900), density=0.01, rng=rng, format="csr")
    for features in (x, x * 0, np.eye(6)[rng.integers(0, 6, 150)], rare):
        network = Network([features.shape[1], 3])
        assert not warned(
            lambda network=network, features=features: network.fit(
                features, labels, epochs=3, learning_rate=1e-4, engine="numpy"
            )
        )
    for loss in (*REGRESSIONS, "poisson"):
        network, y = Network([6, 1], loss=loss), rng.poisson(1, 150)
        assert not warned(lambda network=network, y=y: network.fit(x, y, epochs=3, engine="numpy"))


def test_does_not_warn_of_a_single_class(x):
    network = classifier()
    assert not warned(lambda: network.fit(1e4 + x, np.zeros(150), epochs=2, engine="numpy"))


def test_partial_fit_warns_once_after_many_updates(x):
    features, y = x[:20] * 1000 + 5000, classes_of(x[:20])
    model = MLPClassifier(8, batch_size=2, engine="numpy", random_state=0)
    texts = []
    for _ in range(40):  # of 10 updates each
        texts += warned(lambda: model.partial_fit(features, y, classes=[0, 1, 2]))
    assert len(texts) == 1 and "; feature " in texts[0]


# ---- statistics ---------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [None, np.linspace(0, 2, 60, dtype=np.float32)])
@pytest.mark.parametrize("name", LOSSES)
def test_constant_loss_is_the_least_of_all_constants(rng, name, weights):
    loss, outputs = LOSSES[name], 3 if name == "cross_entropy" else 2
    y = {
        "cross_entropy": lambda: rng.integers(0, 3, 60),
        "logistic": lambda: rng.uniform(size=(60, 2)),
        "poisson": lambda: rng.poisson(2, (60, 2)),
    }.get(name, lambda: 3 * rng.normal(size=(60, 2)) + 1)()
    y = y.astype(np.int32 if loss.takes_labels else np.float32)
    # With features of 0 the network predicts a constant: its biases.
    network = Network([1, outputs], loss=name)
    zeros = np.zeros((60, 1))
    settings = {"optimizer": "adam", "epochs": 200, "learning_rate": 0.05, "batch_size": "full"}
    network.fit(zeros, y, sample_weight=weights, **settings)
    least = network.evaluate(zeros, y, weights)[0]
    got = _constant_loss(y, weights, loss)
    # The best constant for Huber's loss lies between the mean and the median, and only these are
    # tried. The median is not weighted.
    slack = 0.05 if name in ("huber", "absolute_error") else 1e-3
    assert least * (1 - 1e-3) <= got <= least * (1 + slack)


def test_dense_and_sparse_features_have_the_same_statistics(rng):
    x = np.where(rng.uniform(size=(80, 7)) < 0.3, rng.normal(size=(80, 7)), 0).astype(np.float32)
    x[:, 2], x[:, 3] = 0, 4
    csr = scipy.sparse.csr_array(x)
    sparse = SparseRows(csr.indptr.astype(np.int64), csr.indices, csr.data, 7)
    some = select_rows(x, np.arange(80))
    for other in (sparse, some):
        for got, expected in zip(
            _feature_columns(other, 0.5), _feature_columns(x, 0.5), strict=True
        ):
            np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-15)
    expected = _feature_columns(x, 0.5)
    np.testing.assert_allclose(expected.mean, x.mean(axis=0, dtype="f8") / 2, rtol=1e-12)
    np.testing.assert_allclose(expected.std, x.std(axis=0, dtype="f8") / 2, rtol=1e-9)
