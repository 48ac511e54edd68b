"""The command ``python -m fastnn.train``: train a network, print its progress, draw it."""

import argparse
import time
from collections.abc import Sequence

from fastnn.commands import running, session
from fastnn.commands.train_options import PROGRAM, parse


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return the exit code of the process."""
    return running.run(PROGRAM, lambda: train(parse(argv)))


def train(options: argparse.Namespace) -> None:
    """Check that the output can be written, import what the run needs, and run it."""
    start = time.perf_counter()
    if options.log_json is not None:
        session.check_file(options.log_json)
    if options.save is not None:
        session.check_replaceable(options.save)
    if options.plots is not None:
        session.check_new_directory(options.plots)
    modules = ["fastnn.commands.train_run"]
    if options.dataset == "digits" or options.validation_fraction is not None:
        modules += ["sklearn.datasets", "sklearn.model_selection"]
    session.import_early(PROGRAM, *modules)
    from fastnn.commands.train_run import train_run

    train_run(options, start)
