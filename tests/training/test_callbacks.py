"""Callbacks: when a fit calls them, what they can do, and the log file and the progress bar."""

import copy
import csv
import io
import json
import math
import pickle
import signal
import threading
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import pytest
from parameters import assert_same_parameters
from sklearn.base import clone

from fastnn import (
    Callback,
    Checkpoint,
    DivergenceError,
    EarlyStopping,
    LogFile,
    MLPClassifier,
    ModelFileError,
    Network,
    ProgressBar,
)
from fastnn.data.rows import Data
from fastnn.model.optimizers import OPTIMIZERS
from fastnn.training.plan import Plan
from fastnn.training.preparation import prepare


@pytest.fixture
def data(rng):
    return rng.normal(size=(60, 4)).astype(np.float32), rng.integers(0, 3, 60)


class RecordCalls(Callback):
    """Record every call; at the call `at`, raise `error` or return `answer`."""

    def __init__(self, at=None, error=None, answer=None):
        self.calls, self._at, self._error, self._answer = [], at, error, answer

    def _record(self, *call):
        self.calls.append(call)
        if call[: len(self._at or ())] == self._at and self._error is not None:
            raise self._error

    def on_fit_begin(self, epochs, rows):
        self._record("fit begin", epochs, rows)

    def on_epoch_begin(self, epoch):
        self._record("begin", epoch)

    def on_chunk_end(self, epoch, rows):
        self._record("chunk", epoch, rows)

    def on_epoch_end(self, epoch, metrics):
        self._record("end", epoch)
        return self._answer if self._at == ("end", epoch) else None

    def on_fit_end(self, history):
        self._record("fit end", len(history["loss"]))

    def on_fit_break(self):
        self._record("fit break")


# ---- the hooks ------------------------------------------------------------------------------


def test_fit_calls_the_hooks_in_order(engine, data):
    recorder = RecordCalls()
    Network([4, 3]).fit(*data, epochs=2, batch_size="full", engine=engine, callbacks=[recorder])
    assert recorder.calls == [
        ("fit begin", 2, 60),
        ("begin", 1),
        ("chunk", 1, 60),
        ("end", 1),
        ("begin", 2),
        ("chunk", 2, 60),
        ("end", 2),
        ("fit end", 2),
    ]


def test_lbfgs_calls_the_hooks_for_each_iteration(engine, data):
    recorder = RecordCalls()
    settings = {"optimizer": "lbfgs", "engine": engine, "callbacks": [recorder]}
    Network([4, 3]).fit(*data, epochs=2, **settings)
    assert recorder.calls == [
        ("fit begin", 2, 60),
        *[(hook, epoch, *rows) for epoch in (1, 2) for hook, *rows in ONE_EPOCH],
        ("fit end", 2),
    ]


ONE_EPOCH = [("begin",), ("chunk", 60), ("end",)]


def test_epoch_numbers_continue_in_the_next_fit(engine, data):
    network, recorder = Network([4, 3]), RecordCalls()
    network.fit(*data, epochs=3, engine=engine)
    network.fit(*data, epochs=1, engine=engine, callbacks=[recorder])
    assert recorder.calls[0] == ("fit begin", 1, 60) and recorder.calls[1] == ("begin", 4)


@pytest.mark.parametrize("optimizer", ["sgd", "lbfgs"])
def test_fit_stops_if_on_epoch_end_returns_true(engine, data, optimizer):
    network, recorder, other = (
        Network([4, 3]),
        RecordCalls(at=("end", 2), answer=True),
        RecordCalls(),
    )
    history = network.fit(
        *data, epochs=9, optimizer=optimizer, engine=engine, callbacks=[recorder, other]
    )
    assert len(history["loss"]) == network.epochs_trained == 2
    assert other.calls[-2:] == [("end", 2), ("fit end", 2)]  # the other callback still sees the end


@pytest.mark.parametrize("answer", [None, False, 1, "yes", np.False_])
def test_only_true_stops_the_fit(engine, data, answer):
    recorder = RecordCalls(at=("end", 1), answer=answer)
    history = Network([4, 3]).fit(*data, epochs=2, engine=engine, callbacks=[recorder])
    assert len(history["loss"]) == 2


