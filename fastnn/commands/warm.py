"""The command ``python -m fastnn.warm``: compile the kernels in advance."""

import argparse
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from fastnn.commands import running, session
from fastnn.commands.options import Parser, UsageError

PROGRAM = "fastnn.warm"
EXAMPLES = """\
  python -m fastnn.warm
  python -m fastnn.warm /var/lib/fastnn

In a container image, as root, so that every user starts without compiling:
  RUN python -m fastnn.warm /var/lib/fastnn
  ENV NUMBA_CACHE_DIR=/var/lib/fastnn"""
DESCRIPTION = """\
Compile the kernels of the numba engine and store them in a cache, so that later
processes start without compiling. Compiled kernels are specific to a type of
processor; on a different type, fastnn compiles its own. To use one cache on
several types, set NUMBA_CPU_NAME and NUMBA_CPU_FEATURES to a processor and to
features that all of them support, both for this command and for the programs
that use the cache."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return the exit code of the process."""
    return running.run(PROGRAM, lambda: warm(parse(argv)))


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line, or raise a UsageError."""
    parser = Parser(PROGRAM, DESCRIPTION, EXAMPLES, "[DIR]")
    parser.add_argument(
        "directory",
        metavar="DIR",
        nargs="?",
        type=Path,
        help="cache directory, created if necessary and readable by all users; programs use it if "
        "NUMBA_CACHE_DIR is set to it (default: $NUMBA_CACHE_DIR, or this user's cache directory)",
    )
    return parser.parse_args(argv)


def warm(options: argparse.Namespace) -> None:
    """Compile and store the kernels; print where they are."""
    if options.directory is not None:
        session.check_new_directory(options.directory)
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        raise UsageError("NUMBA_DISABLE_JIT is set, which disables compilation: unset it")
    session.import_early(PROGRAM, "fastnn.engine")
    from fastnn.engine import fill_cache

    with session.engine_errors(PROGRAM):
        fill_cache(options.directory, partial(print, flush=True))
