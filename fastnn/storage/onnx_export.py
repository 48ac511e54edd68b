"""Export of networks as ONNX models, which ONNX Runtime and many other programs run.

A model has the input ``X`` (N, inputs) float32, which it does not check. It computes what the
network predicts, in float32; the results differ by rounding only. The operators are those of
opset 13 (ONNX 1.8), the first one in which Softmax works along a single axis; ONNX Runtime has
supported it since version 1.6.
"""

from math import pi, sqrt
from typing import Any

import numpy as np

from fastnn import __version__
from fastnn.model.layers import LEAK
from fastnn.system.files import FilePath, write_atomically

OPSET, IR_VERSION = 13, 7

_FLAT = np.array([-1], np.int64)
_PER_ROW: dict[str, Any] = {"axis": 1, "keepdims": 0}
# GELU: z / 2 · (1 + tanh u), as in the engines, is z σ(2 u), and 2 u is z (slope + cubic z²).
_GELU_SLOPE, _GELU_CUBIC = (np.float32(2 * sqrt(2 / pi) * factor) for factor in (1, 0.044715))

# Activation or link: operator and attributes. GELU takes several operators.
_OPERATORS: dict[str, tuple[str, dict[str, Any]]] = {
    "identity": ("Identity", {}),
    "logistic": ("Sigmoid", {}),
    "tanh": ("Tanh", {}),
    "relu": ("Relu", {}),
    "leaky_relu": ("LeakyRelu", {"alpha": LEAK}),
    "softmax": ("Softmax", {"axis": 1}),
    "exp": ("Exp", {}),
}


def missing_package_error(error: ModuleNotFoundError) -> ModuleNotFoundError:
    """Return an error that says how to install the missing package."""
    return ModuleNotFoundError(
        f"ONNX models need the package {error.name}: pip install '.[onnx]' in fastnn's checkout",
        name=error.name,
    )


def _onnx() -> Any:
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise missing_package_error(error) from error
    return onnx


class _Graph:
    """A graph under construction: nodes in execution order, and constants."""

    def __init__(self) -> None:
        self._onnx = _onnx()
        self.types = self._onnx.TensorProto
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def add(self, operator: str, *inputs: Any, output: str = "", **attributes: Any) -> str:
        """Add a node and return the name of its output; inputs are names or arrays."""
        output = output or f"{operator.lower()}_{len(self._nodes)}"
        names = [name if isinstance(name, str) else self._constant(name) for name in inputs]
        make_node = self._onnx.helper.make_node
        self._nodes.append(make_node(operator, names, [output], name=f"{output}_", **attributes))
        return output

    def _constant(self, value: np.ndarray) -> str:
        name = f"constant_{len(self._constants)}"
        self._constants.append(self._onnx.numpy_helper.from_array(value, name))
        return name

    def finish(self, inputs: int, outputs: dict[str, tuple[str, list[int]]]) -> Any:
        """Return the GraphProto; `outputs` has each output's element type and shape of a row."""
        helper = self._onnx.helper
        values = [
            helper.make_tensor_value_info(name, getattr(self.types, kind), ["N", *shape])
            for name, (kind, shape) in {"X": ("FLOAT", [inputs]), **outputs}.items()
        ]
        return helper.make_graph(self._nodes, "fastnn", values[:1], values[1:], self._constants)


def network_graph(network: Any) -> Any:
    """Return the graph of a network, whose outputs are those of `Network.predict`.

    Parameters
    ----------
    network : Network

    Returns
    -------
    onnx.GraphProto
        For a classifier, the graph of `classifier_graph`. For a regression, a graph with the
        output `values` float32: (N,) for one output, else (N, outputs).

    Raises
    ------
    ModuleNotFoundError
        If the package onnx is not installed.
    """
    if network.loss.score == "accuracy":
        return classifier_graph(network)
    return regression_graph(network, "values", flat=network.layers[-1].outputs == 1)


