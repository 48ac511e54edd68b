"""The estimators: equality with scikit-learn's training, and fastnn's additional options."""

import math
import warnings

import numpy as np
import pytest
import sklearn.neural_network as scikit_learn
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning, NotFittedError

from fastnn import MLPClassifier, MLPRegressor, Schedule

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
ESTIMATORS = [MLPClassifier, MLPRegressor]


def both(kind, engine, **settings):
    """Return our estimator and scikit-learn's with the same settings."""
    return kind(engine=engine, **settings), getattr(scikit_learn, kind.__name__)(**settings)


def assert_same_weights(one, other):
    weights = ((*model.coefs_, *model.intercepts_) for model in (one, other))
    for w, v in zip(*weights, strict=True):
        np.testing.assert_array_equal(w, v)


# ---- equality with scikit-learn -------------------------------------------------------------


@pytest.mark.parametrize("activation", ["relu", "logistic"])
def test_initial_weights_equal_scikit_learns(engine, iris, activation):
    # The learning rate is so small that rounding leaves the weights unchanged.
    settings = {"activation": activation, "max_iter": 1, "random_state": 7, "solver": "sgd"}
    ours, theirs = both(
        MLPClassifier, engine, hidden_layer_sizes=(5, 4), learning_rate_init=1e-30, **settings
    )
    ours.fit(*iris), theirs.fit(*iris)
    for kind in ("coefs_", "intercepts_"):
        for w, v in zip(getattr(ours, kind), getattr(theirs, kind), strict=True):
            np.testing.assert_array_equal(w, v.astype(np.float32))


SOLVERS = [
    {"solver": "adam", "learning_rate_init": 0.01},
    {"solver": "adam", "beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-3},
    {"solver": "sgd", "learning_rate_init": 0.01},
    {"solver": "sgd", "learning_rate_init": 0.05, "nesterovs_momentum": False},
    {"solver": "sgd", "learning_rate_init": 0.1, "momentum": 0},
    {"solver": "sgd", "learning_rate_init": 1e-4, "momentum": 1.0},
    {"solver": "sgd", "learning_rate_init": 0.5, "learning_rate": "invscaling", "power_t": 0.3},
]


@pytest.mark.parametrize("settings", SOLVERS, ids=lambda s: "-".join(map(str, s.values())))
def test_classifier_losses_equal_scikit_learns(engine, cancer, settings):
    # Same weights and batches: the losses differ by float32 rounding, which training magnifies.
    shared = {"max_iter": 15, "random_state": 1, "shuffle": False, "alpha": 0.1, "tol": 0}
    ours, theirs = both(MLPClassifier, engine, hidden_layer_sizes=10, **shared, **settings)
    ours.fit(*cancer), theirs.fit(*cancer)
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-4)
    for name in ("loss_", "best_loss_"):
        assert getattr(ours, name) == pytest.approx(getattr(theirs, name), rel=1e-4)
    for name in ("n_iter_", "t_", "n_layers_", "n_outputs_", "out_activation_", "n_features_in_"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.validation_scores_ is ours.best_validation_score_ is None


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("loss", ["squared_error", "poisson"])
def test_regressor_losses_equal_scikit_learns(engine, diabetes, loss, outputs):
    x, y = diabetes
    y = np.exp(y)[:, None] * np.arange(1, outputs + 1) / 3
    ours, theirs = both(
        MLPRegressor, engine, loss=loss, hidden_layer_sizes=8, max_iter=15, random_state=1,
        shuffle=False, alpha=0.5, tol=0,
    )  # fmt: skip
    y = y.ravel() if outputs == 1 else y
    ours.fit(x, y), theirs.fit(x, y)
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-4)
    assert ours.out_activation_ == theirs.out_activation_
    assert ours.predict(x).shape == theirs.predict(x).shape == y.shape


def test_multilabel_training_equals_scikit_learns(engine, iris, rng):
    x, y = iris
    labels = np.stack([y == 0, y < 2, rng.random(len(y)) < 0.5], axis=1).astype(int)
    ours, theirs = both(
        MLPClassifier, engine, hidden_layer_sizes=8, max_iter=15, random_state=1, shuffle=False
    )
    ours.fit(x, labels), theirs.fit(x, labels)
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-4)
    np.testing.assert_array_equal(ours.classes_, [0, 1, 2])
    assert ours.predict(x).dtype == theirs.predict(x).dtype
    np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), atol=1e-4)


def test_training_stops_when_scikit_learns_does(engine, diabetes):
    x, y = diabetes
    y = np.stack([y, 2 * y], axis=1)
    settings = {"hidden_layer_sizes": 8, "random_state": 1, "shuffle": False, "tol": 2e-3}
    ours, theirs = both(MLPRegressor, engine, max_iter=500, **settings)
    ours.fit(x, y), theirs.fit(x, y)
    assert ours.n_iter_ < 500
    assert abs(ours.n_iter_ - theirs.n_iter_) <= 2  # one epoch's improvement may be close to tol


