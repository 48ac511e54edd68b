"""The command line: ``python -m fastnn.train``. It parses, calls and prints; nobody imports it."""

import argparse
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastnn import _cli
from fastnn.callbacks import Callback
from fastnn.console import Display, JsonLog, counted, loss_text, open_display, versions
from fastnn.errors import DivergenceError
from fastnn.optimizers import OPTIMIZERS

if TYPE_CHECKING:
    from fastnn.datasets import Dataset
    from fastnn.engine import Engine
    from fastnn.network import Network
    from fastnn.training import History

PROGRAM = "fastnn.train"
PICTURE = "loss_accuracy.png"
EXAMPLES = """\
  python -m fastnn.train
  python -m fastnn.train --hidden 256,128 --epochs 30 --learning-rate 0.05
  python -m fastnn.train --batch-size full --epochs 250 --plots pictures
  python -m fastnn.train --dataset my.npz --log-json run.jsonl --quiet

An .npz file holds x_train, y_train, x_test and y_test: features (rows, columns) and class numbers
from 0. The same seed gives the same network, on any number of threads."""


def main(argv: Sequence[str] | None = None) -> int:
    """Train as the arguments say; return the exit code of the process."""
    return _cli.run(PROGRAM, lambda: train(parse(argv)))


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Raises
    ------
    UsageError
        If it asks for what cannot be.
    """
    parser = _cli.Parser(PROGRAM, "Train a small neural network on a CPU.", EXAMPLES)
    add = parser.add_argument
    _cli.add_engine_options(parser)
    _cli.add_dataset_options(parser)
    widths = "widths of the hidden layers; an empty string for none (128,64)"
    add("--hidden", metavar="N,N", type=_cli.hidden_widths, default=(128, 64), help=widths)
    add("--batch-size", metavar="N", type=_cli.batch_size, default=128, help="rows, or full (128)")
    add("--epochs", metavar="N", type=_cli.count, default=20, help="passes over the data (20)")
    names = f"{', '.join(OPTIMIZERS)} (sgd)"
    add("--optimizer", metavar="NAME", choices=OPTIMIZERS, default="sgd", help=names)
    rates = ", ".join(f"{name} {each.learning_rate:g}" for name, each in OPTIMIZERS.items())
    add("--learning-rate", metavar="F", type=_cli.positive_float, help=f"({rates})")
    momentum = "of momentum and nesterov, below 1 (0.9)"
    add("--momentum", metavar="F", type=_cli.below_one, help=momentum)
    decay = "decoupled: learning rate times this off the weights (adamw 0.01, others 0)"
    add("--weight-decay", metavar="F", type=_cli.at_least_zero, help=decay)
    l2 = "add F / 2 times the sum of the squared weights to the loss (0)"
    add("--l2", metavar="F", type=_cli.at_least_zero, default=0.0, help=l2)
    seed = "decides the initial weights and the order of the rows (0)"
    add("--seed", metavar="N", type=_cli.seed, default=0, help=seed)
    add("--log-json", metavar="FILE", type=Path, help="write a JSON object a line and epoch")
    add("--plots", metavar="DIR", type=Path, help=f"write {PICTURE} there after the training")
    add("--quiet", action="store_true", help="print the last line only")
    options = parser.parse_args(argv)
    chosen = OPTIMIZERS[options.optimizer]
    if options.momentum is not None and chosen.rule != "momentum":
        parser.error(f"argument --momentum: {options.optimizer} has none; momentum and nesterov do")
    for name in ("learning_rate", "weight_decay"):
        if getattr(options, name) is None:
            setattr(options, name, getattr(chosen, name))
    if chosen.rule == "momentum" and options.momentum is None:
        options.momentum = chosen.momentum
    return options


@dataclass(frozen=True)
class Run:
    """A training run, ready to start."""

    options: argparse.Namespace
    data: "Dataset"
    network: "Network"
    engine: "Engine"

    @property
    def rows(self) -> int:
        """Training rows."""
        return len(self.data.x_train)

    @property
    def batch_rows(self) -> int:
        """Rows that an update learns from."""
        return min(self.rows, self.options.batch_size or self.rows)

    @property
    def updates(self) -> int:
        """Updates in an epoch."""
        return -(-self.rows // self.batch_rows)

    @property
    def widths(self) -> list[int]:
        """Inputs, hidden widths, classes."""
        layers = self.network.layers
        return [layers[0].inputs, *(layer.outputs for layer in layers)]


class Reached(Callback):
    """How far a run has come, in the log and for when it ends early.

    It ends a run whose test loss is not finite.
    """

    def __init__(self, run: Run, log: JsonLog) -> None:
        self._run, self._log = run, log
        self._epoch, self._rows, self._tested = 1, 0, ""

    def on_chunk_end(self, epoch: int, rows: int) -> None:
        """See how far the epoch is."""
        self._epoch, self._rows = epoch, rows

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        """See what was reached; the updates after the last training loss may have diverged."""
        if not math.isfinite(metrics["val_loss"]):
            rate = self._run.options.learning_rate
            raise DivergenceError(
                f"the test loss is not finite after epoch {epoch}, at learning rate {rate:g}: "
                f"try a smaller learning rate ({rate / 10:g}), or check the scale of the features",
                epoch=epoch,
                step=self._run.updates,
            )
        with _cli.interrupt_afterwards():  # the log and the word about an interrupt agree
            self._log.on_epoch_end(epoch, metrics)
            self._tested = f"; test accuracy after {epoch}: {metrics['val_accuracy']:.2%}"

    @property
    def place(self) -> dict[str, int]:
        """Epoch and update, both counted from 1, that the run is in."""
        step = min(self._rows // self._run.batch_rows + 1, self._run.updates)
        return {"epoch": self._epoch, "step": step}

    def __str__(self) -> str:
        return f"interrupted in epoch {self._epoch} of {self._run.options.epochs}{self._tested}"


def train(options: argparse.Namespace) -> None:
    """Do what a command line asks for; `fastnn._cli.run` turns what it raises into exit codes."""
    start = time.perf_counter()
    if options.log_json is not None:
        _cli.check_file(options.log_json)
    if options.plots is not None:
        _cli.check_new_directory(options.plots)
    data = load(options)
    display = open_display(len(data.x_train), quiet=options.quiet)
    with _cli.exit_on_interrupt(PROGRAM):
        run = prepare(options, data, display)
    for line in describe(run):
        display.say(line)
    # Without --log-json the events go where nobody reads them, and nothing else has to know.
    with JsonLog(options.log_json or Path(os.devnull), run.rows) as log:
        log.write("start", **start_fields(run))
        history = fit(run, display, log)
        result = {
            "epochs_run": len(history["loss"]),
            "test_loss": history["val_loss"][-1],
            "test_accuracy": history["val_accuracy"][-1],
            "train_seconds": sum(history["seconds"]),
            "compile_seconds": run.engine.compile_seconds,
            "total_seconds": time.perf_counter() - start,
        }
        log.write("result", **result)
    try:
        report_times(run, history, display, result)
    finally:  # a picture that cannot be saved does not hide what was reached
        conclude(run, display, result)


def load(options: argparse.Namespace) -> "Dataset":
    """Load the data set, and say at once where it is not the one that was hoped for."""
    from fastnn.datasets import load_dataset

    watched = not options.quiet and sys.stderr is not None and sys.stderr.isatty()
    data = load_dataset(options.dataset, options.data_dir, progress=watched)
    if data.note and not options.quiet:
        print(f"{PROGRAM}: {data.note}", file=sys.stderr, flush=True)
    return data


def prepare(options: argparse.Namespace, data: "Dataset", display: Display) -> Run:
    """Build the network and its engine, which may have to be compiled."""
    from fastnn.engine import needs_compiling
    from fastnn.network import Network

    sizes = (data.x_train.shape[1], *options.hidden, data.n_classes)
    network = Network(sizes, input_scale=data.scale, seed=options.seed)
    if needs_compiling(options.engine):
        display.say("compiling the kernels: some seconds, this once")
    try:
        engine = network.use_engine(options.engine, threads=options.threads)
    except ValueError as error:  # more threads than the process may use
        raise _cli.UsageError(f"argument --threads: {error}") from None
    return Run(options, data, network, engine)


def describe(run: Run) -> list[str]:
    """Say what is trained, in lines."""
    options, data, widths = run.options, run.data, "-".join(map(str, run.widths))
    rows = f"{counted(run.rows, 'row')} to train on, {len(data.x_test):,} to test on"
    batches = counted(run.batch_rows, "row")
    if run.batch_rows == run.rows:
        batches = f"all {batches}"
        if options.batch_size is not None and options.batch_size > run.rows:
            batches += f" ({options.batch_size:,} are more than there are)"
    return [
        f"network   {widths}, {counted(run.network.n_parameters, 'parameter')}",
        f"data      {data.name}, {rows}",
        f"          from {data.source}",
        f"engine    {describe_engine(run)}",
        f"batches   {batches}, {counted(run.updates, 'update')} an epoch",
        f"training  {counted(options.epochs, 'epoch')} of {describe_optimizer(options)}, "
        f"seed {options.seed}",
    ]


def describe_optimizer(options: argparse.Namespace) -> str:
    """Say how the weights follow their gradients."""
    parts = [f"{options.optimizer}, learning rate {options.learning_rate:g}"]
    for name in ("momentum", "weight_decay", "l2"):
        if getattr(options, name):
            parts.append(f"{name.replace('_', ' ')} {getattr(options, name):g}")
    return ", ".join(parts)


def describe_engine(run: Run) -> str:
    """Say what computes, with how many threads, and how long it took to be ready."""
    engine = run.engine
    if engine.threads is None:
        idle = "" if run.options.threads is None else " (--threads is for numba)"
        return f"{engine.name}, threads as its BLAS library decides{idle}"
    threads = f"{counted(engine.threads, 'thread')} ({engine.threading_layer})"
    ready = "compiled" if engine.compiled else "read from the cache"
    return f"{engine.name}, {threads}, kernels {ready} in {engine.compile_seconds:.2f} s"


def start_fields(run: Run) -> dict[str, Any]:
    """Return what the log's first event holds."""
    options, data = run.options, run.data
    return {
        "schema": 1,
        "engine": run.engine.name,
        "dataset": data.name,
        "data_source": data.source,
        "layers": run.widths,
        "parameters": run.network.n_parameters,
        "train_rows": run.rows,
        "test_rows": len(data.x_test),
        "batch_size": run.batch_rows,
        "epochs": options.epochs,
        "optimizer": options.optimizer,
        "learning_rate": options.learning_rate,
        "momentum": options.momentum,
        "weight_decay": options.weight_decay,
        "l2": options.l2,
        "seed": options.seed,
        "threads": run.engine.threads,
        "threading_layer": run.engine.threading_layer,
        "versions": versions(),
    }


