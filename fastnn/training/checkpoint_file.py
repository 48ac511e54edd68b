"""The file format of a checkpoint: a snapshot of a fit, as `tensor_file` writes and reads it.

The tensors are the weights, named as in a model file; the optimizer's state, with the prefix
``state.0.``; the best weights, with ``best.``; in float64 ``history.NAME`` (epochs,),
``callbacks.CLASS.NAME``, the state of callbacks, and ``figures``, numbers without a range. The
description holds counts and the identity of the fit, which `fastnn.training.checkpoint` compares.
"""

import math
from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np

from fastnn.epoch import Progress
from fastnn.errors import ModelFileError
from fastnn.storage.strict_json import brief, counted, listed, typed, within
from fastnn.storage.tensor_file import (
    Kind,
    Leaf,
    Leaves,
    expected_parameters,
    parameter_leaves,
    parameters_in,
    read,
    write,
)
from fastnn.system.files import FilePath
from fastnn.training.early_stopping import Standing
from fastnn.training.state import Position, Snapshot

Items = dict[str, str]
T = TypeVar("T")

_COUNTS = ("epochs", "samples", "updates")  # of the start, and of the position
_POSITION = (*(f"start_{name}" for name in _COUNTS), *_COUNTS, "row", "best_epoch", "waited")
KIND = Kind(
    "checkpoint",
    "fastnn_checkpoint",
    1,
    ("items", "sizes", "slots", "keeps_best", "history", "callbacks", "stopped", *_POSITION),
    unbounded="state.",  # mean squares may overflow; weights with such a state no longer change
)
_MOST_SLOTS = 2
_FIGURES = 5


def write_snapshot(path: FilePath, snapshot: Snapshot, items: Items) -> None:
    """Write a snapshot to a file, which is replaced completely or not at all.

    Parameters
    ----------
    items : dict of str to str
        The identity of the fit.

    Raises
    ------
    ModelFileError
        If a weight is not finite, or a count is too large to be read back.
    OSError
        If the file cannot be written.
    """
    position, start = snapshot.position, snapshot.start
    progress, standing = position.progress, position.standing
    counts = (*start[:3], *position[:3], progress.position, standing.best_epoch, standing.waited)
    first, _ = snapshot.parameters[0]
    description = {
        "items": items,
        "sizes": [len(first), *(len(b) for _, b in snapshot.parameters)],
        "slots": len(snapshot.state),
        "keeps_best": snapshot.best is not None,
        "history": _lengths(snapshot.history),
        "callbacks": {name: _lengths(state) for name, state in snapshot.callbacks.items()},
        "stopped": position.stopped,
        **dict(zip(_POSITION, counts, strict=True)),
    }
    leaves = parameter_leaves(snapshot.parameters)
    for i, slot in enumerate(snapshot.state):
        leaves |= parameter_leaves(slot, f"state.{i}.")
    leaves |= parameter_leaves(snapshot.best or [], "best.")
    for prefix, curves in _curves(snapshot.history, snapshot.callbacks):
        leaves |= {f"{prefix}.{name}": np.array(curve, "<f8") for name, curve in curves.items()}
    figures = progress.loss_sum, progress.correct, position.seconds, standing.best
    leaves["figures"] = np.array([*figures, position.rate_divisor], "<f8")
    write(path, KIND, description, leaves, _expected)


def _lengths(curves: dict[str, list[float]]) -> dict[str, int]:
    return {name: len(curve) for name, curve in curves.items()}


def _curves(history: T, callbacks: dict[str, T]) -> Iterator[tuple[str, T]]:
    """Yield the history and the state of each callback with the prefix of its tensors' names."""
    yield "history", history
    for name, state in callbacks.items():
        yield f"callbacks.{name}", state


def read_snapshot(path: FilePath) -> tuple[Snapshot, Items]:
    """Read a snapshot and its items; trust nothing in the file.

    Raises
    ------
    ModelFileError
        If the file is not a checkpoint, is damaged, or has the format of a later version.
    OSError
        If it cannot be read.
    """
    description, leaves = read(path, KIND, _expected)
    with within(path):
        return _snapshot(description, leaves), description["items"]


def _expected(description: dict[str, Any]) -> Iterator[tuple[str, Leaf]]:
    """Yield the tensors that a description requires; refuse impossible values."""
    for name in ("items", "history", "callbacks"):
        typed(description, name, dict)
    typed(description, "keeps_best", bool)
    typed(description, "stopped", str)
    for name in description["items"]:
        typed(description["items"], name, str)
    for name in description["callbacks"]:
        typed(description["callbacks"], name, dict)
    for name in _POSITION:
        counted(description, name)
    sizes, slots = listed(description, "sizes", int), counted(description, "slots", _MOST_SLOTS + 1)
    prefixes = ["", *(f"state.{i}." for i in range(slots))]
    for prefix in [*prefixes, "best."] if description["keeps_best"] else prefixes:
        yield from expected_parameters(sizes, prefix)
    for prefix, curves in _curves(description["history"], description["callbacks"]):
        for name in curves:
            yield f"{prefix}.{name}", Leaf((counted(curves, name),), "F64")
    yield "figures", Leaf((_FIGURES,), "F64")


def _snapshot(description: dict[str, Any], leaves: Leaves) -> Snapshot:
    """Return a snapshot, if its counts agree with each other."""
    history = description["history"]
    epochs = description["epochs"] - description["start_epochs"]
    if any(length != epochs for length in history.values()):
        raise ModelFileError(f"has a history of {brief(history)}, where {epochs} are needed")
    loss_sum, correct, seconds, best, rate_divisor = leaves["figures"].tolist()
    if not math.isfinite(loss_sum + correct + seconds) or not 1 <= rate_divisor < math.inf:
        raise ModelFileError(f"has impossible figures {brief(leaves['figures'].tolist())}")
    layers = len(description["sizes"]) - 1
    position = Position(
        **{name: description[name] for name in _COUNTS},
        progress=Progress(description["row"], loss_sum, correct),
        seconds=seconds,
        standing=Standing(best, description["best_epoch"], description["waited"]),
        rate_divisor=rate_divisor,
        stopped=description["stopped"],
    )
    curves = {
        prefix: {name: leaves[f"{prefix}.{name}"].tolist() for name in lengths}
        for prefix, lengths in _curves(history, description["callbacks"])
    }
    return Snapshot(
        start=Position(**{name: description[f"start_{name}"] for name in _COUNTS}),
        position=position,
        parameters=parameters_in(leaves, layers),
        state=[parameters_in(leaves, layers, f"state.{i}.") for i in range(description["slots"])],
        best=parameters_in(leaves, layers, "best.") if description["keeps_best"] else None,
        history=curves["history"],
        callbacks={name: curves[f"callbacks.{name}"] for name in description["callbacks"]},
    )
