"""Locks when a process forks or a signal handler runs in the middle of a call."""

import os
import pickle
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest
from command_line import posix

from fastnn import Callback, MLPClassifier, Network, network
from fastnn.system import forks
from fastnn.system.interrupts import DeferInterrupts

X, Y = np.eye(6, dtype=np.float32), np.arange(6) % 3


def code_of(child):
    """Run a function in a forked process; return its exit code. It is killed after ten seconds."""
    process = os.fork()
    if process == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(10)
        code = 1
        try:
            code = 0 if child() else 2
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


@pytest.fixture
def trained(engine):
    net = Network([6, 5, 3])
    net.fit(X, Y, epochs=2, engine=engine)
    return net


def test_a_signal_handler_within_a_call_gets_an_error(trained, engine):
    running, seen = trained.use_engine(engine), []
    for ask in (lambda: trained.predict(X), lambda: trained.parameters):
        with (
            running._lock,
            pytest.raises(RuntimeError, match="^this thread is already using the network"),
        ):
            ask()
        seen.append(ask())
    assert len(seen) == 2


@posix
@pytest.mark.process
def test_a_child_can_use_a_lock_that_another_thread_held(trained, engine, monkeypatch):
    monkeypatch.setattr(forks, "_TIMEOUT", 0.05)
    expected, held, done = trained.predict_proba(X), threading.Event(), threading.Event()

    def hold():
        with trained.use_engine(engine)._lock:
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert held.wait(5)
        assert code_of(lambda: (trained.predict_proba(X) == expected).all()) == 0
    finally:
        done.set()
        thread.join()
    np.testing.assert_array_equal(trained.predict_proba(X), expected)


@posix
@pytest.mark.process
def test_a_fork_within_a_call_keeps_the_lock_of_parent_and_child(trained, engine):
    """A signal handler may fork there."""
    running = trained.use_engine(engine)
    with running._lock:
        code = code_of(running._lock._is_owned)
    assert code == 0 and not running._lock._is_owned()
    assert code_of(lambda: len(trained.predict(X)) == 6) == 0


@posix
@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="needs compiled code")
@pytest.mark.process
def test_a_fork_waits_for_other_compilations():
    lock = forks._numba_locks()[0]
    lock.acquire()
    with ThreadPoolExecutor(1) as pool:
        forked = pool.submit(code_of, lambda: bool(lock.acquire() or 1))
        time.sleep(0.2)
        assert not forked.done()
        lock.release()
        assert forked.result(20) == 0


@posix
@pytest.mark.process
def test_a_child_of_another_thread_can_be_interrupted(monkeypatch):
    """The main thread defers interrupts, and the child has no such thread to restore them."""

    def child():
        return signal.getsignal(signal.SIGINT) is signal.default_int_handler

    monkeypatch.setattr(DeferInterrupts, "_active", None)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with DeferInterrupts(), ThreadPoolExecutor(1) as pool:
            assert not child()
            assert pool.submit(code_of, child).result(20) == 0
            assert code_of(child) == 2  # this child leaves the context itself
        assert child()
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_process_with_fewer_threads_can_use_a_pickled_network(trained, engine, monkeypatch):
    trained.use_engine(engine, threads=1)
    trained._engine_choice = (engine, 64)
    copy = pickle.loads(pickle.dumps(trained))
    monkeypatch.setattr(network, "usable_threads", lambda: 1)
    np.testing.assert_array_equal(copy.predict_proba(X), trained.predict_proba(X))


def test_an_estimator_rejects_a_second_fit():
    class Again(Callback):
        def on_epoch_end(self, epoch, metrics):
            with pytest.raises(RuntimeError, match="^the estimator is already being fitted: "):
                model.fit(X, Y)
            with pytest.raises(RuntimeError, match="^the estimator is already being fitted"):
                model.partial_fit(X, Y)

    model = MLPClassifier((4,), max_iter=3, callbacks=[Again()], engine="numpy")
    for _ in range(2):
        with pytest.warns(Warning, match="Maximum iterations"):
            model.fit(X, Y)
    assert model.n_iter_ == len(model.loss_curve_) == 3
