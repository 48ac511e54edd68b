"""The options of ``python -m fastnn.train``, and which of them contradict each other.

Nothing here imports NumPy, so that ``--help`` and a mistyped option answer at once.
"""

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fastnn.commands import running
from fastnn.model.layers import ACTIVATIONS
from fastnn.model.optimizers import OPTIMIZERS
from fastnn.model.schedules import SCHEDULES
from fastnn.training.early_stopping import EarlyStopping

PROGRAM = "fastnn.train"
EXAMPLES = """\
  python -m fastnn.train
  python -m fastnn.train --optimizer adam --activation gelu --dropout 0.2
  python -m fastnn.train --epochs 100 --early-stopping --patience 5
  python -m fastnn.train --batch-size full --epochs 250 --plots pictures
  python -m fastnn.train --dataset my.npz --log-json run.jsonl --quiet

An .npz file holds x_train, y_train, x_test and y_test: features (rows, columns)
and class numbers from 0. The same seed gives the same network, on any number of
threads."""

VALIDATION_FRACTION = 0.1  # with early stopping, where nothing else is said
_STOPPING = EarlyStopping()
_OF_STOPPING = ("monitor", "patience", "min_delta")
# What some optimizers have no use for: L-BFGS takes all rows at once and searches for its step.
_NOT_OF_LBFGS = (
    "batch_size",
    "learning_rate",
    "weight_decay",
    "clip_norm",
    "schedule",
    "warmup_epochs",
    "dropout",
)

