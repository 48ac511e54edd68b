"""Layers as frozen records: shapes and names, no arithmetic."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import index

import numpy as np

# Per layer w (I, O) and b (O,), float32: how parameters travel outside an engine.
Parameters = list[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Dense:
    """A fully connected layer, ``a = activation(x @ w + b)``.

    Attributes
    ----------
    inputs, outputs : int
        Fan-in I and fan-out O: ``w`` is (I, O), ``b`` is (O,).
    activation : {"relu", "identity"}
        "identity" is the output layer: its ``z`` are the logits that the loss takes.
    """

    inputs: int
    outputs: int
    activation: str

    @property
    def parameters(self) -> int:
        """Number of weights and biases."""
        return (self.inputs + 1) * self.outputs


def dense_layers(sizes: Sequence[int]) -> tuple[Dense, ...]:
    """Chain dense layers of the given widths, ReLU between them and logits at the end.

    Parameters
    ----------
    sizes : sequence of int
        Input width, hidden widths, number of classes: at least two, each at least 1.

    Raises
    ------
    ValueError
        If there are fewer than two sizes or one is not a positive integer.

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
            f"layer sizes must be at least two positive numbers (inputs, …, classes), got {sizes!r}"
        )
    last = len(widths) - 2
    return tuple(
        Dense(widths[i], widths[i + 1], "identity" if i == last else "relu")
        for i in range(len(widths) - 1)
    )
