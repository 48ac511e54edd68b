"""What a fork waits for, so that a child finds everything whole.

A forked child has its parent's memory, but only the thread that forked: what another thread was
changing would stay half changed, and the lock it held locked for ever. So a fork first takes
these locks. It waits for the calls of engines that are running, some 50 ms in training, and for
kernels that are being compiled.
"""

import os
import sys
import threading
from contextlib import suppress
from typing import Any
from weakref import WeakSet

# Held while an engine is made: its kernels compiled, its threads started, what it needs imported.
# Taken before the others.
setup_lock = threading.RLock()

# A prediction of very many rows, which changes nothing that a child needs.
_PATIENCE = 10.0  # seconds
_held: list[Any] = []
_locks: WeakSet[Any] = WeakSet()


def fork_safe_lock() -> Any:
    """Return a new lock that forks wait for. No thread may hold two of them.

    It is one of C's, which an interrupt cannot leave locked, to be entered by `reject_reentry`.
    """
    new = threading.RLock()
    with setup_lock:
        _locks.add(new)
    return new


def reject_reentry(lock: Any) -> Any:
    """Return a lock that is to be entered.

    Raises
    ------
    RuntimeError
        If this thread is in it: a signal handler asks for what the thread is in the midst of.
    """
    if lock._is_owned():
        raise RuntimeError(
            "the network is at work in this very thread: a signal handler can have it done later, "
            "by a flag or a callback"
        )
    return lock


_IN_TRAINING = "the network is being trained: wait for the end of that, or use a copy of it"


class FitLock:
    """A context that one fit is in at a time: of a network, a copy of which has one of its own.

    Parameters
    ----------
    refusal : str
        What another one is told.
    """

    def __init__(self, refusal: str = _IN_TRAINING) -> None:
        self._refusal, self._taken = refusal, False

    def check(self) -> None:
        """Raise a RuntimeError if a fit is in it."""
        if self._taken:
            raise RuntimeError(self._refusal)

    def __enter__(self) -> None:
        ours = False
        try:
            with setup_lock:
                self.check()
                ours = self._taken = True
        except BaseException:  # Ctrl-C, it may be
            if ours:
                self._taken = False
            raise

    def __exit__(self, *error: object) -> None:
        self._taken = False


def _hold() -> None:
    for each in (setup_lock, *_lock_of_numba()):
        each.acquire()
        _held.append(each)
    for each in list(_locks):  # one of this thread's own is a signal handler's, and stays so
        if not each._is_owned() and each.acquire(timeout=_PATIENCE):
            _held.append(each)


def _lock_of_numba() -> list[Any]:
    """Return the lock that Numba compiles with, which others may do, too."""
    with suppress(KeyError, AttributeError):
        return [sys.modules["numba.core.compiler_lock"].global_compiler_lock]
    return []


def _release() -> None:
    while _held:
        _held.pop().release()


def _release_in_child() -> None:
    _release()
    for each in list(_locks):
        if not each._is_owned():  # by a thread that is not there, for longer than was waited
            each._at_fork_reinit()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_release_in_child)
