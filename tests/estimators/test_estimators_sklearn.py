"""The estimators in scikit-learn's tools: estimator checks, copies, searches, callbacks."""

import copy
import inspect
import pickle
import warnings

import joblib
import numpy as np
import pytest
import sklearn
import sklearn.neural_network as scikit_learn
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_diabetes, load_digits, load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, scale
from sklearn.utils.estimator_checks import check_param_validation, parametrize_with_checks

from fastnn import EarlyStopping, LogFile, MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
ESTIMATORS = [MLPClassifier, MLPRegressor]
# With the reference engine, these tests take seconds.
both_engines = pytest.mark.parametrize(
    "engine", ["numba", pytest.param("numpy", marks=pytest.mark.process)]
)

# Expected failures on dense and sparse data: the check requires equal predictions to within a
# relative 1e-7, which is about the unit roundoff of float32. Sums over weighted and over repeated
# rows round differently.
FLOAT32 = {
    f"check_sample_weight_equivalence_on_{kind}_data": "equal in exact arithmetic, not in float32"
    for kind in ("dense", "sparse")
}


# ---- scikit-learn's own checks --------------------------------------------------------------


@parametrize_with_checks([MLPClassifier()], expected_failed_checks=lambda estimator: FLOAT32)
def test_classifier_passes_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.mark.process  # they take seconds
@parametrize_with_checks([MLPRegressor()], expected_failed_checks=lambda estimator: FLOAT32)
def test_regressor_passes_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_types_and_ranges_of_parameters_are_checked(kind):
    check_param_validation(kind.__name__, kind())


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_signature_extends_scikit_learns(kind):
    ours = inspect.signature(kind).parameters
    theirs = inspect.signature(getattr(scikit_learn, kind.__name__)).parameters
    assert list(ours)[: len(theirs)] == list(theirs)
    for name, parameter in theirs.items():
        assert (ours[name].default, ours[name].kind) == (parameter.default, parameter.kind), name
    extra = {"weight_decay", "weight_init", "dropout", "scoring", "callbacks", "engine"}
    extra |= {"n_threads"} | ({"class_weight"} if kind is MLPClassifier else set())
    assert ours.keys() - theirs.keys() == extra


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_has_all_public_names_of_scikit_learns(kind, iris):
    ours = kind(engine="numpy", max_iter=2).fit(*iris)
    theirs = getattr(scikit_learn, kind.__name__)(max_iter=2).fit(*iris)
    missing = {name for name in dir(theirs) if not name.startswith("_")} - set(dir(ours))
    assert missing == set()


# ---- scores ---------------------------------------------------------------------------------

DATASETS = {
    "iris": (MLPClassifier, load_iris),
    "wine": (MLPClassifier, load_wine),
    "digits": (MLPClassifier, load_digits),
    "diabetes": (MLPRegressor, load_diabetes),
}


@both_engines
@pytest.mark.parametrize("name", DATASETS)
def test_mean_score_equals_scikit_learns(engine, name):
    kind, load = DATASETS[name]
    x, y = load(return_X_y=True)
    x, y = scale(x), scale(y) if kind is MLPRegressor else y
    scores = np.empty((5, 2))
    for seed in range(len(scores)):
        parts = train_test_split(x, y, test_size=0.3, random_state=seed)
        settings = {"random_state": seed, "max_iter": 40, "hidden_layer_sizes": 30}
        theirs = getattr(scikit_learn, kind.__name__)(**settings)
        for column, model in enumerate((kind(engine=engine, **settings), theirs)):
            scores[seed, column] = model.fit(*parts[::2]).score(*parts[1::2])
    # The initial weights are equal, the shuffles are not: the mean difference is noise, within five
    # standard errors. If all pairs agree, both are 0.
    difference = scores[:, 0] - scores[:, 1]
    error = difference.std(ddof=1) / np.sqrt(len(scores))
    assert abs(difference.mean()) <= 5 * error, scores


# ---- copies ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ESTIMATORS)
@pytest.mark.parametrize("how", ["pickle", "deepcopy", "joblib"])
def test_copy_predicts_and_trains_like_the_original(engine, iris, kind, how, tmp_path):
    model = kind(engine=engine, max_iter=3, random_state=0, warm_start=True).fit(*iris)
    if how == "pickle":
        other = pickle.loads(pickle.dumps(model))
    elif how == "deepcopy":
        other = copy.deepcopy(model)
    else:
        joblib.dump(model, tmp_path / "model")
        other = joblib.load(tmp_path / "model", mmap_mode="r")
    np.testing.assert_array_equal(model.predict(iris[0]), other.predict(iris[0]))
    for estimator in (model, other):
        estimator.fit(*iris)
    for w, v in zip(model.coefs_, other.coefs_, strict=True):
        np.testing.assert_array_equal(w, v)
        assert not v.flags.writeable
    assert model.loss_curve_ == other.loss_curve_


def test_pickle_contains_the_weights_once(iris):
    x = np.zeros((10, 1000), np.float32)
    model = MLPRegressor(engine="numpy", max_iter=1, hidden_layer_sizes=100).fit(x, np.zeros(10))
    model.predict(x)
    # 4 bytes for each weight and for its two moments of Adam.
    assert len(pickle.dumps(model)) == pytest.approx(3 * 4 * 100_201, rel=0.02)


