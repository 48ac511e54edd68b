"""Processes that are killed or signalled at random moments, and go on to the same bits.

Each test has a short form, and a long one: ``pytest -m long tests/training/test_resume.py -s``. The
number of its rounds is `FASTNN_ROUNDS` where that is set.
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
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fits")


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[Server]:
    server = Server(place)
    yield server
    server.close()


def long_rounds(number: int) -> int:
    return int(os.environ.get("FASTNN_ROUNDS", number))


def kill_somewhere(server: Server, seconds: float, chance: random.Random, **job: object) -> bool:
    """Start a child and kill it within some seconds; return whether it was not done before."""
    child = server.start(**job)
    time.sleep(chance.uniform(0, seconds))
    with suppress(ProcessLookupError):  # it is done
        os.kill(child, signal.SIGKILL)
    return server.wait() == -signal.SIGKILL


def killed_rounds(server: Server, place: Path, rounds: int) -> None:
    """Kill fits, and what goes on with them, and compare what comes of it in the end."""
    chance, whole, killed = random.Random(rounds), {}, 0
    assert server.run(argv=["--version"]) == 0  # it is there
    for name in FITS:
        started = time.monotonic()
        job = {"fit": name, "resume": False}
        assert server.run(**job, checkpoint=f"whole {rounds} {name}", to="whole") == 0
        whole[name] = (place / "whole").read_text(), time.monotonic() - started
    for number in range(rounds):
        name = list(FITS)[number % len(FITS)]
        shutil.rmtree(place / "killed", ignore_errors=True)
        (place / "to").unlink(missing_ok=True)
        bits, seconds = whole[name]
        for _ in range(3):
            found = list((place / "killed").glob("checkpoint-*"))
            job = {"fit": name, "checkpoint": "killed", "resume": bool(found), "to": "to"}
            killed += kill_somewhere(server, seconds, chance, **job)
        found = list((place / "killed").glob("checkpoint-*"))
        assert len(found) <= 2 + 3, "each kill may have spared one"
        assert server.run(**job | {"resume": bool(found)}) == 0, (place / "err").read_text()
        assert (place / "to").read_text() == bits, name
        assert len(list((place / "killed").iterdir())) == 2, "the last two, and nothing else"
    assert killed > rounds / 2


@pytest.mark.process
def test_killed_fits_come_to_the_same_bits(server: Server, place: Path) -> None:
    killed_rounds(server, place, 10)


@pytest.mark.long
def test_many_killed_fits_come_to_the_same_bits(server: Server, place: Path) -> None:
    killed_rounds(server, place, long_rounds(500))


def signalled_rounds(server: Server, place: Path, rounds: int, dataset: str) -> list[float]:
    """Signal training commands; return the seconds from the signal to the exit."""
    chance, seconds = random.Random(rounds), []
    argv = ["--dataset", dataset, "--threads", "1", "--epochs", "1000000", "--optimizer", "adam"]
    argv += ["--checkpoint", "signalled", "--log-json", "log"]
    argv += ["--data-dir", str(MNIST)] if dataset == "mnist" else []
    for number in range(rounds):
        shutil.rmtree(place / "signalled", ignore_errors=True)
        sent, code, word = [
            (signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")
        ][number % 2]  # fmt: skip
        child = server.start(argv=argv)
        while not list((place / "signalled").glob("checkpoint-*")):
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.3))
        started = time.monotonic()
        os.kill(child, sent)
        assert server.wait() == code, (place / "err").read_text()
        seconds.append(time.monotonic() - started)
        *_, last = sorted((place / "signalled").iterdir())
        snapshot, _ = read_snapshot(last)
        log = events(place / "log")
        assert (log[-1]["event"], log[-1]["reason"]) == ("stopped", word)
        assert (
            snapshot.position.epochs == log[-2].get("epoch", 0)
            and len(log) == snapshot.position.epochs + 2
        )
        names = [path.name for path in (place / "signalled").iterdir()]
        assert 1 <= len(names) <= 2 and all(name.startswith("checkpoint-") for name in names)
        error = (place / "err").read_text()
        assert error.startswith(f"fastnn.train: {word} in epoch ") and error.count("\n") == 1
    return sorted(seconds)


@pytest.mark.process
def test_signals_end_a_run_in_order(server: Server, place: Path) -> None:
    signalled_rounds(server, place, 10, "digits")


@pytest.mark.long
@pytest.mark.parametrize("name", ["digits", pytest.param("mnist", marks=pytest.mark.mnist)])
def test_many_signals_end_a_run_in_order(
    name: str, server: Server, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = signalled_rounds(server, place, long_rounds(300), name)
    with capsys.disabled():
        middle, last = seconds[len(seconds) // 2], seconds[int(0.99 * len(seconds))]
        print(f"\n{name}: {len(seconds)} signals, p50 {middle:.3f} s, p99 {last:.3f} s to exit")


@pytest.mark.process
def test_a_second_signal_ends_it_on_the_spot(server: Server, place: Path) -> None:
    fifo = place / "fifo"
    os.mkfifo(fifo)
    # The log's reader is slow: the command hangs in the first event.
    child = server.start(argv=["--dataset", "digits", "--engine", "numpy", "--log-json", str(fifo)])
    time.sleep(0.3)
    os.kill(child, signal.SIGTERM)
    os.kill(child, signal.SIGINT)
    assert server.wait() in (130, 143)


@pytest.mark.process
def test_a_run_that_is_resumed_has_the_whole_log(server: Server, place: Path) -> None:
    def figures(name: str) -> list[dict[str, object]]:
        found = [event for event in events(place / name) if event["event"] == "epoch"]
        return [{k: v for k, v in event.items() if "second" not in k} for event in found]

    argv = ["--dataset", "digits", "--threads", "1", "--epochs", "30", "--optimizer", "adam"]
    assert server.run(argv=[*argv, "--log-json", "whole log", "--save", "whole net"]) == 0
    shutil.rmtree(place / "cut", ignore_errors=True)
    child = server.start(argv=[*argv, "--checkpoint", "cut", "--log-json", "cut log"])
    while len(list((place / "cut").glob("checkpoint-*"))) < 2:
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    assert server.wait() == -signal.SIGKILL
    argv += ["--resume", "cut", "--log-json", "cut log", "--save", "cut net"]
    for kinds in (["start", "resumed", "result"], ["start", "resumed", "result"]):
        assert server.run(argv=argv) == 0, (place / "err").read_text()
        assert figures("cut log") == figures("whole log")
        others = [event["event"] for event in events(place / "cut log")]
        assert [kind for kind in others if kind != "epoch"] == kinds
        assert (place / "cut net").read_bytes() == (place / "whole net").read_bytes()
    assert "the run in cut was complete: nothing left to train" in (place / "out").read_text()
    assert json.loads((place / "cut log").read_text().splitlines()[-2])["event"] == "resumed"


@pytest.mark.process
def test_another_run_is_not_resumed(server: Server, place: Path) -> None:
    argv = ["--dataset", "digits", "--engine", "numpy", "--epochs", "2", "--quiet"]
    argv += ["--log-json", "other log"]
    assert server.run(argv=[*argv, "--checkpoint", "other"]) == 0
    log = (place / "other log").read_bytes()
    assert server.run(argv=[*argv, "--seed", "1", "--resume", "other"]) == 1
    assert (place / "other log").read_bytes() == log
    error = (place / "err").read_text()
    assert error.startswith("fastnn.train: error: other") and error.count("\n") == 1
    assert error.endswith(": is of another fit: seed was 0, and is 1\n")


def test_an_interrupt_before_the_first_checkpoint_promises_none(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "items_of", interrupted)
    argv = ["--dataset", "digits", "--engine", "numpy", "--checkpoint", str(place / "none")]
    assert train.main([*argv, "--log-json", str(place / "no log")]) == 130
    assert capsys.readouterr().err == "fastnn.train: interrupted in epoch 1 of 20\n"
    assert not (place / "no log").exists()
