"""The estimators in scikit-learn's pipelines, as skl2onnx makes ONNX models of them.

Once `register_onnx_converters` has been called, `skl2onnx.to_onnx` knows fastnn's estimators
wherever it knows scikit-learn's, with the same outputs and options. They compute in float32:
features of another type are cast to it, and for float64 ones the predictions are cast back.
"""

from typing import Any

from fastnn.estimators.classifier import MLPClassifier
from fastnn.estimators.regressor import MLPRegressor
from fastnn.storage.onnx_export import missing_package_error

_OPTIONS = {  # those of scikit-learn's own
    "zipmap": [True, False, "columns"],
    "output_class_labels": [False, True],
    "nocl": [True, False],
}


def register_onnx_converters() -> None:
    """Tell skl2onnx how the estimators are converted; to do so again does no harm.

    Raises
    ------
    ModuleNotFoundError
        If the package skl2onnx is not installed.

    Examples
    --------
    A pipeline whose last step is one of the estimators, with plain probabilities::

        from fastnn import register_onnx_converters
        from skl2onnx import to_onnx

        register_onnx_converters()
        model = to_onnx(pipeline, X[:1].astype("float32"), options={"zipmap": False})
    """
    try:
        from skl2onnx import update_registered_converter
    except ModuleNotFoundError as error:
        raise missing_package_error(error) from error
    for kind, shapes, convert, options in (
        (MLPClassifier, _classifier_shapes, _convert_classifier, _OPTIONS),
        (MLPRegressor, _regressor_shapes, _convert_regressor, None),
    ):
        alias = f"Fastnn{kind.__name__}"
        update_registered_converter(kind, alias, shapes, convert, options=options)


def _classifier_shapes(operator: Any) -> None:
    from skl2onnx.common.data_types import Int64TensorType
    from skl2onnx.common.shape_calculator import calculate_linear_classifier_output_shapes

    calculate_linear_classifier_output_shapes(operator)
    labels, probabilities = operator.outputs
    if operator.raw_operator._is_multilabel:
        labels.set_type(Int64TensorType(list(probabilities.type.shape)))


def _regressor_shapes(operator: Any) -> None:
    from skl2onnx.common.shape_calculator import calculate_linear_regressor_output_shapes

    calculate_linear_regressor_output_shapes(operator)
    values = operator.outputs[0].type
    values.shape = [values.shape[0], operator.raw_operator.n_outputs_]


def _convert_classifier(scope: Any, operator: Any, container: Any) -> None:
    from skl2onnx.common.utils_classifier import get_label_classes

    estimator = operator.raw_operator
    _add(scope, operator, container, estimator._onnx_graph(get_label_classes(scope, estimator)))


def _convert_regressor(scope: Any, operator: Any, container: Any) -> None:
    _add(scope, operator, container, operator.raw_operator._onnx_graph())


def _add(scope: Any, operator: Any, container: Any, graph: Any) -> None:
    """Add a graph's constants and nodes to a pipeline's, under names that are new there."""
    from onnx import TensorProto, helper, numpy_helper
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

    features, predictions = operator.inputs[0], operator.outputs[-1]
    names = {"X": features.full_name}
    for ours, its in zip(graph.output, operator.outputs, strict=True):
        names[ours.name] = its.full_name
    real = graph.output[-1].name
    if not isinstance(features.type, FloatTensorType):
        names["X"] = scope.get_unique_variable_name("X")
        container.add_node("Cast", features.full_name, names["X"], to=TensorProto.FLOAT)
    if isinstance(predictions.type, DoubleTensorType):
        names[real] = scope.get_unique_variable_name(real)
    for constant in graph.initializer:
        name = names[constant.name] = scope.get_unique_variable_name(constant.name)
        values = numpy_helper.to_array(constant).ravel()
        container.add_initializer(name, constant.data_type, list(constant.dims), values)
    for node in graph.node:
        (output,) = node.output
        names.setdefault(output, scope.get_unique_variable_name(output))
        attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        inputs = [names[name] for name in node.input]
        container.add_node(node.op_type, inputs, names[output], **attributes)
    if names[real] != predictions.full_name:
        container.add_node("Cast", names[real], predictions.full_name, to=TensorProto.DOUBLE)
