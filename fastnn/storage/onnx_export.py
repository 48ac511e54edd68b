"""Export networks as ONNX models, which ONNX Runtime and others run.

A model takes X (N, inputs) float32 and does not check it. It computes the network's predictions in
float32, so that the two differ only by rounding. Its operators are those of opset 13 (ONNX 1.8,
ONNX Runtime 1.6), the first opset in which softmax works along one axis.
"""

from math import pi, sqrt
from typing import Any

import numpy as np

from fastnn import __version__
from fastnn.model.layers import LEAK
from fastnn.system.files import FilePath, write_atomically

OPSET, IR_VERSION = 13, 7

_FLAT = np.array([-1], np.int64)
_ARGMAX: dict[str, Any] = {"axis": 1, "keepdims": 0}
# The engines approximate GELU as z σ(z (slope + cubic z²)).
_GELU_SLOPE, _GELU_CUBIC = (np.float32(2 * sqrt(2 / pi) * factor) for factor in (1, 0.044715))

# The operator of an activation or link, and its attributes. GELU needs several operators.
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
    """Return the error to raise if a package that ONNX models need is not installed."""
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
    """Nodes in order of execution, and their constants."""

    def __init__(self) -> None:
        self._onnx = _onnx()
        self.types = self._onnx.TensorProto
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def add(self, operator: str, *inputs: Any, output: str = "", **attributes: Any) -> str:
        """Add a node with one output; return its name. Inputs are names or constants."""
        output = output or f"{operator.lower()}_{len(self._nodes)}"
        names = [name if isinstance(name, str) else self._constant(name) for name in inputs]
        make_node = self._onnx.helper.make_node
        self._nodes.append(make_node(operator, names, [output], name=f"{output}_", **attributes))
        return output

    def _constant(self, value: np.ndarray) -> str:
        name = f"constant_{len(self._constants)}"
        self._constants.append(self._onnx.numpy_helper.from_array(value, name))
        return name

    def build(self, inputs: int, outputs: dict[str, tuple[str, list[int]]]) -> Any:
        """Return the graph, given the element type of each output and the shape of a row."""
        helper = self._onnx.helper
        values = [
            helper.make_tensor_value_info(name, getattr(self.types, kind), ["N", *shape])
            for name, (kind, shape) in {"X": ("FLOAT", [inputs]), **outputs}.items()
        ]
        return helper.make_graph(self._nodes, "fastnn", values[:1], values[1:], self._constants)


def network_graph(network: Any) -> Any:
    """Return the graph of a network's `predict`.

    Returns
    -------
    onnx.GraphProto
        The graph of `classifier_graph`; or for a regression, a graph with the output `values`
        float32, (N,) for one output, else (N, outputs).

    Raises
    ------
    ModuleNotFoundError
        If the package onnx is not installed.
    """
    if network.loss.score == "accuracy":
        return classifier_graph(network)
    return regression_graph(network, "values", flat=network.layers[-1].outputs == 1)


def regression_graph(network: Any, name: str, *, flat: bool = False) -> Any:
    """Return the graph of a regression, whose output has a name and is (N, outputs), or flat (N,).

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
    return graph.build(network.layers[0].inputs, {name: ("FLOAT", shape)})


def classifier_graph(network: Any, classes: np.ndarray | None = None) -> Any:
    """Return the graph of a classifier, with outputs `label` and `probabilities`.

    `probabilities` are (N, classes) float32.

    Parameters
    ----------
    network : Network
        The network. If it has one output and there are two classes, the output is the probability
        of the second class.
    classes : ndarray (classes,), optional
        Strings or integers; `label` (N,) is one of them. By default `label` is a class number, or
        for the loss "logistic" 0 or 1: (N,) for one output, else (N, outputs).

    Raises
    ------
    ModuleNotFoundError
        If the package onnx is not installed.
    """
    graph, outputs = _Graph(), network.layers[-1].outputs
    kind, columns, shape = "INT64", outputs, []
    if classes is not None:
        classes, columns = _as_labels(classes), len(classes)
        kind = "STRING" if classes.dtype == object else kind
    if columns > outputs:  # two classes, one output
        second = _add_network(graph, network)
        first = graph.add("Sub", np.float32(1), second)
        p = graph.add("Concat", first, second, output="probabilities", axis=1)
    else:
        p = _add_network(graph, network, "probabilities")
    if classes is not None:
        graph.add("Gather", classes, graph.add("ArgMax", p, **_ARGMAX), output="label")
    elif network.loss.takes_labels:
        graph.add("ArgMax", p, output="label", **_ARGMAX)
    else:
        if outputs == 1:
            p = graph.add("Reshape", p, _FLAT)
        else:
            shape = [outputs]
        is_likely = graph.add("Greater", p, np.float32(0.5))
        graph.add("Cast", is_likely, output="label", to=graph.types.INT64)
    return graph.build(
        network.layers[0].inputs, {"label": (kind, shape), "probabilities": ("FLOAT", [columns])}
    )


def _as_labels(classes: np.ndarray) -> np.ndarray:
    """Return classes with a dtype of ONNX: int64, or object for strings."""
    return classes.astype(np.int64 if classes.dtype.kind in "biuf" else object)


def _add_network(graph: _Graph, network: Any, output: str = "") -> str:
    """Add the nodes from X to the predictions (N, outputs); return the name of the last."""
    a = "X"
    if network.input_scale != 1:
        a = graph.add("Mul", a, np.float32(network.input_scale))
    for layer, (w, b) in zip(network.layers, network.parameters, strict=True):
        z = graph.add("Gemm", a, w, b)
        a = z if layer.activation == "identity" else _add_activation(graph, layer.activation, z)
    operator, attributes = _OPERATORS[network.loss.link]
    return graph.add(operator, a, output=output, **attributes)


def _add_activation(graph: _Graph, name: str, z: str) -> str:
    if name == "gelu":  # an operator only since opset 20; (1 + tanh u) / 2 = σ(2 u)
        slope = graph.add("Add", graph.add("Mul", graph.add("Mul", z, z), _GELU_CUBIC), _GELU_SLOPE)
        return graph.add("Mul", z, graph.add("Sigmoid", graph.add("Mul", z, slope)))
    operator, attributes = _OPERATORS[name]
    return graph.add(operator, z, **attributes)


def write_onnx(graph: Any, path: FilePath) -> None:
    """Check the model of a graph, and write it atomically.

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
