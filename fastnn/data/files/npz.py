"""Read arrays in NumPy's .npz format: data sets, and samples to predict. Never unpickles.

Headers are not trusted: memory grows with the bytes that the archive yields.
"""

import io
import os
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from fastnn.data.conversion import as_dense, as_labels
from fastnn.data.dataset import Dataset
from fastnn.data.files.npy import HEADER_LIMIT, Header, parse_header
from fastnn.data.files.samples import (
    blocks_of_array,
    blocks_of_stream,
    check_shape,
    file_errors,
    prefix_errors,
)
from fastnn.errors import DataError

_PIECE = 1 << 20  # bytes to read at a time
_DIRECTORY_BYTES = 1 << 20  # over 10,000 names; zipfile takes 15 times this memory for them
_FORTRAN_BYTES = 1 << 25  # limit of an array in Fortran order, which is read at once
_SHOWN = 120  # characters of a name in a message
_MESSAGE = 40  # characters of zipfile's messages, which may repeat names of any length
_TABLE_PIXELS = 16  # a table with fewer columns has measurements, not images
_BRIGHT = 127  # images have brighter pixels; ages, counts and ratings seldom exceed it
_BYTES_NOTE = (
    "the features are treated as pixels and scaled by 1/255, because they are whole numbers from 0 "
    "to 255 (if they are not pixels, standardize them before saving)"
)
_MANY = 64  # in archives with more arrays, only an array x or x_test is read

_Members = dict[str, zipfile.ZipInfo]


def load_npz(path: str | os.PathLike[str]) -> Dataset:
    """Load a data set from an .npz archive.

    uint8 features stay uint8, with a scale of 1/255. Other real dtypes become float32, with a
    scale of 1. Samples (n, h, w) or (n, h, w, 1) are images. All samples are flattened.

    Images of other dtypes are converted to uint8, and `Dataset.note` says so. Features count as
    images if they are whole numbers from 0 to 255, and some exceed 127. A table (n, features) must
    also have at least 16 columns, and of the columns that are not constant, more than half must
    exceed 127 somewhere.

    Parameters
    ----------
    path : str or path-like
        The archive, with arrays ``x_train`` and ``x_test`` of two dimensions or more, and
        ``y_train`` and ``y_test`` of class numbers from 0, (n,) or (n, 1).

    Returns
    -------
    Dataset
        Its name is the stem of the file; the number of classes follows from ``y_train``.

    Raises
    ------
    DataError
        If the file is not such an archive or is damaged; if an array is missing, empty, of a
        wrong dtype or shape, or not finite; if the arrays do not match each other.
    """
    path = Path(path)
    with file_errors(path):
        with _open_archive(path) as (archive, members):
            keys = ("x_train", "y_train", "x_test", "y_test")
            if missing := [key for key in keys if key not in members]:
                raise DataError(f"has no {', '.join(missing)}, but {_shown_names(members)}")
            arrays = {}
            for key in keys:
                with prefix_errors(key):
                    arrays[key] = _read_array(archive, members[key])
        for key in ("x_train", "x_test"):
            with prefix_errors(key):
                check_shape(arrays[key].shape)
        shape = arrays["x_train"].shape[1:]
        is_image = len(shape) == 2 or (len(shape) == 3 and shape[2] == 1)
        note = _convert_images(arrays, is_image=is_image)
        x_train = _features(arrays, "x_train", arrays["x_train"][0].size)
        x_test = _features(arrays, "x_test", x_train.shape[1])
        if x_train.dtype != x_test.dtype:
            raise DataError(
                "has one uint8 array among x_train and x_test, expected both or neither"
            )
        # A mistyped label must not create a network with a million outputs.
        y_train = _labels(arrays, "y_train", len(x_train), max_classes=len(x_train))
        n_classes = int(y_train.max()) + 1
        y_test = _labels(arrays, "y_test", len(x_test), max_classes=n_classes)
    return Dataset(
        name=path.stem,
        x_train=x_train,
        y_train=y_train,
        x_test=x_test,
        y_test=y_test,
        scale=1 / 255 if x_train.dtype == np.uint8 else 1.0,
        source=str(path),
        image_shape=(shape[0], shape[1]) if is_image else None,
        n_classes=n_classes,
        note=note,
    )


