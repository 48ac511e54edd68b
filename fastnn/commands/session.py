"""What both command lines do: load the data, make the engine ready, notice what is lost."""

import argparse
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING

from fastnn.commands import running
from fastnn.commands.console import counted
from fastnn.errors import DivergenceError
from fastnn.system.address_space import check_libraries
from fastnn.system.terminal import print_line

if TYPE_CHECKING:
    from fastnn.data.sets import Dataset
    from fastnn.engine import Engine
    from fastnn.network import Network


def import_ahead(program: str, *modules: str) -> None:
    """Import what a command needs while a signal ends it on the spot.

    C code and the locks of imports swallow an interrupt now and then, or make another error of it.

    Raises
    ------
    MemoryError
        If the limit of address space is too low for their libraries.
    """
    sklearn = any(module.startswith("sklearn.") for module in modules)
    check_libraries("numpy", *(["sklearn"] if sklearn else []))
    with running.exit_on_interrupt(program):
        for module in modules:
            import_module(module)


def load(program: str, options: argparse.Namespace, *, quiet: bool = False) -> "Dataset":
    """Load the data set, and say at once where it is not the one that was hoped for."""
    from fastnn.data.sets import load_dataset

    watched = not quiet and sys.stderr is not None and sys.stderr.isatty()
    data = load_dataset(options.dataset, options.data_dir, progress=watched)
    if not quiet:
        say_note(program, data)
    return data


def warn(program: str, text: str) -> None:
    """Say on one line of standard error what is not as it should be."""
    print_line(f"{program}: warning: {text}", error=True)


def say_note(program: str, data: "Dataset", *, again: bool = False) -> None:
    """Say on standard error what there is to say about the data, if anything; shorter again."""
    if data.note:
        note = data.note.partition(":")[0] if again else data.note
        print_line(f"{program}: {note}", error=True)


def use_engine(
    program: str, network: "Network", name: str, threads: int | None, say: Callable[[str], None]
) -> "Engine":
    """Move a network to an engine, which may have to be compiled, and return it.

    Raises
    ------
    UsageError
        If the process may not use as many threads, or an environment variable of Numba is invalid.
    """
    from fastnn.engine import needs_compiling

    with engine_made(program):
        if needs_compiling(name):
            say("compiling the kernels: some seconds, this once")
        return network.use_engine(name, threads=threads)


@contextmanager
def engine_made(program: str) -> Iterator[None]:
    """Show warnings of making an engine on one line each; raise its ValueErrors as UsageErrors."""
    with running.exit_on_interrupt(program), warnings_as_lines(program):
        try:
            yield
        except ValueError as error:
            option = "argument --threads: " if str(error).startswith("threads ") else ""
            raise running.UsageError(f"{option}{error}") from None  # else an environment variable


@contextmanager
def warnings_as_lines(program: str) -> Iterator[None]:
    """Show each warning as one line on standard error when the context ends."""
    with warnings.catch_warnings(record=True) as caught:
        try:
            yield
        finally:
            for each in caught:
                print_line(f"{program}: {each.message}", error=True)


def widths_of(network: "Network") -> list[int]:
    """Return a network's inputs, hidden widths and classes."""
    return [network.layers[0].inputs, *(layer.outputs for layer in network.layers)]


def threads_text(engine: "Engine") -> str:
    """Say with how many threads an engine computes."""
    if engine.threads is None:
        return "threads as its BLAS library decides"
    return f"{counted(engine.threads, 'thread')} ({engine.threading_layer})"


def check_loss(
    loss: float, rows: str, *, epoch: int, step: int = 1, learning_rate: float | None
) -> None:
    """Raise a DivergenceError if the loss on the test or validation rows is not finite.

    Finite weights may still be too large for rows that they were not trained on.
    """
    if math.isfinite(loss):
        return
    text = f"the {rows} loss is not finite after epoch {epoch}"
    if learning_rate is not None:
        text += f", at learning rate {learning_rate:g}: try a smaller one ({learning_rate / 10:g})"
    raise DivergenceError(f"{text}; check the scale of the features", epoch=epoch, step=step)
