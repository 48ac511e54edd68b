"""Layers: shapes, activations, dropout, and errors."""

from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from fastnn import Network
from fastnn.model.layers import ACTIVATIONS, Dense, dense_layers


def test_hidden_layers_have_relu_by_default():
    assert dense_layers([784, 128, 64, 10]) == (
        Dense(784, 128, "relu"),
        Dense(128, 64, "relu"),
        Dense(64, 10, "identity"),
    )


def test_two_sizes_give_one_layer():
    assert dense_layers((3, 2)) == (Dense(3, 2, "identity"),)


def test_accepts_sizes_of_1():
    assert dense_layers([1, 1, 1]) == (Dense(1, 1, "relu"), Dense(1, 1, "identity"))


@pytest.mark.parametrize(
    ("inputs", "outputs", "parameters"), [(1, 1, 2), (784, 128, 100480), (64, 10, 650)]
)
def test_parameters_counts_weights_and_biases(inputs, outputs, parameters):
    assert Dense(inputs, outputs, "relu").parameters == parameters


def test_accepts_integers_of_numpy():
    layers = dense_layers(np.array([3, 5, 2], np.int16))
    assert layers == dense_layers([3, 5, 2])
    assert all(type(layer.inputs) is int and type(layer.outputs) is int for layer in layers)


def test_layers_are_immutable():
    with pytest.raises(FrozenInstanceError):
        Dense(3, 2, "relu").inputs = 4


@pytest.mark.parametrize("sizes", [[], [5], [0, 2], [3, 0, 2], [3, -1], (-1, -1)], ids=str)
def test_rejects_too_few_or_too_small_sizes(sizes):
    with pytest.raises(ValueError, match="at least two positive numbers") as caught:
        dense_layers(sizes)
    assert repr(sizes) in str(caught.value)


@pytest.mark.parametrize("sizes", [[3, 2.0], [3, None], ["3", "2"], "32", 3, None, [[3], [2]]])
def test_rejects_sizes_that_are_not_integers(sizes):
    with pytest.raises(ValueError, match="whole numbers") as caught:
        dense_layers(sizes)
    assert repr(sizes) in str(caught.value)


# ---- activations and dropout ----------------------------------------------------------------


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_one_activation_applies_to_all_hidden_layers(activation):
    layers = dense_layers([4, 3, 2, 1], activation)
    assert [layer.activation for layer in layers] == [activation, activation, "identity"]
    assert Network([4, 3, 2, 1], activation=activation).layers == layers


@pytest.mark.parametrize("sequence", [list, tuple])
def test_each_hidden_layer_can_have_its_own_settings(sequence):
    layers = dense_layers([4, 3, 2, 1], sequence(["tanh", "gelu"]), sequence([0.1, 0, 0.5]))
    assert layers == (
        Dense(4, 3, "tanh", 0.1),
        Dense(3, 2, "gelu", 0.0),
        Dense(2, 1, "identity", 0.5),
    )


def test_one_dropout_applies_to_outputs_of_hidden_layers():
    """These are the inputs of all layers but the first."""
    layers = dense_layers([4, 3, 2, 1], dropout=0.25)
    assert [layer.dropout for layer in layers] == [0.0, 0.25, 0.25]
    assert dense_layers([4, 1], dropout=0.25)[0].dropout == 0.0
    assert dense_layers([4, 1], dropout=[0.25])[0].dropout == 0.25


def test_accepts_any_type_of_number_as_dropout():
    layers = dense_layers([4, 3, 2, 1], dropout=(np.float32(0.5), 0, np.float64(0.25)))
    assert [layer.dropout for layer in layers] == [0.5, 0.0, 0.25]
    assert all(type(layer.dropout) is float for layer in layers)


@pytest.mark.parametrize("activation", ["ReLU", "softmax", "", None, 3, ["relu", "swish"]])
def test_rejects_unknown_activations(activation):
    bad = "swish" if isinstance(activation, list) else activation
    names = "identity, logistic, tanh, relu, leaky_relu, gelu"
    with pytest.raises(ValueError, match=f"^activation must be one of {names}, got {bad!r}$"):
        dense_layers([4, 3, 2, 1], activation)


@pytest.mark.parametrize("activations", [[], ["relu"], ["relu", "tanh", "identity"]], ids=str)
def test_rejects_wrong_number_of_activations(activations):
    with pytest.raises(ValueError, match="^activation must be one value, or 2 .one for each"):
        dense_layers([4, 3, 2, 1], activations)


@pytest.mark.parametrize("dropouts", [[], [0.5, 0.5], (0, 0, 0, 0)], ids=str)
def test_rejects_wrong_number_of_dropouts(dropouts):
    with pytest.raises(ValueError, match="^dropout must be one value, or 3 "):
        dense_layers([4, 3, 2, 1], dropout=dropouts)


@pytest.mark.parametrize(
    "dropout", [1, 1.5, -0.1, float("nan"), float("inf"), "0.5", True, None, [0.5, "0.5", 0], 1j]
)
def test_rejects_dropout_out_of_range(dropout):
    bad = dropout[1] if isinstance(dropout, list) else dropout
    with pytest.raises(ValueError) as caught:
        Network([4, 3, 2, 1], dropout=dropout)
    assert str(caught.value) == f"dropout must be at least 0 and less than 1, got {bad!r}"
