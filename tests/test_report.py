"""`fastnn.report` and what it stands on, `fastnn.convergence` and `fastnn._report_text`.

The figures and sentences on histories made by hand; the command as a process, where the
reference engine trains on small data.
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

from fastnn import _cli, report
from fastnn._report_text import FILES, Work, comparison_table, report_text, shown_of
from fastnn.convergence import (
    Reached,
    Run,
    best_of,
    conclusions,
    learning_rate_choice,
    number_text,
)

WORK = Work(flops_per_sample=1_000, peak=2.0)  # a row takes 500 ns at the peak


def run(name: str, accuracies: list[float], *, batch_size: int = 1_000, **settings: Any) -> Run:
    """Return a run on 1,000 rows with these test accuracies, by default at 1 s an epoch."""
    seconds = settings.pop("seconds", 1.0)
    rate = settings.pop("learning_rate", 0.1)
    history = {
        "loss": settings.pop("loss", [1 / (i + 1) for i in range(len(accuracies))]),
        "accuracy": [0.5] * len(accuracies),
        "seconds": [seconds] * len(accuracies),
        "val_loss": [0.7] * len(accuracies),
        "val_accuracy": accuracies,
    }
    return Run(name, 1_000, batch_size, rate, history if accuracies else {}, **settings)


SLOW = run("slow", [0.5, 0.7, 0.85, 0.91])
FAST = run("fast", [0.92, 0.96], batch_size=100, seconds=2.0)


def table_of(*runs: Run) -> dict[str, list[str]]:
    """Return the rows of the table by what they show."""
    lines = comparison_table(runs, WORK).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert all(len(row) == 1 + len(runs) for row in rows)
    return {row[0]: row[1:] for row in rows}


def text_of(*runs: Run) -> str:
    return "\n".join(conclusions(runs))


def test_a_mark_is_reached_in_the_first_epoch_at_or_above_it() -> None:
    one = run("one", [0.5, 0.9, 0.8, 0.95], batch_size=300, seconds=0.5)
    assert one.reached(0.9) == Reached(epochs=2, updates=8, seconds=1.0)
    assert one.reached(0.95) == Reached(epochs=4, updates=16, seconds=2.0)
    assert one.reached(0.951) is None


def test_a_short_last_batch_is_an_update() -> None:
    assert [run("r", [0.5], batch_size=n).updates_per_epoch for n in (1_000, 999, 500)] == [1, 2, 2]


def test_the_best_has_the_lowest_final_loss_and_did_not_diverge() -> None:
    low = run("low", [0.5, 0.5], loss=[3.0, 1.0])
    lowest_before = run("lowest before", [0.5, 0.5], loss=[0.1, 2.0])
    diverged = run("diverged", [0.5], loss=[0.01], diverged_in=2)
    assert best_of([lowest_before, low, diverged]) is low
    assert best_of([diverged]) is None


def test_the_table_holds_the_figures() -> None:
    table = table_of(SLOW, FAST)
    assert table[""] == ["slow", "fast"]
    assert table["batch size (rows)"] == ["1,000", "100"]
    assert table["epochs run"] == ["4", "2"]
    assert table["updates per epoch"] == ["1", "10"]
    assert table["updates in all"] == ["4", "20"]
    assert table["epochs to 90% test accuracy"] == ["4", "1"]
    assert table["epochs to 95% test accuracy"] == ["not reached", "2"]
    assert table["epochs to 97% test accuracy"] == ["not reached", "not reached"]
    assert table["seconds to 90% test accuracy"] == ["4", "2"]
    assert table["seconds to 95% test accuracy"] == ["not reached", "4"]
    assert table["final training loss"] == ["0.2500", "0.5000"]
    assert table["final test loss"] == ["0.7000", "0.7000"]
    assert table["final training accuracy"] == ["50.00%", "50.00%"]
    assert table["final test accuracy"] == ["91.00%", "96.00%"]
    assert table["seconds per epoch (median)"] == ["1", "2"]
    assert table["samples per second"] == ["1,000", "500"]


def test_the_share_of_the_peak_is_work_over_time_over_peak() -> None:
    quick = run("quick", [0.5], seconds=0.001)  # 1,000 rows of 500 ns at the peak
    assert table_of(quick)["share of the matrix-product peak"] == ["50%"]


def test_seconds_per_epoch_is_the_median() -> None:
    disturbed = run("disturbed", [0.5] * 3)
    disturbed.history["seconds"][0] = 100.0
    assert table_of(disturbed)["seconds per epoch (median)"] == ["1"]


def test_the_table_shows_a_diverged_run() -> None:
    table = table_of(run("a", [0.95], diverged_in=2), run("b", [], diverged_in=1))
    assert table["epochs run"] == ["1, diverged in epoch 2", "0, diverged in epoch 1"]
    assert table["epochs to 90% test accuracy"] == ["1", "not reached"]
    assert table["final test accuracy"] == ["95.00%", "none"]
    assert table["seconds per epoch (median)"] == ["1", "none"]
    assert "nan" not in comparison_table([run("b", [], diverged_in=1)], WORK)


def test_who_is_ahead_is_said_in_either_order() -> None:
    for runs in ((SLOW, FAST), (FAST, SLOW)):
        text = text_of(*runs)
        assert "**Fast converged first**: it alone reached 95% test accuracy." in text
        assert (
            "To 90% test accuracy: fast took 1 epoch, 10 updates and 2 s; "
            "slow took 4 epochs, 4 updates and 4 s, 2.0 times as long."
        ) in text
        assert "Slow needed the fewest updates." in text
        assert "slow did not get there in 4 epochs (91.00% at its best)" in text


def test_the_lead_is_split_into_epochs_and_their_cost() -> None:
    text = text_of(SLOW, FAST)
    assert (
        "to 90%, slow took 2.0 times as long as fast, which is 4.0 times the epochs, "
        "each at 0.5 times the cost."
    ) in text
    assert (
        "Fast moved the weights after every 100 rows, slow after every 1,000: many updates" in text
    )
    assert "few updates from many rows each beat" not in text


def test_large_batches_can_win() -> None:
    large = run("large", [0.91, 0.98], seconds=0.1)
    small = run("small", [0.91, 0.98], batch_size=10, seconds=5.0)
    text = text_of(large, small)
    assert (
        "**Large converged first**: it was the fastest to 97% test accuracy, the highest mark"
    ) in text
    assert "each at 50 times the cost" in text
    assert "1,000 rows, small after every 10: few updates from many rows each beat many" in text
    assert "small costs 50 times large" in text
    assert "many updates from a few rows each beat" not in text


def test_equal_batches_are_not_said_to_decide() -> None:
    text = text_of(run("a", [0.91]), run("b", [0.5, 0.91]))
    assert "to 90%, b took 2.0 times as long as a" in text
    assert "moved the weights" not in text
    assert ": about the same for all." in text


def test_more_epochs_in_less_time() -> None:
    text = text_of(run("a", [0.5, 0.91], seconds=0.1), run("b", [0.91], seconds=2.0))
    assert "a took 2 epochs, 2 updates and 0.2 s; b took 1 epoch, 1 update and 2 s" in text
    assert "B needed the fewest epochs. B needed the fewest updates." in text


def test_nothing_reached() -> None:
    text = text_of(run("a", [0.2, 0.5]), run("b", [0.6, 0.3]))
    assert "**No run reached 90% test accuracy.** B came nearest: 60.00% at its best" in text
    assert "converged first" not in text and "What decided" not in text


def test_what_a_run_ends_with_is_found_in_the_leader() -> None:
    assert (
        "Slow ends with 91.00% test accuracy after 4 epochs and 4 s; fast has as much after "
        "1 epoch and 2 s, and ends with 96.00%."
    ) in text_of(SLOW, FAST)


def test_a_leader_may_end_behind() -> None:
    early, late = run("early", [0.98, 0.971]), run("late", [0.5, 0.5, 0.99])
    assert "late ends with 99.00%" in text_of(early, late).lower()
    assert "early never gets that far (98.00% at its best)" in text_of(early, late)


def test_diverged_runs_are_named() -> None:
    text = text_of(run("a", [0.91]), run("b", [0.5], diverged_in=2), run("c", [], diverged_in=1))
    assert "A converged first" in text
    assert "B diverged in epoch 2." in text and "C diverged in epoch 1." in text
    assert "b did not get there in 1 epoch (50.00% at its best)" in text


def test_nothing_can_be_concluded_from_nothing() -> None:
    sentences = conclusions([run("a", [], diverged_in=1)])
    assert sentences == [
        "A diverged in epoch 1.",
        "No run completed an epoch: there is nothing to compare.",
    ]


def test_one_run_is_compared_with_nothing() -> None:
    assert text_of(SLOW).startswith("**Slow converged first**: it was the fastest to 90%")
    assert len(conclusions([SLOW])) == 2


RATES = [
    run("a", [0.5], learning_rate=0.1, loss=[0.3]),
    run("b", [0.5], learning_rate=0.3, loss=[0.2]),
    run("c", [], learning_rate=1.0, diverged_in=1),
]


def test_the_choice_of_the_learning_rate_is_explained() -> None:
    text = learning_rate_choice(RATES)
    assert "at the learning rates 0.1, 0.3 and 1," in text
    assert "0.3000 at 0.1, 0.2000 at 0.3 and it diverged in epoch 1 at 1" in text
    assert text.endswith("the best is 0.3, shown beside 0.1.")
    assert "the best is 0.1 itself, which is therefore shown once" in learning_rate_choice(
        [RATES[0], RATES[2]]
    )
    assert "none of them" in learning_rate_choice([RATES[2]])


def test_the_best_batch_run_is_shown_beside_the_first_or_is_it() -> None:
    assert shown_of(RATES, FAST) == [RATES[0], RATES[1], FAST]
    assert shown_of([RATES[0], RATES[2]], FAST) == [RATES[0], FAST]
    assert shown_of([RATES[2]], FAST) == [RATES[2], FAST]


def test_three_digits_count() -> None:
    numbers = (0.0012345, 0.5, 12.345, 99.96, 123.4, 1234.5)
    assert [*map(number_text, numbers)] == ["0.00123", "0.5", "12.3", "100", "123", "1,234"]


def test_the_page_names_its_pictures_its_setup_and_its_haste() -> None:
    text = report_text(RATES, FAST, {"Data": "made up"}, WORK)
    assert text.startswith("# Batch GD and mini-batch GD compared\n")
    assert "- Data: made up" in text and text.endswith("\n") and "quick" not in text
    assert set(re.findall(r"\((\w+\.png)\)", text)) == set(FILES) - {"report.md"}
    assert "(quick run)" in report_text(RATES, FAST, {}, WORK, quick=True).splitlines()[0]


@pytest.mark.parametrize(
    "runs",
    [[*RATES, FAST], [RATES[2], RATES[2], FAST], [RATES[2], run("d", [], diverged_in=1)]],
    ids=["one diverged", "all of batch GD diverged", "all diverged"],
)
def test_a_report_is_written_of_any_runs(tmp_path: Path, runs: list[Run]) -> None:
    report.write_report(tmp_path / "new" / "out", runs, {}, WORK)
    assert {path.name for path in (tmp_path / "new" / "out").iterdir()} == set(FILES)


def test_the_plans_are_those_of_the_issue() -> None:
    planned = [(p.batch_size, p.learning_rate, p.epochs) for p in report.plans()]
    assert planned == [(None, 0.1, 250), (None, 0.3, 250), (None, 1.0, 250), (128, 0.1, 30)]
    assert [p.epochs for p in report.plans(quick=True)] == [6, 6, 6, 2]
    assert len({p.name for p in report.plans()}) == 4


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Return the path of a data set of three classes that four features tell apart."""
    rng = np.random.default_rng(0)
    y = np.arange(1_200) % 3
    x = (rng.normal(size=(1_200, 4)) + 3 * np.eye(4)[y]).astype(np.float32)
    path = tmp_path / "small.npz"
    np.savez(path, x_train=x[:1_000], y_train=y[:1_000], x_test=x[1_000:], y_test=y[1_000:])
    return path


