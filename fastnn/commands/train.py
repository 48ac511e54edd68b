"""The command line: ``python -m fastnn.train``. It parses, calls and prints."""

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
FIRST_LAYER_WEIGHTS, MOST_WRONG = "first_layer_weights.png", "most_wrong.png"  # of images alone


def main(argv: Sequence[str] | None = None) -> int:
    """Train as the arguments say; return the exit code of the process."""
    return running.run(PROGRAM, lambda: train(parse(argv)))


class Reached(Callback):
    """How far a run has come, in the log and for when it ends early.

    It ends a run whose test or validation loss is not finite.
    """

    defers_interrupts = True

    def __init__(self, run: Run, log: JsonLog) -> None:
        self._run, self._log = run, log
        self._epoch, self._rows, self._measured = 1, 0, ""

    def on_fit_begin(self, epochs: int, rows: int) -> None:
        """Begin the log: what refuses to train leaves the one that is there alone."""
        self._log.write("start", **start_fields(self._run))

    def on_resume(self, epoch: int, rows: int, history: dict[str, list[float]]) -> None:
        """Write down the epochs before, and that the run goes on."""
        for number, metrics in past_epochs(epoch, history):
            self.on_epoch_end(number, metrics)
        self._epoch, self._rows = epoch, rows
        self._log.write("resumed", epoch=epoch, step=self._step)

    def on_chunk_end(self, epoch: int, rows: int) -> None:
        """See how far the epoch is."""
        self._epoch, self._rows = epoch, rows

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        """See what was reached."""
        run = self._run
        check_loss(run, metrics["val_loss"], run.watched, epoch)
        self._log.on_epoch_end(epoch, metrics)
        accuracy = f"{metrics['val_accuracy']:.2%}"
        self._measured = f"; {run.watched} accuracy after {epoch}: {accuracy}"

    @property
    def _step(self) -> int:
        return min(self._rows // self._run.batch_rows + 1, self._run.updates)

    @contextmanager
    def told(self) -> Iterator[None]:
        """Tell the log why, where what is done meanwhile ends early."""
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
            further = f"; the same command with --resume {directory} goes on" if saved else ""
            raise KeyboardInterrupt(f"{why} {place}{self._measured}{further}") from None


def train(options: argparse.Namespace) -> None:
    """Do what a command line asks for; `running.run` turns errors into exit codes."""
    start = time.perf_counter()
    if options.log_json is not None:
        running.check_file(options.log_json)
    if options.save is not None:
        running.check_directory(Path(writable_target(options.save)[0]).parent)
    if options.plots is not None:
        running.check_new_directory(options.plots)
    session.import_ahead(PROGRAM, *modules_of(options))
    keeper = checkpoints(options)
    data = session.load(PROGRAM, options, quiet=options.quiet)
    network = build(options, data)
    prepared = prepare_data(options, data, network)
    watched = "test" if options.validation_fraction is None else "val"
    display = open_display(len(prepared.training.x), watched, quiet=options.quiet)
    engine = session.use_engine(PROGRAM, network, options.engine, options.threads, display.say)
    run = Run(options, data, network, engine, prepared)
    for line in describe(run):
        display.say(line)
    # Without --log-json the events go where nobody reads them, and nothing else has to know.
    with JsonLog(options.log_json or Path(os.devnull), run.rows, watched) as log:
        reached = Reached(run, log)
        with reached.told():
            with session.warnings_as_lines(PROGRAM), display.table(options.epochs):
                callbacks = (reached, display, *([keeper] if keeper else []))
                history = network._train(prepared, callbacks=callbacks).history
            if keeper and keeper.snapshot and keeper.snapshot.epochs == len(history["loss"]):
                display.say(f"finished before: {options.resume} has nothing left to train")
            result = measure(run, history)
        result["total_seconds"] = time.perf_counter() - start
        log.write("result", **result)
    try:
        finish(run, history, display, result)
        log.check()
    finally:  # a file that cannot be written does not hide what was reached
        display.conclude(result_text(result))
        session.say_note(PROGRAM, data, again=not options.quiet)


def modules_of(options: argparse.Namespace) -> Iterator[str]:
    """Yield the modules that a run needs and that take their time."""
    yield from ("fastnn.network", "fastnn.data.sets")
    if options.dataset == "digits":
        yield "sklearn.datasets"
    if options.dataset == "digits" or options.validation_fraction is not None:
        yield "sklearn.model_selection"


def checkpoints(options: argparse.Namespace) -> "Checkpoint | None":
    """Return what keeps the checkpoints, if they are wanted; the directory is as it has to be."""
    directory = options.resume or options.checkpoint
    if directory is None:
        return None
    from fastnn.training.checkpoint import Checkpoint

    class Keeper(Checkpoint):
        def warn(self, text: str) -> None:
            session.warn(PROGRAM, text)

    keeper = Keeper(directory, options.checkpoint_every, options.resume is not None)
    keeper.check()
    running.check_new_directory(directory)
    return keeper


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
    """Raise a DivergenceError if the loss on rows that are not learned from is not finite."""
    rate = run.options.learning_rate
    session.check_loss(loss, rows, epoch=epoch, step=run.updates, learning_rate=rate)


def measure(run: Run, history: "History") -> dict[str, Any]:
    """Return what came of the fit: the test rows are judged by the weights that are kept."""
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


def finish(run: Run, history: "History", display: Display, result: dict[str, Any]) -> None:
    """Say why it ended and what took how long; save the network and draw it, if that is wanted."""
    if why := ending_text(run, history):
        display.say(why)
    trained, total = (f"{result[f'{name}_seconds']:.2f} s" for name in ("train", "total"))
    if run.options.resume is None:
        display.say(f"trained in {trained}, {total} in all")
    else:
        display.say(f"trained in {trained} from its beginning; this run took {total}")
    display.say(f"weights SHA-256 {result['weights_sha256']}")
    if run.options.save is not None:  # before the pictures, of which one may fail
        run.network.save(run.options.save)
        display.say(f"wrote {run.options.save}")
    folder = run.options.plots
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        for name in draw(run, history, result["test_accuracy"], folder):
            display.say(f"wrote {folder / name}")


def draw(run: Run, history: "History", test_accuracy: float, folder: Path) -> Iterator[str]:
    """Draw the pictures of a run that can be drawn; yield the name of each once it is there."""
    from fastnn.plots import curves as plots
    from fastnn.plots import images as image_plots

    data, network, shape = run.data, run.network, run.data.image_shape
    watched = "test" if run.watched == "test" else "validation"
    title = f"{data.name}, {run.widths}, batches of {run.batch_rows:,}"
    plots.loss_accuracy(history, folder / LOSS_ACCURACY, title=title, watched=watched)
    yield LOSS_ACCURACY
    title = f"{data.name}, {run.widths}"
    probabilities = network.predict_proba(data.x_test)
    if data.n_classes <= image_plots.MOST_CLASSES:
        image_plots.confusion_matrix(
            data.y_test,
            probabilities.argmax(axis=1),
            folder / CONFUSION_MATRIX,
            title=f"{title}: test accuracy {test_accuracy:.2%}",
            names=[str(number) for number in range(data.n_classes)],
        )
        yield CONFUSION_MATRIX
    if shape is not None:
        image_plots.first_layer_weights(
            network.parameters[0][0],
            folder / FIRST_LAYER_WEIGHTS,
            shape=shape,
            title=f"{title}: the weights of the first layer",
        )
        yield FIRST_LAYER_WEIGHTS
        image_plots.most_wrong(
            data.x_test,
            data.y_test,
            probabilities,
            folder / MOST_WRONG,
            shape=shape,
            title=f"{title}: the test rows it is most wrong about",
        )
        yield MOST_WRONG
