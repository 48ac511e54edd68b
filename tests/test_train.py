"""`fastnn.train` and what it stands on, `fastnn._cli` and `fastnn.console`.

In this process where only the answer counts; as a process where pipes, signals, terminals or the
encoding do. The reference engine trains, because the command line is what is tested.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastnn
from fastnn import Network, _cli, datasets, engine, train
from fastnn.console import JsonLog
from fastnn.randomness import SEED_LIMIT

ROWS, TEST_ROWS = 60, 20
PATIENCE = 60  # seconds until a test gives up; compiling the kernels may lie in them

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX pipes, signals or terminals")
needs_dev_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")

Arrays = dict[str, Any]


def small_arrays() -> Arrays:
    """Return three classes that four features tell apart."""
    rng = np.random.default_rng(0)
    y = np.arange(ROWS + TEST_ROWS) % 3
    x = (rng.normal(size=(len(y), 4)) + 3 * np.eye(4)[y]).astype(np.float32)
    return {"x_train": x[:ROWS], "y_train": y[:ROWS], "x_test": x[ROWS:], "y_test": y[ROWS:]}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an empty folder the current one, beside small.npz; processes find fastnn from there."""
    monkeypatch.setenv("PYTHONPATH", str(Path(fastnn.__file__).parents[1]))
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # what is sent, the command sends
    np.savez(tmp_path / "small.npz", **small_arrays())
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def arguments(*extra: str, dataset: str = "../small.npz", epochs: int = 3) -> list[str]:
    return ["--engine", "numpy", "--dataset", dataset, "--epochs", str(epochs), *extra]


def command(*argv: str) -> list[str]:
    return [sys.executable, "-m", "fastnn.train", *argv]


