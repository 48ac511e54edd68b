"""Arrays in NumPy's .npz: data sets in Keras's layout, and samples to predict. Never unpickled.

As with IDX the headers are not believed: memory grows with the bytes that the archive yields.
"""

import io
import os
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from fastnn.data.dataset import Dataset
from fastnn.data.files.npy import HEADER_LIMIT, Header, parse_header
from fastnn.data.files.samples import as_samples, blocks_of_array, blocks_of_stream, check_shape
from fastnn.errors import DataError

_PIECE = 1 << 20
_DIRECTORY_BYTES = 1 << 20  # 10,000 names and more; zipfile keeps some 15 times as much of them
_COLUMNS_BYTES = 1 << 25  # of an array that lies column by column and so is read whole
_SHOWN = 120  # characters of a name that a file gives, or of a message with it
_TABLE_PIXELS = 16  # columns; a table with fewer holds measurements, not pictures
_HIGH = 127  # pictures have brighter pixels; ages, counts and ratings are seldom larger
_BYTES_NOTE = (
    "the features are treated as pixels and scaled by 1/255, because they are whole numbers from 0 "
    "to 255 (if they are not pixels, standardize them before saving)"
)
_MANY = 64  # arrays: with more than this, none is looked at that has not the right name

_Members = dict[str, zipfile.ZipInfo]


def load_npz(path: str | os.PathLike[str]) -> Dataset:
    """Load a data set from an .npz archive.

    Bytes (uint8) stay bytes, with a scale of 1/255; any other real type becomes float32, with a
    scale of 1. Samples of rank 3 (n, h, w) or 4 (n, h, w, 1) are images; all are flattened.

    Pictures of another type are converted to uint8, and `Dataset.note` says so. Features are
    pictures if they are whole numbers from 0 to 255, some above 127. A table must also have at
    least 16 columns, and more than half of the columns that vary must exceed 127.

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
    with _named(path):
        arrays = _read_arrays(path, ("x_train", "y_train", "x_test", "y_test"))
        image_shape = _image_shape(arrays["x_train"].shape)
        note = _take_for_bytes(arrays, is_image=image_shape is not None)
        x_train, x_test = (_samples(key, arrays[key]) for key in ("x_train", "x_test"))
        y_train, y_test = (_labels(key, arrays[key]) for key in ("y_train", "y_test"))
        _check_fit(x_train, y_train, x_test, y_test)
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
        note=note,
    )


def read_npz(
    path: str | os.PathLike[str], inputs: int, say: Callable[[str], None] = lambda line: None
) -> Iterator[np.ndarray]:
    """Yield the samples of an .npz archive, (n, inputs) or images of as many pixels, in blocks.

    They are the array ``x``, or ``x_test``, or the only one of rank 2 or more.

    Parameters
    ----------
    path : str or path-like
        The archive; it may be larger than the memory.
    inputs : int
        The features that are needed.
    say : callable
        Told that it is ``x_test``.

    Yields
    ------
    np.ndarray
        (rows, inputs), uint8 or float32, C-contiguous.

    Raises
    ------
    DataError
        If the file is not such an archive, or damaged; if it is not clear which array is meant;
        if that holds something else than real numbers or samples of another size, or a row is not
        finite in float32.
    """
    path = Path(path)
    with _named(path), _opened(path) as (archive, members):
        key = _choice(archive, members)
        if key == "x_test" and len(members) > 1:
            say(f"x_test is predicted, of {len(members)} arrays in {path}")
        info = members[key]
        header = _read_header(archive, info, key)
        check_shape(header.shape, key, inputs)
        if not header.fortran_order:
            with archive.open(info) as file:
                file.read(header.start)
                yield from blocks_of_stream(file.read, header.shape, header.dtype, key)
        elif info.file_size <= _COLUMNS_BYTES:
            yield from blocks_of_array(_read_array(archive, info, key), key)
        else:
            raise DataError(
                f"{key}: lies column by column and is too large for it; save it row by row, as "
                "np.ascontiguousarray returns it"
            )


def _choice(archive: zipfile.ZipFile, members: _Members) -> str:
    """Return the name of the array that is to be predicted."""
    for key in ("x", "x_test"):
        if key in members:
            return key
    found = list(members) if len(members) == 1 else []
    if 1 < len(members) <= _MANY:
        found = [key for key in members if _holds_samples(archive, members[key], key)]
    if len(found) != 1:
        raise DataError(
            "must have an array x or x_test, or a single one of rank 2 or more; it has "
            f"{_named_briefly(members)}"
        )
    return found[0]


def _named_briefly(members: _Members) -> list[str]:
    return [key[:_SHOWN] for key in list(members)[:8]]


def _holds_samples(archive: zipfile.ZipFile, info: zipfile.ZipInfo, key: str) -> bool:
    try:
        return len(_read_header(archive, info, key).shape) >= 2
    except DataError:  # names of columns, for example
        return False


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Have messages begin with the path."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


class _File(io.FileIO):
    """A file of which no more than `most` bytes are read at once.

    That keeps zipfile, which takes an archive's directory whole, from a very large one.
    """

    most = _DIRECTORY_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        """Read, or raise a DataError."""
        if size is not None and size > self.most:
            raise DataError(f"its directory has more than {self.most:,} bytes")
        return super().read(size)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[zipfile.ZipFile, _Members]]:
    """Open an archive; yield it and its members by the names of the arrays."""
    try:
        with _File(path) as file, zipfile.ZipFile(file) as archive:
            file.most = sys.maxsize
            yield archive, {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    except (DataError, MemoryError):
        raise
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}") from error
    except Exception as error:  # zipfile lets zlib.error, struct.error, EOFError, ... through
        # Its messages may repeat what the archive calls its members, which may be all of it.
        raise DataError(f"is not an intact .npz archive: {str(error)[:_SHOWN]}") from error


def _read_arrays(path: Path, keys: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Read the named arrays of an archive."""
    with _opened(path) as (archive, members):
        if missing := [key for key in keys if key not in members]:
            raise DataError(f"lacks {', '.join(missing)}; it has {_named_briefly(members)}")
        return {key: _read_array(archive, members[key], key) for key in keys}


