"""What `compare.py` found, as a Markdown table and as a picture."""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from fastnn import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEADER = (
    "batch",
    "peer",
    "ms an epoch",
    "half lie in",
    "best",
    "fastnn is",
    "samples/s",
    "of dense limit",
)
HEADER += ("loss apart",)
OURS, THEIRS, LIMIT = "#0072B2", "#BBBBBB", "#D55E00"


@dataclass(frozen=True)
class Row:
    """A peer at a batch size: its epochs' seconds, and whether it did the work.

    `apart` is how far its losses are from the reference engine's, relative; None where it gave
    none. `failure` is empty where all is well.
    """

    name: str
    title: str
    batch: str
    seconds: Sequence[float]
    apart: float | None
    failure: str

    @property
    def median(self) -> float:
        """Median seconds of an epoch."""
        return median(self.seconds)


@dataclass(frozen=True)
class Comparison:
    """Everything that a comparison found; `how` and `left_out` are by the peers' titles."""

    rows: Sequence[Row]
    samples: int
    flops_per_sample: int
    sgemm_gflops: float
    how: dict[str, str]
    left_out: dict[str, str]
    conditions: dict[str, str]

    @property
    def limit_seconds(self) -> float:
        """What an epoch's products take as dense ones at the machine's limit."""
        return self.samples * self.flops_per_sample / self.sgemm_gflops / 1e9

    def of_batch(self, batch: str) -> list[Row]:
        """Return the rows of a batch size, fastest first, failed ones last."""
        rows = [row for row in self.rows if row.batch == batch]
        return sorted(rows, key=lambda row: (bool(row.failure), row.failure or row.median))

    @property
    def batches(self) -> list[str]:
        """Return the batch sizes in their order."""
        return list(dict.fromkeys(row.batch for row in self.rows))

    def ratio(self, row: Row) -> float | None:
        """Return how many times fastnn's time a row took; None where either failed."""
        ours = [r for r in self.rows if r.name == "fastnn" and r.batch == row.batch]
        if not ours or ours[0].failure or row.failure:
            return None
        return row.median / ours[0].median


def markdown(result: Comparison) -> str:
    """Return the comparison as a page of Markdown."""
    lines = ["# fastnn and its peers", "", "![Milliseconds an epoch](peers.png)", ""]
    lines += [
        "784-128-64-10 on MNIST's training rows, plain SGD at learning rate 0.1, the same initial "
        "weights, order of samples and number of threads for all. Medians.",
        "",
        *table(result),
        "",
        f"The dense limit: {result.sgemm_gflops:.0f} GFLOP/s in a plain float32 matrix product "
        f"would take {1e3 * result.limit_seconds:.1f} ms for an epoch's products. fastnn can pass "
        "it, because it does not multiply by zeros.",
        "`loss apart` is the relative distance of the first epoch's mean loss (of the first "
        "epochs' at full batch) from the reference engine's: proof of the same work.",
        "",
    ]
    lines += [f"- {name}: {value}" for name, value in result.conditions.items()]
    lines += [f"- left out: {title}, {why}" for title, why in result.left_out.items()]
    lines += ["", "How each is driven:", ""]
    lines += [f"- {title}: {how}" for title, how in result.how.items()]
    return "\n".join(lines) + "\n"


def table(result: Comparison) -> list[str]:
    """Return the table's lines."""
    rows = [HEADER, ("---", "---", *["---:"] * (len(HEADER) - 2))]
    rows += [cells(row, result) for batch in result.batches for row in result.of_batch(batch)]
    return ["| " + " | ".join(row) + " |" for row in rows]


def cells(row: Row, result: Comparison) -> tuple[str, ...]:
    """Return a row's texts; a failed row holds the failure and no figures."""
    apart = "-" if row.apart is None else f"{row.apart:.0e}"
    if row.failure:
        failure = row.failure.replace("|", "/")
        return (row.batch, row.title, f"**{failure}**", *["-"] * 5, apart)
    ratio = result.ratio(row)
    low, high = quartiles(row.seconds)
    return (
        row.batch,
        f"**{row.title}**" if row.name == "fastnn" else row.title,
        f"{1e3 * row.median:.1f}",
        f"{1e3 * low:.0f} to {1e3 * high:.0f}",
        f"{1e3 * min(row.seconds):.0f}",
        "-" if ratio is None or row.name == "fastnn" else f"{ratio:.2f} × faster",
        f"{result.samples / row.median:,.0f}",
        f"{result.limit_seconds / row.median:.2f}",
        apart,
    )


def quartiles(seconds: Sequence[float]) -> tuple[float, float]:
    """Return the values a quarter of the way from either end.

    Examples
    --------
    >>> quartiles([5, 1, 2, 4, 3])
    (2, 4)
    """
    ordered = sorted(seconds)
    quarter = len(ordered) // 4
    return ordered[quarter], ordered[-1 - quarter]


def draw(result: Comparison, path: str | os.PathLike[str]) -> None:
    """Draw the medians as bars, a panel for each batch size, as a PNG file.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    with plots._styled():
        figure = plots._figure(3.6, "An epoch of MNIST, 784-128-64-10, on the same cores")
        panels = figure.subplots(1, len(result.batches), squeeze=False)[0]
        for axes, batch in zip(panels, result.batches, strict=True):
            _bars(axes, result, batch)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center")
        picture = io.BytesIO()
        figure.savefig(picture, format="png")
    plots.write_whole(path, picture.getvalue())


def _bars(axes: "Axes", result: Comparison, batch: str) -> None:
    rows = [row for row in result.of_batch(batch) if not row.failure]
    times = [1e3 * row.median for row in rows]
    colors = [OURS if row.name == "fastnn" else THEIRS for row in rows]
    bars = axes.barh([row.title for row in rows], times, color=colors, height=0.7)
    axes.bar_label(bars, labels=[_bar_text(row, result) for row in rows], padding=4)
    limit = 1e3 * result.limit_seconds
    label = "all products as dense ones, at the machine's matrix-product limit"
    axes.axvline(limit, color=LIMIT, linestyle="--", linewidth=1.4, label=label)
    axes.set(xlabel="ms an epoch", title=batch)
    axes.set_xlim(0, 1.45 * max([limit, *times]) or 1)  # room for the labels
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()


def _bar_text(row: Row, result: Comparison) -> str:
    ratio = result.ratio(row)
    if ratio is None or row.name == "fastnn":
        return f"{1e3 * row.median:.0f}"
    return f"{1e3 * row.median:.0f}  ({ratio:.1f} ×)"
