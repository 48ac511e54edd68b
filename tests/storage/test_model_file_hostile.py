"""Damaged and hostile model files raise a ModelFileError, in little memory.

`forged` changes a file and corrects its SHA-256, so that other checks have to refuse the file.
"""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
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

from fastnn import ModelFileError, Network, __version__, load
from fastnn.storage.model_file import FORMAT, Model, model_from, tensor_specs
from fastnn.storage.tensor_file import HEADER_LIMIT, deserialize

DEEP = 100_000


def contents_of(network: Network, path: Path) -> bytes:
    network.save(path)
    return path.read_bytes()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "net.safetensors"


@pytest.fixture
def small(path: Path) -> bytes:
    """Return a file of about 1 kB."""
    return contents_of(Network([3, 4, 2], activation="tanh", dropout=0.5, seed=1), path)


def outcome(contents: bytes) -> Model | None:
    """Return the model of a file, or None if it is refused."""
    try:
        return model_from(*deserialize(io.BytesIO(contents), FORMAT, tensor_specs))
    except ModelFileError as error:
        assert str(error) and "\n" not in str(error) and len(str(error)) < 400
        return None


def assert_same(one: Model, other: Model) -> None:
    for name in ("arguments", "epochs", "samples", "estimator"):
        assert getattr(one, name) == getattr(other, name)
    for pair, other_pair in zip(one.parameters, other.parameters, strict=True):
        for array, other_array in zip(pair, other_pair, strict=True):
            np.testing.assert_array_equal(array, other_array, strict=True)


# ---- damage ---------------------------------------------------------------------------------


def test_forged_files_are_valid(small: bytes) -> None:
    one, other = outcome(small), outcome(forged(small, lambda description, tensors: None))
    assert one is not None and other is not None
    assert_same(one, other)


def test_rejects_every_truncation(small: bytes) -> None:
    assert 600 < len(small) < 1500
    for length in range(len(small)):
        assert outcome(small[:length]) is None
    assert outcome(small + b"\0") is None


@pytest.mark.process  # it takes seconds
def test_no_changed_byte_gives_another_model(path: Path) -> None:
    contents = contents_of(Network([2, 1]), path)
    original = outcome(contents)
    assert original is not None
    loaded = refused = 0
    for damaged in changed(contents):
        model = outcome(damaged)
        if model is None:
            refused += 1
        else:
            loaded += 1
            assert_same(model, original)
    assert refused > 50_000 and loaded < 100  # only in the padding


@pytest.mark.parametrize(
    "contents",
    [b"", b"\0" * 8, b"\0" * 100, b"\xff" * 100, b"PK\x03\x04" + b"\0" * 100, b"\x80\x05\x95" * 30],
    ids=["empty", "8 zeros", "zeros", "ones", "zip", "pickle"],
)
def test_rejects_other_files(contents: bytes, path: Path) -> None:
    path.write_bytes(contents)
    with pytest.raises(ModelFileError) as raised:
        load(path)
    assert str(raised.value) == f"{path}: is not a model file, or is truncated"


