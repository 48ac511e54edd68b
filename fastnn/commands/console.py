"""What a training run says: lines for a pipe, rows above a progress bar for a terminal, and a log.

Displays and the log are callbacks of the fit. Every line of theirs is plain ASCII but for the
names of files.
"""

import json
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fastnn.system.terminal import print_line, printable
from fastnn.training.callbacks import past_epochs
from fastnn.training.fit import Callback


def counted(number: int, noun: str) -> str:
    """Return a number with its noun.

    Examples
    --------
    >>> counted(1, "epoch"), counted(60_000, "row")
    ('1 epoch', '60,000 rows')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def loss_text(loss: float) -> str:
    """Return a loss in at most eight characters, small and large ones by their exponent.

    Examples
    --------
    >>> loss_text(0.07712), loss_text(3.2e-7)
    ('0.0771', '3.20e-07')
    """
    return f"{loss:.4f}" if loss == 0 or 1e-3 <= abs(loss) < 1e3 else f"{loss:.2e}"


class Display(Callback):
    """Plain lines on standard output, each one sent at once.

    Parameters
    ----------
    rows : int
        Training rows, for the samples per second.
    watched : {"test", "val"}
        Which rows are evaluated after every epoch.
    """

    def __init__(self, rows: int, watched: str = "test") -> None:
        self._rows, self._watched = rows, watched

    def say(self, line: str = "", style: str | None = None) -> None:
        """Print a line; only a terminal knows styles."""
        print_line(line)

    def conclude(self, line: str) -> None:
        """Print the one line that --quiet leaves."""
        self.say(line, "bold")

    @contextmanager
    def table(self, epochs: int) -> Iterator[None]:
        """Print a fit's table while the context lasts."""
        yield
        self.say()

    def on_fit_begin(self, epochs: int, rows: int) -> None:
        """Print the table's header."""
        loss, accuracy = f"{self._watched} loss", f"{self._watched} accuracy"
        self.say()
        self.say(f"epoch    loss  accuracy {loss:>10} {accuracy:>14}  seconds   samples/s", "bold")

    def on_resume(self, epoch: int, rows: int, history: dict[str, list[float]]) -> None:
        """Print the rows of the epochs before."""
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
    """The last line alone."""

    def say(self, line: str = "", style: str | None = None) -> None:
        """Print nothing."""

    def conclude(self, line: str) -> None:
        """Print the one line that --quiet leaves."""
        super().say(line)


class TerminalDisplay(Display):
    """Lines above one progress bar for the whole run, which vanishes when the run ends.

    The bar is drawn between two calls of the engine, at most every REFRESH_SECONDS, by no thread
    of its own: a thread would take its time from the kernels'.
    """

    REFRESH_SECONDS = 0.1

    def __init__(self, rows: int, watched: str = "test") -> None:
        from rich.console import Console

        super().__init__(rows, watched)
        self._console = Console(highlight=False)
        self._next_refresh = 0.0

    def say(self, line: str = "", style: str | None = None) -> None:
        """Print a line above the bar, unwrapped."""
        self._console.out(printable(line), style=style, highlight=False)

    @contextmanager
    def table(self, epochs: int) -> Iterator[None]:
        """Print a fit's table while the context lasts, and the bar below it."""
        from rich.progress import (
            BarColumn,
            Progress,
            ProgressColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        columns: list[ProgressColumn] = [
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}")
        ]
        if self._console.width >= 60:  # what has no room would be wrapped
            columns += [BarColumn(), TextColumn("{task.percentage:3.0f}%"), TimeRemainingColumn()]
        with super().table(epochs):
            with Progress(
                *columns, console=self._console, auto_refresh=False, transient=True
            ) as self._progress:
                self._task = self._progress.add_task(
                    "", total=epochs * self._rows, epoch=1, epochs=epochs
                )
                yield

    def on_chunk_end(self, epoch: int, rows: int) -> None:
        """Move the bar, if it is time."""
        now = time.monotonic()
        if now >= self._next_refresh:
            self._next_refresh = now + self.REFRESH_SECONDS
            done = (epoch - 1) * self._rows + rows
            self._progress.update(self._task, completed=done, epoch=epoch, refresh=True)


def open_display(rows: int, watched: str = "test", *, quiet: bool) -> Display:
    """Return the display that fits standard output."""
    if quiet:
        return QuietDisplay(rows)
    terminal = sys.stdout is not None and sys.stdout.isatty()
    return (TerminalDisplay if terminal else Display)(rows, watched)


class JsonLog(Callback):
    """A file of JSON objects, one a line, each handed to the system at once.

    Parameters
    ----------
    path : Path
        The file; what it held is lost with the first event.
    rows : int
        Training rows, for the samples per second.
    watched : {"test", "val"}
        Which rows are evaluated after every epoch; the figures of the others are null.

    Raises
    ------
    OSError
        If the file cannot be written, now or later.
    """

    def __init__(self, path: Path, rows: int, watched: str = "test") -> None:
        self._path, self._rows, self._watched = path, rows, watched
        self._file: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()

    @property
    def begun(self) -> bool:
        """Whether there are events."""
        return self._file is not None

    def write(self, event: str, **fields: Any) -> None:
        """Append an event. JSON knows no NaN and no infinity: they become null."""
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
        """Raise an OSError if the file is where nobody finds it: it has been removed."""
        self._path.stat()

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        """Append what an epoch measured."""
        fields: dict[str, float | None] = {name: metrics[name] for name in ("loss", "accuracy")}
        for rows in ("test", "val"):
            for name in ("loss", "accuracy"):
                known = rows == self._watched
                fields[f"{rows}_{name}"] = metrics[f"val_{name}"] if known else None
        fields["learning_rate"] = metrics.get("learning_rate")  # L-BFGS has none
        fields["seconds"] = metrics["seconds"]
        fields["samples_per_second"] = self._rows / metrics["seconds"]
        self.write("epoch", epoch=epoch, **fields)


def versions() -> dict[str, str]:
    """Return the versions of fastnn, Python, and the packages that compute or bring data."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    from fastnn import __version__

    found = {"fastnn": __version__, "python": platform.python_version()}
    for package in ("numpy", "numba", "scikit-learn"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # the reference engine needs NumPy alone
            pass
    return found
