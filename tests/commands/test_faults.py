"""No command prints a traceback: full disks, deleted directories, unusual terminals, encodings."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import PATIENCE, posix, read_all

import fastnn
from fastnn import Callback
from fastnn.commands import predict, report, train

pytestmark = [posix, pytest.mark.process]

PLAIN = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR")}
LIMITED = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
del sys.argv[:2]
runpy.run_module(sys.argv[0], run_name="__main__")
"""
TRAIN = ["fastnn.train", "--engine", "numpy", "--dataset", "../small.npz", "--epochs", "2"]
REPORT = ["fastnn.report", "--engine", "numpy", "--dataset", "../small.npz", "--quick", "--out"]
PREDICT = ["fastnn.predict", "net", "rows.csv", "--engine", "numpy"]


@pytest.fixture
def place(folder: Path) -> Path:
    """Return a directory with a network and rows for it."""
    fastnn.Network([4, 5, 3], seed=1).save("net")
    np.savetxt("rows.csv", np.eye(4), delimiter=",")
    return folder


def environment(**more: str) -> dict[str, str]:
    return PLAIN | {"PYTHONPATH": os.environ["PYTHONPATH"]} | more


def run(argv: list[str], **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *argv], capture_output=True, timeout=PATIENCE, text=True,
        encoding="utf-8", errors="replace", env=environment(**more),
    )  # fmt: skip


def assert_refused(done: subprocess.CompletedProcess[str], program: str, named: str) -> None:
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith(f"{program}: error: ") and done.stderr.count("\n") == 1
    assert named in done.stderr


# ---- a deleted working directory -----------------------------------------------------------------


@pytest.fixture
def deleted(place: Path, tmp_path: Path) -> Path:
    """Return a directory with a network, rows and data; enter another one, which is deleted."""
    folder = tmp_path / "gone"
    folder.mkdir()
    os.chdir(folder)
    folder.rmdir()
    return place


@pytest.mark.parametrize(
    "relative",
    [[*TRAIN[1:], f"--{option}", "out"] for option in ("save", "plots", "log-json", "checkpoint")]
    + [[*REPORT[1:], "out"], ["{place}/net", "{place}/rows.csv", "--output", "out"]],
    ids=["save", "plots", "log", "checkpoint", "report", "predict"],
)
def test_deleted_working_directory_is_an_error(
    relative, deleted, monkeypatch, capfdbinary, request
):
    name = request.node.callspec.id
    program = {"report": report, "predict": predict}.get(name, train)
    argv = [each.format(place=deleted).replace("..", str(deleted.parent)) for each in relative]
    assert program.main(argv) == 1
    out, err = capfdbinary.readouterr()
    assert err.decode() == (
        f"{program.PROGRAM}: error: the working directory was deleted; start in another one, or "
        "give absolute paths\n"
    )


# ---- full disks, deleted directories -------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "limit", "named"),
    [
        ([*TRAIN, "--log-json", "log"], 300, "log: File too large"),
        ([*TRAIN, "--save", "new"], 300, "new: File too large"),
        ([*TRAIN, "--plots", "plots"], 300, "loss_accuracy.png: File too large"),
        ([*REPORT, "out"], 300, "File too large"),
        ([*PREDICT, "--output", "new"], 30, "new: File too large"),
    ],
    ids=["log", "save", "plots", "report", "predict"],
)
def test_full_disk_is_an_error(argv: list[str], limit: int, named: str, place: Path) -> None:
    """A limit of the file size makes a write fail in the middle, like a full disk."""
    before = sorted(place.iterdir())
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(limit), *argv], capture_output=True, text=True,
        timeout=PATIENCE, env=environment(PYTHONDONTWRITEBYTECODE="1"),
    )  # fmt: skip
    assert_refused(done, argv[0], named)
    new = {path.name for path in place.iterdir()} - {path.name for path in before}
    assert new <= {"log", "plots", "out"}  # no incomplete model and no temporary file


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("argv", [TRAIN, [*REPORT, "out"], PREDICT], ids=lambda argv: argv[0])
def test_standard_output_on_a_full_disk_is_an_error(argv: list[str], place: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", *argv], stdout=full, stderr=subprocess.PIPE, text=True,
            timeout=PATIENCE, env=environment(),
        )  # fmt: skip
    assert_refused(done, argv[0], "No space left on device")