def test_lbfgs_reaches_the_loss_of_scikit_learn(engine, cancer):
    ours, theirs = both(MLPClassifier, engine, solver="lbfgs", hidden_layer_sizes=5, alpha=1.0)
    ours.set_params(random_state=0).fit(*cancer), theirs.set_params(random_state=0).fit(*cancer)
    assert ours.loss_ < 1.1 * theirs.loss_
    assert ours.t_ == theirs.t_ == 0
    assert ours.loss_curve_[-1] == ours.loss_
    assert len(ours.loss_curve_) == ours.n_iter_
    again = MLPClassifier(solver="lbfgs", engine=engine, max_iter=2, hidden_layer_sizes=5)
    with pytest.warns(ConvergenceWarning, match="lbfgs failed to converge after 2 iter"):
        again.fit(*cancer)


def test_lbfgs_stops_at_once_if_the_gradient_is_within_tol(engine):
    regressor = MLPRegressor(solver="lbfgs", hidden_layer_sizes=(), engine=engine, tol=1e9, alpha=0)
    regressor.fit([[1.0], [2.0]], [3.0, 4.0])
    half_squares = (regressor.predict([[1.0], [2.0]]) - [3, 4]) ** 2 / 2
    assert regressor.n_iter_ == 1
    assert regressor.loss_curve_ == [regressor.loss_]
    assert regressor.loss_ == pytest.approx(half_squares.mean(), rel=1e-6)


# ---- predictions and attributes -------------------------------------------------------------


@pytest.mark.parametrize("kind", ESTIMATORS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint8])
def test_dtype_of_weights_and_predictions(engine, iris, kind, dtype):
    x = (10 * load_iris().data).astype(dtype)
    model = kind(engine=engine, max_iter=3, random_state=0).fit(x, iris[1])
    floats = dtype if dtype in (np.float32, np.float64) else np.float64
    assert {w.dtype for w in (*model.coefs_, *model.intercepts_)} == {np.dtype(floats)}
    predict = model.predict if kind is MLPRegressor else model.predict_proba
    assert predict(x).dtype == floats
    assert predict(x.astype(np.float64)).dtype == np.float64
    other = kind(engine=engine, max_iter=3, random_state=0).fit(x.astype(np.float64), iris[1])
    assert_same_weights(model, other)


def test_probabilities_sum_to_one_and_match_the_labels(engine, iris, cancer):
    for x, y in (iris, cancer):
        model = MLPClassifier(engine=engine, max_iter=20, random_state=0).fit(x, y)
        p = model.predict_proba(x)
        assert p.shape == (len(x), len(model.classes_))
        np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-12)
        np.testing.assert_array_equal(model.classes_[p.argmax(axis=1)], model.predict(x))
        np.testing.assert_array_equal(model.predict_log_proba(x), np.log(p))
        np.testing.assert_allclose(model.predict_proba(x[:1]), p[:1], rtol=1e-5)


def test_labels_can_be_strings_numbers_or_objects(engine, iris):
    x, y = iris
    for names in (["setosa", "versicolor", "virginica"], [-1.0, 5.0, 7.0], ["b", "a", "c"]):
        labels = np.array(names)[y]
        model = MLPClassifier(engine=engine, max_iter=100, random_state=0).fit(x, list(labels))
        np.testing.assert_array_equal(model.classes_, np.unique(labels))
        assert model.score(x, labels) > 0.9
    model.fit(x, np.array(names, object)[y])
    assert model.predict(x[:1]).tolist() == ["b"]


def test_coefs_are_read_only_but_can_be_replaced(engine, iris):
    x, _ = iris
    model = MLPClassifier(engine=engine, max_iter=3, random_state=0).fit(*iris)
    before = model.predict_proba(x)
    with pytest.raises(ValueError, match="read-only"):
        model.coefs_[0][0, 0] = 1
    model.coefs_[1] = np.zeros_like(model.coefs_[1])
    bias = np.array([1.0, 2.0, 3.0])
    model.intercepts_ = [model.intercepts_[0], bias]
    expected = np.exp(bias) / np.exp(bias).sum()
    np.testing.assert_allclose(model.predict_proba(x), np.tile(expected, (len(x), 1)), rtol=1e-6)
    bias[:] = 0  # the user's own array stays writable
    np.testing.assert_allclose(model.predict_proba(x), 1 / 3, rtol=1e-6)
    model.set_params(warm_start=True, max_iter=1, learning_rate_init=1e-30).fit(*iris)
    assert np.abs(model.coefs_[1]).max() < 1e-25
    assert (before != model.predict_proba(x)).any()


def test_first_partial_fit_starts_from_assigned_coefs(engine):
    model = MLPRegressor(hidden_layer_sizes=(), solver="sgd", momentum=0, engine=engine, alpha=0)
    model.coefs_, model.intercepts_ = [np.array([[2.0]])], [np.array([1.0])]
    model.set_params(learning_rate_init=0.5).partial_fit([[3.0]], [5.0])
    # p = 7, the residual is 2: w = 2 - 0.5 · 2 · 3, b = 1 - 0.5 · 2.
    assert (model.coefs_[0].item(), model.intercepts_[0].item()) == (-1.0, 0.0)


