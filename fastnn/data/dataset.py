"""The record that every set is loaded into."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Dataset:
    """A data set for classification, split into a training and a test part.

    Attributes
    ----------
    name : str
        "mnist", "fashion-mnist", "digits", or the stem of an .npz file.
    x_train, x_test : np.ndarray
        The samples, (n, features), uint8 or float32, C-contiguous; not scaled.
    y_train, y_test : np.ndarray
        Their labels, (n,), int32, from 0 to ``n_classes - 1``.
    scale : float
        What to multiply the features by: 1/255 for bytes.
    source : str
        Where it came from: a directory, the host of a download, a file, or
        "scikit-learn's bundled digits".
    image_shape : tuple of int or None
        Height and width if a sample is an image of one channel.
    n_classes : int
        The number of classes.
    note : str or None
        A message for the user: why another data set was loaded than MNIST, or why the features
        were converted.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    scale: float
    source: str
    image_shape: tuple[int, int] | None
    n_classes: int
    note: str | None = None
