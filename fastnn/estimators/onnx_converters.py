"""Converters with which skl2onnx exports pipelines that contain the estimators.

After `register_onnx_converters`, `skl2onnx.to_onnx` supports fastnn's estimators as it supports
scikit-learn's, with the same outputs and options. The models compute in float32: features of
another type are cast to float32. For float64 features, the predictions are cast to float64.
"""

from typing import Any

from fastnn.estimators.classifier import MLPClassifier
from fastnn.estimators.regressor import MLPRegressor
from fastnn.storage.onnx_export import missing_package_error

_OPTIONS = {  # the options of scikit-learn's MLPClassifier
    "zipmap": [True, False, "columns"],
    "output_class_labels": [False, True],
    "nocl": [True, False],
}


def register_onnx_converters() -> None:
    """Register the estimators with skl2onnx, so that it can export pipelines with them.

    Calling the function again has no effect.

    Raises
    ------
    ModuleNotFoundError
        If the package skl2onnx is not installed.

    Examples
    --------
    >>> from fastnn import MLPClassifier, register_onnx_converters
    >>> from skl2onnx import to_onnx
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> X, y = load_iris(return_X_y=True)
    >>> pipeline = make_pipeline(
    ...     StandardScaler(), MLPClassifier(solver="lbfgs", engine="numpy", random_state=0)
    ... ).fit(X, y)
    >>> register_onnx_converters()
    >>> model = to_onnx(pipeline, X[:1].astype("float32"), options={"zipmap": False})
    >>> [output.name for output in model.graph.output]
    ['label', 'probabilities']
    """
    try:
        from skl2onnx import update_registered_converter
    except ModuleNotFoundError as error:
        raise missing_package_error(error) from error
    for kind, shapes, options in (
        (MLPClassifier, _set_classifier_shapes, _OPTIONS),
        (MLPRegressor, _set_regressor_shapes, None),
    ):
        alias = f"Fastnn{kind.__name__}"
        update_registered_converter(kind, alias, shapes, _convert, options=options)


def _set_classifier_shapes(operator: Any) -> None:
    from skl2onnx.common.data_types import Int64TensorType
    from skl2onnx.common.shape_calculator import calculate_linear_classifier_output_shapes

    calculate_linear_classifier_output_shapes(operator)
    labels, probabilities = operator.outputs
    if operator.raw_operator._is_multilabel:
        labels.set_type(Int64TensorType(list(probabilities.type.shape)))


def _set_regressor_shapes(operator: Any) -> None:
    from skl2onnx.common.shape_calculator import calculate_linear_regressor_output_shapes

    calculate_linear_regressor_output_shapes(operator)
    values = operator.outputs[0].type
    values.shape = [values.shape[0], operator.raw_operator.n_outputs_]


def _convert(scope: Any, operator: Any, container: Any) -> None:
    """Add an estimator's constants and nodes to a pipeline's, under a prefix that is new there."""
    from onnx import TensorProto, compose, helper, numpy_helper
    from skl2onnx.common.data_types import DoubleTensorType
    from skl2onnx.common.utils_classifier import get_label_classes

    estimator, prefix = operator.raw_operator, scope.get_unique_variable_name("fastnn_")
    is_classifier = isinstance(estimator, MLPClassifier)
    classes = get_label_classes(scope, estimator) if is_classifier else None
    graph = compose.add_prefix_graph(estimator._onnx_graph(classes), prefix)
    features, predictions = operator.inputs[0], operator.outputs[-1]
    container.add_node("Cast", features.full_name, f"{prefix}X", to=TensorProto.FLOAT)
    for constant in graph.initializer:
        values = numpy_helper.to_array(constant).ravel()
        container.add_initializer(constant.name, constant.data_type, list(constant.dims), values)
    for node in graph.node:
        attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        container.add_node(node.op_type, list(node.input), list(node.output), **attributes)
    for ours, theirs in zip(graph.output[:-1], operator.outputs[:-1], strict=True):
        container.add_node("Identity", ours.name, theirs.full_name)
    is_double = isinstance(predictions.type, DoubleTensorType)
    dtype = TensorProto.DOUBLE if is_double else TensorProto.FLOAT
    container.add_node("Cast", graph.output[-1].name, predictions.full_name, to=dtype)