def test_rejects_a_large_file_before_reading_it(small: bytes, path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(2 << 30)  # sparse
    assert_refused_in_little_memory(path, "is damaged: it has 2147483")


# ---- hostile content ------------------------------------------------------------------------


def renamed(old: str, new: str) -> Change:
    return lambda description, tensors: tensors.update({new: tensors.pop(old)})


def one_more(description: dict[str, Any], tensors: dict[str, Any]) -> bytes:
    end = max(entry["data_offsets"][1] for entry in tensors.values())
    tensors["extra"] = {"dtype": "F32", "shape": [1], "data_offsets": [end, end + 4]}
    return bytes(4)


def with_gap(description: dict[str, Any], tensors: dict[str, Any]) -> bytes:
    """Move the last tensor by 4 bytes."""
    last = tensors["layers.1.weights"]
    last["data_offsets"] = [offset + 4 for offset in last["data_offsets"]]
    return bytes(4)


def overlapping(description: dict[str, Any], tensors: dict[str, Any]) -> None:
    """Let the last tensor overlap others."""
    tensors["layers.1.weights"]["data_offsets"] = [0, 32]


def enormous(description: dict[str, Any], tensors: dict[str, Any]) -> None:
    size = 4 * 2**62
    description["sizes"] = [2**31, 2**31]
    description["activations"], description["dropouts"] = [], [0.0]
    tensors.clear()
    tensors["layers.0.weights"] = {
        "dtype": "F32", "shape": [2**31, 2**31], "data_offsets": [0, size]
    }  # fmt: skip
    tensors["layers.0.biases"] = {
        "dtype": "F32", "shape": [2**31], "data_offsets": [size, size + 2**33]
    }  # fmt: skip


HUGE = 10**4000
W0, B0, W1 = "layers.0.weights", "layers.0.biases", "layers.1.weights"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        # Tensors
        (to(W0, dtype="F64"), "layers.0.weights: dtype is 'F64', expected 'F32'"),
        (to(W0, dtype="I32"), "layers.0.weights: dtype is 'I32'"),
        (to(W0, dtype=32), "layers.0.weights: dtype is 32, expected 'F32'"),
        (to(W0, shape=[4, 3]), r"layers.0.weights: shape is \[4, 3\], expected \[3, 4\]"),
        (to(W0, shape=[12]), r"layers.0.weights: shape is \[12\]"),
        (to(W0, shape=[3, 4, 1]), r"layers.0.weights: shape is \[3, 4, 1\]"),
        (to(W0, shape=[2**31, 2**31]), r"layers.0.weights: shape is \[2147483648, 2147483648\]"),
        (to(W0, shape=[3.0, 4]), "is not a valid safetensors file: "),
        (to(B0, shape=[True]), r"layers.0.biases: shape is \[True\]"),
        (to(B0, shape=4), r"layers.0.biases: shape is 4, expected \[4\]"),
        (to(B0, data_offsets=[0, 16, 32]), "is not a valid safetensors file: "),
        (to(B0, data_offsets=[0, 20]), "is not a valid safetensors file: "),
        (to(B0, data_offsets=[16, 0]), "is not a valid safetensors file: "),
        (to(B0, data_offsets=[-16, 0]), "is not a valid safetensors file: "),
        (to(B0, data_offsets=[2**64, 2**64 + 16]), "is not a valid safetensors file: "),
        (to(B0, data_offsets=[HUGE, HUGE + 16]), "is not a valid safetensors file: "),
        (to(B0, data_offsets=["0", "16"]), "is not a valid safetensors file: "),
        (to(B0, data_offsets=None), "is not a valid safetensors file: "),
        (to(B0, more=1), "layers.0.biases: its entry has 'more', which does not belong there"),
        (lambda _, tensors: tensors[B0].pop("shape") and None, "layers.0.biases: its entry has no"),
        (lambda _, tensors: tensors.update({B0: []}), r"layers.0.biases is \[\], expected an obj"),
        (without(W1), "layers.1.weights is missing"),
        (renamed(W1, "layers.01.weights"), "layers.1.weights is missing"),
        (renamed(W1, "../weights"), "layers.1.weights is missing"),
        (one_more, "the header has 'extra'"),
        (with_gap, "is damaged: it has 108 bytes|is not a valid safetensors file: .*offset"),
        (overlapping, "is not a valid safetensors file: "),
        (lambda _, tensors: b"more", "is damaged: it has 108 bytes of tensors, expected 104"),
        # The description
        (enormous, "is damaged: .* expected 1844674408"),
        (says(format=2), "has format 2, written by a later version of fastnn; this version reads"),
        (says(format=2, sizes=None), "has format 2, "),
        (says(format=0), "has format 0, written by no version"),
        (says(format=True), "format is True"),
        (says(format="1"), "format is '1'"),
        (says(more=1), "the description has 'more'"),
        (without("seed"), "the description has no seed"),
        (without("format"), "format is missing"),
        (says(sizes=[3, 4]), "the header has 'layers.1.biases'"),
        (says(sizes=[3, 4, 2, 2]), "layers.2.weights is missing"),
        (says(sizes=[3, -4, 2]), r"layers.0.weights: shape is \[3, 4\], expected \[3, -4\]"),
        (says(sizes=[3, 4.0, 2]), "sizes has 4.0"),
        (says(sizes=[3, 4, True]), "sizes has True"),
        (says(sizes=[3, HUGE, 2]), r"layers.0.weights: shape is \[3, 4\], expected \[3, 1000"),
        (says(sizes=[]), "the header has 'layers.0."),
        (says(sizes="342"), "sizes is '342'"),
        (says(sizes={"3": 4}), "sizes is {'3': 4}"),
        (says(activations=["swish"]), "activation must be one of identity"),
        (says(activations=["os.system"]), "activation must be one of"),
        (says(activations=[["relu"]]), r"activations has \['relu'\]"),
        (says(activations="relu"), "activations is 'relu'"),
        (says(activations=["relu", "relu"]), "activation must be one value, or 1"),
        (says(dropouts=[0.5]), "dropout must be one value, or 2"),
        (says(dropouts=[0.0, 1.0]), "dropout must be at least 0 and less than 1"),
        (says(dropouts=[0.0, 0]), "dropouts has 0, expected a float"),
        (says(loss="mse"), "loss must be one of cross_entropy"),
        (says(loss=["logistic"]), r"loss is \['logistic'\]"),
        (says(input_scale=0.0), "input_scale must be a positive number"),
        (says(input_scale=-1.0), "input_scale must be"),
        (says(input_scale=1e300), "input_scale must be"),
        (says(input_scale=1), "input_scale is 1, expected a float"),
        (says(seed=-1), "seed is -1, expected 0 to 18446744073709551615"),
        (says(seed=2**64), "seed is 18446744073709551616, expected"),
        (says(seed=HUGE), "seed is 1000"),
        (says(seed=1.0), "seed is 1.0, "),
        (says(epochs=2**53), "epochs is 9007199254740992, expected 0 to 9007199254740991"),
        (says(samples=2**63), "samples is 9223372036854775808, expected"),
        (says(samples=-1), "samples is -1, expected"),
        (says(samples=None), "samples is None"),
        (says(fastnn=1), "fastnn is 1, "),
        (says(estimator=[]), r"estimator is \[\]"),
    ],
)  # fmt: skip
def test_rejects_hostile_headers(change: Change, message: str, small: bytes, path: Path) -> None:
    path.write_bytes(forged(small, change))
    assert_refused_in_little_memory(path, f"({message})")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_rejects_weights_that_are_not_finite(value: float, small: bytes, path: Path) -> None:
    header, data = parts(small)
    start = header["layers.1.biases"]["data_offsets"][0]
    data = data[:start] + np.array([value], "<f4").tobytes() + data[start + 4 :]
    path.write_bytes(forged(joined(header, data), lambda description, tensors: None))
    assert_refused_in_little_memory(path, "layers.1.biases has NaN or infinity")


