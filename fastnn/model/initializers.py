"""Initial weights, which depend only on the seed and the layers."""

from collections.abc import Callable, Sequence

import numpy as np

from fastnn.model.layers import Dense, Parameters
from fastnn.model.randomness import Purpose, generator, standard_normal


def initial_parameters(layers: Sequence[Dense], seed: int) -> Parameters:
    """Return initial parameters for the activations of the hidden layers.

    The weights are Glorot-initialised if all of these activations are identity, logistic or tanh,
    and He-initialised otherwise, or if there are no hidden layers.
    """
    hidden = {layer.activation for layer in layers[:-1]}
    is_glorot = hidden and hidden <= {"identity", "logistic", "tanh"}
    return (glorot_uniform if is_glorot else he_normal)(layers, seed)


def glorot_uniform(layers: Sequence[Dense], seed: int) -> Parameters:
    """Draw weights from U(-r, r) with r² = 6 / (I + O), and set biases to zero.

    This variance keeps the size of activations and gradients constant over layers whose activation
    is nearly linear around 0 (Glorot and Bengio 2010, equation 16).

    Returns
    -------
    list of (w, b)
        For each layer ``w`` (I, O) and ``b`` (O,), both float32.
    """

    def draw(rng: np.random.Generator, layer: Dense) -> np.ndarray:
        r = np.float32(np.sqrt(6.0 / (layer.inputs + layer.outputs)))
        return (2 * rng.random((layer.inputs, layer.outputs), dtype=np.float32) - 1) * r

    return _drawn(layers, seed, draw)


def he_normal(layers: Sequence[Dense], seed: int) -> Parameters:
    """Draw weights from N(0, 2 / I) and set biases to zero.

    This variance keeps the size of activations constant over layers with ReLU, which sets half of
    them to 0 (He, Zhang, Ren and Sun 2015, "Delving deep into rectifiers", equation 10).

    Returns
    -------
    list of (w, b)
        For each layer ``w`` (I, O) and ``b`` (O,), both float32.
    """

    def draw(rng: np.random.Generator, layer: Dense) -> np.ndarray:
        w = standard_normal(rng, (layer.inputs, layer.outputs))
        return w * np.float32(np.sqrt(2.0 / layer.inputs))

    return _drawn(layers, seed, draw)


def _drawn(
    layers: Sequence[Dense],
    seed: int,
    draw: Callable[[np.random.Generator, Dense], np.ndarray],
) -> Parameters:
    """Draw the weights of each layer from its own random stream; set biases to zero."""
    return [
        (
            draw(generator(seed, Purpose.INITIAL_WEIGHTS, number), layer),
            np.zeros(layer.outputs, np.float32),
        )
        for number, layer in enumerate(layers)
    ]
