"""The estimators' training: partial fits, early stopping, callbacks, interrupts, warnings."""

import math
import warnings

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score, r2_score

from fastnn import Callback, EarlyStopping, MLPClassifier, MLPRegressor, Schedule

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
ESTIMATORS = [MLPClassifier, MLPRegressor]


def assert_same_weights(one, other):
    weights = ((*model.coefs_, *model.intercepts_) for model in (one, other))
    for w, v in zip(*weights, strict=True):
        np.testing.assert_array_equal(w, v)


# ---- repeated fits --------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("kind", ESTIMATORS)
def test_partial_fits_and_warm_starts_equal_one_fit(engine, iris, kind, solver):
    settings = {"solver": solver, "random_state": 3, "engine": engine, "tol": 0}
    single = kind(max_iter=6, **settings).fit(*iris)
    parts = kind(**settings)
    for _ in range(6):
        parts.partial_fit(*iris, **({"classes": [0, 1, 2]} if kind is MLPClassifier else {}))
    warm = kind(max_iter=2, warm_start=True, **settings)
    for _ in range(3):
        warm.fit(*iris)
    for other in (parts, warm):
        assert_same_weights(single, other)
        assert other.loss_curve_ == single.loss_curve_
        assert other.t_ == single.t_ == 900
    assert (parts.n_iter_, warm.n_iter_, single.n_iter_) == (1, 2, 6)
    assert single.history_.keys() >= {"loss", "learning_rate", "seconds"}


def test_invscaling_rate_decreases_over_partial_fits(engine, iris):
    settings = {"solver": "sgd", "learning_rate": "invscaling", "engine": engine}
    model = MLPRegressor(learning_rate_init=0.1, random_state=0, **settings)
    for rows in (100, 20, 30):
        model.partial_fit(iris[0][:rows], iris[1][:rows])
    np.testing.assert_allclose(
        model.history_["learning_rate"], [0.1, 0.1 / math.sqrt(101), 0.1 / math.sqrt(121)]
    )


def test_adaptive_rate_decreases_until_training_stops(engine):
    settings = {"solver": "sgd", "learning_rate": "adaptive", "tol": 0.5, "max_iter": 3000}
    model = MLPClassifier(engine=engine, **settings).fit([[3, 2], [1, 6]], [1, 0])
    assert model.n_iter_ < 3000
    assert model.history_["learning_rate"][-1] < 1e-6
    assert len(set(model.history_["learning_rate"])) == 6  # 1e-3 / 5⁵ is the first below 1e-6


def test_warm_start_and_partial_fit_reject_a_changed_network(engine, iris):
    model = MLPClassifier(warm_start=True, engine=engine, max_iter=2).fit(*iris)
    for change in ({"hidden_layer_sizes": 7}, {"activation": "tanh"}, {"dropout": 0.5}):
        with pytest.raises(ValueError, match="continue with the same network"):
            model.set_params(**change).fit(*iris)
        model.set_params(hidden_layer_sizes=(100,), activation="relu", dropout=0.0)
    regressor = MLPRegressor(engine=engine).partial_fit(*iris)
    with pytest.raises(ValueError, match="continue with the same network"):
        regressor.partial_fit(iris[0], np.stack([iris[1], iris[1]], axis=1))


def test_same_seed_gives_bit_identical_weights(engine, iris):
    settings = {"max_iter": 3, "engine": engine, "dropout": 0.2}
    fits = [
        MLPClassifier(random_state=random_state, **settings).fit(*iris)
        for random_state in (5, np.int64(5), np.random.RandomState(5), 6)
    ]
    assert_same_weights(fits[0], fits[1])
    assert_same_weights(fits[0], fits[2])
    assert (fits[0].coefs_[0] != fits[3].coefs_[0]).any()
    first, second = (MLPClassifier(**settings).fit(*iris) for _ in range(2))
    assert (first.coefs_[0] != second.coefs_[0]).any()
    state = np.random.RandomState(5)
    first, second = (MLPClassifier(random_state=state, **settings).fit(*iris) for _ in range(2))
    assert (first.coefs_[0] != second.coefs_[0]).any()


def test_n_threads_is_limited_to_the_available_cpus(iris):
    settings = {"max_iter": 2, "random_state": 0}
    one, many = (MLPClassifier(n_threads=n, **settings).fit(*iris) for n in (1, 10_000))
    assert_same_weights(one, many)
    assert one._network.use_engine("numba", threads=1).threads == 1


# ---- early stopping -------------------------------------------------------------------------


