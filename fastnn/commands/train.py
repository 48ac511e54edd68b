"""The command line ``python -m fastnn.train``: train a network, print its progress, draw it."""

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastnn.commands import running, session
from fastnn.commands.console import Display, JsonLog, open_display
from fastnn.commands.train_options import PROGRAM, parse
from fastnn.commands.train_text import (
    Run,
    best_epoch,
    describe,
    ending_text,
    result_text,
    start_fields,
    stopping_rule,
)
from fastnn.errors import DivergenceError
from fastnn.model.optimizers import get_optimizer
from fastnn.model.schedules import Schedule
from fastnn.system.files import writable_target
from fastnn.training.callbacks import past_epochs
from fastnn.training.fit import Callback

if TYPE_CHECKING:
    from fastnn.data.sets import Dataset
    from fastnn.network import Network
    from fastnn.training.checkpoint import Checkpoint
    from fastnn.training.state import History, Prepared

LOSS_ACCURACY, CONFUSION_MATRIX = "loss_accuracy.png", "confusion_matrix.png"
FIRST_LAYER_WEIGHTS, MOST_WRONG = "first_layer_weights.png", "most_wrong.png"  # for images


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return the exit code of the process."""
    return running.run(PROGRAM, lambda: train(parse(argv)))


class Reached(Callback):
    """Record the progress of a run in the log, and for the message if the run ends early.

    A test or validation loss that is not finite ends the run.
    """

    defers_interrupts = True

    def __init__(self, run: Run, log: JsonLog) -> None:
        self._run, self._log = run, log
        self._epoch, self._rows, self._measured = 1, 0, ""

    def on_fit_begin(self, epochs: int, rows: int) -> None:
        """Begin the log here, so that a run with invalid settings keeps the existing file."""
        self._log.write("start", **start_fields(self._run))

    def on_resume(self, epoch: int, rows: int, history: dict[str, list[float]]) -> None:
        """Log the epochs before the checkpoint, and that the run continues."""
        for number, metrics in past_epochs(epoch, history):
            self.on_epoch_end(number, metrics)
        self._epoch, self._rows = epoch, rows
        self._log.write("resumed", epoch=epoch, step=self._step)

    def on_chunk_end(self, epoch: int, rows: int) -> None:
        """Record the position in the epoch."""
        self._epoch, self._rows = epoch, rows

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        """Log the epoch's figures."""
        run = self._run
        check_loss(run, metrics["val_loss"], run.evaluated, epoch)
        self._log.on_epoch_end(epoch, metrics)
        accuracy = f"{metrics['val_accuracy']:.2%}"
        self._measured = f"; {run.evaluated} accuracy after {epoch}: {accuracy}"

    @property
    def _step(self) -> int:
        return min(self._rows // self._run.batch_rows + 1, self._run.updates)

    @contextmanager
    def log_early_end(self) -> Iterator[None]:
        """Log the reason if the context is left early, and put the position into the message."""
        try:
            yield
        except DivergenceError as error:
            self._log.write("stopped", reason="diverged", epoch=error.epoch, step=error.step)
            raise
        except KeyboardInterrupt as error:
            why = running.reason(error)
            if self._log.begun:
                self._log.write("stopped", reason=why, epoch=self._epoch, step=self._step)
            place = f"in epoch {self._epoch} of {self._run.options.epochs}"
            directory = self._run.options.resume or self._run.options.checkpoint
            saved = directory is not None and any(directory.glob("checkpoint-*.safetensors"))
            hint = f"; to continue, run the same command with --resume {directory}" if saved else ""
            raise KeyboardInterrupt(f"{why} {place}{self._measured}{hint}") from None


def train(options: argparse.Namespace) -> None:
    """Train a network as the options say; print, log, save and draw the result."""
    start = time.perf_counter()
    if options.log_json is not None:
        session.check_file(options.log_json)
    if options.save is not None:
        session.check_directory(Path(writable_target(options.save)[0]).parent)
    if options.plots is not None:
        session.check_new_directory(options.plots)
    session.import_early(PROGRAM, *modules_of(options))
    checkpoint = checkpoints(options)
    data = session.load(PROGRAM, options, quiet=options.quiet)
    network = build(options, data)
    prepared = prepare_data(options, data, network)
    evaluated = "test" if options.validation_fraction is None else "val"
    display = open_display(len(prepared.training.x), evaluated, quiet=options.quiet)
    engine = session.use_engine(PROGRAM, network, options.engine, options.threads, display.say)
    run = Run(options, data, network, engine, prepared)
    for line in describe(run):
        display.say(line)
    # Without --log-json the events go to the null device, so that only this line knows the option.
    with closing(JsonLog(options.log_json or Path(os.devnull), run.rows, evaluated)) as log:
        reached = Reached(run, log)
        with reached.log_early_end():
            with session.warnings_as_lines(PROGRAM), display.table(options.epochs):
                callbacks = (reached, display, *([checkpoint] if checkpoint else []))
                history = network._train(prepared, callbacks=callbacks).history
            snapshot = checkpoint and checkpoint.snapshot
            if snapshot and snapshot.epochs == len(history["loss"]):
                display.say(f"the run in {options.resume} was complete: nothing left to train")
            result = measure(run, history)
        result["total_seconds"] = time.perf_counter() - start
        log.write("result", **result)
    try:
        figure = finish(run, history, display, result)
        log.check()
    finally:  # print the result even if a file cannot be written
        display.conclude(result_text(result))
        session.print_note(PROGRAM, data, short=not options.quiet)
    if options.show:
        show(figure)


def modules_of(options: argparse.Namespace) -> Iterator[str]:
    """Yield the modules that a run needs and that are slow to import."""
    yield from ("fastnn.network", "fastnn.data.sets")
    if options.dataset == "digits":
        yield "sklearn.datasets"
    if options.dataset == "digits" or options.validation_fraction is not None:
        yield "sklearn.model_selection"


def checkpoints(options: argparse.Namespace) -> "Checkpoint | None":
    """Return the callback that writes checkpoints, or None; check its directory."""
    directory = options.resume or options.checkpoint
    if directory is None:
        return None
    from fastnn.training.checkpoint import Checkpoint

    class PrintingCheckpoint(Checkpoint):
        def warn(self, text: str) -> None:
            session.warn(PROGRAM, text)

    checkpoint = PrintingCheckpoint(directory, options.checkpoint_every, options.resume is not None)
    checkpoint.check()
    session.check_new_directory(directory)
    return checkpoint


def build(options: argparse.Namespace, data: "Dataset") -> "Network":
    """Return the network that the options describe."""
    from fastnn.network import Network

    return Network(
        (data.x_train.shape[1], *options.hidden, data.n_classes),
        activation=options.activation,
        dropout=options.dropout,
        input_scale=data.scale,
        seed=options.seed,
    )


def prepare_data(options: argparse.Namespace, data: "Dataset", network: "Network") -> "Prepared":
    """Check the settings and the data of the fit, before anything is printed or written."""
    from fastnn.training.plan import Plan
    from fastnn.training.preparation import prepare

    settings = {n: getattr(options, n) for n in ("learning_rate", "momentum", "weight_decay")}
    plan = Plan(
        options.epochs,
        options.batch_size,
        get_optimizer(options.optimizer, **settings),
        Schedule(options.schedule, options.warmup_epochs),
        l2=options.l2,
        clip_norm=options.clip_norm,
        seed=options.seed,
        early_stopping=stopping_rule(options),
    )
    fraction = options.validation_fraction
    return prepare(
        network,
        plan,
        data.x_train,
        data.y_train,
        class_weight=options.class_weight,
        validation_data=(data.x_test, data.y_test) if fraction is None else None,
        validation_fraction=fraction or 0.0,
    )


def check_loss(run: Run, loss: float, rows: str, epoch: int) -> None:
    """Raise a DivergenceError if the loss on the test or validation rows is not finite."""
    rate = run.options.learning_rate
    session.check_loss(loss, rows, epoch=epoch, step=run.updates, learning_rate=rate)


def measure(run: Run, history: "History") -> dict[str, Any]:
    """Return the figures of the finished fit; the test figures are of the final weights."""
    epochs = len(history["loss"])
    loss, accuracy = run.network.evaluate(run.data.x_test, run.data.y_test)
    check_loss(run, loss, "test", epochs)
    return {
        "epochs_run": epochs,
        "best_epoch": None if run.rule is None else best_epoch(run.rule, history),
        "test_loss": loss,
        "test_accuracy": accuracy,
        "train_seconds": sum(history["seconds"]),
        "compile_seconds": run.engine.compile_seconds,
        "weights_sha256": run.network.weights_sha256(),
    }


def finish(run: Run, history: "History", display: Display, result: dict[str, Any]) -> Any:
    """Print when and why the fit ended; save and draw the network.

    Return the figure of the learning curves, or None if it is not needed.
    """
    options, figure = run.options, None
    if why := ending_text(run, history):
        display.say(why)
    trained, total = (f"{result[f'{name}_seconds']:.2f} s" for name in ("train", "total"))
    if options.resume is None:
        display.say(f"training took {trained}, the whole run {total}")
    else:
        display.say(f"training took {trained} since its first start, this run {total}")
    display.say(f"weights SHA-256 {result['weights_sha256']}")
    if options.save is not None:  # first, because drawing may fail
        run.network.save(options.save)
        display.say(f"wrote {options.save}")
    if options.plots is not None:
        options.plots.mkdir(parents=True, exist_ok=True)
    if options.plots is not None or options.show:
        path = options.plots and options.plots / LOSS_ACCURACY
        figure = draw_curves(run, history, path)
    if options.plots is not None:
        display.say(f"wrote {path}")
        for name in draw_predictions(run, result["test_accuracy"], options.plots):
            display.say(f"wrote {options.plots / name}")
    return figure


def draw_curves(run: Run, history: "History", path: Path | None) -> Any:
    """Draw the learning curves, write them to a file if `path` is given, and return the figure."""
    from fastnn.plots.curves import loss_accuracy

    title = f"{run.data.name}, {run.widths}, batches of {run.batch_rows:,}"
    validation = "test" if run.evaluated == "test" else "validation"
    return loss_accuracy(history, path, title=title, validation=validation)


def draw_predictions(run: Run, test_accuracy: float, folder: Path) -> Iterator[str]:
    """Draw the other plots that the data allow; yield the name of each file that is written."""
    from fastnn.plots import images as image_plots

    data, network, shape = run.data, run.network, run.data.image_shape
    title = f"{data.name}, {run.widths}"
    probabilities = network.predict_proba(data.x_test)
    if data.n_classes <= image_plots.MOST_CLASSES:
        image_plots.confusion_matrix(
            data.y_test,
            probabilities.argmax(axis=1),
            folder / CONFUSION_MATRIX,
            title=f"{title}: test accuracy {test_accuracy:.2%}",
            classes=data.n_classes,
        )
        yield CONFUSION_MATRIX
    if shape is not None:
        image_plots.first_layer_weights(
            network.parameters[0][0],
            folder / FIRST_LAYER_WEIGHTS,
            shape=shape,
            title=f"{title}: weights of the first layer",
        )
        yield FIRST_LAYER_WEIGHTS
        image_plots.most_wrong(
            data.x_test,
            data.y_test,
            probabilities,
            folder / MOST_WRONG,
            shape=shape,
            title=f"{title}: most confident mistakes on the test rows",
        )
        yield MOST_WRONG


def show(figure: Any) -> None:
    """Show the learning curves in a window or a notebook, or warn that there is neither."""
    from fastnn.plots import window

    with running.exit_on_interrupt(PROGRAM):  # SIGTERM; Ctrl-C closes the window
        if not window.show(figure):
            session.warn(
                PROGRAM,
                "--show needs a notebook or a display with a toolkit such as Tk or Qt; "
                "--plots DIR writes the curves to a file",
            )
