"""What the estimators take, in any layout, and what they refuse, in scikit-learn's words."""

import re
import warnings

import numpy as np
import pytest
import sklearn.neural_network as scikit_learn
from scipy import sparse
from sklearn.exceptions import DataConversionWarning

from fastnn import EarlyStopping, MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
KINDS = [MLPClassifier, MLPRegressor]


def small(kind, engine="numpy", **settings):
    return kind(
        **{"hidden_layer_sizes": 4, "max_iter": 3, "random_state": 0} | settings, engine=engine
    )


def theirs(kind, **settings):
    parameters = {"hidden_layer_sizes": 4, "max_iter": 3, "random_state": 0} | settings
    return getattr(scikit_learn, kind.__name__)(**parameters)


# ---- what is taken --------------------------------------------------------------------------


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


def swapped(x):
    return x.astype(x.dtype.newbyteorder())


def lists(x):
    return x.tolist()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("form", [fortran, read_only, strided, unaligned, swapped, lists])
def test_any_layout(engine, iris, form, dtype):
    x, y = iris
    if form is lists and dtype == np.float32:
        pytest.skip("lists hold float64")
    x = x.astype(dtype)
    plain, other = small(MLPClassifier, engine).fit(x, y), small(MLPClassifier, engine)
    other.fit(form(x), form(y) if form is not strided else y)
    np.testing.assert_array_equal(plain.coefs_[0], other.coefs_[0])
    # To scikit-learn, float32 of the other byte order is not float32: its answers are float64.
    for rows in (x, x[:1]):
        np.testing.assert_allclose(
            other.predict_proba(form(rows)), plain.predict_proba(rows), rtol=5e-7
        )


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames(engine, iris, library):
    frames = pytest.importorskip(library)
    x, y = iris
    columns = ["a", "b", "c", "d"]
    frame = frames.DataFrame({name: x[:, i] for i, name in enumerate(columns)})
    labels = (
        frames.Series(values=np.array(["u", "v", "w"])[y])
        if library == "polars"
        else (frames.Series(np.array(["u", "v", "w"])[y]))
    )
    model = small(MLPClassifier, engine, max_iter=60).fit(frame, labels, X_val=frame, y_val=labels)
    assert model.feature_names_in_.tolist() == columns
    assert set(model.predict(frame)) <= {"u", "v", "w"}
    assert model.score(frame, labels) == model.validation_scores_[-1]
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        plain = model.predict_proba(x)
    np.testing.assert_array_equal(model.predict_proba(frame), plain)
    with pytest.raises(ValueError, match="The feature names should match those"):
        model.predict(frame[columns[::-1]])


def test_frames_with_early_stopping_warn_of_nothing(iris):
    pandas = pytest.importorskip("pandas")
    x, y = iris
    frame = pandas.DataFrame(x, columns=["a", "b", "c", "d"])
    for scoring in (None, "accuracy", "roc_auc_ovr"):
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            small(MLPClassifier, max_iter=300, early_stopping=True, scoring=scoring).fit(frame, y)


def test_bytes_are_taken_as_they_are(engine, rng, monkeypatch):
    x, y = rng.integers(0, 256, (60, 8), np.uint8), rng.integers(0, 2, 60)
    model = small(MLPClassifier, engine)
    seen = []
    train = type(small(MLPClassifier).fit(x, y)._network).train

    def look(network, data, *args, **settings):
        seen.append(data.x)
        return train(network, data, *args, **settings)

    monkeypatch.setattr("fastnn.network.Network.train", look)
    model.fit(x, y)
    assert seen[0] is x
    floats = small(MLPClassifier, engine).fit(x.astype(float), y)
    np.testing.assert_array_equal(model.coefs_[0], floats.coefs_[0])
    np.testing.assert_array_equal(model.predict_proba(x), floats.predict_proba(x))


