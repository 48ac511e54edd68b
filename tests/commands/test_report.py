"""`fastnn.report`: its runs, its files, and the command as a process, on small data.

The tests use the reference engine, which does not compile.
"""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import runs_of

from fastnn import load_dataset
from fastnn.commands import report
from fastnn.commands.report_runs import BATCH_SIZES, OPTIMIZER_CONTEST, Contest, Plan, Run
from fastnn.commands.report_text import report_text
from fastnn.data.rows import Data

ALL_DIVERGED = {plan.name: None for plan in (*BATCH_SIZES.plans, *OPTIMIZER_CONTEST.plans)}


@pytest.mark.parametrize(
    ("contest", "diverged"),
    [
        (BATCH_SIZES, "batch GD"),
        pytest.param(BATCH_SIZES, "all", marks=pytest.mark.process),  # a second each
        pytest.param(OPTIMIZER_CONTEST, "SGD at rate 0.1", marks=pytest.mark.process),
        pytest.param(OPTIMIZER_CONTEST, "all", marks=pytest.mark.process),
    ],
    ids=lambda value: getattr(value, "page", value),
)
def test_report_is_written_for_any_runs(tmp_path: Path, contest: Contest, diverged: str) -> None:
    lost = {name: None for name in ALL_DIVERGED if diverged == "all" or diverged in name}
    out = tmp_path / "new" / "out"
    runs = runs_of(contest, lost)
    report.write_report(out, contest, runs, report_text(contest, runs, {}))
    assert {path.name for path in out.iterdir()} == set(contest.files)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Return the path of a data set with three classes that four features separate."""
    rng = np.random.default_rng(0)
    y = np.arange(1_200) % 3
    x = (rng.normal(size=(1_200, 4)) + 3 * np.eye(4)[y]).astype(np.float32)
    path = tmp_path / "small.npz"
    np.savez(path, x_train=x[:1_000], y_train=y[:1_000], x_test=x[1_000:], y_test=y[1_000:])
    return path


def test_best_runs_are_repeated_with_other_seeds(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = 2**64 - 1
    plans = [Plan("batch GD", None, rate, 2) for rate in (1e-6, 0.1)]
    runs = train([*plans, Plan("mini-batch GD", 128, 0.1, 1)], small, seed)
    options = report.parse(["--engine", "numpy", "--seed", str(seed)])
    batch, mini_batch = report.repeat_best(runs, load_dataset(str(small)), options)
    assert batch[0] is runs[1] and {run.plan for run in batch} == {plans[1]}
    assert mini_batch[0] is runs[2] and len(mini_batch) == len(batch) == 3
    assert len({run.history["loss"][0] for run in batch}) == 3
    assert "with seed 0:" in capsys.readouterr().out


def train(plans: list[Plan], path: Path, seed: int = 0) -> list[Run]:
    options = report.parse(["--engine", "numpy"])
    return report.train_runs(plans, load_dataset(str(path)), options, seed)


def test_runs_start_from_the_same_weights(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full = [Plan("batch GD", size, 0.1, 2) for size in (None, 1_000, 5_000)]
    runs = train([*full, Plan("mini-batch GD", 128, 0.1, 1)], small)
    losses = [run.history["loss"] for run in runs]
    for other in losses[1:3]:  # a BLAS library may change the order of its sums
        assert other == pytest.approx(losses[0], rel=1e-6)
    assert [run.batch_size for run in runs] == [1_000, 1_000, 1_000, 128]
    data = load_dataset(str(small))
    engine = report.new_network(data, seed=0).use_engine("numpy")
    expected, _ = engine.loss_and_grad(Data(data.x_train, data.y_train))
    assert losses[0][0] == pytest.approx(expected, rel=1e-6)
    assert [len(run.history["val_accuracy"]) for run in runs] == [2, 2, 2, 1]
    assert len(capsys.readouterr().out.splitlines()) == 4


@pytest.mark.process
def test_no_report_is_written_if_every_run_diverges(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    x, y = np.float32(1e30) * rng.normal(size=(300, 4)).astype(np.float32), rng.integers(0, 3, 300)
    np.savez(tmp_path / "large.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    argv = ["--quick", "--engine", "numpy", "--dataset", str(tmp_path / "large.npz")]
    assert report.main([*argv, "--out", str(tmp_path / "out")]) == 3
    assert capsys.readouterr().err.startswith("fastnn.report: error: every run diverged: ")
    assert not (tmp_path / "out").exists()


def test_next_run_starts_after_a_diverged_one(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wild, tame = Plan("wild", None, 1e20, 5), Plan("tame", None, 0.1, 2)
    runs = train([wild, tame], small)
    assert runs[0].history == {} and runs[0].diverged_in is not None
    assert len(runs[1].seconds) == 2 and runs[1].diverged_in is None
    assert "diverged in epoch" in capsys.readouterr().out.splitlines()[0]


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise AssertionError("training has started")

    monkeypatch.setattr(report, "train_runs", refuse)


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    return err


@pytest.mark.parametrize("name", ["taken", "taken/below", "holds/report.md"])
def test_unwritable_directory_is_an_error_before_training(
    small: Path, name: str, no_training: None, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = small.parent
    (folder / "taken").write_text("a file")
    (folder / "holds" / "report.md" / "report.md").mkdir(parents=True)
    before = sorted(folder.rglob("*"))
    out = folder / name
    if name.startswith("holds"):
        out = out.parent  # where report.md is a directory
    arguments = ["--engine", "numpy", "--dataset", str(small), "--out", str(out)]
    assert report.main(arguments) == 1
    assert one_line(capsys).startswith(f"fastnn.report: error: {folder}")
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--fast"], 2),
        (["--engine", "torch"], 2),
        (["--seed", "-1"], 2),
        (["--threads", "0"], 2),
        (["--dataset", "imagenet"], 2),
        (["--dataset", "missing.npz"], 1),
    ],
)
def test_bad_arguments_are_one_line_and_write_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    no_training: None,
    arguments: list[str],
    code: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert report.main(arguments) == code
    assert one_line(capsys).startswith("fastnn.report: error: ")
    assert not any(tmp_path.iterdir())


# One BLAS thread: on matrices this small, several are slower when other tests run beside them.
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(sys.path),
    "OPENBLAS_NUM_THREADS": "1",
}


def command(small: Path, *arguments: str) -> list[str]:
    program = [sys.executable, "-m", "fastnn.report", "--engine", "numpy"]
    return [*program, "--dataset", str(small), *arguments]


@pytest.mark.parametrize(
    ("options", "contest"),
    [((), BATCH_SIZES), (("--optimizers",), OPTIMIZER_CONTEST)],
    ids=["batches", "optimizers"],
)
@pytest.mark.process
def test_command_writes_its_files_and_prints_plain_lines(
    options: tuple[str, ...], contest: Contest, small: Path
) -> None:
    done = subprocess.run(
        command(small, "--quick", "--out", "reports/new", *options),
        capture_output=True,
        text=True,
        cwd=small.parent,
        timeout=60,
        env=ENVIRONMENT,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii() and "\x1b" not in done.stdout and "\r" not in done.stdout
    lines = done.stdout.splitlines()
    assert sum(" epochs in " in line for line in lines) == len(contest.plans)
    assert lines[-1].startswith(f"wrote {contest.page}, ")
    out = small.parent / "reports" / "new"
    assert {path.name for path in out.iterdir()} == set(contest.files)
    text = (out / contest.page).read_text(encoding="utf-8")
    assert "(quick run, too short for conclusions)" in text.splitlines()[0]
    assert "small, 1,000 training, 200 test rows" in text
    assert "4-128-64-3, 9,091 parameters" in text
    for name in contest.files[1:]:
        assert f"({name})" in text and (out / name).read_bytes().startswith(b"\x89PNG\r\n")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.process
def test_ctrl_c_names_the_run_and_writes_nothing(small: Path) -> None:
    process = subprocess.Popen(
        command(small, "--out", "new"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=small.parent,
        env=ENVIRONMENT,
    )
    assert process.stdout is not None
    while not process.stdout.readline().startswith("batch GD at rate 0.1 "):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert re.fullmatch(r"fastnn\.report: interrupted in run \d of 4, .+; no report written\n", err)
    assert not (small.parent / "new").exists()


def test_too_many_threads_are_a_usage_error(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def use_engine(self: object, name: str, *, threads: int | None) -> None:
        raise ValueError(f"threads must be at most 2, got {threads}")

    monkeypatch.setattr("fastnn.network.Network.use_engine", use_engine)
    argv = ["--engine", "numpy", "--threads", "99", "--dataset", str(small)]
    assert report.main(argv) == 2
    assert "argument --threads: threads must be at most 2" in one_line(capsys)


@pytest.mark.process
def test_help_imports_neither_numpy_nor_matplotlib() -> None:
    program = """
import sys
from fastnn.commands import report
assert report.main(["--help"]) == 0
assert not {"numpy", "numba", "matplotlib", "rich"} & set(sys.modules), sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=ENVIRONMENT
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "--quick" in done.stdout
