"""Data sets in NumPy's .npz, Keras's layout: x_train, y_train, x_test, y_test. Never unpickled.

As with IDX the headers are not believed: memory grows with the bytes that the archive yields.
"""

import io
import math
import os
import zipfile
from pathlib import Path

import numpy as np

from fastnn.datasets.dataset import Dataset
from fastnn.errors import DataError

_HEADER_LIMIT = 1 << 16  # more than any header of a plain array
_PIECE = 1 << 20


def load_npz(path: str | os.PathLike[str]) -> Dataset:
    """Load a data set from an .npz archive.

    Bytes (uint8) stay bytes, with a scale of 1/255; any other real type becomes float32, with a
    scale of 1. Samples of rank 3 (n, h, w) or 4 (n, h, w, 1) are images; all are flattened.

    Parameters
    ----------
    path : str or path-like
        The archive: ``x_train``, ``x_test`` of rank 2 or more, ``y_train``, ``y_test`` whole
        numbers from 0, (n,) or (n, 1).

    Returns
    -------
    Dataset
        Named after the file's stem; as many classes as the training labels tell of.

    Raises
    ------
    DataError
        If the file is not such an archive, or damaged; if an array is missing, empty, of the
        wrong type or shape, or not finite; if the arrays do not fit together.
    """
    path = Path(path)
    try:
        arrays = _read_arrays(path, ("x_train", "y_train", "x_test", "y_test"))
        image_shape = _image_shape(arrays["x_train"].shape)
        x_train, x_test = (_samples(key, arrays[key]) for key in ("x_train", "x_test"))
        y_train, y_test = (_labels(key, arrays[key]) for key in ("y_train", "y_test"))
        _check_fit(x_train, y_train, x_test, y_test)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return Dataset(
        name=path.stem,
        x_train=x_train,
        y_train=y_train,
        x_test=x_test,
        y_test=y_test,
        scale=1 / 255 if x_train.dtype == np.uint8 else 1.0,
        source=str(path),
        image_shape=image_shape,
        n_classes=int(y_train.max()) + 1,
    )


def _read_arrays(path: Path, keys: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Read the named arrays of an archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            if missing := [key for key in keys if key not in members]:
                raise DataError(f"lacks {', '.join(missing)}; it has {list(members)[:8]}")
            return {key: _read_array(archive, members[key], key) for key in keys}
    except (DataError, MemoryError):
        raise
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}") from error
    except Exception as error:  # zipfile lets zlib.error, struct.error, EOFError, ... through
        raise DataError(f"is not an intact .npz archive: {error}") from error


def _read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, key: str) -> np.ndarray:
    """Read one member, if its size in the archive is the one that its header calls for."""
    with archive.open(info) as stream:
        data = bytearray(stream.read(_HEADER_LIMIT))
        shape, fortran_order, dtype, start = _parse_header(bytes(data), key)
        promised = start + math.prod(shape) * dtype.itemsize
        if promised == info.file_size:
            while piece := stream.read(_PIECE):
                data += piece
            found = len(data)
        else:
            found = info.file_size
    if found != promised:
        raise DataError(f"{key}: its header promises {promised:,} bytes, it has {found:,}")
    array = np.frombuffer(data, dtype, offset=start)
    return array.reshape(shape, order="F" if fortran_order else "C")


def _parse_header(data: bytes, key: str) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Parse a .npy header; return shape, order and type of the data, and where they start."""
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        readers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        shape, fortran_order, dtype = readers[version](stream)
    except Exception as error:  # whatever tokenize, literal_eval and numpy.dtype raise
        raise DataError(f"{key}: is not a plain array in NumPy's .npy format") from error
    if dtype.hasobject:
        raise DataError(f"{key}: holds Python objects, which are never unpickled; save numbers")
    if dtype.kind not in "biuf":
        raise DataError(f"{key}: holds {dtype}, where integers or floating point are needed")
    if min(shape, default=1) < 1:
        raise DataError(f"{key}: is empty: its shape is {shape}")
    return shape, fortran_order, dtype, stream.tell()


def _image_shape(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Tell the height and width of samples (n, h, w) or (n, h, w, 1)."""
    is_image = len(shape) == 3 or (len(shape) == 4 and shape[3] == 1)
    return (shape[1], shape[2]) if is_image else None


def _samples(key: str, array: np.ndarray) -> np.ndarray:
    """Flatten to (n, features), uint8 or finite float32."""
    if array.ndim < 2:
        raise DataError(f"{key}: has the shape {array.shape}, where (n, features) is needed")
    dtype = np.uint8 if array.dtype == np.uint8 else np.float32
    with np.errstate(over="ignore"):  # found below, with its row
        x = np.require(array.reshape(len(array), -1), dtype, ["C", "A"])
    if (bad := np.flatnonzero(~np.isfinite(x).all(axis=1))).size:
        raise DataError(f"{key}: row {bad[0]} holds NaN, infinity or a number beyond float32")
    return x


def _labels(key: str, array: np.ndarray) -> np.ndarray:
    """Flatten (n,) or (n, 1) to int32 labels (n,)."""
    if array.shape not in {(array.size,), (array.size, 1)}:
        raise DataError(f"{key}: has the shape {array.shape}, where (n,) or (n, 1) is needed")
    labels = array.reshape(-1)
    exact = labels.astype(np.float64)
    good = (exact >= 0) & (exact <= np.iinfo(np.int32).max) & (exact == np.floor(exact))
    if (bad := np.flatnonzero(~good)).size:
        raise DataError(f"{key}: row {bad[0]} is {labels[bad[0]]}, where 0, 1, 2, ... is needed")
    return labels.astype(np.int32)


def _check_fit(
    x_train: np.ndarray, y_train: np.ndarray, x_test: np.ndarray, y_test: np.ndarray
) -> None:
    """Refuse arrays that are good one by one, but not together."""
    for part, x, y in (("train", x_train, y_train), ("test", x_test, y_test)):
        if len(x) != len(y):
            raise DataError(f"x_{part} has {len(x)} rows and y_{part} {len(y)}: not as many")
    if x_train.shape[1] != x_test.shape[1]:
        raise DataError(
            f"x_train has {x_train.shape[1]} features and x_test {x_test.shape[1]}: not as many"
        )
    if x_train.dtype != x_test.dtype:
        raise DataError("x_train and x_test: one is uint8 and the other is not; both or neither")
    if y_train.max() >= len(y_train):  # a slip of the hand, and a network of that many outputs
        row = y_train.argmax()
        raise DataError(
            f"y_train: row {row} is {y_train[row]}, where {len(y_train)} rows can tell of classes "
            f"0 to {len(y_train) - 1} at most"
        )
    if (bad := np.flatnonzero(y_test > y_train.max())).size:
        raise DataError(
            f"y_test: row {bad[0]} is {y_test[bad[0]]}, the training labels end at {y_train.max()}"
        )
