"""Layers as frozen records: shapes and names, no arithmetic."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import index
from typing import TYPE_CHECKING, Any

from fastnn.model.settings import check_normal

if TYPE_CHECKING:
    import numpy as np  # not otherwise: the command line asks for names alone

# Per layer w (I, O) and b (O,), float32: how parameters travel outside an engine.
Parameters = list[tuple["np.ndarray", "np.ndarray"]]

# What a hidden layer may do to each z = x w + b. Both engines' `activations` have the formulas.
ACTIVATIONS = ("identity", "logistic", "tanh", "relu", "leaky_relu", "gelu")
LEAK = 0.01  # the slope of leaky_relu below 0


@dataclass(frozen=True)
class Dense:
    """A fully connected layer, ``a = activation(x @ w + b)``.

    Attributes
    ----------
    inputs, outputs : int
        Fan-in I and fan-out O: ``w`` is (I, O), ``b`` is (O,).
    activation : str
        One of `ACTIVATIONS`. The output layer has "identity": its ``z`` is what the loss takes.
    dropout : float
        The share of the layer's inputs that training sets to 0, from 0 to below 1. The others
        are divided by what is left of 1, so that prediction takes the layer as it is.
    """

    inputs: int
    outputs: int
    activation: str
    dropout: float = 0.0

    @property
    def parameters(self) -> int:
        """Number of weights and biases."""
        return (self.inputs + 1) * self.outputs


def dense_layers(
    sizes: Sequence[int],
    activation: str | Sequence[str] = "relu",
    dropout: float | Sequence[float] = 0.0,
) -> tuple[Dense, ...]:
    """Chain dense layers of the given widths, with logits at the end.

    Parameters
    ----------
    sizes : sequence of int
        Input width, hidden widths, number of outputs: at least two, each at least 1.
    activation : str or sequence of str, default "relu"
        Of all hidden layers, or one of each.
    dropout : float or sequence of float, default 0
        Of all hidden layers' outputs, or of the input and then of each hidden layer's output.

    Raises
    ------
    ValueError
        If there are fewer than two sizes, one is not a positive integer, an activation is
        unknown, or a dropout out of range.

    Examples
    --------
    >>> [layer.parameters for layer in dense_layers([784, 128, 64, 10])]
    [100480, 8256, 650]
    """
    try:
        widths = [index(size) for size in sizes]
    except TypeError:
        raise ValueError(f"layer sizes must be whole numbers, got {sizes!r}") from None
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(
            f"layer sizes must be at least two positive numbers (inputs, …, outputs), got {sizes!r}"
        )
    hidden = len(widths) - 2
    activations = _one_each(activation, hidden, "activation", "hidden layer")
    for name in {*activations, *([activation] if isinstance(activation, str) else [])}:
        if name not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {name!r}")
    if isinstance(dropout, Sequence):
        dropouts = _one_each(dropout, hidden + 1, "dropout", "layer that has inputs")
    else:
        dropouts = [0.0] + hidden * [_share(dropout)]
    layers = zip(pairwise(widths), [*activations, "identity"], dropouts, strict=True)
    return tuple(Dense(*shape, name, _share(share)) for shape, name, share in layers)


def _one_each(given: Any, count: int, name: str, whose: str) -> list[Any]:
    if isinstance(given, str) or not isinstance(given, Sequence):
        return count * [given]
    if len(given) != count:
        raise ValueError(f"{name} must be one, or {count}, one for each {whose}; got {given!r}")
    return list(given)


def _share(value: Any) -> float:
    """Return a dropout as a float, or raise a ValueError."""
    try:
        share = float(value)
    except (TypeError, ValueError):
        share = -1.0
    if not 0 <= share < 1 or isinstance(value, bool | str):
        raise ValueError(f"dropout must be a number from 0 to below 1, got {value!r}")
    check_normal("dropout", value)
    return share


def parameters_sha256(parameters: Parameters) -> str:
    """Return the SHA-256 of each layer's w, then b, as little-endian float32 in C order."""
    digest = hashlib.sha256()
    for pair in parameters:
        for array in pair:
            digest.update(array.astype("<f4").tobytes())
    return digest.hexdigest()
