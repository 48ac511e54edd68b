"""A trained network in a file: written so that it can be checked, read so that it has to be.

The file is a safetensors file. Its tensors are ``layers.0.weights`` (I, O), ``layers.0.biases``
(O,), ``layers.1.weights`` and so on, float32. Its metadata are one string, ``fastnn``, which is
JSON: the format's number, fastnn's version, what the network is and how long it was trained, what
an estimator has besides, and a SHA-256 over all of that and every tensor. (Two strings would be
written in another order every time.)

A file may come from anywhere, and may be damaged. Nothing in it is run, or imported by a name:
layers and losses come from fastnn's own tables. Its header is checked in full before anything is
read that is as large as the header says. One byte that has changed is noticed.
"""

import hashlib
import math
import os
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, BinaryIO

import numpy as np

from fastnn import __version__
from fastnn.errors import ModelFileError
from fastnn.files import FilePath, regular_mode, write_whole
from fastnn.layers import Dense, Parameters, dense_layers
from fastnn.losses import Loss, get_loss
from fastnn.randomness import SEED_LIMIT
from fastnn.settings import check_setting
from fastnn.strict_json import (
    COUNT_LIMIT,
    brief,
    check_names,
    counted,
    dump,
    listed,
    parse,
    typed,
    within,
)

FORMAT = 1
HEADER_LIMIT = 2 << 20  # bytes; Python's objects for them may take thirty times as many
_LENGTH_BYTES = 8  # in front of the header: its length
_DTYPE = np.dtype("<f4")
_NAMES = (
    "format", "fastnn", "sizes", "activations", "dropouts", "loss", "input_scale", "seed", "epochs",
    "samples", "estimator", "sha256",
)  # fmt: skip


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
        What an estimator has besides, as JSON has it.
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


def model_of(network: Any, estimator: dict[str, Any] | None = None) -> Model:
    """Return what a file holds of a `fastnn.Network`, and of an estimator whose it is."""
    return Model(
        network.layers,
        network.loss,
        network.input_scale,
        network.seed,
        network._counts.epochs,
        network._counts.samples,
        network.parameters,
        estimator,
    )


def write_model(path: FilePath, model: Model) -> None:
    """Write a model to a file, which is replaced whole or not at all.

    The same model makes the same bytes.

    Raises
    ------
    ModelFileError
        If a weight is not finite, or there is more besides the weights than is read back.
    OSError
        If the file cannot be written.
    """
    with within(path):
        contents = _contents(model)
    write_whole(path, [contents])


def _contents(model: Model) -> bytes:
    from safetensors.numpy import save

    leaves = _leaves(model.parameters)
    description = {
        "format": FORMAT,
        "fastnn": __version__,
        "sizes": [model.layers[0].inputs, *(layer.outputs for layer in model.layers)],
        "activations": [layer.activation for layer in model.layers[:-1]],
        "dropouts": [layer.dropout for layer in model.layers],
        "loss": model.loss.name,
        "input_scale": model.input_scale,
        "seed": model.seed,
        "epochs": model.epochs,
        "samples": model.samples,
        "estimator": model.estimator,
    }
    description["sha256"] = _digest(description, leaves)
    contents = save(leaves, {"fastnn": dump(description)})
    length = int.from_bytes(contents[:_LENGTH_BYTES], "little")
    if length > HEADER_LIMIT:
        raise ModelFileError(
            f"all but the weights would take {length:,} bytes, where {HEADER_LIMIT:,} are the "
            "limit: histories or names are too long"
        )
    return contents


def _leaves(parameters: Parameters) -> dict[str, np.ndarray]:
    """Return all weights and biases by the names of their tensors; all of them are finite."""
    leaves = {}
    for i, pair in enumerate(parameters):
        for name, array in zip(_leaf_names(i), pair, strict=True):
            if not np.isfinite(array).all():
                raise ModelFileError(f"{name} holds NaN or infinity")
            leaves[name] = np.require(array, _DTYPE, "C")
    return leaves


def _leaf_names(layer: int) -> tuple[str, str]:
    return f"layers.{layer}.weights", f"layers.{layer}.biases"


def _digest(description: dict[str, Any], leaves: dict[str, np.ndarray]) -> str:
    """Return a SHA-256 over a description, but for its own, and over every tensor."""
    rest = {name: value for name, value in description.items() if name != "sha256"}
    digest = hashlib.sha256(dump(rest).encode())
    for name, array in leaves.items():
        digest.update(f"\n{name} F32 {array.shape}\n".encode())
        digest.update(array.ravel().data)
    return digest.hexdigest()


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
    regular_mode(path)  # for a pipe, opening it would wait
    with within(path), open(path, "rb") as file:
        return _read(file)


