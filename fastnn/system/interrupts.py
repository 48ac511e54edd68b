"""Signals that end a run, and work that has to be whole before one of them is heeded.

Python raises a KeyboardInterrupt between any two instructions: between the engine's work and the
count of it, too. `DeferInterrupts` keeps the signal waiting there. A command line has SIGTERM
heeded in the same way.
"""

# What `signal` wraps: with its enums, `DeferInterrupts` would take 19 µs.
import _signal  # type: ignore[import-not-found]
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from typing import Any, NoReturn

_SIGNALS = (int(signal.SIGINT), int(signal.SIGTERM))


class Terminated(KeyboardInterrupt):
    """SIGTERM has come to a command line, which ends in order."""


class DeferInterrupts:
    """A context in which work is done whole: a signal that comes meanwhile counts at its end.

    Only in the main thread, and only signals that would raise a KeyboardInterrupt: another
    handler, and whoever ignores a signal, knows why. It takes 2 µs.

    Raises
    ------
    KeyboardInterrupt
        At the end, where a signal came.
    """

    _entered: "DeferInterrupts | None" = None  # by the main thread
    _left: "DeferInterrupts | None" = None

    def __enter__(self) -> None:
        self._came: list[int] = []
        self._handlers: dict[int, Any] = {}
        if current_thread() is not main_thread():
            return
        for number in _SIGNALS:
            handler = _signal.getsignal(number)
            if handler is signal.default_int_handler or handler is raise_interrupt:
                self._handlers[number] = handler
                DeferInterrupts._entered = self
                _signal.signal(number, self._note)

    def __exit__(self, *error: object) -> None:
        for number, handler in self._handlers.items():
            _signal.signal(number, handler)
            DeferInterrupts._entered = None
        if self._came:
            self._handlers[self._came[0]](self._came[0], None)

    def _note(self, number: int, frame: object) -> None:
        self._came.append(number)


def _before_fork() -> None:
    """Notice whether the child will be without the thread that is to leave a `DeferInterrupts`."""
    DeferInterrupts._left = None if current_thread() is main_thread() else DeferInterrupts._entered


def _after_fork_in_child() -> None:
    if DeferInterrupts._left is not None:
        for number, handler in DeferInterrupts._left._handlers.items():
            _signal.signal(number, handler)
        DeferInterrupts._entered = DeferInterrupts._left = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)


def raise_interrupt(number: int, frame: object) -> NoReturn:
    """Raise what a signal stands for; the next one ends the process on the spot."""
    for each in _SIGNALS:
        signal.signal(each, lambda number, _: os._exit(exit_code(number)))
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


def exit_code(number: int) -> int:
    """Return what a shell shows for a process that a signal ended."""
    return 128 + number


@contextmanager
def interrupt_handlers() -> Iterator[None]:
    """Heed both signals while this lasts, in the main thread; one that is ignored stays so."""
    defaults = (signal.default_int_handler, signal.SIG_DFL)
    ours = {}
    if current_thread() is main_thread():
        ours = {each: signal.getsignal(each) for each in _SIGNALS}
        ours = {each: handler for each, handler in ours.items() if handler in defaults}
    for each in ours:
        signal.signal(each, raise_interrupt)
    try:
        yield
    finally:
        for each, handler in ours.items():
            signal.signal(each, handler)