def test_pickle_contains_replaced_weights(iris):
    model = MLPClassifier(engine="numpy", max_iter=1, random_state=0).fit(*iris)
    model.coefs_[1] = np.zeros_like(model.coefs_[1])
    other = pickle.loads(pickle.dumps(model))
    assert not other.coefs_[1].any()
    np.testing.assert_array_equal(model.predict_proba(iris[0]), other.predict_proba(iris[0]))


def test_clone_and_repr(iris):
    model = MLPClassifier(
        (4,), early_stopping=EarlyStopping("val_loss"), callbacks=[LogFile("log.csv")]
    )
    other = clone(model)
    assert other.get_params()["early_stopping"] == model.early_stopping
    assert repr(model).startswith("MLPClassifier(callbacks=[")
    assert "MLPClassifier" in model._repr_html_()
    fitted = MLPClassifier((4,), engine="numpy", max_iter=1).fit(*iris)
    assert "coefs_" in fitted._repr_html_() or sklearn.__version__ < "1.9"


# ---- pipelines and searches -----------------------------------------------------------------


@pytest.mark.process
def test_grid_search_in_two_processes(engine):
    x, y = load_iris(return_X_y=True)
    pipeline = make_pipeline(
        StandardScaler(), MLPClassifier(engine=engine, max_iter=30, random_state=0, n_threads=2)
    )
    grid = {"mlpclassifier__hidden_layer_sizes": [4, (8, 8)]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        search = GridSearchCV(pipeline, grid, n_jobs=2, cv=2, error_score="raise").fit(x, y)
    alone = clone(search.best_estimator_).fit(x, y)
    np.testing.assert_array_equal(search.predict_proba(x), alone.predict_proba(x))


@both_engines
def test_cross_validation_and_calibration(engine, iris):
    model = MLPClassifier(engine=engine, max_iter=100, random_state=0)
    assert cross_val_score(model, *iris, cv=3).mean() > 0.8
    calibrated = CalibratedClassifierCV(model, cv=3).fit(*iris)
    assert calibrated.score(*iris) > 0.8
    assert cross_val_score(MLPRegressor(engine=engine, max_iter=9), *iris, cv=3).shape == (3,)


def test_metadata_routing(iris):
    x, y = iris
    with sklearn.config_context(enable_metadata_routing=True):
        model = MLPClassifier(engine="numpy", max_iter=5, random_state=0)
        model.set_fit_request(sample_weight=True, X_val=True, y_val=True)
        scaler = StandardScaler().set_fit_request(sample_weight=False)
        pipeline = make_pipeline(scaler, model)
        pipeline.set_params(transform_input=["X_val"])
        weight = np.arange(len(y))
        pipeline.fit(3 * x + 5, y, sample_weight=weight, X_val=3 * x + 5, y_val=y)
        alone = clone(model).fit(x, y, sample_weight=weight, X_val=x, y_val=y)
        np.testing.assert_allclose(pipeline[-1].loss_curve_, alone.loss_curve_, rtol=1e-5)
        assert pipeline[-1].validation_scores_ == pytest.approx(alone.validation_scores_)
        model.set_partial_fit_request(classes=True, sample_weight=True)


# ---- scikit-learn's own callbacks -----------------------------------------------------------


class RecordTasks:
    """A callback with the protocol of scikit-learn."""

    def __init__(self, last=None):
        self.seen, self.scores, self.last = [], [], last

    def setup(self, estimator, context):
        self.seen.append("setup")

    def teardown(self, estimator, context):
        self.seen.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        self.seen.append(("begin", context.task_name, context.task_id))

    def on_fit_task_end(
        self, estimator, context, *, X=None, y=None, metadata=None, fitted_estimator=None
    ):
        self.seen.append(("end", context.task_name, context.task_id))
        self.scores.append(fitted_estimator.score(X, y))
        self.metadata = metadata
        return context.task_id == self.last


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_scikit_learn_callback_sees_fit_and_epochs(engine, iris, solver):
    pytest.importorskip("sklearn.callback")
    x, y = iris
    recorder = RecordTasks()
    model = MLPClassifier(solver=solver, engine=engine, max_iter=3, random_state=0)
    model.set_callbacks(recorder).fit(x, y, sample_weight=np.ones(len(y)))
    epochs = [(what, "epoch", i) for i in range(3) for what in ("begin", "end")]
    assert recorder.seen == ["setup", ("begin", "fit", 0), *epochs, ("end", "fit", 0), "teardown"]
    assert recorder.metadata.keys() == {"sample_weight"}
    assert recorder.scores[-1] == recorder.scores[-2] == model.score(x, y)
    for epochs in (1, 2):  # the scores of shorter fits
        shorter = clone(model).set_params(max_iter=epochs).fit(x, y)
        assert recorder.scores[epochs - 1] == shorter.score(x, y)


def test_scikit_learn_callback_can_stop_training(engine, iris):
    pytest.importorskip("sklearn.callback")
    model = MLPRegressor(engine=engine, max_iter=9).set_callbacks(RecordTasks(last=1))
    assert model.fit(*iris).n_iter_ == 2


def test_scoring_monitor_of_scikit_learn_in_a_pipeline(iris):
    callback = pytest.importorskip("sklearn.callback")
    monitor = callback.ScoringMonitor(scoring="accuracy")
    model = MLPClassifier(engine="numpy", max_iter=3, random_state=0).set_callbacks(monitor)
    pipeline = make_pipeline(StandardScaler(), model).fit(*iris)
    scores = [row["accuracy"] for row in monitor.get_logs().data if row["task_name"] == "epoch"]
    assert len(scores) == 3
    assert scores[-1] == pipeline.score(*iris)
