"""The options of ``python -m fastnn.train``, their defaults, and which ones exclude each other.

Nothing here imports NumPy, so that ``--help`` and usage errors answer at once.
"""

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fastnn.commands.options import (
    Parser,
    add_data_options,
    add_engine_options,
    batch_size,
    hidden_widths,
    integer,
    number,
    positive_int,
    to_float,
)
from fastnn.model.layers import ACTIVATIONS, dense_layers
from fastnn.model.optimizers import OPTIMIZERS
from fastnn.model.schedules import SCHEDULES
from fastnn.training.early_stopping import EarlyStopping

PROGRAM = "fastnn.train"
EXAMPLES = """\
  python -m fastnn.train
  python -m fastnn.train --optimizer adam --activation gelu --dropout 0.2
  python -m fastnn.train --epochs 100 --early-stopping --patience 5
  python -m fastnn.train --batch-size full --epochs 250 --plots plots
  python -m fastnn.train --dataset my.npz --log-json run.jsonl --quiet

An .npz file holds x_train, y_train, x_test and y_test: features (rows, columns)
and class labels numbered from 0. The same seed gives a bit-identical network,
on any number of threads."""

VALIDATION_FRACTION = 0.1  # the default with early stopping
_STOPPING = EarlyStopping()
STOPPING_OPTIONS = ("monitor", "patience", "min_delta")
OPTIMIZER_OPTIONS = ("learning_rate", "momentum", "weight_decay")
# L-BFGS uses all rows at once, finds the step size by a line search, and has no checkpoints.
_NOT_FOR_LBFGS = (
    "batch_size",
    "learning_rate",
    "weight_decay",
    "clip_norm",
    "schedule",
    "warmup_epochs",
    "dropout",
    "checkpoint",
    "resume",
)

