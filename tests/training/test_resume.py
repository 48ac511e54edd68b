"""Fits in processes that are killed or signalled at random times resume with the same bits.

The long tests run with ``pytest -m long tests/training/test_resume.py -s``; `FASTNN_ROUNDS` sets
their number of rounds.
"""

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from command_line import MNIST, events, posix
from fits import FITS, Server

from fastnn.commands import train
from fastnn.training import checkpoint
from fastnn.training.checkpoint_file import read_snapshot

pytestmark = posix


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fits")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    server = Server(folder)
    yield server
    server.close()


def long_rounds(number: int) -> int:
    return int(os.environ.get("FASTNN_ROUNDS", number))


def kill_somewhere(server: Server, seconds: float, chance: random.Random, **job: object) -> bool:
    """Start a child and kill it within some seconds; return whether it was still running."""
    child = server.start(**job)
    time.sleep(chance.uniform(0, seconds))
    with suppress(ProcessLookupError):  # it has ended
        os.kill(child, signal.SIGKILL)
    return server.wait() == -signal.SIGKILL


def killed_rounds(server: Server, folder: Path, rounds: int) -> None:
    """Kill fits and the fits that resume them; compare the results with uninterrupted fits."""
    chance, uninterrupted, killed = random.Random(rounds), {}, 0
    assert server.run(argv=["--version"]) == 0  # the server has started
    for name in FITS:
        started = time.monotonic()
        job = {"fit": name, "resume": False}
        assert server.run(**job, checkpoint=f"full {rounds} {name}", to="full") == 0
        uninterrupted[name] = (folder / "full").read_text(), time.monotonic() - started
    for number in range(rounds):
        name = list(FITS)[number % len(FITS)]
        shutil.rmtree(folder / "killed", ignore_errors=True)
        (folder / "to").unlink(missing_ok=True)
        expected, seconds = uninterrupted[name]
        for _ in range(3):
            found = list((folder / "killed").glob("checkpoint-*"))
            job = {"fit": name, "checkpoint": "killed", "resume": bool(found), "to": "to"}
            killed += kill_somewhere(server, seconds, chance, **job)
        found = list((folder / "killed").glob("checkpoint-*"))
        assert len(found) <= 2 + 3, "each killed process may leave one more"
        assert server.run(**job | {"resume": bool(found)}) == 0, (folder / "err").read_text()
        assert (folder / "to").read_text() == expected, name
        assert len(list((folder / "killed").iterdir())) == 2, "only the last two checkpoints"
    assert killed > rounds / 2


@pytest.mark.process
def test_resumed_fits_equal_uninterrupted_ones_after_kills(server: Server, folder: Path) -> None:
    killed_rounds(server, folder, 10)


@pytest.mark.long
def test_resumed_fits_equal_uninterrupted_ones_after_many_kills(
    server: Server, folder: Path
) -> None:
    killed_rounds(server, folder, long_rounds(500))


def signalled_rounds(server: Server, folder: Path, rounds: int, dataset: str) -> list[float]:
    """Signal training commands; return the seconds from the signal to the exit."""
    chance, seconds = random.Random(rounds), []
    argv = ["--dataset", dataset, "--threads", "1", "--epochs", "1000000", "--optimizer", "adam"]
    argv += ["--checkpoint", "signalled", "--log-json", "log"]
    argv += ["--data-dir", str(MNIST)] if dataset == "mnist" else []
    for number in range(rounds):
        shutil.rmtree(folder / "signalled", ignore_errors=True)
        sent, code, word = [
            (signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")
        ][number % 2]  # fmt: skip
        child = server.start(argv=argv)
        while not list((folder / "signalled").glob("checkpoint-*")):
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.3))
        started = time.monotonic()
        os.kill(child, sent)
        assert server.wait() == code, (folder / "err").read_text()
        seconds.append(time.monotonic() - started)
        *_, last = sorted((folder / "signalled").iterdir())
        snapshot, _ = read_snapshot(last)
        log = events(folder / "log")
        assert (log[-1]["event"], log[-1]["reason"]) == ("stopped", word)
        assert (
            snapshot.position.epochs == log[-2].get("epoch", 0)
            and len(log) == snapshot.position.epochs + 2
        )
        names = [path.name for path in (folder / "signalled").iterdir()]
        assert 1 <= len(names) <= 2 and all(name.startswith("checkpoint-") for name in names)
        error = (folder / "err").read_text()
        assert error.startswith(f"fastnn.train: {word} in epoch ") and error.count("\n") == 1
    return sorted(seconds)


