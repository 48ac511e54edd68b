"""`fastnn.estimators.saving`: saved estimators load unchanged, and invalid files are rejected."""

import pickle
from collections.abc import Iterator
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
from fastnn.estimators.saving import LABEL_LIMIT, describe, restore
from fastnn.storage.strict_json import prefix_errors

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
ESTIMATORS = [MLPClassifier, MLPRegressor]
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


def save_and_load(estimator: Any, path: Path) -> Any:
    estimator.save(path)
    return load(path)


def assert_equal(one: Any, other: Any) -> None:
    """Compare scalars, containers and arrays with their types; NaN equals NaN."""
    assert type(one) is type(other)
    if isinstance(one, np.ndarray):
        np.testing.assert_array_equal(one, other, strict=True)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for name in one:
            assert_equal(one[name], other[name])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for item, other_item in zip(one, other, strict=True):
            assert_equal(item, other_item)
    else:
        assert one == other or one != one and other != other


def assert_same_estimator(one: Any, other: Any) -> None:
    """Compare the parameters and attributes of two estimators, training state apart."""
    left, right = dict(vars(one)), dict(vars(other))
    for state in (left, right):
        del state["_network"], state["_stopping"]
    assert left.keys() == right.keys()
    for name in left:
        assert_equal(left[name], right[name])
    assert repr(one) == repr(other)


def labels(values: Any, dtype: Any = None) -> np.ndarray:
    return np.resize(np.array(values, dtype), ROWS)


# ---- saved estimators load unchanged --------------------------------------------------------

TARGETS = {
    "two strings": labels(["spam", "no spam"]),
    "three strings": labels(["a", "ä", '\U0001f600 \ud800\n"']),
    "strings in a wider dtype": labels(["a", "b", "c"], "U9"),
    "objects": labels(["a", "bb", "c"], object),
    "int64": labels([-(2**63), 0, 2**63 - 1]),
    "uint64": labels([0, 2**64 - 1, 5], np.uint64),
    "int8": labels([-1, 1, 3], np.int8),
    "bools": labels([False, True]),
    "float32": labels([-1, 0, 3], np.float32),
    "two float16": labels([0, 1], np.float16),
    "one class": labels([3]),
    "three labels a row": np.resize([[0, 1, 1], [1, 0, 1]], (ROWS, 3)),
    "two labels a row": np.resize([[0, 1], [1, 0]], (ROWS, 2)),
}


@pytest.mark.parametrize("name", TARGETS)
def test_classifier_loads_unchanged_for_every_dtype_of_labels(
    name: str, X: np.ndarray, path: Path
) -> None:
    y = TARGETS[name]
    classifier = fitted(MLPClassifier, X, y)
    loaded = save_and_load(classifier, path)
    assert_same_estimator(loaded, classifier)
    for method in ("predict", "predict_proba", "predict_log_proba"):
        got, expected = getattr(loaded, method)(X), getattr(classifier, method)(X)
        np.testing.assert_array_equal(got, expected, strict=True)
    assert loaded.score(X, y) == classifier.score(X, y)


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("loss", ["squared_error", "poisson", "absolute_error", "huber"])
def test_regressor_loads_unchanged_for_every_loss(
    loss: str, outputs: int, engine: str, X: np.ndarray, path: Path
) -> None:
    y = np.exp(X[:, :outputs]).squeeze()
    regressor = fitted(MLPRegressor, X, y, loss=loss, engine=engine)
    loaded = save_and_load(regressor, path)
    assert_same_estimator(loaded, regressor)
    np.testing.assert_array_equal(loaded.predict(X), regressor.predict(X), strict=True)
    assert loaded.score(X, y) == regressor.score(X, y)


