"""`bench/compare.py` and `bench/predict.py`: tables, failures, and equal work of the libraries."""

import dataclasses
import json
import math
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from fastnn.data.sets import Dataset

BENCH = Path(__file__).parents[1] / "bench"
METADATA = {"rows": 600, "blas": ["openblas 1, Some kernels"], "data": "mnist, from somewhere"}

pytestmark = pytest.mark.skipif(not BENCH.is_dir(), reason="needs the checkout's bench/")


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return import_module("compare")


@pytest.fixture
def peers(compare: ModuleType) -> ModuleType:
    return import_module("peers")


Runs = list[tuple[str, Any]]


@pytest.fixture
def runs(compare: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """Replace the processes: losses agree, fastnn takes 10 ms, others 40 ms. Return the calls."""
    calls: Runs = []

    def run_peer(name: str, case: Any, plan: Any) -> dict[str, Any]:
        calls.append((name, case.batch_size))
        epochs = plan.warmup + plan.epochs
        seconds = [9.0] * plan.warmup + [0.01 if name == "fastnn" else 0.04] * plan.epochs
        return {**METADATA, "losses": [1 / (e + 1) for e in range(epochs)], "seconds": seconds}

    monkeypatch.setattr(compare, "run_peer", run_peer)
    monkeypatch.setattr(compare, "sgemm_limit", lambda threads: 100.0)
    lacks = {"jax": "jax is not installed"}
    for name, peer in compare.PEERS.items():
        monkeypatch.setitem(compare.PEERS, name, with_lack(peer, lacks.get(name, "")))
    monkeypatch.setattr(compare, "versions", lambda peers: {"python": "3"})
    return calls


def with_lack(peer: Any, lack: str) -> Any:
    """Return the library with a fixed result of `lacks`."""
    answering = type("Peer", (type(peer),), {"lacks": lambda self: lack})
    return answering(**{f.name: getattr(peer, f.name) for f in dataclasses.fields(peer)})


# ---- the command line -----------------------------------------------------------------------


@pytest.mark.process
def test_writes_a_table_and_a_figure(compare, runs, tmp_path, capsys):
    out = tmp_path / "new" / "place"
    assert compare.main(["--quick", "--out", str(out)]) == 0
    text = (out / "comparison.md").read_text("utf-8")
    assert text in capsys.readouterr().out
    assert "| batch 128 | **fastnn** | 10.0 | 10 to 10 | 10 | - | 60,000 |" in text
    assert "| full batch | PyTorch | 40.0 | 40 to 40 | 40 | 4.00 × faster | 15,000 |" in text
    for title in ("NumPy", "reference engine"):
        assert f"| batch 128 | {title} | 40.0 |" in text and f"- {title}: " in text
    assert "left out: JAX, jax is not installed" in text
    assert imread(out / "peers.png").shape[1] == 1800


def test_rounds_interleave_the_libraries(compare, runs, tmp_path):
    assert compare.main(["--rounds", "2", "--peers", "torch", "--out", str(tmp_path)]) == 0
    names = ["fastnn", "reference", "torch"]
    assert runs == [(name, size) for size in (128, None) for name in names] * 2


def test_warm_up_epochs_are_not_counted(compare):
    record = compare.Record()
    for _ in range(2):
        compare.add_run(record, {"losses": [1.0] * 3, "seconds": [9.0, 1.0, 2.0]}, 1)
    assert record.seconds == [1.0, 2.0, 1.0, 2.0]


def test_different_losses_fail_the_row_and_the_run(compare, runs, tmp_path, monkeypatch):
    run_correctly = compare.run_peer

    def run_peer(name: str, case: Any, plan: Any) -> dict[str, Any]:
        result = run_correctly(name, case, plan)
        if name == "torch" and len(runs) > 12:  # wrong in the second round
            result["losses"][0] *= 1.001
        return result

    monkeypatch.setattr(compare, "run_peer", run_peer)
    assert compare.main(["--rounds", "2", "--out", str(tmp_path)]) == 1
    text = (tmp_path / "comparison.md").read_text("utf-8")
    assert text.count("**failed: its loss is 1.0e-03 from the reference engine's**") == 2


def test_failed_process_is_reported_and_not_restarted(compare, runs, tmp_path, monkeypatch):
    def run_peer(name: str, case: Any, plan: Any) -> dict[str, Any]:
        runs.append((name, case.batch_size))
        return {"failure": "failed: out of | luck"}

    monkeypatch.setattr(compare, "run_peer", run_peer)
    assert compare.main(["--out", str(tmp_path)]) == 1
    assert len(runs) == len(set(runs)) == 12
    text = (tmp_path / "comparison.md").read_text("utf-8")
    assert "| full batch | NumPy | **failed: out of / luck** | - |" in text


@pytest.mark.parametrize(
    "arguments",
    [["--threads", "0"], ["--threads", "9999"], ["--peers", "jaxx"], ["--batch-size", "1.5"]],
)
def test_invalid_arguments_exit_with_2(compare, arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        compare.main(arguments)
    assert stopped.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_unwritable_output_exits_with_1_before_any_run(compare, runs, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert compare.main(["--out", str(tmp_path / "file")]) == 1
    assert runs == []
    assert "compare.py: " in capsys.readouterr().err


@pytest.mark.process
def test_shapes_writes_its_own_table_and_figure(compare, runs, tmp_path, capsys):
    assert compare.main(["--shapes", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "shapes.md").read_text("utf-8")
    assert text in capsys.readouterr().out
    assert "| 784-1024-10 | 1 | 16.7 |" in text  # 10 ms for 600 updates
    assert text.count("| 4.00 × |") == len(compare.SHAPES)  # PyTorch alone: JAX is left out
    assert "ahead in 18 of 18, 4.00 × at worst, 4.00 × in the middle" in text
    assert imread(tmp_path / "shapes.png").shape[1] == 1800


# ---- processes ------------------------------------------------------------------------------


def test_environment_gives_all_processes_the_same_threads(compare):
    base = {"OPENBLAS_CORETYPE": "Haswell", "OMP_NUM_THREADS": "7", "HOME": "h", "PYTHONPATH": "p"}
    env = compare.environment(base, 3)
    assert "OPENBLAS_CORETYPE" not in env
    assert env["HOME"] == "h" and env["PYTHONPATH"].endswith("p")
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "NPROC")
    assert {env[name] for name in names} == {"3"}


@pytest.mark.process
def test_failed_process_raises_with_its_last_line(compare):
    with pytest.raises(RuntimeError, match="^ValueError: no$"):
        compare.run_python(["-c", "raise ValueError('no')"], 1)
    assert compare.run_python(["-c", "print(1)"], 1) == "1\n"


@pytest.mark.parametrize(
    ("losses", "expected", "distance"),
    [
        ([1.0, 3.0], [1.0, 4.0], 0.25),
        ([], [], math.nan),
        ([1.0], [1.0, 2.0], math.nan),
        ([1.0, math.nan], [1.0, 2.0], math.nan),
        ([math.nan, 1.0], [1.0, 2.0], math.nan),
    ],
)
def test_loss_distance(compare, losses, expected, distance):
    assert compare.loss_distance(losses, expected) == pytest.approx(distance, nan_ok=True)


# ---- equal work -----------------------------------------------------------------------------


def tiny() -> Dataset:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (300, 784), np.uint8)
    y = np.arange(300, dtype=np.int32) % 10
    return Dataset("tiny", x, y, x, y, 1 / 255, "a generator", (28, 28), 10)


@pytest.mark.parametrize("batch_size", [128, None])  # 300 rows: the last batch has 44
@pytest.mark.parametrize("name", ["fastnn", "numpy", "scikit-learn"])
def test_libraries_reproduce_the_losses_of_the_reference(compare, peers, name, batch_size):
    work = peers.Work(peers.Case((784, 128, 64, 10), batch_size), tiny(), epochs=4, threads=1)
    losses, seconds = zip(*peers.PEERS[name].train(work), strict=True)
    reference, _ = zip(*peers.PEERS["reference"].train(work), strict=True)
    assert compare.loss_distance(losses, reference) < 1e-5
    assert len(seconds) == 4 and min(seconds) > 0


def test_numpy_sums_the_chunks_of_a_batch(compare, peers, monkeypatch):
    monkeypatch.setattr("peer_numpy.CHUNK_ROWS", 50)  # 300 rows, in batches of 128, 128 and 44
    for batch_size in (128, None):
        work = peers.Work(peers.Case((784, 128, 64, 10), batch_size), tiny(), epochs=4, threads=1)
        losses, expected = (
            [loss for loss, _ in peers.PEERS[name].train(work)] for name in ("numpy", "reference")
        )
        assert compare.loss_distance(losses, expected) < 1e-5


def test_scikit_learn_shuffles_in_the_given_order(peers):
    from sklearn.utils import shuffle

    orders = [np.random.default_rng(i).permutation(50) for i in range(3)]
    state, rows = peers.GivenOrder().give(orders), np.arange(50)
    for order in orders:
        rows = shuffle(rows, random_state=state)
        assert (rows == order).all()


def test_missing_library_is_reported(peers, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    assert peers.PEERS["jax"].lacks() == "jax is not installed"
    assert peers.PEERS["scikit-learn"].lacks() == "scikit-learn is not installed"


# ---- predictions ----------------------------------------------------------------------------


@pytest.fixture
def predict(compare: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = import_module("predict")
    x = np.random.default_rng(0).random((32, 784), np.float32)
    monkeypatch.setattr(module, "inputs", lambda: {"few": x})
    monkeypatch.setattr(module, "ROWS", (1, 32))
    monkeypatch.setattr(module, "BATCH_SECONDS", 1e-4)
    return module


@pytest.mark.parametrize("name", ["fastnn", "NumPy"])
def test_predictions_are_checked_and_timed(predict, name):
    times = predict.time_peer(name, threads=1, rounds=2)
    assert list(times["few"]) == ["1", "32"]
    assert all(len(micros) == 2 and min(micros) > 0 for micros in times["few"].values())


def test_different_predictions_are_rejected(predict, monkeypatch):
    monkeypatch.setitem(predict.PEERS, "NumPy", lambda *_: lambda x: np.full((len(x), 10), 0.1))
    with pytest.raises(ValueError, match=r"^its probabilities are .* from the reference engine's$"):
        predict.time_peer("NumPy", threads=1, rounds=1)


def test_predict_writes_a_table(predict, monkeypatch, tmp_path, capsys):
    def run_python(arguments: list[str], threads: int) -> str:
        name = arguments[arguments.index("--peer") + 1]
        if name == "PyTorch":
            raise RuntimeError("No module named 'torch'")
        return json.dumps({"few": {"1": [2 if name == "fastnn" else 5, 9, 1]}})

    monkeypatch.setattr(predict, "run_python", run_python)
    assert predict.main(["--quick", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "predict.md").read_text("utf-8")
    assert text in capsys.readouterr().out
    assert "| few | 1 | 2.0 | 5.0 | 5.0 | 5.0 | - | 5.0 | 2.50 × |" in text
    assert "left out: PyTorch, No module named 'torch'" in text
