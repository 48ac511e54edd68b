"""Pictures made of images: what a network mixes up, what it looks for, where it is surely wrong.

The style, the figure and the file are those of `fastnn.plots`.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fastnn.data.conversion import as_dense, as_labels
from fastnn.errors import DataError
from fastnn.plots.curves import WIDTH_INCHES, new_figure, save, styled
from fastnn.system.files import FilePath

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_CLASSES = 1000  # in a confusion matrix; 900 pixels show no more
_MOST_COUNTED = 20  # classes whose cells bear counts
_MOST_NUMBERED, _MOST_NAMED = 20, 40  # classes with their number or their name on an axis
_MOST_UNITS, _MOST_WRONG = 64, 24
_MOST_COLUMNS, _WRONG_COLUMNS = 24, 6  # of images, in the pictures of the two
_LONGEST_NAME = 20
_TALLEST = 1.25  # the height of all images together, over their width
_TILE_GAP, _TILE_TEXT = 0.16, 0.3  # inches: between images, and for the text below one
# Shares are coloured by their square root, so that a few errors in a thousand can be seen.
_SHARE_POWER, _SHARE_TICKS = 0.5, np.array([0, 0.01, 0.05, 0.2, 0.5, 1])
_POINTS = 72  # an inch
_CHARACTER = 0.55  # the width of a character, as a share of its font's size


def confusion_matrix(
    labels: np.ndarray,
    predicted: np.ndarray,
    path: FilePath,
    *,
    title: str,
    names: Sequence[str] | None = None,
) -> None:
    """Draw how often each class was taken for each, as a PNG file.

    Cells are coloured by their share of the true class, and bear counts up to 20 classes.

    Parameters
    ----------
    labels, predicted : array (rows,)
        The true and the predicted class numbers, from 0.
    path : path-like
        The file; it is replaced whole or not at all.
    title : str
    names : sequence of str, optional
        A name for each class, at most 1,000. By default their numbers, up to the largest seen.

    Raises
    ------
    DataError
        If there are no rows, not as many predictions as labels, or one that is no class.
    OSError
        If the file cannot be written.
    """
    if np.size(labels) == 0:
        raise DataError("labels has no rows")
    limit = MOST_CLASSES if names is None else len(names)
    if limit > MOST_CLASSES:
        raise DataError(f"at most {MOST_CLASSES:,} classes can be drawn, got {limit:,} names")
    labels = as_labels(labels, np.size(labels), limit, "labels")
    predicted = as_labels(predicted, len(labels), limit, "predicted")
    classes = limit if names is not None else 1 + int(max(labels.max(), predicted.max()))
    cells = labels.astype(np.int64) * classes + predicted
    counts = np.bincount(cells, minlength=classes**2).reshape(classes, classes)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    with styled():
        from matplotlib.colors import PowerNorm

        height = min(7.4, 3.4 + 0.4 * classes)
        figure = new_figure(height, title, compress=True)
        axes = figure.subplots()
        norm = PowerNorm(_SHARE_POWER, 0, 1)
        image = axes.imshow(shares, cmap="Blues", norm=norm)
        bar = figure.colorbar(image, ax=axes, label="share of the true class (%)", aspect=30)
        bar.set_ticks(list(_SHARE_TICKS), labels=[f"{100 * share:g}" for share in _SHARE_TICKS])
        axes.grid(False)
        axes.set(xlabel="predicted class", ylabel="true class")
        cell_points = _POINTS * (height - 1.6) / classes
        _name_classes(axes, names, classes, cell_points)
        if classes <= _MOST_COUNTED:
            _write_counts(axes, counts, image.to_rgba(shares), cell_points)
        save(figure, path)


def first_layer_weights(
    w: np.ndarray, path: FilePath, *, shape: tuple[int, int], title: str
) -> None:
    """Draw the first layer's weights as images, one a unit, as a PNG file.

    All share one scale with 0 in its middle; one weight in 200 is beyond its ends. Of more than
    64 units those with the largest norm are drawn.

    Parameters
    ----------
    w : array (I, O)
        The weights, a column a unit.
    path : path-like
        The file; it is replaced whole or not at all.
    shape : tuple of int
        Rows and columns of an input image; I is their product.
    title : str

    Raises
    ------
    ValueError
        If the weights do not have that shape or are not finite.
    OSError
        If the file cannot be written.
    """
    inputs = math.prod(shape)
    if w.ndim != 2 or len(w) != inputs or w.size == 0:
        raise ValueError(f"w must have shape ({inputs}, units), got {w.shape}")
    if not np.isfinite(w).all():
        raise ValueError("w must be finite")
    norms = np.linalg.norm(w, axis=0)
    units = np.sort(np.argsort(-norms, kind="stable")[:_MOST_UNITS])
    sizes = np.abs(w[:, units])
    # The largest weight of all would leave the others pale.
    scale = float(np.quantile(sizes, 0.995) or sizes.max() or 1)
    with styled():
        columns = range(1, min(len(units), _MOST_COLUMNS) + 1)
        room = WIDTH_INCHES - 1.4  # beside the colour bar
        figure, tiles = _tiles(list(map(str, units)), shape, title, columns=columns, inches=room)
        for unit, axes in zip(units, tiles, strict=True):
            picture = w[:, unit].reshape(shape)
            image = axes.imshow(picture, cmap="RdBu_r", vmin=-scale, vmax=scale)
        figure.colorbar(image, ax=tiles, label="weight", aspect=40, extend="both")
        if len(units) < w.shape[1]:
            figure.supxlabel(
                f"the {len(units)} of {w.shape[1]:,} units with the largest weights", fontsize=10.5
            )
        save(figure, path)


def most_wrong(
    images: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray,
    path: FilePath,
    *,
    shape: tuple[int, int],
    title: str,
) -> None:
    """Draw the wrongly classified rows on which the network was most sure, as a PNG file.

    At most 24 are drawn, the surest first; if no row is wrong, the picture says so.

    Parameters
    ----------
    images : array (rows, I)
        The features of the rows that were classified.
    labels : array (rows,)
        Their true class numbers, from 0.
    probabilities : array (rows, classes)
        As `fastnn.Network.predict_proba` returns them.
    path : path-like
        The file; it is replaced whole or not at all.
    shape : tuple of int
        Rows and columns of an image; I is their product.
    title : str

    Raises
    ------
    DataError
        If the three do not fit each other or the shape, or one holds something else than it should.
    OSError
        If the file cannot be written.
    """
    images = as_dense(images, math.prod(shape), "images")
    classes = probabilities.shape[-1]
    probabilities = as_dense(probabilities, classes, "probabilities")
    labels = as_labels(labels, len(images), classes, "labels")
    if len(probabilities) != len(images):
        raise DataError(f"{len(probabilities):,} rows of probabilities for {len(images):,} images")
    said, sure = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(said != labels)
    shown = wrong[np.argsort(-sure[wrong], kind="stable")[:_MOST_WRONG]]
    texts = [f"true {labels[i]}, said {said[i]} ({sure[i]:.1%})".replace("%", " %") for i in shown]
    with styled():
        if len(wrong) == 0:
            figure = new_figure(2, title)
            figure.text(0.5, 0.4, f"not one of {len(images):,} rows is wrong", ha="center")
        else:
            low, high = images.min(), images.max()
            columns = min(len(shown), _WRONG_COLUMNS)
            figure, tiles = _tiles(
                texts, shape, title, columns=range(columns, columns + 1), inches=WIDTH_INCHES
            )
            for row, axes in zip(shown, tiles, strict=True):
                axes.imshow(images[row].reshape(shape), cmap="gray_r", vmin=low, vmax=high)
            note = f"wrong: {len(wrong):,} of {len(images):,} rows"
            if len(shown) < len(wrong):
                note += f"; the {len(shown)} of which the network was most sure"
            figure.supxlabel(note, fontsize=10.5)
        save(figure, path)


def _name_classes(
    axes: "Axes", names: Sequence[str] | None, classes: int, cell_points: float
) -> None:
    """Name the classes on both axes: all, or every second, third, … where they are many."""
    step = math.ceil(classes / (_MOST_NUMBERED if names is None else _MOST_NAMED))
    places = range(0, classes, step)
    texts = [str(place) if names is None else _shortened(names[place]) for place in places]
    size = min(10.5, 0.8 * step * cell_points)
    is_wide = _CHARACTER * size * (1 + max(map(len, texts))) > step * cell_points
    axes.set_yticks(places, texts, fontsize=size)
    axes.set_xticks(places, texts, fontsize=size, rotation=90 if is_wide else 0)


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"


def _write_counts(axes: "Axes", counts: np.ndarray, colors: np.ndarray, cell_points: float) -> None:
    """Write the counts into their cells of those colours (RGBA), zeros less boldly."""
    widest = len(f"{counts.max():,}")
    size = min(10.5, 0.85 * cell_points / (_CHARACTER * widest))
    for (row, column), count in np.ndenumerate(counts):
        color = _text_color(colors[row, column]) if count else "#6B6B6B"
        axes.text(column, row, f"{count:,}", color=color, size=size, ha="center", va="center")


def _text_color(background: np.ndarray) -> str:
    """Return black or white, whichever has the larger contrast (WCAG 2.2) to an RGBA colour."""
    rgb = background[:3]
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = linear @ (0.2126, 0.7152, 0.0722)
    return "black" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "white"


def _tiles(
    texts: Sequence[str], shape: tuple[int, int], title: str, *, columns: range, inches: float
) -> tuple["Figure", "list[Axes]"]:
    """Return a figure and in it axes for images, each with its text below, so wide together.

    Their columns are the fewest of `columns` that are not too tall for it, else the most.
    """
    for count in columns:
        rows = math.ceil(len(texts) / count)
        width = min(2.5, inches / count)
        image = width - _TILE_GAP
        height = max(0.15, image * shape[0] / shape[1]) + _TILE_TEXT
        if rows * height <= _TALLEST * count * width:
            break
    is_low = rows * height <= _TALLEST * inches
    tall = max(1, rows * height) if is_low else _TALLEST * inches
    figure = new_figure(0.7 + tall, title, compress=is_low)
    grid = figure.subplots(rows, count, squeeze=False).ravel()
    size = min(8.5, _POINTS * image / (_CHARACTER * max(map(len, texts))))
    for text, axes in zip(texts, grid, strict=False):
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=True, linewidth=0.5)
        axes.set_xlabel(text, fontsize=size, labelpad=2)
    for axes in grid[len(texts) :]:
        axes.remove()
    return figure, list(grid[: len(texts)])
