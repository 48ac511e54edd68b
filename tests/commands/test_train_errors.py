"""Errors of `fastnn.train`: usage, data, files, divergence, signals and pipes."""

import errno
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import (
    PATIENCE,
    Arrays,
    arguments,
    assert_one_line,
    command,
    events,
    posix,
    run,
    small_arrays,
    start,
    wait_for_epochs,
)

import fastnn
from fastnn import engine
from fastnn.commands import running, train
from fastnn.data import sets as datasets

needs_dev_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")

# Invalid threads, data and files


@pytest.mark.process
def test_too_many_threads_are_a_usage_error(folder: Path) -> None:
    done = run(*arguments("--log-json", "log", "--engine", "numba", "--threads", "100000"))
    assert (done.returncode, done.stdout) == (2, "")
    assert_one_line(done.stderr)
    assert done.stderr.startswith("fastnn.train: error: argument --threads: ")
    assert os.listdir(folder) == []


def with_nan(arrays: Arrays) -> None:
    arrays["x_train"][7, 1] = np.nan


def with_inf_in_the_test_rows(arrays: Arrays) -> None:
    arrays["x_test"][7, 1] = -np.inf


def with_a_negative_label(arrays: Arrays) -> None:
    arrays["y_train"][7] = -1


def with_an_untrained_class(arrays: Arrays) -> None:
    arrays["y_test"][7] = 3


def with_a_missing_label(arrays: Arrays) -> None:
    arrays["y_train"] = arrays["y_train"][1:]


def with_text_for_features(arrays: Arrays) -> None:
    arrays["x_train"] = arrays["x_train"].astype(str)


def with_objects(arrays: Arrays) -> None:
    arrays["y_train"] = arrays["y_train"].astype(object)


def with_features_of_rank_1(arrays: Arrays) -> None:
    arrays["x_train"] = arrays["x_train"][:, 0]


def with_fewer_test_columns(arrays: Arrays) -> None:
    arrays["x_test"] = arrays["x_test"][:, 1:]


def without_rows(arrays: Arrays) -> None:
    arrays.update(x_train=arrays["x_train"][:0], y_train=arrays["y_train"][:0])


def without_columns(arrays: Arrays) -> None:
    arrays.update(x_train=arrays["x_train"][:, :0], x_test=arrays["x_test"][:, :0])


def without_test_labels(arrays: Arrays) -> None:
    del arrays["y_test"]