_Add = Callable[..., Any]  # the add_argument of a parser or a group


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    What was not given has its default then, that of the optimizer where there is one; what the
    optimizer does without is None.

    Raises
    ------
    UsageError
        If it asks for what cannot be.
    """
    parser = running.Parser(PROGRAM, "Train a small neural network on a CPU.", EXAMPLES)
    running.add_engine_options(parser)
    running.add_dataset_options(parser)
    seed = "decides the initial weights, the order of the rows and the dropout (0)"
    parser.add_argument("--seed", metavar="N", type=running.seed, default=0, help=seed)
    _add_network(parser.add_argument_group("network").add_argument)
    _add_training(parser.add_argument_group("training").add_argument)
    _add_validation(parser.add_argument_group("validation").add_argument)
    _add_output(parser.add_argument_group("output").add_argument)
    options = parser.parse_args(argv)
    _check_layers(parser, options)
    _check_optimizer(parser, options)
    _check_stopping(parser, options)
    _check_checkpoints(parser, options)
    _check_files(parser, options)
    _fill_in(options)
    return options


def _add_network(add: _Add) -> None:
    widths = "widths of the hidden layers; an empty string for none (128,64)"
    add("--hidden", metavar="N,N", type=running.hidden_widths, default=(128, 64), help=widths)
    names = (
        f"{', '.join(ACTIVATIONS)}; one for all hidden layers, or one for each with commas "
        "between them (relu)"
    )
    add("--activation", metavar="NAME", type=_activations, help=names)
    dropout = (
        "share of the values that training sets to 0; one for all hidden layers, or with commas "
        "one for the input and one for each of them (0)"
    )
    add("--dropout", metavar="F", type=_dropouts, help=dropout)


def _add_training(add: _Add) -> None:
    epochs = "passes over the data, iterations of lbfgs (20)"
    add("--epochs", metavar="N", type=running.count, default=20, help=epochs)
    rows = "rows that an update learns from, or full (128; lbfgs full)"
    add("--batch-size", metavar="N", type=running.batch_size, help=rows)
    names = f"{', '.join(OPTIMIZERS)} (sgd)"
    add("--optimizer", metavar="NAME", choices=OPTIMIZERS, default="sgd", help=names)
    rates = [f"{name} {each.learning_rate:g}" for name, each in _rated()]
    rate = f"size of the steps ({', '.join(rates)}; lbfgs has none)"
    add("--learning-rate", metavar="F", type=running.positive_float, help=rate)
    momentum = "of momentum and nesterov, below 1 (0.9)"
    add("--momentum", metavar="F", type=running.below_one, help=momentum)
    decay = "decoupled: learning rate times this off the weights (adamw 0.01, others 0)"
    add("--weight-decay", metavar="F", type=running.at_least_zero, help=decay)
    l2 = "add F / 2 times the sum of the squared weights to the loss (0)"
    add("--l2", metavar="F", type=running.at_least_zero, default=0.0, help=l2)
    clip = "shorten gradients that are longer than this; 0 for never (0)"
    add("--clip-norm", metavar="F", type=running.at_least_zero, help=clip)
    names = f"of the learning rate: {', '.join(SCHEDULES)} (constant)"
    add("--schedule", metavar="NAME", choices=SCHEDULES, help=names)
    warmup = "epochs in which the learning rate rises from 0, whatever its schedule (0)"
    add("--warmup-epochs", metavar="F", type=running.at_least_zero, help=warmup)
    weight = "balanced: in training, every class counts the same, however many rows it has (none)"
    add("--class-weight", metavar="NAME", choices=("balanced",), help=weight)


def _add_validation(add: _Add) -> None:
    fraction = (
        "share of the training rows that is kept from training and watched in place of the "
        f"test rows (none; with early stopping {VALIDATION_FRACTION})"
    )
    add("--validation-fraction", metavar="F", type=_fraction, help=fraction)
    stopping = "end when the validation stops improving, with the weights of the best epoch"
    add("--early-stopping", action="store_true", help=stopping)
    monitor = f"what is to improve: val_loss or val_accuracy ({_STOPPING.monitor})"
    add("--monitor", metavar="NAME", choices=("val_loss", "val_accuracy"), help=monitor)
    patience = f"epochs without improvement that are put up with ({_STOPPING.patience})"
    add("--patience", metavar="N", type=running.whole_number(0, 2**31 - 1), help=patience)
    delta = f"what counts as an improvement ({_STOPPING.min_delta})"
    add("--min-delta", metavar="F", type=running.at_least_zero, help=delta)


def _add_output(add: _Add) -> None:
    add("--log-json", metavar="FILE", type=Path, help="a JSON object a line and epoch")
    plots = (
        "pictures: loss and accuracy, the confusion matrix and, of images, the first layer's "
        "weights and the test rows that it is most wrong about"
    )
    add("--plots", metavar="DIR", type=Path, help=plots)
    save = "the trained network, with the weights that are kept; fastnn.load reads it"
    add("--save", metavar="FILE", type=Path, help=save)
    checkpoint = "the last two checkpoints; from them --resume goes on to the same bits"
    add("--checkpoint", metavar="DIR", type=Path, help=checkpoint)
    every = "epochs from one checkpoint to the next (1)"
    add("--checkpoint-every", metavar="N", type=running.count, help=every)
    resume = "go on from the last checkpoint there; the other options are those of the run before"
    add("--resume", metavar="DIR", type=Path, help=resume)
    add("--quiet", action="store_true", help="print the last line only")


def _rated() -> list[tuple[str, Any]]:
    """Return the optimizers that have a learning rate, with their names."""
    return [(name, each) for name, each in OPTIMIZERS.items() if each.rule != "lbfgs"]


def _activations(text: str) -> str | tuple[str, ...]:
    """Take the name of an activation, or several with commas between them."""
    names = tuple(text.split(","))
    if not set(names) <= set(ACTIVATIONS):
        raise argparse.ArgumentTypeError(
            f"must be {', '.join(ACTIVATIONS)}, or several of them with commas between them; "
            f"got {text!r}"
        )
    return names if len(names) > 1 else names[0]


def _dropouts(text: str) -> float | tuple[float, ...]:
    """Take a share, or several with commas between them."""
    try:
        shares = tuple(running.below_one(part) for part in text.split(","))
    except argparse.ArgumentTypeError as error:
        if "float32" in str(error):
            raise
        raise argparse.ArgumentTypeError(
            f"must be a number from 0 to below 1, or several of them with commas between them; "
            f"got {text!r}"
        ) from None
    return shares if len(shares) > 1 else shares[0]


def _fraction(text: str) -> float:
    """Take a number between 0 and 1."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"must be a number between 0 and 1, got {text!r}")
    return number


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _is_off(value: Any) -> bool:
    """Tell whether it comes to the same to say this and to say nothing."""
    return not any(value) if isinstance(value, tuple) else value in (None, 0, "constant", "full")