def _read(file: BinaryIO) -> Model:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    size = file.seek(0, os.SEEK_END) - _LENGTH_BYTES
    file.seek(0)
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    if not 0 < length <= min(HEADER_LIMIT, size):
        raise ModelFileError("is not a model file, or is cut short")
    header = parse(file.read(length), "the header")
    description = _description(header)
    layers, loss = _architecture(description, header, size - length)
    file.seek(0)
    try:
        arrays = load(file.read(_LENGTH_BYTES + size))
    except SafetensorError as error:
        raise ModelFileError(f"is not as safetensors has it: {error}") from error
    names = map(_leaf_names, range(len(layers)))
    parameters = [(arrays[weights], arrays[biases]) for weights, biases in names]
    if _digest(description, _leaves(parameters)) != description["sha256"]:
        raise ModelFileError("is damaged: its SHA-256 is not the one that it names")
    return Model(
        layers,
        loss,
        parameters=parameters,
        **{name: description[name] for name in ("input_scale", "seed", "epochs", "samples")},
        estimator=description["estimator"],
    )


def _description(header: dict[str, Any]) -> dict[str, Any]:
    """Take the metadata out of a header; return what they say, which is of the right types."""
    metadata = typed(header, "__metadata__", dict)
    del header["__metadata__"]
    description = parse(typed(metadata, "fastnn", str), "the description")
    number = typed(description, "format", int)
    if number != FORMAT:
        which = "a later" if number > FORMAT else "no"
        raise ModelFileError(
            f"is of format {brief(number)}, which {which} version of fastnn wrote; this one reads "
            f"format {FORMAT}"
        )
    check_names(metadata, ("fastnn",), "the metadata")
    check_names(description, _NAMES, "the description")
    for name, kind in (("fastnn", str), ("loss", str), ("input_scale", float)):
        typed(description, name, kind)
    for name, limit in (("seed", SEED_LIMIT), ("epochs", COUNT_LIMIT), ("samples", COUNT_LIMIT)):
        counted(description, name, limit)
    if description["estimator"] is not None:
        typed(description, "estimator", dict)
    return description


def _architecture(
    description: dict[str, Any], entries: dict[str, Any], size: int
) -> tuple[tuple[Dense, ...], Loss]:
    """Return the layers and the loss that a description names, if the tensors are theirs.

    Parameters
    ----------
    description : dict
    entries : dict
        What the header says of each tensor, by its name.
    size : int
        Bytes behind the header: the tensors', to the last one.
    """
    sizes = listed(description, "sizes", int)
    _check_layout(sizes, entries, size)
    activations = listed(description, "activations", str)
    dropouts = listed(description, "dropouts", float)
    try:
        check_setting("input_scale", description["input_scale"])
        return dense_layers(sizes, activations, dropouts), get_loss(description["loss"])
    except ValueError as error:
        raise ModelFileError(str(error)[:200]) from error


def _check_layout(sizes: list[int], entries: dict[str, Any], size: int) -> None:
    """Refuse tensors that are not those of layers of these sizes, side by side up to the end."""
    places = {}
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        for name, shape in zip(_leaf_names(i), ([inputs, outputs], [outputs]), strict=True):
            entry = typed(entries, name, dict)
            with within(name):
                places[name] = _place(entry, shape)
    check_names(entries, places, "the header")
    end = 0
    for name, (start, stop) in sorted(places.items(), key=lambda item: item[1]):
        if start != end:
            raise ModelFileError(
                f"{name} begins at byte {brief(start)}, where {brief(end)} is next"
            )
        end = stop
    if end != size:
        raise ModelFileError(f"is damaged: it has {size} bytes for tensors that take {brief(end)}")


def _place(entry: dict[str, Any], shape: list[int]) -> tuple[int, int]:
    """Return where a tensor of float32 begins and ends, if its entry is that of this shape."""
    check_names(entry, ("dtype", "shape", "data_offsets"), "its entry")
    if typed(entry, "dtype", str) != "F32":
        raise ModelFileError(f"dtype is {brief(entry['dtype'])}, where F32 is needed")
    if listed(entry, "shape", int) != shape:
        raise ModelFileError(f"shape is {brief(entry['shape'])}, where {brief(shape)} is needed")
    offsets = listed(entry, "data_offsets", int)
    if len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * _DTYPE.itemsize:
        raise ModelFileError(f"data_offsets are {brief(offsets)}, which the shape does not fill")
    return offsets[0], offsets[1]