@pytest.mark.process
def test_signals_end_a_command_with_a_checkpoint_and_a_log(server: Server, folder: Path) -> None:
    signalled_rounds(server, folder, 10, "digits")


@pytest.mark.long
@pytest.mark.parametrize("name", ["digits", pytest.param("mnist", marks=pytest.mark.mnist)])
def test_many_signals_end_a_command_with_a_checkpoint_and_a_log(
    name: str, server: Server, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = signalled_rounds(server, folder, long_rounds(300), name)
    with capsys.disabled():
        middle, last = seconds[len(seconds) // 2], seconds[int(0.99 * len(seconds))]
        print(f"\n{name}: {len(seconds)} signals, p50 {middle:.3f} s, p99 {last:.3f} s to exit")


@pytest.mark.process
def test_second_signal_ends_the_process_immediately(server: Server, folder: Path) -> None:
    fifo = folder / "fifo"
    os.mkfifo(fifo)
    # Nobody reads the log: the command blocks when it opens the file.
    child = server.start(argv=["--dataset", "digits", "--engine", "numpy", "--log-json", str(fifo)])
    time.sleep(0.3)
    os.kill(child, signal.SIGTERM)
    os.kill(child, signal.SIGINT)
    assert server.wait() in (130, 143)


@pytest.mark.process
def test_log_of_a_resumed_command_equals_the_uninterrupted_log(
    server: Server, folder: Path
) -> None:
    def figures(name: str) -> list[dict[str, object]]:
        found = [event for event in events(folder / name) if event["event"] == "epoch"]
        return [{k: v for k, v in event.items() if "second" not in k} for event in found]

    argv = ["--dataset", "digits", "--threads", "1", "--epochs", "30", "--optimizer", "adam"]
    assert server.run(argv=[*argv, "--log-json", "full log", "--save", "full net"]) == 0
    shutil.rmtree(folder / "cut", ignore_errors=True)
    child = server.start(argv=[*argv, "--checkpoint", "cut", "--log-json", "cut log"])
    while len(list((folder / "cut").glob("checkpoint-*"))) < 2:
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    assert server.wait() == -signal.SIGKILL
    argv += ["--resume", "cut", "--log-json", "cut log", "--save", "cut net"]
    for kinds in (["start", "resumed", "result"], ["start", "resumed", "result"]):
        assert server.run(argv=argv) == 0, (folder / "err").read_text()
        assert figures("cut log") == figures("full log")
        others = [event["event"] for event in events(folder / "cut log")]
        assert [kind for kind in others if kind != "epoch"] == kinds
        assert (folder / "cut net").read_bytes() == (folder / "full net").read_bytes()
    assert (
        "the run in cut is already complete: nothing left to train" in (folder / "out").read_text()
    )
    assert json.loads((folder / "cut log").read_text().splitlines()[-2])["event"] == "resumed"


@pytest.mark.process
def test_command_rejects_a_checkpoint_of_other_settings(server: Server, folder: Path) -> None:
    argv = ["--dataset", "digits", "--engine", "numpy", "--epochs", "2", "--quiet"]
    argv += ["--log-json", "other log"]
    assert server.run(argv=[*argv, "--checkpoint", "other"]) == 0
    log = (folder / "other log").read_bytes()
    assert server.run(argv=[*argv, "--seed", "1", "--resume", "other"]) == 1
    assert (folder / "other log").read_bytes() == log
    error = (folder / "err").read_text()
    assert error.startswith("fastnn.train: error: other") and error.count("\n") == 1
    assert error.endswith(": cannot resume: seed is 0 in the checkpoint, and 1 now\n")


def test_message_of_an_interrupt_without_a_checkpoint_does_not_mention_resume(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "identity_of", interrupted)
    argv = ["--dataset", "digits", "--engine", "numpy", "--checkpoint", str(folder / "none")]
    assert train.main([*argv, "--log-json", str(folder / "no log")]) == 130
    assert capsys.readouterr().err == "fastnn.train: interrupted in epoch 1 of 20\n"
    assert not (folder / "no log").exists()
