"""The confusion matrix, the first layer's weights and the most confident mistakes as PNG files."""

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

MOST_CLASSES = 1000  # in a confusion matrix, which is 900 pixels wide
_MOST_LABELLED = 20  # classes: larger matrices have fewer labels, and no counts in their cells
_MOST_UNITS, _UNIT_COLUMNS = 64, 8
_MOST_MISTAKES, _MISTAKE_COLUMNS = 24, 6
_TALLEST = 1.25  # height of all images together, relative to the width
_TILE_GAP, _TILE_TEXT = 0.16, 0.3  # inches between images, and below them for a text
# The colour is the square root of a share, so that a few errors in a thousand are visible.
_SHARE_POWER, _SHARE_TICKS = 0.5, np.array([0, 0.01, 0.05, 0.2, 0.5, 1])
_WHITE_TEXT_FROM = 0.715  # of the colour scale; the contrast is at least 4.5 on both sides
_POINTS = 72  # in an inch
_CHARACTER = 0.55  # width of a character relative to the font size


def confusion_matrix(
    labels: np.ndarray,
    predicted: np.ndarray,
    path: FilePath,
    *,
    title: str,
    classes: int,
) -> None:
    """Draw how many rows of each class were predicted as each class, as a PNG file.

    The colour of a cell is its share of the true class. Up to 20 classes, cells contain counts.

    Parameters
    ----------
    labels, predicted : array (rows,)
        The true and the predicted class numbers, from 0.
    path : path-like
        The file; an existing file is replaced completely or not at all.
    title : str
    classes : int
        Number of classes, at most 1,000.

    Raises
    ------
    DataError
        If there are no rows, the lengths differ, or a number is not a class number.
    OSError
        If the file cannot be written.
    """
    if np.size(labels) == 0:
        raise DataError("labels has no rows")
    if classes > MOST_CLASSES:
        raise DataError(f"classes must be at most {MOST_CLASSES:,}, got {classes:,}")
    labels = as_labels(labels, np.size(labels), classes, "labels")
    predicted = as_labels(predicted, len(labels), classes, "predicted")
    cells = labels.astype(np.int64) * classes + predicted
    counts = np.bincount(cells, minlength=classes**2).reshape(classes, classes)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    with styled():
        from matplotlib.colors import PowerNorm

        height = min(7.4, 3.4 + 0.4 * classes)
        figure = new_figure(height, title, compress=True)
        axes = figure.subplots()
        image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(_SHARE_POWER, 0, 1))
        bar = figure.colorbar(image, ax=axes, label="share of the true class (%)", aspect=30)
        bar.set_ticks(list(_SHARE_TICKS), labels=[f"{100 * share:g}" for share in _SHARE_TICKS])
        axes.grid(False)
        ticks = range(0, classes, math.ceil(classes / _MOST_LABELLED))
        axes.set(xlabel="predicted class", ylabel="true class", xticks=ticks, yticks=ticks)
        if classes <= _MOST_LABELLED:
            cell_points = _POINTS * (height - 1.6) / classes
            size = min(10.5, 0.85 * cell_points / (_CHARACTER * len(f"{counts.max():,}")))
            for (row, column), count in np.ndenumerate(counts):
                is_dark = shares[row, column] ** _SHARE_POWER > _WHITE_TEXT_FROM
                color = "white" if is_dark else "black" if count else "#6B6B6B"
                axes.text(
                    column, row, f"{count:,}", color=color, size=size, ha="center", va="center"
                )
        save(figure, path)


