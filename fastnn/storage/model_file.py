"""A trained network in a file: what a model is, as `tensor_file` writes and reads it.

The tensors are ``layers.0.weights`` (I, O), ``layers.0.biases`` (O,), ``layers.1.weights`` and so
on, float32, and ``curves.NAME`` (epochs,), float64, what an estimator's fits reported. The
description says what the network is and how long it was trained, and what an estimator has besides.
Layers and losses come from fastnn's own tables.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from fastnn.errors import ModelFileError
from fastnn.model.layers import Dense, Parameters, dense_layers
from fastnn.model.losses import Loss, get_loss
from fastnn.model.randomness import SEED_LIMIT
from fastnn.model.settings import COUNT_LIMIT, check_setting
from fastnn.storage.strict_json import get_count, get_list, get_typed, prefix_errors
from fastnn.storage.tensor_file import (
    FileFormat,
    Tensors,
    TensorSpec,
    parameter_specs,
    parameter_tensors,
    parameters_from,
    read_tensors,
    unpacked,
    write_tensors,
)
from fastnn.system.files import FilePath

KIND = FileFormat(
    "model file",
    "fastnn",
    1,
    ("sizes", "activations", "dropouts", "loss", "input_scale", "seed", "epochs", "samples")
    + ("estimator", "curves"),
)


@dataclass(frozen=True, eq=False)
class Model:
    """What a model file holds.

    Attributes
    ----------
    layers : tuple of Dense
    loss : Loss
    input_scale : float
    seed : int
    epochs, samples : int
        What it was trained for: epochs, and the rows that they took. Further training goes on
        with the next shuffle.
    parameters : list of (w, b)
        Per layer weights (I, O) and biases (O,), float32.
    estimator : dict, optional
        What an estimator has besides, as JSON has it; but ``curves``, lists of floats by their
        names, which become tensors.
    """

    layers: tuple[Dense, ...]
    loss: Loss
    input_scale: float
    seed: int
    epochs: int
    samples: int
    parameters: Parameters
    estimator: dict[str, Any] | None = None


# ---- writing --------------------------------------------------------------------------------


def model_from_network(network: Any, estimator: dict[str, Any] | None = None) -> Model:
    """Return what a file holds of a `fastnn.Network`, and of an estimator whose it is."""
    return Model(
        network.layers,
        network.loss,
        network.input_scale,
        network.seed,
        network._position.epochs,
        network._position.samples,
        network.parameters,
        estimator,
    )


def write_model(path: FilePath, model: Model) -> None:
    """Write a model to a file, which is replaced whole or not at all.

    The same model makes the same bytes.

    Raises
    ------
    ModelFileError
        If a weight is not finite, or the description could not be read back.
    OSError
        If the file cannot be written.
    """
    estimator, curves = model.estimator, {}
    if estimator is not None:
        estimator = dict(estimator)
        curves = {name: np.array(each, "<f8") for name, each in estimator.pop("curves").items()}
    description = {
        "sizes": [model.layers[0].inputs, *(layer.outputs for layer in model.layers)],
        "activations": [layer.activation for layer in model.layers[:-1]],
        "dropouts": [layer.dropout for layer in model.layers],
        "loss": model.loss.name,
        "input_scale": model.input_scale,
        "seed": model.seed,
        "epochs": model.epochs,
        "samples": model.samples,
        "estimator": estimator,
        "curves": {name: len(curve) for name, curve in curves.items()},
    }
    leaves = parameter_tensors(model.parameters)
    leaves |= {_curve_leaf(name): curve for name, curve in curves.items()}
    write_tensors(path, KIND, description, leaves, _expected)


def _curve_leaf(name: str) -> str:
    return f"curves.{name}"


# ---- reading --------------------------------------------------------------------------------


def read_model(path: FilePath) -> Model:
    """Read a model from a file, and believe nothing of what is in it.

    Memory grows with what the file holds, not with what it claims to hold.

    Raises
    ------
    ModelFileError
        If it is no model file, is damaged, or is a later version's.
    OSError
        If it cannot be read.
    """
    description, leaves = read_tensors(path, KIND, _expected)
    with prefix_errors(path):
        return _model(description, leaves)


def _read(file: BinaryIO) -> Model:
    return _model(*unpacked(file, KIND, _expected))


def _expected(description: dict[str, Any]) -> Iterator[tuple[str, TensorSpec]]:
    """Yield the tensors that a description asks for; refuse one whose values cannot be."""
    for name, kind in (("loss", str), ("input_scale", float), ("curves", dict)):
        get_typed(description, name, kind)
    for name, limit in (("seed", SEED_LIMIT), ("epochs", COUNT_LIMIT), ("samples", COUNT_LIMIT)):
        get_count(description, name, limit)
    estimator = description["estimator"]
    if estimator is not None and "curves" in get_typed(description, "estimator", dict):
        raise ModelFileError("the estimator has 'curves', which does not belong there")
    if estimator is None and description["curves"]:
        raise ModelFileError("there are curves, where there is no estimator")
    yield from parameter_specs(get_list(description, "sizes", int))
    for name in description["curves"]:
        yield _curve_leaf(name), TensorSpec((get_count(description["curves"], name),), "F64")


def _model(description: dict[str, Any], leaves: Tensors) -> Model:
    layers, loss = _architecture(description)
    estimator = description["estimator"]
    if estimator is not None:
        names = description["curves"]
        estimator["curves"] = {name: leaves[_curve_leaf(name)].tolist() for name in names}
    return Model(
        layers,
        loss,
        parameters=parameters_from(leaves, len(layers)),
        **{name: description[name] for name in ("input_scale", "seed", "epochs", "samples")},
        estimator=estimator,
    )


def _architecture(description: dict[str, Any]) -> tuple[tuple[Dense, ...], Loss]:
    """Return the layers and the loss that a description names."""
    activations = get_list(description, "activations", str)
    dropouts = get_list(description, "dropouts", float)
    try:
        check_setting("input_scale", description["input_scale"])
        layers = dense_layers(description["sizes"], activations, dropouts)
        return layers, get_loss(description["loss"])
    except ValueError as error:
        raise ModelFileError(str(error)[:200]) from error
