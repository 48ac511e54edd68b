"""What may watch a fit."""

import csv
import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


class Callback:
    """Base class: override what you want to see. Every method does nothing here.

    Callbacks run in Python between calls of the engine. They may raise to end the fit; the
    network keeps the weights that it has then, or the best where early stopping keeps them.
    """

    def on_fit_begin(self, epochs: int, rows: int) -> None:
        """See how many epochs of how many rows there will be, at most."""

    def on_resume(self, epoch: int, rows: int, history: dict[str, list[float]]) -> None:
        """See that a fit goes on from a checkpoint, after `on_fit_begin`.

        It goes on in an epoch, counted from 1, of which so many rows are done; the history is that
        of the epochs before.
        """

    def on_epoch_begin(self, epoch: int) -> None:
        """See that an epoch, counted from 1, begins."""

    def on_chunk_end(self, epoch: int, rows: int) -> None:
        """See how many rows of an epoch, counted from 1, are done; called many times a second."""

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> bool | None:
        """See the figures of an epoch, counted from 1, that is over; return True to end the fit.

        `metrics` holds what `fastnn.Network.fit` adds to the history for it.
        """

    def on_fit_end(self, history: dict[str, list[float]]) -> None:
        """See the history of a fit that has come to its end, and was not broken off."""

    def on_fit_break(self) -> None:
        """See that an exception breaks off a fit; it goes on its way after this."""


class Bookkeeper(Callback):
    """A callback whose `on_epoch_end` is part of the fit's own bookkeeping.

    An interrupt waits for it, and so finds either all counts with an epoch or all without.

    Attributes
    ----------
    kept : dict of str to list of float
        What a checkpoint keeps for it, and it has again before `on_resume`.
    """

    kept: dict[str, list[float]] = {}


def checked(callbacks: Sequence[Callback]) -> Sequence[Callback]:
    """Return callbacks, or raise a TypeError if they are none."""
    if isinstance(callbacks, Callback):
        raise TypeError("callbacks must be a list of instances of fastnn.Callback, got one alone")
    for each in callbacks:
        if not isinstance(each, Callback):
            raise TypeError(f"callbacks must be instances of fastnn.Callback, got {each!r}")
    return callbacks


def past_epochs(epoch: int, history: dict[str, list[float]]) -> Iterator[tuple[int, Any]]:
    """Yield the numbers and figures of the epochs before the one in which a fit goes on."""
    names = list(history)
    figures = list(zip(*history.values(), strict=True))
    for number, values in enumerate(figures, start=epoch - len(figures)):
        yield number, dict(zip(names, values, strict=True))


class LogFile(Bookkeeper):
    """Write the figures of every epoch to a file: CSV if its name ends so, else JSON lines.

    Parameters
    ----------
    path : str or Path
        The file is closed between epochs, so that whoever reads it finds whole lines.
    append : bool, default False
        Whether a fit adds its lines to what is there, such as those of the fits before it, instead
        of replacing it.
    """

    def __init__(self, path: str | os.PathLike[str], append: bool = False) -> None:
        self.path, self.append = Path(path), append

    def on_fit_begin(self, epochs: int, rows: int) -> None:
        """Begin anew or go on; a file that cannot be written is known before the training."""
        self.path.open("a" if self.append else "w", encoding="utf-8").close()
        self.kept = {f"bytes in {self.path} before": [self.path.stat().st_size]}

    def on_resume(self, epoch: int, rows: int, history: dict[str, list[float]]) -> None:
        """Write the lines of the epochs before, in the place of those that are there."""
        ((name, before),) = self.kept.items()
        size = self.path.stat().st_size
        if before and before[0] < size:
            size = int(before[0])
            os.truncate(self.path, size)
        self.kept = {name: [size]}
        for number, metrics in past_epochs(epoch, history):
            self.on_epoch_end(number, metrics)

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        """Write a line, and in CSV the names before the file's first."""
        row = {"epoch": epoch, **metrics}
        with self.path.open("a", encoding="utf-8", newline="") as file:
            if self.path.suffix.lower() == ".csv":
                writer = csv.DictWriter(file, list(row))
                if file.tell() == 0:
                    writer.writeheader()
                writer.writerow(row)
            else:
                known = {k: v if math.isfinite(v) else None for k, v in row.items()}
                file.write(json.dumps(known) + "\n")


class ProgressBar(Callback):
    """Show how far a fit is, with its latest figures, on standard error."""

    def __init__(self) -> None:
        self._bar: Any = None

    def on_fit_begin(self, epochs: int, rows: int) -> None:
        """Draw the empty bar."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._stop()
        self._rows, self._done = rows, 0
        columns = BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn()
        self._bar = Progress(*columns, console=Console(stderr=True))
        self._task = self._bar.add_task("", total=epochs * rows)
        self._bar.start()

    def on_resume(self, epoch: int, rows: int, history: dict[str, list[float]]) -> None:
        """Begin where the fit does."""
        for number, metrics in past_epochs(epoch, history):
            self.on_epoch_end(number, metrics)
        self.on_chunk_end(epoch, rows)

    def on_chunk_end(self, epoch: int, rows: int) -> None:
        """Move on."""
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done + rows)

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        """Show the figures."""
        if self._bar is not None:
            self._done += self._rows
            shown = [f"{name} {metrics[name]:.4g}" for name in metrics if name in _SHOWN]
            text = " ".join([f"epoch {epoch}", *shown])
            self._bar.update(self._task, completed=self._done, description=text)

    def on_fit_end(self, history: dict[str, list[float]]) -> None:
        """Leave the bar as it is."""
        self._stop()

    def on_fit_break(self) -> None:
        """Leave the bar as it is, and the terminal in order."""
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


_SHOWN = ("loss", "accuracy", "val_loss", "val_accuracy", "val_r2", "val_score")