def read_npz(
    path: str | os.PathLike[str], inputs: int, say: Callable[[str], None] = lambda line: None
) -> Iterator[np.ndarray]:
    """Yield the samples of an .npz archive in blocks; the archive may be larger than memory.

    The samples are the array ``x``, else ``x_test``, else the only array of two dimensions or
    more.

    Parameters
    ----------
    path : str or path-like
        The archive.
    inputs : int
        Number of features that the model takes.
    say : callable
        Called with a message if ``x_test`` is one of several arrays.

    Yields
    ------
    ndarray (rows, inputs)
        uint8 or float32, C-contiguous.

    Raises
    ------
    DataError
        If the file is not such an archive or is damaged; if it has no such array; if the samples
        have a different number of features, or a number is not real or not finite in float32.
    """
    with file_errors(path), _open_archive(path) as (archive, members):
        key = _find_samples(archive, members)
        if key == "x_test" and len(members) > 1:
            say(f"{path} has {len(members)} arrays; predictions are made for x_test")
        info = members[key]
        with prefix_errors(key):
            header = _read_header(archive, info)
            check_shape(header.shape, inputs)
            if not header.fortran_order:
                with archive.open(info) as file:
                    file.read(header.start)
                    yield from blocks_of_stream(file.read, header.shape, header.dtype)
            elif info.file_size <= _FORTRAN_BYTES:
                yield from blocks_of_array(_read_array(archive, info))
            else:
                raise DataError(
                    f"is in Fortran order and has more than {_FORTRAN_BYTES:,} bytes: save it in C "
                    "order (np.ascontiguousarray)"
                )


def _find_samples(archive: zipfile.ZipFile, members: _Members) -> str:
    """Return the name of the array to predict."""
    for key in ("x", "x_test"):
        if key in members:
            return key
    found = list(members) if len(members) == 1 else []
    if 1 < len(members) <= _MANY:
        found = [key for key, info in members.items() if _holds_samples(archive, info)]
    if len(found) != 1:
        raise DataError(
            "has no array x or x_test, nor a single array of two or more dimensions, but "
            f"{_shown_names(members)}"
        )
    return found[0]


def _shown_names(members: _Members) -> list[str]:
    return [key[:_SHOWN] for key in list(members)[:8]]


def _holds_samples(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bool:
    try:
        return len(_read_header(archive, info).shape) >= 2
    except DataError:  # names of columns, for example
        return False


class _LimitedFile(io.FileIO):
    """A file that reads at most `limit` bytes at once.

    zipfile reads the directory of an archive at once, whatever its size.
    """

    limit = _DIRECTORY_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        """Read, or raise a DataError if `size` exceeds the limit."""
        if size is not None and size > self.limit:
            raise DataError(f"its directory has more than {self.limit:,} bytes")
        return super().read(size)


@contextmanager
def _open_archive(path: str | os.PathLike[str]) -> Iterator[tuple[zipfile.ZipFile, _Members]]:
    """Open an archive; yield it, and its members by the names of the arrays."""
    try:
        with _LimitedFile(path) as file, zipfile.ZipFile(file) as archive:
            file.limit = sys.maxsize
            yield archive, {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    except (DataError, MemoryError, OSError):
        raise
    except Exception as error:  # zipfile raises zlib.error, struct.error, EOFError, ...
        raise DataError(f"is not an intact .npz archive: {str(error)[:_MESSAGE]}") from error


def _read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """Read an array whose size in the archive is the size that its header gives."""
    header = _read_header(archive, info)
    data = bytearray()
    with archive.open(info) as file:
        while piece := file.read(_PIECE):
            data += piece
    header.check_size(len(data))
    array = np.frombuffer(data, header.dtype, offset=header.start)
    return array.reshape(header.shape, order="F" if header.fortran_order else "C")


def _read_header(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Header:
    """Read the header of an array, and check the size in the archive's directory."""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError("is not stored or compressed as np.savez and np.savez_compressed do")
    with archive.open(info) as file:
        header = parse_header(file.read(HEADER_LIMIT))
    header.check_size(info.file_size)
    return header


def _convert_images(arrays: dict[str, np.ndarray], *, is_image: bool) -> str | None:
    """Convert images to uint8, as `load_npz` describes; return a note, or None."""
    parts = {key: arrays[key] for key in ("x_train", "x_test")}
    if any(x.dtype == np.uint8 for x in parts.values()):
        return None
    x = parts["x_train"]
    if not all(map(_fits_uint8, parts.values())) or x.max() <= _BRIGHT:
        return None
    if not is_image:
        high = x.max(axis=0).ravel()
        high = high[high > x.min(axis=0).ravel()]
        if x[0].size < _TABLE_PIXELS or 2 * np.count_nonzero(high > _BRIGHT) <= high.size:
            return None
    arrays |= {key: x.astype(np.uint8) for key, x in parts.items()}
    return _BYTES_NOTE


def _fits_uint8(array: np.ndarray) -> bool:
    """Return whether all numbers are whole and from 0 to 255."""
    if not (array.min() >= 0 and array.max() <= 255):  # NaN fails both
        return False
    return bool((array.astype(np.uint8) == array).all())


def _features(arrays: dict[str, np.ndarray], key: str, width: int) -> np.ndarray:
    """Return features (n, width), uint8 or finite float32."""
    return as_dense(arrays[key].reshape(len(arrays[key]), -1), width, key)


def _labels(arrays: dict[str, np.ndarray], key: str, rows: int, max_classes: int) -> np.ndarray:
    """Return labels (rows,) int32 of an array (rows,) or (rows, 1)."""
    array = arrays[key]
    return as_labels(array[:, 0] if array.shape[1:] == (1,) else array, rows, max_classes, key)
