"""The command line ``python -m fastnn.warm``: compile the kernels before they are needed."""

import argparse
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from fastnn.commands import running, session

PROGRAM = "fastnn.warm"
EXAMPLES = """\
  python -m fastnn.warm
  python -m fastnn.warm /var/lib/fastnn

In a container image, as root, so that every user starts without compiling:
  RUN python -m fastnn.warm /var/lib/fastnn
  ENV NUMBA_CACHE_DIR=/var/lib/fastnn"""
DESCRIPTION = """\
Compile the kernels of the numba engine and store them, so that later processes start at once.
Kernels are for one kind of processor; another kind compiles them anew. To prepare kernels for
other machines, set NUMBA_CPU_NAME and NUMBA_CPU_FEATURES to what all of them have, both when
building and when running."""


def main(argv: Sequence[str] | None = None) -> int:
    """Compile as the arguments say; return the exit code of the process."""
    return running.run(PROGRAM, lambda: warm(parse(argv)))


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Raises
    ------
    UsageError
        If the arguments are invalid.
    """
    parser = running.Parser(PROGRAM, DESCRIPTION, EXAMPLES)
    parser.usage = f"python -m {PROGRAM} [DIR]"
    parser.add_argument(
        "directory",
        metavar="DIR",
        nargs="?",
        type=Path,
        help="where to store them, readable by all users; set NUMBA_CACHE_DIR to it when running "
        "(default: $NUMBA_CACHE_DIR, or else this user's cache)",
    )
    return parser.parse_args(argv)


def warm(options: argparse.Namespace) -> None:
    """Run a command line; `fastnn.commands.running.run` turns exceptions into exit codes."""
    if options.directory is not None:
        running.check_new_directory(options.directory)
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        raise running.UsageError("NUMBA_DISABLE_JIT is set: there is nothing to compile")
    session.import_ahead(PROGRAM, "fastnn.engine")
    from fastnn.engine import fill_cache

    with session.engine_made(PROGRAM):
        fill_cache(options.directory, partial(print, flush=True))