def described(text: str, small: bytes) -> bytes:
    """Return a file with this text as its description."""
    header, data = parts(small)
    return joined(header | {"__metadata__": {"fastnn": text}}, data)


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "[]", '"{}"', "{", '{"format":1,}', '{"format":1}{}', "{'format':1}",
        '{"format":1,"format":1}', '{"format":NaN}', '{"format":Infinity}', '{"format":1e999}',
        '{"format":-1e999}', '{"format":' + "9" * 5000 + "}", "[" * DEEP, '{"a":' * DEEP,
        '{"estimator":' + "[" * DEEP + "]" * DEEP + "}", "\ufeff{}",
    ],
    ids=lambda text: text[:24],
)  # fmt: skip
@pytest.mark.parametrize("place", ["description", "header"])
def test_rejects_invalid_json(text: str, place: str, small: bytes, path: Path) -> None:
    as_header = joined(text.encode(), parts(small)[1])
    path.write_bytes(described(text, small) if place == "description" else as_header)
    wrong = "is (missing|nested too deeply|not a )"
    if not text:
        wrong += "|is not a model file"
    assert_refused_in_little_memory(path, f".*({wrong}|the {place} is not )")


@pytest.mark.parametrize(
    "metadata",
    [{}, {"fastnn": 1}, {"fastnn": None}, {"pickle": "x"}, [], "fastnn", None],
    ids=repr,
)
def test_rejects_other_metadata(metadata: Any, small: bytes, path: Path) -> None:
    header, data = parts(small)
    path.write_bytes(joined(header | {"__metadata__": metadata}, data))
    assert_refused_in_little_memory(path, "((fastnn|__metadata__) is |is not a model file$)")
    header["__metadata__"]["format"] = "pt"
    path.write_bytes(joined(header, data))
    assert_refused_in_little_memory(path, "the metadata has 'format'")