def test_early_stopping_behaves_like_scikit_learn(engine, cancer, diabetes):
    for kind, (x, y) in ((MLPClassifier, cancer), (MLPRegressor, diabetes)):
        model = kind(early_stopping=True, engine=engine, random_state=0, learning_rate_init=0.01)
        model.fit(x, y)
        assert model.n_iter_ < model.max_iter
        assert model.best_loss_ is None
        assert len(model.validation_scores_) == len(model.loss_curve_) == model.n_iter_
        assert model.best_validation_score_ == max(model.validation_scores_)
        waited = model.n_iter_ - 1 - int(np.argmax(model.validation_scores_))
        assert waited <= 11
        assert model.t_ == model.n_iter_ * (len(x) - math.ceil(len(x) / 10))


def test_given_validation_data_and_best_weights_are_used(engine, cancer):
    x, y = cancer
    model = MLPClassifier(
        early_stopping=EarlyStopping("val_loss", patience=5, min_delta=0.0),
        engine=engine, random_state=0, learning_rate_init=0.02,
    )  # fmt: skip
    model.fit(x[:300], y[:300], X_val=x[300:], y_val=y[300:])
    losses = model.history_["val_loss"]
    p = model.predict_proba(x[300:])[np.arange(len(y) - 300), y[300:]]
    assert model.n_iter_ == int(np.argmin(losses)) + 1 + 6
    assert -np.log(p).mean() == pytest.approx(min(losses), rel=1e-4)
    assert model.t_ == 300 * model.n_iter_
    assert model.validation_scores_ == model.history_["val_accuracy"]


def test_validation_without_early_stopping_does_not_change_weights(engine, diabetes):
    x, y = diabetes
    settings = {"engine": engine, "random_state": 0, "max_iter": 4}
    validated = MLPRegressor(**settings).fit(x[:300], y[:300], X_val=x[300:], y_val=y[300:])
    assert_same_weights(validated, MLPRegressor(**settings).fit(x[:300], y[:300]))
    assert validated.validation_scores_[-1] == pytest.approx(
        r2_score(y[300:], validated.predict(x[300:])), abs=1e-5
    )


@pytest.mark.parametrize("scoring", ["roc_auc", "neg_log_loss", "callable"])
def test_any_scorer_can_be_monitored(engine, cancer, scoring):
    x, y = cancer
    labels = np.array(["bad", "good"])[y]

    def share_of_good(estimator, x, y):
        assert set(y) == {"bad", "good"}
        return float((estimator.predict(x) == "good").mean())

    model = MLPClassifier(
        early_stopping=EarlyStopping("val_score", patience=2), engine=engine, random_state=0,
        scoring=share_of_good if scoring == "callable" else scoring, learning_rate_init=0.01,
    )  # fmt: skip
    model.fit(x, labels)
    assert model.n_iter_ < 200
    assert model.validation_scores_ == model.history_["val_score"]
    assert model.validation_scores_ != model.history_["val_accuracy"]


def test_validation_score_uses_sample_weights(engine, cancer, rng):
    x, y = cancer
    weight = rng.random(len(x) - 300)
    model = MLPClassifier(engine=engine, random_state=0, max_iter=3)
    model.fit(x[:300], y[:300], X_val=x[300:], y_val=y[300:], sample_weight_val=weight)
    score = accuracy_score(y[300:], model.predict(x[300:]), sample_weight=weight)
    assert model.validation_scores_[-1] == pytest.approx(score, rel=1e-6)


def test_warm_start_keeps_the_best_weights(engine, cancer):
    model = MLPClassifier(
        early_stopping=EarlyStopping("val_score", patience=3, min_delta=0), warm_start=True,
        engine=engine, random_state=0, learning_rate_init=0.05,
    )  # fmt: skip
    model.fit(*cancer)
    best, weights = model.best_validation_score_, [w.copy() for w in model.coefs_]
    model.set_params(learning_rate_init=10.0).fit(*cancer)
    if model.best_validation_score_ == best:  # nothing better was found
        for w, v in zip(model.coefs_, weights, strict=True):
            np.testing.assert_array_equal(w, v)


def test_rejects_an_unknown_metric_to_monitor(engine, iris):
    model = MLPClassifier(early_stopping=EarlyStopping("val_r2"), engine=engine)
    with pytest.raises(ValueError, match="computes only loss, accuracy, val_loss"):
        model.fit(*iris)


# ---- callbacks, interrupts and warnings -----------------------------------------------------


class RecordEpochs(Callback):
    def __init__(self, act=lambda epoch: None):
        self.epochs, self._act = [], act

    def on_epoch_end(self, epoch, metrics):
        self.epochs.append((epoch, metrics["loss"]))
        return self._act(epoch)


