"""Every picture. matplotlib's Figure on the Agg canvas, never pyplot; imported inside functions.

Colours are Okabe and Ito's, which the colour-blind can tell apart; line styles and markers say
the same again for those who print in grey.
"""

import io
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import cycle
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from fastnn.system.files import FilePath, write_atomically
from fastnn.training.state import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Shown 900 pixels wide, as a README is; stored with twice as many for dense screens.
WIDTH_INCHES, _DPI = 9.0, 200
_TITLE_CHARACTERS, _LINE_INCHES = 80, 0.2  # a line of a title

_LINES: tuple[dict[str, Any], ...] = (
    {"color": "#0072B2", "linestyle": "-", "marker": "o"},  # blue
    {"color": "#D55E00", "linestyle": "--", "marker": "s"},  # vermilion
    {"color": "#009E73", "linestyle": "-.", "marker": "^"},  # bluish green
    {"color": "#CC79A7", "linestyle": ":", "marker": "D"},  # reddish purple
    {"color": "#E69F00", "linestyle": (0, (6, 1, 1, 1, 1, 1)), "marker": "v"},  # orange
    {"color": "#56B4E9", "linestyle": (0, (3, 1)), "marker": "P"},  # sky blue
)
_STYLE = {
    "font.size": 10.5,
    "text.parse_math": False,  # names of files and classes may hold a $
    "text.color": "#222222",
    "axes.labelcolor": "#222222",
    "axes.edgecolor": "#888888",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.8,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "lines.linewidth": 1.9,
    "lines.markersize": 5.0,
    "legend.frameon": False,
    "legend.handlelength": 3.2,
}
# Accuracies are drawn by the logarithm of their error, so that 97 and 98 % lie as far apart as
# 0 and 33 %; one of exactly 1 has no place there and is drawn at the edge.
_SMALLEST_ERROR = 1e-4
_ACCURACY_TICKS = np.array([0, 0.2, 0.5, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999, 0.9999])


