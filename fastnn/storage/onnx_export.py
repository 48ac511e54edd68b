"""A network as an ONNX model, which ONNX Runtime and many others run.

The model takes X (N, inputs) float32, where fastnn takes other types too, and does not check it. It
computes in float32 what the network predicts, so that the two differ by rounding alone. Its
operators are those of ONNX 1.8, opset 13, the first in which a softmax is along one axis, as ours
is. ONNX Runtime knows them since 1.6.
"""

from math import pi, sqrt
from typing import Any, Protocol

import numpy as np

from fastnn import __version__
from fastnn.model.layers import LEAK, Dense, Parameters
from fastnn.model.losses import Loss
from fastnn.system.files import FilePath, write_atomically

OPSET, IR_VERSION = 13, 7

_FLAT = np.array([-1], np.int64)
_OF_A_ROW: dict[str, Any] = {"axis": 1, "keepdims": 0}
# GELU as the engines approximate it is z σ(z (slope + cubic z²)).
_GELU_SLOPE, _GELU_CUBIC = (np.float32(2 * sqrt(2 / pi) * factor) for factor in (1, 0.044715))

# By activation or link, the operator and its attributes; but GELU is several of them.
_OPERATORS: dict[str, tuple[str, dict[str, Any]]] = {
    "identity": ("Identity", {}),
    "logistic": ("Sigmoid", {}),
    "tanh": ("Tanh", {}),
    "relu": ("Relu", {}),
    "leaky_relu": ("LeakyRelu", {"alpha": LEAK}),
    "softmax": ("Softmax", {"axis": 1}),
    "exp": ("Exp", {}),
}


class Trained(Protocol):
    """What of a `Network` makes a model."""

    layers: tuple[Dense, ...]
    loss: Loss
    input_scale: float

    @property
    def parameters(self) -> Parameters:
        """Per layer weights (I, O) and biases (O,)."""


def missing_package_error(error: ModuleNotFoundError) -> ModuleNotFoundError:
    """Return what to raise where a package that ONNX needs is not there."""
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
    """Nodes in the order in which they run, and the constants that they take."""

    def __init__(self) -> None:
        self._onnx = _onnx()
        self.types = self._onnx.TensorProto
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def add(self, operator: str, *inputs: Any, output: str = "", **attributes: Any) -> str:
        """Add a node of one output, whose name is returned; inputs are names or constants."""
        output = output or f"{operator.lower()}_{len(self._nodes)}"
        names = [name if isinstance(name, str) else self._constant(name) for name in inputs]
        make_node = self._onnx.helper.make_node
        self._nodes.append(make_node(operator, names, [output], name=f"{output}_", **attributes))
        return output

    def _constant(self, value: np.ndarray) -> str:
        name = f"constant_{len(self._constants)}"
        self._constants.append(self._onnx.numpy_helper.from_array(value, name))
        return name

    def finished(self, inputs: int, outputs: dict[str, tuple[str, list[int]]]) -> Any:
        """Return the graph; outputs have an element type and the shape of a row."""
        helper = self._onnx.helper
        described = [
            helper.make_tensor_value_info(name, getattr(self.types, kind), ["N", *shape])
            for name, (kind, shape) in {"X": ("FLOAT", [inputs]), **outputs}.items()
        ]
        return helper.make_graph(
            self._nodes, "fastnn", described[:1], described[1:], self._constants
        )


def network_graph(network: Trained) -> Any:
    """Return the graph of a network, whose outputs are what `Network.predict` says.

    Returns
    -------
    onnx.GraphProto
        As `classifier_graph` makes it, or of a regression with an output `values` float32, (N,)
        for one output, else (N, outputs).

    Raises
    ------
    ModuleNotFoundError
        If the package onnx is not installed.
    """
    if network.loss.score == "accuracy":
        return classifier_graph(network)
    return regression_graph(network, "values", flat=network.layers[-1].outputs == 1)


def regression_graph(network: Trained, name: str, *, flat: bool = False) -> Any:
    """Return the graph of a regression: one output of that name, (N, outputs), or flat (N,).

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
    return graph.finished(network.layers[0].inputs, {name: ("FLOAT", shape)})


def classifier_graph(network: Trained, classes: np.ndarray | None = None) -> Any:
    """Return the graph of a classifier: outputs `label` and `probabilities` (N, classes) float32.

    Parameters
    ----------
    network : Network
    classes : ndarray (classes,), optional
        What `label` (N,) is one of: strings or whole numbers. Where they are two and the network
        has one output, that is the probability of the second. Without them a label is a class
        number, or of a "logistic" network 0 or 1: (N,) for one output, else (N, outputs).

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
    if columns > outputs:  # 2 of 1
        second = _add_network(graph, network)
        first = graph.add("Sub", np.float32(1), second)
        p = graph.add("Concat", first, second, output="probabilities", axis=1)
    else:
        p = _add_network(graph, network, "probabilities")
    if classes is not None:
        graph.add("Gather", classes, graph.add("ArgMax", p, **_OF_A_ROW), output="label")
    elif network.loss.takes_labels:
        graph.add("ArgMax", p, output="label", **_OF_A_ROW)
    else:
        if outputs == 1:
            p = graph.add("Reshape", p, _FLAT)
        else:
            shape = [outputs]
        is_likely = graph.add("Greater", p, np.float32(0.5))
        graph.add("Cast", is_likely, output="label", to=graph.types.INT64)
    return graph.finished(
        network.layers[0].inputs, {"label": (kind, shape), "probabilities": ("FLOAT", [columns])}
    )


def _as_labels(classes: np.ndarray) -> np.ndarray:
    """Return classes as ONNX has them: int64, or strings, which are objects here."""
    return classes.astype(np.int64 if classes.dtype.kind in "biuf" else object)


def _add_network(graph: _Graph, network: Trained, output: str = "") -> str:
    """Add what leads from X to predictions (N, outputs), and return their name."""
    a = "X"
    if network.input_scale != 1:
        a = graph.add("Mul", a, np.float32(network.input_scale))
    for layer, (w, b) in zip(network.layers, network.parameters, strict=True):
        z = graph.add("Gemm", a, w, b)
        a = z if layer.activation == "identity" else _add_activation(graph, layer.activation, z)
    operator, attributes = _OPERATORS[network.loss.link]
    return graph.add(operator, a, output=output, **attributes)


def _add_activation(graph: _Graph, name: str, z: str) -> str:
    if name == "gelu":  # an operator of its own since opset 20 only; (1 + tanh u) / 2 is σ(2 u)
        slope = graph.add("Add", graph.add("Mul", graph.add("Mul", z, z), _GELU_CUBIC), _GELU_SLOPE)
        return graph.add("Mul", z, graph.add("Sigmoid", graph.add("Mul", z, slope)))
    operator, attributes = _OPERATORS[name]
    return graph.add(operator, z, **attributes)


def write_onnx(graph: Any, path: FilePath) -> None:
    """Check a model of this graph, and write it whole or not at all.

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