def test_callbacks_see_every_epoch_and_can_stop_training(engine, iris):
    recorder = RecordEpochs(lambda epoch: epoch == 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no warning when a callback stops training
        model = MLPClassifier(callbacks=[recorder], engine=engine, random_state=0).fit(*iris)
    assert recorder.epochs == list(enumerate(model.loss_curve_, start=1))
    assert model.n_iter_ == 4
    with pytest.raises(TypeError, match="callbacks must be instances of fastnn.Callback"):
        MLPClassifier(callbacks=[print], engine=engine).fit(*iris)


def interrupt_in_epoch_3(epoch):
    if epoch == 3:
        raise KeyboardInterrupt


@pytest.mark.parametrize("early_stopping", [False, True])
def test_interrupted_fit_leaves_a_usable_model(engine, iris, early_stopping):
    model = MLPClassifier(
        callbacks=[RecordEpochs(interrupt_in_epoch_3)],
        engine=engine,
        random_state=0,
        early_stopping=early_stopping,
    )
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        model.fit(*iris)
    assert model.n_iter_ == len(model.loss_curve_) == 3
    assert model.score(*iris) > 0
    assert len(model.coefs_) == 2


def test_fit_interrupted_before_the_first_epoch_leaves_a_usable_model(engine, iris):
    class InterruptBeforeFit(Callback):
        def on_fit_begin(self, epochs, rows):
            raise KeyboardInterrupt

    model = MLPClassifier(callbacks=[InterruptBeforeFit()], engine=engine)
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        model.fit(*iris)
    assert (model.n_iter_, model.loss_curve_) == (0, [])
    assert math.isnan(model.loss_)


def test_predictions_change_during_a_fit_and_coefs_do_not(engine, iris):
    x, y = iris
    coefs, predicted = [], []

    class RecordWeights(Callback):
        def on_epoch_end(self, epoch, metrics):
            coefs.append(model.coefs_[0])
            predicted.append(model.predict_proba(x))

    model = MLPClassifier(callbacks=[RecordWeights()], engine=engine, max_iter=2)
    model.fit(x, y)
    assert coefs[0] is coefs[1]
    assert (predicted[0] != predicted[1]).any()
    np.testing.assert_array_equal(predicted[1], model.predict_proba(x))


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle", Schedule("cosine", warmup_epochs=1)])
def test_cosine_and_one_cycle_run_for_max_iter_epochs(engine, iris, schedule):
    model = MLPClassifier(learning_rate=schedule, tol=10, max_iter=15, engine=engine)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert model.fit(*iris).n_iter_ == 15
    model.set_params(early_stopping=EarlyStopping("loss", patience=3, min_delta=10))
    assert model.fit(*iris).n_iter_ == 5
    model.set_params(early_stopping=True, n_iter_no_change=4)
    assert model.fit(*iris).n_iter_ == 6


@pytest.mark.parametrize("labels", [[0] * 59 + [1], [*range(30), *range(30)]])
def test_early_stopping_accepts_classes_with_few_rows(engine, rng, labels):
    model = MLPClassifier(early_stopping=True, max_iter=2, engine=engine)
    model.fit(rng.normal(size=(60, 3)), labels)
    assert len(model.validation_scores_) == 2


def test_max_iter_and_a_large_batch_size_warn(engine, iris):
    model = MLPClassifier(max_iter=2, engine=engine)
    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(2\) reached"):
        model.fit(*iris)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.partial_fit(*iris)
    with pytest.warns(UserWarning, match="larger than sample size. It is going to be clipped"):
        MLPClassifier(max_iter=2, engine=engine, batch_size=151).fit(*iris)


def test_divergence_raises_or_keeps_the_best_weights(engine, iris):
    settings = {"solver": "sgd", "activation": "identity", "random_state": 0, "engine": engine}
    x, y = load_iris(return_X_y=True)
    with pytest.raises(ValueError, match="Solver produced non-finite parameter weights. The input"):
        MLPRegressor(learning_rate_init=10, **settings).fit(x, y)
    model = MLPRegressor(learning_rate_init=1, early_stopping=True, max_iter=20, **settings)
    with pytest.warns(ConvergenceWarning, match="The weights of the best epoch are kept"):
        model.fit(x, y)
    assert math.isnan(model.validation_scores_[-1]) and math.isnan(model.loss_)
    assert len(model.validation_scores_) == model.n_iter_
    assert np.isfinite(model.predict(x)).all()


def test_verbose_prints_losses_and_the_reason_to_stop(engine, iris, capsys):
    MLPClassifier(verbose=True, early_stopping=True, engine=engine, tol=1.0).fit(*iris)
    out = capsys.readouterr().out
    assert "Iteration 1, loss = " in out and "Validation score: " in out
    assert "Validation score did not improve more than tol=1.000000 for 10 consecutive" in out
    MLPClassifier(verbose=True, engine=engine, tol=1.0).fit(*iris)
    out = capsys.readouterr().out
    assert "Training loss did not improve" in out
    rule = EarlyStopping("val_loss", patience=2, min_delta=0.5)
    MLPClassifier(verbose=True, engine=engine, early_stopping=rule).fit(*iris)
    out = capsys.readouterr().out
    assert "val_loss did not improve more than min_delta=0.5 for 2 consecutive epochs" in out