def test_one_row_and_one_class(engine, iris):
    x, y = iris
    for data in ((x[:1], y[:1]), (x, np.full(len(x), 3))):
        model = small(MLPClassifier, engine).fit(*data)
        np.testing.assert_array_equal(model.predict(x), data[1][0])
        np.testing.assert_array_equal(model.predict_proba(x), np.ones((len(x), 1)))
        assert small(MLPRegressor, engine).fit(*data).predict(x).shape == y.shape


def test_no_hidden_layer(engine, iris):
    x, y = iris
    model = small(MLPClassifier, engine, hidden_layer_sizes=(), max_iter=50, batch_size=8).fit(x, y)
    assert model.n_layers_ == 2
    assert model.score(x, y) > 0.8


# ---- what is refused ------------------------------------------------------------------------

X, Y = np.arange(12.0).reshape(6, 2), np.array([0, 1, 0, 1, 0, 1])


def spoiled(value):
    x = X.copy()
    x[3, 1] = value
    return x


FITS = {
    "nan": (spoiled(np.nan), Y),
    "inf": (spoiled(np.inf), Y),
    "minus inf in float32": (spoiled(-np.inf).astype(np.float32), Y),
    "complex": (X * 1j, Y),
    "words": (X.astype(str).astype(object) + "x", Y),
    "one-dimensional": (X[:, 0], Y),
    "three-dimensional": (X[None], Y),
    "no rows": (X[:0], Y[:0]),
    "no columns": (X[:, :0], Y),
    "other lengths": (X, Y[:-1]),
    "no y": (X, None),
    "y not finite": (X, np.where(Y, np.nan, 1.0)),
    "complex y": (X, Y * 1j),
    "y of three dimensions": (X, Y.reshape(6, 1, 1)),
    "weights of another length": (X, Y, np.ones(5)),
    "weights of two dimensions": (X, Y, np.ones((6, 1))),
    "weights not finite": (X, Y, np.array([1, 1, np.nan, 1, 1, 1])),
    "weights of zero": (X, Y, np.zeros(6)),
}


def error_of(call, *args):
    """Return the type and the words of what a call raises."""
    with pytest.raises(Exception) as caught:  # noqa: B017, PT011 (which one is what is asked)
        call(*args)
    return caught.type, str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FITS)
def test_a_fit_is_refused_in_scikit_learns_words(kind, name):
    kind_of_error, words = error_of(small(kind).fit, *FITS[name])
    assert (kind_of_error, words) == error_of(theirs(kind).fit, *FITS[name])


def test_targets_that_are_no_classes():
    for y, words in (
        (X[:, 0] / 7, "Unknown label type: continuous. Maybe you are trying to fit a classifier"),
        (X / 7, "Unknown label type: continuous-multioutput"),
        (np.stack([Y, 2 * Y, 3 - Y], axis=1), "Multioutput target data is not supported"),
    ):
        with pytest.raises(ValueError, match=words):
            small(MLPClassifier).fit(X, y)


MIXED = {
    "int (1 at 0)": np.array([1, 2] * 3, object),
    "int (1 at 0) and NoneType (None at 1)": np.array([1, None] * 3, object),
    "str ('a' at 0) and NoneType (None at 5)": np.array(["a", "b"] * 2 + ["a", None], object),
    "int (0 at 0) and str ('a' at 1) and float (0.5 at 2)": np.array([0, "a", 0.5] * 2, object),
}


@pytest.mark.parametrize("found", MIXED)
def test_labels_of_dtype_object_are_refused_with_what_they_are(found):
    labels, X6 = MIXED[found], np.arange(12.0).reshape(6, 2)
    words = rf"has dtype object and holds {re.escape(found)}: labels must be all strings, or "
    with pytest.raises(ValueError, match=f"^Unknown label type: y {words}"):
        small(MLPClassifier).fit(X6, labels)
    with pytest.raises(ValueError, match=f"^Unknown label type: classes {words}"):
        small(MLPClassifier).partial_fit(X6, [0, 1] * 3, classes=labels)
    with pytest.raises(ValueError, match=f"^Unknown label type: y {words}"):
        small(MLPClassifier).partial_fit(X6, labels, classes=[0, 1])
    with pytest.raises(ValueError, match=f"^Unknown label type: y_val {words}"):
        small(MLPClassifier).fit(X6, [0, 1] * 3, X_val=X6, y_val=labels)


