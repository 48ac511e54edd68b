"""Compare fastnn with its peers: ``python bench/compare.py [--shapes] [--quick] [--out DIR]``.

Every peer trains by plain SGD in separate processes. Each round starts all of them again, so that
a drift of the machine affects all peers. A peer counts only if it did the same work: its losses
agree with those of the reference engine. README.md explains how to read the result.

Exit codes: 0 success, 1 a peer failed or a file cannot be written, 2 usage, 130 Ctrl-C.
"""

import argparse
import datetime
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import joblib
from compare_report import Comparison, Row, draw, draw_shapes, markdown, shapes_markdown
from measuring import load_average, sgemm_peak
from peer_work import Case
from peers import PEERS

import fastnn
from fastnn.commands.machine import cpu_name
from fastnn.commands.options import positive_int
from fastnn.commands.session import check_directory
from fastnn.system.files import write_atomically

PACKAGE_HOME = Path(fastnn.__file__).parents[1]  # the processes import this fastnn
PEERS_SCRIPT = Path(__file__).with_name("peers.py")
TIMEOUT_SECONDS = 900
ALWAYS = ("fastnn", "reference")  # the denominator of ratios, and the reference of losses

MNIST_SIZES = (784, 128, 64, 10)
# Layer sizes and rows of a batch, on dense data: two medium networks, then inputs, widths,
# depths and batches from small to large.
SHAPES = (
    ((784, 128, 64, 10), 128),
    ((784, 512, 512, 10), 256),
    *(
        ((inputs, *[width] * depth, 10), batch)
        for inputs, width, depth, batch in (
            (20, 16, 1, 1),
            (20, 16, 1, 32),
            (20, 16, 2, 1024),
            (20, 16, 3, 1),
            (20, 128, 1, 32),
            (20, 128, 2, 1),
            (20, 128, 3, 1024),
            (20, 1024, 1, 32),
            (20, 1024, 2, 1024),
            (784, 16, 1, 1),
            (784, 16, 2, 32),
            (784, 128, 1, 1),
            (784, 128, 3, 32),
            (784, 1024, 1, 1),
            (784, 1024, 2, 32),
            (784, 1024, 3, 1024),
        )
    ),
)
SHAPES_PEERS = ("fastnn", "reference", "torch", "jax")


def shape_rows(batch: int) -> int:
    """Return the number of rows per epoch: enough to time, few enough to wait for."""
    return min(16_384, max(1_000, 200 * batch))


LOSS_TOLERANCE = 1e-4
# The loss of a full-batch epoch is measured before its only update, so several epochs are needed
# to prove that the updates agree.
PROVEN_EPOCHS, PROVEN_FULL_BATCH_EPOCHS = 1, 4

# These variables can halve the speed of NumPy and scikit-learn (AVX2 kernels despite AVX-512).
# Without them, OpenBLAS detects the CPU; the page names its choice.
UNWANTED = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
# The thread pool of XLA, JAX's compiler, reads NPROC.
THREAD_VARIABLES = (
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
    "NPROC",
)


@dataclass(frozen=True)
class Plan:
    """The peers, cases, threads, rounds and epochs of a comparison."""

    peers: Sequence[str]
    cases: Sequence[Case]
    threads: int
    rounds: int
    warmup: int
    epochs: int


@dataclass
class Record:
    """The results of one peer's processes for one case."""

    losses: list[list[float]] = field(default_factory=list)  # by process, by epoch
    seconds: list[float] = field(default_factory=list)  # of all epochs but the warm-ups
    said: dict[str, Any] = field(default_factory=dict)
    failure: str = ""


