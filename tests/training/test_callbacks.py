"""What watches a fit: the order of calls, and the callbacks that come with fastnn."""

import csv
import io
import json
import math
import signal
import threading
from contextlib import contextmanager

import numpy as np
import pytest

from fastnn import Callback, Checkpoint, DivergenceError, LogFile, Network, ProgressBar
from fastnn.data.rows import Data
from fastnn.model.optimizers import OPTIMIZERS
from fastnn.training.plan import Plan
from fastnn.training.preparation import prepare


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


# ---- the running fit ------------------------------------------------------------------------


class Observer(Callback):
    """Record what a callback can read of its fit, and keep the sum of losses."""

    def __init__(self):
        self.ends, self.boundaries, self.total = [], [], 0.0

    def on_epoch_end(self, epoch, metrics):
        fit = self.fit
        assert fit.position.epochs == fit.network.epochs_trained == epoch == fit.epoch - 1
        assert fit.history["loss"][-1] == metrics["loss"]
        self.total += metrics["loss"]
        self.ends.append((fit.weights(), fit.snapshot()))

    def on_epoch_boundary(self, epochs):
        self.boundaries.append((epochs, self.fit.is_over))

    def state(self):
        return {"total": [self.total]}

    def set_state(self, state):
        (self.total,) = state["total"]


class StopAfter(Callback):
    """Stop a fit by its method in the middle of an epoch."""

    def __init__(self, epoch):
        self.last = epoch

    def on_chunk_end(self, epoch, rows):
        if epoch == self.last:
            self.fit.stop()


def test_callback_reads_and_stops_its_fit(engine, data):
    network, observer = Network([4, 3], seed=1), Observer()
    history = network.fit(
        *data, epochs=5, batch_size=16, optimizer="adam", engine=engine,
        callbacks=[StopAfter(2), observer],
    )  # fmt: skip
    assert len(history["loss"]) == network.epochs_trained == 2
    assert observer.boundaries == [(0, False), (1, False), (2, True)]
    assert not hasattr(observer, "fit")  # which would hold the data
    (weights, first), (_, second) = observer.ends
    assert [each.position[:3] for each in (first, second)] == [(1, 60, 4), (2, 120, 8)]
    assert first.history["loss"] == history["loss"][:1] and len(first.state) == 2
    for (w, b), (v, c) in zip(weights, first.parameters, strict=True):
        assert (w == v).all() and (b == c).all()
    assert (second.parameters[0][0] == network.parameters[0][0]).all()
    assert second.callbacks == {"Observer": {"total": [sum(history["loss"])]}}


def test_state_of_a_callback_survives_a_resumed_fit(data, tmp_path):
    settings = {"batch_size": 16, "optimizer": "adam", "engine": "numpy"}
    whole, first, second = Observer(), Observer(), Observer()
    Network([4, 3]).fit(*data, epochs=4, callbacks=[whole], **settings)
    Network([4, 3]).fit(*data, epochs=2, callbacks=[first, Checkpoint(tmp_path)], **settings)
    resumed = [Checkpoint(tmp_path, resume=True), second]
    Network([4, 3]).fit(*data, epochs=4, callbacks=resumed, **settings)
    assert second.total == whole.total != first.total
    assert second.boundaries == [(3, False), (4, True)]


def test_callbacks_of_one_class_keep_their_states_apart(data, tmp_path):
    def run(epochs, resume):
        observers = Observer(), Observer()
        observers[1].total = 100.0
        checkpoint = Checkpoint(tmp_path, resume=resume)
        Network([4, 3]).fit(
            *data, epochs=epochs, engine="numpy", callbacks=[*observers, checkpoint]
        )
        return observers

    run(1, resume=False)
    one, other = run(2, resume=True)
    assert other.total == pytest.approx(one.total + 100)


@pytest.mark.parametrize("state", [None, [1.0], {"a": 1.0}, {"a": ["x"]}, {"a": [None]}])
def test_state_that_a_checkpoint_cannot_keep_is_refused(state, data, tmp_path):
    class Wrong(Callback):
        def state(self):
            return state

    network = Network([4, 3])
    with pytest.raises(TypeError, match=r"^Wrong\.state\(\) must return lists of numbers by name"):
        network.fit(*data, epochs=2, engine="numpy", callbacks=[Wrong(), Checkpoint(tmp_path)])
    assert network.epochs_trained == 0


def test_context_spans_the_fit_and_may_refuse_it(engine, data):
    class Refuse(Callback):
        def __init__(self, refuses):
            self.refuses, self.events = refuses, []

        @contextmanager
        def context(self):
            assert self.fit.rows == 60 and self.fit.batch_size == 60
            if self.refuses:
                raise ValueError("no")
            self.events.append("open")
            yield
            self.events.append("closed")

        def on_fit_end(self, history):
            self.events.append("end")

        def on_fit_break(self):
            self.events.append("break")

    network, callback = Network([4, 3]), Refuse(False)
    network.fit(*data, epochs=1, optimizer="adam", engine=engine, callbacks=[callback])
    assert callback.events == ["open", "end", "closed"]
    before, state, position = network.parameters, network._current_state(), network._position
    refusing = Refuse(True)
    with pytest.raises(ValueError, match="^no$"):
        network.fit(*data, optimizer="sgd", engine=engine, callbacks=[refusing])
    assert refusing.events == [] and not hasattr(refusing, "fit")
    assert network._position == position and network._rule == "adam"
    after = [network.parameters, *network._current_state()]
    np.testing.assert_equal(after, [before, *state])


def test_interrupt_waits_for_callbacks_that_defer_it(data):
    class Record(Callback):
        def __init__(self, defers):
            self.defers_interrupts, self.epochs = defers, []

        def on_epoch_end(self, epoch, metrics):
            if epoch == 2 and self.defers_interrupts:
                signal.raise_signal(signal.SIGINT)
            self.epochs.append(epoch)

    network, other, deferring = Network([4, 3]), Record(False), Record(True)
    with pytest.raises(KeyboardInterrupt):
        network.fit(*data, epochs=5, engine="numpy", callbacks=[other, deferring])
    assert network.epochs_trained == 2 and deferring.epochs == [1, 2] and other.epochs == [1]


def test_only_prepared_data_of_the_same_network_are_trained_on(data):
    network, other = Network([4, 3]), Network([4, 5, 3])
    plan = Plan(1, "full", OPTIMIZERS["sgd"])
    network.use_engine("numpy")
    for wrong in (Data(*data), prepare(other, plan, *data), (*prepare(network, plan, *data),)):
        with pytest.raises(TypeError, match="^the data must come from `prepare`"):
            network._train(wrong)
    network._train(prepare(network, plan, *data))
    assert network.epochs_trained == 1