def first_layer_weights(
    w: np.ndarray, path: FilePath, *, shape: tuple[int, int], title: str
) -> None:
    """Draw the weights of each unit of the first layer as an image, in one PNG file.

    All images have the same colour scale with 0 in the middle; one weight in 200 is beyond its
    ends. Of more than 64 units, those with the largest norm are drawn.

    Parameters
    ----------
    w : array (I, O)
        The weights of O units from I inputs.
    path : path-like
        The file; an existing file is replaced completely or not at all.
    shape : tuple of int
        Rows and columns of an input image; their product is I.
    title : str

    Raises
    ------
    ValueError
        If the weights do not have this shape or are not finite.
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
    # A scale up to the largest weight would leave most of the others pale.
    scale = float(np.quantile(sizes, 0.995) or sizes.max() or 1)
    with styled():
        inches = WIDTH_INCHES - 1.4  # next to the colour bar
        figure, tiles = _tiles(list(map(str, units)), shape, title, _UNIT_COLUMNS, inches)
        for unit, axes in zip(units, tiles, strict=True):
            pixels = w[:, unit].reshape(shape)
            image = axes.imshow(pixels, cmap="RdBu_r", vmin=-scale, vmax=scale)
        figure.colorbar(image, ax=tiles, label="weight", aspect=40, extend="both")
        note = f"all {len(units)} units with their numbers"
        if len(units) < w.shape[1]:
            note = f"the {len(units)} of {w.shape[1]:,} units with the largest weights"
        figure.supxlabel(note, fontsize=10.5)
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
    """Draw the misclassified rows with the highest predicted probabilities, as a PNG file.

    At most 24 are drawn, in the order of their probability. If there are none, the file says so.

    Parameters
    ----------
    images : array (rows, I)
        The features of the rows that were classified.
    labels : array (rows,)
        The true class numbers, from 0.
    probabilities : array (rows, classes)
        As `fastnn.Network.predict_proba` returns them.
    path : path-like
        The file; an existing file is replaced completely or not at all.
    shape : tuple of int
        Rows and columns of an image; their product is I.
    title : str

    Raises
    ------
    DataError
        If the shapes do not match, or a value is invalid.
    OSError
        If the file cannot be written.
    """
    images = as_dense(images, math.prod(shape), "images")
    classes = probabilities.shape[-1]
    probabilities = as_dense(probabilities, classes, "probabilities")
    labels = as_labels(labels, len(images), classes, "labels")
    if len(probabilities) != len(images):
        raise DataError(f"{len(probabilities):,} rows of probabilities for {len(images):,} images")
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    drawn = wrong[np.argsort(-confidence[wrong], kind="stable")[:_MOST_MISTAKES]]
    texts = [f"{labels[i]} → {predicted[i]}, {confidence[i]:.1%}" for i in drawn]
    with styled():
        if len(wrong) == 0:
            figure = new_figure(2, title)
            figure.text(0.5, 0.4, f"all {len(images):,} rows are classified correctly", ha="center")
        else:
            low, high = images.min(), images.max()
            figure, tiles = _tiles(texts, shape, title, _MISTAKE_COLUMNS, WIDTH_INCHES)
            for row, axes in zip(drawn, tiles, strict=True):
                axes.imshow(images[row].reshape(shape), cmap="gray_r", vmin=low, vmax=high)
            note = f"true class → predicted class, probability; {len(wrong):,} of "
            note += f"{len(images):,} rows are misclassified"
            figure.supxlabel(note, fontsize=10.5)
        save(figure, path)


def _tiles(
    texts: Sequence[str], shape: tuple[int, int], title: str, columns: int, inches: float
) -> tuple["Figure", "list[Axes]"]:
    """Return a figure and its axes for images: one for each text, which is below the image.

    The images of a row take `inches` of the figure's width. Images are smaller if the figure
    would be too tall.
    """
    columns = min(columns, len(texts))
    rows = math.ceil(len(texts) / columns)
    image = min(2.5, inches / columns) - _TILE_GAP
    height = rows * (max(0.15, image * shape[0] / shape[1]) + _TILE_TEXT)
    is_low = height <= _TALLEST * inches
    figure = new_figure(0.7 + max(1, min(height, _TALLEST * inches)), title, compress=is_low)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    size = min(8.5, _POINTS * image / (_CHARACTER * max(map(len, texts))))
    for text, axes in zip(texts, grid, strict=False):
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=True, linewidth=0.5)
        axes.set_xlabel(text, fontsize=size, labelpad=2)
    for axes in grid[len(texts) :]:
        axes.remove()
    return figure, list(grid[: len(texts)])