SETTINGS: list[dict[str, Any]] = [
    {"engine": "numba", "hidden_layer_sizes": [6, 5], "dropout": [0.1, 0.2, 0], "n_threads": 2},
    {"hidden_layer_sizes": np.array([6, 5]), "activation": "gelu", "solver": "adamw"},
    {"hidden_layer_sizes": (), "alpha": np.float32(0.1), "max_iter": np.int64(2)},
    {"hidden_layer_sizes": 7, "dropout": (0, 0.5), "shuffle": np.bool_(False)},
    {"early_stopping": True, "validation_fraction": 0.3, "scoring": "neg_log_loss"},
    {"early_stopping": EarlyStopping("val_loss", np.inf, 0, False), "weight_init": "he_normal"},
    {"early_stopping": EarlyStopping("loss", 5, 1e-320)},
    {"solver": "sgd", "learning_rate": Schedule("cosine", warmup_epochs=1), "warm_start": True},
    {"solver": "lbfgs", "n_iter_no_change": np.inf},
    {"class_weight": {"a": 1, "b": 2.5}, "solver": "nesterov"},
    {"class_weight": "balanced", "verbose": 0, "weight_decay": 1e-3, "random_state": None},
    {"random_state": np.int32(2), "tol": 5e-324, "class_weight": {"b": 1, "a": 0, "c": 2}},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: "-".join(settings))
def test_parameters_load_unchanged(settings: dict[str, Any], X: np.ndarray, path: Path) -> None:
    classifier = fitted(MLPClassifier, X, labels(["a", "b"]), **settings)
    loaded = save_and_load(classifier, path)
    # NumPy's arrays and scalars come back as Python's lists and scalars.
    plain = {
        name: value.tolist() if isinstance(value, np.generic | np.ndarray) else value
        for name, value in settings.items()
    }
    assert_same_estimator(loaded, classifier.set_params(**plain))
    copy = clone(loaded)
    assert copy.get_params() == loaded.get_params() == classifier.get_params()
    assert not hasattr(copy, "classes_")


def test_numpy_scalars_load_as_python_scalars(X: np.ndarray, path: Path) -> None:
    classifier = fitted(MLPClassifier, X, labels([0, 1]), hidden_layer_sizes=[np.int8(6), 5])
    classifier.set_params(
        early_stopping=EarlyStopping("loss", np.int64(5), np.float32(0.5), np.bool_(False)),
        learning_rate=Schedule("invscaling", np.uint8(1)),
        class_weight={np.int64(0): np.float32(0.25), 1: np.True_},
    )
    parameters = save_and_load(classifier, path).get_params()
    assert_equal(parameters["hidden_layer_sizes"], [6, 5])
    assert_equal(vars(parameters["early_stopping"]), vars(EarlyStopping("loss", 5, 0.5, False)))
    assert_equal(vars(parameters["learning_rate"]), vars(Schedule("invscaling", 1)))
    assert_equal(parameters["class_weight"], {0: 0.25, 1: True})


@pytest.mark.parametrize("kind", ESTIMATORS)
@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.float64])
def test_dtype_of_predictions_is_kept(kind: Any, dtype: Any, X: np.ndarray, path: Path) -> None:
    X = np.abs(X).astype(dtype)
    estimator = fitted(kind, X, labels([0, 1]))
    loaded = save_and_load(estimator, path)
    assert_same_estimator(loaded, estimator)
    np.testing.assert_array_equal(loaded.predict(X), estimator.predict(X), strict=True)


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_feature_names_are_kept(kind: Any, X: np.ndarray, path: Path) -> None:
    frame = pd.DataFrame(X, columns=["a", "Ω", "with space", '"'])
    loaded = save_and_load(fitted(kind, frame, labels([0, 1])), path)
    assert loaded.feature_names_in_.tolist() == list(frame.columns)
    assert loaded.feature_names_in_.dtype == object
    loaded.predict(frame)
    with pytest.raises(ValueError, match="feature names should match"):
        loaded.predict(frame.rename(columns={"a": "b"}))


