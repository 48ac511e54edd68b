"""`system.interrupts`: an interrupt at any moment leaves a network consistent."""

import signal
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest
from command_line import posix
from scipy.sparse import csr_array

from fastnn import Callback, MLPClassifier, Network
from fastnn.system.interrupts import (
    DeferInterrupts,
    Terminated,
    exit_code,
    interrupt_handlers,
    raise_interrupt,
)

pytestmark = posix

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_takes_effect_at_the_end_of_the_outer_context(number: int) -> None:
    done, before = [], handlers()
    with pytest.raises(KeyboardInterrupt) as raised, interrupt_handlers():
        with DeferInterrupts():
            signal.raise_signal(number)
            with DeferInterrupts():
                signal.raise_signal(number)
            done.append("all")
        done.append("more")
    assert done == ["all"] and handlers() == before
    assert isinstance(raised.value, Terminated) == (number == signal.SIGTERM)


def test_restores_handlers_without_a_signal() -> None:
    before = handlers()
    with DeferInterrupts():
        assert handlers()[0] != before[0]
    assert handlers() == before


def test_keeps_other_handlers() -> None:
    received: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: received.append(number))
    try:
        with interrupt_handlers(), DeferInterrupts():
            signal.raise_signal(signal.SIGINT)
            assert received == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)


def test_does_nothing_in_other_threads() -> None:
    errors: list[BaseException] = []

    def work() -> None:
        try:
            with interrupt_handlers(), DeferInterrupts():
                pass
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not errors


@pytest.mark.process
def test_a_second_signal_ends_the_process() -> None:
    program = """
import signal
from fastnn.system.interrupts import interrupt_handlers
with interrupt_handlers():
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        signal.raise_signal(signal.SIGTERM)
print("never")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (exit_code(signal.SIGTERM), "")
    assert raise_interrupt not in handlers()


class EpochRecorder(Callback):
    """Record the number of completed epochs."""

    def __init__(self) -> None:
        self.epochs = 0

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        self.epochs = epoch


def interrupted_after(run: Any, seconds: float) -> bool:
    """Call `run`, interrupt it after some seconds, and return whether it was still running."""
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        run()
        signal.setitimer(signal.ITIMER_REAL, 0)
        return False
    except KeyboardInterrupt:
        return True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_an_interrupted_network_is_consistent(
    form: str, engine: str, rng: np.random.Generator
) -> None:
    x = rng.normal(size=(200, 5)).astype(np.float32) * (rng.random((200, 5)) < 0.5)
    y = rng.integers(0, 3, 200)
    features: Any = csr_array(x) if form == "sparse" else x
    settings: dict[str, Any] = {"optimizer": "adam", "batch_size": 16, "engine": engine}
    network = Network([5, 6, 3], seed=1)
    network.fit(features, y, epochs=1, **settings)
    interruptions = 0
    for _ in range(12):
        recorder = EpochRecorder()
        seconds = rng.uniform(1e-4, 0.03)
        run = lambda: network.fit(features, y, epochs=10_000, callbacks=[recorder], **settings)  # noqa: B023, E731
        interruptions += interrupted_after(run, seconds)
        position = network._position
        assert position.epochs in (recorder.epochs, recorder.epochs + 1) or not recorder.epochs
        assert position.samples == 200 * position.epochs
        # A network built from the weights, the state and the position trains in the same way.
        other = Network([5, 6, 3], seed=1)
        other.use_engine(engine)
        other.parameters = network.parameters
        other._current_engine().set_state(network._current_state())
        other._rule, other._slots, other._position = "adam", 2, position
        for each in (network, other):
            each.fit(features, y, epochs=1, **settings)
        assert network._position[:3] == other._position[:3]
        for pair, other_pair in zip(network.parameters, other.parameters, strict=True):
            for array, other_array in zip(pair, other_pair, strict=True):
                np.testing.assert_array_equal(array, other_array)
    assert interruptions == 12


def test_an_interrupted_network_counts_its_updates(engine: str, rng: np.random.Generator) -> None:
    """Every update adds the learning rate to the only bias, which thus counts updates."""
    x, y = np.zeros((64, 1), np.float32), np.ones(64, np.float32)
    settings: dict[str, Any] = {"batch_size": 4, "learning_rate": 2**-20, "engine": engine}
    for _ in range(10):
        network = Network([1, 1], loss="absolute_error")
        network.use_engine(engine)
        run = lambda: network.fit(x, y, epochs=2000, **settings)  # noqa: B023, E731
        interrupted_after(run, rng.uniform(0.001, 0.02))
        assert network.parameters[0][1][0] == network._position.updates * 2**-20


def test_an_interrupted_estimator_is_consistent(engine: str, rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(100, 4)), rng.integers(0, 2, 100)
    for _ in range(6):
        model = MLPClassifier((5,), max_iter=100_000, n_iter_no_change=100_000, engine=engine)
        timer = threading.Timer(rng.uniform(0.03, 0.06), signal.raise_signal, [signal.SIGINT])
        with pytest.warns(UserWarning, match="interrupted"):
            timer.start()
            model.fit(x, y)
        timer.join()
        curves = [model.loss_curve_, *model.history_.values()]
        assert {len(curve) for curve in curves} == {model.n_iter_}
        assert model._network.epochs_trained == model.n_iter_ == model.t_ // 100
        assert model.predict(x).shape == (100,)
