"""What a fork waits for, so that a child finds everything whole.

A forked child has its parent's memory, but only the thread that forked: what another thread was
changing would stay half changed, and the lock it held locked for ever. So a fork first takes
these locks. It waits for the calls of engines that are running, some 50 ms, and for kernels that
are being compiled.
"""

import os
import threading
from weakref import WeakSet

# Held while an engine is made: its kernels compiled, its threads started. Taken before the others.
making = threading.RLock()

# A signal handler may fork while its own thread is inside a call, and would wait for ever.
_PATIENCE = 10.0  # seconds
_locks: WeakSet[threading.Lock] = WeakSet()
_held: list[threading.Lock] = []


def lock() -> threading.Lock:
    """Return a new lock that forks wait for. No thread may hold two of them."""
    with making:
        new = threading.Lock()
        _locks.add(new)
    return new


class Training:
    """A context that one fit of a network is in at a time; a copy has one of its own."""

    def __init__(self) -> None:
        self._taken = False

    def check(self) -> None:
        """Raise a RuntimeError if a fit is in it."""
        if self._taken:
            raise RuntimeError(
                "the network is being trained: wait for the end of that, or use a copy of it"
            )

    def __enter__(self) -> None:
        ours = False
        try:
            with making:
                self.check()
                ours = self._taken = True
        except BaseException:  # Ctrl-C, it may be
            if ours:
                self._taken = False
            raise

    def __exit__(self, *error: object) -> None:
        self._taken = False


def _hold() -> None:
    making.acquire()
    _held[:] = [lock for lock in list(_locks) if lock.acquire(timeout=_PATIENCE)]


def _release() -> None:
    while _held:
        _held.pop().release()
    making.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_release)
