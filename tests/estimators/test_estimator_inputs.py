"""The estimators' inputs: accepted layouts, and rejections with scikit-learn's messages."""

import re
import warnings

import numpy as np
import pytest
import sklearn.neural_network as scikit_learn
from scipy import sparse
from sklearn.exceptions import DataConversionWarning

from fastnn import EarlyStopping, MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
ESTIMATORS = [MLPClassifier, MLPRegressor]


def make_estimator(kind, engine="numpy", **settings):
    return kind(
        **{"hidden_layer_sizes": 4, "max_iter": 3, "random_state": 0} | settings, engine=engine
    )


def sklearn_estimator(kind, **settings):
    parameters = {"hidden_layer_sizes": 4, "max_iter": 3, "random_state": 0} | settings
    return getattr(scikit_learn, kind.__name__)(**parameters)


# ---- valid input ----------------------------------------------------------------------------


def fortran(x):
    return np.asfortranarray(x)


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


def strided(x):
    return np.repeat(x, 2, axis=1)[:, ::2]


def unaligned(x):
    buffer = np.empty(x.nbytes + 1, np.uint8)
    view = buffer[1:].view(x.dtype).reshape(x.shape)
    view[...] = x
    return view


def big_endian(x):
    return x.astype(x.dtype.newbyteorder())


def lists(x):
    return x.tolist()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("form", [fortran, read_only, strided, unaligned, big_endian, lists])
def test_accepts_any_memory_layout(engine, iris, form, dtype):
    x, y = iris
    if form is lists and dtype == np.float32:
        pytest.skip("lists hold float64")
    x = x.astype(dtype)
    plain, other = (
        make_estimator(MLPClassifier, engine).fit(x, y),
        make_estimator(MLPClassifier, engine),
    )
    other.fit(form(x), form(y) if form is not strided else y)
    np.testing.assert_array_equal(plain.coefs_[0], other.coefs_[0])
    # scikit-learn converts float32 of the other byte order to float64: predictions are float64.
    for rows in (x, x[:1]):
        np.testing.assert_allclose(
            other.predict_proba(form(rows)), plain.predict_proba(rows), rtol=5e-7
        )


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_accepts_data_frames(engine, iris, library):
    frames = pytest.importorskip(library)
    x, y = iris
    columns = ["a", "b", "c", "d"]
    frame = frames.DataFrame({name: x[:, i] for i, name in enumerate(columns)})
    labels = (
        frames.Series(values=np.array(["u", "v", "w"])[y])
        if library == "polars"
        else (frames.Series(np.array(["u", "v", "w"])[y]))
    )
    model = make_estimator(MLPClassifier, engine, max_iter=60).fit(
        frame, labels, X_val=frame, y_val=labels
    )
    assert model.feature_names_in_.tolist() == columns
    assert set(model.predict(frame)) <= {"u", "v", "w"}
    assert model.score(frame, labels) == model.validation_scores_[-1]
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        plain = model.predict_proba(x)
    np.testing.assert_array_equal(model.predict_proba(frame), plain)
    with pytest.raises(ValueError, match="The feature names should match those"):
        model.predict(frame[columns[::-1]])


def test_data_frames_with_early_stopping_do_not_warn(iris):
    pandas = pytest.importorskip("pandas")
    x, y = iris
    frame = pandas.DataFrame(x, columns=["a", "b", "c", "d"])
    for scoring in (None, "accuracy", "roc_auc_ovr"):
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            make_estimator(MLPClassifier, max_iter=300, early_stopping=True, scoring=scoring).fit(
                frame, y
            )


def test_uint8_features_are_not_copied(engine, rng, monkeypatch):
    x, y = rng.integers(0, 256, (60, 8), np.uint8), rng.integers(0, 2, 60)
    model = make_estimator(MLPClassifier, engine)
    seen_features = []
    train = type(make_estimator(MLPClassifier).fit(x, y)._network)._train

    def record_features(network, prepared, **settings):
        seen_features.append(prepared.training.x)
        return train(network, prepared, **settings)

    monkeypatch.setattr("fastnn.network.Network._train", record_features)
    model.fit(x, y)
    assert seen_features[0] is x
    floats = make_estimator(MLPClassifier, engine).fit(x.astype(float), y)
    np.testing.assert_array_equal(model.coefs_[0], floats.coefs_[0])
    np.testing.assert_array_equal(model.predict_proba(x), floats.predict_proba(x))


