"""What watches a fit: the order of calls, and the callbacks that come with fastnn."""

import csv
import io
import json
import math
import threading

import numpy as np
import pytest

from fastnn import Callback, DivergenceError, Network
from fastnn.training.callbacks import LogFile, ProgressBar


@pytest.fixture
def data(rng):
    return rng.normal(size=(60, 4)).astype(np.float32), rng.integers(0, 3, 60)


class Diary(Callback):
    """Writes down every call; raises or returns what it is told to at one of them."""

    def __init__(self, at=None, error=None, wish=None):
        self.calls, self._at, self._error, self._wish = [], at, error, wish

    def _note(self, *call):
        self.calls.append(call)
        if call[: len(self._at or ())] == self._at and self._error is not None:
            raise self._error

    def on_fit_begin(self, epochs, rows):
        self._note("fit begin", epochs, rows)

    def on_epoch_begin(self, epoch):
        self._note("begin", epoch)

    def on_chunk_end(self, epoch, rows):
        self._note("chunk", epoch, rows)

    def on_epoch_end(self, epoch, metrics):
        self._note("end", epoch)
        return self._wish if self._at == ("end", epoch) else None

    def on_fit_end(self, history):
        self._note("fit end", len(history["loss"]))

    def on_fit_break(self):
        self._note("fit break")


# ---- the calls ------------------------------------------------------------------------------


def test_a_fit_tells_its_callbacks_everything_in_order(engine, data):
    diary = Diary()
    Network([4, 3]).fit(*data, epochs=2, batch_size="full", engine=engine, callbacks=[diary])
    assert diary.calls == [
        ("fit begin", 2, 60),
        ("begin", 1),
        ("chunk", 1, 60),
        ("end", 1),
        ("begin", 2),
        ("chunk", 2, 60),
        ("end", 2),
        ("fit end", 2),
    ]


def test_an_iteration_of_lbfgs_is_told_as_an_epoch(engine, data):
    diary = Diary()
    settings = {"optimizer": "lbfgs", "engine": engine, "callbacks": [diary]}
    Network([4, 3]).fit(*data, epochs=2, **settings)
    assert diary.calls == [
        ("fit begin", 2, 60),
        *[(what, epoch, *rows) for epoch in (1, 2) for what, *rows in ONE_EPOCH],
        ("fit end", 2),
    ]


ONE_EPOCH = [("begin",), ("chunk", 60), ("end",)]


def test_epochs_are_counted_through_all_fits(engine, data):
    network, diary = Network([4, 3]), Diary()
    network.fit(*data, epochs=3, engine=engine)
    network.fit(*data, epochs=1, engine=engine, callbacks=[diary])
    assert diary.calls[0] == ("fit begin", 1, 60) and diary.calls[1] == ("begin", 4)


@pytest.mark.parametrize("optimizer", ["sgd", "lbfgs"])
def test_true_ends_the_fit_as_it_is(engine, data, optimizer):
    network, diary, other = Network([4, 3]), Diary(at=("end", 2), wish=True), Diary()
    history = network.fit(
        *data, epochs=9, optimizer=optimizer, engine=engine, callbacks=[diary, other]
    )
    assert len(history["loss"]) == network.epochs_trained == 2
    assert other.calls[-2:] == [("end", 2), ("fit end", 2)]  # all see the epoch, and the end


@pytest.mark.parametrize("wish", [None, False, 1, "yes", np.False_])
def test_nothing_but_true_ends_the_fit(engine, data, wish):
    diary = Diary(at=("end", 1), wish=wish)
    history = Network([4, 3]).fit(*data, epochs=2, engine=engine, callbacks=[diary])
    assert len(history["loss"]) == 2


@pytest.mark.parametrize("optimizer", ["sgd", "lbfgs"])
@pytest.mark.parametrize("at", [("fit begin",), ("begin", 2), ("chunk", 2), ("end", 2)])
def test_an_exception_breaks_the_fit_off(engine, data, at, optimizer):
    network, diary, other = Network([4, 3]), Diary(at=at, error=OSError("disk full")), Diary()
    with pytest.raises(OSError, match="^disk full$"):
        network.fit(*data, epochs=9, optimizer=optimizer, engine=engine, callbacks=[other, diary])
    assert diary.calls[-1] == other.calls[-1] == ("fit break",)
    assert "fit end" not in [call[0] for call in diary.calls + other.calls]
    trained = {"fit begin": 0, "begin": 1, "chunk": 1, "end": 2}[at[0]]
    assert network.epochs_trained == trained
    network.fit(*data, epochs=1, engine=engine)  # goes on as if nothing had been


def test_divergence_breaks_the_fit_off(engine, data):
    diary = Diary()
    with pytest.raises(DivergenceError):
        Network([4, 8, 3]).fit(*data, learning_rate=1e30, engine=engine, callbacks=[diary])
    assert diary.calls[-1] == ("fit break",)


def test_the_base_class_lets_everything_pass(engine, data):
    history = Network([4, 3]).fit(*data, epochs=2, engine=engine, callbacks=[Callback()])
    assert len(history["loss"]) == 2
    Callback().on_fit_break()


# ---- log files ------------------------------------------------------------------------------


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", ["log.csv", "LOG.CSV"])
def test_a_csv_file_holds_the_history(engine, data, tmp_path, name):
    path = tmp_path / name
    history = Network([4, 3]).fit(
        *data, epochs=3, engine=engine, validation_data=data, callbacks=[LogFile(path)]
    )
    rows = rows_of(path)
    assert [row.pop("epoch") for row in rows] == ["1", "2", "3"]
    assert list(rows[0]) == list(history)
    for name, values in history.items():
        assert [float(row[name]) for row in rows] == values  # every digit of them


