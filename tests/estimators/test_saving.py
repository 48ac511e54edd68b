"""`fastnn.estimators.saving`: an estimator comes back from a file as it was, and nothing else."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import get_scorer

from fastnn import (
    Callback,
    EarlyStopping,
    MLPClassifier,
    MLPRegressor,
    ModelFileError,
    Network,
    Schedule,
    load,
)
from fastnn.estimators.saving import LABEL_LIMIT, decoded, encoded, restored, stored_of

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
KINDS = [MLPClassifier, MLPRegressor]
ROWS = 60


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


@pytest.fixture
def X(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(ROWS, 4))


def fitted(kind: Any, X: Any, y: Any, **settings: Any) -> Any:
    settings = {"hidden_layer_sizes": (5,), "max_iter": 3, "random_state": 0} | settings
    settings.setdefault("engine", "numpy")
    return kind(**settings).fit(X, y)


def saved(estimator: Any, path: Path) -> Any:
    estimator.save(path)
    return load(path)


def assert_equal(one: Any, other: Any) -> None:
    """Compare plain values, arrays and their types; NaN equals itself."""
    assert type(one) is type(other)
    if isinstance(one, np.ndarray):
        np.testing.assert_array_equal(one, other, strict=True)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for name in one:
            assert_equal(one[name], other[name])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for each, its in zip(one, other, strict=True):
            assert_equal(each, its)
    else:
        assert one == other or one != one and other != other


def assert_same(one: Any, other: Any) -> None:
    """Compare all that there is to two estimators, save how far their trainings stand."""
    left, right = dict(vars(one)), dict(vars(other))
    for state in (left, right):
        del state["_network"], state["_standing"]
    assert left.keys() == right.keys()
    for name in left:
        assert_equal(left[name], right[name])
    assert repr(one) == repr(other)


def labels(values: Any, dtype: Any = None) -> np.ndarray:
    return np.resize(np.array(values, dtype), ROWS)


# ---- as it was ------------------------------------------------------------------------------

CLASSES = {
    "two texts": labels(["spam", "no spam"]),
    "three texts": labels(["a", "ä", '\U0001f600 \ud800\n"']),
    "wider than they are": labels(["a", "b", "c"], "U9"),
    "objects": labels(["a", "bb", "c"], object),
    "int64": labels([-(2**63), 0, 2**63 - 1]),
    "uint64": labels([0, 2**64 - 1, 5], np.uint64),
    "int8": labels([-1, 1, 3], np.int8),
    "bools": labels([False, True]),
    "float32": labels([-1, 0, 3], np.float32),
    "float16, two": labels([0, 1], np.float16),
    "one class": labels([3]),
    "several at once": np.resize([[0, 1, 1], [1, 0, 1]], (ROWS, 3)),
    "two at once": np.resize([[0, 1], [1, 0]], (ROWS, 2)),
}


@pytest.mark.parametrize("name", CLASSES)
def test_classes(name: str, X: np.ndarray, path: Path) -> None:
    y = CLASSES[name]
    classifier = fitted(MLPClassifier, X, y)
    loaded = saved(classifier, path)
    assert_same(loaded, classifier)
    for method in ("predict", "predict_proba", "predict_log_proba"):
        ours, its = getattr(loaded, method)(X), getattr(classifier, method)(X)
        np.testing.assert_array_equal(ours, its, strict=True)
    assert loaded.score(X, y) == classifier.score(X, y)


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("loss", ["squared_error", "poisson", "absolute_error", "huber"])
def test_regressions(loss: str, outputs: int, engine: str, X: np.ndarray, path: Path) -> None:
    y = np.exp(X[:, :outputs]).squeeze()
    regressor = fitted(MLPRegressor, X, y, loss=loss, engine=engine)
    loaded = saved(regressor, path)
    assert_same(loaded, regressor)
    np.testing.assert_array_equal(loaded.predict(X), regressor.predict(X), strict=True)
    assert loaded.score(X, y) == regressor.score(X, y)


SETTINGS: list[dict[str, Any]] = [
    {"engine": "numba", "hidden_layer_sizes": [6, 5], "dropout": [0.1, 0.2, 0], "n_threads": 2},
    {"hidden_layer_sizes": np.array([6, 5]), "activation": "gelu", "solver": "adamw"},
    {"hidden_layer_sizes": (), "alpha": np.float32(0.1), "max_iter": np.int64(2)},
    {"early_stopping": True, "validation_fraction": 0.3, "scoring": "neg_log_loss"},
    {"early_stopping": EarlyStopping("val_loss", np.inf, 0, False), "weight_init": "he_normal"},
    {"solver": "sgd", "learning_rate": Schedule("cosine", warmup_epochs=1), "warm_start": True},
    {"solver": "lbfgs", "n_iter_no_change": np.inf},
    {"class_weight": {"a": 1, "b": 2.5}, "solver": "nesterov"},
    {"class_weight": "balanced", "verbose": 0, "weight_decay": 1e-3, "random_state": None},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: "-".join(settings))
def test_parameters(settings: dict[str, Any], X: np.ndarray, path: Path) -> None:
    classifier = fitted(MLPClassifier, X, labels(["a", "b"]), **settings)
    loaded = saved(classifier, path)
    plain = {
        name: value.tolist() if isinstance(value, np.generic | np.ndarray) else value
        for name, value in settings.items()
    }
    assert_same(loaded, classifier.set_params(**plain))
    copy = clone(loaded)
    assert copy.get_params() == loaded.get_params() == classifier.get_params()
    assert not hasattr(copy, "classes_")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.float64])
def test_the_dtype_of_answers(kind: Any, dtype: Any, X: np.ndarray, path: Path) -> None:
    X = np.abs(X).astype(dtype)
    estimator = fitted(kind, X, labels([0, 1]))
    loaded = saved(estimator, path)
    assert_same(loaded, estimator)
    np.testing.assert_array_equal(loaded.predict(X), estimator.predict(X), strict=True)


@pytest.mark.parametrize("kind", KINDS)
def test_names_of_features(kind: Any, X: np.ndarray, path: Path) -> None:
    frame = pd.DataFrame(X, columns=["a", "Ω", "with space", '"'])
    loaded = saved(fitted(kind, frame, labels([0, 1])), path)
    assert loaded.feature_names_in_.tolist() == list(frame.columns)
    assert loaded.feature_names_in_.dtype == object
    loaded.predict(frame)
    with pytest.raises(ValueError, match="feature names should match"):
        loaded.predict(frame.rename(columns={"a": "b"}))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["partial_fit", "fit"])
def test_training_goes_on(kind: Any, method: str, engine: str, X: np.ndarray, path: Path) -> None:
    """Without momentum there is no state, and it is as if nothing had happened."""
    settings = {"solver": "sgd", "momentum": 0, "warm_start": True, "dropout": 0.2}
    y = labels([0, 1, 2])
    estimator = fitted(kind, X, y, engine=engine, **settings)
    loaded = saved(estimator, path)
    estimator._standing = loaded._standing  # early stopping begins anew
    for each in (estimator, loaded):
        getattr(each, method)(X, y)
    for each in (estimator, loaded):  # but for the clock
        del each.history_["seconds"]
    assert_same(loaded, estimator)
    assert loaded.t_ == (4 if method == "partial_fit" else 6) * ROWS


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_fit_begins_anew(kind: Any, X: np.ndarray, path: Path) -> None:
    loaded = saved(fitted(kind, X, labels([0, 1])), path)
    loaded.fit(X[:, :3], labels([5, 6, 7]))
    assert loaded.n_features_in_ == 3 and loaded.t_ == 3 * ROWS


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_loaded_can_be_saved_and_pickled(kind: Any, X: np.ndarray, path: Path) -> None:
    estimator = fitted(kind, X, labels([0, 1, 2]))
    loaded = saved(estimator, path)
    contents = path.read_bytes()
    again = saved(loaded, path)
    assert path.read_bytes() == contents
    assert_same(again, estimator)
    assert_same(pickle.loads(pickle.dumps(loaded)), estimator)
    assert loaded.summary() == estimator.summary()


@pytest.mark.parametrize("kind", KINDS)
def test_figures_may_be_anything(kind: Any, X: np.ndarray, path: Path) -> None:
    estimator = fitted(kind, X, labels([0, 1]))
    estimator.loss_curve_ = [1.5, np.nan, np.float64(np.inf), -np.inf, 5e-324]
    estimator.loss_ = np.nan
    estimator.best_loss_, estimator.best_validation_score_ = np.inf, -np.inf
    estimator.validation_scores_ = [np.nan]
    loaded = saved(estimator, path)
    estimator.loss_curve_[2] = np.inf  # a plain float
    assert_same(loaded, estimator)


def test_counts_at_their_limit(X: np.ndarray, path: Path) -> None:
    estimator = fitted(MLPRegressor, X, X[:, 0])
    estimator.t_ = 2**53 - 1
    loaded = saved(estimator, path)
    assert loaded.t_ == 2**53 - 1
    loaded.partial_fit(X, X[:, 0])
    with pytest.raises(ModelFileError, match="t_ is 9007199254741051, which no fit reports"):
        loaded.save(path)
    assert load(path).t_ == 2**53 - 1


@pytest.mark.process  # it takes seconds
def test_very_many_epochs(X: np.ndarray, path: Path) -> None:
    estimator = fitted(MLPRegressor, X, X[:, 0])
    estimator.loss_curve_ = np.linspace(1, 0, 200_000).tolist()
    estimator.history_ = dict.fromkeys(estimator.history_, estimator.loss_curve_)
    assert_same(saved(estimator, path), estimator)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_put_in_their_place_are_those_that_are_saved(
    kind: Any, X: np.ndarray, path: Path
) -> None:
    estimator = fitted(kind, X, labels([0, 1]))
    estimator.coefs_ = [np.full_like(w, 0.25) for w in estimator.coefs_]
    loaded = saved(estimator, path)
    assert all((w == 0.25).all() for w in loaded.coefs_)
    np.testing.assert_array_equal(loaded.predict(X), estimator.predict(X))


def test_what_is_no_plain_value_is_the_default(X: np.ndarray, path: Path) -> None:
    settings = {
        "random_state": np.random.RandomState(0),
        "callbacks": [Callback()],
        "scoring": get_scorer("accuracy"),
        "early_stopping": True,
    }
    loaded = saved(fitted(MLPClassifier, X, labels([0, 1]), **settings), path)
    parameters = loaded.get_params()
    assert parameters["random_state"] is parameters["callbacks"] is parameters["scoring"] is None
    assert parameters["early_stopping"] is True
    loaded.fit(X, labels([0, 1]))


def test_partial_fit_alone(X: np.ndarray, path: Path) -> None:
    classifier = MLPClassifier(engine="numpy").partial_fit(X, labels([1, 2]), classes=[1, 2, 3])
    assert_same(saved(classifier, path), classifier)


# ---- what cannot be saved -------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_unfitted(kind: Any, path: Path) -> None:
    with pytest.raises(NotFittedError):
        kind().save(path)
    assert not path.exists()


class Mine(MLPRegressor):
    pass


def test_other_classes(X: np.ndarray, path: Path) -> None:
    with pytest.raises(TypeError, match=r"an MLPRegressor of fastnn's, not \S*\.Mine"):
        fitted(Mine, X, labels([0, 1])).save(path)
    assert not path.exists()


def test_classes_of_other_types(X: np.ndarray, path: Path) -> None:
    days = labels(["2020-01-01", "2021-01-01"], "datetime64[D]")
    with pytest.raises(ModelFileError, match=r"model\.safetensors: classes of dtype datetime64"):
        fitted(MLPClassifier, X, days).save(path)


def test_a_parameter_that_fit_would_refuse(X: np.ndarray, path: Path) -> None:
    regressor = fitted(MLPRegressor, X, X[:, 0]).set_params(alpha=-1)
    with pytest.raises(ModelFileError, match=r"model\.safetensors: The 'alpha' parameter"):
        regressor.save(path)
    assert not path.exists()


# ---- plain values ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        None, True, 2**70, 1e-320, -0.0, np.nan, -np.inf, "", "\ud800", [], (), {}, [(), [{}]],
        {1: "a", "1": (2.0, np.inf), None: {True: []}}, {"tuple": 1}, Schedule("invscaling", 1, 2),
        {"a": EarlyStopping("loss", np.inf)},
    ],
    ids=repr,
)  # fmt: skip
def test_plain_values(value: Any) -> None:
    assert_equal(decoded(encoded(value)), value)


@pytest.mark.parametrize("value", [np.float32(0.5), np.int8(3), np.bool_(True), np.str_("a")])
def test_numpys_scalars_become_pythons(value: Any) -> None:
    assert_equal(decoded(encoded([value])), [value.item()])


@pytest.mark.parametrize("value", [1j, b"", object(), {1: print}, [{2}], np.longdouble(1)])
def test_values_that_are_not_plain(value: Any) -> None:
    with pytest.raises(TypeError, match="is no plain value"):
        encoded(value)


class Cunning(Schedule):
    pass


def test_a_record_of_another_class_is_not_plain() -> None:
    with pytest.raises(TypeError, match="^Cunning is no plain value"):
        encoded(Cunning())


@pytest.mark.parametrize(
    "value",
    [
        {}, {"tuple": [], "list": []}, {"tuple": "ab"}, {"tuple": {"a": 1}}, {"set": []},
        {"float": "1"}, {"float": 1.0}, {"float": []}, {"dict": {"a": 1}}, {"dict": ["ab"]},
        {"dict": [[1]]}, {"dict": [[[], 1]]}, {"dict": [[{"dict": []}, 1]]}, {"Schedule": []},
        {"Schedule": {}}, {"Schedule": {"name": "linear", "warmup_epochs": 0, "power_t": 0}},
        {"Schedule": {"name": ["cosine"], "warmup_epochs": 0, "power_t": 0}},
        {"Schedule": {"name": "cosine", "warmup_epochs": 0, "power_t": 0, "x": 0}},
        {"print": ["a"]}, [{"__class__": "a"}],
    ],
    ids=repr,
)  # fmt: skip
def test_what_stands_for_no_value(value: Any) -> None:
    with pytest.raises(ModelFileError):
        decoded(value)


# ---- what is wrong in a file ----------------------------------------------------------------


def parameter(name: str, value: Any) -> Any:
    return lambda stored: stored["parameters"].update({name: value})


def attribute(name: str, value: Any) -> Any:
    return lambda stored: stored["attributes"].update({name: value})


def curve(name: str, value: Any) -> Any:
    return lambda stored: stored["curves"].update({name: value})


def of_classes(**values: Any) -> Any:
    return lambda stored: stored["attributes"]["classes"].update(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda stored: stored.pop("kind"), "the estimator has no kind"),
        (lambda stored: stored.update(more=1), "the estimator has 'more'"),
        (lambda stored: stored.update(kind="os.system"), "kind is 'os.system', where MLPClass"),
        (lambda stored: stored.update(kind=["MLPClassifier"]), "kind is \\['MLPClassifier'\\]"),
        (lambda stored: stored.update(kind="MLPRegressor"), "MLPRegressor has no parameter 'class"),
        (lambda stored: stored.update(parameters=[]), "parameters is \\[\\], expected an object"),
        (lambda stored: stored.update(attributes=None), "attributes is None, expected an object"),
        (parameter("__class__", 1), "MLPClassifier has no parameter '__class__'"),
        (parameter("alpha", "1"), "The 'alpha' parameter of MLPClassifier must be"),
        (parameter("engine", "os"), "The 'engine' parameter of MLPClassifier must be"),
        (parameter("tol", {"print": 1}), "tol: {'print': 1} stands for nothing"),
        (attribute("coefs_", []), "the estimator has 'coefs_'"),
        (lambda stored: stored["attributes"].pop("t_"), "the estimator has no t_"),
        (attribute("t_", True), "t_ is True"),
        (attribute("t_", 2**53), "t_ is 9007199254740992"),
        (attribute("n_iter_", -1), "n_iter_ is -1"),
        (attribute("n_iter_", 1.0), "n_iter_ is 1.0"),
        (attribute("loss_", 1), "loss_ is 1,"),
        (attribute("loss_", None), "loss_ is None"),
        (attribute("best_loss_", "a"), "best_loss_ is 'a'"),
        (lambda stored: stored.update(curves=[]), "curves is \\[\\], expected an object"),
        (lambda stored: stored["curves"].pop("loss_curve_"), "curves has no loss_curve_"),
        (curve("loss_curve_", {}), "loss_curve_ is {}, expected a list"),
        (curve("loss_curve_", [1.0, 2]), "loss_curve_ has 2, expected a float"),
        (curve("coefs_", [1.0]), "curves has 'coefs_', which does not belong there"),
        (curve("history_.loss", [1]), "history_.loss has 1,"),
        (attribute("loss_curve_", [1.0]), "the estimator has 'loss_curve_'"),
        (attribute("best_validation_score_", []), "best_validation_score_ is \\[\\]"),
        (attribute("dtype", "float16"), "dtype is 'float16'"),
        (attribute("dtype", ["float32"]), "dtype is \\['float32'\\]"),
        (attribute("feature_names", ["a"]), "feature_names are 1, where 4 are needed"),
        (attribute("feature_names", "abcd"), "feature_names is 'abcd'"),
        (attribute("feature_names", ["a", "b", "c", 1]), "feature_names has 1, expected a string"),
        (attribute("classes", None), "classes is None"),
        (attribute("classes", {}), "classes has no dtype"),
        (of_classes(is_multilabel=0), "is_multilabel is 0, expected a bool"),
        (of_classes(is_multilabel=True), "3 classes do not go with 3 outputs and the loss cross"),
        (of_classes(dtype="object"), "classes are of dtype 'object'"),
        (of_classes(dtype="U99999999"), "classes are of dtype 'U99999999'"),
        (of_classes(dtype="U0"), "classes are of dtype 'U0'"),
        (of_classes(dtype="V4"), "classes are of dtype 'V4'"),
        (of_classes(dtype="int64"), "values has 'a', expected an integer"),
        (of_classes(dtype="U1"), "classes are not of dtype U1, or not in order"),
        (of_classes(dtype=f"U{LABEL_LIMIT // 2}"), "classes take more than 8,388,608 characters"),
        (of_classes(values=["b", "a", "c"]), "classes are not of dtype U2"),
        (of_classes(values=["a", "a", "c"]), "classes are not of dtype U2"),
        (of_classes(values=["a", "b"]), "2 classes do not go"),
        (of_classes(values=[]), "0 classes do not go"),
        (of_classes(dtype="uint8", values=[1, 2, 256]), "classes are not of dtype uint8"),
        (of_classes(dtype="bool", values=[0, 1, 2]), "values has 0, expected a bool"),
        (of_classes(dtype="float16", values=[0.0, 1.0, 1e9]), "classes are not of dtype float16"),
        (of_classes(dtype="float32", values=[0.0, 1.0, 1.1]), "classes are not of dtype float32"),
    ],
)
def test_estimators_that_cannot_be(change: Any, message: str, X: np.ndarray) -> None:
    classifier = fitted(MLPClassifier, X, labels(["a", "bb", "c"]))
    stored = stored_of(classifier)
    assert_same(restored(KINDS, stored, classifier._network), classifier)
    change(stored)
    with pytest.raises(ModelFileError, match=f"^{message}"):
        restored(KINDS, stored, classifier._network)


def test_values_that_are_nested_too_deeply(X: np.ndarray) -> None:
    regressor = fitted(MLPRegressor, X, X[:, 0])
    stored, value = stored_of(regressor), 1.0
    for _ in range(5_000):
        value = {"tuple": [value]}
    stored["parameters"]["tol"] = value
    with pytest.raises(ModelFileError, match="^tol: is nested too deeply$"):
        restored(KINDS, stored, regressor._network)


def test_networks_that_are_not_an_estimators(X: np.ndarray) -> None:
    classifier = stored_of(fitted(MLPClassifier, X, labels([0, 1])))
    regressor = stored_of(fitted(MLPRegressor, X, X[:, 0]))
    for stored, outputs, loss in (
        (classifier, 1, "cross_entropy"),
        (classifier, 2, "logistic"),
        (classifier, 1, "squared_error"),
        (regressor, 1, "logistic"),
    ):
        with pytest.raises(ModelFileError):
            restored(KINDS, stored, Network([4, 5, outputs], loss=loss))
    classifier["attributes"]["classes"]["is_multilabel"] = True
    with pytest.raises(ModelFileError, match="^2 classes do not go"):
        restored(KINDS, classifier, Network([4, 5, 3], loss="logistic"))
