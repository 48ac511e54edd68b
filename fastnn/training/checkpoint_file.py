"""A fit that can go on, in a file: what a snapshot is, as `tensor_file` writes and reads it.

The tensors are the weights as in a model file, the optimizer's state with ``state.0.`` before the
same names, the best weights with ``best.``, ``history.NAME`` (epochs,) and ``kept.NAME``, what
callbacks keep, float64, and ``figures``, the numbers that may be anything. The description counts,
and holds the items of the fit's identity, which `fastnn.training.checkpoint` compares.
"""

import math
from collections.abc import Iterator
from typing import Any

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
from fastnn.training.early_stopping import Standing
from fastnn.training.state import Snapshot

Items = dict[str, str]

_PLACE = ("first_epoch", "updates_before", "samples_before", "epoch")
_COUNTS = (*_PLACE, "position", "best_epoch", "waited")
KIND = FileFormat(
    "checkpoint",
    "fastnn_checkpoint",
    1,
    ("items", "sizes", "slots", "keeps_best", "history", "kept", "stopped", *_COUNTS),
    unbounded="state.",  # mean squares may overflow: their weights stand still
)
_CURVES = ("history", "kept")
_MOST_SLOTS = 2
_FIGURES = 5


def write_snapshot(path: FilePath, snapshot: Snapshot, items: Items) -> None:
    """Write a snapshot to a file, which is replaced whole or not at all.

    Parameters
    ----------
    items : dict of str to str
        What the fit is, by names.

    Raises
    ------
    ModelFileError
        If a weight is not finite, or a count is too large to be read back.
    OSError
        If the file cannot be written.
    """
    progress, standing = snapshot.progress, snapshot.standing
    place = (getattr(snapshot, name) for name in _PLACE)
    counts = (*place, progress.position, standing.best_epoch, standing.waited)
    first, _ = snapshot.parameters[0]
    description = {
        "items": items,
        "sizes": [len(first), *(len(b) for _, b in snapshot.parameters)],
        "slots": len(snapshot.state),
        "keeps_best": snapshot.best is not None,
        "history": {name: len(curve) for name, curve in snapshot.history.items()},
        "kept": {name: len(curve) for name, curve in snapshot.kept.items()},
        "stopped": snapshot.stopped,
        **dict(zip(_COUNTS, counts, strict=True)),
    }
    leaves = parameter_tensors(snapshot.parameters)
    for i, slot in enumerate(snapshot.state):
        leaves |= parameter_tensors(slot, f"state.{i}.")
    leaves |= parameter_tensors(snapshot.best or [], "best.")
    for kind in _CURVES:
        for name, curve in getattr(snapshot, kind).items():
            leaves[f"{kind}.{name}"] = np.array(curve, "<f8")
    figures = progress.loss_sum, progress.correct, snapshot.seconds, standing.best
    leaves["figures"] = np.array([*figures, snapshot.rate_divisor], "<f8")
    write_tensors(path, KIND, description, leaves, _expected)


def read_snapshot(path: FilePath) -> tuple[Snapshot, Items]:
    """Read what `write_snapshot` was given, and believe nothing of what is in the file.

    Raises
    ------
    ModelFileError
        If it is no checkpoint, is damaged, or is a later version's.
    OSError
        If it cannot be read.
    """
    description, leaves = read_tensors(path, KIND, _expected)
    with prefix_errors(path):
        return _snapshot(description, leaves), description["items"]


def _expected(description: dict[str, Any]) -> Iterator[tuple[str, TensorSpec]]:
    """Yield the tensors that a description asks for; refuse one whose values cannot be."""
    for name in ("items", *_CURVES):
        get_typed(description, name, dict)
    get_typed(description, "keeps_best", bool)
    get_typed(description, "stopped", str)
    for name in description["items"]:
        get_typed(description["items"], name, str)
    for name in _COUNTS:
        get_count(description, name)
    sizes, slots = (
        get_list(description, "sizes", int),
        get_count(description, "slots", _MOST_SLOTS + 1),
    )
    befores = ["", *(f"state.{i}." for i in range(slots))]
    for before in [*befores, "best."] if description["keeps_best"] else befores:
        yield from parameter_specs(sizes, before)
    for kind in _CURVES:
        for name in description[kind]:
            yield f"{kind}.{name}", TensorSpec((get_count(description[kind], name),), "F64")
    yield "figures", TensorSpec((_FIGURES,), "F64")


def _snapshot(description: dict[str, Any], leaves: Tensors) -> Snapshot:
    """Return a snapshot, if its counts agree with each other."""
    first, epoch = description["first_epoch"], description["epoch"]
    history = description["history"]
    if any(length != epoch - first for length in history.values()):
        raise ModelFileError(
            f"has a history of {short_repr(history)}, where {epoch - first} are needed"
        )
    loss_sum, correct, seconds, best, rate_divisor = leaves["figures"].tolist()
    if not math.isfinite(loss_sum + correct + seconds) or not 1 <= rate_divisor < math.inf:
        raise ModelFileError(
            f"has figures {short_repr(leaves['figures'].tolist())}, which no fit has"
        )
    layers = len(description["sizes"]) - 1
    kept = description["keeps_best"]
    return Snapshot(
        parameters=parameters_from(leaves, layers),
        state=[parameters_from(leaves, layers, f"state.{i}.") for i in range(description["slots"])],
        best=parameters_from(leaves, layers, "best.") if kept else None,
        history={name: leaves[f"history.{name}"].tolist() for name in history},
        kept={name: leaves[f"kept.{name}"].tolist() for name in description["kept"]},
        **{name: description[name] for name in _PLACE},
        progress=Progress(description["position"], loss_sum, correct),
        seconds=seconds,
        standing=Standing(best, description["best_epoch"], description["waited"]),
        rate_divisor=rate_divisor,
        stopped=description["stopped"],
    )
