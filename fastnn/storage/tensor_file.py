"""Files of tensors and a description, in the safetensors format, with strict checks.

The tensors are float32 (weights) or float64 (metrics). The metadata is one string of JSON, the
description. Besides the keys of its `FileFormat`, it has the number of the format, fastnn's
version, and a SHA-256 over the rest of the description and all tensors. (With two strings,
safetensors would write them in varying order.)

A file may come from anywhere and may be damaged. Reading it runs no code and imports nothing by
name. The header is checked completely before the tensors are read. Every changed byte of the
description or the tensors is detected.
"""

import hashlib
import math
import os
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from fastnn import __version__
from fastnn.errors import ModelFileError
from fastnn.storage.strict_json import (
    check_keys,
    dump_object,
    get_typed,
    parse_object,
    prefix_errors,
    short_repr,
)
from fastnn.system.files import FilePath, regular_mode, write_atomically

HEADER_LIMIT = 2 << 20  # bytes; parsed, they may take thirty times as much memory
_LENGTH_BYTES = 8  # the length of the header, in front of it
_DTYPES: dict[str, Any] = {"F32": np.dtype("<f4"), "F64": np.dtype("<f8")}

Tensors = dict[str, np.ndarray]


class FileFormat(NamedTuple):
    """A kind of file: its name, and the keys of its description.

    Attributes
    ----------
    noun : str
        What messages call it, such as "model file".
    key : str
        Key of the metadata's string.
    format : int
        Number of the format.
    names : tuple of str
        Keys of the description, apart from the format, fastnn's version and the SHA-256.
    unbounded : str, optional
        Prefix of the float32 tensors that may be infinite. float64 tensors may also be NaN.
    """

    noun: str
    key: str
    format: int
    names: tuple[str, ...]
    unbounded: str | None = None


class TensorSpec(NamedTuple):
    """The shape and dtype that a tensor must have."""

    shape: tuple[int, ...]
    dtype: str = "F32"


GetSpecs = Callable[[dict[str, Any]], Iterable[tuple[str, TensorSpec]]]


def write_tensors(
    path: FilePath,
    kind: FileFormat,
    description: dict[str, Any],
    tensors: Tensors,
    get_specs: GetSpecs,
) -> None:
    """Write a file atomically. The same description and tensors give the same bytes.

    Parameters
    ----------
    path : str or path-like
        The file.
    kind : FileFormat
        Kind of the file.
    description : dict
        Values for the keys `kind.names`.
    tensors : dict of str to ndarray
        float32 or float64.
    get_specs : callable
        As in `read_tensors`; a description that it rejects is not written.

    Raises
    ------
    ModelFileError
        If a float32 tensor has NaN, or infinity where that is not allowed; or the description
        could not be read back.
    OSError
        If the file cannot be written.
    """
    with prefix_errors(path):
        for _ in get_specs(description):
            pass
        contents = _serialize(kind, description, tensors)
    write_atomically(path, [contents])


def _serialize(kind: FileFormat, description: dict[str, Any], tensors: Tensors) -> bytes:
    from safetensors.numpy import save

    _check_finite(tensors, kind)
    tensors = {name: np.require(each, _DTYPES[_dtype(each)], "C") for name, each in tensors.items()}
    description = {"format": kind.format, "fastnn": __version__, **description}
    description["sha256"] = _digest(description, tensors)
    contents = save(tensors, {kind.key: dump_object(description)})
    length = int.from_bytes(contents[:_LENGTH_BYTES], "little")
    if length > HEADER_LIMIT:
        raise ModelFileError(
            f"the header would have {length:,} bytes, but at most {HEADER_LIMIT:,} are allowed: "
            "names are too long"
        )
    return contents


def read_tensors(
    path: FilePath, kind: FileFormat, get_specs: GetSpecs
) -> tuple[dict[str, Any], Tensors]:
    """Read a file; return its description, and its tensors in the order of their specs.

    Memory grows with the size of the file, not with sizes in its header.

    Parameters
    ----------
    path : str or path-like
        The file.
    kind : FileFormat
        Kind of the file.
    get_specs : callable
        Returns the names and specs of all tensors, given the description. Only the keys of the
        description are checked before.

    Raises
    ------
    ModelFileError
        If the file is of another kind or of a later version, or is damaged.
    OSError
        If the file cannot be read.
    """
    regular_mode(path)  # opening a pipe would block
    with prefix_errors(path), open(path, "rb") as file:
        return deserialize(file, kind, get_specs)


