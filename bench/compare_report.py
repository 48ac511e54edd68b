"""The result of `compare.py` as a Markdown table and a plot."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from peer_work import Case

from fastnn.plots import curves as plots

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
    """A peer in a case: seconds per epoch, and whether it did the same work.

    `apart` is the relative distance of its losses from the reference engine's, or None if it has
    no losses. `failure` is empty if it succeeded.
    """

    name: str
    title: str
    case: Case
    samples: int
    seconds: Sequence[float]
    apart: float | None
    failure: str

    @property
    def median(self) -> float:
        """Median seconds per epoch."""
        return median(self.seconds)


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison; the keys of `how` and `left_out` are titles of peers."""

    rows: Sequence[Row]
    sgemm_gflops: float
    how: dict[str, str]
    left_out: dict[str, str]
    conditions: dict[str, str]

    def limit_seconds(self, row: Row) -> float:
        """Seconds for an epoch's products, zeros included, at the machine's peak."""
        return row.samples * row.case.flops_per_sample / self.sgemm_gflops / 1e9

    def of_case(self, case: Case) -> list[Row]:
        """Return the rows of a case, fastest first, failed ones last."""
        rows = [row for row in self.rows if row.case == case]
        return sorted(rows, key=lambda row: (bool(row.failure), row.failure or row.median))

    @property
    def cases(self) -> list[Case]:
        """Return the cases in their order."""
        return list(dict.fromkeys(row.case for row in self.rows))

    def row(self, name: str, case: Case) -> Row | None:
        """Return the row of a peer in a case; None if it failed or was left out."""
        rows = (row for row in self.rows if (row.name, row.case) == (name, case))
        return next((row for row in rows if not row.failure), None)

    def ratio(self, row: Row | None) -> float | None:
        """Return the time of a row over fastnn's; None if either failed."""
        ours = row and self.row("fastnn", row.case)
        return None if ours is None or row is None or row.failure else row.median / ours.median


def markdown(result: Comparison) -> str:
    """Return the comparison on MNIST as Markdown."""
    lines = ["# fastnn and its peers", "", "![Milliseconds an epoch](peers.png)", ""]
    limit = max(map(result.limit_seconds, result.rows), default=0)
    lines += [
        "784-128-64-10 on MNIST's training rows, plain SGD at learning rate 0.1, the same initial "
        "weights, order of samples and number of threads for all. Medians.",
        "",
        *table(result),
        "",
        f"The dense limit: {result.sgemm_gflops:.0f} GFLOP/s in a plain float32 matrix product "
        f"would take {1e3 * limit:.1f} ms for an epoch's products. fastnn can pass it, because it "
        "does not multiply by zeros.",
        "`loss apart` is the relative distance of the first epoch's mean loss (of the first "
        "epochs' at full batch) from the reference engine's: proof of the same work.",
        "",
    ]
    return "\n".join([*lines, *conditions(result)]) + "\n"


def conditions(result: Comparison) -> list[str]:
    """Return the conditions of the measurement."""
    lines = [f"- {name}: {value}" for name, value in result.conditions.items()]
    lines += [f"- left out: {title}, {why}" for title, why in result.left_out.items()]
    lines += ["", "How each is driven:", ""]
    return lines + [f"- {title}: {how}" for title, how in result.how.items()]


def grid(rows: Sequence[Sequence[str]], texts: int) -> list[str]:
    """Return the lines of a table with text columns first and number columns after them."""
    head, *body = rows
    rule = [*["---"] * texts, *["---:"] * (len(head) - texts)]
    return ["| " + " | ".join(row) + " |" for row in (head, rule, *body)]


def table(result: Comparison) -> list[str]:
    """Return the table's lines."""
    rows = [cells(row, result) for case in result.cases for row in result.of_case(case)]
    return grid([HEADER, *rows], 2)


def cells(row: Row, result: Comparison) -> tuple[str, ...]:
    """Return the texts of a row; a failed row has the failure in place of figures."""
    apart = "-" if row.apart is None else f"{row.apart:.0e}"
    if row.failure:
        failure = row.failure.replace("|", "/")
        return (row.case.batch, row.title, f"**{failure}**", *["-"] * 5, apart)
    ratio = result.ratio(row)
    low, high = quartiles(row.seconds)
    return (
        row.case.batch,
        f"**{row.title}**" if row.name == "fastnn" else row.title,
        f"{1e3 * row.median:.1f}",
        f"{1e3 * low:.0f} to {1e3 * high:.0f}",
        f"{1e3 * min(row.seconds):.0f}",
        "-" if ratio is None or row.name == "fastnn" else f"{ratio:.2f} × faster",
        f"{row.samples / row.median:,.0f}",
        f"{result.limit_seconds(row) / row.median:.2f}",
        apart,
    )


def quartiles(seconds: Sequence[float]) -> tuple[float, float]:
    """Return the first and the third quartile, as values of the sample.

    Examples
    --------
    >>> quartiles([5, 1, 2, 4, 3])
    (2, 4)
    """
    ordered = sorted(seconds)
    quarter = len(ordered) // 4
    return ordered[quarter], ordered[-1 - quarter]