_Add = Callable[..., Any]  # the add_argument of a parser or a group


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line.

    Options that are not given get their default, which may depend on the optimizer; options that
    the optimizer does not have are None.

    Raises
    ------
    UsageError
        If an option is invalid, or excluded by another one.
    """
    parser = Parser(PROGRAM, "Train a small neural network on a CPU.", EXAMPLES)
    add_engine_options(parser)
    add_data_options(parser)
    _add_network(parser.add_argument_group("network").add_argument)
    _add_training(parser.add_argument_group("training").add_argument)
    _add_validation(parser.add_argument_group("validation").add_argument)
    _add_output(parser.add_argument_group("output"))
    options = parser.parse_args(argv)
    _check_combinations(parser, options)
    _check_layers(parser, options)
    _check_paths(parser, options)
    _set_defaults(options)
    return options


def _add_network(add: _Add) -> None:
    widths = 'widths of the hidden layers; "" for no hidden layer (default: 128,64)'
    add("--hidden", metavar="N,N", type=hidden_widths, default=(128, 64), help=widths)
    names = (
        f"{', '.join(ACTIVATIONS)}: one for all hidden layers, or one for each, separated by "
        "commas (default: relu)"
    )
    add("--activation", metavar="NAME", type=activation, help=names)
    fractions = (
        "fraction of values that training sets to 0: one for all hidden layers, or one for the "
        "input and one for each hidden layer, separated by commas (default: 0)"
    )
    add("--dropout", metavar="F", type=dropout, default=0.0, help=fractions)


def _add_training(add: _Add) -> None:
    epochs = "passes over the training rows; iterations of lbfgs (default: 20)"
    add("--epochs", metavar="N", type=positive_int, default=20, help=epochs)
    rows = "rows per update, or full (default: 128; lbfgs full)"
    add("--batch-size", metavar="N", type=batch_size, help=rows)
    names = f"{', '.join(OPTIMIZERS)} (default: sgd)"
    add("--optimizer", metavar="NAME", choices=OPTIMIZERS, default="sgd", help=names)
    rates = [
        f"{name} {each.learning_rate:g}"
        for name, each in OPTIMIZERS.items()
        if each.rule != "lbfgs"
    ]
    rate = f"step size; lbfgs finds its own (default: {', '.join(rates)})"
    add("--learning-rate", metavar="F", type=number("learning_rate"), help=rate)
    momentum = "coefficient of the optimizers momentum and nesterov, less than 1 (default: 0.9)"
    add("--momentum", metavar="F", type=number("momentum"), help=momentum)
    decay = (
        "each update first multiplies the weights by 1 - learning rate * F "
        "(default: adamw 0.01, others 0)"
    )
    add("--weight-decay", metavar="F", type=number("weight_decay"), help=decay)
    l2 = "add F / 2 * the sum of the squared weights to the loss (default: 0)"
    add("--l2", metavar="F", type=number("l2"), default=0.0, help=l2)
    clip = "scale gradients with a larger norm down to F; 0 for no limit (default: 0)"
    add("--clip-norm", metavar="F", type=number("clip_norm"), default=0.0, help=clip)
    names = f"learning-rate schedule: {', '.join(SCHEDULES)} (default: constant)"
    add("--schedule", metavar="NAME", choices=SCHEDULES, default="constant", help=names)
    warmup = "increase the learning rate from 0 during the first F epochs (default: 0)"
    add("--warmup-epochs", metavar="F", type=number("warmup_epochs"), default=0.0, help=warmup)
    weight = "balanced: weight the rows so that every class counts the same (default: none)"
    add("--class-weight", metavar="NAME", choices=("balanced",), help=weight)


def _add_validation(add: _Add) -> None:
    fraction = (
        "fraction of the training rows to keep out of training and evaluate after each epoch, in "
        f"place of the test rows (default: none; with early stopping {VALIDATION_FRACTION})"
    )
    add("--validation-fraction", metavar="F", type=_fraction, help=fraction)
    stopping = "stop when the monitored value stops improving; keep the best epoch's weights"
    add("--early-stopping", action="store_true", help=stopping)
    monitor = f"value that must improve: val_loss or val_accuracy (default: {_STOPPING.monitor})"
    add("--monitor", metavar="NAME", choices=("val_loss", "val_accuracy"), help=monitor)
    patience = f"epochs without improvement to tolerate (default: {_STOPPING.patience})"
    add("--patience", metavar="N", type=integer(0), help=patience)
    delta = f"smallest change that counts as an improvement (default: {_STOPPING.min_delta})"
    add("--min-delta", metavar="F", type=number("min_delta"), help=delta)


def _add_output(group: Any) -> None:
    add = group.add_argument
    log = "write a log of JSON lines: one per epoch, and start and result events"
    add("--log-json", metavar="FILE", type=Path, help=log)
    plots = (
        "write plots to this directory as PNG files: curves of loss and accuracy, the confusion "
        "matrix and, for images, the first layer's weights and the most confident mistakes"
    )
    add("--plots", metavar="DIR", type=Path, help=plots)
    show = (
        "show the curves of loss and accuracy in a window; in a notebook, use "
        "%%run -m fastnn.train -- --show"
    )
    add("--show", action="store_true", help=show)
    save = "write the trained network to this file, which fastnn.load reads"
    add("--save", metavar="FILE", type=Path, help=save)
    add = group.add_mutually_exclusive_group().add_argument
    checkpoint = "write checkpoints to this directory and keep the last two"
    add("--checkpoint", metavar="DIR", type=Path, help=checkpoint)
    resume = (
        "continue from the last checkpoint in this directory; the result is bit-identical to that "
        "of an uninterrupted run; use it in place of --checkpoint, with the same other options"
    )
    add("--resume", metavar="DIR", type=Path, help=resume)
    add = group.add_argument
    every = "epochs between checkpoints (default: 1)"
    add("--checkpoint-every", metavar="N", type=positive_int, help=every)
    add("--quiet", action="store_true", help="print only the last line")


def activation(text: str) -> str | tuple[str, ...]:
    """Return an activation, or a tuple of those that are separated by commas."""
    names = tuple(text.split(","))
    return names if len(names) > 1 else names[0]


def dropout(text: str) -> float | tuple[float, ...]:
    """Return a fraction, or a tuple of those that are separated by commas."""
    shares = tuple(map(float, text.split(",")))
    return shares if len(shares) > 1 else shares[0]


def _fraction(text: str) -> float:
    """Return a number between 0 and 1, both excluded."""
    fraction = to_float(text)
    if not 0 < fraction < 1:
        raise argparse.ArgumentTypeError(f"must be a number between 0 and 1, got {text!r}")
    return fraction


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _is_off(value: Any) -> bool:
    """Return whether giving this value has the same effect as giving none."""
    return not any(value) if isinstance(value, tuple) else value in (None, 0, "constant", "full")


def _check_combinations(parser: Parser, options: argparse.Namespace) -> None:
    """Raise a UsageError if an option is given that others exclude or that needs others."""
    rule, excluded = OPTIMIZERS[options.optimizer].rule, []
    if rule != "momentum":
        excluded.append(("momentum", f"with --optimizer {options.optimizer}"))
    if rule == "lbfgs":
        excluded += [(name, "with --optimizer lbfgs") for name in _NOT_FOR_LBFGS]
    if not options.hidden:
        excluded += [(name, "without hidden layers") for name in ("activation", "dropout")]
    if not options.early_stopping:
        excluded += [(name, "without --early-stopping") for name in STOPPING_OPTIONS]
    if options.checkpoint is None and options.resume is None:
        excluded.append(("checkpoint_every", "without --checkpoint or --resume"))
    for name, why in excluded:
        if not _is_off(getattr(options, name)):
            parser.error(f"argument {_option(name)}: cannot be used {why}")


def _check_layers(parser: Parser, options: argparse.Namespace) -> None:
    """Raise a UsageError if the activations or the dropouts do not fit the hidden layers."""
    widths = (1, *options.hidden, 1)
    try:
        dense_layers(widths, options.activation or "relu", options.dropout)
    except ValueError as error:
        name, _, message = str(error).partition(" ")
        parser.error(f"argument {_option(name)}: {message}")


def _check_paths(parser: Parser, options: argparse.Namespace) -> None:
    """Raise a UsageError if two options name the same file."""
    given: dict[str, str] = {}
    for name in ("checkpoint", "resume", "plots", "log_json", "save"):
        if (path := getattr(options, name)) is None:
            continue
        other = given.setdefault(os.path.realpath(path), name)
        if name in ("log_json", "save") and other != name:
            parser.error(f"argument {_option(name)}: names the same file as {_option(other)}")


def _set_defaults(options: argparse.Namespace) -> None:
    """Set the options that are not given to their defaults, which may depend on others."""
    chosen = OPTIMIZERS[options.optimizer]
    is_lbfgs = chosen.rule == "lbfgs"
    defaults: dict[str, Any] = {
        "activation": "relu",
        "batch_size": "full" if is_lbfgs else 128,
        "learning_rate": None if is_lbfgs else chosen.learning_rate,
        "momentum": chosen.momentum,
        "weight_decay": chosen.weight_decay,
        "checkpoint_every": 1,
    }
    if options.early_stopping:
        defaults["validation_fraction"] = VALIDATION_FRACTION
        defaults |= {name: getattr(_STOPPING, name) for name in STOPPING_OPTIONS}
    for name, value in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if chosen.rule != "momentum":
        options.momentum = None
    if is_lbfgs:
        options.weight_decay = None