def test_he_normal_initial_weights(engine, rng):
    x, y = rng.normal(size=(50, 400)), rng.integers(0, 2, 50)
    settings = {"hidden_layer_sizes": 400, "solver": "sgd", "learning_rate_init": 1e-30}
    model = MLPClassifier(weight_init="he_normal", engine=engine, max_iter=1, **settings).fit(x, y)
    # The standard error of a standard deviation from n draws is σ / √(2n); five of them.
    deviation = math.sqrt(2 / 400)
    assert model.coefs_[0].std() == pytest.approx(deviation, abs=5 * deviation / math.sqrt(320_000))
    assert np.abs(model.intercepts_[0]).max() < 1e-25


def test_summary_prints_and_returns_the_table(iris, capsys):
    model = MLPClassifier((7, 5), engine="numpy", max_iter=1, dropout=[0.0, 0.1, 0.2])
    with pytest.raises(NotFittedError):
        model.summary()
    text = model.fit(*iris).summary()
    assert capsys.readouterr().out == text + "\n"
    assert "softmax" in text and text.splitlines()[-1].startswith("93 parameters")


# ---- solvers and schedules that scikit-learn does not have ----------------------------------


@pytest.mark.parametrize("solver", ["momentum", "nesterov", "adamw"])
@pytest.mark.parametrize("schedule", ["constant", "cosine", "one_cycle", Schedule("cosine", 2)])
def test_additional_solvers_and_schedules_learn(engine, iris, solver, schedule):
    model = MLPClassifier(
        solver=solver, learning_rate=schedule, learning_rate_init=0.02, engine=engine,
        batch_size=16, max_iter=20, random_state=0, activation="gelu",
    )  # fmt: skip
    assert model.fit(*iris).score(*iris) > 0.95


def test_momentum_and_nesterov_equal_sgd(engine, iris):
    settings = {"engine": engine, "max_iter": 5, "random_state": 0}
    for solver, nesterov in (("momentum", False), ("nesterov", True)):
        named = MLPClassifier(solver=solver, nesterovs_momentum=not nesterov, **settings)
        sgd = MLPClassifier(solver="sgd", nesterovs_momentum=nesterov, **settings)
        assert_same_weights(named.fit(*iris), sgd.fit(*iris))


def test_weight_decay_shrinks_weights(engine, iris):
    settings = {"engine": engine, "max_iter": 20, "random_state": 0, "alpha": 0}
    sizes = [
        sum(np.square(w).sum() for w in model.fit(*iris).coefs_)
        for model in (
            MLPClassifier(solver="adam", **settings),
            MLPClassifier(solver="adamw", **settings),
            MLPClassifier(solver="adamw", weight_decay=10, **settings),
        )
    ]
    assert sizes[0] > sizes[1] > sizes[2]


def test_dropout_per_layer_equals_one_number(engine, iris):
    settings = {"engine": engine, "max_iter": 5, "random_state": 0}
    plain = MLPClassifier(**settings).fit(*iris)
    dropped = MLPClassifier(dropout=0.5, **settings).fit(*iris)
    again = MLPClassifier(dropout=np.array([0.0, 0.5]), **settings).fit(*iris)
    assert_same_weights(dropped, again)
    assert any((w != v).any() for w, v in zip(plain.coefs_, dropped.coefs_, strict=True))


# ---- weights of samples and classes ---------------------------------------------------------


def test_integer_sample_weights_equal_repeated_rows(engine, cancer, rng):
    x, y = cancer
    weight = rng.integers(0, 4, len(x))
    settings = {"batch_size": 5000, "max_iter": 10, "random_state": 0, "engine": engine}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the batch is clipped
        weighted = MLPClassifier(**settings).fit(x, y, sample_weight=weight)
        repeated = MLPClassifier(**settings).fit(x.repeat(weight, axis=0), y.repeat(weight))
    np.testing.assert_allclose(weighted.loss_curve_, repeated.loss_curve_, rtol=1e-4)


def test_class_weight_multiplies_sample_weight(engine, cancer):
    x, y = cancer
    names = np.array(["bad", "good"])[y]
    settings = {"max_iter": 10, "random_state": 0, "engine": engine}
    given = MLPClassifier(class_weight={"bad": 3.0, "good": 0.5}, **settings).fit(x, names)
    sample_weight = np.array([3.0, 0.5])[y]
    assert_same_weights(given, MLPClassifier(**settings).fit(x, names, sample_weight))
    both = MLPClassifier(class_weight={"bad": 3.0}, **settings).fit(x, names, sample_weight)
    product = sample_weight * np.array([3.0, 1.0])[y]
    assert_same_weights(both, MLPClassifier(**settings).fit(x, names, product))
    balanced = MLPClassifier(class_weight="balanced", **settings).fit(x, names)
    equal = len(y) / (2 * np.bincount(y))
    assert_same_weights(balanced, MLPClassifier(**settings).fit(x, names, equal[y]))
    with pytest.raises(ValueError, match="class_weight 'balanced' is not supported for partial_fi"):
        MLPClassifier(class_weight="balanced", **settings).partial_fit(x, y, classes=[0, 1])
