"""Conversion of fitted estimators to scikit-learn's estimators and back."""

import inspect
import math
import pickle

import numpy as np
import pandas as pd
import pytest
import sklearn.neural_network as scikit_learn
from predictions import (
    assert_same_labels,
    assert_within,
    exact_predictions,
    exact_probabilities,
)
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from tolerances import THREE_EPOCHS

from fastnn import EarlyStopping, MLPClassifier, MLPRegressor, Network, Schedule
from fastnn.engine import ENGINES

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
NAMES = np.array(["setosa", "versicolor", "virginica"])
SHORT = {"hidden_layer_sizes": (7, 5), "max_iter": 8, "random_state": 0}
TARGETS = {
    "numbers": lambda y: y,
    "small integers": lambda y: y.astype(np.int8),
    "strings": lambda y: NAMES[y],
    "two strings": lambda y: NAMES[(y > 0).astype(int)],
    "bools": lambda y: y > 0,
    "multilabel": lambda y: np.stack([y == 0, y < 2], axis=1).astype(int),
}
FITTED = ["n_features_in_", "n_layers_", "n_outputs_", "out_activation_", "n_iter_", "t_", "loss_"]
FITTED += ["loss_curve_", "best_loss_", "validation_scores_", "best_validation_score_"]


def sklearn_class(kind):
    return getattr(scikit_learn, kind.__name__)


def fitted(kind, data, **settings):
    """Return the features and an estimator fitted to them for a few epochs."""
    x, y = data
    return x, kind(**SHORT | settings).fit(x, y)


def assert_same_predictions(got, expected, ours, x):
    """Compare the probabilities of two classifiers, and the labels except near ties."""
    exact, bound = exact_probabilities(ours, x)
    for model in (got, expected):
        assert_within(model.predict_proba(x), exact, bound)
    labels, others = got.predict(x), expected.predict(x)
    assert labels.dtype == others.dtype
    assert_same_labels(labels, others, exact, bound)


def assert_same_attributes(got, expected):
    assert [w.dtype for w in got.coefs_] == [w.dtype for w in expected.coefs_]
    for name in FITTED:
        one, other = getattr(got, name), getattr(expected, name)
        assert type(one) is type(other) and one == other, name


@pytest.fixture
def iris32(iris):
    """Return Iris with features that float32 represents exactly."""
    return iris[0].astype(np.float32).astype(np.float64), iris[1]


@pytest.fixture
def diabetes32(diabetes):
    return diabetes[0].astype(np.float32).astype(np.float64), np.exp(diabetes[1])


# ---- predictions ----------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("target", TARGETS)
def test_classifier_survives_conversion_and_back(target, dtype, activation, iris32):
    data = iris32[0].astype(dtype), TARGETS[target](iris32[1])
    x, ours = fitted(MLPClassifier, data, activation=activation, engine="numpy")
    theirs = ours.to_sklearn()
    assert type(theirs) is scikit_learn.MLPClassifier
    assert_same_predictions(theirs, ours, ours, x)
    assert theirs.predict_proba(x).dtype == dtype
    assert_same_attributes(theirs, ours)
    np.testing.assert_array_equal(theirs.classes_, ours.classes_)
    assert theirs.score(*data) == pytest.approx(ours.score(*data), abs=0.02)
    back = MLPClassifier.from_sklearn(theirs).set_params(engine="numpy")
    np.testing.assert_array_equal(back.predict_proba(x), ours.predict_proba(x))
    np.testing.assert_array_equal(back.predict(x), ours.predict(x))
    assert back.get_params() == ours.get_params()
    assert_same_attributes(back, ours)


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("loss", ["squared_error", "poisson", "absolute_error", "huber"])
def test_regressor_survives_conversion_and_back(loss, outputs, diabetes32):
    x, y = diabetes32
    y = y if outputs == 1 else np.stack([y, 2 * y, 3 * y], axis=1)
    x, ours = fitted(MLPRegressor, (x, y), loss=loss, engine="numpy")
    theirs = ours.to_sklearn()
    exact, bound = exact_predictions(ours._network, x)
    for model in (theirs, ours):
        assert model.predict(x).shape == y.shape
        assert_within(model.predict(x).reshape(exact.shape), exact, bound)
    assert_same_attributes(theirs, ours)
    assert theirs.loss == (loss if loss == "poisson" else "squared_error")
    back = MLPRegressor.from_sklearn(theirs).set_params(engine="numpy")
    np.testing.assert_array_equal(back.predict(x), ours.predict(x))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@pytest.mark.parametrize("target", TARGETS)
