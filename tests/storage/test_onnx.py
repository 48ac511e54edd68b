"""ONNX models of networks, estimators and pipelines, as ONNX Runtime runs them."""

import sys

import numpy as np
import pytest
from predictions import (
    assert_same_labels,
    assert_within,
    exact_predictions,
    exact_probabilities,
)
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import VotingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tolerances import U

from fastnn import MLPClassifier, MLPRegressor, Network, register_onnx_converters
from fastnn.model.layers import ACTIVATIONS
from fastnn.model.losses import LOSSES
from fastnn.storage.onnx_export import IR_VERSION, OPSET

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
NAMES = np.array(["setosa", "versicolor", "virginica"])


def run(model, x):
    """Return a model's outputs by name; it is a path or a ModelProto."""
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
    session = runtime.InferenceSession(source)
    assert [(put.name, put.shape[1]) for put in session.get_inputs()] == [("X", x.shape[1])]
    names = [put.name for put in session.get_outputs()]
    return dict(zip(names, session.run(names, {"X": x}), strict=True))


def network_of(sizes, rng, **settings):
    """Return a network with random biases; a new network has biases of 0."""
    network = Network(sizes, **settings)
    network.use_engine("numpy")
    network.parameters = [(w, rng.normal(size=b.shape)) for w, b in network.parameters]
    return network


# ---- networks -------------------------------------------------------------------------------


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("loss", LOSSES)
def test_model_predicts_like_the_network(loss, activation, outputs, rng, tmp_path):
    network = network_of([6, 9, 7, outputs], rng, activation=activation, loss=loss, input_scale=0.4)
    network.to_onnx(tmp_path / "model.onnx")
    x = rng.normal(size=(50, 6)).astype(np.float32)
    exact, bound = exact_predictions(network, x)
    for rows in (1, 50):
        got = run(tmp_path / "model.onnx", x[:rows])
        expected = network.predict(x[:rows])
        if LOSSES[loss].score == "accuracy":
            assert list(got) == ["label", "probabilities"]
            assert_within(got["probabilities"], exact[:rows], bound[:rows])
            assert got["label"].dtype == expected.dtype == np.int64
        else:
            assert list(got) == ["values"]
            assert got["values"].shape == expected.shape
            assert_within(got["values"].reshape(rows, outputs), exact[:rows], bound[:rows])
    if LOSSES[loss].score == "accuracy":
        assert_same_labels(got["label"], expected, exact, bound)
    assert_within(network._outputs(x), exact, bound)


def test_model_scales_its_input(rng, tmp_path):
    network = network_of([20, 8, 4], rng, input_scale=1 / 255)
    x = rng.integers(0, 256, (30, 20), np.uint8)
    network.to_onnx(tmp_path / "model.onnx")
    got = run(tmp_path / "model.onnx", x.astype(np.float32))
    assert_within(got["probabilities"], *exact_predictions(network, x))


def test_each_layer_keeps_its_activation(rng, tmp_path):
    network = network_of([6, 5, 5, 5, 2], rng, activation=["tanh", "leaky_relu", "gelu"])
    network.to_onnx(tmp_path / "model.onnx")
    x = rng.normal(size=(30, 6)).astype(np.float32)
    got = run(tmp_path / "model.onnx", x)
    assert_within(got["probabilities"], *exact_predictions(network, x))
    names = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert names.index("Tanh") < names.index("LeakyRelu") < names.index("Sigmoid")  # GELU's
    assert "Mul" not in names[:2]  # an input scale of 1 needs no node


def test_model_has_the_weights_of_the_engine(engine, iris, tmp_path):
    x, y = iris
    network = Network([4, 8, 3])
    network.fit(x, y, epochs=3, engine=engine)
    network.to_onnx(tmp_path / "model.onnx")
    x = x.astype(np.float32)
    exact, bound = exact_predictions(network, x)
    got = run(tmp_path / "model.onnx", x)
    assert_within(got["probabilities"], exact, bound)
    assert_same_labels(got["label"], network.predict(x), exact, bound)