@pytest.mark.parametrize("kind", ESTIMATORS)
@pytest.mark.parametrize("method", ["partial_fit", "fit"])
def test_training_continues_after_load(
    kind: Any, method: str, engine: str, X: np.ndarray, path: Path
) -> None:
    """Without momentum there is no optimizer state, so the results are equal."""
    settings = {"solver": "sgd", "momentum": 0, "warm_start": True, "dropout": 0.2}
    y = labels([0, 1, 2])
    estimator = fitted(kind, X, y, engine=engine, **settings)
    loaded = save_and_load(estimator, path)
    estimator._stopping = loaded._stopping  # early stopping starts afresh
    for model in (estimator, loaded):
        getattr(model, method)(X, y)
    for model in (estimator, loaded):
        del model.history_["seconds"]
    assert_same_estimator(loaded, estimator)
    assert loaded.t_ == (4 if method == "partial_fit" else 6) * ROWS


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_fit_after_load_starts_from_scratch(kind: Any, X: np.ndarray, path: Path) -> None:
    loaded = save_and_load(fitted(kind, X, labels([0, 1])), path)
    loaded.fit(X[:, :3], labels([5, 6, 7]))
    assert loaded.n_features_in_ == 3 and loaded.t_ == 3 * ROWS


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_loaded_estimator_can_be_saved_and_pickled(kind: Any, X: np.ndarray, path: Path) -> None:
    estimator = fitted(kind, X, labels([0, 1, 2]))
    loaded = save_and_load(estimator, path)
    contents = path.read_bytes()
    again = save_and_load(loaded, path)
    assert path.read_bytes() == contents
    assert_same_estimator(again, estimator)
    assert_same_estimator(pickle.loads(pickle.dumps(loaded)), estimator)
    assert loaded.summary() == estimator.summary()


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_nan_and_infinite_losses_and_scores_are_kept(kind: Any, X: np.ndarray, path: Path) -> None:
    estimator = fitted(kind, X, labels([0, 1]))
    estimator.loss_curve_ = [1.5, np.nan, np.float64(np.inf), -np.inf, 5e-324]
    estimator.loss_ = np.nan
    estimator.best_loss_, estimator.best_validation_score_ = np.inf, -np.inf
    estimator.validation_scores_ = [np.nan]
    loaded = save_and_load(estimator, path)
    estimator.loss_curve_[2] = np.inf  # a Python float
    assert_same_estimator(loaded, estimator)


def test_counts_have_a_limit(X: np.ndarray, path: Path) -> None:
    estimator = fitted(MLPRegressor, X, X[:, 0])
    estimator.t_ = 2**53 - 1
    loaded = save_and_load(estimator, path)
    assert loaded.t_ == 2**53 - 1
    loaded.partial_fit(X, X[:, 0])
    with pytest.raises(ModelFileError, match="t_ is 9007199254741051, expected 0 to "):
        loaded.save(path)
    assert load(path).t_ == 2**53 - 1


@pytest.mark.process  # it takes seconds
def test_many_epochs_can_be_saved(X: np.ndarray, path: Path) -> None:
    estimator = fitted(MLPRegressor, X, X[:, 0])
    estimator.loss_curve_ = np.linspace(1, 0, 200_000).tolist()
    estimator.history_ = dict.fromkeys(estimator.history_, estimator.loss_curve_)
    assert_same_estimator(save_and_load(estimator, path), estimator)


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_replaced_weights_are_saved(kind: Any, X: np.ndarray, path: Path) -> None:
    estimator = fitted(kind, X, labels([0, 1]))
    estimator.coefs_ = [np.full_like(w, 0.25) for w in estimator.coefs_]
    loaded = save_and_load(estimator, path)
    assert all((w == 0.25).all() for w in loaded.coefs_)
    np.testing.assert_array_equal(loaded.predict(X), estimator.predict(X))


class ScheduleSubclass(Schedule):
    pass


def test_parameters_that_json_cannot_express_load_as_defaults(X: np.ndarray, path: Path) -> None:
    settings = {
        "random_state": np.random.RandomState(0),
        "callbacks": [Callback()],
        "scoring": get_scorer("accuracy"),
        "learning_rate": ScheduleSubclass("cosine"),
        "early_stopping": True,
    }
    loaded = save_and_load(fitted(MLPClassifier, X, labels([0, 1]), **settings), path)
    parameters = loaded.get_params()
    assert parameters["random_state"] is parameters["callbacks"] is parameters["scoring"] is None
    assert parameters["learning_rate"] == "constant"
    assert parameters["early_stopping"] is True
    loaded.fit(X, labels([0, 1]))


def test_classifier_loads_unchanged_after_partial_fit(X: np.ndarray, path: Path) -> None:
    classifier = MLPClassifier(engine="numpy").partial_fit(X, labels([1, 2]), classes=[1, 2, 3])
    assert_same_estimator(save_and_load(classifier, path), classifier)
    y = np.resize([[0, 1], [1, 0]], (ROWS, 2))
    classifier = MLPClassifier(engine="numpy").partial_fit(X, y, classes=[0, 1, 2])
    assert_same_estimator(save_and_load(classifier, path), classifier)