def test_from_sklearn_classifier_predicts_the_same(target, solver, dtype, iris32):
    data = iris32[0].astype(dtype), TARGETS[target](iris32[1])
    x, theirs = fitted(scikit_learn.MLPClassifier, data, solver=solver, activation="tanh")
    for engine in ENGINES:
        ours = MLPClassifier.from_sklearn(theirs).set_params(engine=engine)
        assert_same_predictions(ours, theirs, ours, x)
    assert ours.predict_proba(x).dtype == theirs.predict_proba(x).dtype
    if solver != "lbfgs":
        assert_same_attributes(ours, theirs)
    assert ours.best_loss_ == pytest.approx(min(theirs.loss_, *getattr(theirs, "loss_curve_", [9])))
    copied = pickle.loads(pickle.dumps(ours))
    np.testing.assert_array_equal(copied.predict(x), ours.predict(x))


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("loss", ["squared_error", "poisson"])
def test_from_sklearn_regressor_predicts_the_same(loss, outputs, diabetes32, engine):
    x, y = diabetes32
    y = y if outputs == 1 else np.stack([y, 2 * y], axis=1)
    x, theirs = fitted(scikit_learn.MLPRegressor, (x, y), loss=loss)
    ours = MLPRegressor.from_sklearn(theirs).set_params(engine=engine)
    exact, bound = exact_predictions(ours._network, x)
    for model in (theirs, ours):
        assert_within(model.predict(x).reshape(exact.shape), exact, bound)
    assert ours.predict(x).shape == y.shape
    assert_same_attributes(ours, theirs)


def test_feature_names_are_converted(iris32):
    frame = pd.DataFrame(iris32[0], columns=["a", "b", "c", "d"])
    _, ours = fitted(MLPClassifier, (frame, iris32[1]), engine="numpy")
    for other in (ours.to_sklearn(), MLPClassifier.from_sklearn(ours.to_sklearn())):
        assert other.feature_names_in_.tolist() == [*"abcd"]
        other.predict(frame)  # without a warning
        with pytest.raises(ValueError, match="feature names"):
            other.predict(frame[[*"dcba"]])


def test_to_sklearn_uses_replaced_weights(iris32):
    x, ours = fitted(MLPClassifier, iris32, engine="numpy")
    ours.set_params(activation="tanh")  # has no effect on predictions
    ours.coefs_ = [2 * w for w in ours.coefs_]
    theirs = ours.to_sklearn()
    assert theirs.activation == "relu"
    assert_same_predictions(theirs, ours, ours, x)


# ---- parameters -----------------------------------------------------------------------------

NON_DEFAULTS = {  # a value other than the default for every parameter
    "hidden_layer_sizes": (6,), "activation": "tanh", "solver": "sgd", "alpha": 0.01,
    "batch_size": 50, "learning_rate": "invscaling", "learning_rate_init": 0.01, "power_t": 0.4,
    "max_iter": 3, "shuffle": False, "random_state": 5, "tol": 1e-3, "verbose": True,
    "warm_start": True, "momentum": 0.8, "nesterovs_momentum": False, "early_stopping": True,
    "validation_fraction": 0.2, "beta_1": 0.8, "beta_2": 0.99, "epsilon": 1e-7,
    "n_iter_no_change": 7, "max_fun": 100,
}  # fmt: skip