def draw(result: Comparison, path: str | os.PathLike[str]) -> None:
    """Draw the medians as bars, with a panel for each batch size, as a PNG file.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    with plots.styled():
        figure = plots.new_figure(3.6, "An epoch of MNIST, 784-128-64-10, on the same cores")
        panels = figure.subplots(1, len(result.cases), squeeze=False)[0]
        for axes, case in zip(panels, result.cases, strict=True):
            _bars(axes, result, case)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center")
        plots.save(figure, path)


def _bars(axes: "Axes", result: Comparison, case: Case) -> None:
    rows = [row for row in result.of_case(case) if not row.failure]
    times = [1e3 * row.median for row in rows]
    colors = [OURS if row.name == "fastnn" else THEIRS for row in rows]
    bars = axes.barh([row.title for row in rows], times, color=colors, height=0.7)
    blank = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}  # the line of the peak is below
    labels = [_bar_text(row, result) for row in rows]
    axes.bar_label(bars, labels=labels, padding=4, bbox=blank, zorder=4)
    limit = 1e3 * max(map(result.limit_seconds, rows), default=0)
    label = "all products as dense ones, at the machine's matrix-product limit"
    axes.axvline(limit, color=LIMIT, linestyle="--", linewidth=1.4, label=label)
    axes.set(xlabel="ms an epoch", title=case.batch)
    axes.set_xlim(0, 1.45 * max([limit, *times]) or 1)  # space for the labels
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()


def _bar_text(row: Row, result: Comparison) -> str:
    ratio = result.ratio(row)
    if ratio is None or row.name == "fastnn":
        return f"{1e3 * row.median:.0f}"
    return f"{1e3 * row.median:.0f}  ({ratio:.1f} ×)"


# ---- many shapes ----------------------------------------------------------------------------

RIVALS = ("torch", "jax")


def shapes_markdown(result: Comparison) -> str:
    """Return the comparison over many shapes as Markdown, with a line for each."""
    rivals = [name for name in RIVALS if any(row.name == name for row in result.rows)]
    titles = {row.name: row.title for row in result.rows}
    header = ["network", "batch", "µs an update", "of dense limit", "loss apart"]
    rows = [[*header, *(f"{titles[name]} takes" for name in rivals)]]
    rows += [_shape_cells(result, case, rivals) for case in result.cases]
    better = [ratio for case in result.cases if (ratio := better_ratio(result, case)) is not None]
    lines = ["# fastnn and its peers, from small to large", "", "![Ratios](shapes.png)", ""]
    lines += [
        "Plain SGD on dense random numbers, the same initial weights, order of samples and "
        "number of threads for all. Medians; what the others take is in fastnn's times.",
        "",
        *grid(rows, 2),
        "",
    ]
    if better:
        ahead = sum(ratio > 1 for ratio in better)
        lines += [
            f"Against the better of the others: ahead in {ahead} of {len(better)}, "
            f"{min(better):.2f} × at worst, {median(better):.2f} × in the middle.",
            "",
        ]
    return "\n".join([*lines, *conditions(result)]) + "\n"


def better_ratio(result: Comparison, case: Case) -> float | None:
    """Return the time of the faster rival over fastnn's; None if no rival succeeded."""
    ratios = [result.ratio(result.row(name, case)) for name in RIVALS]
    return min((ratio for ratio in ratios if ratio is not None), default=None)


def _shape_cells(result: Comparison, case: Case, rivals: Sequence[str]) -> list[str]:
    ours = next(row for row in result.rows if (row.name, row.case) == ("fastnn", case))
    if ours.failure:
        return [case.shape, case.batch, f"**{ours.failure}**", *["-"] * (2 + len(rivals))]
    updates = -(-ours.samples // (case.batch_size or ours.samples))
    texts = [
        f"{1e6 * ours.median / updates:,.1f}",
        f"{result.limit_seconds(ours) / ours.median:.2f}",
        f"{ours.apart:.0e}",
    ]
    for name in rivals:
        ratio = result.ratio(result.row(name, case))
        texts.append("failed" if ratio is None else f"{ratio:.2f} ×")
    return [case.shape, str(case.batch_size), *texts]


def draw_shapes(result: Comparison, path: str | os.PathLike[str]) -> None:
    """Draw the other peers' times over fastnn's, with a line for each shape, as a PNG file.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    with plots.styled():
        figure = plots.new_figure(
            0.6 + 0.3 * len(result.cases),
            "Plain SGD on dense data: how many times fastnn's time an epoch takes",
        )
        axes = figure.subplots()
        labels = [f"{case.shape}, {case.batch}" for case in result.cases]
        for name, marker, color in zip(RIVALS, "os", (OURS, LIMIT), strict=True):
            ratios = [result.ratio(result.row(name, case)) for case in result.cases]
            places = [i for i, ratio in enumerate(ratios) if ratio is not None]
            title = next((row.title for row in result.rows if row.name == name), "")
            if places:
                values = [ratios[i] or 0 for i in places]
                axes.plot(values, places, marker, color=color, label=title)
        axes.axvline(1, color="black", linewidth=1.0, label="fastnn")
        axes.set_xscale("log")
        axes.set_yticks(range(len(labels)), labels)
        axes.invert_yaxis()
        ticks = [1, 2, 5, 10, 20, 50, 100, 200]
        axes.set_xticks(ticks, [f"{tick} ×" for tick in ticks])
        axes.set_xlabel("multiple of fastnn's time")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
        plots.save(figure, path)