@pytest.mark.parametrize("optimizer", ["sgd", "lbfgs"])
@pytest.mark.parametrize(
    "at", [("fit begin",), ("begin", 2), ("chunk", 2), ("end", 2), ("fit end",)]
)
def test_exception_in_a_callback_ends_the_fit(engine, data, at, optimizer):
    network, recorder, other = (
        Network([4, 3]),
        RecordCalls(at=at, error=OSError("disk full")),
        RecordCalls(),
    )
    with pytest.raises(OSError, match="^disk full$"):
        network.fit(
            *data, epochs=3, optimizer=optimizer, engine=engine, callbacks=[other, recorder]
        )
    assert recorder.calls[-1] == other.calls[-1] == ("fit break",)
    trained = {"fit begin": 0, "begin": 1, "chunk": 1, "end": 2, "fit end": 3}[at[0]]
    assert network.epochs_trained == trained
    network.fit(*data, epochs=1, engine=engine)  # the network can be trained again


def test_divergence_calls_on_fit_break(engine, data):
    recorder = RecordCalls()
    with pytest.raises(DivergenceError):
        Network([4, 8, 3]).fit(*data, learning_rate=1e30, engine=engine, callbacks=[recorder])
    assert recorder.calls[-1] == ("fit break",)


def test_base_class_has_no_effect(engine, data):
    history = Network([4, 3]).fit(*data, epochs=2, engine=engine, callbacks=[Callback()])
    assert len(history["loss"]) == 2
    Callback().on_fit_break()


# ---- log files ------------------------------------------------------------------------------


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", ["log.csv", "LOG.CSV"])
def test_csv_log_equals_the_history(engine, data, tmp_path, name):
    path = tmp_path / name
    history = Network([4, 3]).fit(
        *data, epochs=3, engine=engine, validation_data=data, callbacks=[LogFile(path)]
    )
    rows = rows_of(path)
    assert [row.pop("epoch") for row in rows] == ["1", "2", "3"]
    assert list(rows[0]) == list(history)
    for name, values in history.items():
        assert [float(row[name]) for row in rows] == values


@pytest.mark.parametrize("name", ["log.jsonl", "log"])
def test_other_log_files_are_json_lines(engine, data, tmp_path, name):
    path = tmp_path / name
    history = Network([4, 3]).fit(*data, epochs=3, engine=engine, callbacks=[LogFile(str(path))])
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert lines == [
        {"epoch": i + 1} | {name: values[i] for name, values in history.items()} for i in range(3)
    ]


def test_json_log_has_null_for_nan_and_infinity(tmp_path):
    log = LogFile(tmp_path / "log.jsonl")
    log.on_fit_begin(1, 1)
    log.on_epoch_end(1, {"loss": math.nan, "val_loss": math.inf, "accuracy": 0.5})
    text = (tmp_path / "log.jsonl").read_text("utf-8")
    assert text == '{"epoch": 1, "loss": null, "val_loss": null, "accuracy": 0.5}\n'


def test_log_file_is_replaced_by_each_fit_and_complete_after_each_epoch(engine, data, tmp_path):
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


def test_log_file_can_be_appended_to(engine, data, tmp_path):
    log, lines = LogFile(tmp_path / "log.csv", append=True), tmp_path / "log.jsonl"
    network = Network([4, 3])
    for _ in range(3):  # with the same callback, and with a new one
        callbacks = [log, LogFile(lines, append=True)]
        network.fit(*data, epochs=1, engine=engine, callbacks=callbacks)
    assert [row["epoch"] for row in rows_of(log.path)] == ["1", "2", "3"]  # one header
    assert [json.loads(line)["epoch"] for line in lines.read_text("utf-8").splitlines()] == [
        1,
        2,
        3,
    ]


def test_log_file_that_cannot_be_written_ends_the_fit_before_training(engine, data, tmp_path):
    network = Network([4, 3])
    with pytest.raises(FileNotFoundError):
        network.fit(*data, engine=engine, callbacks=[LogFile(tmp_path / "no" / "log.csv")])
    assert network.epochs_trained == 0


