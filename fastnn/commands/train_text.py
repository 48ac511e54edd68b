"""The settings and results of a training run, as lines of text and as fields of the log."""

import argparse
from typing import Any

from fastnn.commands.machine import versions
from fastnn.commands.session import threads_text, widths_text
from fastnn.commands.text import counted, loss_text
from fastnn.commands.train_options import OPTIMIZER_OPTIONS, STOPPING_OPTIONS
from fastnn.data.sets import Dataset
from fastnn.engine import Engine
from fastnn.network import Network
from fastnn.training.early_stopping import is_over
from fastnn.training.fit import Fit


def evaluated(options: argparse.Namespace) -> str:
    """Return which rows are evaluated after each epoch: "test" or "val"."""
    return "test" if options.validation_fraction is None else "val"


def validation_rows(options: argparse.Namespace, fit: Fit) -> int:
    """Return the number of rows set aside from training."""
    if fit.validation is None or evaluated(options) == "test":
        return 0
    return len(fit.validation.x)


def updates_per_epoch(fit: Fit) -> int:
    """Return the number of batches; the last one may be smaller."""
    return -(-fit.rows // fit.batch_size)


def step_at(rows: int, fit: Fit) -> int:
    """Return the step, counted from 1, that is running when `rows` rows of an epoch are done."""
    return min(rows // fit.batch_size + 1, updates_per_epoch(fit))


def describe(options: argparse.Namespace, data: Dataset, fit: Fit) -> list[str]:
    """Return lines that describe the network, the data and the settings."""
    aside = validation_rows(options, fit)
    validation = f"{aside:,} validation, " if aside else ""
    lines = [
        f"network   {', '.join(_network_parts(options, fit.network))}",
        f"data      {data.name}: {fit.rows:,} training, {validation}{len(data.x_test):,} test rows",
        f"          from {data.source}",
        f"engine    {_engine_text(options, fit.engine)}",
        f"batches   {_batches_text(options, fit)}",
        f"training  {counted(options.epochs, 'epoch')} of {', '.join(_training_parts(options))}",
    ]
    if options.early_stopping:
        lines.append(
            f"stopping  after more than {counted(options.patience, 'epoch')} in which "
            f"{options.monitor} has not improved by {options.min_delta:g}"
        )
    return lines


def _network_parts(options: argparse.Namespace, network: Network) -> list[str]:
    parts = [widths_text(network), counted(network.n_parameters, "parameter")]
    if options.hidden:
        parts.insert(1, _joined(options.activation))
    if options.dropout:
        parts.append(f"dropout {_joined(options.dropout)}")
    return parts


def _joined(values: Any) -> str:
    return "-".join(map(str, values)) if isinstance(values, tuple) else str(values)


def _engine_text(options: argparse.Namespace, engine: Engine) -> str:
    """Return the engine's name, its threads and how long its preparation took."""
    text = f"{engine.name}, {threads_text(engine)}"
    if engine.threads is None:
        return text if options.threads is None else f"{text} (--threads is for numba)"
    ready = "compiled" if engine.compiled else "loaded from the cache"
    return f"{text}, kernels {ready} in {engine.compile_seconds:.2f} s"


def _batches_text(options: argparse.Namespace, fit: Fit) -> str:
    size, rows = options.batch_size, counted(fit.batch_size, "row")
    if fit.batch_size == fit.rows:
        rows = f"all {rows}"
        if size != "full" and size > fit.rows:
            rows += f" (fewer than {size:,})"
    if options.optimizer == "lbfgs":
        return f"{rows}, 1 iteration per epoch"
    return f"{rows}, {counted(updates_per_epoch(fit), 'update')} per epoch"


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


def start_fields(options: argparse.Namespace, data: Dataset, fit: Fit) -> dict[str, Any]:
    """Return the fields of the log's first event."""
    layers = fit.network.layers
    settings = (
        "epochs",
        "optimizer",
        *OPTIMIZER_OPTIONS,
        "l2",
        "clip_norm",
        "schedule",
        "warmup_epochs",
        "class_weight",
        "validation_fraction",
        "early_stopping",
        *STOPPING_OPTIONS,
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


def ending_text(fit: Fit) -> str | None:
    """Return why a fit ended before its last epoch, or None."""
    epochs, plan = len(fit.history["loss"]), fit.plan
    if epochs == plan.epochs:
        return None
    rule, why = plan.early_stopping, "the training loss has stopped improving"  # if adaptive
    if rule is not None and is_over(rule, fit.position.stopping):
        why = f"{rule.monitor} has stopped improving"
    elif plan.optimizer.rule == "lbfgs":
        why = "lbfgs cannot improve the loss"
    return f"stopped after {epochs:,} of {counted(plan.epochs, 'epoch')}: {why}"


def result_text(result: dict[str, Any]) -> str:
    """Return the last line of the output."""
    epochs, best = result["epochs_run"], result["best_epoch"]
    weights = "" if best in (None, epochs) else f", with the weights of epoch {best:,}"
    return (
        f"test accuracy {result['test_accuracy']:.2%}, test loss {loss_text(result['test_loss'])}, "
        f"after {counted(epochs, 'epoch')}{weights}"
    )
