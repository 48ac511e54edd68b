"""`load_dataset`: load a data set by its name, or from an .npz file."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from fastnn.data.dataset import Dataset
from fastnn.data.files.npz import load_npz
from fastnn.data.sets.download import DownloadError
from fastnn.data.sets.sources import SETS, load_idx_set
from fastnn.errors import DataError

_HOW_TO_GET_IT = (
    "put its four files (train-images-idx3-ubyte.gz etc.) into a directory and give the directory "
    "with --data-dir (data_dir in Python) or FASTNN_DATA"
)


def load_dataset(
    name: str = "auto",
    data_dir: str | os.PathLike[str] | None = None,
    *,
    progress: bool = False,
) -> Dataset:
    """Load a data set for classification; download it if it is not on this machine.

    MNIST and Fashion-MNIST are four IDX files each, raw or .gz, with a dash or a dot before
    ``idx`` in their names. Their SHA-256 is verified. They are searched for only in `data_dir`
    if it is given, otherwise in ``$FASTNN_DATA`` and in the user's cache directory, where
    downloads are stored.

    Parameters
    ----------
    name : str, default "auto"
        - "mnist" or "fashion-mnist";
        - "digits", the 8x8 digits that scikit-learn contains;
        - a path that ends in .npz, an archive with ``x_train``, ``y_train``, ``x_test`` and
          ``y_test``;
        - "auto", which is MNIST if it is found or a mirror answers within 4 s, and otherwise the
          digits, with a `Dataset.note`.
    data_dir : str or path-like, optional
        The directory that contains MNIST or Fashion-MNIST.
    progress : bool, default False
        Whether to show the progress of a download on stderr if that is a terminal.

    Returns
    -------
    Dataset
        Samples (n, features), uint8 or float32, not scaled; and labels (n,), int32.

    Raises
    ------
    DataError
        If the name is unknown; if `data_dir` or ``$FASTNN_DATA`` is not a directory; if the set
        is neither found nor downloaded; if a file is damaged or has a wrong SHA-256.

    Examples
    --------
    >>> import fastnn
    >>> data = fastnn.load_dataset("digits")
    >>> data.x_train.shape, data.x_test.shape, data.n_classes
    ((1437, 64), (360, 64), 10)
    """
    directory = None if data_dir is None else Path(data_dir)
    if directory is not None and not directory.is_dir():
        raise DataError(
            f"{directory}: {'is not a directory' if directory.exists() else 'does not exist'}"
        )
    if name == "auto":
        try:
            return _load_images("mnist", directory, patient=False, progress=progress)
        except DownloadError as error:
            note = (
                f"these are scikit-learn's 8x8 digits: {error}. "
                f"For MNIST, try again with access to the Internet, or {_HOW_TO_GET_IT}."
            )
            return replace(_load_digits(), note=note)
    if name == "digits":
        return _load_digits()
    if name in SETS:
        try:
            return _load_images(name, directory, patient=True, progress=progress)
        except DownloadError as error:
            raise DataError(
                f"{error}; {_HOW_TO_GET_IT}, or use --dataset digits (name='digits')"
            ) from error
    if Path(name).suffix == ".npz":
        return load_npz(name)
    allowed = ", ".join(("auto", *SETS, "digits"))
    raise DataError(f"there is no data set {name!r}: choose {allowed} or a path ending in .npz")


def _load_images(name: str, directory: Path | None, *, patient: bool, progress: bool) -> Dataset:
    """Load one of `SETS`."""
    arrays, source = load_idx_set(name, directory, patient=patient, progress=progress)
    train_images, train_labels, test_images, test_labels = arrays
    return Dataset(
        name=name,
        x_train=train_images.reshape(len(train_images), -1),
        y_train=train_labels.astype(np.int32),
        x_test=test_images.reshape(len(test_images), -1),
        y_test=test_labels.astype(np.int32),
        scale=1 / 255,
        source=source,
        image_shape=(train_images.shape[1], train_images.shape[2]),
        n_classes=int(train_labels.max()) + 1,
    )


def _load_digits() -> Dataset:
    """Load scikit-learn's digits; a fixed, stratified 20 % are the test set."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(
        x.astype(np.uint8), y.astype(np.int32), test_size=0.2, stratify=y, random_state=0
    )
    return Dataset(
        name="digits",
        x_train=x_train,
        y_train=y_train,
        x_test=x_test,
        y_test=y_test,
        scale=1 / 16,
        source="scikit-learn's bundled digits",
        image_shape=(8, 8),
        n_classes=10,
    )
