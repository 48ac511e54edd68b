"""`storage.model_file` and `fastnn.load`: networks in files, and the format of the files."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import posix
from safetensors import safe_open
from safetensors.numpy import load_file

import fastnn
from fastnn import ModelFileError, Network, load
from fastnn.errors import FastnnError
from fastnn.model.layers import ACTIVATIONS
from fastnn.model.losses import LOSSES
from fastnn.storage import tensor_file
from fastnn.storage.model_file import model_from_network, read_model, write_model
from fastnn.training.state import Position

ROWS = 40


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "net.safetensors"


def saved(network: Network, path: Path) -> Network:
    """Save a network; return it as loaded from the file."""
    network.save(path)
    loaded = load(path)
    assert type(loaded) is Network
    return loaded


def assert_same(one: Network, other: Network) -> None:
    assert (one.layers, one.loss, one.seed) == (other.layers, other.loss, other.seed)
    assert (one.input_scale, one.epochs_trained) == (other.input_scale, other.epochs_trained)
    for (w, b), (v, c) in zip(one.parameters, other.parameters, strict=True):
        assert (w.tobytes(), b.tobytes()) == (v.tobytes(), c.tobytes())


def data(rng: np.random.Generator, loss: str) -> tuple[np.ndarray, np.ndarray]:
    """Return uint8 features and targets: three classes or three outputs."""
    y = rng.integers(0, 2, (ROWS, 3))
    return rng.integers(0, 256, (ROWS, 4), np.uint8), y.sum(
        axis=1
    ) % 3 if loss == "cross_entropy" else y


# ---- networks -------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
def test_loaded_network_equals_saved_one_for_every_loss(
    loss: str, engine: str, rng: np.random.Generator, path: Path
) -> None:
    x, y = data(rng, loss)
    network = Network([4, 5, 3], loss=loss, input_scale=1 / 255, seed=2**64 - 1)
    network.fit(x, y, epochs=2, batch_size=8, learning_rate=0.01, engine=engine)
    loaded = saved(network, path)
    assert_same(loaded, network)
    loaded.use_engine(engine)
    np.testing.assert_array_equal(loaded.predict(x), network.predict(x), strict=True)
    assert loaded.evaluate(x, y) == network.evaluate(x, y)


@pytest.mark.parametrize("name", ["epochs", "samples"])
def test_counts_have_a_limit(name: str, path: Path) -> None:
    network = Network([4, 5, 3])
    network._position = Position(**{name: 2**53 - 1})
    loaded = saved(network, path)
    assert_same(loaded, network)
    network._position = Position(**{name: 2**53})
    with pytest.raises(ModelFileError, match=f"{path}: {name} is 9007199254740992, expected 0 to"):
        network.save(path)
    assert_same(load(path), loaded)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_loaded_network_equals_saved_one_for_every_activation(activation: str, path: Path) -> None:
    network = Network([4, 5, 3], activation=activation)
    assert_same(saved(network, path), network)


def test_layers_keep_their_own_activation_and_dropout(path: Path) -> None:
    settings: dict[str, Any] = {"activation": ["gelu", "tanh"], "dropout": [0.1, 0.0, 0.7]}
    network = Network([4, 6, 5, 3], **settings)
    assert_same(saved(network, path), network)


@pytest.mark.parametrize("sizes", [[1, 1], [3, 2], [2, *range(1, 14), 2]], ids=len)
def test_saves_any_number_of_layers(sizes: list[int], path: Path) -> None:
    network = Network(sizes)
    assert_same(saved(network, path), network)


def test_fit_after_loading_continues_with_the_next_epoch(
    engine: str, rng: np.random.Generator, path: Path
) -> None:
    x, y = data(rng, "cross_entropy")
    settings: dict[str, Any] = {"batch_size": 8, "schedule": "invscaling", "engine": engine}
    network = Network([4, 5, 3], dropout=0.3, input_scale=1 / 255, seed=3)
    network.fit(x, y, epochs=2, **settings)
    loaded = saved(network, path)
    for each in (network, loaded):  # the shuffle, the masks and the rate are those of epoch 3
        each.fit(x, y, epochs=1, **settings)
    assert_same(loaded, network)
    assert loaded.epochs_trained == 3


def test_optimizer_starts_anew_after_loading(rng: np.random.Generator, path: Path) -> None:
    x, y = data(rng, "cross_entropy")
    network = Network([4, 5, 3], input_scale=1 / 255)
    network.fit(x, y, epochs=1, optimizer="adam", engine="numpy")
    loaded = saved(network, path)
    network._rule = ""  # as after loading
    for each in (network, loaded):
        each.fit(x, y, epochs=1, optimizer="adam", engine="numpy")
    assert_same(loaded, network)


def test_saves_weights_of_any_memory_layout(rng: np.random.Generator, path: Path) -> None:
    network = Network([4, 3])
    w = np.asfortranarray(rng.normal(size=(4, 3)).astype(np.float32))
    model = model_from_network(network)
    model.parameters[0] = (w, model.parameters[0][1][::-1])
    write_model(path, model)
    np.testing.assert_array_equal(read_model(path).parameters[0][0], w, strict=True)


def test_save_replaces_an_earlier_file(path: Path) -> None:
    for seed in (0, 1):
        network = Network([4, 3], seed=seed)
        assert_same(saved(network, path), network)
    assert os.listdir(path.parent) == [path.name]


def test_accepts_string_paths(path: Path) -> None:
    network = Network([4, 3])
    network.save(str(path))
    assert_same(load(str(path)), network)


# ---- the file -------------------------------------------------------------------------------


def test_same_network_gives_same_bytes(path: Path) -> None:
    network, contents = Network([4, 12, 3]), set()
    for _ in range(8):
        network.save(path)
        contents.add(path.read_bytes())
    assert len(contents) == 1


def test_safetensors_reads_the_file(path: Path) -> None:
    network = Network([4, 5, 3], activation="tanh", dropout=0.5, input_scale=0.1, seed=7)
    network.save(path)
    tensors = load_file(path)
    assert list(tensors) == [f"layers.{i}.{kind}" for i in (0, 1) for kind in ("biases", "weights")]
    for i, (w, b) in enumerate(network.parameters):
        np.testing.assert_array_equal(tensors[f"layers.{i}.weights"], w, strict=True)
        np.testing.assert_array_equal(tensors[f"layers.{i}.biases"], b, strict=True)
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
    assert metadata.keys() == {"fastnn"}
    description = json.loads(metadata["fastnn"])
    digest = hashlib.sha256()
    rest = {name: value for name, value in description.items() if name != "sha256"}
    digest.update(json.dumps(rest, separators=(",", ":")).encode())
    for i, (w, b) in enumerate(network.parameters):
        digest.update(f"\nlayers.{i}.biases F32 {b.shape}\n".encode() + b.tobytes())
        digest.update(f"\nlayers.{i}.weights F32 {w.shape}\n".encode() + w.tobytes())
    assert description == {
        "format": 1,
        "fastnn": fastnn.__version__,
        "sizes": [4, 5, 3],
        "activations": ["tanh"],
        "dropouts": [0.0, 0.5],
        "loss": "cross_entropy",
        "input_scale": 0.1,
        "seed": 7,
        "epochs": 0,
        "samples": 0,
        "estimator": None,
        "curves": {},
        "sha256": digest.hexdigest(),
    }


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(("place", "name"), [(0, "weights"), (1, "biases")])
def test_does_not_save_weights_that_are_not_finite(
    value: float, place: int, name: str, path: Path
) -> None:
    network = Network([4, 5, 3])
    network.save(path)
    before, parameters = path.read_bytes(), network.parameters
    parameters[1][place].flat[-1] = value
    network.use_engine("numpy").set_parameters(parameters)  # does not check them
    with pytest.raises(ModelFileError) as raised:
        network.save(path)
    assert str(raised.value) == f"{path}: layers.1.{name} has NaN or infinity"
    assert path.read_bytes() == before


def test_does_not_write_a_header_longer_than_the_limit_for_reading(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Network([4, 3]).save(path)
    length = int.from_bytes(path.read_bytes()[:8], "little")
    monkeypatch.setattr(tensor_file, "HEADER_LIMIT", length)
    Network([4, 3], seed=1).save(path)
    assert load(path).seed == 1
    with pytest.raises(ModelFileError) as raised:
        Network([4, 3], seed=2**64 - 1).save(path)
    assert str(raised.value).startswith(f"{path}: the header would have ")
    assert f"at most {length} are allowed" in str(raised.value)
    assert load(path).seed == 1


# ---- errors ---------------------------------------------------------------------------------


def test_model_file_error_is_a_value_error() -> None:
    assert issubclass(ModelFileError, FastnnError) and issubclass(ModelFileError, ValueError)


def test_rejects_a_missing_file(path: Path) -> None:
    with pytest.raises(FileNotFoundError) as raised:
        load(path)
    assert raised.value.filename == str(path)


def test_rejects_a_directory(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError) as raised:
        load(tmp_path)
    assert raised.value.filename == str(tmp_path)


@posix
def test_rejects_a_pipe_without_waiting(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(OSError, match="Not a regular file"):
        load(path)


# ---- start-up -------------------------------------------------------------------------------


@pytest.mark.process
def test_loading_a_network_imports_no_heavy_library(path: Path) -> None:
    Network([4, 3]).save(path)
    code = f"import sys, fastnn; fastnn.load({str(path)!r}); "
    code += "assert not {'sklearn', 'scipy', 'numba'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {
        "PYTHONPATH": str(Path(fastnn.__file__).parents[1])
    })  # fmt: skip
