"""Estimators against scikit-learn's: ``python bench/estimators.py [--quick] [--sets A,B]``.

Both libraries run the same calls, with Adam by default, on small, synthetic and sparse data and
MNIST (sparse data also with plain gradient descent). Measured are the seconds of `fit`, input
checks included, and the scores of many seeds. Each library has a separate process for each data
set and round, and the library that starts alternates between rounds. A row counts only if both ran
the same number of epochs. Exit codes are those of compare.py.
"""

import argparse
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median, stdev
from typing import Any

import joblib
import numpy as np
from compare import run_python
from mnist_like import find_or_imitate
from rich.console import Console
from rich.table import Table
from scipy.sparse import csr_array
from sklearn.datasets import (
    load_breast_cancer,
    load_diabetes,
    load_digits,
    load_iris,
    load_wine,
    make_classification,
)
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import scale

from fastnn.commands.machine import cpu_name
from fastnn.commands.options import positive_int

LIBRARIES = ("fastnn", "scikit-learn")
Arrays = tuple[np.ndarray, np.ndarray]
Parts = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # the order of train_test_split


def mnist(dtype: str) -> Arrays:
    """Return MNIST's training rows, or an imitation, scaled to 0 to 1."""
    data = find_or_imitate()
    return (data.x_train * data.scale).astype(dtype), data.y_train


def synthetic(rows: int) -> Arrays:
    """Return rows of two classes with 20 features."""
    return make_classification(rows, random_state=0)


def sparse_rows() -> Arrays:
    """Return 11,000 rows of ten classes with 100,000 features, 0.1 % of them not zero."""
    rng, rows, features, entries = np.random.default_rng(0), 11_000, 100_000, 100
    columns = rng.integers(0, features, rows * entries)
    x = csr_array(
        (rng.random(rows * entries, np.float32), columns, np.arange(rows + 1) * entries),
        shape=(rows, features),
    )
    x.sum_duplicates()
    return x, (x @ rng.standard_normal((features, 10))).argmax(axis=1)


def bundled(load: Callable[..., Arrays]) -> Arrays:
    """Return a data set of scikit-learn with scaled features."""
    x, y = load(return_X_y=True)
    return scale(x), y


@dataclass(frozen=True)
class Case:
    """A data set and the arguments of the estimator.

    Attributes
    ----------
    load : callable
    kind : str
        The estimator.
    epochs : int
        Epochs of each timed fit.
    batch_sizes : tuple
        Each is a row of the table.
    scored_epochs : int
        Maximum epochs of each scored fit, which stops as the library decides.
    seeds : int
        Number of scored fits.
    settings : dict
        Arguments of the estimator.
    """

    load: Callable[[], Arrays]
    kind: str = "MLPClassifier"
    epochs: int = 50
    batch_sizes: tuple[int | str, ...] = ("auto",)
    scored_epochs: int = 200
    seeds: int = 10
    settings: dict[str, Any] = field(default_factory=dict)


ON_MNIST: Any = {"batch_sizes": ("auto", 128), "scored_epochs": 3, "seeds": 3}


def on_sparse_rows(**settings: Any) -> Case:
    """Return a case with sparse rows; with one seed, because scikit-learn is slow there."""
    settings["hidden_layer_sizes"] = (128, 64)
    return Case(sparse_rows, epochs=1, scored_epochs=3, seeds=1, settings=settings)


CASES = {
    "iris": Case(lambda: bundled(load_iris)),
    "wine": Case(lambda: bundled(load_wine)),
    "breast-cancer": Case(lambda: bundled(load_breast_cancer), batch_sizes=("auto", 128)),
    "digits": Case(lambda: bundled(load_digits), batch_sizes=("auto", 128)),
    "diabetes": Case(lambda: bundled(load_diabetes), "MLPRegressor", batch_sizes=("auto", 128)),
    "500x20": Case(lambda: synthetic(500)),
    "5000x20": Case(lambda: synthetic(5_000)),
    # float64, like `fetch_openml("mnist_784")` divided by 255, and float32, which is faster.
    "mnist float64": Case(lambda: mnist("float64"), epochs=5, **ON_MNIST),
    "mnist float32": Case(lambda: mnist("float32"), epochs=5, **ON_MNIST),
    # Plain gradient descent, without the penalty that would change every weight in every step.
    "sparse SGD": on_sparse_rows(solver="sgd", learning_rate_init=0.1, momentum=0.0, alpha=0.0),
    "sparse Adam": on_sparse_rows(),
}


# ---- a process of one library ---------------------------------------------------------------


def estimator(library: str, kind: str, **settings: Any) -> Any:
    """Return an estimator of a library with these settings."""
    if library == "fastnn":
        import fastnn as home
    else:
        import sklearn.neural_network as home
    return getattr(home, kind)(**settings)


