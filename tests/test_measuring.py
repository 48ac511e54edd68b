"""`bench/measuring.py`: the count of operations and the matrix-product peak."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastnn.model.layers import dense_layers

measuring = pytest.importorskip("measuring", reason="needs the checkout's bench/")


def test_flops_of_mnist_equal_a_calculation_by_hand() -> None:
    forward = 784 * 128 + 128 * 64 + 64 * 10
    backward_weights = forward
    backward_input = 128 * 64 + 64 * 10  # the data need no gradient
    by_hand = 2 * (forward + backward_weights + backward_input)
    layers = dense_layers([784, 128, 64, 10])
    assert measuring.flops_per_sample(layers) == by_hand == 454_400
    assert measuring.flops_per_sample(layers) * 60_000 == 27_264_000_000


def test_first_layer_has_no_gradient_of_its_input() -> None:
    assert measuring.flops_per_sample(dense_layers([3, 2])) == 2 * (3 * 2 + 3 * 2)


def test_flops_accept_any_iterable() -> None:
    assert measuring.flops_per_sample(iter(dense_layers([3, 2]))) == 24


@pytest.mark.process
def test_peak_is_positive() -> None:
    assert 0 < measuring.sgemm_peak(1, size=64, seconds=0.0) < 1e6


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """Replace the measurement by a process that prints 12.5; return the environments it got."""
    environments: list[dict[str, str]] = []

    def start(
        command: list[str], *, env: dict[str, str], **options: bool
    ) -> subprocess.CompletedProcess[str]:
        assert command[0] == sys.executable
        environments.append(env)
        return subprocess.CompletedProcess(command, 0, stdout="12.5\n", stderr="")

    monkeypatch.setattr(measuring.subprocess, "run", start)
    return environments


def test_peak_is_measured_with_the_given_threads(
    started: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "7")
    assert measuring.sgemm_peak(3) == 12.5
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        assert started[0][name] == "3"
    assert os.environ["OPENBLAS_NUM_THREADS"] == "7"


def test_default_threads_are_those_of_the_environment(
    started: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    measuring.sgemm_peak()
    assert started[0]["OPENBLAS_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in started[0]


@pytest.mark.process
def test_numpy_py_in_the_current_directory_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('the wrong one')")
    monkeypatch.chdir(tmp_path)
    assert measuring.sgemm_peak(1, size=8, seconds=0.0) > 0


@pytest.mark.process
def test_failed_measurement_raises_its_error() -> None:
    with pytest.raises(RuntimeError, match="negative dimensions"):
        measuring.sgemm_peak(1, size=-1)
