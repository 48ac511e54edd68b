"""The output of a training run: lines, and a progress bar on a terminal.

Displays are callbacks of the fit. Their output is ASCII except for file names.
"""

import argparse
import sys
import time
from contextlib import AbstractContextManager
from typing import Any

from fastnn.commands.text import loss_text
from fastnn.commands.train_text import describe, evaluated
from fastnn.data.sets import Dataset
from fastnn.system.terminal import print_line, printable
from fastnn.training.callbacks import past_epochs
from fastnn.training.fit import Callback
from fastnn.training.state import History


class Display(Callback):
    """Print plain lines on standard output; each one is flushed.

    Parameters
    ----------
    options : Namespace
    data : Dataset
    """

    def __init__(self, options: argparse.Namespace, data: Dataset) -> None:
        self._options, self._data = options, data

    def say(self, line: str = "", style: str | None = None) -> None:
        """Print a line; the style is for terminals only."""
        print_line(line)

    def conclude(self, line: str) -> None:
        """Print the last line, also with --quiet."""
        self.say(line, "bold")

    def on_fit_begin(self, epochs: int, rows: int) -> None:
        """Print the settings, and the table's header."""
        for line in describe(self._options, self._data, self.fit):
            self.say(line)
        loss, accuracy = (f"{evaluated(self._options)} {name}" for name in ("loss", "accuracy"))
        self.say()
        self.say(f"epoch    loss  accuracy {loss:>10} {accuracy:>14}  seconds   samples/s", "bold")

    def on_resume(self, epoch: int, rows: int, history: History) -> None:
        """Print the rows of the epochs before the checkpoint."""
        for number, metrics in past_epochs(epoch, history):
            self.on_epoch_end(number, metrics)

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        """Print the row of an epoch."""
        seconds = metrics["seconds"]
        self.say(
            f"{epoch:5} {loss_text(metrics['loss']):>7} {metrics['accuracy']:>9.2%}"
            f" {loss_text(metrics['val_loss']):>10} {metrics['val_accuracy']:>14.2%}"
            f" {seconds:8.3f} {self.fit.rows / seconds:11,.0f}"
        )

    def on_fit_end(self, history: History) -> None:
        """Print a blank line below the table."""
        self.say()


class QuietDisplay(Display):
    """Print only the last line."""

    def say(self, line: str = "", style: str | None = None) -> None:
        """Print nothing."""

    def conclude(self, line: str) -> None:
        """Print the last line, also with --quiet."""
        super().say(line)


class TerminalDisplay(Display):
    """Print lines above a progress bar, which is removed when the run ends.

    The bar is drawn between two calls of the engine, at most every `REFRESH_SECONDS`. A thread
    that draws it would take time from the kernels.
    """

    REFRESH_SECONDS = 0.1

    def __init__(self, options: argparse.Namespace, data: Dataset) -> None:
        from rich.console import Console

        super().__init__(options, data)
        self._console = Console(highlight=False)
        self._next_refresh = 0.0

    def say(self, line: str = "", style: str | None = None) -> None:
        """Print a line above the bar without wrapping it."""
        self._console.out(printable(line), style=style, highlight=False)

    def context(self) -> AbstractContextManager[Any]:
        """Return the progress bar, which is shown during the fit."""
        from rich.progress import Progress

        self._bar = Progress(console=self._console, auto_refresh=False, transient=True)
        epochs = self.fit.plan.epochs
        self._task = self._bar.add_task(f"epoch 1/{epochs}", total=epochs * self.fit.rows)
        return self._bar

    def on_chunk_end(self, epoch: int, rows: int) -> None:
        """Move the bar if `REFRESH_SECONDS` have passed."""
        now = time.monotonic()
        if now >= self._next_refresh:
            self._next_refresh = now + self.REFRESH_SECONDS
            done = (epoch - 1) * self.fit.rows + rows
            text = f"epoch {epoch}/{self.fit.plan.epochs}"
            self._bar.update(self._task, completed=done, description=text, refresh=True)


def open_display(options: argparse.Namespace, data: Dataset) -> Display:
    """Return the display for standard output: a terminal, a pipe or a file, or quiet."""
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    display = QuietDisplay if options.quiet else TerminalDisplay if is_terminal else Display
    return display(options, data)
