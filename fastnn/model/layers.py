"""Layers: their shapes, activations and dropout.

The arithmetic is in `fastnn.reference` (NumPy) and `fastnn.kernels` (compiled).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import index
from typing import TYPE_CHECKING, Any

from fastnn.model.settings import check_normal

if TYPE_CHECKING:
    import numpy as np  # not at run time: `--help` of the commands starts without NumPy

# Weights w (I, O) and biases b (O,) of each layer, float32.
Parameters = list[tuple["np.ndarray", "np.ndarray"]]

# Activations of hidden layers. `fastnn.reference.activations` has the formulas.
ACTIVATIONS = ("identity", "logistic", "tanh", "relu", "leaky_relu", "gelu")
LEAK = 0.01  # slope of leaky_relu below 0


@dataclass(frozen=True)
class Dense:
    """A fully connected layer, ``a = activation(x @ w + b)``.

    Attributes
    ----------
    inputs, outputs : int
        Fan-in I and fan-out O: ``w`` is (I, O), ``b`` is (O,).
    activation : str
        One of `ACTIVATIONS`; "identity" for the output layer, whose ``z`` is the loss's input.
    dropout : float
        Probability with which training sets an input of this layer to 0, at least 0 and less than
        1. It is the dropout that `fastnn.Network` takes for the features or for the outputs of the
        previous layer. The other inputs are divided by ``1 - dropout`` (inverted dropout), so that
        prediction needs no factor.
    """

    inputs: int
    outputs: int
    activation: str
    dropout: float = 0.0

    @property
    def parameters(self) -> int:
        """Return the number of weights and biases."""
        return (self.inputs + 1) * self.outputs


def dense_layers(
    sizes: Sequence[int],
    activation: str | Sequence[str] = "relu",
    dropout: float | Sequence[float] = 0.0,
) -> tuple[Dense, ...]:
    """Return the dense layers of a multilayer perceptron.

    Parameters
    ----------
    sizes : sequence of int
        Number of features, sizes of the hidden layers, number of outputs: at least two, each at
        least 1.
    activation : str or sequence of str, default "relu"
        Activation of all hidden layers, or one for each.
    dropout : float or sequence of float, default 0
        Dropout of the outputs of all hidden layers; or one value for the features and one for the
        outputs of each hidden layer.

    Raises
    ------
    ValueError
        If there are fewer than two sizes, one is not a positive integer, an activation is
        unknown, a dropout is out of range, or the number of values is wrong.

    Examples
    --------
    >>> [layer.parameters for layer in dense_layers([784, 128, 64, 10])]
    [100480, 8256, 650]
    """
    try:
        widths = [index(size) for size in sizes]
    except TypeError:
        raise ValueError(f"sizes must be whole numbers, got {sizes!r}") from None
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(
            f"sizes must be at least two positive numbers (features, …, outputs), got {sizes!r}"
        )
    hidden = len(widths) - 2
    activations = _broadcast(activation, hidden, "activation", "each hidden layer")
    for name in {*activations, *([activation] if isinstance(activation, str) else [])}:
        if name not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {name!r}")
    if isinstance(dropout, Sequence):
        dropouts = _broadcast(dropout, hidden + 1, "dropout", "the features and each hidden layer")
    else:
        dropouts = [0.0] + hidden * [_probability(dropout)]
    layers = zip(pairwise(widths), [*activations, "identity"], dropouts, strict=True)
    return tuple(Dense(*shape, name, _probability(value)) for shape, name, value in layers)


def _broadcast(given: Any, count: int, name: str, owners: str) -> list[Any]:
    """Return `count` values, or raise a ValueError."""
    if isinstance(given, str) or not isinstance(given, Sequence):
        return count * [given]
    if len(given) != count:
        raise ValueError(f"{name} must be one value, or {count} (one for {owners}), got {given!r}")
    return list(given)


def _probability(value: Any) -> float:
    """Return a dropout as a float, or raise a ValueError."""
    try:
        probability = float(value)
    except (TypeError, ValueError):
        probability = -1.0
    if not 0 <= probability < 1 or isinstance(value, bool | str):
        raise ValueError(f"dropout must be at least 0 and less than 1, got {value!r}")
    check_normal("dropout", value)
    return probability


def parameters_sha256(parameters: Parameters) -> str:
    """Return the SHA-256 of each layer's w, then b, as little-endian float32 in C order."""
    digest = hashlib.sha256()
    for pair in parameters:
        for array in pair:
            digest.update(array.astype("<f4").tobytes())
    return digest.hexdigest()
