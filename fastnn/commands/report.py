"""The command ``python -m fastnn.report``: compare training methods on this machine.

It compares batch GD with mini-batch GD, or the optimizers, on the same network, initial weights
and data, and writes a Markdown page with plots.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fastnn.commands import running, session
from fastnn.commands.options import SEED_LIMIT, Parser, add_data_options, add_engine_options
from fastnn.commands.report_runs import (
    BATCH_SIZES,
    OPTIMIZER_CONTEST,
    Contest,
    Plan,
    Run,
    best,
    by_method,
    plot_file,
)
from fastnn.commands.report_text import report_text
from fastnn.commands.text import counted, number_text
from fastnn.errors import DivergenceError
from fastnn.system.files import write_atomically
from fastnn.system.terminal import print_line, printable

if TYPE_CHECKING:
    from fastnn.data.sets import Dataset
    from fastnn.engine import Engine
    from fastnn.network import Network

PROGRAM = "fastnn.report"
HIDDEN = (128, 64)
SEEDS = 3  # runs of each method that is compared
EXAMPLES = """\
  python -m fastnn.report
  python -m fastnn.report --optimizers --out report
  python -m fastnn.report --quick --dataset digits --out /tmp/report"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return the exit code of the process."""
    return running.run(PROGRAM, lambda: report(parse(argv)))


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line, or raise a UsageError."""
    purpose = (
        "Compare batch gradient descent with mini-batch gradient descent, or the\n"
        "optimizers, on this machine, and write a Markdown page with a table and plots."
    )
    parser = Parser(PROGRAM, purpose, EXAMPLES)
    add = parser.add_argument
    optimizers = "compare the optimizers, each at the best of several learning rates"
    add("--optimizers", action="store_true", help=optimizers)
    directory = "write to this directory, created if necessary (default: report)"
    add("--out", metavar="DIR", type=Path, default=Path("report"), help=directory)
    quick = "train for a few epochs only, to test that the command works"
    add("--quick", action="store_true", help=quick)
    add_engine_options(parser)
    add_data_options(parser)
    return parser.parse_args(argv)


def report(options: argparse.Namespace) -> None:
    """Train the runs of a report and write it."""
    contest = OPTIMIZER_CONTEST if options.optimizers else BATCH_SIZES
    if options.quick:
        contest = contest.quick()
    session.check_new_directory(options.out)
    for path in (options.out / name for name in contest.files):
        if path.exists():
            session.check_file(path)
    session.import_early(PROGRAM, "fastnn.network", "fastnn.data.sets")
    data = session.load(PROGRAM, options)
    network = new_network(data, options.seed)
    engine = session.use_engine(PROGRAM, network, options.engine, options.threads, print_line)
    facts = describe(data, network, engine)
    for name, text in facts.items():
        print_line(f"{name:<16} {text}")
    epochs = max(plan.epochs for plan in contest.plans)
    print_line(f"training {len(contest.plans)} runs of at most {epochs} epochs:")
    runs = train_runs(contest.plans, data, options, options.seed)
    if not any(run.history for run in runs):
        text = "every run diverged: check the scale of the features"
        raise DivergenceError(text, epoch=1, step=1)
    repeated = [] if options.quick else repeat_best(runs, data, options)
    text = report_text(contest, runs, facts, repeated=repeated, quick=options.quick)
    write_report(options.out, contest, runs, text)
    print_line(f"wrote {', '.join(contest.files)} in {options.out}")
    session.print_note(PROGRAM, data, short=True)


def new_network(data: "Dataset", seed: int) -> "Network":
    """Return a network for the data, with the initial weights of the seed."""
    from fastnn.network import Network

    sizes = (data.x_train.shape[1], *HIDDEN, data.n_classes)
    return Network(sizes, input_scale=data.scale, seed=seed)


def describe(data: "Dataset", network: "Network", engine: "Engine") -> dict[str, str]:
    """Return the settings that all runs have in common, by their names in the report."""
    import platform
    from datetime import date

    from fastnn.commands.machine import cpu_name, versions

    return {
        "Data": f"{printable(data.name)}, {len(data.x_train):,} training, {len(data.x_test):,} "
        f"test rows, from {printable(data.source)}",
        "Network": f"{session.widths_text(network)}, {counted(network.n_parameters, 'parameter')}; "
        "ReLU, then softmax with categorical cross-entropy",
        "Initial weights": f"He normal, biases 0, seed {network.seed}",
        "Engine": f"{engine.name}, float32, {session.threads_text(engine)}",
        "Machine": f"{cpu_name()} ({platform.machine()}), {platform.system()}",
        "Versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "Date": date.today().isoformat(),
    }


def repeat_best(
    runs: Sequence[Run], data: "Dataset", options: argparse.Namespace
) -> list[tuple[Run, ...]]:
    """Train the best run of each method with other seeds; return all its runs for each method."""
    repeats = [[best(tried) for tried in by_method(runs)]]
    plans = [run.plan for run in repeats[0]]
    for number in range(1, SEEDS):
        seed = (options.seed + number) % SEED_LIMIT
        print_line(f"the best run of each method with seed {seed}:")
        repeats.append(train_runs(plans, data, options, seed))
    return list(zip(*repeats, strict=True))


def train_runs(
    plans: Sequence[Plan], data: "Dataset", options: argparse.Namespace, seed: int
) -> list[Run]:
    """Train each planned run from the same initial weights; print a line for each."""
    runs: list[Run] = []
    try:
        with session.warnings_as_lines(PROGRAM):
            for plan in plans:
                runs.append(_train(plan, data, options, seed))
                print_line(_line(runs[-1]))
    except KeyboardInterrupt:
        number = min(len(runs) + 1, len(plans))
        place = f"interrupted in run {number} of {len(plans)}, {plans[number - 1].name}"
        raise KeyboardInterrupt(f"{place}; no report written") from None
    return runs


def _train(plan: Plan, data: "Dataset", options: argparse.Namespace, seed: int) -> Run:
    rows = len(data.x_train)
    try:
        history = new_network(data, seed).fit(
            data.x_train,
            data.y_train,
            epochs=plan.epochs,
            batch_size=plan.batch_size or "full",
            optimizer=plan.optimizer,
            learning_rate=plan.learning_rate,
            engine=options.engine,
            threads=options.threads,
            validation_data=(data.x_test, data.y_test),
        )
    except DivergenceError as error:
        return Run(plan, rows, {}, error.epoch)
    return Run(plan, rows, history)


def _line(run: Run) -> str:
    if not run.history:
        return f"{run.plan.name:<26} diverged in epoch {run.diverged_in}"
    return (
        f"{run.plan.name:<26} {counted(len(run.seconds), 'epoch')} in "
        f"{number_text(run.seconds[-1])} s, test accuracy {run.history['val_accuracy'][-1]:.2%}"
    )


def write_report(out: Path, contest: Contest, runs: Sequence[Run], text: str) -> None:
    """Write the plots and the page of a report, each file completely or not at all."""
    from fastnn.plots.curves import comparison, loss_accuracy

    out.mkdir(parents=True, exist_ok=True)
    for run in map(best, by_method(runs)):
        title = f"{run.plan.name}, {counted(run.batch_size, 'row')} per update"
        loss_accuracy(run.history, out / plot_file(run.plan.method), title=title)
    histories = {run.plan.name: run.history for run in contest.shown(runs)}
    comparison(histories, out / contest.comparison)
    page = text.encode(errors="backslashreplace")  # file names may contain undecodable bytes
    write_atomically(out / contest.page, [page])  # last, so that the page's plots exist