@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_all_common_parameters_are_converted(kind, iris32):
    settings = NON_DEFAULTS | ({"loss": "poisson"} if kind is MLPRegressor else {})
    theirs = kind(**settings, engine="numpy").fit(*iris32).to_sklearn()
    for name, parameter in inspect.signature(sklearn_class(kind)).parameters.items():
        assert getattr(theirs, name) == settings[name] != parameter.default, name
    back = kind.from_sklearn(theirs).get_params()
    assert {name: back[name] for name in settings} == settings


def test_random_state_is_copied(iris32):
    state = np.random.RandomState(0)
    _, ours = fitted(MLPClassifier, iris32, random_state=state, engine="numpy")
    theirs = ours.to_sklearn()
    back = MLPClassifier.from_sklearn(theirs)
    states = [model.random_state for model in (ours, theirs, back)]
    assert len(set(map(id, states))) == 3


TRAINING_PARAMETERS = [
    ({"solver": "momentum"}, {"solver": "sgd", "nesterovs_momentum": False}),
    ({"solver": "nesterov", "nesterovs_momentum": False}, {"solver": "sgd"}),
    ({"solver": "adamw", "dropout": 0.1, "class_weight": "balanced"}, {"solver": "adam"}),
    ({"learning_rate": "cosine"}, {"learning_rate": "constant"}),
    ({"learning_rate": Schedule("one_cycle")}, {"learning_rate": "constant"}),
    ({"early_stopping": EarlyStopping("loss")}, {"early_stopping": False}),
    ({"hidden_layer_sizes": (), "activation": "gelu"}, {"activation": "relu"}),
]


@pytest.mark.parametrize(("given", "expected"), TRAINING_PARAMETERS, ids=str)
def test_training_parameters_that_scikit_learn_lacks_become_defaults(given, expected, iris32):
    x, ours = fitted(MLPClassifier, iris32, engine="numpy", **given)
    theirs = ours.to_sklearn()
    expected = {"nesterovs_momentum": True} | expected
    assert {name: getattr(theirs, name) for name in expected} == expected
    assert_same_predictions(theirs, ours, ours, x)
    before = theirs.loss_
    theirs.partial_fit(*iris32)  # validates the parameters
    assert math.isfinite(theirs.loss_) and theirs.loss_ != before


# ---- further training -----------------------------------------------------------------------

PLAIN_SGD = {"solver": "sgd", "momentum": 0, "learning_rate_init": 0.05, "shuffle": False}


def train_further(model, data, how):
    if how == "partial_fit":
        for _ in range(3):
            model.partial_fit(*data)
        return model
    return model.set_params(warm_start=True, max_iter=3).fit(*data)


@pytest.mark.parametrize("how", ["partial_fit", "warm_start"])
@pytest.mark.parametrize("target", ["strings", "two strings", "multilabel"])
def test_further_training_gives_equal_losses(target, how, iris32, engine):
    data = iris32[0], TARGETS[target](iris32[1])
    _, ours = fitted(MLPClassifier, data, engine=engine, **PLAIN_SGD)
    theirs = ours.to_sklearn()
    back = MLPClassifier.from_sklearn(theirs).set_params(engine=engine)
    weights = [w.copy() for w in ours.coefs_]
    losses = [train_further(model, data, how).loss_curve_ for model in (theirs, back)]
    for w, v in zip(weights, ours.coefs_, strict=True):
        np.testing.assert_array_equal(w, v)  # the weights are not shared
    losses.append(train_further(ours, data, how).loss_curve_)
    assert len(losses[2]) == SHORT["max_iter"] + 3
    for curve in losses[:2]:
        np.testing.assert_allclose(curve, losses[2], rtol=THREE_EPOCHS)
    for model in (theirs, back):
        assert model.t_ == ours.t_
        assert model.loss_ < losses[2][SHORT["max_iter"] - 1]


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_warm_start_of_the_converted_estimator_lowers_the_loss(solver, iris32):
    _, ours = fitted(MLPClassifier, iris32, solver=solver, engine="numpy", max_iter=30)
    theirs = pickle.loads(pickle.dumps(ours.to_sklearn()))
    theirs.set_params(warm_start=True, max_iter=5).fit(*iris32)
    assert theirs.loss_ < ours.loss_
    refitted = clone(theirs).fit(*iris32)
    assert refitted.loss_ > theirs.loss_