def test_accepts_one_row_or_one_class(engine, iris):
    x, y = iris
    for data in ((x[:1], y[:1]), (x, np.full(len(x), 3))):
        model = make_estimator(MLPClassifier, engine).fit(*data)
        np.testing.assert_array_equal(model.predict(x), data[1][0])
        np.testing.assert_array_equal(model.predict_proba(x), np.ones((len(x), 1)))
        assert make_estimator(MLPRegressor, engine).fit(*data).predict(x).shape == y.shape


def test_accepts_no_hidden_layer(engine, iris):
    x, y = iris
    model = make_estimator(
        MLPClassifier, engine, hidden_layer_sizes=(), max_iter=50, batch_size=8
    ).fit(x, y)
    assert model.n_layers_ == 2
    assert model.score(x, y) > 0.8


# ---- invalid input --------------------------------------------------------------------------

X, Y = np.arange(12.0).reshape(6, 2), np.array([0, 1, 0, 1, 0, 1])


def with_value(value):
    x = X.copy()
    x[3, 1] = value
    return x


INVALID_FITS = {
    "nan": (with_value(np.nan), Y),
    "inf": (with_value(np.inf), Y),
    "minus inf in float32": (with_value(-np.inf).astype(np.float32), Y),
    "complex": (X * 1j, Y),
    "strings": (X.astype(str).astype(object) + "x", Y),
    "one-dimensional": (X[:, 0], Y),
    "three-dimensional": (X[None], Y),
    "no rows": (X[:0], Y[:0]),
    "no columns": (X[:, :0], Y),
    "different lengths": (X, Y[:-1]),
    "no y": (X, None),
    "y not finite": (X, np.where(Y, np.nan, 1.0)),
    "complex y": (X, Y * 1j),
    "y of three dimensions": (X, Y.reshape(6, 1, 1)),
    "weights of another length": (X, Y, np.ones(5)),
    "weights of two dimensions": (X, Y, np.ones((6, 1))),
    "weights not finite": (X, Y, np.array([1, 1, np.nan, 1, 1, 1])),
    "weights of zero": (X, Y, np.zeros(6)),
}


def raised_by(call, *args):
    """Return the type and the message of the exception that a call raises."""
    with pytest.raises(Exception) as caught:  # noqa: B017, PT011 (any exception)
        call(*args)
    return caught.type, str(caught.value)


@pytest.mark.parametrize("kind", ESTIMATORS)
@pytest.mark.parametrize("name", INVALID_FITS)
def test_fit_raises_the_errors_of_scikit_learn(kind, name):
    expected = raised_by(sklearn_estimator(kind).fit, *INVALID_FITS[name])
    assert raised_by(make_estimator(kind).fit, *INVALID_FITS[name]) == expected


def test_classifier_rejects_targets_that_are_not_classes():
    for y, message in (
        (X[:, 0] / 7, "Unknown label type: continuous. Maybe you are trying to fit a classifier"),
        (X / 7, "Unknown label type: continuous-multioutput"),
        (np.stack([Y, 2 * Y, 3 - Y], axis=1), "Multioutput target data is not supported"),
    ):
        with pytest.raises(ValueError, match=message):
            make_estimator(MLPClassifier).fit(X, y)


MIXED_LABELS = {
    "int (1 at 0)": np.array([1, 2] * 3, object),
    "int (1 at 0) and NoneType (None at 1)": np.array([1, None] * 3, object),
    "str ('a' at 0) and NoneType (None at 5)": np.array(["a", "b"] * 2 + ["a", None], object),
    "int (0 at 0) and str ('a' at 1) and float (0.5 at 2)": np.array([0, "a", 0.5] * 2, object),
}


@pytest.mark.parametrize("found", MIXED_LABELS)
def test_rejects_object_labels_of_mixed_types(found):
    labels, X6 = MIXED_LABELS[found], np.arange(12.0).reshape(6, 2)
    message = rf"has dtype object and contains {re.escape(found)}; labels must all be strings or "
    with pytest.raises(ValueError, match=f"^Unknown label type: y {message}"):
        make_estimator(MLPClassifier).fit(X6, labels)
    with pytest.raises(ValueError, match=f"^Unknown label type: classes {message}"):
        make_estimator(MLPClassifier).partial_fit(X6, [0, 1] * 3, classes=labels)
    with pytest.raises(ValueError, match=f"^Unknown label type: y {message}"):
        make_estimator(MLPClassifier).partial_fit(X6, labels, classes=[0, 1])
    with pytest.raises(ValueError, match=f"^Unknown label type: y_val {message}"):
        make_estimator(MLPClassifier).fit(X6, [0, 1] * 3, X_val=X6, y_val=labels)


