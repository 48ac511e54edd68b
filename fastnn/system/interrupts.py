"""Signals that end a run, and blocks of code that they must not interrupt.

Python raises KeyboardInterrupt between any two instructions, for example between a batch of
updates and the code that counts them. `DeferInterrupts` delays the signal to the end of such a
block. The commands treat SIGTERM like SIGINT.
"""

# The module that `signal` wraps: with the enums of `signal`, DeferInterrupts would take 19 µs.
import _signal  # type: ignore[import-not-found]
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from typing import Any, NoReturn

_SIGNALS = (int(signal.SIGINT), int(signal.SIGTERM))


class Terminated(KeyboardInterrupt):
    """A command received SIGTERM."""


class DeferInterrupts:
    """Context that delays SIGINT and SIGTERM: the first one to arrive takes effect at its end.

    It has an effect in the main thread, on signals that raise KeyboardInterrupt. Signals that are
    ignored or have a different handler are not changed. Entering and leaving takes 2 µs.

    Raises
    ------
    KeyboardInterrupt
        At the end, if a signal arrived.
    """

    _active: "DeferInterrupts | None" = None  # in the main thread
    _inherited: "DeferInterrupts | None" = None  # by a child without the thread that entered it

    def __enter__(self) -> None:
        self._received: list[int] = []
        self._handlers: dict[int, Any] = {}
        if current_thread() is not main_thread():
            return
        for number in _SIGNALS:
            handler = _signal.getsignal(number)
            if handler is signal.default_int_handler or handler is raise_interrupt:
                self._handlers[number] = handler
                DeferInterrupts._active = self
                _signal.signal(number, self._record)

    def __exit__(self, *error: object) -> None:
        for number, handler in self._handlers.items():
            _signal.signal(number, handler)
            DeferInterrupts._active = None
        if self._received:
            self._handlers[self._received[0]](self._received[0], None)

    def _record(self, number: int, frame: object) -> None:
        self._received.append(number)


def _before_fork() -> None:
    """Remember the active context if the thread in it will not exist in the child."""
    in_main_thread = current_thread() is main_thread()
    DeferInterrupts._inherited = None if in_main_thread else DeferInterrupts._active


def _after_fork_in_child() -> None:
    """Restore the signal handlers that an inherited context would never restore."""
    if DeferInterrupts._inherited is not None:
        for number, handler in DeferInterrupts._inherited._handlers.items():
            _signal.signal(number, handler)
        DeferInterrupts._active = DeferInterrupts._inherited = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)


def raise_interrupt(number: int, frame: object) -> NoReturn:
    """Handle a signal: raise its exception, and let the next signal end the process at once."""
    for each in _SIGNALS:
        signal.signal(each, lambda number, _: os._exit(exit_code(number)))
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


def exit_code(number: int) -> int:
    """Return the exit code that a shell shows for a process that a signal ended."""
    return 128 + number


@contextmanager
def interrupt_handlers() -> Iterator[None]:
    """Install `raise_interrupt` for both signals, in the main thread.

    A signal that is ignored or has a different handler is not changed.
    """
    defaults = (signal.default_int_handler, signal.SIG_DFL)
    previous = {}
    if current_thread() is main_thread():
        previous = {number: signal.getsignal(number) for number in _SIGNALS}
        previous = {number: each for number, each in previous.items() if each in defaults}
    for number in previous:
        signal.signal(number, raise_interrupt)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
