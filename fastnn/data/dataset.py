"""The record of a data set for classification."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Dataset:
    """A data set for classification, split into a training part and a test part.

    Attributes
    ----------
    name : str
        "mnist", "fashion-mnist", "digits", or the stem of an .npz file.
    x_train, x_test : ndarray (n, features)
        Samples, uint8 or float32, C-contiguous, not scaled.
    y_train, y_test : ndarray (n,)
        Labels, int32, from 0 to ``n_classes - 1``.
    scale : float
        Factor to multiply the samples by, such as 1/255 for uint8.
    source : str
        Where the data come from: a directory, the host of a download, a file, or
        "scikit-learn's bundled digits".
    image_shape : tuple of int or None
        Height and width if a sample is an image of one channel.
    n_classes : int
        Number of classes.
    note : str or None
        Message for the user: why this set was loaded instead of MNIST, or why the samples were
        converted.

    Examples
    --------
    >>> import fastnn
    >>> data = fastnn.load_dataset("digits")
    >>> data.image_shape, data.scale, data.x_train.dtype, data.y_train.dtype
    ((8, 8), 0.0625, dtype('uint8'), dtype('int32'))
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
