"""Learning curves as PNG files; the style and the files of all plots.

Plots are matplotlib Figures without pyplot, so that they need no display. matplotlib is imported
when a plot is drawn. The colours are those of Okabe and Ito, which colour-blind people can
distinguish; line styles and markers distinguish the lines in grey prints.
"""

import io
import math
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
    from matplotlib.figure import Figure

# 900 pixels wide in a window; files have twice as many pixels, for screens with a high density.
WIDTH_INCHES, _DPI, _FILE_DPI = 9.0, 100, 200
_TITLE_CHARACTERS, _LINE_INCHES = 80, 0.2  # of a line of the title: its length and height

_LINES: tuple[dict[str, Any], ...] = (
    {"color": "#0072B2", "linestyle": "-", "marker": "o"},  # blue
    {"color": "#D55E00", "linestyle": "--", "marker": "s"},  # vermilion
    {"color": "#009E73", "linestyle": "-.", "marker": "^"},  # bluish green
    {"color": "#CC79A7", "linestyle": ":", "marker": "D"},  # reddish purple
    {"color": "#E69F00", "linestyle": (0, (6, 1, 1, 1, 1, 1)), "marker": "v"},  # orange
    {"color": "#56B4E9", "linestyle": (0, (3, 1)), "marker": "P"},  # sky blue
)
_STYLE: Any = {
    "font.size": 10.5,
    "text.parse_math": False,  # file names may contain $
    "text.color": "#222222",
    "axes.labelcolor": "#222222",
    "axes.edgecolor": "#888888",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "lines.linewidth": 1.9,
    "lines.markersize": 5.0,
    "legend.frameon": False,
    "legend.handlelength": 3.2,
}
# Accuracies are drawn by the logarithm of their error, so that 97 % and 98 % are as far apart as
# 0 % and 33 %. An error of 0 has no logarithm and is drawn as this one.
_SMALLEST_ERROR = 1e-4
_ACCURACY_TICKS = np.array([0, 0.2, 0.5, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999, 0.9999])


def loss_accuracy(
    history: History, path: FilePath | None = None, *, title: str, validation: str = "test"
) -> "Figure":
    """Draw loss and accuracy versus epochs, for training and validation data.

    Parameters
    ----------
    history : dict of str to list of float
        As `fastnn.Network.fit` returns it, with or without validation data.
    path : path-like, optional
        A PNG file to write; an existing file is replaced completely or not at all.
    title : str
    validation : str, default "test"
        The name of the validation data in the legend.

    Returns
    -------
    Figure

    Raises
    ------
    OSError
        If the file cannot be written.

    Examples
    --------
    >>> history = {"loss": [0.9, 0.4], "accuracy": [0.6, 0.8]}
    >>> figure = loss_accuracy(history, title="An example")
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['loss (mean cross-entropy)', 'accuracy (%)']
    """
    with styled():
        figure = new_figure(3.6, title)
        loss_axes, accuracy_axes = figure.subplots(1, 2)
        for label, prefix, line in (("training", "", 0), (validation, "val_", 1)):
            if not history.get(f"{prefix}loss"):  # an empty line breaks the layout
                continue
            losses = np.array(history[f"{prefix}loss"])
            percent = 100 * np.array(history[f"{prefix}accuracy"])
            epochs = np.arange(1, len(losses) + 1)
            look = {**_LINES[line], "markevery": math.ceil(len(epochs) / 10), "clip_on": False}
            loss_axes.plot(epochs, losses, label=label, **look)
            accuracy_axes.plot(epochs, percent, label=label, **look)
        loss_axes.set(ylabel="loss (mean cross-entropy)")
        loss_axes.set_ylim(bottom=0)
        accuracy_axes.set(ylabel="accuracy (%)")
        for axes in (loss_axes, accuracy_axes):
            axes.set(xlabel="epoch", xlim=(0, max(2, len(history.get("loss", [])))))
            axes.locator_params(axis="x", nbins=6, integer=True)
            axes.legend(*axes.get_legend_handles_labels(), loc="best")
        if path is not None:
            save(figure, path)
        return figure


