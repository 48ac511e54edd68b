"""The command line ``python -m fastnn.warm``: compile the kernels before they are needed."""

import argparse
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from fastnn import _cli, _session

PROGRAM = "fastnn.warm"
EXAMPLES = """\
  python -m fastnn.warm
  python -m fastnn.warm /var/lib/fastnn

In the image of a container, whose processes then start at once under any user:
  RUN python -m fastnn.warm /var/lib/fastnn
  ENV NUMBA_CACHE_DIR=/var/lib/fastnn"""
DESCRIPTION = """\
Compile the kernels of the numba engine and keep them, so that later processes start at once.
Kernels are for one kind of processor: on another they are compiled anew. To prepare kernels for
other machines, set NUMBA_CPU_NAME and NUMBA_CPU_FEATURES here and there,
to what all of them have."""


def main(argv: Sequence[str] | None = None) -> int:
    """Compile as the arguments say; return the exit code of the process."""
    return _cli.run(PROGRAM, lambda: warm(parse(argv)))


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Raises
    ------
    UsageError
        If it asks for what cannot be.
    """
    parser = _cli.Parser(PROGRAM, DESCRIPTION, EXAMPLES)
    parser.usage = f"python -m {PROGRAM} [DIR]"
    parser.add_argument(
        "directory",
        metavar="DIR",
        nargs="?",
        type=Path,
        help="keep them here, readable for all users; NUMBA_CACHE_DIR has to name the same "
        "directory later ($NUMBA_CACHE_DIR, or else this user's cache)",
    )
    return parser.parse_args(argv)


def warm(options: argparse.Namespace) -> None:
    """Do what a command line asks for; `fastnn._cli.run` turns what it raises into exit codes."""
    if options.directory is not None:
        _cli.check_new_directory(options.directory)
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        raise _cli.UsageError("NUMBA_DISABLE_JIT is set: there is nothing to compile")
    _session.import_ahead(PROGRAM, "fastnn.engine")
    from fastnn.engine import fill_cache

    with _session.engine_made(PROGRAM):
        fill_cache(options.directory, partial(print, flush=True))


if __name__ == "__main__":
    _cli.leave(main())
