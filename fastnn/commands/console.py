"""The output of a training run: lines, a progress bar on a terminal, and a log of JSON lines.

Displays and the log are callbacks of the fit. Their output is ASCII except for file names.
"""

import json
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastnn.commands.text import loss_text
from fastnn.system.terminal import print_line, printable
from fastnn.training.callbacks import past_epochs
from fastnn.training.fit import Callback


class Display(Callback):
    """Print plain lines on standard output; each one is flushed.

    Parameters
    ----------
    rows : int
        Number of training rows, for the samples per second.
    evaluated : {"test", "val"}
        The rows that are evaluated after each epoch.
    """

    def __init__(self, rows: int, evaluated: str = "test") -> None:
        self._rows, self._evaluated = rows, evaluated

    def say(self, line: str = "", style: str | None = None) -> None:
        """Print a line; the style is for terminals only."""
        print_line(line)

    def conclude(self, line: str) -> None:
        """Print the last line, also with --quiet."""
        self.say(line, "bold")

    @contextmanager
    def table(self, epochs: int) -> Iterator[None]:
        """Enclose the fit, whose epochs are printed as a table."""
        yield
        self.say()

    def on_fit_begin(self, epochs: int, rows: int) -> None:
        """Print the table's header."""
        loss, accuracy = f"{self._evaluated} loss", f"{self._evaluated} accuracy"
        self.say()
        self.say(f"epoch    loss  accuracy {loss:>10} {accuracy:>14}  seconds   samples/s", "bold")

    def on_resume(self, epoch: int, rows: int, history: dict[str, list[float]]) -> None:
        """Print the rows of the epochs before the checkpoint."""
        for number, metrics in past_epochs(epoch, history):
            self.on_epoch_end(number, metrics)

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        """Print the row of an epoch."""
        seconds = metrics["seconds"]
        self.say(
            f"{epoch:5} {loss_text(metrics['loss']):>7} {metrics['accuracy']:>9.2%}"
            f" {loss_text(metrics['val_loss']):>10} {metrics['val_accuracy']:>14.2%}"
            f" {seconds:8.3f} {self._rows / seconds:11,.0f}"
        )


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

    def __init__(self, rows: int, evaluated: str = "test") -> None:
        from rich.console import Console

        super().__init__(rows, evaluated)
        self._console = Console(highlight=False)
        self._next_refresh = 0.0

    def say(self, line: str = "", style: str | None = None) -> None:
        """Print a line above the bar without wrapping it."""
        self._console.out(printable(line), style=style, highlight=False)

    @contextmanager
    def table(self, epochs: int) -> Iterator[None]:
        """Enclose the fit, whose table is printed above a progress bar."""
        from rich.progress import Progress

        bar = Progress(console=self._console, auto_refresh=False, transient=True)
        with super().table(epochs), bar as self._progress:
            self._epochs = epochs
            self._task = self._progress.add_task(f"epoch 1/{epochs}", total=epochs * self._rows)
            yield

    def on_chunk_end(self, epoch: int, rows: int) -> None:
        """Move the bar if `REFRESH_SECONDS` have passed."""
        now = time.monotonic()
        if now >= self._next_refresh:
            self._next_refresh = now + self.REFRESH_SECONDS
            done = (epoch - 1) * self._rows + rows
            text = f"epoch {epoch}/{self._epochs}"
            self._progress.update(self._task, completed=done, description=text, refresh=True)


def open_display(rows: int, evaluated: str = "test", *, quiet: bool) -> Display:
    """Return the display for standard output: a terminal, a pipe or a file, or quiet."""
    if quiet:
        return QuietDisplay(rows)
    terminal = sys.stdout is not None and sys.stdout.isatty()
    return (TerminalDisplay if terminal else Display)(rows, evaluated)


class JsonLog(Callback):
    """Write a JSON object per line to a file, without buffering.

    Parameters
    ----------
    path : Path
        The file; the first event replaces its content.
    rows : int
        Number of training rows, for the samples per second.
    evaluated : {"test", "val"}
        The rows that are evaluated after each epoch; the figures of the others are null.

    Raises
    ------
    OSError
        If the file cannot be written.
    """

    def __init__(self, path: Path, rows: int, evaluated: str = "test") -> None:
        self._path, self._rows, self._evaluated = path, rows, evaluated
        self._file: Any = None

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._file is not None:
            self._file.close()

    @property
    def begun(self) -> bool:
        """Whether an event has been written."""
        return self._file is not None

    def write(self, event: str, **fields: Any) -> None:
        """Append an event. NaN and infinity, which JSON does not have, become null."""
        for name, value in fields.items():
            if isinstance(value, float) and not math.isfinite(value):
                fields[name] = None
        line = json.dumps({"event": event, **fields}, allow_nan=False).encode() + b"\n"
        if self._file is None:
            self._file = self._path.open("wb", buffering=0)
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from None

    def check(self) -> None:
        """Raise an OSError if the file has been removed."""
        self._path.stat()

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        """Append the figures of an epoch."""
        fields: dict[str, float | None] = {name: metrics[name] for name in ("loss", "accuracy")}
        for rows in ("test", "val"):
            for name in ("loss", "accuracy"):
                known = rows == self._evaluated
                fields[f"{rows}_{name}"] = metrics[f"val_{name}"] if known else None
        fields["learning_rate"] = metrics.get("learning_rate")  # lbfgs has none
        fields["seconds"] = metrics["seconds"]
        fields["samples_per_second"] = self._rows / metrics["seconds"]
        self.write("epoch", epoch=epoch, **fields)