# ---- estimators that cannot be saved --------------------------------------------------------


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_save_rejects_an_unfitted_estimator(kind: Any, path: Path) -> None:
    with pytest.raises(NotFittedError):
        kind().save(path)
    assert not path.exists()


class RegressorSubclass(MLPRegressor):
    pass


def test_save_rejects_a_subclass(X: np.ndarray, path: Path) -> None:
    with pytest.raises(TypeError, match=r"MLPClassifier or MLPRegressor, not \S*\.RegressorSubc"):
        fitted(RegressorSubclass, X, labels([0, 1])).save(path)
    assert not path.exists()


def test_save_rejects_labels_of_an_unsupported_dtype(X: np.ndarray, path: Path) -> None:
    days = labels(["2020-01-01", "2021-01-01"], "datetime64[D]")
    with pytest.raises(ModelFileError, match=r"model\.safetensors: classes of dtype datetime64"):
        fitted(MLPClassifier, X, days).save(path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("alpha", -1, "The 'alpha' parameter"),
        ("tol", np.nan, "The 'tol' parameter"),
        ("weight_decay", np.inf, "The 'weight_decay' parameter"),
        ("dropout", [0.5, np.nan], r"dropout: \[0.5, 'nan'\] has items that are not numbers"),
        ("class_weight", {0: np.inf}, "class_weight of 0 must be a finite number"),
        ("early_stopping", EarlyStopping("inf"), "monitor must be the name of a metric, got inf"),
    ],
)
def test_save_rejects_parameters_that_fit_would_reject(
    name: str, value: Any, message: str, X: np.ndarray, path: Path
) -> None:
    classifier = fitted(MLPClassifier, X, labels([0, 1])).set_params(**{name: value})
    with pytest.raises(ModelFileError, match=rf"model\.safetensors: {message}"):
        classifier.save(path)
    assert not path.exists()


# ---- invalid descriptions -------------------------------------------------------------------


def top_level(name: str, value: Any) -> Any:
    return lambda stored: stored.update({name: value})


def parameter(name: str, value: Any) -> Any:
    return lambda stored: stored["parameters"].update({name: value})


def curve(name: str, value: Any) -> Any:
    return lambda stored: stored["curves"].update({name: value})


def classes(**values: Any) -> Any:
    return lambda stored: stored["classes"].update(values)


