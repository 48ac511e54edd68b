"""Start the command line in tests and read its output."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROWS, TEST_ROWS = 60, 20
PATIENCE = 60  # seconds until a test fails; may include compiling the kernels
MNIST = os.environ.get("FASTNN_DATA")  # the directory of the real MNIST

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX pipes, signals or terminals")

Arrays = dict[str, Any]


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Fail a test that takes longer, even if it is waiting for a pipe; no limit on Windows."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def fail(*_: Any) -> None:
        pytest.fail(f"takes more than {seconds:g} s")

    handler = signal.signal(signal.SIGALRM, fail)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, *timer)


def small_arrays() -> Arrays:
    """Return three classes that four features separate."""
    rng = np.random.default_rng(0)
    y = np.arange(ROWS + TEST_ROWS) % 3
    x = (rng.normal(size=(len(y), 4)) + 3 * np.eye(4)[y]).astype(np.float32)
    return {"x_train": x[:ROWS], "y_train": y[:ROWS], "x_test": x[ROWS:], "y_test": y[ROWS:]}


def arguments(*extra: str, dataset: str = "../small.npz", epochs: int = 3) -> list[str]:
    return ["--engine", "numpy", "--dataset", dataset, "--epochs", str(epochs), *extra]


def command(*argv: str) -> list[str]:
    return [sys.executable, "-m", "fastnn.train", *argv]


def run(*argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command as a process and capture its output."""
    return subprocess.run(
        command(*argv), capture_output=True, text=True, timeout=PATIENCE, **options
    )


def start(*argv: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*argv), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def wait_for_epochs(process: subprocess.Popen[str], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not (log.exists() and log.read_bytes().count(b'"epoch"') > 3):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)


def assert_one_line(text: str, *, error: bool = True) -> None:
    assert text.startswith("fastnn.train: error: " if error else "fastnn.train: ")
    assert text.count("\n") == 1 and text.endswith("\n")


def read_all(terminal: int) -> str:
    pieces = []
    while True:
        try:
            pieces.append(os.read(terminal, 1 << 16))
        except OSError:  # on Linux if the other end is closed
            break
        if not pieces[-1]:
            break
    return b"".join(pieces).decode()
