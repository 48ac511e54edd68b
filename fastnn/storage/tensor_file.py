"""Tensors and a description of them in one file, written and read so that nothing is believed.

The file is a safetensors file. Its tensors are float32 or, where figures are kept, float64. Its
metadata are one string, which is JSON: the format's number, fastnn's version, what the file's kind
says of itself, and a SHA-256 over all of that and every tensor. (Two strings would be written in
another order every time.)

A file may come from anywhere, and may be damaged. Nothing in it is run, or imported by a name. Its
header is checked in full before anything is read that is as large as the header says. One byte
that has changed is noticed.
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
    get_list,
    get_typed,
    parse_object,
    prefix_errors,
    short_repr,
)
from fastnn.system.files import FilePath, regular_mode, write_atomically

HEADER_LIMIT = 2 << 20  # bytes; Python's objects for them may take thirty times as many
_LENGTH_BYTES = 8  # in front of the header: its length
_DTYPES: dict[str, Any] = {"F32": np.dtype("<f4"), "F64": np.dtype("<f8")}

Tensors = dict[str, np.ndarray]


class FileFormat(NamedTuple):
    """What a kind of file is called, and what its description has.

    Attributes
    ----------
    noun : str
    key : str
        The name of the metadata's string.
    format : int
    names : tuple of str
        What the description has besides the format, fastnn's version and the SHA-256.
    unbounded : str
        How the names of float32 tensors begin that may hold infinity; float64 may hold anything.
    """

    noun: str
    key: str
    format: int
    names: tuple[str, ...]
    unbounded: str | None = None


class TensorSpec(NamedTuple):
    """What a tensor has to be."""

    shape: tuple[int, ...]
    dtype: str = "F32"


def write_tensors(
    path: FilePath,
    kind: FileFormat,
    description: dict[str, Any],
    leaves: Tensors,
    expected: Callable[[dict[str, Any]], Iterable[tuple[str, TensorSpec]]] = lambda description: (),
) -> None:
    """Write a file, which is replaced whole or not at all.

    The same description and leaves make the same bytes.

    Parameters
    ----------
    leaves : dict of str to ndarray
        float32, all finite, or float64.
    expected : callable, optional
        As `read_tensors` will take it: a description that it refuses is not written.

    Raises
    ------
    ModelFileError
        If a number that must be finite is not, or the description could not be read back.
    OSError
        If the file cannot be written.
    """
    with prefix_errors(path):
        tuple(expected(description))
        contents = _contents(kind, description, leaves)
    write_atomically(path, [contents])


def _contents(kind: FileFormat, description: dict[str, Any], leaves: Tensors) -> bytes:
    from safetensors.numpy import save

    _check_finite(leaves, kind)
    leaves = {name: np.require(leaf, _dtype_of(leaf), "C") for name, leaf in leaves.items()}
    description = {"format": kind.format, "fastnn": __version__, **description}
    description["sha256"] = _digest(description, leaves)
    contents = save(leaves, {kind.key: dump_object(description)})
    length = int.from_bytes(contents[:_LENGTH_BYTES], "little")
    if length > HEADER_LIMIT:
        raise ModelFileError(
            f"all but the tensors would take {length:,} bytes, where {HEADER_LIMIT:,} are the "
            "limit: names are too long"
        )
    return contents


def read_tensors(
    path: FilePath,
    kind: FileFormat,
    expected: Callable[[dict[str, Any]], Iterable[tuple[str, TensorSpec]]],
) -> tuple[dict[str, Any], Tensors]:
    """Read a file; return its description, and its tensors in the order in which they are expected.

    Memory grows with what the file holds, not with what it claims to hold.

    Parameters
    ----------
    expected : callable
        Gets the description, of which nothing but the names is checked yet; returns the names of
        all tensors, and what they have to be.

    Raises
    ------
    ModelFileError
        If it is no file of this kind, is damaged, or is a later version's.
    OSError
        If it cannot be read.
    """
    regular_mode(path)  # for a pipe, opening it would wait
    with prefix_errors(path), open(path, "rb") as file:
        return unpacked(file, kind, expected)


def unpacked(
    file: BinaryIO,
    kind: FileFormat,
    expected: Callable[[dict[str, Any]], Iterable[tuple[str, TensorSpec]]],
) -> tuple[dict[str, Any], Tensors]:
    """Return what `read_tensors` does, of a file that is open."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    size = file.seek(0, os.SEEK_END) - _LENGTH_BYTES
    file.seek(0)
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    if not 0 < length <= min(HEADER_LIMIT, size):
        raise ModelFileError(f"is not a {kind.noun}, or is cut short")
    header = parse_object(file.read(length), "the header")
    description = _description(header, kind)
    names = _checked_layout(expected(description), header, size - length)
    file.seek(0)
    try:
        arrays = load(file.read(_LENGTH_BYTES + size))
    except SafetensorError as error:
        raise ModelFileError(f"is not as safetensors has it: {error}") from error
    leaves = {name: arrays[name] for name in names}
    _check_finite(leaves, kind)
    if _digest(description, leaves) != description["sha256"]:
        raise ModelFileError("is damaged: its SHA-256 is not the one that it names")
    return description, leaves


