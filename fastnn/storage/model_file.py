"""A trained network, and the estimator around it, in a file of tensors.

The tensors are ``layers.0.weights`` (I, O), ``layers.0.biases`` (O,), ``layers.1.weights`` and so
on, float32; and an estimator's ``curves.NAME``, float64, with one number per epoch. The
description has the architecture, the length of the training, and the rest of an estimator.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastnn.errors import ModelFileError
from fastnn.model.layers import Parameters
from fastnn.model.randomness import SEED_LIMIT
from fastnn.model.settings import COUNT_LIMIT
from fastnn.storage.strict_json import get_count, get_list, get_typed
from fastnn.storage.tensor_file import (
    FileFormat,
    Tensors,
    TensorSpec,
    parameter_specs,
    parameter_tensors,
    parameters_from,
    read_tensors,
    write_tensors,
)
from fastnn.system.files import FilePath

# Keys of the description, and the arguments of `fastnn.Network` that they hold.
_ARGUMENTS = {
    "sizes": "sizes",
    "activations": "activation",
    "dropouts": "dropout",
    "loss": "loss",
    "input_scale": "input_scale",
    "seed": "seed",
}
FORMAT = FileFormat(
    "model file", "fastnn", 1, (*_ARGUMENTS, "epochs", "samples", "estimator", "curves")
)


@dataclass(frozen=True, eq=False)
class Model:
    """The content of a model file.

    Attributes
    ----------
    arguments : dict
        Keyword arguments of `fastnn.Network`.
    epochs, samples : int
        Epochs of training, and rows that they processed.
    parameters : list of (w, b)
        Weights (I, O) and biases (O,) of each layer, float32.
    estimator : dict, optional
        The rest of an estimator as JSON values, and ``curves``, a dict of lists of floats.
    """

    arguments: dict[str, Any]
    epochs: int
    samples: int
    parameters: Parameters
    estimator: dict[str, Any] | None = None


# ---- writing --------------------------------------------------------------------------------


def model_from_network(network: Any, estimator: dict[str, Any] | None = None) -> Model:
    """Return the model of a `fastnn.Network`, and of the estimator that it belongs to."""
    layers = network.layers
    arguments = {
        "sizes": [layers[0].inputs, *(layer.outputs for layer in layers)],
        "activation": [layer.activation for layer in layers[:-1]],
        "dropout": [layer.dropout for layer in layers],
        "loss": network.loss.name,
        "input_scale": network.input_scale,
        "seed": network.seed,
    }
    position = network._position
    return Model(arguments, position.epochs, position.samples, network.parameters, estimator)


def write_model(path: FilePath, model: Model) -> None:
    """Write a model to a file atomically. The same model gives the same bytes.

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
        **{key: model.arguments[argument] for key, argument in _ARGUMENTS.items()},
        "epochs": model.epochs,
        "samples": model.samples,
        "estimator": estimator,
        "curves": {name: len(curve) for name, curve in curves.items()},
    }
    tensors = parameter_tensors(model.parameters)
    tensors |= {f"curves.{name}": curve for name, curve in curves.items()}
    write_tensors(path, FORMAT, description, tensors, tensor_specs)


# ---- reading --------------------------------------------------------------------------------


def read_model(path: FilePath) -> Model:
    """Read a model from a file, which may be damaged or hostile.

    Memory grows with the size of the file, not with sizes in its header. `fastnn.Network` checks
    the names of activations and losses, and the ranges of settings.

    Raises
    ------
    ModelFileError
        If the file is not a model file, is damaged, or is of a later version.
    OSError
        If the file cannot be read.
    """
    return model_from(*read_tensors(path, FORMAT, tensor_specs))


def tensor_specs(description: dict[str, Any]) -> Iterator[tuple[str, TensorSpec]]:
    """Check the types in a description; yield the names and specs of its tensors."""
    for name, kind in (("loss", str), ("input_scale", float), ("curves", dict)):
        get_typed(description, name, kind)
    get_list(description, "activations", str)
    get_list(description, "dropouts", float)
    for name, limit in (("seed", SEED_LIMIT), ("epochs", COUNT_LIMIT), ("samples", COUNT_LIMIT)):
        get_count(description, name, limit)
    estimator = description["estimator"]
    if estimator is not None and "curves" in get_typed(description, "estimator", dict):
        raise ModelFileError("the estimator has 'curves', which does not belong there")
    if estimator is None and description["curves"]:
        raise ModelFileError("there are curves, but no estimator")
    yield from parameter_specs(get_list(description, "sizes", int))
    for name in description["curves"]:
        yield f"curves.{name}", TensorSpec((get_count(description["curves"], name),), "F64")


def model_from(description: dict[str, Any], tensors: Tensors) -> Model:
    """Return the model of a description and its tensors."""
    estimator = description["estimator"]
    if estimator is not None:
        names = description["curves"]
        estimator["curves"] = {name: tensors[f"curves.{name}"].tolist() for name in names}
    return Model(
        {argument: description[key] for key, argument in _ARGUMENTS.items()},
        description["epochs"],
        description["samples"],
        parameters_from(tensors, len(description["sizes"]) - 1),
        estimator,
    )