def test_accepts_strings_of_dtype_object_as_labels():
    names = np.array(["red", "blue"], object)[Y]
    model = make_estimator(MLPClassifier).fit(X, names, X_val=X, y_val=names)
    assert model.classes_.tolist() == ["blue", "red"]
    other = make_estimator(MLPClassifier).partial_fit(
        X, names, classes=np.array(["blue", "red"], object)
    )
    assert other.classes_.tolist() == ["blue", "red"]


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_rejects_masked_elements(kind):
    masks = {"X": X, "y": Y, "sample_weight": np.ones(len(Y))}
    masked = {
        name: np.ma.array(values, mask=values == values[-1]) for name, values in masks.items()
    }
    for name, values in masked.items():
        model, given = make_estimator(kind), {**masks, name: values}
        message = r"has masked elements \(\d+ of \d+\): fill them"
        with pytest.raises(ValueError, match=f"^{name} {message}"):
            model.fit(**given)
        assert not hasattr(model, "coefs_")
        validation = {f"{key}_val": value for key, value in given.items()}
        with pytest.raises(ValueError, match=f"^{name}_val {message}"):
            model.fit(X, Y, **validation)
    with pytest.raises(ValueError, match="^X has masked elements"):
        make_estimator(kind).fit(X, Y).predict(masked["X"])
    unmasked = make_estimator(kind).fit(np.ma.array(X), np.ma.array(Y))
    assert (unmasked.predict(np.ma.array(X)) == make_estimator(kind).fit(X, Y).predict(X)).all()


def test_rejects_values_that_float32_cannot_represent(engine):
    message = r"Input X contains infinity or a value too large for dtype\('float32'\)"
    with pytest.raises(ValueError, match=message):
        make_estimator(MLPRegressor, engine).fit(with_value(1e39), Y)
    model = make_estimator(MLPRegressor, engine).fit(X, Y)
    with pytest.raises(ValueError, match=message):
        model.predict(with_value(1e39))
    with pytest.raises(ValueError, match="y must be finite in float32"):
        make_estimator(MLPRegressor, engine).fit(X, Y * 1e39)
    with pytest.raises(ValueError, match="Input X_val contains NaN"):
        make_estimator(MLPRegressor, engine).fit(X, Y, X_val=with_value(np.nan), y_val=Y)


def test_rejects_targets_and_weights_that_are_invalid_for_the_loss():
    with pytest.raises(ValueError, match="y must hold numbers of at least 0 for this loss"):
        make_estimator(MLPRegressor, loss="poisson").fit(X, Y - 0.5)
    with pytest.raises(ValueError, match="Negative values in data passed to `sample_weight`"):
        make_estimator(MLPRegressor).fit(X, Y, Y - 0.5)
    with pytest.raises(ValueError, match=r"The classes, \[0, 1\], are not in class_weight"):
        make_estimator(MLPClassifier, class_weight={7: 1.0}).fit(X, Y)


def test_rejects_invalid_validation_data():
    model = make_estimator(MLPClassifier)
    with pytest.raises(ValueError, match="X_val and y_val must be given together"):
        model.fit(X, Y, X_val=X)
    with pytest.raises(ValueError, match="X has 1 features, but MLPClassifier is expecting 2"):
        model.fit(X, Y, X_val=X[:, :1], y_val=Y)
    with pytest.raises(ValueError, match="`y` has classes not in `self.classes_`"):
        model.fit(X, Y, X_val=X, y_val=Y + 1)
    with pytest.raises(ValueError, match="The validation set is too small. Increase"):
        make_estimator(MLPRegressor, early_stopping=True).fit(X[:4], Y[:4])
    with pytest.raises(ValueError, match="0.1 leaves 0 of 1 rows that have weight to train on"):
        weight = np.arange(60) == 0
        make_estimator(MLPRegressor, early_stopping=True, random_state=1).fit(
            X.repeat(10, 0), Y.repeat(10), weight
        )
    with pytest.raises(ValueError, match="a validation_fraction of 0.9 leaves 0 of 6 rows to trai"):
        make_estimator(MLPRegressor, early_stopping=True, validation_fraction=0.9).fit(X, Y)