# ---- the progress bar -----------------------------------------------------------------------


class Terminal(io.StringIO):
    """A terminal that keeps its output."""

    def isatty(self):
        return True


def terminal_on_stderr(monkeypatch):
    """Replace standard error; called in the test because pytest replaces it after fixtures."""
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    return terminal


def assert_ended(threads):
    for thread in threads:
        thread.join(timeout=10)
        assert not thread.is_alive()


SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"


def test_progress_bar_shows_the_last_figures_and_restores_the_terminal(
    engine, data, monkeypatch, capsys
):
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
    assert_ended(set(threading.enumerate()) - threads)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("at", [("fit begin",), ("begin", 2), ("end", 1), ("fit end",)])
def test_progress_bar_restores_the_terminal_if_an_exception_ends_the_fit(
    engine, data, monkeypatch, at
):
    terminal = terminal_on_stderr(monkeypatch)
    threads = set(threading.enumerate())
    callbacks = [ProgressBar(), RecordCalls(at=at, error=KeyboardInterrupt())]
    if at == ("fit end",):
        callbacks.reverse()  # the bar's own on_fit_end is never called
    with pytest.raises(KeyboardInterrupt):
        Network([4, 3]).fit(*data, epochs=3, engine=engine, callbacks=callbacks)
    assert terminal.getvalue().count(HIDE_CURSOR) == terminal.getvalue().count(SHOW_CURSOR) == 1
    assert_ended(set(threading.enumerate()) - threads)


def test_progress_bar_can_be_used_in_several_fits(engine, data, monkeypatch):
    terminal = terminal_on_stderr(monkeypatch)
    bar, network = ProgressBar(), Network([4, 3])
    for _ in range(2):
        network.fit(*data, epochs=1, engine=engine, callbacks=[bar])
    assert "epoch 1 " in terminal.getvalue() and "epoch 2 " in terminal.getvalue()


def test_progress_bar_without_a_terminal_prints_one_line_at_the_end(
    engine, data, capsys, monkeypatch
):
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    Network([4, 3]).fit(*data, epochs=2, engine=engine, callbacks=[ProgressBar()])
    out, err = capsys.readouterr()
    assert out == "" and "\x1b" not in err
    assert "epoch 2 loss" in err and "epoch 1" not in err


@pytest.mark.parametrize("wrong", [ProgressBar(), [print], "x", None])
def test_rejects_other_objects_as_callbacks(wrong, data):
    network = Network([data[0].shape[1], 4])
    with pytest.raises(TypeError, match="^callbacks must be "):
        network.fit(*data, callbacks=wrong)
    assert network.epochs_trained == 0


# ---- the running fit ------------------------------------------------------------------------


class Observer(Callback):
    """Record what `self.fit` shows, and keep the sum of losses as state."""

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
    """Call `fit.stop()` in the middle of an epoch."""

    def __init__(self, epoch):
        self.last = epoch

    def on_chunk_end(self, epoch, rows):
        if epoch == self.last:
            self.fit.stop()


def test_fit_shows_its_state_to_callbacks_and_stops(engine, data):
    network, observer = Network([4, 3], seed=1), Observer()
    history = network.fit(
        *data, epochs=5, batch_size=16, optimizer="adam", engine=engine,
        callbacks=[StopAfter(2), observer],
    )  # fmt: skip
    assert len(history["loss"]) == network.epochs_trained == 2
    assert observer.boundaries == [(0, False), (1, False), (2, True)]
    assert not hasattr(observer, "fit")  # a reference would keep the data alive
    (weights, first), (_, second) = observer.ends
    assert [each.position[:3] for each in (first, second)] == [(1, 60, 4), (2, 120, 8)]
    assert first.history["loss"] == history["loss"][:1] and len(first.state) == 2
    for (w, b), (v, c) in zip(weights, first.parameters, strict=True):
        assert (w == v).all() and (b == c).all()
    assert (second.parameters[0][0] == network.parameters[0][0]).all()
    assert second.callbacks == {"Observer": {"total": [sum(history["loss"])]}}


