"""Settings at the limits of float32; a rejected fit leaves the estimator unchanged."""

import numpy as np
import pytest
import sklearn.neural_network as scikit_learn

from fastnn import EarlyStopping, MLPClassifier

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
X, Y = np.arange(12.0).reshape(6, 2), np.array([0, 1, 0, 1, 0, 1])


def make_classifier(engine="numpy", **settings):
    return MLPClassifier(4, max_iter=3, random_state=0, engine=engine, **settings)


# ---- settings -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate_init": 1e39}, "learning_rate_init must be"),
        ({"epsilon": 1e39}, r"epsilon must be a number that float32 can represent, got 1e\+39$"),
        ({"alpha": 1e39}, "alpha must be"),
        ({"alpha": 1e39, "solver": "lbfgs"}, "alpha must be"),
        ({"weight_decay": 1e39}, "weight_decay must be"),
        ({"dropout": 0.5, "solver": "lbfgs"}, "lbfgs supports neither dropout"),
        (
            {"learning_rate": "cosine", "solver": "lbfgs"},
            "solver='lbfgs' has no learning_rate, got 'cos",
        ),
    ],
)
def test_rejects_settings_that_float32_or_the_solver_does_not_support(engine, settings, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        make_classifier(engine, **settings).fit(X, Y)


@pytest.mark.parametrize(
    "settings",
    [{"beta_1": 1 - 1e-12, "beta_2": 1 - 1e-12}]
    + [{"n_iter_no_change": True, "tol": True}, {"learning_rate": "adaptive", "solver": "lbfgs"}],
)
def test_accepts_extreme_settings_that_scikit_learn_accepts(engine, settings):
    model = make_classifier(engine, **settings).fit(X, Y)
    scikit_learn.MLPClassifier(max_iter=3, **settings).fit(X, Y)
    assert np.isfinite(model.coefs_[0]).all()


def test_rejects_invalid_class_weights_by_label(engine):
    names = np.array(["blue", "red"])[Y]
    for weight in (-5, np.inf, np.nan, "1", None):
        with pytest.raises(
            ValueError, match="^class_weight of 'red' must be a finite number of at"
        ):
            make_classifier(engine, class_weight={"red": weight}).fit(X, names)
    with pytest.raises(ValueError, match="^class_weight must not all be 0$"):
        make_classifier(engine, class_weight={"red": 0, "blue": 0}).fit(X, names)


# ---- rejected fits --------------------------------------------------------------------------

X3, Y3 = np.arange(36.0).reshape(12, 3), np.arange(12) % 3  # different features and classes
INVALID_FITS = {
    "sample_weight": ({}, {"sample_weight": np.zeros(12)}),
    "X_val": ({}, {"X_val": X, "y_val": Y}),
    "y_val": ({}, {"X_val": X3, "y_val": Y3 + 1}),
    "class_weight": ({"class_weight": {0: -1}}, {}),
    "monitor": ({"early_stopping": EarlyStopping("val_r2")}, {}),
    "validation_fraction": ({"early_stopping": True, "validation_fraction": 0.99}, {}),
    "alpha": ({"alpha": 1e39}, {}),
    "dropout": ({"solver": "lbfgs", "dropout": 0.5}, {}),
    "hidden_layer_sizes": ({"hidden_layer_sizes": (0,)}, {}),
    "callbacks": ({"callbacks": [print]}, {}),
}


@pytest.mark.parametrize("name", INVALID_FITS)
def test_rejected_fit_leaves_the_model_unchanged(engine, name):
    pandas = pytest.importorskip("pandas")
    settings, given = INVALID_FITS[name]
    model = make_classifier(engine).fit(pandas.DataFrame(X, columns=["a", "b"]), Y)
    model.set_params(**settings)
    before = dict(vars(model))
    with pytest.raises((ValueError, TypeError)):
        model.fit(X3, Y3, **given)
    assert vars(model).keys() == before.keys()
    assert all(vars(model)[key] is value for key, value in before.items())
    assert (model.n_features_in_, model.classes_.tolist()) == (2, [0, 1])
    assert model.predict(pandas.DataFrame(X, columns=["a", "b"])).shape == (6,)


def test_rejected_first_fit_leaves_no_attributes():
    for fit in (
        lambda model: model.fit(X, Y, np.zeros(6)),
        lambda model: model.partial_fit(X, Y, np.zeros(6), classes=[0, 1]),
    ):
        model = make_classifier()
        with pytest.raises(ValueError, match="Sample weights must contain"):
            fit(model)
        assert vars(model) == vars(make_classifier())