def run(*argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command as a process, its output in pipes."""
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


# What it prints


def test_output_in_a_pipe(folder: Path) -> None:
    done = run(*arguments())
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout and done.stdout.isascii()
    assert lines[0] == "network   4-128-64-3, 9,091 parameters"
    assert lines[1] == "data      small, 60 rows to train on, 20 to test on"
    assert lines[2].endswith("../small.npz")
    assert "batches   all 60 rows (128 are more than there are), 1 update an epoch" in lines
    header = next(i for i, line in enumerate(lines) if line.startswith("epoch"))
    rows = [line.split() for line in lines[header + 1 : header + 4]]
    assert [row[0] for row in rows] == ["1", "2", "3"]
    assert {len(line) for line in lines[header : header + 4]} == {len(lines[header])}
    assert lines[-1] == f"test accuracy {rows[-1][4]}, test loss {rows[-1][3]}, after 3 epochs"


def test_rows_arrive_while_it_trains(folder: Path) -> None:
    process = start(*arguments(epochs=1_000_000))
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("    3"):
            break
    process.kill()
    process.communicate()
    assert line.startswith("    3")


def test_quiet_leaves_the_last_line(folder: Path) -> None:
    loud, quiet = run(*arguments()), run(*arguments("--quiet"))
    assert quiet.stdout.splitlines() == loud.stdout.splitlines()[-1:]
    assert quiet.stderr == ""


def test_seed_decides_the_result(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = []
    for seed in ("7", "7", "8"):
        assert train.main(arguments("--quiet", "--seed", seed)) == 0
        results.append(capsys.readouterr().out)
    assert results[0] == results[1] != results[2]


def test_batch_size_above_the_rows(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = {}
    for size in ("full", "60", "5000", "59"):
        assert train.main(arguments("--batch-size", size)) == 0
        outputs[size] = capsys.readouterr().out.splitlines()
    assert outputs["5000"][-1] == outputs["60"][-1] == outputs["full"][-1] != outputs["59"][-1]
    assert (
        "batches   all 60 rows (5,000 are more than there are), 1 update an epoch"
        in (outputs["5000"])
    )
    assert "batches   all 60 rows, 1 update an epoch" in outputs["full"]
    assert "batches   59 rows, 2 updates an epoch" in outputs["59"]


def test_no_hidden_layer(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(arguments("--hidden", "")) == 0
    assert "network   4-3, 15 parameters" in capsys.readouterr().out


@pytest.mark.parametrize("quiet", [False, True])
def test_says_that_the_data_are_not_what_was_hoped_for(
    quiet: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = datasets.Dataset(
        name="digits",
        **small_arrays(),
        scale=1.0,
        source="here",
        image_shape=None,
        n_classes=3,
        note="no MNIST",
    )
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: data)
    assert train.main(arguments("--quiet") if quiet else arguments()) == 0
    assert capsys.readouterr().err == "fastnn.train: no MNIST\n" * (1 if quiet else 2)


def test_says_that_it_compiles_before_it_does(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engine, "needs_compiling", lambda name: True)
    assert train.main(arguments()) == 0
    assert capsys.readouterr().out.startswith("compiling the kernels")


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_answers_without_numpy(option: str, folder: Path) -> None:
    program = "import sys; from fastnn.train import main; code = main(sys.argv[1:]); "
    program += "assert not {'numpy', 'rich', 'matplotlib'} & set(sys.modules); sys.exit(code)"
    done = subprocess.run([sys.executable, "-c", program, option], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    wanted = "python -m fastnn.train" if option == "--help" else f"fastnn {fastnn.__version__}"
    assert wanted in done.stdout


def test_ascii_output_can_name_any_file(folder: Path) -> None:
    dataset = str(Path("../données ☃.npz"))
    np.savez(folder / dataset, **small_arrays())
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    done = run(*arguments(dataset=dataset), env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u2603.npz" in done.stdout or "\\udce2\\udc98\\udc83.npz" in done.stdout


# The log and the picture


def test_log(folder: Path) -> None:
    log = folder / "run.jsonl"
    log.write_text("of a run before\n" * 100)
    assert train.main(arguments("--batch-size", "8", "--log-json", str(log), "--quiet")) == 0
    begin, *epochs, result = events(log)
    assert (begin.pop("event"), begin.pop("schema")) == ("start", 1)
    assert begin.pop("versions").keys() >= {"fastnn", "python", "numpy"}
    assert Path(begin.pop("data_source")).name == "small.npz"
    assert begin == {
        "engine": "numpy",
        "dataset": "small",
        "layers": [4, 128, 64, 3],
        "parameters": 9091,
        "train_rows": ROWS,
        "test_rows": TEST_ROWS,
        "batch_size": 8,
        "epochs": 3,
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "momentum": None,
        "weight_decay": 0.0,
        "l2": 0.0,
        "seed": 0,
        "threads": None,
        "threading_layer": None,
    }
    figures = ["epoch", "loss", "accuracy", "test_loss", "test_accuracy", "seconds"]
    assert [list(event) for event in epochs] == [["event", *figures, "samples_per_second"]] * 3
    assert epochs[1]["samples_per_second"] == ROWS / epochs[1]["seconds"]
    assert result.pop("total_seconds") > result.pop("train_seconds") > 0
    assert result == {
        "event": "result",
        "epochs_run": 3,
        "test_loss": epochs[-1]["test_loss"],
        "test_accuracy": epochs[-1]["test_accuracy"],
        "compile_seconds": 0.0,
    }


def test_trains_what_the_network_would(folder: Path) -> None:
    options = ("--batch-size", "8", "--hidden", "5", "--learning-rate", "0.3", "--seed", "3")
    assert train.main(arguments(*options, "--log-json", "log")) == 0
    data = small_arrays()
    history = Network([4, 5, 3], seed=3).fit(
        data["x_train"],
        data["y_train"],
        epochs=3,
        batch_size=8,
        learning_rate=0.3,
        engine="numpy",
        validation_data=(data["x_test"], data["y_test"]),
    )
    epochs = [event for event in events(folder / "log") if event["event"] == "epoch"]
    for name in ("loss", "accuracy"):
        assert [event[name] for event in epochs] == history[name]
        assert [event[f"test_{name}"] for event in epochs] == history[f"val_{name}"]


def test_log_of_the_numba_engine(folder: Path) -> None:
    done = run(*arguments("--engine", "numba", "--threads", "1", "--log-json", "log"))
    assert (done.returncode, done.stderr) == (0, "")
    begin, *_, result = events(folder / "log")
    assert (begin["engine"], begin["threads"]) == ("numba", 1)
    assert "numba" in begin["versions"]
    assert begin["threading_layer"] in ("tbb", "omp", "workqueue")
    assert f"engine    numba, 1 thread ({begin['threading_layer']}), kernels" in done.stdout
    assert result["compile_seconds"] > 0


def test_log_holds_no_nan(tmp_path: Path) -> None:
    with JsonLog(tmp_path / "log", rows=1) as log:
        log.write("epoch", loss=float("nan"), accuracy=0.5, name="é")
    assert events(tmp_path / "log") == [
        {"event": "epoch", "loss": None, "accuracy": 0.5, "name": "é"}
    ]


def test_plots(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(arguments("--plots", "new/pictures")) == 0
    picture = Path("new", "pictures", "loss_accuracy.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert f"wrote {picture}\ntest accuracy" in capsys.readouterr().out


def test_result_survives_a_picture_that_cannot_be_saved(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "loss_accuracy.png" / "in the way").mkdir(parents=True)
    assert train.main(arguments("--plots", ".", "--log-json", "log")) == 1
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1].startswith("test accuracy")
    assert_one_line(captured.err)
    assert events(folder / "log")[-1]["event"] == "result"


# What is wrong with the command line, the data or the files


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--fast"], "unrecognized arguments: --fast"),
        (["extra"], "unrecognized arguments: extra"),
        (["--epoch", "3"], "unrecognized arguments: --epoch 3"),
        (["--engine", "gpu"], "argument --engine: invalid choice: 'gpu'"),
        (["--dataset", "mnits"], "argument --dataset: must be auto, mnist"),
        (["--epochs"], "argument --epochs: expected one argument"),
        (["--hidden", "0"], "argument --hidden: must be whole numbers from 1"),
        (["--hidden", "a,b"], "argument --hidden: must be whole numbers from 1"),
        (["--hidden", "128,,64"], "argument --hidden: must be whole numbers from 1"),
        (["--hidden", "99999999999"], "argument --hidden: must be whole numbers from 1"),
        (["--learning-rate", "nan"], "argument --learning-rate: must be a positive number"),
        (["--learning-rate", "inf"], "argument --learning-rate: must be a positive number"),
        (["--optimizer", "sgdm"], "argument --optimizer: invalid choice: 'sgdm'"),
        (["--momentum", "1"], "argument --momentum: must be below 1, got '1'"),
        (["--momentum", "0.5"], "argument --momentum: sgd has none; momentum and nesterov do"),
        (["--weight-decay", "-1"], "argument --weight-decay: must be a number of at least 0"),
        (["--l2", "nan"], "argument --l2: must be a number of at least 0"),
        (["--seed", "-1"], "argument --seed: must be a whole number from 0"),
        (["--seed", str(2**64)], "argument --seed: must be a whole number from 0"),
        (["--seed", "1.5"], "argument --seed: must be a whole number from 0"),
        (["--epochs", str(2**31)], "argument --epochs: must be a whole number from 1"),
        *(
            ([f"--{option}", value], f"argument --{option}: must be ")
            for option in ("batch-size", "epochs", "learning-rate", "threads")
            for value in ("0", "-1", "many", "")
        ),
    ],
)
def test_usage_errors(
    argv: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(arguments("--log-json", "log", "--plots", "plots", *argv)) == 2
    captured = capsys.readouterr()
    assert_one_line(captured.err)
    assert captured.err.startswith(f"fastnn.train: error: {message}")
    assert captured.out == "" and os.listdir(folder) == []


def test_more_threads_than_the_process_may_use(folder: Path) -> None:
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


def with_a_class_that_is_not_trained(arrays: Arrays) -> None:
    arrays["y_test"][7] = 3


def with_a_label_too_few(arrays: Arrays) -> None:
    arrays["y_train"] = arrays["y_train"][1:]


def with_text_for_features(arrays: Arrays) -> None:
    arrays["x_train"] = arrays["x_train"].astype(str)


def with_objects(arrays: Arrays) -> None:
    arrays["y_train"] = arrays["y_train"].astype(object)


def with_features_of_rank_1(arrays: Arrays) -> None:
    arrays["x_train"] = arrays["x_train"][:, 0]


def with_other_columns_to_test(arrays: Arrays) -> None:
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
        with_a_class_that_is_not_trained,
        with_a_label_too_few,
        with_text_for_features,
        with_objects,
        with_features_of_rank_1,
        with_other_columns_to_test,
        without_rows,
        without_columns,
        without_test_labels,
    ],
)
def test_data_errors(
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


@pytest.mark.parametrize("content", [b"", b"no archive", None], ids=["empty", "text", "truncated"])
def test_damaged_file(
    content: bytes | None, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = Path("../small.npz").read_bytes()
    Path("../bad.npz").write_bytes(whole[:-100] if content is None else content)
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
        ["--plots", "../small.npz"],
        ["--plots", "../small.npz/plots"],
    ],
)
def test_file_errors(argv: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(arguments("--log-json", "log", *argv)) == 1
    captured = capsys.readouterr()
    assert_one_line(captured.err)
    assert argv[-1].partition("/log")[0].partition("/plots")[0] in captured.err
    assert captured.out == "" and os.listdir(folder) == []


@posix
@pytest.mark.parametrize("option", ["--log-json", "--plots"])
def test_read_only_directory(option: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
def test_full_disk(full: str, folder: Path) -> None:
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
        (MemoryError("7 TiB"), 1, "fastnn.train: error: not enough memory: 7 TiB\n"),
        (
            ModuleNotFoundError("No module named 'x'"),
            1,
            "fastnn.train: error: No module named 'x'\n",
        ),
        (fastnn.DataError("two\nlines"), 1, "fastnn.train: error: two lines\n"),
        (KeyboardInterrupt(), 130, "fastnn.train: interrupted\n"),
    ],
)
def test_errors_while_loading(
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


def test_interrupt_that_an_import_hides(capsys: pytest.CaptureFixture[str]) -> None:
    def importing() -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:  # as pybind11 does
            raise ImportError("initialization failed") from error

    assert _cli.run("fastnn.train", importing) == 130
    assert capsys.readouterr().err == "fastnn.train: interrupted\n"


@posix
def test_interrupt_that_a_callback_loses(folder: Path) -> None:
    program = """
import ctypes, signal
from fastnn import _cli
with _cli.exit_on_interrupt("fastnn.train"):
    ctypes.CFUNCTYPE(None)(lambda: signal.raise_signal(signal.SIGINT))()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "fastnn.train: interrupted\n")


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        _cli.run("fastnn.train", lambda: print(1 // 0))


# What ends it early


def test_divergence(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--learning-rate", "1e6", "--batch-size", "8", "--log-json", "log")
    assert train.main(arguments(*options, epochs=50)) == 3
    error = capsys.readouterr().err
    assert_one_line(error)
    stopped = events(folder / "log")[-1]
    assert (stopped.pop("event"), stopped.pop("reason")) == ("stopped", "diverged")
    assert "in epoch {epoch}, step {step}, at learning rate 1e+06".format(**stopped) in error


def test_divergence_that_only_the_test_shows(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = small_arrays()
    arrays["x_test"] *= np.float32(3e37)
    np.savez("../bad.npz", **arrays)
    assert train.main(arguments("--log-json", "log", dataset="../bad.npz")) == 3
    assert "the test loss is not finite after epoch 1" in capsys.readouterr().err
    assert events(folder / "log")[-1] == {
        "event": "stopped",
        "reason": "diverged",
        "epoch": 1,
        "step": 1,
    }


@posix
@pytest.mark.parametrize("name", engine.ENGINES)
def test_interrupt(name: str, folder: Path) -> None:
    process = start(*arguments("--engine", name, "--log-json", "log", epochs=1_000_000))
    wait_for_epochs(process, folder / "log")
    sent = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=PATIENCE)
    seconds = time.monotonic() - sent
    assert process.returncode == 130
    assert_one_line(error, error=False)
    *_, last_epoch, stopped = events(folder / "log")
    assert stopped["reason"] == "interrupted"
    assert stopped["step"] == 1 and stopped["epoch"] - last_epoch["epoch"] in (0, 1)
    reached = f"in epoch {stopped['epoch']} of 1000000; test accuracy after {last_epoch['epoch']}: "
    assert re.search(rf"{reached}\d+\.\d\d%\n", error)
    assert seconds < 1  # promised is 0.25; a busy machine may take longer to wake the process


@posix
def test_pipe_that_closes(folder: Path) -> None:
    process = start(*arguments(epochs=1_000_000))
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline().startswith("network")
    process.stdout.close()
    assert (process.wait(timeout=PATIENCE), process.stderr.read()) == (141, "")
    process.stderr.close()


@posix
@pytest.mark.parametrize("argv", [["--help"], arguments("--quiet")], ids=["help", "quiet"])
def test_pipe_that_was_never_open(argv: list[str], folder: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command(*argv), stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


# A terminal


@pytest.fixture(params=[80, 20])
def terminal(request: pytest.FixtureRequest) -> Iterator[tuple[int, int]]:
    """Open a terminal of the given width; hand out its two ends."""
    termios, fcntl = pytest.importorskip("termios"), pytest.importorskip("fcntl")
    ours, theirs = os.openpty()
    size = np.array([24, request.param, 0, 0], np.uint16).tobytes()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, size)
    yield ours, theirs
    os.close(ours)


def read_all(terminal: int) -> str:
    pieces = []
    while True:
        try:
            pieces.append(os.read(terminal, 1 << 16))
        except OSError:  # Linux's way to say that the other end is closed
            break
        if not pieces[-1]:
            break
    return b"".join(pieces).decode()


@posix
@pytest.mark.parametrize("colour", [True, False], ids=["colour", "NO_COLOR"])
def test_terminal(colour: bool, terminal: tuple[int, int], folder: Path) -> None:
    ours, theirs = terminal
    names = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TTY_COMPATIBLE")
    environment = {key: value for key, value in os.environ.items() if key not in names}
    environment |= {"TERM": "xterm-256color"} | ({} if colour else {"NO_COLOR": "1"})
    process = subprocess.Popen(
        command(*arguments()), stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    output = read_all(ours)
    assert process.wait(timeout=PATIENCE) == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output).replace("\r", "\n")
    rows = re.findall(r"^ +(\d)(?: +\S+){6}$", plain, re.MULTILINE)
    assert rows == ["1", "2", "3"]
    assert "epoch 1/3" in output
    assert output.count("\x1b[?25l") == output.count("\x1b[?25h") == 1  # the cursor comes back
    assert bool(re.search(r"\x1b\[[0-9;]*3[0-8]", output)) == (colour and "━" in output)
    assert re.search(r"test accuracy [\d.]+%, test loss \S+, after 3 epochs\n", plain)


# Copies that spare the command line an import of NumPy


def test_copies_agree() -> None:
    assert _cli.ENGINES == engine.ENGINES
    assert _cli.SEED_LIMIT == SEED_LIMIT
