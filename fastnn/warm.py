"""The command line ``python -m fastnn.warm``: compile the kernels before they are needed."""

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from fastnn import _cli, _session

PROGRAM = "fastnn.warm"
EXAMPLES = """\
  python -m fastnn.warm
  python -m fastnn.warm /opt/fastnn-kernels

In the image of a container, whose processes then start at once under any user:
  RUN python -m fastnn.warm /opt/fastnn-kernels
  ENV NUMBA_CACHE_DIR=/opt/fastnn-kernels"""
DESCRIPTION = """\
Compile the kernels of the numba engine and keep them, so that later processes start at once.
Kernels are for one kind of processor: on another they are compiled anew. To prepare kernels for
other machines, set NUMBA_CPU_NAME and NUMBA_CPU_FEATURES to what all of them have, here and there."""


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
    with _session.engine_made(PROGRAM):
        print("compiling the kernels: some seconds", flush=True)
        for line in fill(options.directory):
            print(line)


def fill(directory: Path | None) -> Iterator[str]:
    """Have all kernels in the cache, and yield what came of it.

    Raises
    ------
    OSError
        If they cannot be kept there.
    """
    from fastnn.kernels import _cache
    from fastnn.kernels._simd import CPU
    from fastnn.kernels.step import KERNELS, compile_kernels

    if directory is not None:
        _cache.make_shared(directory)
    if why := _cache.obstacle():
        raise OSError(why)
    seconds, compiled = compile_kernels()
    place = _cache.cache_directory()
    files = [] if place is None else list(place.glob("*.kernel"))
    if place is None or len(files) < len(KERNELS):
        raise OSError(f"only {len(files)} of {len(KERNELS)} kernels could be kept in {place}")
    if directory is not None:
        _cache.share(place)
    size = sum(path.stat().st_size for path in files)
    done = "compiled in" if compiled else "were there already, read in"
    yield f"{len(files)} kernels, {size / 1e3:.0f} kB, {done} {seconds:.1f} s: {place}"
    yield f"for processors like this one ({CPU}); others compile their own, which takes seconds"


if __name__ == "__main__":
    _cli.leave(main())