@pytest.mark.parametrize("name", ["log.jsonl", "log"])
def test_any_other_file_holds_json_lines(engine, data, tmp_path, name):
    path = tmp_path / name
    history = Network([4, 3]).fit(*data, epochs=3, engine=engine, callbacks=[LogFile(str(path))])
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert lines == [
        {"epoch": i + 1} | {name: values[i] for name, values in history.items()} for i in range(3)
    ]


def test_figures_that_are_not_finite_are_null_in_json(tmp_path):
    log = LogFile(tmp_path / "log.jsonl")
    log.on_fit_begin(1, 1)
    log.on_epoch_end(1, {"loss": math.nan, "val_loss": math.inf, "accuracy": 0.5})
    text = (tmp_path / "log.jsonl").read_text("utf-8")
    assert text == '{"epoch": 1, "loss": null, "val_loss": null, "accuracy": 0.5}\n'


def test_a_log_file_begins_anew_with_each_fit_and_is_whole_after_each_epoch(engine, data, tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("something else\n" * 10, "utf-8")
    log, lengths = LogFile(path), []

    class Reader(Callback):
        def on_epoch_end(self, epoch, metrics):
            lengths.append(len(rows_of(path)))
            assert path.read_text("utf-8").endswith("\n")

    network = Network([4, 3])
    for epochs in (3, 2):
        network.fit(*data, epochs=epochs, engine=engine, callbacks=[log, Reader()])
    assert lengths == [1, 2, 3, 1, 2]
    assert [row["epoch"] for row in rows_of(path)] == ["4", "5"]


def test_a_log_file_may_go_on_from_fit_to_fit(engine, data, tmp_path):
    log, lines = LogFile(tmp_path / "log.csv", append=True), tmp_path / "log.jsonl"
    network = Network([4, 3])
    for _ in range(3):  # as partial_fit does, with a new log or with the same
        callbacks = [log, LogFile(lines, append=True)]
        network.fit(*data, epochs=1, engine=engine, callbacks=callbacks)
    assert [row["epoch"] for row in rows_of(log.path)] == ["1", "2", "3"]  # and one header
    assert [json.loads(line)["epoch"] for line in lines.read_text("utf-8").splitlines()] == [
        1,
        2,
        3,
    ]


def test_a_file_that_cannot_be_written_is_known_before_training(engine, data, tmp_path):
    network = Network([4, 3])
    with pytest.raises(FileNotFoundError):
        network.fit(*data, engine=engine, callbacks=[LogFile(tmp_path / "no" / "log.csv")])
    assert network.epochs_trained == 0


# ---- the progress bar -----------------------------------------------------------------------


class Terminal(io.StringIO):
    """Keeps every character that is written."""

    def isatty(self):
        return True


def terminal_on_stderr(monkeypatch):
    """Put a terminal in standard error's place: in a test, for pytest has its own in a fixture."""
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    return terminal


def assert_gone(threads):
    for thread in threads:  # one that was told to end may take a moment
        thread.join(timeout=10)
        assert not thread.is_alive()


SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"


def test_the_bar_shows_the_last_figures_and_goes(engine, data, monkeypatch, capsys):
    terminal = terminal_on_stderr(monkeypatch)
    threads = set(threading.enumerate())
    history = Network([4, 3]).fit(
        *data, epochs=3, engine=engine, validation_data=data, callbacks=[ProgressBar()]
    )
    shown = terminal.getvalue()
    last = shown.split("epoch 3", 1)[1]
    for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
        assert f"{name} {history[name][-1]:.4g}" in last
    assert "seconds" not in shown and "learning_rate" not in shown
    assert shown.count(HIDE_CURSOR) == shown.count(SHOW_CURSOR) == 1
    assert_gone(set(threading.enumerate()) - threads)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("at", [("fit begin",), ("begin", 2), ("end", 1)])
def test_the_bar_gives_the_terminal_back_when_a_fit_is_broken_off(engine, data, monkeypatch, at):
    terminal = terminal_on_stderr(monkeypatch)
    threads = set(threading.enumerate())
    callbacks = [ProgressBar(), Diary(at=at, error=KeyboardInterrupt())]
    with pytest.raises(KeyboardInterrupt):
        Network([4, 3]).fit(*data, epochs=3, engine=engine, callbacks=callbacks)
    assert terminal.getvalue().count(HIDE_CURSOR) == terminal.getvalue().count(SHOW_CURSOR) == 1
    assert_gone(set(threading.enumerate()) - threads)


def test_a_bar_serves_several_fits(engine, data, monkeypatch):
    terminal = terminal_on_stderr(monkeypatch)
    bar, network = ProgressBar(), Network([4, 3])
    for _ in range(2):
        network.fit(*data, epochs=1, engine=engine, callbacks=[bar])
    assert "epoch 1 " in terminal.getvalue() and "epoch 2 " in terminal.getvalue()


def test_without_a_terminal_the_bar_is_one_line_at_the_end(engine, data, capsys, monkeypatch):
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    Network([4, 3]).fit(*data, epochs=2, engine=engine, callbacks=[ProgressBar()])
    out, err = capsys.readouterr()
    assert out == "" and "\x1b" not in err
    assert "epoch 2 loss" in err and "epoch 1" not in err


@pytest.mark.parametrize("wrong", [ProgressBar(), [print], "x"])
def test_callbacks_are_callbacks(wrong, data):
    network = Network([data[0].shape[1], 4])
    with pytest.raises(TypeError, match="^callbacks must be "):
        network.fit(*data, callbacks=wrong)
    assert network.epochs_trained == 0