def test_resumed_fit_restores_the_state_of_callbacks(data, tmp_path):
    settings = {"batch_size": 16, "optimizer": "adam", "engine": "numpy"}
    uninterrupted, first, second = Observer(), Observer(), Observer()
    Network([4, 3]).fit(*data, epochs=4, callbacks=[uninterrupted], **settings)
    Network([4, 3]).fit(*data, epochs=2, callbacks=[first, Checkpoint(tmp_path)], **settings)
    resumed = [Checkpoint(tmp_path, resume=True), second]
    Network([4, 3]).fit(*data, epochs=4, callbacks=resumed, **settings)
    assert second.total == uninterrupted.total != first.total
    assert second.boundaries == [(3, False), (4, True)]


def test_callbacks_of_the_same_class_have_separate_states(data, tmp_path):
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
def test_rejects_state_that_is_not_lists_of_numbers(state, data, tmp_path):
    class Wrong(Callback):
        def state(self):
            return state

    network = Network([4, 3])
    with pytest.raises(TypeError, match=r"^Wrong\.state\(\) must return a dict of lists"):
        network.fit(*data, epochs=2, engine="numpy", callbacks=[Wrong(), Checkpoint(tmp_path)])
    assert network.epochs_trained == 0


def test_context_is_open_during_the_fit_and_may_refuse_it(engine, data):
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


def test_defers_interrupts_until_on_epoch_end_returns(data):
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


def test_train_accepts_only_data_prepared_for_the_network(data):
    network, other = Network([4, 3]), Network([4, 5, 3])
    plan = Plan(1, "full", OPTIMIZERS["sgd"])
    network.use_engine("numpy")
    for wrong in (Data(*data), prepare(other, plan, *data), (*prepare(network, plan, *data),)):
        with pytest.raises(TypeError, match="^the data must come from `prepare`"):
            network._train(wrong)
    network._train(prepare(network, plan, *data))
    assert network.epochs_trained == 1


@pytest.mark.parametrize("form", [list, tuple, iter])
def test_accepts_any_iterable_of_callbacks(data, form):
    recorders = [RecordCalls(), RecordCalls()]
    Network([4, 3]).fit(*data, epochs=1, engine="numpy", callbacks=form(recorders))
    assert [len(each.calls) for each in recorders] == [5, 5]


def test_callback_may_be_a_frozen_dataclass(data):
    @dataclass(frozen=True)
    class StopAfterOneEpoch(Callback):
        def on_epoch_end(self, epoch, metrics):
            self.fit.stop()

    fits = Network([4, 3]), Network([4, 3])
    callback = StopAfterOneEpoch()
    for network in fits:
        assert len(network.fit(*data, engine="numpy", callbacks=[callback])["loss"]) == 1


def test_rejects_a_callback_of_another_running_fit(data):
    class FitAnother(Callback):
        def on_epoch_end(self, epoch, metrics):
            with pytest.raises(RuntimeError, match="^the callback FitAnother is in use by another"):
                other.fit(*data, epochs=1, engine="numpy", callbacks=[self])
            assert self.fit.network is network

    network, other = Network([4, 3]), Network([4, 3])
    network.fit(*data, epochs=2, engine="numpy", callbacks=[FitAnother()])
    assert (network.epochs_trained, other.epochs_trained) == (2, 0)


class CopyEstimator(Callback):
    """Copy an estimator in several ways while it is fitted, its callbacks included."""

    model: list = []  # of the class, because attributes of the object are copied with it
    copies: list = []

    def on_epoch_end(self, epoch, metrics):
        model = self.model[0]
        self.copies += [copy.deepcopy(model), clone(model), pickle.loads(pickle.dumps(model))]


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_estimator_can_be_copied_and_pickled_in_a_callback(data, tmp_path):
    callbacks = [CopyEstimator(), Checkpoint(tmp_path), ProgressBar(), LogFile(tmp_path / "log")]
    model = MLPClassifier((3,), engine="numpy", max_iter=1, callbacks=callbacks)
    CopyEstimator.model[:], CopyEstimator.copies[:] = [model], []
    model.fit(*data)
    for each in CopyEstimator.copies:
        assert not any(hasattr(callback, "fit") for callback in each.callbacks)
        each.set_params(callbacks=None).fit(*data)
    assert len(CopyEstimator.copies) == 3


