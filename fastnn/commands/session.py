"""Steps that several commands share: check paths, import, load data, prepare the engine."""

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastnn.commands import running
from fastnn.commands.options import UsageError
from fastnn.commands.text import counted
from fastnn.system.address_space import check_libraries
from fastnn.system.files import writable_target
from fastnn.system.terminal import print_line

if TYPE_CHECKING:
    from fastnn.data.sets import Dataset
    from fastnn.engine import Engine
    from fastnn.network import Network


def check_file(path: Path) -> None:
    """Raise an OSError if this file cannot be written; leave no trace."""
    if path.is_file() or path.is_dir():  # opening a directory fails
        path.open("ab").close()
    elif not path.exists():  # a pipe or a device is not opened before it is used
        check_directory(path.parent)


def check_replaceable(path: Path) -> None:
    """Raise an OSError if `write_atomically` could not write this file; leave no trace."""
    check_directory(Path(writable_target(path)[0]).parent)


def check_directory(path: Path) -> None:
    """Raise an OSError if no file can be created in this directory; leave no trace."""
    import tempfile  # a third of the start-up time, and few commands need it

    try:
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not path.is_absolute():
            os.getcwd()  # raises if the working directory was deleted
        raise OSError(error.errno, error.strerror, str(path)) from None


def check_new_directory(path: Path) -> None:
    """Raise an OSError if this directory is not writable or cannot be created; leave no trace."""
    while not path.exists() and path != path.parent:
        path = path.parent
    check_directory(path)


def import_early(program: str, *modules: str) -> None:
    """Import the modules that a command needs, while a signal ends the process immediately.

    Extension modules and import locks otherwise lose some interrupts or turn them into other
    errors.

    Raises
    ------
    MemoryError
        If the limit of the address space is too low for the modules' libraries.
    """
    sklearn = any(module.startswith("sklearn.") for module in modules)
    check_libraries("numpy", *(["sklearn"] if sklearn else []))
    with running.exit_on_interrupt(program):
        for module in modules:
            import_module(module)


def load(program: str, options: argparse.Namespace, *, quiet: bool = False) -> "Dataset":
    """Load the data set, with a progress bar for downloads, and print its note, if any."""
    from fastnn.data.sets import load_dataset

    progress = not quiet and sys.stderr is not None and sys.stderr.isatty()
    data = load_dataset(options.dataset, options.data_dir, progress=progress)
    if not quiet:
        print_note(program, data)
    return data


def warn(program: str, text: str) -> None:
    """Print a warning on one line of standard error."""
    print_line(f"{program}: warning: {text}", error=True)


def print_note(program: str, data: "Dataset", *, short: bool = False) -> None:
    """Print the data set's note, if it has one, or its first part, on standard error."""
    if data.note:
        note = data.note.partition(":")[0] if short else data.note
        print_line(f"{program}: {note}", error=True)


def use_engine(
    program: str, network: "Network", name: str, threads: int | None, say: Callable[[str], None]
) -> "Engine":
    """Build an engine for a network, compiling its kernels if necessary, and return it.

    Raises
    ------
    UsageError
        If there are not as many threads, or an environment variable of Numba is invalid.
    """
    from fastnn.engine import needs_compiling

    with engine_errors(program):
        if needs_compiling(name):
            say("compiling the kernels (about 10 s; later runs load them from a cache)")
        return network.use_engine(name, threads=threads)


@contextmanager
def engine_errors(program: str) -> Iterator[None]:
    """Print warnings as lines and raise ValueErrors as UsageErrors while an engine is built."""
    with running.exit_on_interrupt(program), warnings_as_lines(program):
        try:
            yield
        except ValueError as error:
            option = "argument --threads: " if str(error).startswith("threads ") else ""
            raise UsageError(f"{option}{error}") from None  # else about an environment variable


@contextmanager
def warnings_as_lines(program: str) -> Iterator[None]:
    """Print each warning as one line on standard error."""

    def show(message: Any, *_: Any) -> None:
        print_line(f"{program}: {message}", error=True)

    with warnings.catch_warnings():
        warnings.showwarning = show  # type: ignore[assignment]  # with fewer parameters
        yield


def widths_text(network: "Network") -> str:
    """Return a network's inputs, hidden widths and outputs, like 784-128-10."""
    layers = network.layers
    return "-".join(map(str, (layers[0].inputs, *(layer.outputs for layer in layers))))


def threads_text(engine: "Engine") -> str:
    """Return a text on how many threads an engine uses."""
    if engine.threads is None:
        return "threads chosen by its BLAS library"
    return f"{counted(engine.threads, 'thread')} ({engine.threading_layer})"