def test_strings_of_dtype_object_are_labels():
    names = np.array(["red", "blue"], object)[Y]
    model = small(MLPClassifier).fit(X, names, X_val=X, y_val=names)
    assert model.classes_.tolist() == ["blue", "red"]
    other = small(MLPClassifier).partial_fit(X, names, classes=np.array(["blue", "red"], object))
    assert other.classes_.tolist() == ["blue", "red"]


@pytest.mark.parametrize("kind", KINDS)
def test_masked_elements_are_refused_by_name(kind):
    masks = {"X": X, "y": Y, "sample_weight": np.ones(len(Y))}
    masked = {
        name: np.ma.array(values, mask=values == values[-1]) for name, values in masks.items()
    }
    for name, values in masked.items():
        model, given = small(kind), {**masks, name: values}
        words = r"has masked elements \(\d+ of \d+\): fill them"
        with pytest.raises(ValueError, match=f"^{name} {words}"):
            model.fit(**given)
        assert not hasattr(model, "coefs_")
        kept = {f"{key}_val": value for key, value in given.items()}
        with pytest.raises(ValueError, match=f"^{name}_val {words}"):
            model.fit(X, Y, **kept)
    with pytest.raises(ValueError, match="^X has masked elements"):
        small(kind).fit(X, Y).predict(masked["X"])
    whole = small(kind).fit(np.ma.array(X), np.ma.array(Y))
    assert (whole.predict(np.ma.array(X)) == small(kind).fit(X, Y).predict(X)).all()


def test_values_that_float32_cannot_hold(engine):
    words = r"Input X contains infinity or a value too large for dtype\('float32'\)"
    with pytest.raises(ValueError, match=words):
        small(MLPRegressor, engine).fit(spoiled(1e39), Y)
    model = small(MLPRegressor, engine).fit(X, Y)
    with pytest.raises(ValueError, match=words):
        model.predict(spoiled(1e39))
    with pytest.raises(ValueError, match="y must be finite in float32"):
        small(MLPRegressor, engine).fit(X, Y * 1e39)
    with pytest.raises(ValueError, match="Input X_val contains NaN"):
        small(MLPRegressor, engine).fit(X, Y, X_val=spoiled(np.nan), y_val=Y)


def test_targets_and_weights_that_a_loss_cannot_take():
    with pytest.raises(ValueError, match="y must hold numbers of at least 0 for this loss"):
        small(MLPRegressor, loss="poisson").fit(X, Y - 0.5)
    with pytest.raises(ValueError, match="Negative values in data passed to `sample_weight`"):
        small(MLPRegressor).fit(X, Y, Y - 0.5)
    with pytest.raises(ValueError, match=r"The classes, \[0, 1\], are not in class_weight"):
        small(MLPClassifier, class_weight={7: 1.0}).fit(X, Y)


