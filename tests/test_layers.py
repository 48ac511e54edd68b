"""Layers as records: shapes, activations, and the sizes that are refused."""

from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from fastnn.layers import Dense, dense_layers


def test_layers_form_a_chain_with_relu_between_and_logits_at_the_end():
    assert dense_layers([784, 128, 64, 10]) == (
        Dense(784, 128, "relu"),
        Dense(128, 64, "relu"),
        Dense(64, 10, "identity"),
    )


def test_two_sizes_are_one_layer_of_logits():
    assert dense_layers((3, 2)) == (Dense(3, 2, "identity"),)


def test_widths_of_one():
    assert dense_layers([1, 1, 1]) == (Dense(1, 1, "relu"), Dense(1, 1, "identity"))


@pytest.mark.parametrize(
    ("inputs", "outputs", "parameters"), [(1, 1, 2), (784, 128, 100480), (64, 10, 650)]
)
def test_parameters_are_the_weights_and_the_biases(inputs, outputs, parameters):
    assert Dense(inputs, outputs, "relu").parameters == parameters


def test_sizes_may_be_integers_of_any_kind():
    layers = dense_layers(np.array([3, 5, 2], np.int16))
    assert layers == dense_layers([3, 5, 2])
    assert all(type(layer.inputs) is int and type(layer.outputs) is int for layer in layers)


def test_a_layer_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        Dense(3, 2, "relu").inputs = 4


@pytest.mark.parametrize("sizes", [[], [5], [0, 2], [3, 0, 2], [3, -1], (-1, -1)], ids=str)
def test_too_few_sizes_and_sizes_below_one_are_refused(sizes):
    with pytest.raises(ValueError, match="at least two positive numbers") as caught:
        dense_layers(sizes)
    assert repr(sizes) in str(caught.value)


@pytest.mark.parametrize("sizes", [[3, 2.0], [3, None], ["3", "2"], "32", 3, None, [[3], [2]]])
def test_sizes_that_are_not_whole_numbers_are_refused(sizes):
    with pytest.raises(ValueError, match="whole numbers") as caught:
        dense_layers(sizes)
    assert repr(sizes) in str(caught.value)
