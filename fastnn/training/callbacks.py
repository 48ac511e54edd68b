"""Callbacks that come with fastnn: a log file and a progress bar."""

import csv
import json
import math
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from fastnn.training.fit import Callback, State
from fastnn.training.state import History


class LogFile(Callback):
    """Write the metrics of every epoch to a CSV or JSON-lines file.

    Parameters
    ----------
    path : str or Path
        The format is CSV if the name ends in ``.csv``, else JSON lines. The file is closed after
        each epoch, so that a reader sees only complete lines.
    append : bool, default False
        Whether to append to an existing file instead of replacing it.

    Raises
    ------
    OSError
        In `fit`, if the file cannot be written.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from pathlib import Path
    >>> from fastnn import LogFile, Network
    >>> x, y = np.eye(4, dtype=np.float32), [0, 1, 0, 1]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "run.csv")
    ...     history = Network([4, 2]).fit(x, y, epochs=2, callbacks=[LogFile(path)])
    ...     path.read_text().splitlines()[0]
    'epoch,loss,accuracy,learning_rate,seconds'
    """

    defers_interrupts = True

    def __init__(self, path: str | os.PathLike[str], append: bool = False) -> None:
        self.path, self.append = Path(path), append
        self._size = 0  # bytes before the lines of this fit

    def on_fit_begin(self, epochs: int, rows: int) -> None:
        """Create the file; if it cannot be written, the fit ends before it trains."""
        self.path.open("a" if self.append else "w", encoding="utf-8").close()
        self._size = self.path.stat().st_size

    def on_resume(self, epoch: int, rows: int, history: History) -> None:
        """Replace the lines of this fit by lines for the epochs of the snapshot."""
        size = self.path.stat().st_size
        if self._size < size:
            os.truncate(self.path, self._size)
        self._size = min(self._size, size)
        self.replay(epoch, history)

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        """Append one line. If a CSV file is empty, write the header first."""
        row = {"epoch": epoch, **metrics}
        with self.path.open("a", encoding="utf-8", newline="") as file:
            if self.path.suffix.lower() == ".csv":
                writer = csv.DictWriter(file, list(row))
                if file.tell() == 0:
                    writer.writeheader()
                writer.writerow(row)
            else:
                finite = {k: v if math.isfinite(v) else None for k, v in row.items()}
                file.write(json.dumps(finite) + "\n")

    def state(self) -> State:
        """Return the size that the file had when the fit began."""
        return {f"bytes in {self.path} before": [self._size]}

    def set_state(self, state: State) -> None:
        """Restore the size that the file had when the fit began."""
        for size in state.get(f"bytes in {self.path} before", []):
            self._size = int(size)


class ProgressBar(Callback):
    """Show a progress bar and the latest metrics on standard error.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import Network, ProgressBar
    >>> x, y = np.eye(4, dtype=np.float32), [0, 1, 0, 1]
    >>> history = Network([4, 2]).fit(x, y, epochs=2, callbacks=[ProgressBar()])
    """

    @contextmanager
    def context(self) -> Iterator[None]:
        """Restore the terminal at the end of the fit, even after an exception."""
        with ExitStack() as self._stack:
            yield

    def on_fit_begin(self, epochs: int, rows: int) -> None:
        """Draw the empty bar."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._done = 0
        columns = BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn()
        bar = Progress(*columns, console=Console(stderr=True))
        self._task = bar.add_task("", total=epochs * rows)
        self._bar: Any = self._stack.enter_context(bar)

    def on_resume(self, epoch: int, rows: int, history: History) -> None:
        """Show the completed epochs."""
        self.replay(epoch, history)
        self.on_chunk_end(epoch, rows)

    def on_chunk_end(self, epoch: int, rows: int) -> None:
        """Advance the bar."""
        self._bar.update(self._task, completed=self._done + rows)

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        """Show the metrics of an epoch."""
        self._done += self.fit.rows
        shown = [f"{name} {metrics[name]:.4g}" for name in metrics if name in _SHOWN]
        text = " ".join([f"epoch {epoch}", *shown])
        self._bar.update(self._task, completed=self._done, description=text)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state of a copy or a pickle, which draws its own bar."""
        return vars(self) | {"_bar": None, "_stack": None}


_SHOWN = ("loss", "accuracy", "val_loss", "val_accuracy", "val_r2", "val_score")
