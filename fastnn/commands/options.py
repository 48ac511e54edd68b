"""Command-line options: the parser, argument types, and options that several commands share.

Nothing here imports NumPy, so that ``--help`` and usage errors answer at once.
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NoReturn

from fastnn import __version__
from fastnn.model.settings import check_setting

ENGINES = ("numba", "numpy")  # as in fastnn.engine, which imports NumPy
DATASETS = ("auto", "mnist", "fashion-mnist", "digits")
WIDTH_LIMIT = 1_000_000  # of a hidden layer: larger numbers are typing errors
SEED_LIMIT = 2**64  # as in fastnn.model.randomness, which imports NumPy


class UsageError(Exception):
    """An invalid command line; the message names the argument and what would be valid."""


class Parser(argparse.ArgumentParser):
    """An argument parser that raises `UsageError` and has the option --version.

    Parameters
    ----------
    program : str
        The module name, as in ``python -m fastnn.train``.
    description : str
    examples : str
        Printed below the options, line breaks included.
    arguments : str, default "[options]"
        The arguments in the usage line.
    """

    def __init__(
        self, program: str, description: str, examples: str, arguments: str = "[options]"
    ) -> None:
        super().__init__(
            prog=program,
            usage=f"python -m {program} {arguments}",
            description=description,
            epilog=f"examples:\n{examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.add_argument("--version", action="version", version=f"fastnn {__version__}")

    def error(self, message: str) -> NoReturn:
        """Raise a UsageError, which `running.run` prints on one line without the usage."""
        raise UsageError(message)


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Add --dataset and --data-dir, the arguments of `fastnn.load_dataset`, and --seed."""
    names = (
        "mnist, fashion-mnist, digits, or a path that ends in .npz; auto is mnist, or digits if "
        "MNIST is not on this machine and cannot be downloaded (default: auto)"
    )
    parser.add_argument("--dataset", metavar="NAME", type=dataset, default="auto", help=names)
    directory = "use the files of MNIST or Fashion-MNIST in this directory; download nothing"
    parser.add_argument("--data-dir", metavar="DIR", type=Path, help=directory)
    random = "determines the initial weights and all other random numbers (default: 0)"
    parser.add_argument("--seed", metavar="N", type=seed, default=0, help=random)


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Add --engine and --threads, arguments of `fastnn.Network.fit`."""
    engine = "numba is compiled and fast; numpy is the reference implementation (default: numba)"
    parser.add_argument("--engine", choices=ENGINES, default="numba", help=engine)
    threads = "threads of the numba engine (default: all CPUs that this process may use)"
    parser.add_argument("--threads", metavar="N", type=positive_int, help=threads)


def dataset(text: str) -> str:
    """Return the name of a data set or the path of an .npz file."""
    if text not in DATASETS and not text.endswith(".npz"):
        names = ", ".join(DATASETS)
        raise argparse.ArgumentTypeError(f"must be {names} or a path ending in .npz, got {text!r}")
    return text


def integer(low: int, high: int = 2**31 - 1) -> Callable[[str], int]:
    """Return an argument type for whole numbers from `low` to `high`, both included.

    Examples
    --------
    >>> integer(1)("128")
    128
    """

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            message = f"must be a whole number from {low} to {high}, got {text!r}"
            raise argparse.ArgumentTypeError(message)
        return number

    return parse


positive_int = integer(1)
seed = integer(0, SEED_LIMIT - 1)


def number(setting: str) -> Callable[[str], float]:
    """Return an argument type for numbers in the range that `check_setting` has for a setting.

    Examples
    --------
    >>> number("learning_rate")("0.1")
    0.1
    """

    def parse(text: str) -> float:
        value = to_float(text)
        try:
            check_setting(setting, value)
        except ValueError as error:
            rule = str(error).removeprefix(f"{setting} ").removesuffix(f"{value!r}")
            raise argparse.ArgumentTypeError(f"{rule}{text!r}") from None
        return value

    return parse


def to_float(text: str) -> float:
    """Return the number that a text stands for, or NaN."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def hidden_widths(text: str) -> tuple[int, ...]:
    """Return the widths of hidden layers, which are separated by commas."""
    return tuple(map(integer(1, WIDTH_LIMIT), text.split(","))) if text.strip() else ()


def batch_size(text: str) -> int | Literal["full"]:
    """Return a number of rows, or "full"."""
    return "full" if text == "full" else positive_int(text)