def deserialize(
    file: BinaryIO, kind: FileFormat, get_specs: GetSpecs
) -> tuple[dict[str, Any], Tensors]:
    """Read an open file, as `read_tensors` does."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    size = file.seek(0, os.SEEK_END) - _LENGTH_BYTES
    file.seek(0)
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    if not 0 < length <= min(HEADER_LIMIT, size):
        raise ModelFileError(f"is not a {kind.noun}, or is truncated")
    header = parse_object(file.read(length), "the header")
    description = _parse_description(header, kind)
    names = _check_entries(header, get_specs(description), size - length)
    file.seek(0)
    try:
        arrays = load(file.read(_LENGTH_BYTES + size))
    except SafetensorError as error:
        raise ModelFileError(f"is not a valid safetensors file: {str(error)[:200]}") from error
    tensors = {name: arrays[name] for name in names}
    _check_finite(tensors, kind)
    if _digest(description, tensors) != description["sha256"]:
        raise ModelFileError("is damaged: its SHA-256 is wrong")
    return description, tensors


def _dtype(tensor: np.ndarray) -> str:
    return "F64" if tensor.dtype == np.float64 else "F32"


def _check_finite(tensors: Tensors, kind: FileFormat) -> None:
    """Raise a ModelFileError if a float32 tensor has NaN, or infinity where that is not allowed."""
    for name, tensor in tensors.items():
        may_be_infinite = kind.unbounded is not None and name.startswith(kind.unbounded)
        bad = np.isnan(tensor) if may_be_infinite else ~np.isfinite(tensor)
        if _dtype(tensor) == "F32" and bad.any():
            raise ModelFileError(f"{name} has NaN or infinity")


def _digest(description: dict[str, Any], tensors: Tensors) -> str:
    """Return the SHA-256 over a description, without its own SHA-256, and all tensors."""
    rest = {name: value for name, value in description.items() if name != "sha256"}
    digest = hashlib.sha256(dump_object(rest).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {_dtype(tensor)} {tensor.shape}\n".encode())
        digest.update(tensor.ravel().data)
    return digest.hexdigest()


def _parse_description(header: dict[str, Any], kind: FileFormat) -> dict[str, Any]:
    """Remove the metadata from a header; return the description after a check of its keys."""
    metadata = get_typed(header, "__metadata__", dict)
    del header["__metadata__"]
    if kind.key not in metadata:
        other = " but a checkpoint" if "fastnn_checkpoint" in metadata else ""
        raise ModelFileError(f"is not a {kind.noun}{other}")
    description = parse_object(get_typed(metadata, kind.key, str), "the description")
    number = get_typed(description, "format", int)
    if number != kind.format:
        which = "a later" if number > kind.format else "no"
        raise ModelFileError(
            f"has format {short_repr(number)}, written by {which} version of fastnn; this version "
            f"reads format {kind.format}"
        )
    check_keys(metadata, (kind.key,), "the metadata")
    check_keys(description, ("format", "fastnn", *kind.names, "sha256"), "the description")
    get_typed(description, "fastnn", str)
    return description


def _check_entries(
    entries: dict[str, Any], specs: Iterable[tuple[str, TensorSpec]], size: int
) -> list[str]:
    """Check a header against specs, up to the offsets, which safetensors checks.

    Parameters
    ----------
    entries : dict
        The entry of each tensor in the header.
    specs : iterable of (str, TensorSpec)
        Names and specs of the tensors. The iteration ends at the first error.
    size : int
        Bytes that follow the header.

    Returns
    -------
    list of str
        The names.
    """
    names, expected = [], 0
    for name, spec in specs:
        entry = get_typed(entries, name, dict)
        with prefix_errors(name):
            check_keys(entry, ("dtype", "shape", "data_offsets"), "its entry")
            for key, value in (("dtype", spec.dtype), ("shape", list(spec.shape))):
                if entry[key] != value:
                    raise ModelFileError(
                        f"{key} is {short_repr(entry[key])}, expected {short_repr(value)}"
                    )
        names.append(name)
        expected += math.prod(spec.shape) * _DTYPES[spec.dtype].itemsize
    check_keys(entries, dict.fromkeys(names), "the header")
    if size != expected:
        raise ModelFileError(
            f"is damaged: it has {size} bytes of tensors, expected {short_repr(expected)}"
        )
    return names


# ---- parameters of a network ----------------------------------------------------------------


def parameter_specs(sizes: list[int], prefix: str = "") -> Iterable[tuple[str, TensorSpec]]:
    """Yield the names and specs of a network's parameters, layer by layer.

    Parameters
    ----------
    sizes : list of int
        Numbers of inputs, hidden units of each layer, and outputs.
    prefix : str, optional
        Text before ``layers.0.weights`` and so on.
    """
    for i in range(len(sizes) - 1):
        yield f"{prefix}layers.{i}.weights", TensorSpec((sizes[i], sizes[i + 1]))
        yield f"{prefix}layers.{i}.biases", TensorSpec((sizes[i + 1],))


def parameter_tensors(parameters: list[tuple[np.ndarray, np.ndarray]], prefix: str = "") -> Tensors:
    """Return all weights and biases by the names of `parameter_specs`."""
    tensors = {}
    for i, (w, b) in enumerate(parameters):
        tensors[f"{prefix}layers.{i}.weights"] = w
        tensors[f"{prefix}layers.{i}.biases"] = b
    return tensors


def parameters_from(tensors: Tensors, layers: int, prefix: str = "") -> list[Any]:
    """Return (w, b) of each layer; the inverse of `parameter_tensors`."""
    names = [f"{prefix}layers.{i}." for i in range(layers)]
    return [(tensors[f"{name}weights"], tensors[f"{name}biases"]) for name in names]
