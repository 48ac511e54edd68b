"""The settings and results of a training run, as lines of text and as fields of the log."""

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastnn.commands.machine import versions
from fastnn.commands.session import threads_text, widths_of
from fastnn.commands.text import counted, loss_text
from fastnn.training.early_stopping import EarlyStopping, Standing, is_over, judge

if TYPE_CHECKING:
    from fastnn.data.sets import Dataset
    from fastnn.engine import Engine
    from fastnn.network import Network
    from fastnn.training.state import History, Prepared


@dataclass(frozen=True)
class Run:
    """A training run, ready to start.

    Attributes
    ----------
    options : Namespace
    data : Dataset
    network : Network
    engine : Engine
    prepared : Prepared
        The data and settings of the fit. Without a validation fraction, the test rows are
        evaluated after each epoch.
    """

    options: argparse.Namespace
    data: "Dataset"
    network: "Network"
    engine: "Engine"
    prepared: "Prepared"

    @property
    def rows(self) -> int:
        """Number of training rows."""
        return len(self.prepared.training.x)

    @property
    def validation_rows(self) -> int:
        """Number of rows set aside from training."""
        validation = self.prepared.validation
        return 0 if validation is None or self.evaluated == "test" else len(validation.x)

    @property
    def evaluated(self) -> str:
        """Name of the rows that are evaluated after each epoch: "test" or "val"."""
        return "test" if self.options.validation_fraction is None else "val"

    @property
    def batch_rows(self) -> int:
        """Rows per update."""
        size = self.options.batch_size
        return self.rows if size == "full" else min(self.rows, size)

    @property
    def updates(self) -> int:
        """Updates per epoch."""
        return -(-self.rows // self.batch_rows)

    @property
    def widths(self) -> str:
        """Inputs, hidden widths and outputs, like 784-128-10."""
        return "-".join(map(str, widths_of(self.network)))

    @property
    def rule(self) -> EarlyStopping | None:
        """Rule of early stopping, if any."""
        return self.prepared.plan.early_stopping


def stopping_rule(options: argparse.Namespace) -> EarlyStopping | None:
    """Return the rule of early stopping that the options describe."""
    if not options.early_stopping:
        return None
    return EarlyStopping(options.monitor, options.patience, options.min_delta)


def describe(run: Run) -> list[str]:
    """Return lines that describe the network, the data and the settings."""
    options, data = run.options, run.data
    lines = [
        f"network   {', '.join(_network_parts(run))}",
        f"data      {data.name}: {_rows_text(run)}",
        f"          from {data.source}",
        f"engine    {_engine_text(run)}",
        f"batches   {_batches_text(run)}",
        f"training  {counted(options.epochs, 'epoch')} of {', '.join(_training_parts(options))}",
    ]
    if (rule := run.rule) is not None:
        lines.append(
            f"stopping  after more than {counted(options.patience, 'epoch')} in which "
            f"{rule.monitor} has not improved by {rule.min_delta:g}"
        )
    return lines


def _network_parts(run: Run) -> list[str]:
    options = run.options
    parts = [run.widths, counted(run.network.n_parameters, "parameter")]
    if options.hidden:
        parts.insert(1, _joined(options.activation))
    if options.dropout:
        parts.append(f"dropout {_joined(options.dropout)}")
    return parts


def _joined(values: Any) -> str:
    return "-".join(map(str, values)) if isinstance(values, tuple) else str(values)


def _rows_text(run: Run) -> str:
    validation = f"{run.validation_rows:,} validation, " if run.validation_rows else ""
    return f"{run.rows:,} training, {validation}{len(run.data.x_test):,} test rows"


def _engine_text(run: Run) -> str:
    """Return the engine's name, its threads and how long its preparation took."""
    engine = run.engine
    text = f"{engine.name}, {threads_text(engine)}"
    if engine.threads is None:
        return text if run.options.threads is None else f"{text} (--threads is for numba)"
    ready = "compiled" if engine.compiled else "loaded from the cache"
    return f"{text}, kernels {ready} in {engine.compile_seconds:.2f} s"


def _batches_text(run: Run) -> str:
    size, rows = run.options.batch_size, counted(run.batch_rows, "row")
    if run.batch_rows == run.rows:
        rows = f"all {rows}"
        if size != "full" and size > run.rows:
            rows += f" (fewer than {size:,})"
    if run.options.optimizer == "lbfgs":
        return f"{rows}, 1 iteration per epoch"
    return f"{rows}, {counted(run.updates, 'update')} per epoch"


def _training_parts(options: argparse.Namespace) -> list[str]:
    """Return the settings of the training that are not off."""
    parts = [options.optimizer]
    for name in ("learning_rate", "momentum", "weight_decay", "l2", "clip_norm", "warmup_epochs"):
        if getattr(options, name):
            parts.append(f"{name.replace('_', ' ')} {getattr(options, name):g}")
    if options.schedule != "constant":
        parts.append(f"schedule {options.schedule}")
    if options.class_weight:
        parts.append(f"class weight {options.class_weight}")
    return [*parts, f"seed {options.seed}"]


def start_fields(run: Run) -> dict[str, Any]:
    """Return the fields of the log's first event."""
    options, data, layers = run.options, run.data, run.network.layers
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
        "engine": run.engine.name,
        "dataset": data.name,
        "data_source": data.source,
        "layers": widths_of(run.network),
        "activations": [layer.activation for layer in layers[:-1]],
        "dropout": [layer.dropout for layer in layers],
        "parameters": run.network.n_parameters,
        "train_rows": run.rows,
        "validation_rows": run.validation_rows,
        "test_rows": len(data.x_test),
        "batch_size": run.batch_rows,
        **{name: getattr(options, name) for name in settings},
        "threads": run.engine.threads,
        "threading_layer": run.engine.threading_layer,
        "versions": versions(),
    }


def best_epoch(rule: EarlyStopping, history: "History") -> int:
    """Return the epoch whose weights early stopping restores."""
    return _standing(rule, history).best_epoch


def _standing(rule: EarlyStopping, history: "History") -> Standing:
    standing = Standing()
    for epoch, value in enumerate(history[rule.monitor], start=1):
        standing = judge(rule, standing, epoch, value)
    return standing


def ending_text(run: Run, history: "History") -> str | None:
    """Return why a run ended before its last epoch, or None."""
    epochs = len(history["loss"])
    if epochs == run.options.epochs:
        return None
    rule = run.rule
    why = "the training loss has stopped improving"  # with the adaptive schedule
    if rule is not None and is_over(rule, _standing(rule, history)):
        why = f"{rule.monitor} has stopped improving"
    elif run.options.optimizer == "lbfgs":
        why = "lbfgs cannot improve the loss"
    return f"stopped after {epochs:,} of {counted(run.options.epochs, 'epoch')}: {why}"


def result_text(result: dict[str, Any]) -> str:
    """Return the last line of the output."""
    text = (
        f"test accuracy {result['test_accuracy']:.2%}, test loss {loss_text(result['test_loss'])}, "
        f"after {counted(result['epochs_run'], 'epoch')}"
    )
    best = result["best_epoch"]
    return (
        text
        if best in (None, result["epochs_run"])
        else f"{text}, with the weights of epoch {best:,}"
    )