def test_model_states_its_opset_and_input(tmp_path):
    Network([6, 4, 3]).to_onnx(tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    assert [(one.domain, one.version) for one in model.opset_import] == [("", OPSET)]
    assert (model.ir_version, model.producer_name) == (IR_VERSION, "fastnn")
    (x,) = model.graph.input
    assert [one.dim_param or one.dim_value for one in x.type.tensor_type.shape.dim] == ["N", 6]


@pytest.mark.parametrize("package", ["onnx", "skl2onnx"])
def test_missing_package_raises_with_its_name(package, tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old contents")
    monkeypatch.setitem(sys.modules, package, None)
    message = rf"package {package}: pip install '\.\[onnx\]' in fastnn's checkout$"
    with pytest.raises(ModuleNotFoundError, match=message):
        register_onnx_converters() if package == "skl2onnx" else Network([2, 2]).to_onnx(path)
    assert path.read_bytes() == b"old contents"
    assert list(tmp_path.iterdir()) == [path]


# ---- estimators -----------------------------------------------------------------------------

TARGETS = {
    "numbers": lambda y: y,
    "floats": lambda y: 10.0 * y,
    "strings": lambda y: NAMES[y],
    "objects": lambda y: NAMES[y].astype(object),
    "two numbers": lambda y: (y > 0) - 5,
    "two strings": lambda y: NAMES[(y > 0).astype(int)],
    "bools": lambda y: y > 0,
    "one class": lambda y: 0 * y + 7,
    "two labels": lambda y: np.stack([y == 0, y < 2], axis=1).astype(int),
    "three labels": lambda y: np.stack([y == 0, y < 2, y > 0], axis=1).astype(int),
}
every_target = pytest.mark.parametrize("target", TARGETS)


def fitted_classifier(iris, target, **settings):
    x, y = iris
    settings = {"hidden_layer_sizes": (8,), "max_iter": 30, "engine": "numpy"} | settings
    x = x.astype(np.float32)
    return x, MLPClassifier(random_state=0, **settings).fit(x, TARGETS[target](y))


@every_target
def test_classifier_model_predicts_labels_and_probabilities(target, iris, tmp_path):
    x, classifier = fitted_classifier(iris, target)
    classifier.to_onnx(tmp_path / "model.onnx")
    exact, bound = exact_probabilities(classifier, x)
    for rows in (1, len(x)):
        got = run(tmp_path / "model.onnx", x[:rows])
        assert_within(got["probabilities"], exact[:rows], bound[:rows])
    assert got["label"].dtype == (
        object if "strings" in target or target == "objects" else np.int64
    )
    assert_same_labels(got["label"], classifier.predict(x), exact, bound)


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("loss", ["squared_error", "poisson", "absolute_error", "huber"])
def test_regressor_model_predicts_values(loss, outputs, engine, diabetes, tmp_path):
    x, y = diabetes[0].astype(np.float32), np.exp(diabetes[1])
    y = y if outputs == 1 else np.stack([y, 2 * y, 3 * y], axis=1)
    regressor = MLPRegressor(loss, (8,), "gelu", max_iter=3, engine=engine, random_state=0)
    regressor.fit(x, y).to_onnx(tmp_path / "model.onnx")
    exact, bound = exact_predictions(regressor._network, x)
    got = run(tmp_path / "model.onnx", x)
    assert list(got) == ["variable"]
    assert_within(got["variable"], exact, bound)
    assert_within(regressor.predict(x).reshape(exact.shape), exact, bound)


def test_model_has_replaced_weights(iris, tmp_path):
    x, classifier = fitted_classifier(iris, "numbers")
    classifier.coefs_ = [-w for w in classifier.coefs_]
    classifier.to_onnx(tmp_path / "model.onnx")
    got = run(tmp_path / "model.onnx", x)["probabilities"]
    np.testing.assert_allclose(got, classifier.predict_proba(x), atol=1e-5)
    assert_within(got, *exact_probabilities(classifier, x))


def test_to_onnx_rejects_an_unfitted_estimator(tmp_path):
    with pytest.raises(NotFittedError):
        MLPClassifier().to_onnx(tmp_path / "model.onnx")
    assert not any(tmp_path.iterdir())


# ---- pipelines ------------------------------------------------------------------------------


@pytest.fixture
def convert():
    """Return `skl2onnx.to_onnx` with the estimators registered."""
    skl2onnx = pytest.importorskip("skl2onnx")
    register_onnx_converters()
    return skl2onnx.to_onnx


PLAIN = {"zipmap": False}


def scaled(scaler, x):
    """Return the scaled features and a bound of their float32 error: four roundings."""
    x = x.astype(np.float64)
    error = 4 * U * (np.abs(x) + np.abs(scaler.mean_)) / scaler.scale_
    return (x - scaler.mean_) / scaler.scale_, error


@every_target
def test_pipeline_with_a_classifier(target, iris, convert):
    x, y = (3 * iris[0] + 5).astype(np.float32), iris[1]
    classifier = MLPClassifier((8,), "gelu", max_iter=30, engine="numpy", random_state=0)
    pipeline = make_pipeline(StandardScaler(), classifier).fit(x, TARGETS[target](y))
    model = convert(pipeline, x[:1], options=PLAIN)
    exact, bound = exact_probabilities(classifier, *scaled(pipeline[0], x))
    for rows in (1, len(x)):
        got = run(model, x[:rows])
        assert list(got) == ["label", "probabilities"]
        assert_within(got["probabilities"], exact[:rows], bound[:rows])
    assert_same_labels(got["label"], pipeline.predict(x), exact, bound)
    declared = [len(one.type.tensor_type.shape.dim) for one in model.graph.output]
    assert declared == [got["label"].ndim, 2]


@pytest.mark.parametrize("outputs", [1, 2])
def test_pipeline_with_a_regressor(outputs, diabetes, convert):
    x, y = diabetes[0].astype(np.float32), diabetes[1]
    y = y if outputs == 1 else np.stack([y, -y], axis=1)
    regressor = MLPRegressor("huber", (8,), max_iter=3, engine="numpy", random_state=0)
    pipeline = make_pipeline(StandardScaler(), regressor).fit(x, y)
    model = convert(pipeline, x[:1])
    exact, bound = exact_predictions(regressor._network, *scaled(pipeline[0], x))
    assert_within(run(model, x)["variable"], exact, bound)
    (shape,) = (one.type.tensor_type.shape.dim for one in model.graph.output)
    assert shape[1].dim_value == outputs


def test_classifier_options_of_skl2onnx(iris, convert):
    x, classifier = fitted_classifier(iris, "strings")
    plain = run(convert(classifier, x[:1], options=PLAIN), x)
    mapped = run(convert(classifier, x[:1]), x)  # by default
    assert list(mapped) == ["output_label", "output_probability"]
    rows = np.array([[row[name] for name in NAMES] for row in mapped["output_probability"]])
    np.testing.assert_array_equal(rows, plain["probabilities"])
    columns = run(convert(classifier, x[:1], options={"zipmap": "columns"}), x)
    for name, p in zip(NAMES, plain["probabilities"].T, strict=True):
        np.testing.assert_array_equal(columns[f"s{name}"], p)
    options = PLAIN | {"output_class_labels": True}
    assert run(convert(classifier, x[:1], options=options), x)["class_labels"].tolist() == [*NAMES]
    numbers = run(convert(classifier, x[:1], options=PLAIN | {"nocl": True}), x)
    np.testing.assert_array_equal(NAMES[numbers["label"]], plain["label"])
    with pytest.raises(NameError, match="raw_scores"):
        convert(classifier, x[:1], options={"raw_scores": True})


@pytest.mark.parametrize("dtype", [np.float64, np.int64])
def test_features_of_other_dtypes(dtype, iris, convert):
    x, classifier = fitted_classifier(iris, "two strings")
    x = (10 * x).astype(dtype)
    got = run(convert(classifier, x[:1], options=PLAIN), x)
    assert got["probabilities"].dtype == (np.float64 if dtype == np.float64 else np.float32)
    exact, bound = exact_probabilities(classifier, x, U * np.abs(x))
    assert_within(got["probabilities"], exact, bound)
    assert_same_labels(got["label"], classifier.predict(x), exact, bound)


def test_older_opset(iris, convert):
    x, classifier = fitted_classifier(iris, "numbers", activation="gelu")
    model = convert(classifier, x[:1], options=PLAIN, target_opset={"": OPSET, "ai.onnx.ml": 1})
    assert all(one.version <= OPSET for one in model.opset_import)
    assert_within(run(model, x)["probabilities"], *exact_probabilities(classifier, x))


def test_pipeline_with_a_column_transformer(iris, convert):
    x, y = iris[0].astype(np.float32), iris[1]
    columns = ColumnTransformer([("all", StandardScaler(), [2, 0]), ("one", "passthrough", [3])])
    classifier = MLPClassifier((8,), max_iter=30, engine="numpy", random_state=0)
    pipeline = make_pipeline(columns, classifier).fit(x, y)
    ordered, error = scaled(columns.named_transformers_["all"], x[:, [2, 0]])
    ordered = np.hstack([ordered, x[:, [3]]])
    error = np.hstack([error, np.zeros((len(x), 1))])
    got = run(convert(pipeline, x[:1], options=PLAIN), x)
    exact, bound = exact_probabilities(classifier, ordered, error)
    assert_within(got["probabilities"], exact, bound)
    assert_same_labels(got["label"], pipeline.predict(x), exact, bound)


def test_voting_classifier_with_two_estimators(iris, convert):
    x, y = iris[0].astype(np.float32), iris[1]
    both = [
        (name, MLPClassifier((6,), name, max_iter=30, engine="numpy", random_state=seed))
        for seed, name in enumerate(["relu", "gelu"])
    ]
    voting = VotingClassifier(both, voting="soft", flatten_transform=False).fit(x, y)
    got = run(convert(voting, x[:1], options={id(voting): PLAIN}), x)
    probabilities = [exact_probabilities(one, x) for one in voting.estimators_]
    exact, bound = (sum(pair) / 2 for pair in zip(*probabilities, strict=True))
    assert_within(got["probabilities"], exact, bound + 3 * U)
