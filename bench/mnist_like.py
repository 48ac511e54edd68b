"""MNIST if it is on this machine, otherwise an imitation: benchmarks download nothing."""

import os

import numpy as np

from fastnn.data.sets import Dataset, load_dataset
from fastnn.errors import DataError
from fastnn.system.files import user_cache_directory

TRAIN_ROWS, TEST_ROWS, SIDE, CLASSES = 60_000, 10_000, 28, 10
ZEROS = 0.81  # of MNIST's pixels


def find_or_imitate() -> Dataset:
    """Return MNIST from `$FASTNN_DATA` or the user's cache directory, otherwise `imitation`.

    `load_dataset` with a directory does not download.
    """
    places = [os.environ.get("FASTNN_DATA"), user_cache_directory()]
    reasons = []
    for place in filter(None, places):
        try:
            return load_dataset("mnist", place)
        except DataError as error:
            reasons.append(str(error))
    return imitation("; ".join(reasons))


def imitation(note: str = "") -> Dataset:
    """Return random images with MNIST's shape, dtype, share of zeros and a similar pattern.

    MNIST, and then the imitation: 81 % zeros and 81 %; over 8 samples 46 % and 48 % of the
    columns hold any other number; over 8 neighbouring pixels of a sample 39 % and 38 %.
    """
    rng = np.random.default_rng(0)
    y = rng.integers(0, CLASSES, TRAIN_ROWS + TEST_ROWS, dtype=np.int32)
    x = _images(rng, y)
    return Dataset(
        name="synthetic",
        x_train=x[:TRAIN_ROWS],
        y_train=y[:TRAIN_ROWS],
        x_test=x[TRAIN_ROWS:],
        y_test=y[TRAIN_ROWS:],
        scale=1 / 255,
        source="a generator of images like MNIST's",
        image_shape=(SIDE, SIDE),
        n_classes=CLASSES,
        note=note,
    )


def _images(rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """Draw smooth shapes away from the border, partly common to the class and partly random."""
    grid = np.linspace(-1, 1, SIDE, dtype=np.float32)
    knots = np.linspace(-1.1, 1.1, 9, dtype=np.float32)
    bumps = np.exp(-(((grid[:, None] - knots) / np.float32(0.2)) ** 2))  # (SIDE, knots)
    bumps /= np.linalg.norm(bumps, axis=1, keepdims=True)
    of_class = 0.5 * rng.standard_normal((CLASSES, 9, 9), np.float32)
    border = 6 * np.maximum(grid[:, None] ** 4, grid**4)  # (SIDE, SIDE)
    images = np.empty((len(labels), SIDE, SIDE), np.uint8)
    shore = None
    for start in range(0, len(labels), 2000):  # one array for all would take 0.5 GB
        part = labels[start : start + 2000]
        heights = of_class[part] + rng.standard_normal((len(part), 9, 9), np.float32)
        blots = bumps @ heights @ bumps.T - border
        shore = np.quantile(blots, ZEROS) if shore is None else shore
        images[start : start + 2000] = np.clip((blots - shore) * 150, 0, 255)
    return images.reshape(len(labels), SIDE * SIDE)
