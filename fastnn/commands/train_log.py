"""The log of a training run, in JSON lines."""

import argparse
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastnn.commands import running
from fastnn.commands.machine import versions
from fastnn.commands.train_text import evaluated, validation_rows
from fastnn.data.sets import Dataset
from fastnn.errors import DivergenceError
from fastnn.training.callbacks import past_epochs
from fastnn.training.fit import Callback, Fit
from fastnn.training.state import History


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
        self._begun: Fit | None = None  # the fit, also after its end

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
        for number, metrics in past_epochs(epoch, history):
            self.on_epoch_end(number, metrics)
        self.write("resumed", epoch=epoch, step=rows // self.fit.batch_size + 1)

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        """Log the figures of an epoch; those of rows that are not evaluated are null."""
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
                step = fit.position.progress.position // fit.batch_size + 1
                self.write("stopped", reason=why, epoch=epoch, step=step)
                if accuracies := fit.history.get("val_accuracy"):
                    last = f"{evaluated(options)} accuracy after {len(accuracies)}"
                    measured = f"; {last}: {accuracies[-1]:.2%}"
            directory = options.resume or options.checkpoint
            if directory is not None and any(directory.glob("checkpoint-*.safetensors")):
                hint = f"; to continue, run the same command with --resume {directory}"
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
    raise DivergenceError(text, epoch=epoch, step=-(-fit.rows // fit.batch_size))


def start_fields(options: argparse.Namespace, data: Dataset, fit: Fit) -> dict[str, Any]:
    """Return the fields of the log's first event."""
    layers = fit.network.layers
    settings = (
        "epochs",
        "optimizer",
        "learning_rate",
        "momentum",
        "weight_decay",
        "l2",
        "clip_norm",
        "schedule",
        "warmup_epochs",
        "class_weight",
        "validation_fraction",
        "early_stopping",
        "monitor",
        "patience",
        "min_delta",
        "seed",
    )
    return {
        "schema": 1,
        "engine": fit.engine.name,
        "dataset": data.name,
        "data_source": data.source,
        "layers": [layers[0].inputs, *(layer.outputs for layer in layers)],
        "activations": [layer.activation for layer in layers[:-1]],
        "dropout": [layer.dropout for layer in layers],
        "parameters": fit.network.n_parameters,
        "train_rows": fit.rows,
        "validation_rows": validation_rows(options, fit),
        "test_rows": len(data.x_test),
        "batch_size": fit.batch_size,
        **{name: getattr(options, name) for name in settings},
        "threads": fit.engine.threads,
        "threading_layer": fit.engine.threading_layer,
        "versions": versions(),
    }
