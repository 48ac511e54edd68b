"""The tables at the end of a benchmark run."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import log2
from statistics import linear_regression
from typing import Any

from pytest_benchmark.fixture import BenchmarkFixture

from fastnn.data.sets import Dataset

Row = dict[str, Any]
Columns = dict[str, Callable[[Row], str]]

EPOCH_COLUMNS: Columns = {
    "epoch": lambda row: f"{row['batch']}, {row['engine']}, {counted(row['threads'])}",
    "median ms": lambda row: f"{row['median'] * 1e3:.1f}",
    "min ms": lambda row: f"{row['min'] * 1e3:.1f}",
    "samples/s": lambda row: f"{row['samples_per_second']:,.0f}",
    "GFLOP/s": lambda row: f"{row['gflops']:.0f}",
    "of sgemm": lambda row: ratio(row, "share_of_sgemm"),
    "of numpy's time": lambda row: ratio(row, "of_numpy"),
}
PROCESS_COLUMNS: Columns = {
    "process, 1 epoch": lambda row: f"{row['batch']}, {row['engine']}, {counted(row['threads'])}",
    "median s": lambda row: f"{row['median']:.2f}",
    "min s": lambda row: f"{row['min']:.2f}",
    "limit s": lambda row: str(row.get("limit_seconds", "-")),
    "peak MB": lambda row: f"{row['peak_mb']:.0f}",
    "limit MB": lambda row: str(row.get("limit_mb", "-")),
}
RUNG_COLUMNS: Columns = {
    "kernel ladder, 1 thread": lambda row: row["rung"],
    "median GFLOP/s": lambda row: f"{row['median_gflops']:.1f}",
    "best": lambda row: f"{row['gflops']:.1f}",
    "of sgemm": lambda row: ratio(row, "share_of_sgemm"),
    "times the rung before": lambda row: ratio(row, "of_rung_before"),
}
SIZE_COLUMNS: Columns = {
    "doubled": lambda row: row["doubled"],
    "from": lambda row: f"{row['sizes'][0]:,}",
    "to": lambda row: f"{row['sizes'][-1]:,}",
    "median ms of an epoch": lambda row: milliseconds(row["median"]),
    "min ms": lambda row: milliseconds(row["min"]),
    "exponent": lambda row: f"{exponent(row, 'median'):.2f}",
    "of min": lambda row: f"{exponent(row, 'min'):.2f}",
    "of FLOPs": lambda row: f"{exponent(row, 'flops'):.2f}",
}


@dataclass
class Results:
    """The results of the benchmarks of a run, and their data."""

    data: Dataset | None = None
    sgemm_gflops: dict[int, float] = field(default_factory=dict)
    epochs: list[BenchmarkFixture] = field(default_factory=list)
    processes: list[BenchmarkFixture] = field(default_factory=list)
    rungs: list[BenchmarkFixture] = field(default_factory=list)
    sizes: list[BenchmarkFixture] = field(default_factory=list)

    def add_limits(self, sgemm_gflops: dict[int, float]) -> None:
        """Add the machine's peak by number of threads, and the share of it to epochs and rungs."""
        self.sgemm_gflops = sgemm_gflops
        for benchmark in (*self.epochs, *self.rungs):
            info = benchmark.extra_info
            limit = sgemm_gflops[info["threads"]]
            info |= {"sgemm_gflops": limit, "share_of_sgemm": info["gflops"] / limit}

    def lines(self) -> list[str]:
        """Return all tables as text; an empty text if nothing was timed."""
        kinds = (self.epochs, self.processes, self.rungs, self.sizes)
        epochs, processes, rungs, sizes = ([row_of(one) for one in kind] for kind in kinds)
        tables = [
            table(EPOCH_COLUMNS, with_ratios(epochs)),
            table(PROCESS_COLUMNS, processes),
            table(RUNG_COLUMNS, with_factors(rungs)),
            table(SIZE_COLUMNS, doublings(sizes)),
        ]
        lines = [line for lines in tables if lines for line in ("", *lines)]
        return lines and [*self.conditions([*epochs, *processes, *rungs, *sizes][0]), *lines]

    def conditions(self, row: Row) -> Iterator[str]:
        """Return a text on the machine and the data."""
        if self.data is not None:
            yield f"data     {self.data.name}, from {self.data.source}"
            if self.data.note:
                yield f"         because {self.data.note}"
        yield f"machine  {row['cpu']}"
        if row["load_before"] is not None:
            yield f"load     {row['load_before']:.1f} before the run (0 is best)"
        for threads, gflops in self.sgemm_gflops.items():
            yield f"sgemm    {gflops:.0f} GFLOP/s on {counted(threads)}"


def row_of(benchmark: BenchmarkFixture) -> Row:
    """Return the figures of a benchmark, with times in seconds."""
    stats = benchmark.stats.stats
    return {**benchmark.extra_info, "median": stats.median, "min": stats.min}


def with_ratios(epochs: list[Row]) -> list[Row]:
    """Return the rows with the ratio to the reference engine's time, if it was timed."""
    reference = {row["batch"]: row["median"] for row in epochs if row["engine"] == "numpy"}
    return [
        row | {"of_numpy": row["median"] / reference[row["batch"]]}
        if row["batch"] in reference
        else row
        for row in epochs
    ]


def with_factors(rungs: list[Row]) -> list[Row]:
    """Return the rows with the gain over the previous rung, if it was timed."""
    gflops = {row["number"]: row["gflops"] for row in rungs if "number" in row}
    return [
        row | {"of_rung_before": row["gflops"] / gflops[row["number"] - 1]}
        if row.get("number", 0) - 1 in gflops
        else row
        for row in rungs
    ]


def doublings(sizes: list[Row]) -> list[Row]:
    """Return a row for each doubled quantity, with its sizes and their costs."""
    series: dict[str, list[Row]] = {}
    for row in sizes:
        series.setdefault(row["doubled"], []).append(row)
    lists = {"sizes": "size", "median": "median", "min": "min", "flops": "flops"}
    return [
        {"doubled": what} | {name: [row[key] for row in rows] for name, key in lists.items()}
        for what, rows in series.items()
        if len(rows) > 1
    ]


def exponent(row: Row, cost: str) -> float:
    """Return p of ``cost = constant · sizeᵖ``, fitted by least squares to the logarithms.

    Examples
    --------
    >>> exponent({"sizes": [1, 2, 4], "min": [3.0, 12.0, 48.0]}, "min")
    2.0
    """
    return linear_regression(list(map(log2, row["sizes"])), list(map(log2, row[cost]))).slope


def milliseconds(times: list[float]) -> str:
    """Return several times in one cell."""
    return " ".join(f"{seconds * 1e3:.1f}" for seconds in times)


def table(columns: Columns, rows: list[Row]) -> list[str]:
    """Return aligned lines with a header; no lines if there are no rows.

    Examples
    --------
    >>> columns = {"case": lambda row: row["case"], "ms": lambda row: f"{row['ms']:.1f}"}
    >>> for line in table(columns, [{"case": "first", "ms": 93.25}, {"case": "x", "ms": 120}]):
    ...     print(line)
    case      ms
    first   93.2
    x      120.0
    """
    if not rows:
        return []
    cells = [list(columns), *([text(row) for text in columns.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    ]


def ratio(row: Row, name: str) -> str:
    """Return a ratio, or "-" if it was not measured."""
    return f"{row[name]:.2f}" if name in row else "-"


def counted(threads: int) -> str:
    """Return a number of threads in words."""
    return f"{threads} thread{'' if threads == 1 else 's'}"