def setup_of(path: Path) -> report.Setup:
    from fastnn import load_dataset

    return report.Setup(load_dataset(str(path)), "numpy", None, 0)


def test_runs_start_from_the_same_weights(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    setup = setup_of(small)
    full = [report.Plan("batch GD", size, 0.1, 2) for size in (None, 1_000, 5_000)]
    runs = report.train_runs([*full, report.Plan("mini-batch GD", 128, 0.1, 1)], setup)
    losses = [run.history["loss"] for run in runs]
    for other in losses[1:3]:  # a BLAS library need not add twice in the same order
        assert other == pytest.approx(losses[0], rel=1e-6)
    assert [run.batch_size for run in runs] == [1_000, 1_000, 1_000, 128]
    x, y = setup.data.x_train, setup.data.y_train
    expected, _ = setup.network().use_engine("numpy").loss_and_grad(x, y)
    assert losses[0][0] == pytest.approx(expected, rel=1e-6)
    assert [len(run.history["val_accuracy"]) for run in runs] == [2, 2, 2, 1]
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_a_run_that_diverges_keeps_its_epochs_and_the_next_one_starts(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wild, tame = report.Plan("wild", None, 1e20, 5), report.Plan("tame", None, 0.1, 2)
    runs = report.train_runs([wild, tame], setup_of(small))
    assert runs[0].diverged_in is not None and runs[0].epochs == runs[0].diverged_in - 1
    assert np.isfinite(runs[0].history.get("val_loss", [])).all()
    assert runs[1].epochs == 2 and runs[1].diverged_in is None
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
def test_a_folder_that_cannot_be_written_is_found_before_training(
    small: Path, name: str, no_training: None, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = small.parent
    (folder / "taken").write_text("a file")
    (folder / "holds" / "report.md" / "report.md").mkdir(parents=True)
    before = sorted(folder.rglob("*"))
    out = folder / name
    if name.startswith("holds"):
        out = out.parent  # where report.md is a folder
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


def test_the_command_writes_its_files_and_plain_lines(small: Path) -> None:
    done = subprocess.run(
        command(small, "--quick", "--out", "reports/new"),
        capture_output=True,
        text=True,
        cwd=small.parent,
        timeout=60,
        env=ENVIRONMENT,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii() and "\x1b" not in done.stdout and "\r" not in done.stdout
    lines = done.stdout.splitlines()
    assert sum(" epochs in " in line for line in lines) == 4
    assert lines[-1].startswith("wrote report.md, ")
    out = small.parent / "reports" / "new"
    assert {path.name for path in out.iterdir()} == set(FILES)
    text = (out / "report.md").read_text(encoding="utf-8")
    assert "(quick run)" in text.splitlines()[0]
    assert "small, 1,000 rows to train on, 200 to test on" in text
    assert "4-128-64-3, 9,091 parameters" in text
    for name in FILES[1:]:
        assert f"({name})" in text and (out / name).read_bytes().startswith(b"\x89PNG\r\n")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_says_where_and_writes_nothing(small: Path) -> None:
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


def test_more_threads_than_there_are_is_a_mistake_in_usage(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def use_engine(self: object, name: str, *, threads: int | None) -> None:
        raise ValueError(f"threads must be at most 2, got {threads}")

    monkeypatch.setattr("fastnn.network.Network.use_engine", use_engine)
    options = report.parse(["--engine", "numpy", "--threads", "99"])
    setup = report.Setup(setup_of(small).data, "numpy", options.threads, 0)
    with pytest.raises(_cli.UsageError, match="argument --threads: threads must be at most 2"):
        report.prepare(setup)


def test_help_needs_neither_numpy_nor_matplotlib() -> None:
    program = """
import sys
from fastnn import report
assert report.main(["--help"]) == 0
assert not {"numpy", "numba", "matplotlib", "rich"} & set(sys.modules), sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=ENVIRONMENT
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "--quick" in done.stdout