@pytest.mark.parametrize(
    "spoil",
    [
        with_nan,
        with_inf_in_the_test_rows,
        with_a_negative_label,
        with_an_untrained_class,
        with_a_missing_label,
        with_text_for_features,
        with_objects,
        with_features_of_rank_1,
        with_fewer_test_columns,
        without_rows,
        without_columns,
        without_test_labels,
    ],
)
def test_invalid_data_are_one_line_without_output(
    spoil: Callable[[Arrays], None], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = small_arrays()
    spoil(arrays)
    np.savez(folder.parent / "bad.npz", **arrays)
    assert train.main(arguments("--log-json", "log", "--plots", "p", dataset="../bad.npz")) == 1
    captured = capsys.readouterr()
    assert_one_line(captured.err)
    assert "bad.npz" in captured.err
    assert captured.out == "" and os.listdir(folder) == []


@pytest.mark.parametrize("options", [(), ("--early-stopping",)])
def test_rows_that_cannot_be_split_are_an_error(
    options: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez("../few.npz", **small_arrays())
    options = (*options, "--validation-fraction", "0.999", "--log-json", "log")
    assert train.main(arguments(*options, dataset="../few.npz")) == 1
    captured = capsys.readouterr()
    assert_one_line(captured.err)
    assert "error: a validation_fraction of 0.999 leaves 0 of 60 rows to train on" in captured.err
    assert captured.out == "" and os.listdir(folder) == []


@pytest.mark.parametrize("content", [b"", b"no archive", None], ids=["empty", "text", "truncated"])
def test_damaged_file_is_an_error(
    content: bytes | None, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = Path("../small.npz").read_bytes()
    Path("../bad.npz").write_bytes(good[:-100] if content is None else content)
    assert train.main(arguments("--log-json", "log", dataset="../bad.npz")) == 1
    assert_one_line(capsys.readouterr().err)
    assert os.listdir(folder) == []


@pytest.mark.parametrize(
    "argv",
    [
        ["--dataset", "missing.npz"],
        ["--dataset", "mnist", "--data-dir", "missing"],
        ["--data-dir", "../small.npz"],
        ["--log-json", "missing/log"],
        ["--log-json", "."],
        ["--log-json", "../small.npz/log"],
        ["--log-json", "x" * 300],
        ["--save", "missing/net"],
        ["--save", "."],
        ["--save", "../small.npz/net"],
        ["--save", "x" * 300],
        ["--plots", "../small.npz"],
        ["--plots", "../small.npz/plots"],
    ],
)
def test_unusable_paths_are_errors_before_training(
    argv: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(arguments("--log-json", "log", *argv)) == 1
    captured = capsys.readouterr()
    assert_one_line(captured.err)
    assert re.sub("/(log|net|plots)$", "", argv[-1]) in captured.err
    assert captured.out == "" and os.listdir(folder) == []


@posix
def test_device_is_not_replaced(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(arguments("--save", os.devnull)) == 1
    captured = capsys.readouterr()
    assert captured.err == f"fastnn.train: error: {os.devnull}: Not a regular file\n"
    assert captured.out == ""


@posix
@pytest.mark.parametrize("option", ["--log-json", "--plots", "--save"])
def test_read_only_directory_is_an_error(
    option: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.chmod(0o500)
    try:
        if os.access(folder, os.W_OK):
            pytest.skip("root may write everywhere")
        assert train.main(arguments(option, "new")) == 1
    finally:
        folder.chmod(0o700)
    assert_one_line(capsys.readouterr().err)
    assert os.listdir(folder) == []


@needs_dev_full
@pytest.mark.parametrize("full", ["the log", "standard output"])
@pytest.mark.process
def test_full_disk_is_an_error(full: str, folder: Path) -> None:
    if full == "the log":
        done = run(*arguments("--log-json", "/dev/full"))
        assert "epoch " not in done.stdout
    else:
        with open("/dev/full", "w") as output:
            done = subprocess.run(
                command(*arguments()), stdout=output, stderr=subprocess.PIPE, text=True
            )
    assert done.returncode == 1
    assert_one_line(done.stderr)
    assert "No space left on device" in done.stderr


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory"),
            1,
            "fastnn.train: error: the working directory was deleted; start in another one, or "
            "give absolute paths\n",
        ),
        (MemoryError("7 TiB"), 1, "fastnn.train: error: not enough memory: 7 TiB\n"),
        (
            ModuleNotFoundError("No module named 'x'"),
            1,
            "fastnn.train: error: No module named 'x'\n",
        ),
        (fastnn.DataError("a\nb: \x1b[2J"), 1, "fastnn.train: error: a\\nb: \\x1b[2J\n"),
        (KeyboardInterrupt(), 130, "fastnn.train: interrupted\n"),
    ],
)
def test_errors_while_loading_are_one_line(
    error: BaseException,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    assert train.main([]) == code
    assert capsys.readouterr().err == line


def test_interrupt_hidden_by_an_import_error_is_reported(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def importing() -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:  # as pybind11 does
            raise ImportError("initialization failed") from error

    assert running.run("fastnn.train", importing) == 130
    assert capsys.readouterr().err == "fastnn.train: interrupted\n"


@posix
@pytest.mark.process
def test_interrupt_in_a_ctypes_callback_ends_the_process(folder: Path) -> None:
    program = """
import ctypes, signal, sys
from fastnn.commands import running
from fastnn.system import interrupts
with interrupts.interrupt_handlers(), running.exit_on_interrupt("fastnn.train"):
    ctypes.CFUNCTYPE(None)(lambda: signal.raise_signal(int(sys.argv[1])))()
"""
    for number, code, word in ((signal.SIGINT, 130, "interrupted"), (15, 143, "terminated")):
        argv = [sys.executable, "-c", program, str(int(number))]
        done = subprocess.run(argv, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (code, f"fastnn.train: {word}\n")


def test_unexpected_exceptions_propagate() -> None:
    with pytest.raises(ZeroDivisionError):
        running.run("fastnn.train", lambda: print(1 // 0))


# Runs that end early


def test_divergence_is_logged_and_writes_no_model(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--learning-rate", "1e6", "--batch-size", "8", "--log-json", "log", "--save", "net")
    assert train.main(arguments(*options, epochs=50)) == 3
    assert os.listdir(folder) == ["log"]
    error = capsys.readouterr().err
    assert_one_line(error)
    stopped = events(folder / "log")[-1]
    assert (stopped.pop("event"), stopped.pop("reason")) == ("stopped", "diverged")
    assert "in epoch {epoch}, step {step}, at learning rate 1e+06".format(**stopped) in error


@pytest.mark.parametrize(
    ("options", "epoch"), [((), 1), (("--validation-fraction", "0.2"), 3)], ids=["test", "val"]
)
def test_test_loss_that_is_not_finite_is_divergence(
    options: tuple[str, ...], epoch: int, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = small_arrays()
    arrays["x_test"] = np.where(arrays["x_test"] > 0, np.float32(3e38), np.float32(-3e38))
    np.savez("../bad.npz", **arrays)
    Path("net").write_bytes(b"old")
    options = (*options, "--log-json", "log", "--save", "net")
    assert train.main(arguments(*options, dataset="../bad.npz")) == 3
    assert Path("net").read_bytes() == b"old"
    error = capsys.readouterr().err
    assert_one_line(error)
    assert f"the test loss is not finite after epoch {epoch}, at learning rate 0.1" in error
    assert events(folder / "log")[-1] == {
        "event": "stopped",
        "reason": "diverged",
        "epoch": epoch,
        "step": 1,
    }


@posix
@pytest.mark.parametrize("name", engine.ENGINES)
@pytest.mark.process
def test_interrupt_is_logged_and_writes_no_model(name: str, folder: Path) -> None:
    options = ("--engine", name, "--log-json", "log", "--save", "net")
    process = start(*arguments(*options, epochs=1_000_000))
    wait_for_epochs(process, folder / "log")
    sent = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=PATIENCE)
    seconds = time.monotonic() - sent
    assert process.returncode == 130
    assert os.listdir(folder) == ["log"]
    assert_one_line(error, error=False)
    *_, last_epoch, stopped = events(folder / "log")
    assert stopped["reason"] == "interrupted"
    assert stopped["step"] == 1 and stopped["epoch"] - last_epoch["epoch"] in (0, 1)
    reached = f"in epoch {stopped['epoch']} of 1000000; test accuracy after epoch "
    assert re.search(rf"{reached}{last_epoch['epoch']}: \d+\.\d\d%\n", error)
    assert seconds < 1  # at most 0.25 s if the machine is idle


@posix
@pytest.mark.process
def test_closed_pipe_ends_silently(folder: Path) -> None:
    process = start(*arguments(epochs=1_000_000))
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline().startswith("network")
    process.stdout.close()
    assert (process.wait(timeout=PATIENCE), process.stderr.read()) == (141, "")
    process.stderr.close()


@posix
@pytest.mark.parametrize("argv", [["--help"], arguments("--quiet")], ids=["help", "quiet"])
@pytest.mark.process
def test_pipe_without_reader_ends_silently(argv: list[str], folder: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command(*argv), stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")