@pytest.mark.parametrize("byte", [b"\xff", b"\xc3", b"\xed\xa0\x80"])
def test_rejects_a_header_that_is_not_utf_8(byte: bytes, small: bytes, path: Path) -> None:
    header, data = parts(small)
    text = json.dumps(header).encode().replace(b"tanh", byte)
    path.write_bytes(joined(text, data))
    assert_refused_in_little_memory(path, "the header is not valid JSON: .*utf-8")


def test_rejects_a_surrogate(small: bytes, path: Path) -> None:
    header, data = parts(small)
    text = header["__metadata__"]["fastnn"].replace(__version__, "\ud800")
    path.write_bytes(joined(header | {"__metadata__": {"fastnn": text}}, data))
    assert_refused_in_little_memory(path, "is not a valid safetensors file: ")


@pytest.mark.process  # it takes seconds
def test_rejects_a_header_of_many_small_values(path: Path) -> None:
    """Such values take the most memory for their bytes."""
    count = (HEADER_LIMIT - 2) // len('"00000":[0],')
    text = "{" + ",".join(f'"{i:05x}":[0]' for i in range(count)) + "}"
    path.write_bytes(joined(text.encode(), b""))
    assert_refused_in_little_memory(path, "__metadata__ is missing")


@pytest.mark.parametrize("count", [50_000, 1_000_000])
@pytest.mark.process  # it takes seconds
def test_rejects_a_header_of_many_tensors(count: int, small: bytes, path: Path) -> None:
    tensors = ",".join(f'"layers.{i}.biases":{{}}' for i in range(count))
    metadata = json.dumps(parts(small)[0]["__metadata__"])
    path.write_bytes(joined(f'{{"__metadata__":{metadata},{tensors}}}'.encode(), b""))
    too_long = count > 50_000
    expected = "is not a model file" if too_long else "layers.0.weights is missing"
    assert_refused_in_little_memory(path, expected)


@pytest.mark.process  # it takes seconds
def test_rejects_many_layers(small: bytes, path: Path) -> None:
    """The sizes fill the header; the tensors are missing."""
    change = says(sizes=[1] * 600_000, activations=["relu"] * 10, dropouts=[0.0])
    path.write_bytes(forged(small, change))
    assert_refused_in_little_memory(path, "layers.0.weights: shape is")


@pytest.mark.parametrize("length", [0, 1, HEADER_LIMIT + 1, 2**31, 2**63, 2**64 - 1])
def test_rejects_wrong_lengths_of_the_header(length: int, small: bytes, path: Path) -> None:
    path.write_bytes(length.to_bytes(8, "little") + small[8:])
    with path.open("r+b") as file:
        file.truncate(4 * HEADER_LIMIT)
    assert_refused_in_little_memory(path, "(is not a model file|the header is not )")