def regression_graph(network: Any, name: str, *, flat: bool = False) -> Any:
    """Return the graph of a regression with one output of this name.

    Parameters
    ----------
    network : Network
    name : str
    flat : bool, default False
        Whether the output is (N,) rather than (N, outputs).

    Raises
    ------
    ModuleNotFoundError
        If the package onnx is not installed.
    """
    graph = _Graph()
    values = _add_network(graph, network, "" if flat else name)
    if flat:
        graph.add("Reshape", values, _FLAT, output=name)
    shape = [] if flat else [network.layers[-1].outputs]
    return graph.finish(network.layers[0].inputs, {name: ("FLOAT", shape)})


def classifier_graph(network: Any, classes: np.ndarray | None = None) -> Any:
    """Return the graph of a classifier: outputs `label` and `probabilities` (N, classes) float32.

    Parameters
    ----------
    network : Network
    classes : ndarray (classes,), optional
        The labels, strings or integers. If there are two classes and one output, the output is
        the probability of the second class. Without `classes`, a label is a class number or, for
        the loss "logistic", 0 or 1: (N,) for one output, else (N, outputs).

    Raises
    ------
    ModuleNotFoundError
        If the package onnx is not installed.
    """
    graph, outputs = _Graph(), network.layers[-1].outputs
    kind, columns, shape = "INT64", outputs, []
    if classes is not None:
        classes = classes.astype(np.int64 if classes.dtype.kind in "biuf" else object)
        kind, columns = "STRING" if classes.dtype == object else kind, len(classes)
    if columns > outputs:  # two classes, one output
        second = _add_network(graph, network)
        first = graph.add("Sub", np.float32(1), second)
        p = graph.add("Concat", first, second, output="probabilities", axis=1)
    else:
        p = _add_network(graph, network, "probabilities")
    if classes is not None:
        graph.add("Gather", classes, graph.add("ArgMax", p, **_PER_ROW), output="label")
    elif network.loss.takes_labels:
        graph.add("ArgMax", p, output="label", **_PER_ROW)
    else:
        if outputs == 1:
            p = graph.add("Reshape", p, _FLAT)
        else:
            shape = [outputs]
        is_likely = graph.add("Greater", p, np.float32(0.5))
        graph.add("Cast", is_likely, output="label", to=graph.types.INT64)
    return graph.finish(
        network.layers[0].inputs, {"label": (kind, shape), "probabilities": ("FLOAT", [columns])}
    )


def _add_network(graph: _Graph, network: Any, output: str = "") -> str:
    """Add the nodes from X to the predictions (N, outputs); return the name of the predictions."""
    a = "X"
    if network.input_scale != 1:
        a = graph.add("Mul", a, np.float32(network.input_scale))
    for layer, (w, b) in zip(network.layers, network.parameters, strict=True):
        z = graph.add("Gemm", a, w, b)
        a = z if layer.activation == "identity" else _add_activation(graph, layer.activation, z)
    operator, attributes = _OPERATORS[network.loss.link]
    return graph.add(operator, a, output=output, **attributes)


def _add_activation(graph: _Graph, name: str, z: str) -> str:
    if name == "gelu":  # opset 20 has the operator Gelu
        slope = graph.add("Add", graph.add("Mul", graph.add("Mul", z, z), _GELU_CUBIC), _GELU_SLOPE)
        return graph.add("Mul", z, graph.add("Sigmoid", graph.add("Mul", z, slope)))
    operator, attributes = _OPERATORS[name]
    return graph.add(operator, z, **attributes)


def write_onnx(graph: Any, path: FilePath) -> None:
    """Check the model of a graph and write it to a file, completely or not at all.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    onnx = _onnx()
    model = onnx.helper.make_model(
        graph,
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="fastnn",
        producer_version=__version__,
    )
    onnx.checker.check_model(model, full_check=True)
    write_atomically(path, [model.SerializeToString()])
