"""Run a command: errors become one line on standard error, signals and errors an exit code.

Exit codes: 0 success, 1 data or files, 2 usage, 3 divergence, 130 Ctrl-C, 141 closed pipe, 143
SIGTERM.
"""

import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from fastnn.commands.options import UsageError
from fastnn.errors import DivergenceError, FastnnError
from fastnn.system.interrupts import Terminated, exit_code, interrupt_handlers, raise_interrupt
from fastnn.system.terminal import print_line

# Errors that a user can cause. All others are bugs in fastnn and keep their traceback.
EXPECTED = (UsageError, FastnnError, OSError, MemoryError, ModuleNotFoundError)


def run(program: str, command: Callable[[], None]) -> int:
    """Run a command and return the exit code of the process.

    Invalid usage, data or files and divergence are printed on one line of standard error; other
    exceptions propagate. After an interrupt, the message of the KeyboardInterrupt is printed if
    it has one. SIGTERM is handled like Ctrl-C. A second signal ends the process immediately.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")  # for paths that it cannot encode
    try:
        with suppress(SystemExit), interrupt_handlers():  # argparse exits after --help
            command()
        if sys.stdout is not None:
            sys.stdout.flush()
    except (KeyboardInterrupt, Exception) as error:
        number = _signal_behind(error)
        if number is not None:
            message = str(error) if isinstance(error, KeyboardInterrupt) else ""
            return _report_interrupt(program, number, message)
        if not isinstance(error, EXPECTED):
            raise
        return _report_error(program, error)
    return 0


@contextmanager
def exit_on_interrupt(program: str) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the process immediately, for code that needs no cleanup.

    Used while kernels are compiled or loaded: LLVM then calls Python, and Numba catches the
    exceptions of such calls, so that one KeyboardInterrupt in fifty was lost.
    """
    ours = []
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is raise_interrupt:
            ours.append(number)
            signal.signal(number, lambda number, _: os._exit(_report_interrupt(program, number)))
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, raise_interrupt)


def leave(code: int) -> NoReturn:
    """End the process with an exit code of `run`; after a signal, skip the interpreter's cleanup.

    Cleanup takes 0.1 s if scikit-learn is loaded, and a second Ctrl-C could interrupt it. An
    interpreter that was interrupted during an import would also end by the signal, whatever the
    exit code.
    """
    if code in (exit_code(signal.SIGINT), exit_code(signal.SIGTERM)):
        os._exit(code)  # standard output is flushed after every line, and files are closed
    sys.exit(code)


def reason(interrupt: KeyboardInterrupt) -> str:
    """Return "interrupted" after Ctrl-C and "terminated" after SIGTERM."""
    return _word(_signal_behind(interrupt))


def _signal_behind(error: BaseException | None) -> int | None:
    """Return the signal that caused an error, directly or through others, or None.

    C++ extension modules turn a KeyboardInterrupt during their import into an ImportError.
    """
    number = None
    while error is not None:
        if isinstance(error, Terminated):
            return signal.SIGTERM
        if isinstance(error, KeyboardInterrupt):
            number = signal.SIGINT
        error = error.__cause__ or error.__context__
    return number


def _word(number: int | None) -> str:
    return "terminated" if number == signal.SIGTERM else "interrupted"


def _report_interrupt(program: str, number: int, message: str = "") -> int:
    _print_error(f"{program}: {message or _word(number)}")
    return exit_code(number)


def _report_error(program: str, error: Exception) -> int:
    """Print an error, except that the reader of standard output is gone; return the exit code."""
    if isinstance(error, OSError) and error.filename is None:
        _abandon_stdout()
        if isinstance(error, BrokenPipeError):
            return 141  # as shells report a process that SIGPIPE ended
    _print_error(f"{program}: error: {_message(error)}")
    if isinstance(error, UsageError):
        return 2
    return 3 if isinstance(error, DivergenceError) else 1


def _message(error: Exception) -> str:
    if isinstance(error, FileNotFoundError) and error.filename is None:  # from os.getcwd
        return "the working directory was deleted; start in another one, or give absolute paths"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, MemoryError):
        return f"not enough memory: {error}" if str(error) else "not enough memory"
    return str(error)


def _print_error(line: str) -> None:
    with suppress(OSError):  # standard error may be closed as well
        print_line(line, error=True)


def _abandon_stdout() -> None:
    """Discard buffered output, so that the interpreter does not fail to write it at its exit."""
    stdout: Any = sys.stdout
    with suppress(OSError, AttributeError):  # the stream may have no file descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())
