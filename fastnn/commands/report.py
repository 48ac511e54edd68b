"""The convergence reports, ``python -m fastnn.report``: ways to train, measured side by side.

Batch GD against mini-batch GD, or the optimizers against each other. The same network learns from
the same data, from the same initial weights, and all else but the way of training is equal; what
came of it is written as Markdown and pictures.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fastnn.commands import running, session
from fastnn.commands.console import counted, versions
from fastnn.commands.report_runs import Plan, Run, capitalized, number_text
from fastnn.commands.report_text import (
    BATCH_SIZES,
    OPTIMIZER_CONTEST,
    Contest,
    Work,
    best,
    by_method,
    picture_of,
    report_text,
)
from fastnn.errors import DivergenceError
from fastnn.system.files import write_atomically
from fastnn.system.terminal import print_line, printable
from fastnn.training.fit import Callback

if TYPE_CHECKING:
    from rich.progress import Progress

    from fastnn.data.sets import Dataset
    from fastnn.engine import Engine
    from fastnn.network import Network
    from fastnn.training.state import History

PROGRAM = "fastnn.report"
HIDDEN = (128, 64)
EXAMPLES = """\
  python -m fastnn.report
  python -m fastnn.report --optimizers --out report
  python -m fastnn.report --quick --dataset digits --out /tmp/report"""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report as the arguments say; return the exit code of the process."""
    return running.run(PROGRAM, lambda: report(parse(argv)))


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Raises
    ------
    UsageError
        If it asks for what cannot be.
    """
    purpose = "Compare batch GD with mini-batch GD, or the optimizers, on this machine."
    parser = running.Parser(PROGRAM, purpose, EXAMPLES)
    add = parser.add_argument
    optimizers = "compare the optimizers, each at the best of a few learning rates"
    add("--optimizers", action="store_true", help=optimizers)
    add("--out", metavar="DIR", type=Path, default=Path("report"), help="write there (report)")
    add("--quick", action="store_true", help="a few epochs each: to see that it works")
    running.add_engine_options(parser)
    running.add_dataset_options(parser)
    add("--seed", metavar="N", type=running.seed, default=0, help="of weights and row order (0)")
    return parser.parse_args(argv)


@dataclass(frozen=True)
class Setup:
    """What all runs have in common."""

    data: "Dataset"
    engine: str
    threads: int | None
    seed: int

    def network(self) -> "Network":
        """Return the network with its initial weights, the same each time."""
        from fastnn.network import Network

        sizes = (self.data.x_train.shape[1], *HIDDEN, self.data.n_classes)
        return Network(sizes, input_scale=self.data.scale, seed=self.seed)


def report(options: argparse.Namespace) -> None:
    """Do what a command line asks for; `running.run` turns what it raises into exit codes."""
    from fastnn.commands.machine import flops_per_sample, sgemm_peak

    contest = OPTIMIZER_CONTEST if options.optimizers else BATCH_SIZES
    if options.quick:
        contest = contest.quick()
    _check_writable(options.out, contest.files)
    session.import_ahead(PROGRAM, "fastnn.network", "fastnn.data.sets", "fastnn.commands.machine")
    data = session.load(PROGRAM, options)
    setup = Setup(data, options.engine, options.threads, options.seed)
    network, engine = prepare(setup)
    facts = describe(setup, network, engine)
    for what, text in facts.items():
        print_line(f"{what:<16} {text}")
    seconds = 0.1 if options.quick else 1.0
    peak = sgemm_peak(engine.threads, seconds=seconds)
    runs = train_runs(contest.plans, setup)
    if not any(run.epochs for run in runs):
        text = "every run diverged in its first epoch: check the scale of the features"
        raise DivergenceError(text, epoch=1, step=1)
    # Twice, because a neighbour on the machine can only lower it.
    peak = max(peak, sgemm_peak(engine.threads, seconds=seconds))
    work = Work(flops_per_sample(network.layers), peak)
    write_report(options.out, contest, runs, facts, work, quick=options.quick)
    print_line(f"wrote {', '.join(contest.files)} in {options.out}")
    session.say_note(PROGRAM, data, again=True)


def write_report(
    out: Path,
    contest: Contest,
    runs: Sequence[Run],
    setup: Mapping[str, str],
    work: Work,
    *,
    quick: bool = False,
) -> None:
    """Write the report and its pictures into a directory, each file whole or not at all.

    The arguments are as `report_text` takes them.
    """
    from fastnn.plots.curves import comparison, loss_accuracy

    text = report_text(contest, runs, setup, work, quick=quick)
    out.mkdir(parents=True, exist_ok=True)
    for run in map(best, by_method(runs)):
        title = f"{capitalized(run.name)}, {counted(run.batch_size, 'row')} an update"
        loss_accuracy(run.history, out / picture_of(run.plan.method), title=title)
    histories = {run.name: run.history for run in contest.shown(runs)}
    comparison(histories, out / contest.comparison)
    page = text.encode(errors="backslashreplace")  # a file's name may be no text to this system
    write_atomically(out / contest.page, [page])  # last, so that its pictures are there


def _check_writable(out: Path, files: Sequence[str]) -> None:
    running.check_new_directory(out)
    for name in files:
        if (out / name).exists():
            running.check_file(out / name)


def prepare(setup: Setup) -> tuple["Network", "Engine"]:
    """Build the network once before the runs, so that its engine is ready and can be described."""
    network = setup.network()
    engine = session.use_engine(PROGRAM, network, setup.engine, setup.threads, print_line)
    return network, engine


def describe(setup: Setup, network: "Network", engine: "Engine") -> dict[str, str]:
    """Say what all runs have in common."""
    import platform
    from datetime import date

    from fastnn.commands.machine import cpu_name

    data = setup.data
    widths = "-".join(map(str, session.widths_of(network)))
    return {
        "Data": f"{printable(data.name)}, {counted(len(data.x_train), 'row')} to train on, "
        f"{len(data.x_test):,} to test on, from {printable(data.source)}",
        "Network": f"{widths}, {counted(network.n_parameters, 'parameter')}; "
        "ReLU, then softmax with categorical cross-entropy",
        "Initial weights": f"He normal, biases 0, seed {setup.seed}: the same for all runs",
        "Engine": f"{engine.name}, float32, {session.threads_text(engine)}",
        "Machine": f"{cpu_name()} ({platform.machine()}), {platform.system()}",
        "Versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "Date": date.today().isoformat(),
    }


def train_runs(plans: Sequence[Plan], setup: Setup) -> list[Run]:
    """Train each planned run from the same initial weights; print a line for each.

    A run that diverges ends there and keeps its completed epochs.
    """
    runs: list[Run] = []
    try:
        with session.warnings_as_lines(PROGRAM), _progress_bar(plans) as progress:
            for plan in plans:
                runs.append(_train(plan, setup, _Watch(progress, plan)))
                print_line(_line(runs[-1]))
    except KeyboardInterrupt:
        number = min(len(runs) + 1, len(plans))
        place = f"interrupted in run {number} of {len(plans)}, {plans[number - 1].name}"
        raise KeyboardInterrupt(f"{place}; no report written") from None
    return runs


def _train(plan: Plan, setup: Setup, watch: "_Watch") -> Run:
    data, network = setup.data, setup.network()
    diverged_in = None
    try:
        network.fit(
            data.x_train,
            data.y_train,
            epochs=plan.epochs,
            batch_size=plan.batch_size or "full",
            optimizer=plan.optimizer,
            learning_rate=plan.learning_rate,
            engine=setup.engine,
            threads=setup.threads,
            validation_data=(data.x_test, data.y_test),
            callbacks=(watch,),
        )
    except DivergenceError as error:
        diverged_in = error.epoch
    return Run(plan.name, plan, len(data.x_train), watch.history, diverged_in)


@contextmanager
def _progress_bar(plans: Sequence[Plan]) -> "Iterator[Progress]":
    """Show one bar for all runs, on a terminal only; lines printed meanwhile stand above it."""
    from rich.progress import Progress

    terminal = sys.stdout is not None and sys.stdout.isatty()
    # No thread of its own (auto_refresh): it would take its time from the kernels'.
    with Progress(auto_refresh=False, transient=True, disable=not terminal) as progress:
        progress.add_task("", total=sum(plan.epochs for plan in plans))
        yield progress


class _Watch(Callback):
    """Keeps the history, which a run that diverges would lose, and moves the progress bar."""

    REFRESH_SECONDS = 0.1

    def __init__(self, progress: "Progress", plan: Plan) -> None:
        self.history: History = {}
        self._progress, self._task, self._plan = progress, progress.task_ids[0], plan
        self._next_refresh = 0.0

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        """Take the figures of an epoch; end a run whose test loss is not finite."""
        now = time.monotonic()
        due = now >= self._next_refresh
        if due:
            self._next_refresh = now + self.REFRESH_SECONDS
        self._progress.update(self._task, advance=1, description=self._plan.name, refresh=due)
        rate = self._plan.learning_rate
        session.check_loss(metrics["val_loss"], "test", epoch=epoch, learning_rate=rate)
        for name, value in metrics.items():
            self.history.setdefault(name, []).append(value)


def _line(run: Run) -> str:
    if not run.epochs:
        return f"{run.name:<26} diverged in epoch {run.diverged_in}"
    end = f", diverged in epoch {run.diverged_in}" if run.diverged_in else ""
    return (
        f"{run.name:<26} {counted(run.epochs, 'epoch')} in {number_text(run.seconds[-1])} s, "
        f"test accuracy {run.history['val_accuracy'][-1]:.2%}{end}"
    )