@pytest.mark.parametrize("kind", ESTIMATORS)
@pytest.mark.parametrize(
    "x",
    [
        with_value(np.nan),
        with_value(np.inf),
        X * 1j,
        X[:, 0],
        X[None],
        X[:0],
        X[:, :1],
        [["a", "b"]],
    ],
)
def test_predict_raises_the_errors_of_scikit_learn(engine, kind, x):
    ours, other = make_estimator(kind, engine).fit(X, Y), sklearn_estimator(kind).fit(X, Y)
    for method in ("predict", "predict_proba")[: 1 + (kind is MLPClassifier)]:
        assert raised_by(getattr(ours, method), x) == raised_by(getattr(other, method), x)


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_predict_rejects_an_unfitted_estimator(kind):
    assert raised_by(kind().predict, X) == raised_by(sklearn_estimator(kind).predict, X)


def test_accepts_a_sparse_indicator_matrix(iris):
    x, y = iris
    labels = np.stack([y == 0, y < 2], axis=1).astype(int)
    one, other = (
        make_estimator(MLPClassifier).fit(x, form) for form in (labels, sparse.csr_array(labels))
    )
    np.testing.assert_array_equal(one.coefs_[0], other.coefs_[0])


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_a_column_of_targets_warns(kind):
    with pytest.warns(DataConversionWarning, match="A column-vector y was passed when a 1d array"):
        model = make_estimator(kind).fit(X, Y[:, None])
    assert model.predict(X).shape == (6,)


def test_rejects_invalid_parameters_by_name():
    for settings, message in (
        ({"solver": "rmsprop"}, "The 'solver' parameter of MLPClassifier must be a str among"),
        ({"engine": "torch"}, "The 'engine' parameter"),
        ({"dropout": 1.0}, r"The 'dropout' parameter .* must be a float in the range \[0.0, 1.0\)"),
        ({"dropout": [0.5, 0.5, 0.5]}, "dropout must be one value, or 2 "),
        ({"n_threads": 0}, r"The 'n_threads' parameter .* must be None or an int in the range \[1"),
        ({"early_stopping": "loss"}, "The 'early_stopping' parameter"),
        ({"class_weight": "even"}, "The 'class_weight' parameter"),
        ({"hidden_layer_sizes": (5, 0)}, r"hidden_layer_sizes must be > 0, got \[5, 0\]"),
        ({"momentum": 1.5}, r"The 'momentum' parameter .* in the range \[0.0, 1.0\]"),
        ({"scoring": "sharpness"}, "scoring"),
    ):
        model = make_estimator(MLPClassifier).set_params(**settings)
        with pytest.raises((ValueError, TypeError), match=message):
            model.fit(X, Y, X_val=X, y_val=Y)


# ---- partial_fit ----------------------------------------------------------------------------


def test_partial_fit_raises_the_errors_of_scikit_learn():
    for given in ((X, Y), (X, Y, None, [0]), (X, Y, None, [1, 2])):
        ours, other = make_estimator(MLPClassifier), sklearn_estimator(MLPClassifier)
        assert raised_by(ours.partial_fit, *given) == raised_by(other.partial_fit, *given)
    ours, other = make_estimator(MLPClassifier), sklearn_estimator(MLPClassifier)
    for model in (ours, other):
        model.partial_fit(X, Y, classes=[0, 1])
    for given in ((X, Y + 1), (X[:, :1], Y), (X, Y, None, [0, 1, 2])):
        assert raised_by(ours.partial_fit, *given) == raised_by(other.partial_fit, *given)
    for kind in ESTIMATORS:
        with pytest.raises(ValueError, match="partial_fit does not support early_stopping=True"):
            make_estimator(kind, early_stopping=True).fit(
                np.repeat(X, 9, 0), np.repeat(Y, 9)
            ).partial_fit(X, Y)
        with pytest.raises(ValueError, match=r"partial_fit does not support .*=EarlyStopping\(mon"):
            make_estimator(kind, early_stopping=EarlyStopping()).partial_fit(X, Y)
        with pytest.raises(ValueError, match="partial_fit does not support learning_rate='cosine'"):
            model = make_estimator(kind, learning_rate="cosine")
            model.partial_fit(X, Y, *([None, [0, 1]] if kind is MLPClassifier else []))
        assert not hasattr(kind(solver="lbfgs"), "partial_fit")


def test_warm_start_rejects_other_classes():
    ours, other = (
        make_estimator(MLPClassifier, warm_start=True),
        sklearn_estimator(MLPClassifier, warm_start=True),
    )
    for model in (ours, other):
        model.fit(X, Y)
    assert raised_by(ours.fit, X, Y + 1) == raised_by(other.fit, X, Y + 1)