def loss_accuracy(history: History, path: FilePath, *, title: str, watched: str = "test") -> None:
    """Draw loss and accuracy, in training and after it, against epochs, as a PNG file.

    Parameters
    ----------
    history : dict of str to list of float
        As `fastnn.Network.fit` returns it; without validation data only training is drawn.
    path : path-like
        The file; it is replaced whole or not at all.
    title : str
    watched : str, default "test"
        What the rows of the validation data are called.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    with styled():
        figure = new_figure(3.6, title)
        loss_axes, accuracy_axes = figure.subplots(1, 2)
        for label, prefix, line in (("training", "", 0), (watched, "val_", 1)):
            if not history.get(f"{prefix}loss"):  # an empty line breaks the layout
                continue
            losses = np.array(history[f"{prefix}loss"])
            percent = 100 * np.array(history[f"{prefix}accuracy"])
            epochs = np.arange(1, len(losses) + 1)
            look = {**_LINES[line], "markevery": _evenly(len(epochs))}
            _draw(loss_axes, epochs, losses, label, look)
            _draw(accuracy_axes, epochs, percent, label, look)
        loss_axes.set(xlabel="epochs", ylabel="loss (mean cross-entropy)")
        loss_axes.set_ylim(bottom=0)
        accuracy_axes.set(xlabel="epochs", ylabel="accuracy (%)")
        for axes in (loss_axes, accuracy_axes):
            _count_epochs(axes, len(history.get("loss", [])))
            axes.legend(*axes.get_legend_handles_labels(), loc="best")
        save(figure, path)


def comparison(histories: Mapping[str, History], path: FilePath) -> None:
    """Draw test accuracy and training loss of several runs, against epochs and training seconds.

    Parameters
    ----------
    histories : dict of str to dict of str to list of float
        Name of a run: its history with validation data, as `fastnn.Network.fit` returns it.
        A run without an epoch is left out.
    path : path-like
        The file, a PNG; it is replaced whole or not at all.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    drawn = {name: history for name, history in histories.items() if history.get("loss")}
    with styled():
        figure = new_figure(6.4)
        grid = figure.subplots(2, 2, sharex="col", sharey="row")
        for (name, history), line in zip(drawn.items(), cycle(_LINES), strict=False):
            seconds = np.cumsum(history["seconds"])
            epochs = np.arange(1, len(seconds) + 1)
            look = {**line, "markevery": _by_factors(len(epochs))}
            error = np.maximum(1 - np.array(history["val_accuracy"]), _SMALLEST_ERROR)
            for row, values in enumerate((error, history["loss"])):
                for column, x in enumerate((epochs, seconds)):
                    _draw(grid[row, column], x, values, name, look)
        if drawn:  # a logarithmic axis needs a number to start from
            _logarithmic_axes(grid)
            handles, labels = grid[0, 0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside upper center", ncols=min(3, len(labels)))
        grid[0, 0].set_ylabel("test accuracy (%)")
        grid[1, 0].set_ylabel("training loss (mean cross-entropy)")
        grid[1, 0].set_xlabel("epochs (passes over the training data)")
        grid[1, 1].set_xlabel("training time (s)")
        save(figure, path)


def _import_matplotlib() -> None:
    """Import it even where MPLBACKEND names a backend that is not there; no window is opened."""
    if "matplotlib" not in sys.modules and (named := os.environ.pop("MPLBACKEND", None)):
        try:
            import matplotlib

            with suppress(ValueError):
                matplotlib.rcParams["backend"] = named
        finally:
            os.environ["MPLBACKEND"] = named


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the style of this file, whatever a user's matplotlibrc says."""
    _import_matplotlib()
    import matplotlib

    style: Any = _STYLE
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(style)
        yield


def new_figure(
    height_inches: float, title: str | None = None, *, compress: bool = False
) -> "Figure":
    """Return an empty figure of the width that all have, higher for a title of several lines.

    `compress` moves axes together whose shape is fixed, as that of images is.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    lines = wrap(title or "", _TITLE_CHARACTERS)
    height_inches += _LINE_INCHES * len(lines[1:])
    layout = ConstrainedLayoutEngine(
        w_pad=0.08, h_pad=0.08, wspace=0.03, hspace=0.03, compress=compress
    )
    figure = Figure(figsize=(WIDTH_INCHES, height_inches), dpi=_DPI, layout=layout)
    FigureCanvasAgg(figure)
    if lines:
        # The name of a file may hold what is no text in the encoding of the system.
        text = "\n".join(lines).encode(errors="replace").decode()
        figure.suptitle(text, fontsize=12)
    return figure


def save(figure: "Figure", path: FilePath) -> None:
    """Write a figure as a PNG file, whole or not at all.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    picture = io.BytesIO()
    with warnings.catch_warnings():  # a name in letters that the font has not is drawn as boxes
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
        figure.savefig(picture, format="png")
    write_atomically(path, [picture.getvalue()])


def _draw(axes: "Axes", x: Any, y: Any, label: str, line: dict[str, Any]) -> None:
    axes.plot(x, y, label=label, clip_on=False, **line)


def _evenly(epochs: int) -> list[int]:
    """Choose about eight epochs to mark, the first and the last among them, evenly spaced."""
    return sorted({round(place) for place in np.linspace(0, epochs - 1, 8)})


def _by_factors(epochs: int) -> list[int]:
    """Choose epochs to mark, evenly spaced on a logarithmic axis."""
    return sorted({round(place) - 1 for place in np.geomspace(1, epochs, 8)})


def _count_epochs(axes: "Axes", epochs: int) -> None:
    """Let an axis run from 0 to the last epoch, in whole numbers."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(0, max(2, epochs))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _logarithmic_axes(grid: np.ndarray) -> None:
    """Make all axes logarithmic with plain numbers on them, accuracies by their error."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator

    plain = FuncFormatter(lambda value, position: f"{value:g}")
    accuracy = FuncFormatter(lambda error, position: f"{round(100 * (1 - error), 2):g}")
    for axes in grid.flat:
        axes.set(xscale="log", yscale="log")
        axes.xaxis.set_major_formatter(plain)
        axes.yaxis.set_major_formatter(plain)
        axes.minorticks_off()
    grid[0, 0].yaxis.set_major_locator(FixedLocator(list(1 - _ACCURACY_TICKS)))
    grid[0, 0].yaxis.set_major_formatter(accuracy)
    grid[0, 0].invert_yaxis()
    low, high = grid[1, 0].get_ylim()
    if high < 5e3 * low:  # of more decades there would be too many
        grid[1, 0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for axes in grid[1]:
        low, high = axes.get_xlim()
        if high < 30 * low:  # a decade or less would show one number
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
