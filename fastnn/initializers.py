"""Initial weights: pure functions of the seed and the layers."""

from collections.abc import Sequence

import numpy as np

from fastnn.layers import Dense, Parameters
from fastnn.randomness import Purpose, generator


def initial_parameters(layers: Sequence[Dense], seed: int) -> Parameters:
    """Draw He's weights for layers of rectifiers, Glorot's for others.

    The output layer is drawn as the hidden layers are.
    """
    saturates = {"identity", "logistic", "tanh"}
    hidden = {layer.activation for layer in layers[:-1]}
    return (glorot_uniform if hidden and hidden <= saturates else he_normal)(layers, seed)


def glorot_uniform(layers: Sequence[Dense], seed: int) -> Parameters:
    """Draw weights from U(-r, r) with r² = 6 / (I + O), and set biases to zero.

    The variance keeps the size of the signal on its way forward and back through layers that are
    nearly linear about 0 (Glorot and Bengio 2010, equation 16).

    Returns
    -------
    list of (w, b)
        For each layer ``w`` (I, O) and ``b`` (O,), both float32.
    """
    parameters = []
    for place, layer in enumerate(layers):
        rng = generator(seed, Purpose.INITIAL_WEIGHTS, place)
        r = np.float32(np.sqrt(6.0 / (layer.inputs + layer.outputs)))
        w = (2 * rng.random((layer.inputs, layer.outputs), dtype=np.float32) - 1) * r
        parameters.append((w, np.zeros(layer.outputs, np.float32)))
    return parameters


def he_normal(layers: Sequence[Dense], seed: int) -> Parameters:
    """Draw weights from N(0, 2 / I) and set biases to zero.

    The variance keeps the size of the signal through layers of ReLU, which zeroes half of it
    (He, Zhang, Ren and Sun 2015, "Delving deep into rectifiers", equation 10).

    Returns
    -------
    list of (w, b)
        For each layer ``w`` (I, O) and ``b`` (O,), both float32.
    """
    parameters = []
    for place, layer in enumerate(layers):
        rng = generator(seed, Purpose.INITIAL_WEIGHTS, place)
        w = rng.standard_normal((layer.inputs, layer.outputs), dtype=np.float32)
        w *= np.float32(np.sqrt(2.0 / layer.inputs))
        parameters.append((w, np.zeros(layer.outputs, np.float32)))
    return parameters