def test_converted_estimator_restores_the_best_weights(iris32):
    x, ours = fitted(MLPClassifier, iris32, early_stopping=True, max_iter=20, engine="numpy")
    theirs = ours.to_sklearn()
    before, scores = theirs.predict_proba(x), len(ours.validation_scores_)
    theirs.best_validation_score_ = 1.0  # no epoch is better
    theirs.set_params(warm_start=True, learning_rate_init=0.1, max_iter=2).fit(*iris32)
    np.testing.assert_array_equal(theirs.predict_proba(x), before)
    assert len(theirs.validation_scores_) == scores + 2
    assert len(ours.validation_scores_) == scores


def test_early_stopping_continues_after_from_sklearn(iris32, engine):
    _, theirs = fitted(scikit_learn.MLPClassifier, iris32, early_stopping=True, max_iter=20)
    ours = MLPClassifier.from_sklearn(theirs).set_params(warm_start=True, max_iter=2, engine=engine)
    ours.fit(*iris32)
    assert ours.validation_scores_[:-2] == theirs.validation_scores_
    assert ours.best_validation_score_ == max(ours.validation_scores_)
    assert ours.best_loss_ is None


def test_clone_of_a_converted_estimator_can_be_fitted(iris32):
    _, theirs = fitted(scikit_learn.MLPClassifier, iris32)
    ours = clone(MLPClassifier.from_sklearn(theirs)).fit(*iris32)
    assert ours.n_iter_ == theirs.n_iter_


# ---- errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["gelu", "leaky_relu"])
def test_to_sklearn_rejects_activations_that_it_lacks(activation, iris32):
    _, ours = fitted(MLPClassifier, iris32, activation=activation, engine="numpy")
    with pytest.raises(ValueError, match=f", not {activation}$"):
        ours.to_sklearn()
    ours._network = Network([4, 7, 5, 3], activation=["relu", "tanh"])
    with pytest.raises(ValueError, match=", not relu, tanh$"):
        ours.to_sklearn()


def test_conversion_rejects_one_class(iris32):
    x, y = iris32[0], np.zeros(len(iris32[0]), int)
    with pytest.raises(ValueError, match="only one class: .* predict two probabilities$"):
        MLPClassifier(max_iter=1, engine="numpy").fit(x, y).to_sklearn()
    theirs = scikit_learn.MLPClassifier(max_iter=1).fit(x, y)
    with pytest.raises(ValueError, match="output activation is 'logistic', but must be 'softmax' "):
        MLPClassifier.from_sklearn(theirs)


def test_from_sklearn_rejects_a_loss_changed_after_the_fit(diabetes32):
    _, theirs = fitted(scikit_learn.MLPRegressor, diabetes32)
    with pytest.raises(ValueError, match="output activation is 'identity', but must be 'exp' "):
        MLPRegressor.from_sklearn(theirs.set_params(loss="poisson"))


def test_conversion_rejects_other_classes_and_unfitted_estimators(iris32):
    _, theirs = fitted(scikit_learn.MLPClassifier, iris32)
    with pytest.raises(TypeError, match=r"a fitted sklearn.neural_network.MLPRegressor, got sk"):
        MLPRegressor.from_sklearn(theirs)
    with pytest.raises(TypeError, match=r"MLPClassifier, got fastnn.estimators.classifier.MLPC"):
        MLPClassifier.from_sklearn(MLPClassifier())
    with pytest.raises(NotFittedError):
        MLPClassifier.from_sklearn(scikit_learn.MLPClassifier())
    with pytest.raises(NotFittedError):
        MLPClassifier().to_sklearn()