def work(library: str, case: Case, batch_size: int | str, fits: int, seeds: int) -> dict[str, Any]:
    """Time fits of a fixed number of epochs, then score fits that stop by themselves.

    Each fit has a new estimator. The first one loads the kernels and is not timed.
    """
    x, y = case.load()
    y = scale(y) if case.kind == "MLPRegressor" else y
    shared = {"batch_size": batch_size, **case.settings}
    fixed = {**shared, "n_iter_no_change": np.inf, "max_iter": case.epochs}
    seconds, epochs = [], set()
    for number in range(fits + 1):
        model = estimator(library, case.kind, random_state=number, **fixed)
        start = time.perf_counter()
        model.fit(x, y)
        seconds.append(time.perf_counter() - start)
        epochs.add(model.n_iter_)
    settings = {**shared, "max_iter": case.scored_epochs}
    scores = []
    for seed in range(seeds):
        parts: Parts = train_test_split(x, y, test_size=0.25, random_state=seed)
        model = estimator(library, case.kind, random_state=seed, **settings)
        scores.append(model.fit(parts[0], parts[2]).score(parts[1], parts[3]))
    return {
        "seconds": seconds[1:],
        "epochs": sorted(epochs),
        "scores": scores,
    }


# ---- both -----------------------------------------------------------------------------------


@dataclass
class Row:
    """The results of the processes for a case and a batch size, by library."""

    name: str
    batch_size: int | str
    seconds: dict[str, list[float]] = field(default_factory=lambda: {n: [] for n in LIBRARIES})
    scores: dict[str, list[float]] = field(default_factory=dict)
    epochs: set[int] = field(default_factory=set)
    failure: str = ""

    def add(self, library: str, said: dict[str, Any]) -> None:
        """Add the result of a process; scores are the same in all rounds."""
        self.seconds[library] += said["seconds"]
        self.scores[library] = said["scores"] or self.scores[library]
        self.epochs |= set(said["epochs"])
        if self.epochs != {CASES[self.name].epochs}:
            self.failure = f"epochs differ: {sorted(self.epochs)}"

    def cells(self) -> list[str]:
        """Return the row of the table."""
        start = [self.name, str(self.batch_size), str(CASES[self.name].epochs)]
        if self.failure:
            return [*start, self.failure]
        times = {name: 1e3 * median(self.seconds[name]) for name in LIBRARIES}
        ratio = times["scikit-learn"] / times["fastnn"]
        pairs = zip(*(self.scores[name] for name in LIBRARIES), strict=True)
        apart = [ours - theirs for ours, theirs in pairs]
        noise = f" ± {stdev(apart) / len(apart) ** 0.5:.4f}" if len(apart) > 1 else ""
        return [
            *start,
            *(f"{times[name]:,.1f}" for name in LIBRARIES),
            f"{ratio:.1f} ×",
            *(f"{fmean(self.scores[name]):.4f}" for name in LIBRARIES),
            f"{fmean(apart):+.4f}{noise}",
        ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison and return the exit code of the process."""
    options = parse(argv)
    if options.library:
        warnings.simplefilter("ignore")  # about the few epochs
        case, batch_size = CASES[options.sets[0]], json.loads(options.batch_size)
        print(json.dumps(work(options.library, case, batch_size, options.fits, options.seeds)))
        return 0
    try:
        rows = compare(options)
    except KeyboardInterrupt:
        return 130
    show(rows, options.threads)
    return int(any(row.failure for row in rows))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    cores = joblib.cpu_count()
    add = parser.add_argument
    add("--quick", action="store_true", help="does it still run?")
    add("--sets", type=lambda text: text.split(","), default=list(CASES), help=", ".join(CASES))
    add("--threads", metavar="N", type=positive_int, default=cores, help=f"for both ({cores})")
    add("--library", choices=LIBRARIES, help=argparse.SUPPRESS)  # a process of one
    add("--batch-size", help=argparse.SUPPRESS)
    add("--fits", type=int, help=argparse.SUPPRESS)
    add("--seeds", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    unknown = [name for name in options.sets if name not in CASES]
    if unknown:
        parser.error(f"argument --sets: must be some of {', '.join(CASES)}, got {unknown[0]!r}")
    return options


def compare(options: argparse.Namespace) -> list[Row]:
    """Run the processes; only the first round computes scores."""
    rows = [Row(name, batch) for name in options.sets for batch in CASES[name].batch_sizes]
    rounds, fits = (1, 1) if options.quick else (3, 3)
    for number in range(rounds):
        for row in rows:
            seeds = 0 if number else min(CASES[row.name].seeds, 2 if options.quick else 10)
            for library in LIBRARIES[:: -1 if number % 2 else 1]:
                if row.failure:
                    continue
                command = [__file__, "--library", library, "--sets", row.name]
                command += ["--batch-size", json.dumps(row.batch_size)]
                command += ["--fits", str(fits), "--seeds", str(seeds)]
                try:
                    printed = run_python(command, options.threads)
                    row.add(library, json.loads(printed.splitlines()[-1]))
                except (RuntimeError, subprocess.TimeoutExpired, ValueError) as error:
                    row.failure = f"{library} failed: {error}"
            print(f"round {number + 1}/{rounds}: {row.name}", file=sys.stderr, flush=True)
    return rows


def show(rows: Sequence[Row], threads: int) -> None:
    """Print the table."""
    table = Table(
        title="fit and score of the same call",
        caption=f"{cpu_name()}, {threads} threads; times are medians; a difference of scores "
        "stands with its standard error over the seeds",
    )
    table.add_column("set")
    for heading in ("batch", "epochs", "fastnn, ms", "scikit-learn, ms", "ratio"):
        table.add_column(heading, justify="right")
    for heading in ("score", "scikit-learn's", "difference"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*row.cells())
    Console(width=max(120, Console().width)).print(table)  # a file has no width


if __name__ == "__main__":
    sys.exit(main())