def _read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, key: str) -> np.ndarray:
    """Read one member, if its size in the archive is the one that its header calls for."""
    header = _read_header(archive, info, key)
    data = bytearray()
    with archive.open(info) as file:
        while piece := file.read(_PIECE):
            data += piece
    header.check_size(len(data), key)
    array = np.frombuffer(data, header.dtype, offset=header.start)
    return array.reshape(header.shape, order="F" if header.fortran_order else "C")


def _read_header(archive: zipfile.ZipFile, info: zipfile.ZipInfo, key: str) -> Header:
    """Read the header of one member, and check what the archive's directory says of it."""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(f"{key}: is compressed otherwise than np.savez_compressed does it")
    with archive.open(info) as file:
        header = parse_header(file.read(HEADER_LIMIT), key)
    header.check_size(info.file_size, key)
    return header


def _image_shape(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Tell the height and width of samples (n, h, w) or (n, h, w, 1)."""
    is_image = len(shape) == 3 or (len(shape) == 4 and shape[3] == 1)
    return (shape[1], shape[2]) if is_image else None


def _take_for_bytes(arrays: dict[str, np.ndarray], *, is_image: bool) -> str | None:
    """Convert pictures of another type to uint8, as `load_npz` describes; return a note or None.

    Arrays that cannot be samples are left as they are, and refused later.
    """
    parts = {key: arrays[key] for key in ("x_train", "x_test")}
    if any(x.dtype == np.uint8 or x.ndim < 2 for x in parts.values()):
        return None
    x = parts["x_train"]
    if not all(map(_in_bytes, parts.values())) or x.max() <= _HIGH:
        return None
    if not is_image:
        high = x.max(axis=0).ravel()
        high = high[high > x.min(axis=0).ravel()]
        if x[0].size < _TABLE_PIXELS or 2 * np.count_nonzero(high > _HIGH) <= high.size:
            return None
    arrays |= {key: x.astype(np.uint8) for key, x in parts.items()}
    return _BYTES_NOTE


def _in_bytes(array: np.ndarray) -> bool:
    """Return whether all numbers are whole and from 0 to 255."""
    if not (array.min() >= 0 and array.max() <= 255):  # NaN fails both
        return False
    return bool((array.astype(np.uint8) == array).all())


def _samples(key: str, array: np.ndarray) -> np.ndarray:
    """Flatten to (n, features), uint8 or finite float32."""
    check_shape(array.shape, key)
    return as_samples(array, key)


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
