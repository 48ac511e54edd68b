"""The file format of a checkpoint, which `fastnn.storage.tensor_file` writes and reads.

The tensors are:

- the weights, named as in a model file;
- the optimizer's state, with the prefixes ``state.0.`` and ``state.1.``;
- the best weights, with the prefix ``best.``, if early stopping restores them;
- ``history.NAME`` (epochs,) float64, the metrics;
- ``callbacks.CLASS.NAME`` float64, the states of callbacks;
- ``figures`` (5,) float64: the sum of losses and the number of correct rows in the running epoch,
  its seconds, early stopping's best value, and the divisor of the learning rate.

The description contains counts and, as ``items``, the identity of the fit, which
`fastnn.training.checkpoint` compares.
"""

import math
from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np

from fastnn.epoch import Progress
from fastnn.errors import ModelFileError
from fastnn.storage.strict_json import get_count, get_list, get_typed, prefix_errors, short_repr
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
from fastnn.training.early_stopping import StoppingState
from fastnn.training.state import Position, Snapshot

Identity = dict[str, str]
T = TypeVar("T")

_COUNTS = ("epochs", "samples", "updates")  # of the start, and of the position
_POSITION = (*(f"start_{name}" for name in _COUNTS), *_COUNTS, "row", "best_epoch", "waited")
KIND = FileFormat(
    "checkpoint",
    "fastnn_checkpoint",
    1,
    ("items", "sizes", "slots", "keeps_best", "history", "callbacks", "stopped", *_POSITION),
    unbounded="state.",  # Adam's mean squares may overflow; such weights no longer change
)
_MOST_SLOTS = 2
_FIGURES = 5


def write_snapshot(path: FilePath, snapshot: Snapshot, identity: Identity) -> None:
    """Write a snapshot to a file, which is replaced completely or not at all.

    Parameters
    ----------
    identity : dict of str to str
        The identity of the fit.

    Raises
    ------
    ModelFileError
        If a weight is not finite, or a count is too large to be read back.
    OSError
        If the file cannot be written.
    """
    position, start = snapshot.position, snapshot.start
    progress, stopping = position.progress, position.stopping
    counts = (*start[:3], *position[:3], progress.position, stopping.best_epoch, stopping.waited)
    first, _ = snapshot.parameters[0]
    description = {
        "items": identity,
        "sizes": [len(first), *(len(b) for _, b in snapshot.parameters)],
        "slots": len(snapshot.state),
        "keeps_best": snapshot.best is not None,
        "history": _lengths(snapshot.history),
        "callbacks": {name: _lengths(state) for name, state in snapshot.callbacks.items()},
        "stopped": position.stopped,
        **dict(zip(_POSITION, counts, strict=True)),
    }
    tensors = parameter_tensors(snapshot.parameters)
    for i, slot in enumerate(snapshot.state):
        tensors |= parameter_tensors(slot, f"state.{i}.")
    tensors |= parameter_tensors(snapshot.best or [], "best.")
    for prefix, curves in _curves(snapshot.history, snapshot.callbacks):
        tensors |= {f"{prefix}.{name}": np.array(curve, "<f8") for name, curve in curves.items()}
    figures = progress.loss_sum, progress.correct, position.seconds, stopping.best
    tensors["figures"] = np.array([*figures, position.rate_divisor], "<f8")
    write_tensors(path, KIND, description, tensors, _expected)


def _lengths(curves: dict[str, list[float]]) -> dict[str, int]:
    return {name: len(curve) for name, curve in curves.items()}


def _curves(history: T, callbacks: dict[str, T]) -> Iterator[tuple[str, T]]:
    """Yield the history and the state of each callback with the prefix of its tensors' names."""
    yield "history", history
    for name, state in callbacks.items():
        yield f"callbacks.{name}", state


def read_snapshot(path: FilePath) -> tuple[Snapshot, Identity]:
    """Read a snapshot and the identity of its fit. The file may come from an untrusted source.

    Raises
    ------
    ModelFileError
        If the file is not a checkpoint, is damaged, or was written by a later version.
    OSError
        If it cannot be read.
    """
    description, tensors = read_tensors(path, KIND, _expected)
    with prefix_errors(path):
        return _snapshot(description, tensors), description["items"]


def _expected(description: dict[str, Any]) -> Iterator[tuple[str, TensorSpec]]:
    """Yield the tensors that a description requires; reject impossible values."""
    for name in ("items", "history", "callbacks"):
        get_typed(description, name, dict)
    get_typed(description, "keeps_best", bool)
    get_typed(description, "stopped", str)
    for name in description["items"]:
        get_typed(description["items"], name, str)
    for name in description["callbacks"]:
        get_typed(description["callbacks"], name, dict)
    for name in _POSITION:
        get_count(description, name)
    history, epochs = description["history"], description["epochs"] - description["start_epochs"]
    if any(length != epochs for length in history.values()):
        raise ModelFileError(
            f"has a history of {short_repr(history)} values, expected one per epoch ({epochs})"
        )
    sizes = get_list(description, "sizes", int)
    slots = get_count(description, "slots", _MOST_SLOTS + 1)
    prefixes = ["", *(f"state.{i}." for i in range(slots))]
    for prefix in [*prefixes, "best."] if description["keeps_best"] else prefixes:
        yield from parameter_specs(sizes, prefix)
    for prefix, curves in _curves(history, description["callbacks"]):
        for name in curves:
            yield f"{prefix}.{name}", TensorSpec((get_count(curves, name),), "F64")
    yield "figures", TensorSpec((_FIGURES,), "F64")


def _snapshot(description: dict[str, Any], tensors: Tensors) -> Snapshot:
    """Check the numbers in ``figures``, and return the snapshot."""
    loss_sum, correct, seconds, best, rate_divisor = tensors["figures"].tolist()
    if not math.isfinite(loss_sum + correct + seconds) or not 1 <= rate_divisor < math.inf:
        raise ModelFileError(f"has impossible figures {short_repr(tensors['figures'].tolist())}")
    layers = len(description["sizes"]) - 1
    position = Position(
        **{name: description[name] for name in _COUNTS},
        progress=Progress(description["row"], loss_sum, correct),
        seconds=seconds,
        stopping=StoppingState(best, description["best_epoch"], description["waited"]),
        rate_divisor=rate_divisor,
        stopped=description["stopped"],
    )
    curves = {
        prefix: {name: tensors[f"{prefix}.{name}"].tolist() for name in lengths}
        for prefix, lengths in _curves(description["history"], description["callbacks"])
    }
    return Snapshot(
        start=Position(**{name: description[f"start_{name}"] for name in _COUNTS}),
        position=position,
        parameters=parameters_from(tensors, layers),
        state=[
            parameters_from(tensors, layers, f"state.{i}.") for i in range(description["slots"])
        ],
        best=parameters_from(tensors, layers, "best.") if description["keeps_best"] else None,
        history=curves["history"],
        callbacks={name: curves[f"callbacks.{name}"] for name in description["callbacks"]},
    )
