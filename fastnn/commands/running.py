"""What the command lines share: option types, and how an error becomes a line and an exit code.

A command parses with `Parser` and runs inside `run`. Nothing here imports NumPy, so that
``--help`` and a mistyped option answer at once.

Exit codes: 0 done, 1 data or files, 2 usage, 3 divergence, 130 Ctrl-C, 141 closed pipe, 143
SIGTERM.
"""

import argparse
import io
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, NoReturn

from fastnn import __version__
from fastnn.errors import DivergenceError, FastnnError
from fastnn.model.settings import BELOW_ONE, LARGEST_FLOAT, SMALLEST_NORMAL, normal_range
from fastnn.system.interrupts import Terminated, exit_code, interrupt_handlers, raise_interrupt
from fastnn.system.terminal import print_line

ENGINES = ("numba", "numpy")  # as in fastnn.engine, which needs NumPy
DATASETS = ("auto", "mnist", "fashion-mnist", "digits")
WIDTH_LIMIT = 1_000_000  # of a hidden layer: a wider one is a slip of the hand
SEED_LIMIT = 2**64  # as in fastnn.model.randomness, which needs NumPy


class UsageError(Exception):
    """The command line asks for something that cannot be; the message says what would be right."""


# What a user can cause. Every other exception is a bug of ours.
EXPECTED = (UsageError, FastnnError, OSError, MemoryError, ModuleNotFoundError)


class Parser(argparse.ArgumentParser):
    """An argument parser that raises `UsageError`, knows --version, and shows examples as written.

    Parameters
    ----------
    program : str
        The module, as in ``python -m fastnn.train``.
    description : str
    examples : str
        Printed below the options.
    """

    def __init__(self, program: str, description: str, examples: str) -> None:
        super().__init__(
            prog=program,
            usage=f"python -m {program} [options]",
            description=description,
            epilog=f"examples:\n{examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.add_argument("--version", action="version", version=f"fastnn {__version__}")

    def error(self, message: str) -> NoReturn:
        """Raise what `run` prints on one line, without the usage block before it."""
        raise UsageError(message)


def add_dataset_options(parser: argparse.ArgumentParser) -> None:
    """Add --dataset and --data-dir, the arguments of `fastnn.load_dataset`."""
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        type=dataset,
        default="auto",
        help="mnist, fashion-mnist, digits, a path that ends in .npz, or auto: "
        "MNIST where it can be had, else the digits (auto)",
    )
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        type=Path,
        help="look for the files of MNIST and Fashion-MNIST here and nowhere else",
    )


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Add --engine and --threads, arguments of `fastnn.Network.fit`."""
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default="numba",
        help="the fast one or the reference (numba)",
    )
    parser.add_argument(
        "--threads",
        metavar="N",
        type=positive_int,
        help="threads of the numba engine (all that the process may use)",
    )


def dataset(text: str) -> str:
    """Take the name of a data set or the path of an .npz file."""
    if text not in DATASETS and not text.endswith(".npz"):
        names = ", ".join(DATASETS)
        raise argparse.ArgumentTypeError(f"must be {names} or a path to an .npz, got {text!r}")
    return text


def whole_number(low: int, high: int | None = None) -> Callable[[str], int]:
    """Return an argument type that takes whole numbers from `low` to `high`, both included.

    Examples
    --------
    >>> whole_number(1)("128")
    128
    """
    bounds = f"of at least {low}" if high is None else f"from {low} to {high}"

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = low - 1
        if number < low or (high is not None and number > high):
            raise argparse.ArgumentTypeError(f"must be a whole number {bounds}, got {text!r}")
        return number

    return parse


positive_int = whole_number(1)
count = whole_number(1, 2**31 - 1)  # of what is allocated, or counted in a column of a table
seed = whole_number(0, SEED_LIMIT - 1)


def positive_float(text: str) -> float:
    """Take a number above zero that float32 can hold."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number <= LARGEST_FLOAT:
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text!r}")
    return _normal(number, text, or_zero=False)