Records = dict[tuple[str, Case], Record]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison and return the exit code of the process."""
    options = parse(argv)
    lacking = {name: PEERS[name].lacks() for name in options.peers}
    plan = planned(options, [name for name, lack in lacking.items() if not lack])

    def produce() -> tuple[str, bool]:
        result = compare(plan, {PEERS[name].title: why for name, why in lacking.items() if why})
        if options.shapes:
            text, page = shapes_markdown(result), options.out / "shapes.md"
            draw_shapes(result, page.with_name("shapes.png"))
        else:
            text, page = markdown(result), options.out / "comparison.md"
            draw(result, page.with_name("peers.png"))
        write_atomically(page, [text.encode()])
        return text, not any(row.failure for row in result.rows)

    return run_and_print("compare.py", options.out, produce)


def run_and_print(program: str, out: Path, produce: Callable[[], tuple[str, bool]]) -> int:
    """Call `produce`, print the page that it returns, and return the exit code.

    `out` is created first. `produce` returns the page and whether all peers succeeded.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        check_directory(out)
        text, good = produce()
    except KeyboardInterrupt:
        return 130
    except (OSError, RuntimeError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    print(text)
    return 0 if good else 1


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    cores = joblib.cpu_count()
    add = parser.add_argument
    add("--quick", action="store_true", help="a round of few epochs: does it still run?")
    add("--shapes", action="store_true", help="many networks and batches, on dense data")
    add("--out", metavar="DIR", type=Path, default=Path("comparison"), help="(comparison)")
    add("--batch-size", metavar="N", type=positive_int, default=128, help="beside full (128)")
    add("--threads", metavar="N", type=positive_int, default=cores, help=f"for all ({cores})")
    add("--rounds", metavar="N", type=positive_int, help="fresh processes of each peer (3)")
    add("--epochs", metavar="N", type=positive_int, help="timed in each process (7)")
    names = ", ".join(name for name in PEERS if name not in ALWAYS)
    add("--peers", metavar="A,B", type=listed, help=f"some of {names}")
    options = parser.parse_args(argv)
    options.peers = options.peers or list(SHAPES_PEERS if options.shapes else PEERS)
    if options.threads > cores:
        parser.error(f"argument --threads: this process may use {cores}, got {options.threads}")
    return options


def listed(text: str) -> list[str]:
    """Return the peers that are named, separated by commas, and always fastnn's two engines."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in PEERS:
            raise argparse.ArgumentTypeError(f"must be some of {', '.join(PEERS)}, got {name!r}")
    return [name for name in PEERS if name in ALWAYS or name in names]


def planned(options: argparse.Namespace, peers: Sequence[str]) -> Plan:
    """Return the comparison that the options describe, with the peers that can run."""
    rounds, warmup, epochs = (1, 1, 3) if options.quick else (3, 2, 7)
    cases = [Case(MNIST_SIZES, batch_size) for batch_size in (options.batch_size, None)]
    if options.shapes:
        cases = [Case(sizes, batch, shape_rows(batch)) for sizes, batch in SHAPES]
        rounds = 1
    return Plan(
        peers,
        cases,
        options.threads,
        options.rounds or rounds,
        warmup,
        options.epochs or epochs,
    )


def compare(plan: Plan, left_out: Mapping[str, str]) -> Comparison:
    """Run all cases; return the data of the table and the plot."""
    load = load_average()
    before = sgemm_limit(plan.threads)
    records = run_rounds(plan)
    limit = max(before, sgemm_limit(plan.threads))  # other load can only lower it
    said: dict[str, Any] = next((r.said for r in records.values() if r.said), {})
    return Comparison(
        rows=verified(records),
        sgemm_gflops=limit,
        how={PEERS[name].title: PEERS[name].how for name in plan.peers},
        left_out=dict(left_out),
        conditions={
            "data": said.get("data", "none"),
            "machine": cpu_name(),
            "threads": f"{plan.threads}, for all",
            "load before the run": "unknown" if load is None else f"{load:.1f} (0 is best)",
            "NumPy's BLAS": "; ".join(said.get("blas", [])) or "unknown",
            "rounds": f"{plan.rounds}, in each a process of its own for every line, which times "
            f"{plan.epochs} epochs after a warm-up of {plan.warmup}",
            "versions": ", ".join(f"{k} {v}" for k, v in versions(plan.peers).items()),
            "date": datetime.date.today().isoformat(),
        },
    )


def run_rounds(plan: Plan) -> Records:
    """Run the processes in rounds; a peer that failed is not started again."""
    records: Records = {(p, case): Record() for case in plan.cases for p in plan.peers}
    for number in range(plan.rounds):
        for (name, case), record in records.items():
            if record.failure:
                continue
            add_run(record, run_peer(name, case, plan), plan.warmup)
            outcome = record.failure or f"{1e3 * min(record.seconds):.3g} ms at best so far"
            where = f"round {number + 1}/{plan.rounds}, {case.shape}, {case.batch}"
            print(f"{where}: {PEERS[name].title}, {outcome}", file=sys.stderr, flush=True)
    return records


def add_run(record: Record, said: dict[str, Any], warmup: int) -> None:
    """Add the losses and times of a process, or the reason of its failure."""
    if "failure" in said:
        record.failure = said["failure"]
        return
    record.said = said
    record.losses.append(said["losses"])
    record.seconds += said["seconds"][warmup:]


def run_peer(name: str, case: Case, plan: Plan) -> dict[str, Any]:
    """Run one process; return its output or its failure."""
    command = [str(PEERS_SCRIPT), name, "--threads", str(plan.threads)]
    command += ["--epochs", str(plan.warmup + plan.epochs), "--case", case.to_json()]
    try:
        return json.loads(run_python(command, plan.threads).splitlines()[-1])
    except (RuntimeError, subprocess.TimeoutExpired, ValueError, IndexError) as error:
        return {"failure": f"failed: {error or 'it printed nothing'}"}


def sgemm_limit(threads: int) -> float:
    """Measure the matrix-product peak in the environment of the peers."""
    return sgemm_peak(threads, base=environment(os.environ, threads))


def run_python(arguments: Sequence[str], threads: int) -> str:
    """Run a Python process in the peers' environment; return its output.

    Raises
    ------
    RuntimeError
        If it fails; the message is the last line of its output.
    """
    done = subprocess.run(
        [sys.executable, *arguments],
        env=environment(os.environ, threads),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RuntimeError(lines[-1])
    return done.stdout


def environment(base: Mapping[str, str], threads: int) -> dict[str, str]:
    """Return the environment of the peers: equal threads, no variables that slow one down."""
    env = {name: value for name, value in base.items() if name not in UNWANTED}
    env |= dict.fromkeys(THREAD_VARIABLES, str(threads))
    env["JAX_PLATFORMS"] = "cpu"
    path = [str(PACKAGE_HOME), *filter(None, [base.get("PYTHONPATH")])]
    return env | {"PYTHONPATH": os.pathsep.join(path)}


def verified(records: Records) -> list[Row]:
    """Return the rows, each with the distance of its losses from the reference engine's."""
    rows = []
    for (name, case), record in records.items():
        reference = next(iter(records["reference", case].losses), [])
        proven = PROVEN_FULL_BATCH_EPOCHS if case.batch_size is None else PROVEN_EPOCHS
        apart, failure = None, record.failure
        if not failure:
            apart = worst(loss_distance(run[:proven], reference[:proven]) for run in record.losses)
            if not apart <= LOSS_TOLERANCE:  # a NaN is not
                failure = f"failed: its loss is {apart:.1e} from the reference engine's"
        samples = record.said.get("rows", 0)
        row = Row(name, PEERS[name].title, case, samples, record.seconds, apart, failure)
        rows.append(row)
    return rows


def loss_distance(losses: Sequence[float], expected: Sequence[float]) -> float:
    """Return the largest relative distance; NaN if there are no losses or one is NaN.

    Examples
    --------
    >>> loss_distance([0.5, 0.375], [0.5, 0.25])
    0.5
    """
    if len(losses) != len(expected):
        return math.nan
    return worst(abs(got - want) / abs(want) for got, want in zip(losses, expected, strict=True))


def worst(distances: Iterable[float]) -> float:
    """Return the largest value; NaN if there is none or one is NaN."""
    values = list(distances)
    return math.nan if not values or any(map(math.isnan, values)) else max(values)


def versions(peers: Sequence[str]) -> dict[str, str]:
    """Return the versions of Python, fastnn and the peers' packages."""
    import platform
    from importlib.metadata import version

    packages = dict.fromkeys(PEERS[name].package for name in peers)
    found = {package: version(package) for package in packages}
    return {"fastnn": fastnn.__version__, "python": platform.python_version()} | found


if __name__ == "__main__":
    sys.exit(main())
