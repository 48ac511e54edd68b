"""The tables that a run ends with."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pytest_benchmark.fixture import BenchmarkFixture

from fastnn.datasets import Dataset

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


@dataclass
class Results:
    """What the benchmarks of a run found, and on which data."""

    data: Dataset | None = None
    sgemm_gflops: dict[int, float] = field(default_factory=dict)
    epochs: list[BenchmarkFixture] = field(default_factory=list)
    processes: list[BenchmarkFixture] = field(default_factory=list)

    def add_limits(self, sgemm_gflops: dict[int, float]) -> None:
        """Take the machine's limit by number of threads, and give every epoch its share of it."""
        self.sgemm_gflops = sgemm_gflops
        for benchmark in self.epochs:
            info = benchmark.extra_info
            limit = sgemm_gflops[info["threads"]]
            info |= {"sgemm_gflops": limit, "share_of_sgemm": info["gflops"] / limit}

    def lines(self) -> list[str]:
        """Return everything as text; nothing where nothing was timed."""
        epochs = with_ratios([row_of(benchmark) for benchmark in self.epochs])
        processes = [row_of(benchmark) for benchmark in self.processes]
        tables = [table(EPOCH_COLUMNS, epochs), table(PROCESS_COLUMNS, processes)]
        lines = [line for lines in tables if lines for line in ("", *lines)]
        return lines and [*self.conditions((epochs or processes)[0]), *lines]

    def conditions(self, row: Row) -> Iterator[str]:
        """Say what everything was measured on."""
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
    """Return a benchmark's figures, times in seconds."""
    stats = benchmark.stats.stats
    return {**benchmark.extra_info, "median": stats.median, "min": stats.min}


def with_ratios(epochs: list[Row]) -> list[Row]:
    """Return the rows with their time's ratio to the reference engine's, where it was timed."""
    reference = {row["batch"]: row["median"] for row in epochs if row["engine"] == "numpy"}
    return [
        row | {"of_numpy": row["median"] / reference[row["batch"]]}
        if row["batch"] in reference
        else row
        for row in epochs
    ]


def table(columns: Columns, rows: list[Row]) -> list[str]:
    """Return aligned lines, a header first; no lines for no rows.

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
    """Return a ratio, if what it needs was measured."""
    return f"{row[name]:.2f}" if name in row else "-"


def counted(threads: int) -> str:
    """Return a number of threads in words."""
    return f"{threads} thread{'' if threads == 1 else 's'}"