def comparison(histories: Mapping[str, History], path: FilePath) -> None:
    """Draw test accuracy and training loss of several runs versus epochs and training time.

    Parameters
    ----------
    histories : dict of str to dict of str to list of float
        The history of each run by its name, as `fastnn.Network.fit` returns it with validation
        data. A run without a complete epoch is left out.
    path : path-like
        The PNG file to write; an existing file is replaced completely or not at all.

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
            # About eight markers, evenly spaced on a logarithmic axis.
            marked = {round(epoch) - 1 for epoch in np.geomspace(1, len(epochs), 8)}
            look = {**line, "markevery": sorted(marked), "clip_on": False}
            error = np.maximum(1 - np.array(history["val_accuracy"]), _SMALLEST_ERROR)
            for row, values in enumerate((error, history["loss"])):
                for column, x in enumerate((epochs, seconds)):
                    grid[row, column].plot(x, values, label=name, **look)
        if drawn:  # a logarithmic axis cannot be empty
            _set_logarithmic_axes(grid)
            handles, labels = grid[0, 0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside upper center", ncols=min(3, len(labels)))
        grid[0, 0].set_ylabel("test accuracy (%)")
        grid[1, 0].set_ylabel("training loss (mean cross-entropy)")
        grid[1, 0].set_xlabel("epochs (passes over the training data)")
        grid[1, 1].set_xlabel("training time (s)")
        save(figure, path)


def _import_matplotlib() -> None:
    """Import matplotlib even if MPLBACKEND names a missing backend.

    Notebooks set the variable for the commands that they start, which may use another environment.
    """
    if "matplotlib" not in sys.modules and (named := os.environ.pop("MPLBACKEND", None)):
        try:
            import matplotlib

            with suppress(ValueError):
                matplotlib.rcParams["backend"] = named
        finally:
            os.environ["MPLBACKEND"] = named


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the style of this module, regardless of the user's matplotlibrc."""
    _import_matplotlib()
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def new_figure(
    height_inches: float, title: str | None = None, *, compress: bool = False
) -> "Figure":
    """Return an empty figure of the common width, higher if the title takes several lines.

    With `compress`, axes of a fixed aspect ratio, such as those of images, are moved together.
    """
    from matplotlib.figure import Figure

    lines = wrap(title or "", _TITLE_CHARACTERS)
    height_inches += _LINE_INCHES * len(lines[1:])
    layout: Any = "compressed" if compress else "constrained"
    figure = Figure(figsize=(WIDTH_INCHES, height_inches), dpi=_DPI, layout=layout)
    if lines:
        # File names can contain bytes that are no text in the system's encoding.
        text = "\n".join(lines).encode(errors="replace").decode()
        figure.suptitle(text, fontsize=12)
    return figure


def to_png(figure: "Figure") -> bytes:
    """Return the content of a PNG file of a figure."""
    content = io.BytesIO()
    with warnings.catch_warnings():  # letters that the font does not have are drawn as boxes
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
        figure.savefig(content, format="png", dpi=_FILE_DPI)
    return content.getvalue()


def save(figure: "Figure", path: FilePath) -> None:
    """Write a figure as a PNG file, completely or not at all.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    write_atomically(path, [to_png(figure)])


def _set_logarithmic_axes(grid: np.ndarray) -> None:
    """Make all axes logarithmic and label them with plain numbers, errors with accuracies."""
    from matplotlib.ticker import FixedLocator, LogLocator

    for axes in grid.flat:
        axes.set(xscale="log", yscale="log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
    grid[0, 0].yaxis.set_major_locator(FixedLocator(list(1 - _ACCURACY_TICKS)))
    grid[0, 0].yaxis.set_major_formatter(lambda e, position: f"{round(100 * (1 - e), 2):g}")
    grid[0, 0].invert_yaxis()
    # Less than a decade could have a single label; more labels would overlap on many decades.
    for axis, most in ((grid[1, 0].yaxis, 5e3), (grid[1, 0].xaxis, 30), (grid[1, 1].xaxis, 30)):
        low, high = axis.get_view_interval()
        if high < most * low:
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