def test_validation_data_that_do_not_fit():
    model = small(MLPClassifier)
    with pytest.raises(ValueError, match="X_val and y_val must be given together"):
        model.fit(X, Y, X_val=X)
    with pytest.raises(ValueError, match="X has 1 features, but MLPClassifier is expecting 2"):
        model.fit(X, Y, X_val=X[:, :1], y_val=Y)
    with pytest.raises(ValueError, match="`y` has classes not in `self.classes_`"):
        model.fit(X, Y, X_val=X, y_val=Y + 1)
    with pytest.raises(ValueError, match="The validation set is too small. Increase"):
        small(MLPRegressor, early_stopping=True).fit(X[:4], Y[:4])
    with pytest.raises(ValueError, match="0.1 leaves 0 of 1 rows that have weight to train on"):
        weight = np.arange(60) == 0
        small(MLPRegressor, early_stopping=True, random_state=1).fit(
            X.repeat(10, 0), Y.repeat(10), weight
        )
    with pytest.raises(ValueError, match="a validation_fraction of 0.9 leaves 0 of 6 rows to trai"):
        small(MLPRegressor, early_stopping=True, validation_fraction=0.9).fit(X, Y)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "x",
    [spoiled(np.nan), spoiled(np.inf), X * 1j, X[:, 0], X[None], X[:0], X[:, :1], [["a", "b"]]],
)
def test_a_question_is_refused_in_scikit_learns_words(engine, kind, x):
    ours, other = small(kind, engine).fit(X, Y), theirs(kind).fit(X, Y)
    for ask in ("predict", "predict_proba")[: 1 + (kind is MLPClassifier)]:
        assert error_of(getattr(ours, ask), x) == error_of(getattr(other, ask), x)


@pytest.mark.parametrize("kind", KINDS)
def test_an_unfitted_model_says_so(kind):
    assert error_of(kind().predict, X) == error_of(theirs(kind).predict, X)


def test_a_sparse_indicator_matrix_is_taken(iris):
    x, y = iris
    labels = np.stack([y == 0, y < 2], axis=1).astype(int)
    one, other = (small(MLPClassifier).fit(x, form) for form in (labels, sparse.csr_array(labels)))
    np.testing.assert_array_equal(one.coefs_[0], other.coefs_[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_column_of_targets_is_warned_of(kind):
    with pytest.warns(DataConversionWarning, match="A column-vector y was passed when a 1d array"):
        model = small(kind).fit(X, Y[:, None])
    assert model.predict(X).shape == (6,)


def test_parameters_are_refused_by_name():
    for settings, words in (
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
        model = small(MLPClassifier).set_params(**settings)
        with pytest.raises((ValueError, TypeError), match=words):
            model.fit(X, Y, X_val=X, y_val=Y)


# ---- partial_fit ----------------------------------------------------------------------------


def test_partial_fits_are_refused_in_scikit_learns_words():
    for given in ((X, Y), (X, Y, None, [0]), (X, Y, None, [1, 2])):
        ours, other = small(MLPClassifier), theirs(MLPClassifier)
        assert error_of(ours.partial_fit, *given) == error_of(other.partial_fit, *given)
    ours, other = small(MLPClassifier), theirs(MLPClassifier)
    for model in (ours, other):
        model.partial_fit(X, Y, classes=[0, 1])
    for given in ((X, Y + 1), (X[:, :1], Y), (X, Y, None, [0, 1, 2])):
        assert error_of(ours.partial_fit, *given) == error_of(other.partial_fit, *given)
    for kind in KINDS:
        with pytest.raises(ValueError, match="partial_fit does not support early_stopping=True"):
            small(kind, early_stopping=True).fit(np.repeat(X, 9, 0), np.repeat(Y, 9)).partial_fit(
                X, Y
            )
        with pytest.raises(ValueError, match=r"partial_fit does not support .*=EarlyStopping\(mon"):
            small(kind, early_stopping=EarlyStopping()).partial_fit(X, Y)
        with pytest.raises(ValueError, match="partial_fit does not support learning_rate='cosine'"):
            model = small(kind, learning_rate="cosine")
            model.partial_fit(X, Y, *([None, [0, 1]] if kind is MLPClassifier else []))
        assert not hasattr(kind(solver="lbfgs"), "partial_fit")


def test_a_warm_start_wants_the_same_classes():
    ours, other = small(MLPClassifier, warm_start=True), theirs(MLPClassifier, warm_start=True)
    for model in (ours, other):
        model.fit(X, Y)
    assert error_of(ours.fit, X, Y + 1) == error_of(other.fit, X, Y + 1)