def _check_layers(parser: running.Parser, options: argparse.Namespace) -> None:
    """Raise a UsageError if there are not as many activations or dropouts as layers."""
    hidden = len(options.hidden)
    for name, needed, whose in (
        ("activation", hidden, "one for each of them"),
        ("dropout", hidden + 1, "one for the input and one for each of them"),
    ):
        given = getattr(options, name)
        if not hidden and not _is_off(given):
            parser.error(
                f"argument {_option(name)}: is for hidden layers, --hidden asks for none; "
                "leave it out"
            )
        if isinstance(given, tuple) and len(given) != needed:
            counts = f"1 or {needed} values" if needed > 1 else "1 value"
            parser.error(
                f"argument {_option(name)}: takes {counts} here (one for all hidden layers, or "
                f"{whose}), got {len(given)}"
            )


def _check_optimizer(parser: running.Parser, options: argparse.Namespace) -> None:
    """Raise a UsageError if something is given that the optimizer has no use for."""
    chosen = f"--optimizer {options.optimizer}"
    rule = OPTIMIZERS[options.optimizer].rule
    if options.momentum and rule != "momentum":
        parser.error(f"argument --momentum: {chosen} has none; momentum and nesterov do")
    for name in _NOT_OF_LBFGS if rule == "lbfgs" else ():
        if not _is_off(getattr(options, name)):
            why = "has none; the others do"
            if name == "batch_size":
                why = "takes all rows at once; the others do not"
            parser.error(f"argument {_option(name)}: {chosen} {why}")


def _check_stopping(parser: running.Parser, options: argparse.Namespace) -> None:
    """Raise a UsageError if early stopping is adjusted, but not wanted."""
    for name in _OF_STOPPING:
        if getattr(options, name) is not None and not options.early_stopping:
            parser.error(f"argument {_option(name)}: is for --early-stopping, which is not given")


def _check_checkpoints(parser: running.Parser, options: argparse.Namespace) -> None:
    """Raise a UsageError if there can be no checkpoints, or nobody wants those it adjusts."""
    directories = [each for each in ("checkpoint", "resume") if getattr(options, each) is not None]
    if len(directories) > 1:
        parser.error("argument --resume: writes its checkpoints there; leave --checkpoint out")
    if options.checkpoint_every is not None and not directories:
        parser.error(
            "argument --checkpoint-every: is for --checkpoint or --resume, which are not given"
        )
    if directories and OPTIMIZERS[options.optimizer].rule == "lbfgs":
        parser.error(
            f"argument {_option(directories[0])}: --optimizer {options.optimizer} has no "
            "checkpoints; the others do"
        )


def _check_files(parser: running.Parser, options: argparse.Namespace) -> None:
    """Raise a UsageError if one file would be written over another."""
    given: dict[str, str] = {}
    for name in ("checkpoint", "resume", "plots", "log_json", "save"):
        if (path := getattr(options, name)) is None:
            continue
        other = given.setdefault(os.path.realpath(path), name)
        if name in ("log_json", "save") and other != name:
            parser.error(f"argument {_option(name)}: is the same as {_option(other)}")


def _fill_in(options: argparse.Namespace) -> None:
    """Put defaults in place of what was not given."""
    chosen = OPTIMIZERS[options.optimizer]
    searches = chosen.rule == "lbfgs"
    defaults: dict[str, Any] = {
        "activation": "relu",
        "dropout": 0.0,
        "batch_size": "full" if searches else 128,
        "learning_rate": None if searches else chosen.learning_rate,
        "momentum": chosen.momentum,
        "weight_decay": chosen.weight_decay,
        "clip_norm": 0.0,
        "schedule": "constant",
        "warmup_epochs": 0.0,
        "checkpoint_every": 1,
    }
    if options.early_stopping:
        defaults["validation_fraction"] = VALIDATION_FRACTION
        defaults |= {name: getattr(_STOPPING, name) for name in _OF_STOPPING}
    for name, value in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if chosen.rule != "momentum":
        options.momentum = None
    if searches:
        options.weight_decay = None
