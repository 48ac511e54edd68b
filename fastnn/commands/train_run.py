"""The steps of a training run: load the data, fit, evaluate, save and draw."""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastnn.commands import running, session
from fastnn.commands.console import Display, Log, check_loss, open_display
from fastnn.commands.train_options import OPTIMIZER_OPTIONS, PROGRAM
from fastnn.commands.train_text import ending_text, evaluated, result_text
from fastnn.data.sets import Dataset
from fastnn.model.optimizers import get_optimizer
from fastnn.model.schedules import Schedule
from fastnn.network import Network
from fastnn.training.checkpoint import Checkpoint
from fastnn.training.early_stopping import EarlyStopping
from fastnn.training.fit import Fit
from fastnn.training.plan import Plan
from fastnn.training.preparation import prepare
from fastnn.training.state import Prepared


def train_run(options: argparse.Namespace, start: float) -> None:
    """Train a network as the options say; print, log, save and draw the result.

    `start` is the time when the command started, as `time.perf_counter` returns it.
    """
    checkpoint = checkpoints(options)
    data = session.load(PROGRAM, options, quiet=options.quiet)
    network = Network(
        (data.x_train.shape[1], *options.hidden, data.n_classes),
        activation=options.activation,
        dropout=options.dropout,
        input_scale=data.scale,
        seed=options.seed,
    )
    prepared = prepare_data(options, data, network)
    display = open_display(options, data)
    session.use_engine(PROGRAM, network, options.engine, options.threads, display.say)
    log = Log(options, data)
    with log.recording():
        with session.warnings_as_lines(PROGRAM):
            callbacks = (log, display, *([checkpoint] if checkpoint else []))
            fit = network._train(prepared, callbacks=callbacks)
        snapshot = checkpoint and checkpoint.snapshot
        if snapshot and snapshot.epochs == len(fit.history["loss"]):
            display.say(f"the run in {options.resume} is already complete: nothing left to train")
        result = measure(options, data, fit)
        result["total_seconds"] = time.perf_counter() - start
        log.write("result", **result)
    try:
        curves = finish(options, data, fit, display, result)
        log.path.stat()  # raises an error if the log was removed
    finally:  # print the result even if a file cannot be written
        display.print(result_text(result), "bold")
        session.print_note(PROGRAM, data, short=not options.quiet)
    if options.show:
        show(curves or draw_curves(options, data, fit))


def checkpoints(options: argparse.Namespace) -> Checkpoint | None:
    """Return the callback that writes checkpoints, or None; check its directory."""
    directory = options.resume or options.checkpoint
    if directory is None:
        return None
    checkpoint = Checkpoint(directory, options.checkpoint_every, options.resume is not None)
    checkpoint.check()
    session.check_new_directory(directory)
    return checkpoint


def prepare_data(options: argparse.Namespace, data: Dataset, network: Network) -> Prepared:
    """Check the settings and the data of the fit, before anything is printed or written."""
    settings = {n: getattr(options, n) for n in OPTIMIZER_OPTIONS}
    rule = None
    if options.early_stopping:
        rule = EarlyStopping(options.monitor, options.patience, options.min_delta)
    plan = Plan(
        options.epochs,
        options.batch_size,
        get_optimizer(options.optimizer, **settings),
        Schedule(options.schedule, options.warmup_epochs),
        l2=options.l2,
        clip_norm=options.clip_norm,
        seed=options.seed,
        early_stopping=rule,
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


def measure(options: argparse.Namespace, data: Dataset, fit: Fit) -> dict[str, Any]:
    """Return the results of the finished fit; the test metrics are of the final weights."""
    loss, accuracy = fit.network.evaluate(data.x_test, data.y_test)
    check_loss(loss, "test", options, fit)
    return {
        "epochs_run": len(fit.history["loss"]),
        "best_epoch": fit.position.stopping.best_epoch if fit.plan.early_stopping else None,
        "test_loss": loss,
        "test_accuracy": accuracy,
        "train_seconds": sum(fit.history["seconds"]),
        "compile_seconds": fit.engine.compile_seconds,
        "weights_sha256": fit.network.weights_sha256(),
    }


def finish(
    options: argparse.Namespace, data: Dataset, fit: Fit, display: Display, result: dict[str, Any]
) -> Any:
    """Print when and why the fit ended; save the network and draw the plots.

    Return the figure of the curves, or None without --plots.
    """
    if why := ending_text(fit):
        display.say(why)
    trained, total = (f"{result[f'{name}_seconds']:.2f} s" for name in ("train", "total"))
    if options.resume is None:
        display.say(f"training took {trained}, the whole run {total}")
    else:
        display.say(f"training took {trained} since its first start, this run {total}")
    display.say(f"weights SHA-256 {result['weights_sha256']}")
    if options.save is not None:  # first, because drawing may fail
        fit.network.save(options.save)
        display.say(f"wrote {options.save}")
    if options.plots is None:
        return None
    options.plots.mkdir(parents=True, exist_ok=True)
    path = options.plots / "loss_accuracy.png"
    curves = draw_curves(options, data, fit, path)
    display.say(f"wrote {path}")
    for path in draw_predictions(options, data, fit, result["test_accuracy"]):
        display.say(f"wrote {path}")
    return curves


def draw_predictions(
    options: argparse.Namespace, data: Dataset, fit: Fit, test_accuracy: float
) -> Iterator[Path]:
    """Draw the plots of weights and predictions that the data allow; yield each file's path."""
    from fastnn.plots import images as image_plots

    title = f"{data.name}, {session.widths_text(fit.network)}"
    probabilities = fit.network.predict_proba(data.x_test)
    if data.n_classes <= image_plots.MOST_CLASSES:
        path = options.plots / "confusion_matrix.png"
        image_plots.confusion_matrix(
            data.y_test,
            probabilities.argmax(axis=1),
            path,
            title=f"{title}: test accuracy {test_accuracy:.2%}",
            classes=data.n_classes,
        )
        yield path
    if (shape := data.image_shape) is not None:
        path = options.plots / "first_layer_weights.png"
        w, text = fit.network.parameters[0][0], f"{title}: weights of the first layer"
        image_plots.first_layer_weights(w, path, shape=shape, title=text)
        yield path
        path = options.plots / "most_wrong.png"
        text = f"{title}: most confident mistakes on the test rows"
        x, y = data.x_test, data.y_test
        image_plots.most_wrong(x, y, probabilities, path, shape=shape, title=text)
        yield path


def draw_curves(
    options: argparse.Namespace, data: Dataset, fit: Fit, path: Path | None = None
) -> Any:
    """Draw the learning curves, write them to a file if `path` is given, and return the figure."""
    from fastnn.plots.curves import loss_accuracy

    title = f"{data.name}, {session.widths_text(fit.network)}, batches of {fit.batch_size:,}"
    validation = "test" if evaluated(options) == "test" else "validation"
    return loss_accuracy(fit.history, path, title=title, validation=validation)


def show(figure: Any) -> None:
    """Show a figure in a window or a notebook, or warn that there is neither."""
    from fastnn.plots import window

    with running.exit_on_interrupt(PROGRAM):  # SIGTERM; Ctrl-C closes the window
        if not window.show(figure):
            session.warn(
                PROGRAM,
                "--show needs a notebook or a display with a toolkit such as Tk or Qt; "
                "--plots DIR writes the curves to a file",
            )