def fit(run: Run, display: Display, log: JsonLog) -> "History":
    """Train, watched by the display and the log; tell the log why, where it ends early."""
    options, data, reached = run.options, run.data, Reached(run, log)
    try:
        with display.table(options.epochs):
            return run.network.fit(
                data.x_train,
                data.y_train,
                epochs=options.epochs,
                batch_size=run.batch_rows,
                optimizer=options.optimizer,
                learning_rate=options.learning_rate,
                momentum=options.momentum,
                weight_decay=options.weight_decay,
                l2=options.l2,
                engine=options.engine,
                threads=options.threads,
                validation_data=(data.x_test, data.y_test),
                callbacks=(reached, display),
            )
    except DivergenceError as error:
        log.write("stopped", reason="diverged", epoch=error.epoch, step=error.step)
        raise
    except KeyboardInterrupt:
        log.write("stopped", reason="interrupted", **reached.place)
        raise KeyboardInterrupt(str(reached)) from None


def report_times(run: Run, history: "History", display: Display, result: dict[str, Any]) -> None:
    """Draw the picture, if one is wanted, and say what took how long."""
    options = run.options
    display.say(
        f"trained in {result['train_seconds']:.2f} s, {result['total_seconds']:.2f} s in all"
    )
    if options.plots is not None:
        from fastnn import plots

        options.plots.mkdir(parents=True, exist_ok=True)
        title = f"{run.data.name}, {'-'.join(map(str, run.widths))}, batches of {run.batch_rows:,}"
        plots.loss_accuracy(history, options.plots / PICTURE, title=title)
        display.say(f"wrote {options.plots / PICTURE}")


def conclude(run: Run, display: Display, result: dict[str, Any]) -> None:
    """Print the last line, and once more what there is to say about the data."""
    epochs = counted(result["epochs_run"], "epoch")
    accuracy, loss = f"{result['test_accuracy']:.2%}", loss_text(result["test_loss"])
    display.conclude(f"test accuracy {accuracy}, test loss {loss}, after {epochs}")
    if run.data.note:
        print(f"{PROGRAM}: {run.data.note}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    _cli.leave(main())