def _dtype_of(leaf: np.ndarray) -> np.dtype:
    return _DTYPES["F64" if leaf.dtype == np.float64 else "F32"]


def _check_finite(leaves: Tensors, kind: FileFormat) -> None:
    """Refuse weights that are not finite; figures, in float64, may be anything."""
    for name, leaf in leaves.items():
        may_be_infinite = kind.unbounded is not None and name.startswith(kind.unbounded)
        bad = np.isnan(leaf) if may_be_infinite else ~np.isfinite(leaf)
        if leaf.dtype != np.float64 and bad.any():
            raise ModelFileError(f"{name} holds NaN or infinity")


def _digest(description: dict[str, Any], leaves: Tensors) -> str:
    """Return a SHA-256 over a description, but for its own, and over every tensor."""
    rest = {name: value for name, value in description.items() if name != "sha256"}
    digest = hashlib.sha256(dump_object(rest).encode())
    for name, leaf in sorted(leaves.items()):
        dtype = "F64" if leaf.dtype == np.float64 else "F32"
        digest.update(f"\n{name} {dtype} {leaf.shape}\n".encode())
        digest.update(leaf.ravel().data)
    return digest.hexdigest()


def _description(header: dict[str, Any], kind: FileFormat) -> dict[str, Any]:
    """Take the metadata out of a header; return the description, which has the right names."""
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
            f"is of format {short_repr(number)}, which {which} version of fastnn wrote; this one "
            f"reads format {kind.format}"
        )
    check_keys(metadata, (kind.key,), "the metadata")
    check_keys(description, ("format", "fastnn", *kind.names, "sha256"), "the description")
    get_typed(description, "fastnn", str)
    return description


def _checked_layout(
    expected: Iterable[tuple[str, TensorSpec]], entries: dict[str, Any], size: int
) -> list[str]:
    """Refuse tensors that are not the expected ones, side by side up to the end.

    Parameters
    ----------
    entries : dict
        What the header says of each tensor, by its name.
    size : int
        Bytes behind the header: the tensors', to the last one.
    """
    places = {}
    for name, leaf in expected:
        entry = get_typed(entries, name, dict)
        with prefix_errors(name):
            places[name] = _place(entry, leaf)
    check_keys(entries, places, "the header")
    end = 0
    for name, (start, stop) in sorted(places.items(), key=lambda item: item[1]):
        if start != end:
            raise ModelFileError(
                f"{name} begins at byte {short_repr(start)}, where {short_repr(end)} is next"
            )
        end = stop
    if end != size:
        raise ModelFileError(
            f"is damaged: it has {size} bytes for tensors that take {short_repr(end)}"
        )
    return list(places)


def _place(entry: dict[str, Any], leaf: TensorSpec) -> tuple[int, int]:
    """Return where a tensor begins and ends, if its entry is that of this leaf."""
    check_keys(entry, ("dtype", "shape", "data_offsets"), "its entry")
    if get_typed(entry, "dtype", str) != leaf.dtype:
        raise ModelFileError(f"dtype is {short_repr(entry['dtype'])}, where {leaf.dtype} is needed")
    shape = list(leaf.shape)
    if get_list(entry, "shape", int) != shape:
        raise ModelFileError(
            f"shape is {short_repr(entry['shape'])}, where {short_repr(shape)} is needed"
        )
    offsets = get_list(entry, "data_offsets", int)
    size = math.prod(shape) * _DTYPES[leaf.dtype].itemsize
    if len(offsets) != 2 or offsets[1] - offsets[0] != size:
        raise ModelFileError(
            f"data_offsets are {short_repr(offsets)}, which the shape does not fill"
        )
    return offsets[0], offsets[1]


# ---- leaves that several kinds have -----------------------------------------------------------


def parameter_specs(sizes: list[int], before: str = "") -> Iterable[tuple[str, TensorSpec]]:
    """Yield the leaves of a network's parameters, layer by layer.

    Parameters
    ----------
    sizes : list of int
        Inputs, hidden widths and outputs.
    before : str
        What stands before ``layers.0.weights`` and so on.
    """
    for i in range(len(sizes) - 1):
        yield f"{before}layers.{i}.weights", TensorSpec((sizes[i], sizes[i + 1]))
        yield f"{before}layers.{i}.biases", TensorSpec((sizes[i + 1],))


def parameter_tensors(parameters: list[tuple[np.ndarray, np.ndarray]], before: str = "") -> Tensors:
    """Return all weights and biases by the names of their leaves."""
    leaves = {}
    for i, (w, b) in enumerate(parameters):
        leaves[f"{before}layers.{i}.weights"] = w
        leaves[f"{before}layers.{i}.biases"] = b
    return leaves


def parameters_from(leaves: Tensors, layers: int, before: str = "") -> list[Any]:
    """Return the (w, b) that `parameter_tensors` was given."""
    names = [f"{before}layers.{i}." for i in range(layers)]
    return [(leaves[f"{name}weights"], leaves[f"{name}biases"]) for name in names]