def at_least_zero(text: str) -> float:
    """Take zero, or a positive number."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= LARGEST_FLOAT:
        raise argparse.ArgumentTypeError(f"must be a number of at least 0, got {text!r}")
    return _normal(number, text, or_zero=True)


def _normal(number: float, text: str, *, or_zero: bool) -> float:
    """Return a number; raise an ArgumentTypeError if it is a denormal in float32."""
    if 0 < number < SMALLEST_NORMAL:
        raise argparse.ArgumentTypeError(f"must be {normal_range(or_zero=or_zero)}, got {text!r}")
    return number


def below_one(text: str) -> float:
    """Take a number from 0 to below 1."""
    number = at_least_zero(text)
    if number >= BELOW_ONE:
        raise argparse.ArgumentTypeError(f"must be below 1, got {text!r}")
    return number


def hidden_widths(text: str) -> tuple[int, ...]:
    """Take the widths of hidden layers, with commas between them."""
    try:
        widths = tuple(int(part) for part in text.split(",")) if text.strip() else ()
    except ValueError:
        widths = (0,)
    if not all(1 <= width <= WIDTH_LIMIT for width in widths):
        raise argparse.ArgumentTypeError(
            f"must be whole numbers from 1 to {WIDTH_LIMIT} with commas between them, "
            f"like 128,64; got {text!r}"
        )
    return widths


def batch_size(text: str) -> int | Literal["full"]:
    """Take a number of rows, or full for all of them."""
    if text == "full":
        return "full"
    try:
        return positive_int(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(str(error).replace("must be", "must be full or")) from None


def check_file(path: Path) -> None:
    """Raise an OSError if a file cannot be written here; leave no trace."""
    if path.is_file() or path.is_dir():  # a directory refuses
        path.open("ab").close()
    elif not path.exists():  # a pipe or a device shows itself when it is opened
        check_directory(path.parent)


def check_directory(path: Path) -> None:
    """Raise an OSError if no file can be written in this directory; leave no trace."""
    import tempfile  # a third of this module's start-up, for what few commands need

    try:
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        why = error.strerror
        if isinstance(error, FileNotFoundError) and path.is_dir():  # as /proc says it
            if not path.is_absolute():
                os.getcwd()  # raises if the working directory was deleted
            why = "Not a directory that one can write in"
        raise OSError(error.errno, why, str(path)) from None


def check_new_directory(path: Path) -> None:
    """Raise an OSError if this directory is not writable and cannot be made; leave no trace."""
    while not path.exists() and path != path.parent:
        path = path.parent
    check_directory(path)


def run(program: str, command: Callable[[], None]) -> int:
    """Run a command and return the exit code of its process.

    What is wrong with the usage, the data, the files or the training is printed on one line of
    standard error; every other exception is a bug of ours and keeps its traceback. A message
    given to KeyboardInterrupt is printed in place of "interrupted". SIGTERM does what Ctrl-C does,
    and a second signal ends the process on the spot.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")  # a path may hold what it cannot encode
    try:
        try:
            with interrupt_handlers():
                command()
        except SystemExit:  # argparse, after --help and --version
            pass
        if sys.stdout is not None:
            sys.stdout.flush()
    except KeyboardInterrupt as error:
        return _report_interrupt(program, _signal_of(error), str(error))
    except Exception as error:
        if (interrupt := _interrupt_behind(error)) is not None:
            return _report_interrupt(program, _signal_of(interrupt))
        if not isinstance(error, EXPECTED):
            raise
        return _report(program, error)
    return 0


@contextmanager
def exit_on_interrupt(program: str) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the process on the spot, while there is nothing to tidy up.

    For the time when kernels are compiled or loaded: LLVM calls Python then, and Numba catches
    what comes, so that one KeyboardInterrupt in fifty was lost and the training went on.
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
    """End the process with an exit code of `run`; after a signal at once, with no tidying up.

    Tidying up takes 0.1 s where scikit-learn is loaded, and a second Ctrl-C would land in it. And
    an interpreter that was once interrupted inside ``exec``, as imports are, would end by the
    signal, whatever code it is given.
    """
    if code in (exit_code(signal.SIGINT), exit_code(signal.SIGTERM)):
        os._exit(code)  # standard output was sent line by line, and whatever else is closed
    sys.exit(code)


def _report(program: str, error: Exception) -> int:
    """Say what went wrong, unless nobody listens any more; return the exit code."""
    if isinstance(error, OSError) and error.filename is None:
        _abandon_stdout()
        if isinstance(error, BrokenPipeError):
            return 141  # what a shell shows for a process that SIGPIPE ended
    _print_error(f"{program}: error: {_message(error)}")
    if isinstance(error, UsageError):
        return 2
    return 3 if isinstance(error, DivergenceError) else 1


def _report_interrupt(program: str, number: int, reached: str = "") -> int:
    _print_error(f"{program}: {reached or _word(number)}")
    return exit_code(number)


def _word(number: int) -> str:
    return "terminated" if number == signal.SIGTERM else "interrupted"


def reason(interrupt: KeyboardInterrupt) -> str:
    """Return a word for what ended a command: "interrupted" or "terminated"."""
    return _word(_signal_of(interrupt))


def _signal_of(interrupt: BaseException) -> int:
    """Return the signal, also where a command has put its own words in place of the first's."""
    behind: BaseException | None = interrupt
    while behind is not None:
        if isinstance(behind, Terminated):
            return signal.SIGTERM
        behind = behind.__context__
    return signal.SIGINT


def _interrupt_behind(error: BaseException | None) -> BaseException | None:
    """Return the signal that is behind an error: C++ modules turn it into an ImportError."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error


def _message(error: Exception) -> str:
    if isinstance(error, FileNotFoundError) and error.filename is None:  # from os.getcwd
        return "the working directory is gone; start in another one, or give absolute paths"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, MemoryError):
        return f"not enough memory: {error}" if str(error) else "not enough memory"
    return str(error)


def _print_error(line: str) -> None:
    with suppress(OSError):  # standard error may be closed like the rest
        print_line(line, error=True)


def _abandon_stdout() -> None:
    """Send what is still buffered nowhere, lest the interpreter trip over it when it exits."""
    stdout: Any = sys.stdout
    with suppress(OSError, AttributeError):  # not a stream with a file behind it
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())
