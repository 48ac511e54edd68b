"""Locks taken before ``fork()``, so that a child never inherits half-changed state.

A forked child has a copy of its parent's memory, but only the thread that forked. State that
another thread was changing would stay half changed, and its lock would stay locked forever. A
fork therefore takes these locks first. It waits for running calls of engines, about 50 ms in
training, and for kernels that are being compiled.
"""

import os
import sys
import threading
from contextlib import suppress
from typing import Any
from weakref import WeakSet

# Held while an engine is set up: kernels are compiled, threads started, modules imported. Taken
# before the other locks.
setup_lock = threading.RLock()

# Seconds that a fork waits for a lock. Only predict, evaluate and loss_and_grad of very many rows
# hold one for longer; they change only buffers that the next call overwrites.
_TIMEOUT = 10.0
_held: list[Any] = []
_locks: WeakSet[Any] = WeakSet()


def fork_safe_lock() -> Any:
    """Return a new lock that forks wait for. A thread must not hold two such locks.

    It is an RLock, implemented in C: an interrupt cannot leave it locked. Enter it through
    `reject_reentry`.
    """
    new = threading.RLock()
    with setup_lock:
        _locks.add(new)
    return new


def reject_reentry(lock: Any) -> Any:
    """Return a lock for a ``with`` statement.

    Raises
    ------
    RuntimeError
        If this thread holds the lock already, because a signal handler runs within a call.
    """
    if lock._is_owned():
        raise RuntimeError(
            "this thread is already using the network: a signal handler must not call it; set a "
            "flag instead, and read it in a callback"
        )
    return lock


_IN_TRAINING = "the network is being trained: wait until that ends, or use a copy of it"


class FitLock:
    """Context that one fit at a time can enter; another fit raises an error instead of waiting.

    Each network, and each copy of a network, has its own lock.

    Parameters
    ----------
    message : str
        Message of the error.
    """

    def __init__(self, message: str = _IN_TRAINING) -> None:
        self._message, self._is_locked = message, False

    def check(self) -> None:
        """Raise a RuntimeError if a fit is running."""
        if self._is_locked:
            raise RuntimeError(self._message)

    def __enter__(self) -> None:
        is_ours = False
        try:
            with setup_lock:
                self.check()
                is_ours = self._is_locked = True
        except BaseException:  # KeyboardInterrupt can come here
            if is_ours:
                self._is_locked = False
            raise

    def __exit__(self, *error: object) -> None:
        self._is_locked = False


def _acquire_all() -> None:
    for lock in (setup_lock, *_numba_locks()):
        lock.acquire()
        _held.append(lock)
    for lock in list(_locks):  # this thread owns one if a signal handler forks within a call
        if not lock._is_owned() and lock.acquire(timeout=_TIMEOUT):
            _held.append(lock)


def _numba_locks() -> list[Any]:
    """Return the lock that Numba holds while it compiles; other packages may compile, too."""
    with suppress(KeyError, AttributeError):
        return [sys.modules["numba.core.compiler_lock"].global_compiler_lock]
    return []


def _release_all() -> None:
    while _held:
        _held.pop().release()


def _reset_in_child() -> None:
    _release_all()
    for lock in list(_locks):
        if not lock._is_owned():  # a thread that does not exist here may hold it
            lock._at_fork_reinit()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_acquire_all, after_in_parent=_release_all, after_in_child=_reset_in_child
    )