@pytest.mark.parametrize("option", ["--save", "--plots", "--log-json"])
def test_result_is_printed_if_a_directory_is_deleted_during_training(
    option: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "there").mkdir()

    class Delete(Callback):
        def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
            if epoch == 1:
                shutil.rmtree(place / "there")
                if option == "--plots":  # it would be created again
                    (place / "there").write_text("")

    def fit_and_delete(self: Any, prepared: Any, callbacks: Any) -> Any:
        return fit(self, prepared, callbacks=(*callbacks, Delete()))

    fit = fastnn.Network._train
    monkeypatch.setattr(fastnn.Network, "_train", fit_and_delete)
    assert train.main([*TRAIN[1:], "--log-json", "there/log", option, "there/new"]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("fastnn.train: error: there/new: ")
    assert captured.err.count("\n") == 1
    assert "test accuracy" in captured.out.splitlines()[-1]


@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="root may do everything")
@pytest.mark.parametrize("argv", [TRAIN, PREDICT], ids=lambda argv: argv[0])
def test_unreadable_files_are_errors(argv: list[str], place: Path) -> None:
    path = Path("../small.npz" if argv is TRAIN else "rows.csv")
    path.chmod(0)
    assert_refused(run(argv), argv[0], f"{path}: cannot be read: Permission denied")


# ---- pipes, terminals, encodings ----------------------------------------------------------------


@pytest.mark.parametrize("argv", [TRAIN, [*REPORT, "out"], PREDICT], ids=lambda argv: argv[0])
def test_closed_pipe_ends_silently(argv: list[str], place: Path) -> None:
    argv = [*argv, "--epochs", "500"] if argv is TRAIN else argv
    if argv is PREDICT:
        Path("rows.csv").write_text("1,2,3,4\n" * 200_000)
    with subprocess.Popen(
        [sys.executable, "-m", *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment(),
    ) as process:  # fmt: skip
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert (process.wait(timeout=PATIENCE), process.stderr.read()) == (141, "")


@pytest.mark.parametrize("more", [{"TERM": "dumb"}, {"TERM": "xterm", "NO_COLOR": "1"},
                                  {"TERM": "xterm", "COLUMNS": "20"}, {"TERM": ""}],
                         ids=str)  # fmt: skip
@pytest.mark.parametrize("argv", [TRAIN, PREDICT], ids=lambda argv: argv[0])
def test_runs_on_any_terminal(
    argv: list[str],
    more: dict[str, str],
    place: Path,
    terminal: tuple[int, int],  # noqa: F811
) -> None:
    ours, theirs = terminal
    process = subprocess.Popen(
        [sys.executable, "-m", *argv], stdin=theirs, stdout=theirs, stderr=theirs,
        env=environment(**more),
    )  # fmt: skip
    os.close(theirs)
    output = read_all(ours)
    assert process.wait(timeout=PATIENCE) == 0, output
    assert "Traceback" not in output and "error" not in output
    if "NO_COLOR" in more:
        assert "\x1b[3" not in output
    if more["TERM"] == "dumb":
        assert "\x1b" not in output.replace("\x1b[0m", "")


@pytest.mark.parametrize("more", [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
                                  {"PYTHONIOENCODING": "latin-1"}, {"PYTHONIOENCODING": "ascii"}],
                         ids=["C", "latin-1", "ascii"])  # fmt: skip
def test_file_names_outside_the_encoding(more: dict[str, str], place: Path) -> None:
    shutil.copy("../small.npz", "donnéés-数.npz")
    folder = "ü-文"
    Path(folder).mkdir()
    train_it = [*TRAIN, "--dataset", "donnéés-数.npz", "--save", f"{folder}/né.数",
                "--log-json", f"{folder}/log", "--plots", f"{folder}/plots"]  # fmt: skip
    done = run(train_it, **more)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(os.listdir(folder)) == ["log", "né.数", "plots"]
    done = run(
        [*PREDICT[:1], f"{folder}/né.数", *PREDICT[2:], "--output", f"{folder}/é.csv"], **more
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (place / folder / "é.csv").read_text().count("\n") == 5
    done = run([*TRAIN, "--dataset", "数-missing.npz"], **more)
    assert_refused(done, "fastnn.train", "missing.npz")
    done = run([*REPORT, f"{folder}/report", "--dataset", "donnéés-数.npz"], **more)
    assert (done.returncode, done.stderr) == (0, "")
