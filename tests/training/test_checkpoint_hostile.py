"""Damaged and malicious checkpoints are skipped or rejected, in little memory."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fits import small_fit
from forged_files import (
    Change,
    assert_refused_in_little_memory,
    changed,
    forged,
    joined,
    parts,
    says,
    to,
    without,
)

from fastnn import CheckpointError, ModelFileError
from fastnn.training.checkpoint_file import read_snapshot

KEY = "fastnn_checkpoint"


@pytest.fixture
def last(tmp_path: Path) -> Path:
    small_fit(tmp_path / "fit")
    return sorted((tmp_path / "fit").iterdir())[-1]


def test_forged_file_without_changes_is_valid(last: Path) -> None:
    last.write_bytes(forged(last.read_bytes(), lambda description, tensors: None, KEY))
    snapshot, items = read_snapshot(last)
    assert snapshot.epochs == 3 and items["seed"] == "0"


@pytest.mark.process  # takes seconds
def test_detects_every_changed_byte(last: Path) -> None:
    contents = last.read_bytes()
    original, read = read_snapshot(last), 0
    for number, damaged in enumerate(changed(contents)):
        if number % 997:  # a prime: all bytes and all changes take part
            continue
        last.write_bytes(damaged)
        try:
            snapshot, items = read_snapshot(last)
        except ModelFileError as error:
            assert "\n" not in str(error)
            continue
        read += 1
        assert items == original[1] and snapshot.history == original[0].history
    assert read < 9  # changed spaces of the padding


@pytest.mark.process  # takes seconds
def test_rejects_every_truncated_file(last: Path) -> None:
    contents = last.read_bytes()
    for length in range(0, len(contents), 7):
        last.write_bytes(contents[:length])
        with pytest.raises(ModelFileError):
            read_snapshot(last)


def within(kind: str, **values: Any) -> Change:
    """Return a change of one of the description's objects."""
    return lambda description, tensors: description[kind].update(values)


W0 = "layers.0.weights"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (to(W0, dtype="F64"), "layers.0.weights: dtype is 'F64', expected 'F32'"),
        (to("figures", dtype="F32"), "figures: dtype is 'F32'"),
        (to("history.loss", shape=[4]), r"history.loss: shape is \[4\], expected \[3\]"),
        (to("state.0.layers.0.weights", shape=[4, 3]), "state.0.layers.0.weights: shape is"),
        (without("figures"), "figures is missing"),
        (without("state.1.layers.1.biases"), "state.1.layers.1.biases is missing"),
        (says(format=2), "has format 2, written by a later version"),
        (says(slots=1), "the header has 'state.1"),
        (says(slots=3), "slots is 3, expected 0 to 2"),
        (says(keeps_best=True), "best.layers.0.weights is missing"),
        (says(keeps_best=0), "keeps_best is 0, expected a bool"),
        (says(sizes=[2**31, 2**31]), "layers.0.weights: shape is"),
        (says(sizes=[1] * 100_000), "layers.0.weights: shape is"),
        (says(epochs=4), r"has a history of .* expected one per epoch \(4\)"),
        (says(start_epochs=1), r"has a history of .* expected one per epoch \(2\)"),
        (says(epochs=-1), "epochs is -1, expected 0"),
        (says(row=2**53), "row is 9007199254740992"),
        (says(stopped=None), "stopped is None, expected a string"),
        (says(items=[]), r"items is \[\], expected an object"),
        (within("items", seed=0), "seed is 0, "),
        (says(epochs=2**40, history={"loss": 2**40}), "history.loss: shape is"),
        (within("history", more=3), "history.more is missing"),
        (within("history", more=0), "has a history of"),
        (within("callbacks", LogFile={"more": -1}), "more is -1, expected 0"),
        (within("callbacks", LogFile=[]), r"LogFile is \[\], expected an object"),
    ],
)  # fmt: skip
def test_rejects_an_invalid_description(change: Change, message: str, last: Path) -> None:
    last.write_bytes(forged(last.read_bytes(), change, KEY))
    assert_refused_in_little_memory(last, message, read_snapshot)
    with pytest.warns(UserWarning, match="^a checkpoint is skipped: "):
        small_fit(last.parent, resume=True)


@pytest.mark.parametrize("name", [W0, "state.1.layers.0.biases", "figures"])
def test_rejects_impossible_numbers(name: str, last: Path) -> None:
    header, data = parts(last.read_bytes())
    start, stop = header[name]["data_offsets"]
    data = data[:start] + b"\xff" * (stop - start) + data[stop:]
    last.write_bytes(forged(joined(header, data), lambda description, tensors: None, KEY))
    message = "has impossible figures" if name == "figures" else f"{name} has NaN or infinity"
    assert_refused_in_little_memory(last, message, read_snapshot)


@pytest.mark.parametrize("position", [7, 41, 50, 2**52])
def test_rejects_an_impossible_position(position: int, last: Path) -> None:
    """The kernels do not check the position."""
    last.write_bytes(forged(last.read_bytes(), says(row=position), KEY))
    with pytest.raises(CheckpointError, match="is not a possible checkpoint of this fit$"):
        small_fit(last.parent, resume=True)


def test_rejects_a_snapshot_that_contradicts_its_items(last: Path) -> None:
    small_fit(last.parent.parent / "other", batch_size=40)
    other = sorted((last.parent.parent / "other").iterdir())[-1]
    description = json.loads(parts(last.read_bytes())[0]["__metadata__"][KEY])
    change = within("items", **description["items"])
    last.write_bytes(forged(other.read_bytes(), change, KEY))
    with pytest.raises(CheckpointError, match="is not a possible checkpoint of this fit$"):
        small_fit(last.parent, resume=True)  # larger batches: fewer updates per epoch
    wrong = says(items=description["items"] | {"layers": "3-4-9"})
    last.write_bytes(forged(other.read_bytes(), wrong, KEY))
    with pytest.raises(CheckpointError, match="layers is 3-4-9 in the checkpoint, and 3-4-2 now"):
        small_fit(last.parent, resume=True)
    assert np.isfinite(read_snapshot(last)[0].parameters[0][0]).all()