SCHEDULE = {"name": "cosine", "warmup_epochs": 0, "power_t": 0}
RULE = {"monitor": "loss", "patience": 1, "min_delta": 0, "restore_best": True}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda stored: stored.pop("kind"), "the estimator has no kind"),
        (top_level("more", 1), "the estimator has 'more'"),
        (top_level("coefs_", []), "the estimator has 'coefs_'"),
        (top_level("kind", "os.system"), "kind is 'os.system', expected MLPC"),
        (top_level("kind", ["MLPClassifier"]), "kind is \\['MLPClassifier'\\]"),
        (top_level("kind", "MLPRegressor"), "MLPRegressor has no parameter 'class"),
        # Parameters
        (top_level("parameters", []), "parameters is \\[\\], expected an object"),
        (parameter("__class__", 1), "MLPClassifier has no parameter '__class__'"),
        (parameter("callbacks", None), "MLPClassifier has no parameter 'callbacks' that files can"),
        (parameter("alpha", "1"), "The 'alpha' parameter of MLPClassifier must be"),
        (parameter("alpha", "inf"), "The 'alpha' parameter of MLPClassifier must be"),
        (parameter("engine", "os"), "The 'engine' parameter of MLPClassifier must be"),
        (parameter("tol", {"print": 1}), "The 'tol' parameter of MLPClassifier must be"),
        (parameter("random_state", [1]), "The 'random_state' parameter of MLPClassifier must be"),
        (parameter("scoring", ["os.system"]), "The 'scoring' parameter of MLPClassifier must be"),
        (parameter("n_iter_no_change", "-inf"), "The 'n_iter_no_change' parameter"),
        (parameter("hidden_layer_sizes", {}), "hidden_layer_sizes: the tuple has no tuple"),
        (parameter("hidden_layer_sizes", {"tuple": 1}), "hidden_layer_sizes: tuple is 1, expected"),
        (parameter("hidden_layer_sizes", {"tuple": [], "a": 1}), "hidden_layer_sizes: the tuple h"),
        (parameter("hidden_layer_sizes", ["a"]), "hidden_layer_sizes: \\['a'\\] has items"),
        (parameter("hidden_layer_sizes", "5"), "The 'hidden_layer_sizes' parameter"),
        (parameter("dropout", [[0.5]]), "dropout: \\[\\[0.5\\]\\] has items that are not numbers"),
        (parameter("dropout", {"tuple": [True]}), "dropout: \\[True\\] has items that are not num"),
        (parameter("learning_rate", []), "The 'learning_rate' parameter"),
        (parameter("learning_rate", {}), "learning_rate: Schedule has no name"),
        (parameter("learning_rate", SCHEDULE | {"x": 0}), "learning_rate: Schedule has 'x'"),
        (parameter("learning_rate", SCHEDULE | {"name": "linear"}), "schedule must be one of"),
        (parameter("learning_rate", SCHEDULE | {"name": ["cosine"]}), "list is not a bool, a num"),
        (parameter("learning_rate", SCHEDULE | {"power_t": "inf"}), "power_t must be a number"),
        (parameter("learning_rate", SCHEDULE | {"power_t": 10**400}), "int too large to convert"),
        (parameter("learning_rate", RULE), "learning_rate: Schedule has no name"),
        (parameter("early_stopping", "loss"), "The 'early_stopping' parameter"),
        (parameter("early_stopping", RULE | {"patience": "nan"}), "patience must be a number"),
        (parameter("early_stopping", RULE | {"monitor": {"a": 1}}), "dict is not a bool, a numb"),
        (parameter("class_weight", {"a": 1}), "dict is not a bool, a number, a string or null"),
        (parameter("class_weight", "even"), "The 'class_weight' parameter"),
        (parameter("class_weight", [1]), "cannot unpack"),
        (parameter("class_weight", [["a", 1, 2]]), "too many values"),
        (parameter("class_weight", ["ab"]), "class_weight of 'a' must be a finite number of at"),
        (parameter("class_weight", [["a", -1]]), "class_weight of 'a' must be a finite number of"),
        (parameter("class_weight", [["a", 10**400]]), "int too large to convert to float"),
        (parameter("class_weight", [[["a"], 1]]), "list is not a bool, a number, a string or nu"),
        # Attributes
        (lambda stored: stored.pop("t_"), "the estimator has no t_"),
        (top_level("t_", True), "t_ is True"),
        (top_level("t_", 2**53), "t_ is 9007199254740992"),
        (top_level("n_iter_", -1), "n_iter_ is -1"),
        (top_level("n_iter_", 1.0), "n_iter_ is 1.0"),
        (top_level("dtype", "float16"), "dtype is 'float16'"),
        (top_level("dtype", ["float32"]), "dtype is \\['float32'\\]"),
        (top_level("feature_names", ["a"]), "feature_names has 1 items, expected 4"),
        (top_level("feature_names", "abcd"), "feature_names is 'abcd'"),
        (top_level("feature_names", ["a", "b", "c", 1]), "feature_names has 1, expected a string"),
        (top_level("curves", []), "curves is \\[\\], expected an object"),
        (lambda stored: stored["curves"].pop("loss_curve_"), "curves has no loss_curve_"),
        (lambda stored: stored["curves"].pop("loss_"), "curves has no loss_"),
        (curve("loss_curve_", {}), "loss_curve_ is {}, expected a list"),
        (curve("loss_curve_", [1.0, 2]), "loss_curve_ has 2, expected a float"),
        (curve("loss_", [1]), "loss_ has 1, expected a float"),
        (curve("loss_", []), "curves has 'loss_' with 0 items"),
        (curve("best_loss_", [1.0, 2.0]), "curves has 'best_loss_' with 2 items"),
        (curve("coefs_", [1.0]), "curves has 'coefs_'"),
        (curve("history_", [1.0]), "curves has 'history_'"),
        (curve("history_.loss", [1]), "history_.loss has 1,"),
        # Classes
        (top_level("classes", None), "classes is None"),
        (top_level("classes", {}), "classes has no dtype"),
        (classes(dtype="object"), "classes have dtype 'object'"),
        (classes(dtype="U99999999"), "classes have dtype 'U99999999'"),
        (classes(dtype="U0"), "classes have dtype 'U0'"),
        (classes(dtype="V4"), "classes have dtype 'V4'"),
        (classes(dtype="int64"), "values has 'a', expected an integer"),
        (classes(dtype="U1"), "classes do not fit dtype U1, or are not"),
        (classes(dtype=f"U{LABEL_LIMIT // 2}"), "classes take more than 8,388,608 characters"),
        (classes(values=["b", "a", "c"]), "classes do not fit dtype U2"),
        (classes(values=["a", "a", "c"]), "classes do not fit dtype U2"),
        (classes(values=["a", "b"]), "2 classes do not match"),
        (classes(values=[]), "0 classes do not match"),
        (classes(dtype="uint8", values=[1, 2, 256]), "classes do not fit dtype uint8"),
        (classes(dtype="bool", values=[0, 1, 2]), "values has 0, expected a bool"),
        (classes(dtype="float16", values=[0.0, 1.0, 1e9]), "classes do not fit dtype float16"),
        (classes(dtype="float32", values=[0.0, 1.0, 1.1]), "classes do not fit dtype float32"),
    ],
)  # fmt: skip
def test_restore_rejects_invalid_descriptions(change: Any, message: str, X: np.ndarray) -> None:
    classifier = fitted(MLPClassifier, X, labels(["a", "bb", "c"]))
    stored = describe(classifier)
    assert_same_estimator(restore(ESTIMATORS, stored, classifier._network), classifier)
    change(stored)
    with pytest.raises(ModelFileError, match=f"^{message}") as raised:
        restore(ESTIMATORS, stored, classifier._network)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 300


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the containers in a JSON value with each of their keys or indices."""
    for key in value if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from places(value[key])


VALUES = [None, True, -1, 10**400, 1.5, "", "a", "inf", "\n", [], [1], ["a"], [[]], [[1, 2]], {}]
VALUES += [{"tuple": [1]}, {"a": [{}]}, [{"a": 1}], "x" * 10_000]


@pytest.mark.process  # it takes seconds
def test_restore_accepts_or_rejects_any_value_in_any_place(X: np.ndarray) -> None:
    settings = {"early_stopping": EarlyStopping(patience=np.inf), "class_weight": {"a": 1, "b": 2}}
    settings |= {"learning_rate": Schedule("cosine", 1), "dropout": (0, 0.5)}
    classifier = fitted(MLPClassifier, X, labels(["a", "b"]), **settings)
    description = describe(classifier)
    rejected = 0
    for container, key in places(description):
        original = container[key]
        for value in VALUES:
            container[key] = value
            try:
                restore(ESTIMATORS, description, classifier._network).predict(X)
            except ModelFileError as error:
                rejected += 1
                assert "\n" not in str(error) and len(str(error)) < 300
        container[key] = original
    assert rejected > 1_000


def test_load_rejects_a_deeply_nested_parameter(X: np.ndarray) -> None:
    regressor = fitted(MLPRegressor, X, X[:, 0])
    description, value = describe(regressor), 1.0
    for _ in range(50_000):
        value = [value]
    for name in ("tol", "dropout"):
        description["parameters"] = {name: value}
        with pytest.raises(ModelFileError), prefix_errors("file"):
            restore(ESTIMATORS, description, regressor._network)


def test_restore_rejects_a_network_that_does_not_match(X: np.ndarray) -> None:
    classifier = describe(fitted(MLPClassifier, X, labels([0, 1])))
    regressor = describe(fitted(MLPRegressor, X, X[:, 0]))
    for stored, outputs, loss in (
        (classifier, 1, "cross_entropy"),
        (classifier, 2, "cross_entropy"),
        (classifier, 3, "logistic"),
        (classifier, 1, "squared_error"),
        (regressor, 1, "logistic"),
    ):
        with pytest.raises(ModelFileError):
            restore(ESTIMATORS, stored, Network([4, 5, outputs], loss=loss))
    stored = describe(fitted(MLPClassifier, X, labels(["a", "b", "c"])))
    with pytest.raises(ModelFileError, match="^3 classes do not match 1 outputs and the loss log"):
        restore(ESTIMATORS, stored, Network([4, 5, 1], loss="logistic"))
