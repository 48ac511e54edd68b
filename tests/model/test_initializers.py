"""Initial weights; `test_randomness` tests `he_normal`."""

import math

import numpy as np
import pytest

from fastnn import Network
from fastnn.model.initializers import glorot_uniform, he_normal, initial_parameters
from fastnn.model.layers import ACTIVATIONS, dense_layers


def same(one, other):
    return all(
        (w == other_w).all() and (b == other_b).all()
        for (w, b), (other_w, other_b) in zip(one, other, strict=True)
    )


def test_glorot_uniform_returns_float32_weights_and_zero_biases():
    layers = dense_layers([784, 128, 10])
    parameters = glorot_uniform(layers, 0)
    assert [(w.shape, b.shape) for w, b in parameters] == [
        ((784, 128), (128,)),
        ((128, 10), (10,)),
    ]
    assert all(w.dtype == b.dtype == np.float32 for w, b in parameters)
    assert all(not b.any() for _, b in parameters)


@pytest.mark.parametrize(("inputs", "outputs"), [(784, 128), (100, 400), (3, 5000), (2000, 1)])
def test_glorot_uniform_has_the_moments_of_its_distribution(inputs, outputs):
    """Uniform over (-r, r), r² = 6 / (I + O): mean 0, variance r² / 3, fourth moment r⁴ / 5."""
    ((w, _),) = glorot_uniform(dense_layers([inputs, outputs]), 0)
    r, n = math.sqrt(6 / (inputs + outputs)), inputs * outputs
    w = w.astype(np.float64)
    assert np.abs(w).max() <= r * (1 + 2.0**-22)  # rounding of r and of the product
    for end in (w.max(), -w.min()):
        assert end > r * (1 - 40 / n)  # fails with a probability of e⁻²⁰
    # Five standard deviations of the mean of n numbers.
    assert abs(w.mean()) <= 5 * r / math.sqrt(3 * n)
    assert abs((w**2).mean() - r**2 / 3) <= 5 * r**2 * math.sqrt((1 / 5 - 1 / 9) / n)


def test_glorot_uniform_depends_on_seed_and_layer_alone():
    layers = dense_layers([20, 20, 20, 2])
    first, again, other = (glorot_uniform(layers, seed) for seed in (9, 9, 10))
    assert same(first, again)
    assert not (first[0][0] == other[0][0]).any()
    assert not (first[0][0] == first[1][0]).any()
    longer = glorot_uniform(dense_layers([20, 20, 20, 7, 2]), 9)
    assert same(first[:2], longer[:2])


GLOROT = {"identity", "logistic", "tanh"}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_initial_weights_suit_the_activations(activation):
    layers = dense_layers([5, 9, 8, 3], activation)
    expected = glorot_uniform if activation in GLOROT else he_normal
    assert same(initial_parameters(layers, 3), expected(layers, 3))
    network = Network([5, 9, 8, 3], activation=activation, seed=3)
    assert same(network.parameters, expected(layers, 3))


@pytest.mark.parametrize(
    ("activations", "expected"),
    [
        (["tanh", "logistic"], glorot_uniform),
        (["tanh", "relu"], he_normal),
        (["gelu", "identity"], he_normal),
        ([], he_normal),
    ],
)
def test_one_activation_that_does_not_saturate_selects_hes_weights(activations, expected):
    layers = dense_layers([5, *len(activations) * [4], 3], activations)
    assert same(initial_parameters(layers, 3), expected(layers, 3))