def test_fit_resumed_from_a_snapshot_equals_the_uninterrupted_fit(engine, rng):
    x, y = rng.normal(size=(2000, 4)).astype(np.float32), rng.integers(0, 3, 2000)

    class TakeSnapshots(Callback):
        def __init__(self):
            self.snapshots = []

        def on_chunk_end(self, epoch, rows):
            self.snapshots.append(self.fit.snapshot())

    class Resume(Callback):
        def __init__(self, snapshot):
            self.snapshot = snapshot

        def context(self):
            self.fit.resume_from(self.snapshot)
            return nullcontext()

    def run(callback):
        network = Network([4, 3], dropout=0.2)
        settings = {"batch_size": 1300, "optimizer": "adam", "engine": engine, "epochs": 2}
        history = network.fit(x, y, callbacks=[callback], **settings)
        return history["loss"], network.weights_sha256()

    recorder = TakeSnapshots()
    uninterrupted = run(recorder)
    rows = [each.position.progress.position for each in recorder.snapshots]
    assert {0, 1300, 2000} <= set(rows)  # in the middle of a batch, the last end of a batch
    for snapshot in recorder.snapshots:
        assert run(Resume(snapshot)) == uninterrupted


def test_weights_and_snapshots_are_copies(engine, data):
    class Overwrite(Callback):
        def on_epoch_end(self, epoch, metrics):
            snapshot = self.fit.snapshot()
            parts = [self.fit.weights(), snapshot.parameters, snapshot.best, *snapshot.state]
            for w, b in (pair for part in parts for pair in part):
                w[:], b[:] = 7, 7
            snapshot.history["loss"].clear()

    def run(callbacks):
        network, rule = Network([4, 3]), EarlyStopping("val_loss", patience=2)
        settings = {"validation_data": data, "early_stopping": rule, "learning_rate": 1.0}
        history = network.fit(*data, epochs=5, engine=engine, callbacks=callbacks, **settings)
        return history["loss"], network.weights_sha256()

    assert run([Overwrite()]) == run([])


def test_fit_keeps_the_weights_that_on_fit_end_sets(engine, data):
    class SetWeights(Callback):
        def on_fit_end(self, history):
            assert_same_parameters(self.fit.weights(), best[-1])
            self.fit.network.parameters = [(w * 0 + 7, b * 0) for w, b in self.fit.weights()]

        def on_epoch_end(self, epoch, metrics):
            best.append(self.fit.snapshot().best)

    network, best = Network([4, 3]), []
    network.fit(
        *data, epochs=9, learning_rate=3.0, engine=engine, callbacks=[SetWeights()],
        validation_data=data, early_stopping=EarlyStopping(patience=3),
    )  # fmt: skip
    assert (network.parameters[0][0] == 7).all()


@pytest.mark.parametrize("defers", [None, 0, "yes"])
def test_on_epoch_end_runs_whatever_defers_interrupts_is(data, defers):
    recorder = RecordCalls()
    recorder.defers_interrupts = defers
    Network([4, 3]).fit(*data, epochs=1, engine="numpy", callbacks=[recorder])
    assert ("end", 1) in recorder.calls


def test_lbfgs_reports_a_stop_iteration_of_a_callback(data):
    callback = RecordCalls(at=("end", 2), error=StopIteration())
    with pytest.raises(RuntimeError, match="^a callback raised StopIteration$"):
        Network([4, 3]).fit(*data, optimizer="lbfgs", engine="numpy", callbacks=[callback])


def test_rejects_a_checkpoint_of_a_history_that_has_missing_figures(data, tmp_path):
    class AddTwoFigures(Callback):
        def on_epoch_end(self, epoch, metrics):
            self.fit.history.setdefault("own", []).extend([1.0, 2.0])

    with pytest.raises(ModelFileError, match=r"'own': 2.* values, expected one per epoch \(1\)$"):
        Network([4, 3]).fit(
            *data, engine="numpy", callbacks=[AddTwoFigures(), Checkpoint(tmp_path)]
        )
