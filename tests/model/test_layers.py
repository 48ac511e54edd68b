"""Layers as records: shapes, activations, dropout, and what is refused."""

from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from fastnn import Network
from fastnn.model.layers import ACTIVATIONS, Dense, dense_layers


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


# ---- activations and dropout ----------------------------------------------------------------


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_one_activation_is_that_of_all_hidden_layers(activation):
    layers = dense_layers([4, 3, 2, 1], activation)
    assert [layer.activation for layer in layers] == [activation, activation, "identity"]
    assert Network([4, 3, 2, 1], activation=activation).layers == layers


@pytest.mark.parametrize("sequence", [list, tuple])
def test_hidden_layers_may_each_have_their_own(sequence):
    layers = dense_layers([4, 3, 2, 1], sequence(["tanh", "gelu"]), sequence([0.1, 0, 0.5]))
    assert layers == (
        Dense(4, 3, "tanh", 0.1),
        Dense(3, 2, "gelu", 0.0),
        Dense(2, 1, "identity", 0.5),
    )


def test_one_dropout_is_that_of_all_hidden_layers_outputs():
    """The inputs of all layers but the first."""
    layers = dense_layers([4, 3, 2, 1], dropout=0.25)
    assert [layer.dropout for layer in layers] == [0.0, 0.25, 0.25]
    assert dense_layers([4, 1], dropout=0.25)[0].dropout == 0.0
    assert dense_layers([4, 1], dropout=[0.25])[0].dropout == 0.25


def test_dropout_may_be_any_kind_of_number():
    layers = dense_layers([4, 3, 2, 1], dropout=(np.float32(0.5), 0, np.float64(0.25)))
    assert [layer.dropout for layer in layers] == [0.5, 0.0, 0.25]
    assert all(type(layer.dropout) is float for layer in layers)


@pytest.mark.parametrize("activation", ["ReLU", "softmax", "", None, 3, ["relu", "swish"]])
def test_unknown_activations_are_refused(activation):
    bad = "swish" if isinstance(activation, list) else activation
    names = "identity, logistic, tanh, relu, leaky_relu, gelu"
    with pytest.raises(ValueError, match=f"^activation must be one of {names}, got {bad!r}$"):
        dense_layers([4, 3, 2, 1], activation)


@pytest.mark.parametrize("activations", [[], ["relu"], ["relu", "tanh", "identity"]], ids=str)
def test_another_number_of_activations_is_refused(activations):
    with pytest.raises(
        ValueError, match="^activation must be one value, or 2 .one for each hidden la"
    ):
        dense_layers([4, 3, 2, 1], activations)


@pytest.mark.parametrize("dropouts", [[], [0.5, 0.5], (0, 0, 0, 0)], ids=str)
def test_another_number_of_dropouts_is_refused(dropouts):
    with pytest.raises(ValueError, match="^dropout must be one value, or 3 "):
        dense_layers([4, 3, 2, 1], dropout=dropouts)


@pytest.mark.parametrize(
    "dropout", [1, 1.5, -0.1, float("nan"), float("inf"), "0.5", True, None, [0.5, "0.5", 0], 1j]
)
def test_a_dropout_out_of_range_is_refused(dropout):
    bad = dropout[1] if isinstance(dropout, list) else dropout
    with pytest.raises(ValueError) as caught:
        Network([4, 3, 2, 1], dropout=dropout)
    assert str(caught.value) == f"dropout must be a number from 0 to below 1, got {bad!r}"
