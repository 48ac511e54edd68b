"""The output of a training run: lines, a progress bar on a terminal, and a log of JSON lines.

Displays and the log are callbacks of the fit. Their output is ASCII except for file names.
"""

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from fastnn.commands import running
from fastnn.commands.text import loss_text
from fastnn.commands.train_text import (
    describe,
    evaluated,
    start_fields,
    step_at,
    updates_per_epoch,
)
from fastnn.data.sets import Dataset
from fastnn.errors import DivergenceError
from fastnn.system.terminal import print_line, printable
from fastnn.training.fit import Callback, Fit
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
        """Print a line, but not with --quiet."""
        if not self._options.quiet:
            self.print(line, style)

    def print(self, line: str, style: str | None) -> None:
        """Print a line, even with --quiet; the style is for terminals only."""
        print_line(line)

    def on_fit_begin(self, epochs: int, rows: int) -> None:
        """Print the settings, and the table's header."""
        for line in describe(self._options, self._data, self.fit):
            self.say(line)
        loss, accuracy = (f"{evaluated(self._options)} {name}" for name in ("loss", "accuracy"))
        self.say()
        self.say(f"epoch    loss  accuracy {loss:>10} {accuracy:>14}  seconds   samples/s", "bold")

    def on_resume(self, epoch: int, rows: int, history: History) -> None:
        """Print the rows of the epochs before the checkpoint."""
        self.replay(epoch, history)

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

    def print(self, line: str, style: str | None) -> None:
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
    return (TerminalDisplay if is_terminal and not options.quiet else Display)(options, data)


class Log(Callback):
    """Write a JSON object per line to the file of --log-json, without buffering.

    A test or validation loss that is not finite ends the run.

    Raises
    ------
    OSError
        If the file cannot be written.
    """

    defers_interrupts = True

    def __init__(self, options: argparse.Namespace, data: Dataset) -> None:
        # Without --log-json the events go to the null device, so that only this line knows it.
        self.path = options.log_json or Path(os.devnull)
        self._options, self._data = options, data
        self._file: Any = None
        self._begun: Fit | None = None  # the fit, even after its end

    def write(self, event: str, **fields: Any) -> None:
        """Append an event; the first one replaces the file's content.

        NaN and infinity, which JSON does not have, become null.
        """
        for name, value in fields.items():
            if isinstance(value, float) and not math.isfinite(value):
                fields[name] = None
        line = json.dumps({"event": event, **fields}, allow_nan=False).encode() + b"\n"
        if self._file is None:
            self._file = self.path.open("wb", buffering=0)
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from None

    def on_fit_begin(self, epochs: int, rows: int) -> None:
        """Begin the log here, so that a run with invalid settings keeps the existing file."""
        self.write("start", **start_fields(self._options, self._data, self.fit))
        self._begun = self.fit

    def on_resume(self, epoch: int, rows: int, history: History) -> None:
        """Log the epochs before the checkpoint, and that the run continues."""
        self.replay(epoch, history)
        self.write("resumed", epoch=epoch, step=step_at(rows, self.fit))

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        """Log the metrics of an epoch; those of rows that are not evaluated are null."""
        known = evaluated(self._options)
        check_loss(metrics["val_loss"], known, self._options, self.fit)
        fields: dict[str, float | None] = {name: metrics[name] for name in ("loss", "accuracy")}
        for rows in ("test", "val"):
            for name in ("loss", "accuracy"):
                fields[f"{rows}_{name}"] = metrics[f"val_{name}"] if rows == known else None
        fields["learning_rate"] = metrics.get("learning_rate")  # lbfgs has none
        fields["seconds"] = metrics["seconds"]
        fields["samples_per_second"] = self.fit.rows / metrics["seconds"]
        self.write("epoch", epoch=epoch, **fields)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Close the file at the end; log the reason if the context is left early.

        The message of an interrupt names the position in the fit.
        """
        try:
            yield
        except DivergenceError as error:
            self.write("stopped", reason="diverged", epoch=error.epoch, step=error.step)
            raise
        except KeyboardInterrupt as error:
            why, options, fit = running.reason(error), self._options, self._begun
            epoch, measured, hint = 1, "", ""
            if fit is not None:
                epoch = min(fit.epoch, options.epochs)
                step = step_at(fit.position.progress.position, fit)
                self.write("stopped", reason=why, epoch=epoch, step=step)
                if accuracies := fit.history.get("val_accuracy"):
                    last = f"{evaluated(options)} accuracy after epoch {len(accuracies)}"
                    measured = f"; {last}: {accuracies[-1]:.2%}"
            directory = options.resume or options.checkpoint
            if directory is not None and any(directory.glob("checkpoint-*.safetensors")):
                change = f" with --resume {directory} in place of --checkpoint"
                hint = f"; to continue, run the same command{change if options.checkpoint else ''}"
            place = f"in epoch {epoch} of {options.epochs}"
            raise KeyboardInterrupt(f"{why} {place}{measured}{hint}") from None
        finally:
            if self._file is not None:
                self._file.close()


def check_loss(loss: float, rows: str, options: argparse.Namespace, fit: Fit) -> None:
    """Raise a DivergenceError if the loss on the test or validation rows is not finite.

    Finite weights can still be too large for rows that they were not trained on.
    """
    if math.isfinite(loss):
        return
    epoch = len(fit.history["loss"])
    text = f"the {rows} loss is not finite after epoch {epoch}"
    if (rate := options.learning_rate) is not None:
        text += f", at learning rate {rate:g}: try a smaller one ({rate / 10:g})"
    text += "; check the scale of the features"
    raise DivergenceError(text, epoch=epoch, step=updates_per_epoch(fit))
